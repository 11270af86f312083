"""Running a case and watching what its loop does."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from ab_schedulers import ABCacheScheduler
from ab_schedulers.schedulers.parameters import base_parameters

from .case import Case, placed

CALLS = 4
BASES = (DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler)


def cached(case: Case, **options: Any) -> Any:
    """Our scheduler for the case's released config."""
    return ABCacheScheduler.from_config(case.scheduler().config, **options)


def counterpart(case: Case) -> Any:
    """The stock scheduler that ours equals at interval 1: the released one, or the class that replaces it."""
    released = case.scheduler()
    if isinstance(released, (*BASES, CogVideoXDDIMScheduler)):
        return released
    ours = cached(case)
    base = next(base for base in BASES if isinstance(ours, base))
    return base(**base_parameters(base, ours.config))


def as_tensor(output: Any) -> torch.Tensor:
    """Latents or pictures of a pipeline's output as one tensor."""
    if isinstance(output, list):
        return torch.stack([as_tensor(item) for item in output])
    return output if isinstance(output, torch.Tensor) else torch.from_numpy(np.asarray(output))


def sample(
    pipe: Any, case: Case, *, seeds: Sequence[int] = (0,), size: int | None = None, **arguments: Any
) -> torch.Tensor:
    """What the pipeline returns; four calls unless `arguments` say otherwise."""
    given = {**case.arguments(seeds, case.sizes[0] if size is None else size), **arguments}
    on_device = {name: placed(value, case.device) for name, value in given.items()}
    return as_tensor(pipe(**{"num_inference_steps": CALLS, **on_device})[0])


def own_components(pipe: Any) -> Any:
    """The pipeline with copies of its modules, which may be changed."""
    for name, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            setattr(pipe, name, copy.deepcopy(module))
    return pipe


def rounding(case: Case) -> float:
    """How far two ways to compute the same run may end apart: kernels of a GPU round in another order."""
    return 2e-5 if case.device == "cpu" else 1e-3


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    assert ours.shape == theirs.shape
    ours, theirs = ours.double(), theirs.double()
    return float((ours - theirs).abs().max() / theirs.abs().max())


@dataclass
class Watch:
    """What a run did: forwards of every denoiser, timesteps of every `step`, progress bars."""

    forwards: list[str] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    bars: list[Any] = field(default_factory=list)


@contextmanager
def watched(pipe: Any, case: Case, on_forward: Callable[[int], None] = lambda count: None) -> Iterator[Watch]:
    """Watch the runs inside the block; `on_forward` is told how many forwards came before."""
    watch, scheduler = Watch(), pipe.scheduler
    step, progress_bar = scheduler.step, pipe.progress_bar

    def watched_step(model_output: Any, timestep: Any, *rest: Any, **options: Any) -> Any:
        watch.timesteps.append(float(timestep))
        return step(model_output, timestep, *rest, **options)

    watched_step.__signature__ = _signature(step)  # type: ignore[attr-defined]

    def watched_bar(*positional: Any, **keywords: Any) -> Any:
        watch.bars.append(progress_bar(*positional, **keywords))
        return watch.bars[-1]

    def hook(name: str) -> Callable[..., None]:
        def before(module: Any, positional: Any) -> None:
            on_forward(len(watch.forwards))
            watch.forwards.append(name)

        return before

    handles = [getattr(pipe, name).register_forward_pre_hook(hook(name)) for name in case.denoisers]
    pipe.set_progress_bar_config(file=io.StringIO())
    scheduler.step, pipe.progress_bar = watched_step, watched_bar
    try:
        yield watch
    finally:
        del scheduler.step, pipe.progress_bar
        pipe.set_progress_bar_config(disable=True)
        for handle in handles:
            handle.remove()


def _signature(function: Any) -> Any:
    import inspect

    return inspect.signature(function)
