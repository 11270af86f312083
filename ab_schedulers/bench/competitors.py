"""Who competes: every peer at every setting, and the cached schedulers, each made for a number of model calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers

from ab_schedulers.bench.methods import DEFAULTS, PLACED, Contender, Method, cached
from ab_schedulers.bench.peers import FLOW_SHIFTS, is_flow, peers, saved_peers
from ab_schedulers.bench.solver_results import OWN, STOCK
from ab_schedulers.schedulers import ABCacheScheduler

_INTERVAL = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Competitor:
    """A method: a label, and a function that makes its scheduler for a number of model calls.

    Attributes:
        group: `STOCK` for schedulers of diffusers, `OWN` for ours.
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
    return [*found, placed_competitor(stock)]


def _stock(peer: Any, stock: Any, group: str = STOCK) -> Competitor:
    return Competitor(
        group=group, solver=peer.solver, setting=peer.setting, make=lambda calls: peer.contender(stock, calls)
    )


def placed_competitor(stock: Any) -> Competitor:
    """The cached scheduler that places its calls, all else at its default."""
    return _own("placed calls", "one grid", PLACED, stock)


def own_competitors(stock: Any, method: Method) -> list[Competitor]:
    """The cached schedulers with the options of `method`: over DDIM and DPM-Solver++, or flow Euler at every shift."""
    if is_flow(stock):
        train = {"num_train_timesteps": stock.config.num_train_timesteps}
        euler = diffusers.FlowMatchEulerDiscreteScheduler
        bases = {f"shift {shift:g}": euler.from_config(train, shift=shift) for shift in FLOW_SHIFTS}
        return [_own(f"flow Euler, {method.label}", name, method, base) for name, base in bases.items()]
    grid = {"timestep_spacing": "trailing"}
    ddim = diffusers.DDIMScheduler.from_config(stock.config, **grid, clip_sample=False, set_alpha_to_one=True)
    multistep = diffusers.DPMSolverMultistepScheduler.from_config(stock.config, **grid)
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
