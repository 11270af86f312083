"""Noise scaling around stock schedulers, and its fit."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from ab_schedulers import ABCacheScheduler
from ab_schedulers.caching import apply_noise_scaling, fit_noise_scaling, remove_noise_scaling
from ab_schedulers.models import load

SAMPLE = torch.linspace(-2, 2, 32).reshape(2, 1, 4, 4)
OUTPUT = torch.sin(3 * SAMPLE)


def stepped(scheduler: Any, output: torch.Tensor = OUTPUT) -> torch.Tensor:
    scheduler.set_timesteps(10)
    return scheduler.step(output, scheduler.timesteps[4], SAMPLE).prev_sample


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_predicted_noise_is_multiplied(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    expected = stepped(scheduler, 0.98 * OUTPUT)
    apply_noise_scaling(scheduler, {"value": 0.98})
    torch.testing.assert_close(stepped(scheduler), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_scaling_acts_on_the_implied_noise_as_in_our_own_schedulers(prediction: str) -> None:
    """Whatever the model predicts, the step equals that of the cached scheduler with the same option."""
    table = {"t": [0.1, 0.9], "values": [0.95, 1.02]}
    config = {"prediction_type": prediction, "clip_sample": False, "timestep_spacing": "trailing"}
    stock = diffusers.DDIMScheduler(**config)
    own = ABCacheScheduler.from_config(stock.config, cache_interval=1, noise_scaling=table)
    apply_noise_scaling(stock, table)
    torch.testing.assert_close(_from_the_first(stock), _from_the_first(own), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "stock",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.DDIMScheduler(
            rescale_betas_zero_snr=True,
            prediction_type="v_prediction",
            clip_sample=False,
            timestep_spacing="trailing",
        ),
    ],
    ids=["flow", "zero SNR"],
)
def test_at_pure_noise_neither_our_schedulers_nor_scaled_stock_ones_scale(stock: Any) -> None:
    own = ABCacheScheduler.from_config(stock.config, cache_interval=1, noise_scaling={"value": 0.9})
    apply_noise_scaling(stock, {"value": 0.9})
    torch.testing.assert_close(_from_the_first(stock), _from_the_first(own), atol=1e-5, rtol=1e-5)


def _from_the_first(scheduler: Any) -> torch.Tensor:
    scheduler.set_timesteps(10)
    sample = SAMPLE
    for timestep in scheduler.timesteps[:3]:
        sample = scheduler.step(torch.sin(3 * sample), timestep, sample).prev_sample
    return sample


def test_flow_models_are_scaled_in_their_implied_noise_but_not_at_pure_noise() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.5])
    apply_noise_scaling(scheduler, {"value": 0.9})
    first = scheduler.step(OUTPUT, scheduler.timesteps[0], SAMPLE).prev_sample
    torch.testing.assert_close(first, SAMPLE - 0.5 * OUTPUT)
    second = scheduler.step(OUTPUT, scheduler.timesteps[1], first).prev_sample
    noise = 0.9 * (first + 0.5 * OUTPUT)
    torch.testing.assert_close(second, (first - 0.5 * noise) / 0.5)


def test_the_published_schedule_is_used_at_the_timestep() -> None:
    scheduler = diffusers.DDIMScheduler()
    expected = stepped(scheduler, 0.98 * OUTPUT)
    apply_noise_scaling(scheduler, {"high": 0.98, "low": 0.96, "threshold": 0.01})
    result = stepped(scheduler)  # t = .5: b_h + (1 - b_h) exp(-5 (1 - t) / (1 - tau))
    assert 0 < float((result - expected).abs().max()) < 0.02


def test_a_learned_variance_is_left_alone() -> None:
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    both = torch.cat([OUTPUT, OUTPUT], dim=1)
    scheduler.set_timesteps(10)
    seen = []
    stock = diffusers.DDPMScheduler.step
    scheduler.__class__ = type(
        "DDPMScheduler", (diffusers.DDPMScheduler,), {"step": lambda self, out, t, x, **k: seen.append(out)}
    )
    apply_noise_scaling(scheduler, {"value": 0.9})
    scheduler.step(both, scheduler.timesteps[3], SAMPLE)
    torch.testing.assert_close(seen[0], torch.cat([0.9 * OUTPUT, OUTPUT], dim=1))
    assert diffusers.DDPMScheduler.step is stock


def test_class_signature_and_configuration_stay(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    signature, config = inspect.signature(scheduler.step), dict(scheduler.config)
    apply_noise_scaling(scheduler, {"value": 0.98})
    assert isinstance(scheduler, diffusers.DDIMScheduler) and type(scheduler).__name__ == "DDIMScheduler"
    assert type(scheduler).__module__ == diffusers.DDIMScheduler.__module__
    assert inspect.signature(scheduler.step) == signature and dict(scheduler.config) == config
    scheduler.save_pretrained(tmp_path)
    assert type(diffusers.DDIMScheduler.from_pretrained(tmp_path)) is diffusers.DDIMScheduler
    copied = copy.deepcopy(scheduler)
    assert torch.equal(stepped(copied), stepped(scheduler))
    remove_noise_scaling(scheduler)
    assert type(scheduler) is diffusers.DDIMScheduler
    assert not torch.equal(stepped(copied), stepped(scheduler))


def test_what_cannot_be_scaled_is_refused() -> None:
    scheduler = diffusers.DDIMScheduler()
    with pytest.raises(TypeError, match="received None"):
        apply_noise_scaling(scheduler, None)
    with pytest.raises(ValueError, match="pass one of these forms"):
        apply_noise_scaling(scheduler, {"factor": 1})
    with pytest.raises(ValueError, match="is not scaled"):
        remove_noise_scaling(scheduler)
    apply_noise_scaling(scheduler, {"value": 0.98})
    with pytest.raises(ValueError, match="scaled already"):
        apply_noise_scaling(scheduler, {"value": 0.98})
    own = ABCacheScheduler.from_config(diffusers.DDIMScheduler(timestep_spacing="trailing").config)
    with pytest.raises(ValueError, match="scales by itself"):
        apply_noise_scaling(own, {"value": 0.98})
    in_sigma_space = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="sigma space"):
        apply_noise_scaling(in_sigma_space, {"value": 0.98})


class _Gaussian:
    """The exact noise prediction for data of standard deviation 1/2, overestimated by a factor."""

    def __init__(self, scheduler: Any, factor: float) -> None:
        self.alphas, self.factor = scheduler.alphas_cumprod, factor

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        squared = self.alphas[int(timestep)]
        return self.factor * (1 - squared).sqrt() * sample / (squared / 4 + 1 - squared)


@pytest.mark.parametrize(("factor", "sign"), [(1.04, -1), (0.96, 1)])
def test_a_biased_prediction_gets_the_factor_that_undoes_it(factor: float, sign: int) -> None:
    """The bare model judges; the walked one is off by a known factor, whose reciprocal is among the candidates."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    generator = torch.Generator().manual_seed(0)
    noise, clean = (torch.randn(64, 1, 8, 8, generator=generator) for _ in range(2))
    fit = fit_noise_scaling(
        _Gaussian(scheduler, factor),
        scheduler,
        noise=noise,
        clean=clean / 2,
        forward_predict=_Gaussian(scheduler, 1.0),
        constants=(0.9, 1 / factor, 1.1),
    )
    assert fit.noise_scaling == {"value": 1 / factor}
    assert (fit.noise_scaling["value"] - 1) * sign > 0
    assert dict(fit.deviations[0][0]) == {"value": 1.0} and min(d for _, d in fit.deviations) < fit.deviations[0][1]


def test_the_fit_refuses_clean_samples_of_another_shape() -> None:
    bundled = load("dit-epsilon")
    with pytest.raises(ValueError, match="one clean sample per row"):
        fit_noise_scaling(lambda x, t: x, bundled.scheduler, noise=SAMPLE, clean=SAMPLE[:1])
