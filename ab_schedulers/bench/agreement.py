"""`ab-schedulers bench agreement`: how far a run at `cache_interval=1` leaves the stock scheduler's.

Both walk the same grid with the exact outputs of a Gaussian mixture, which amplifies every rounding on its way. Stock
computes in float32 whatever it is given, so the float64 column shows stock's rounding rather than ours. The last column
gives the scale: how far stock leaves itself when its noise is changed by one rounding of float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers.bench.sampling import seeded_noise, start_grid
from ab_schedulers.bench.subjects import ExactSubject, mixture_subject
from ab_schedulers.bench.tables import text_table
from ab_schedulers.schedulers import ABCacheScheduler

_SAMPLES = 256
_SEED = 30_000
_HEADERS = ("stock scheduler", "steps", "float32", "float64", "stock, one rounding")
_DTYPES = (torch.float32, torch.float64)
_VP: dict[str, Any] = {"clip_sample": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A stock scheduler and the number of steps to compare on."""

    label: str
    kind: str
    stock: Any
    steps: int = 50


def pairs() -> list[Pair]:
    """Stock schedulers on the grids of their common settings."""
    ddim = [
        Pair(label=f"DDIM {spacing}", kind="vp", stock=DDIMScheduler(timestep_spacing=spacing, **_VP))
        for spacing in ("leading", "trailing")
    ]
    grids: tuple[dict[str, bool], ...] = (
        {},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_lu_lambdas": True},
    )
    multistep = [
        Pair(
            label=" ".join([f"DPM-Solver++ {order}M", *(key.split("_")[1] for key in grid)]),
            kind="vp",
            stock=DPMSolverMultistepScheduler(solver_order=order, **grid),
        )
        for order in (1, 2, 3)
        for grid in grids
    ]
    flow = [
        Pair(label=f"flow Euler shift {shift:g}", kind="flow", stock=FlowMatchEulerDiscreteScheduler(shift=shift))
        for shift in (1.0, 3.0)
    ]
    return [*ddim, *multistep, *flow]


@torch.inference_mode()
def largest_difference(pair: Pair, dtype: torch.dtype) -> float:
    """Largest difference between the two runs, relative to the largest value of stock's sample, over all steps."""
    subject = mixture_subject(pair.kind)
    noise, _ = seeded_noise(subject, _SAMPLES, _SEED, dtype)
    own = ABCacheScheduler.from_config(pair.stock.config, cache_interval=1, cache_corrector=None)
    return _largest(*(_walk(subject, scheduler, pair.steps, noise) for scheduler in (pair.stock, own)))


@torch.inference_mode()
def amplified_rounding(pair: Pair) -> float:
    """The same difference between two runs of stock, whose noises differ by one unit in the last place of float32."""
    subject = mixture_subject(pair.kind)
    noise, _ = seeded_noise(subject, _SAMPLES, _SEED)
    away = torch.nextafter(noise, 2 * noise)
    return _largest(*(_walk(subject, pair.stock, pair.steps, start) for start in (noise, away)))


def _largest(run: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    return max(float((b - a).abs().max() / a.abs().max()) for a, b in zip(run, other, strict=True))


def _walk(subject: ExactSubject, scheduler: Any, steps: int, noise: torch.Tensor) -> list[torch.Tensor]:
    start_grid(scheduler, steps)
    options: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(0)
    samples = [noise]
    for timestep in scheduler.timesteps:
        output = subject.predict(samples[-1], timestep).to(noise.dtype)
        samples.append(scheduler.step(output, timestep, samples[-1], **options)[0])
    return samples[1:]


def agreement() -> str:
    """The table of all pairs."""
    rows = []
    for pair in pairs():
        numbers = [*(largest_difference(pair, dtype) for dtype in _DTYPES), amplified_rounding(pair)]
        rows.append([pair.label, str(pair.steps), *(f"{number:.1e}" for number in numbers)])
    note = f"Largest relative difference over whole runs of {_SAMPLES} samples of a Gaussian mixture, seed {_SEED}."
    return f"{text_table(_HEADERS, rows)}\n\n{note}"
