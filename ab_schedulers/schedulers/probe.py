"""Read the rows off a linear multistep scheduler of diffusers.

In its natural quantity every linear multistep scheduler is a row per call,
``prev_sample = a sample + Σ_j b_j output_j`` with the outputs of this and earlier calls: DDIM, PNDM, DEIS, LMS,
IPNDM and UniPC without ``predict_x0`` in the noise, DPM-Solver++ and UniPC in the clean sample, flow Euler in the
velocity. The scalars are what it makes of unit vectors. In another quantity the conversion brings in old samples, and
the history grows with every call.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ab_schedulers.numerics import QUANTITIES, Row, convert_quantity

from .base import ABCacheScheduler

# What each scheduler integrates, and so keeps in its history; where it is None, the config decides.
_NATURAL: dict[str, str | None] = {
    **dict.fromkeys(("DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIMScheduler", "PNDMScheduler"), "epsilon"),
    **dict.fromkeys(("EulerDiscreteScheduler", "LMSDiscreteScheduler", "IPNDMScheduler"), "epsilon"),
    "DEISMultistepScheduler": "epsilon",
    "FlowMatchEulerDiscreteScheduler": "velocity",
    **dict.fromkeys(("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "SASolverScheduler"), None),
    "UniPCMultistepScheduler": None,
}
_SIGMA_COORDINATES = ("EulerDiscreteScheduler", "LMSDiscreteScheduler")  # they walk x / alpha
_CLIPPING = ("DDIMScheduler", "DDIMParallelScheduler")  # others carry the key `clip_sample` and never read it
_FOLLOWED = 1e-5  # relative, over a whole run: stock rounds its scalars, and some samples, to float32
_ROUNDED = 1e-13  # relative, in float64: a weight that is zero but for rounding

_Step: TypeAlias = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedRows:
    """The rows of a run, in the coordinates ``x_t = alpha_t x_0 + sigma_t epsilon``.

    Args:
        scheduler: Name of the scheduler's class.
        quantity: What the rows weight: ``"epsilon"``, ``"sample"`` (x_0) or ``"velocity"``.
        timesteps: Timesteps of the calls.
        alphas: Signal scales of the calls and of the end.
        sigmas: Noise scales of the calls and of the end.
        flow: Whether ``alpha = 1 - sigma``, where velocity means ``epsilon - x_0``.
        rows: One row per call.
    """

    scheduler: str
    quantity: str
    timesteps: tuple[float, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    flow: bool
    rows: tuple[Row, ...]


def probe(
    scheduler: Any,
    num_inference_steps: int | None = None,
    *,
    quantity: str | None = None,
    **set_timesteps_options: Any,
) -> ProbedRows:
    """Read the rows off a linear multistep scheduler, which itself is left as it is.

    A copy runs on unit vectors, in float64. A second run, on random samples and outputs, must follow the rows to the
    rounding of stock's own float32, or the scheduler is refused.

    Theory: docs/theory/05-multistep.md.

    Args:
        scheduler: A deterministic scheduler of diffusers that is linear in samples and outputs and calls the model
            once per step.
        num_inference_steps: Number of model calls (PNDM makes more).
        quantity: What the rows shall weight; None for what the scheduler integrates.
        **set_timesteps_options: Further arguments of its ``set_timesteps``: ``sigmas``, ``timesteps``, ``mu``.

    Raises:
        TypeError: If its ``set_timesteps`` has no such argument.
        ValueError: If it is not known here, draws noise, is not linear, or calls the model twice per step.

    Examples:
        >>> from diffusers import UniPCMultistepScheduler
        >>> probed = probe(UniPCMultistepScheduler(), 8)
        >>> probed.quantity, [len(row.history) for row in probed.rows]
        ('sample', [1, 2, 3, 3, 3, 3, 3, 1])
    """
    name = _known_name(scheduler)
    wanted = _natural_quantity(name, scheduler.config) if quantity is None else quantity
    if wanted not in QUANTITIES:
        raise ValueError(f"`quantity` must be one of {list(QUANTITIES)} or None, received {quantity!r}; choose one.")
    _check_linear(name, scheduler)
    _check_options(scheduler, set_timesteps_options)
    stock = copy.deepcopy(scheduler)
    flow = bool(stock.config.get("use_flow_sigmas")) or name == "FlowMatchEulerDiscreteScheduler"
    if "prediction_type" in stock.config:
        velocity = "flow_prediction" if flow else "v_prediction"
        stock.register_to_config(prediction_type=velocity if wanted == "velocity" else wanted)
    calls = () if num_inference_steps is None else (num_inference_steps,)
    stock.set_timesteps(*calls, **set_timesteps_options)
    timesteps = stock.timesteps.clone()
    alphas, sigmas = _levels(stock, flow)

    def start() -> _Step:
        run = copy.deepcopy(stock)
        if hasattr(run, "set_begin_index"):
            run.set_begin_index(0)

        def step(call: int, sample: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            if "prediction_type" not in run.config and wanted != "velocity":
                if alphas[call] == 0:  # pure noise: the noise is the sample
                    sample, output = output, 0 * output
                else:
                    of_sample, of_output = _to_velocity(wanted, alphas[call], sigmas[call], flow)
                    output = of_sample * sample + of_output * output
            if hasattr(run, "scale_model_input"):
                run.scale_model_input(
                    sample, timesteps[call]
                )  # Euler and LMS want it called, and scale the input alone
            result: torch.Tensor = run.step(output, timesteps[call], sample, return_dict=False)[0]
            return result

        return step

    with torch.random.fork_rng(devices=[]):
        rows = _read_rows(name, start(), len(timesteps))
        _check_follows(name, start(), rows)
    scales = alphas if name in _SIGMA_COORDINATES else [1.0] * len(alphas)
    return ProbedRows(
        scheduler=name,
        quantity=wanted,
        timesteps=tuple(timesteps.tolist()),
        alphas=tuple(alphas),
        sigmas=tuple(sigmas),
        flow=flow,
        rows=tuple(_scaled(row, scales[i], scales[i + 1]) for i, row in enumerate(rows)),
    )


def _known_name(scheduler: Any) -> str:
    """Name of the class in `_NATURAL` that ``scheduler`` is or derives from."""
    if isinstance(scheduler, ABCacheScheduler):
        raise ValueError(f"{type(scheduler).__name__} shows its rows itself; read `scheduler.rows`.")
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    known = next((name for name in names if name in _NATURAL), None)
    if known is None:
        order = getattr(scheduler, "order", 1)
        reason = f"it calls the model {order} times per step" if order != 1 else "it draws noise or is not linear"
        raise ValueError(
            f"{names[0]} is not known as a linear multistep scheduler: {reason}, or is none of diffusers'. Expected "
            f"one of {', '.join(_NATURAL)}."
        )
    return known


def _natural_quantity(name: str, config: Mapping[str, Any]) -> str:
    natural = _NATURAL[name]
    if natural is not None:
        return natural
    if name == "UniPCMultistepScheduler":
        return "sample" if config["predict_x0"] else "epsilon"
    clean = config["algorithm_type"].endswith("++") or config["algorithm_type"] == "data_prediction"
    return "sample" if clean else "epsilon"


def _check_linear(name: str, scheduler: Any) -> None:
    """Refuse the options that make a known scheduler stochastic or nonlinear."""
    config = scheduler.config
    spoilers = {
        "thresholding": config.get("thresholding"),
        "clip_sample": name in _CLIPPING and config.get("clip_sample"),
        "algorithm_type='sde-...'": str(config.get("algorithm_type")).startswith("sde-"),
        "stochastic_sampling": config.get("stochastic_sampling"),
        "solver_p": config.get("solver_p"),
    }
    for option, spoils in spoilers.items():
        if spoils:
            noisy = option in ("algorithm_type='sde-...'", "stochastic_sampling")
            kind = "draws noise" if noisy else "is no linear multistep method"
            raise ValueError(f"{name} with `{option}` set {kind}, so it has no rows; probe it without the option.")


def _check_options(scheduler: Any, options: Mapping[str, Any]) -> None:
    known = [key for key in inspect.signature(scheduler.set_timesteps).parameters if key != "num_inference_steps"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(
            f"`set_timesteps` of {type(scheduler).__name__} has no argument {unknown}, expected some of {known}; drop "
            "it (arguments of `step`, such as `eta`, make no rows)."
        )


def _levels(stock: Any, flow: bool) -> tuple[list[float], list[float]]:
    """Signal and noise scales of the calls and of the end."""
    if type(stock).__name__ == "IPNDMScheduler":  # its betas are noise scales
        return stock.alphas.double().tolist(), stock.betas.double().tolist()
    if hasattr(stock, "sigmas"):
        levels = [float(sigma) for sigma in stock.sigmas]
        alphas = [1 - s if flow else 1 / math.sqrt(1 + s * s) for s in levels]
        return alphas, levels if flow else [s * a for s, a in zip(levels, alphas, strict=True)]
    kept = [*stock.alphas_cumprod[stock.timesteps.long()].tolist(), float(stock.final_alpha_cumprod)]
    return [math.sqrt(a) for a in kept], [math.sqrt(1 - a) for a in kept]


def _to_velocity(quantity: str, alpha: float, sigma: float, flow: bool) -> tuple[float, float]:
    pair: tuple[float, float] = convert_quantity(quantity, "velocity", alpha, sigma, flow=flow)
    return pair


def _read_rows(name: str, step: _Step, calls: int) -> list[Row]:
    """The rows, from steps that each get a sample and an output of their own.

    Where the result depends on the newest sample alone, the row stands there. Where it reaches back to samples of
    earlier calls (PNDM, UniPC), both are expressed by the first sample and the outputs, and the row is what leads from
    one to the other.
    """
    units = torch.eye(2 * calls, dtype=torch.float64).reshape(2 * calls, 1, 1, 2 * calls)
    reached = [units[0].flatten()]  # each call's sample as a form in the first sample and all outputs
    rows = []
    for call in range(calls):
        response = step(call, units[call], units[calls + call]).double().flatten()
        if not bool(torch.isfinite(response).all()):
            raise ValueError(
                f"{name} is singular at call {call} of {calls}: its step is not finite there. Choose a grid that ends "
                "before zero noise (final_sigmas_type='sigma_min') or another quantity."
            )
        response[response.abs() < _ROUNDED * response.abs().max()] = 0
        of_samples, of_outputs = response[:calls], response.clone()
        of_outputs[:calls] = 0
        following = of_outputs + sum(float(a) * form for a, form in zip(of_samples, reached, strict=False))
        if not bool(of_samples[:call].any()):
            scale, rest = float(of_samples[call]), of_outputs
        else:
            scale = float(following[0] / reached[call][0])
            rest = following - scale * reached[call]
            rest[rest.abs() < _ROUNDED * following.abs().max()] = 0
        reached.append(following)
        history = rest[calls : calls + call + 1].flip(0).tolist()
        while len(history) > 1 and history[-1] == 0:
            history.pop()
        rows.append(Row(sample=scale, history=tuple(history), order=len(history)))
    return rows


def _check_follows(name: str, step: _Step, rows: Sequence[Row]) -> None:
    """Refuse unless a run on random samples and outputs goes where the rows say."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(len(rows) + 1, 1, 1, 64, dtype=torch.float64, generator=generator)
    walked = predicted = draws[0] if rows[0].sample else draws[1]
    outputs: list[torch.Tensor] = []
    for call, row in enumerate(rows):
        outputs.insert(0, draws[call + 1])
        walked = step(call, walked, outputs[0]).double()
        predicted = row.sample * predicted + sum(b * f for b, f in zip(row.history, outputs, strict=False))
        missed = float((walked - predicted).abs().max() / predicted.abs().max())
        if not missed < _FOLLOWED:
            raise ValueError(
                f"{name} does not follow fixed rows: at call {call} a run on random outputs ends {missed:.1e} "
                "(relative) from them. It draws noise or is not linear with these options, so it has no rows."
            )


def _scaled(row: Row, scale: float, following: float) -> Row:
    """The row in ``scale`` times the coordinates it was read in."""
    history = tuple(following * b for b in row.history)
    return Row(sample=row.sample * following / scale, history=history, order=row.order)
