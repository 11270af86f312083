"""Who competes: every peer at every setting, and the cached schedulers, each made for a number of model calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np

from ab_schedulers.bench.methods import DEFAULTS, PLACED, Contender, Method, cached
from ab_schedulers.bench.peers import FLOW_SHIFTS, Peer, is_flow, noise_schedule, peers, plain_peers, saved_peers
from ab_schedulers.bench.sampling import start_grid
from ab_schedulers.bench.solver_results import OWN, STOCK, STOCK_PLACED
from ab_schedulers.schedulers import ABCacheScheduler

_INTERVAL = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Competitor:
    """A method: a label, and a function that makes its scheduler for a number of model calls.

    Attributes:
        group: `STOCK` for schedulers of diffusers, `OWN` for ours, `STOCK_PLACED` for theirs at our places.
        solver: name of the method.
        setting: what else was chosen; the best setting of a solver stands for it.
        make: scheduler and `num_inference_steps` for a number of model calls; a `ValueError` says why there is none.
    """

    group: str
    solver: str
    setting: str
    make: Callable[[int], Contender]


def competitors(stock: Any, *, saved: bool = False) -> list[Competitor]:
    """All peers and our defaults on the model of the scheduler `stock`; flow models with every shift.

    Stock solvers at the places of our calls compete apart, as `STOCK_PLACED`.

    Args:
        stock: the model's own scheduler.
        saved: whether it also competes as it is, flow solvers at its shift, and our defaults on its grid.
    """
    found = [*(_stock(peer, stock) for peer in peers(stock)), *own_competitors(stock, DEFAULTS)]
    if saved:
        first, *others = saved_peers(stock)
        found.append(_stock(first, stock, OWN if isinstance(stock, ABCacheScheduler) else STOCK))
        found += [_stock(peer, stock) for peer in others]
        found.append(_own(DEFAULTS.label, "as saved", DEFAULTS, stock))
    return [*found, placed_competitor(stock), *(_placed_stock(peer, stock) for peer in plain_peers(stock))]


def _stock(peer: Any, stock: Any, group: str = STOCK) -> Competitor:
    return Competitor(
        group=group, solver=peer.solver, setting=peer.setting, make=lambda calls: peer.contender(stock, calls)
    )


def placed_competitor(stock: Any) -> Competitor:
    """The cached scheduler that places its calls, all else at its default."""
    return _own("placed calls", "one grid", PLACED, stock)


def _placed_stock(peer: Peer, stock: Any) -> Competitor:
    """A stock solver whose calls stand where ours do, where its `set_timesteps` takes them."""
    key = "sigmas" if is_flow(stock) else "timesteps"

    def make(calls: int) -> Contender:
        found = peer.contender(stock, calls)
        if key not in inspect.signature(found.scheduler.set_timesteps).parameters:
            raise ValueError(f"`set_timesteps` takes no {key}")
        places = cached(stock, PLACED, found.num_inference_steps, _INTERVAL).scheduler
        start_grid(places, found.num_inference_steps)
        grid: dict[str, Any] = {key: places.timesteps.tolist()}
        if key == "sigmas":
            grid = {key: np.array(places.sigmas[:-1].tolist())}
        return replace(found, grid=grid)

    return Competitor(group=STOCK_PLACED, solver=peer.solver, setting="our places", make=make)


def own_competitors(stock: Any, method: Method) -> list[Competitor]:
    """The cached schedulers with the options of `method`: over DDIM and DPM-Solver++, or flow Euler at every shift."""
    if is_flow(stock):
        train = {"num_train_timesteps": stock.config.num_train_timesteps}
        euler = diffusers.FlowMatchEulerDiscreteScheduler
        bases = {f"shift {shift:g}": euler.from_config(train, shift=shift) for shift in FLOW_SHIFTS}
        return [_own(f"flow Euler, {method.label}", name, method, base) for name, base in bases.items()]
    schedule, grid = noise_schedule(stock), {"timestep_spacing": "trailing"}
    ddim = diffusers.DDIMScheduler.from_config(schedule, **grid, clip_sample=False, set_alpha_to_one=True)
    multistep = diffusers.DPMSolverMultistepScheduler.from_config(schedule, **grid)
    lu = diffusers.DPMSolverMultistepScheduler.from_config(multistep.config, use_lu_lambdas=True)
    return [
        _own(f"DDIM, {method.label}", "trailing", method, ddim),
        _own(f"DPM++, {method.label}", "trailing", method, multistep),
        _own(f"DPM++, {method.label}", "lu", method, lu),
    ]


def _own(solver: str, setting: str, method: Method, base: Any) -> Competitor:
    return Competitor(
        group=OWN, solver=solver, setting=setting, make=lambda calls: cached(base, method, calls, _INTERVAL)
    )
