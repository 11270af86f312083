"""Stock solvers of diffusers at their documented settings, each made for a number of model calls.

A peer takes betas and prediction type from the config of the model's own scheduler; everything else is the setting that
its label names. What diffusers does badly at a setting is left as it is: a user gets it too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import diffusers

from ab_schedulers.bench.ipndm import IPNDMOnGrid
from ab_schedulers.bench.methods import Contender

FLOW_SHIFTS = (1.0, 1.5, 2.0, 2.5, 3.0)
Options = Mapping[str, Any]
_SPACINGS = ("trailing", "linspace", "leading")
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
_ZERO_SNR = "rescale_betas_zero_snr"
_SMALLEST_ALPHA = 2.0**-24
_SCHEDULES = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas"}
_DPM_SCHEDULES = {"lu": "use_lu_lambdas", "beta": "use_beta_sigmas"}
_CLIPPED: Options = {"lambda_min_clipped": -5.1}
_LAST: Options = {"lower_order_final": True}
# With final sigma 0 the last step of these two is infinite.
_BH1: Options = {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}
_EPSILON: Options = {"predict_x0": False, "final_sigmas_type": "sigma_min"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A solver at one setting.

    Attributes:
        solver: name of the solver, without the setting.
        setting: grid and options.
        make: the scheduler for the config of the model's own one; it raises where the setting does not exist.
        steps: `num_inference_steps` for a number of model calls; 0 where the calls are too few.
    """

    solver: str
    setting: str
    make: Callable[[Options], Any]
    steps: Callable[[int], int] = int

    def contender(self, stock: Any, calls: int) -> Contender:
        """The solver on the model of the scheduler `stock`, with at most `calls` model calls.

        Raises:
            ValueError: the solver has no step for so few calls, or not this setting.
        """
        steps = self.steps(calls)
        if steps < 1:
            raise ValueError(f"{self.solver} takes no step with {calls} model calls")
        label = f"{self.solver}, {self.setting}"
        return Contender(label=label, scheduler=self.make(noise_schedule(stock)), num_inference_steps=steps)


def is_flow(stock: Any) -> bool:
    """Whether the model of the scheduler `stock` predicts a flow."""
    config = stock.config
    flow = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
    return "FlowMatch" in type(stock).__name__ or bool(flow)


def noise_schedule(stock: Any) -> Options:
    """Config of the model's scheduler with its noise levels as `trained_betas` where no other class can make them.

    That is CogVideoX's shift of the signal-to-noise ratio. A signal of zero becomes the smallest that diffusers uses.
    """
    config: Options = stock.config
    if config.get("snr_shift_scale") in (None, 1.0):
        return config
    alphas = [1.0, *(max(float(alpha), _SMALLEST_ALPHA) for alpha in stock.alphas_cumprod)]
    betas = [1.0 - later / earlier for earlier, later in pairwise(alphas)]
    others = {key: value for key, value in config.items() if key != "snr_shift_scale" and not key.startswith("_")}
    return {**others, "trained_betas": betas, _ZERO_SNR: False}


def peers(stock: Any) -> list[Peer]:
    """All solvers and settings for the model of the scheduler `stock`.

    Raises:
        ValueError: a model that is neither variance-preserving nor a flow.
    """
    if is_flow(stock):
        return [peer for shift in FLOW_SHIFTS for peer in _flow_solvers(shift)]
    if "beta_schedule" not in stock.config:
        raise ValueError(
            f"expected a scheduler of a flow or with a `beta_schedule`; received {type(stock).__name__}, for whose "
            "models no solver is known here"
        )
    return vp_peers(stock.config)


def plain_peers(stock: Any) -> list[Peer]:
    """Every solver once, at the setting that leaves given timesteps or sigmas as they are."""
    if is_flow(stock):
        return _flow_solvers(1.0)
    return _spaced("trailing", {"timestep_spacing": "trailing"}) + [
        _singlestep(order, "linspace", {}) for order in (2, 3)
    ]


def saved_peers(stock: Any) -> list[Peer]:
    """The scheduler that a pipeline was saved with, as it is, and for a flow model every solver at its shift."""
    name = type(stock).__name__

    def make(_: Options) -> Any:
        return type(stock).from_config(stock.config)

    steps = heun_steps if getattr(stock, "order", 1) == 2 else plms_steps if "PNDM" in name else int
    found = Peer(solver=name, setting="as saved", make=make, steps=steps)
    return [found, *(_flow_solvers(None) if is_flow(stock) else [])]


def heun_steps(calls: int) -> int:
    """Steps of a method with two calls a step but one in the last: `n` steps take `2 n - 1` calls."""
    return (calls + 1) // 2


def plms_steps(calls: int) -> int:
    """Steps of PNDM without its Runge-Kutta start: `n` steps take `n + 1` calls, the second timestep twice."""
    return calls - 1


def deterministic(timestep: object) -> float:
    """`tau_func` of SA-Solver on the probability flow: no noise at any timestep."""
    return 0.0


def vp_peers(config: Options) -> list[Peer]:
    """Solvers of variance-preserving models.

    Schedules in sigma or lambda always span all sigmas, whatever the spacing. The cosine schedule adds DPM-Solver++
    with the clipped lambda that diffusers documents for it.
    """
    found = [peer for spacing in _SPACINGS for peer in _spaced(spacing, {"timestep_spacing": spacing})]
    found += [peer for name, key in _SCHEDULES.items() for peer in _scheduled(name, {key: True})]
    for name, key in _DPM_SCHEDULES.items():
        found += [_multistep(order, name, {"timestep_spacing": "trailing", key: True}) for order in (2, 3)]
    found += [_singlestep(order, "linspace", {}) for order in (2, 3)]
    found += [_ipndm(spacing) for spacing in _SPACINGS]
    if config["beta_schedule"] == "squaredcos_cap_v2":
        for order in (2, 3):
            for spacing in ("trailing", "linspace"):
                found.append(_multistep(order, f"{spacing}, clipped", {"timestep_spacing": spacing, **_CLIPPED}))
            found.append(_singlestep(order, "linspace, clipped", _CLIPPED))
    return found


def _spaced(spacing: str, grid: Options) -> list[Peer]:
    ddim = {**grid, "clip_sample": False, "set_alpha_to_one": True}
    pndm = {**grid, "skip_prk_steps": True, "set_alpha_to_one": True}
    found = [
        _vp("DDIM", spacing, "DDIMScheduler", ddim),
        _vp("Euler", spacing, "EulerDiscreteScheduler", grid),
        _vp("Heun", spacing, "HeunDiscreteScheduler", grid, heun_steps),
        _vp("PNDM", spacing, "PNDMScheduler", pndm, plms_steps),
        _vp("LMS", spacing, "LMSDiscreteScheduler", grid),
    ]
    for order in (2, 3):
        unipc = {**grid, "solver_order": order}
        found += [
            _multistep(order, spacing, grid),
            _vp(f"UniPC {order}", spacing, "UniPCMultistepScheduler", unipc),
            _vp(f"UniPC {order} ε", spacing, "UniPCMultistepScheduler", {**unipc, **_EPSILON}),
            _vp(f"UniPC {order} bh1", spacing, "UniPCMultistepScheduler", {**unipc, **_BH1}),
            _vp(f"DEIS {order}", spacing, "DEISMultistepScheduler", {**grid, "solver_order": order}),
            _sa_solver(order, spacing, grid),
        ]
    return found


def _scheduled(name: str, schedule: Options) -> list[Peer]:
    grid = {"timestep_spacing": "trailing", **schedule}
    found = [
        _vp("Euler", name, "EulerDiscreteScheduler", grid),
        _vp("Heun", name, "HeunDiscreteScheduler", grid, heun_steps),
        _vp("LMS", name, "LMSDiscreteScheduler", grid),
    ]
    for order in (2, 3):
        found += [
            _multistep(order, name, grid),
            _singlestep(order, name, schedule),
            _vp(f"UniPC {order}", name, "UniPCMultistepScheduler", {**grid, "solver_order": order}),
            _vp(f"DEIS {order}", name, "DEISMultistepScheduler", {**grid, "solver_order": order}),
            _sa_solver(order, name, grid),
        ]
    return found


def _multistep(order: int, setting: str, options: Options) -> Peer:
    return _vp(f"DPM++ {order}M", setting, "DPMSolverMultistepScheduler", {**options, "solver_order": order})


def _singlestep(order: int, setting: str, options: Options) -> Peer:
    return _vp(f"DPM++ {order}S", setting, "DPMSolverSinglestepScheduler", {**options, "solver_order": order, **_LAST})


def _sa_solver(order: int, setting: str, options: Options) -> Peer:
    return _vp(f"SA-Solver {order}", setting, "SASolverScheduler", {**options, **_sa_orders(order)})


def _sa_orders(order: int) -> dict[str, Any]:
    return {"predictor_order": order, "corrector_order": order, "tau_func": deterministic}


def _ipndm(spacing: str) -> Peer:
    def make(config: Options) -> IPNDMOnGrid:
        return IPNDMOnGrid(_betas(config), spacing)

    return Peer(solver="IPNDM", setting=f"{spacing} levels", make=make)


def _betas(config: Options) -> dict[str, Any]:
    return {key: config[key] for key in _BETAS if config.get(key) is not None}


def _vp(solver: str, setting: str, name: str, options: Options, steps: Callable[[int], int] = int) -> Peer:
    def make(config: Options) -> Any:
        solver_class = getattr(diffusers, name)
        if not config.get(_ZERO_SNR):
            return solver_class(**_betas(config), **options)
        if _ZERO_SNR not in inspect.signature(solver_class.__init__).parameters:
            raise ValueError(f"{name} has no {_ZERO_SNR}, which the model was trained with")
        return solver_class(**_betas(config), **options, **{_ZERO_SNR: True})

    return Peer(solver=solver, setting=setting, make=make, steps=steps)


def _flow_solvers(shift: float | None) -> list[Peer]:
    """Solvers of flow models at one shift, or at that of the model's own scheduler, a dynamic one among them."""
    found = [
        _flow("flow Euler", shift, "FlowMatchEulerDiscreteScheduler", {}),
        _flow("flow Heun", shift, "FlowMatchHeunDiscreteScheduler", {}, heun_steps),
    ]
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    for order in (2, 3):
        ordered = {**flow, "solver_order": order}
        found += [
            _flow(f"DPM++ {order}M", shift, "DPMSolverMultistepScheduler", ordered),
            _flow(f"DPM++ {order}S", shift, "DPMSolverSinglestepScheduler", {**ordered, **_LAST}),
            _flow(f"UniPC {order}", shift, "UniPCMultistepScheduler", ordered),
            _flow(f"UniPC {order} bh1", shift, "UniPCMultistepScheduler", {**ordered, **_BH1}),
            _flow(f"UniPC {order} ε", shift, "UniPCMultistepScheduler", {**ordered, **_EPSILON}),
            _flow(f"DEIS {order}", shift, "DEISMultistepScheduler", ordered),
            _flow(f"SA-Solver {order}", shift, "SASolverScheduler", {**flow, **_sa_orders(order)}),
        ]
    return found


def _flow(solver: str, shift: float | None, name: str, options: Options, steps: Callable[[int], int] = int) -> Peer:
    key = "shift" if "FlowMatch" in name else "flow_shift"

    def make(config: Options) -> Any:
        solver_class = getattr(diffusers, name)
        if shift is not None:
            return solver_class(**options, **{key: shift})
        own = config.get("shift", config.get("flow_shift", 1.0))
        return solver_class.from_config(config, **options, **{key: own})

    setting = "the model's shift" if shift is None else f"shift {shift:g}"
    return Peer(solver=solver, setting=setting, make=make, steps=steps)
