"""The sampling loop calls the model as often as it says and builds the grid as pipelines do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.mixtures import ring_mixture
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.subjects import ExactSubject, mixture_subject


class _Counting:
    """A subject that counts its calls."""

    def __init__(self, inner: ExactSubject) -> None:
        self.inner = inner
        self.name, self.scheduler, self.sample_shape = inner.name, inner.scheduler, inner.sample_shape
        self.calls = 0

    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner.predict(sample, timestep, labels)


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_model_calls_are_counted_and_reported_to_the_progress_bar(kind: str) -> None:
    subject = _Counting(mixture_subject(kind, ring_mixture()))
    noise, labels = seeded_noise(subject, 3, 0, torch.float64)
    ticks: list[int] = []
    run = sample(subject, subject.scheduler, 7, noise, labels, on_call=lambda: ticks.append(1))
    assert run.model_calls == subject.calls == len(ticks) == 7
    assert run.seconds > 0
    assert run.images.shape == noise.shape


def test_flow_grid_is_the_pipelines_and_ends_at_zero() -> None:
    subject = mixture_subject("flow", ring_mixture())
    noise, _ = seeded_noise(subject, 2, 0, torch.float64)
    sample(subject, subject.scheduler, 4, noise)
    torch.testing.assert_close(subject.scheduler.sigmas, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    sample(subject, subject.scheduler, 2, noise, sigmas=[0.9, 0.3])
    torch.testing.assert_close(subject.scheduler.sigmas, torch.tensor([0.9, 0.3, 0.0]))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize(
    "build",
    [
        lambda config: DPMSolverMultistepScheduler.from_config(config, timestep_spacing="trailing"),
        lambda config: EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing"),
    ],
    ids=["dpmsolver", "euler"],
)
def test_schedulers_with_other_input_scaling_reach_the_same_samples(build: Callable[[Any], Any]) -> None:
    subject = mixture_subject("vp", ring_mixture())
    noise, _ = seeded_noise(subject, 8, 2, torch.float64)
    scheduler = build(subject.scheduler.config)
    run = sample(subject, scheduler, 250, noise)
    assert rmse(run.images, subject.converged(noise, 999)) < 0.02


def test_noise_is_fixed_by_its_seed() -> None:
    subject = mixture_subject("vp")
    first, second = seeded_noise(subject, 4, 7)[0], seeded_noise(subject, 4, 7)[0]
    assert torch.equal(first, second)
    assert not torch.equal(first, seeded_noise(subject, 4, 8)[0])


def test_flow_scheduler_without_sigmas_is_the_trap_the_loop_avoids() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    assert float(scheduler.sigmas[-2]) == pytest.approx(0.001)
