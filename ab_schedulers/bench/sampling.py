"""The plain diffusers sampling loop, with the model calls counted and the loop timed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ab_schedulers.bench.subjects import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRun:
    """Result of one run.

    Attributes:
        images: final samples (batch, …).
        model_calls: how often the model was called.
        seconds: wall clock of the loop alone, without `set_timesteps`.
        model_seconds: the part of `seconds` that the model took.
    """

    images: torch.Tensor
    model_calls: int
    seconds: float
    model_seconds: float


def start_grid(scheduler: Any, num_inference_steps: int, **options: Any) -> None:
    """`set_timesteps` as pipelines call it: flow schedulers are given `sigmas = linspace(1, 1/n, n)`.

    Without `sigmas`, `FlowMatchEulerDiscreteScheduler` ends its grid at sigma 0.001 and wastes its last call.
    """
    is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    if is_flow and "sigmas" not in options and "timesteps" not in options:
        options["sigmas"] = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps).tolist()
    # Schedulers count given timesteps themselves, and refuse to be told their number as well.
    count = None if "timesteps" in options else num_inference_steps
    scheduler.set_timesteps(count, device="cpu", **options)


@torch.inference_mode()
def sample(
    subject: Subject,
    scheduler: Any,
    num_inference_steps: int,
    noise: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    on_call: Callable[[], object] | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> SamplingRun:
    """Sample `subject` with `scheduler` from `noise`.

    Args:
        subject: model to call.
        scheduler: any diffusers scheduler with the common interface.
        num_inference_steps: passed to `set_timesteps`; model calls for the cached schedulers.
        noise: standard normal (batch, …); it is scaled by `init_noise_sigma` where the scheduler has one.
        labels: class labels (batch,); class 0 when not given. Exact subjects ignore them.
        on_call: called after every model call, for a progress bar.
        generator: of the noise that stochastic schedulers draw; seed 0 where not given, so batches of one set need
            one each.
        **options: further keyword arguments of `set_timesteps`.

    Returns:
        Final samples, number of model calls, seconds of the loop and of the model in it.
    """
    start_grid(scheduler, num_inference_steps, **options)
    classes = torch.zeros(len(noise), dtype=torch.long) if labels is None else labels
    images = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    scale_model_input = getattr(scheduler, "scale_model_input", None)
    step_options: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(scheduler.step).parameters:
        step_options["generator"] = generator or torch.Generator().manual_seed(0)
    model_calls, model_seconds = 0, 0.0
    started = time.perf_counter()
    for timestep in scheduler.timesteps:
        model_input = images if scale_model_input is None else scale_model_input(images, timestep)
        called = time.perf_counter()
        model_output = subject.predict(model_input, timestep, classes)
        model_seconds += time.perf_counter() - called
        images = scheduler.step(model_output, timestep, images, **step_options)[0]
        model_calls += 1
        if on_call is not None:
            on_call()
    seconds = time.perf_counter() - started
    return SamplingRun(images=images, model_calls=model_calls, seconds=seconds, model_seconds=model_seconds)


def seeded_noise(
    subject: Subject, count: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (count, …) and labels (count,) that go through the classes in turn, both fixed by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *subject.sample_shape, generator=generator, dtype=dtype)
    return noise, torch.arange(count) % int(getattr(subject, "num_classes", 1))
