"""A cheap model with curved trajectories, as a function that counts its calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ab_schedulers.bench.subjects import ExactSubject, mixture_subject


class Counting:
    """A subject as the function that `calibrate` takes."""

    def __init__(self, subject: ExactSubject) -> None:
        self.subject, self.calls = subject, 0

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.subject.predict(sample, timestep)


@pytest.fixture
def mixture() -> Callable[[str], Counting]:
    return lambda kind: Counting(mixture_subject(kind))


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    def draw(count: int, seed: int = 5) -> torch.Tensor:
        return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw


@pytest.fixture
def walk() -> Callable[..., torch.Tensor]:
    """The plain sampling loop."""

    def run(function: Any, scheduler: Any, sample: torch.Tensor, calls: int) -> torch.Tensor:
        if function.subject.name.endswith("flow"):
            scheduler.set_timesteps(sigmas=[1 - i / calls for i in range(calls)])
        else:
            scheduler.set_timesteps(calls)
        for timestep in scheduler.timesteps:
            sample = scheduler.step(function(sample, timestep), timestep, sample, return_dict=False)[0]
        return sample

    return run
