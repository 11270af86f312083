"""A cached run is an explicit walk over every base step, for each class and each cache option."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ab_schedulers import (
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*algorithm_type .* is deprecated:FutureWarning")

TRAILING = {"timestep_spacing": "trailing", "clip_sample": False}
BASES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, ABCacheDDIMScheduler, TRAILING),
    "ddim, velocity": (DDIMScheduler, ABCacheDDIMScheduler, {**TRAILING, "prediction_type": "v_prediction"}),
    "ddim, clipped": (DDIMScheduler, ABCacheDDIMScheduler, {**TRAILING, "clip_sample": True}),
    "ddim, thresholded": (DDIMScheduler, ABCacheDDIMScheduler, {**TRAILING, "thresholding": True}),
    "1st order": (DPMSolverMultistepScheduler, ABCacheDPMSolverMultistepScheduler, {"solver_order": 1}),
    "2nd order": (DPMSolverMultistepScheduler, ABCacheDPMSolverMultistepScheduler, {}),
    "2nd order, heun": (
        DPMSolverMultistepScheduler,
        ABCacheDPMSolverMultistepScheduler,
        {"solver_type": "heun", "use_karras_sigmas": True, "prediction_type": "v_prediction"},
    ),
    "3rd order": (DPMSolverMultistepScheduler, ABCacheDPMSolverMultistepScheduler, {"solver_order": 3}),
    "3rd order, thresholded": (
        DPMSolverMultistepScheduler,
        ABCacheDPMSolverMultistepScheduler,
        {"solver_order": 3, "thresholding": True},
    ),
    "noise integrals": (
        DPMSolverMultistepScheduler,
        ABCacheDPMSolverMultistepScheduler,
        {"solver_order": 3, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "flow sigmas": (
        DPMSolverMultistepScheduler,
        ABCacheDPMSolverMultistepScheduler,
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    ),
    "flow": (FlowMatchEulerDiscreteScheduler, ABCacheFlowMatchEulerScheduler, {"shift": 2.0, "shift_terminal": 0.02}),
}
# Stated, so that these tests do not depend on the defaults.
CACHE: dict[str, Any] = {
    "cache_interval": 3,
    "cache_order": 3,
    "cache_variable": "index",
    "cache_quantity": None,
    "cache_predictor": "extrapolate",
    "cache_corrector": None,
}
CACHES: list[dict[str, Any]] = [
    *({"cache_order": order} for order in (1, 2, 4)),
    *({"cache_variable": variable} for variable in ("index", "timestep", "lambda")),
    *({"cache_quantity": quantity} for quantity in ("model_output", "epsilon", "sample", "velocity")),
    *({"cache_predictor": "hold", "cache_order": order} for order in (2, 3)),
    *({"cache_corrector": corrector, "cache_order": order} for corrector, order in ((1, 1), (2, 3), (4, 3), (5, 2))),
    {"cache_corrector": 3, "cache_predictor": "hold"},
    {"cache_corrector": 3, "cache_quantity": "velocity", "cache_variable": "lambda"},
    {"warmup_calls": 2, "cache_order": 2, "cache_corrector": 2},
    {"cache_interval": 2, "cache_corrector": 2},
    {"cache_interval": 5, "cache_order": 2},
    {"num_base_steps": 19},
    {"num_base_steps": 20, "warmup_calls": 3, "cache_corrector": 3},
    {"num_base_steps": 20, "compute_steps": [0, 1, 2, 4, 7, 8, 13, 19], "cache_corrector": 3},
]


def grid_of(ours: type, calls: int) -> dict[str, Any]:
    """Arguments of ours for `calls` calls; for flow matching a grid that leaves out sigma = 1."""
    if ours is ABCacheFlowMatchEulerScheduler:
        return {"sigmas": np.linspace(0.98, 0.12, calls).tolist()}
    return {"num_inference_steps": calls}


@pytest.fixture(scope="session")
def pair(refine_linearly: Any) -> Any:
    """Ours and stock on one base grid, the latter built without ours."""

    def build(name: str, cache: Mapping[str, Any], calls: int = 8, **options: Any) -> tuple[Any, Any]:
        base, ours, config = BASES[name]
        scheduler, stock = ours(**{**config, **options, **CACHE, **cache}), base(**{**config, **options})
        scheduler.set_timesteps(**grid_of(ours, calls))
        if base is FlowMatchEulerDiscreteScheduler:
            sigmas = [*grid_of(ours, calls)["sigmas"], 0.0]
            corners = [*scheduler.plan.compute_steps, scheduler.plan.num_base_steps]
            stock.set_timesteps(sigmas=np.interp(range(corners[-1]), corners, sigmas).tolist())
        else:
            stock.set_timesteps(scheduler.plan.num_base_steps)
        return scheduler, stock

    return build


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_a_run_is_the_walk_over_every_base_step(
    pair: Any, run: Any, slow_walk: Any, denoiser: Any, start: Any, difference: Any, name: str, cache: Any
) -> None:
    scheduler, stock = pair(name, cache)
    walk = slow_walk(scheduler=scheduler, stock=stock)
    sample = start()
    assert difference(run(scheduler, denoiser, sample), walk(denoiser, sample)) <= 1e-11


@pytest.mark.parametrize("name", BASES)
def test_a_run_with_the_default_options_is_the_walk_over_every_base_step(
    pair: Any, run: Any, slow_walk: Any, denoiser: Any, start: Any, difference: Any, name: str
) -> None:
    ours = BASES[name][1]
    defaults = {key: inspect.signature(ours.__init__).parameters[key].default for key in CACHE}
    scheduler, stock = pair(name, defaults)
    assert {key: scheduler.config[key] for key in CACHE} == defaults
    sample = start()
    walked = slow_walk(scheduler=scheduler, stock=stock)(denoiser, sample)
    assert difference(run(scheduler, denoiser, sample), walked) <= 1e-11


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("begin", [1, 3, 7])
def test_a_start_in_the_middle_is_the_walk_from_there_with_an_empty_history(
    pair: Any, run: Any, slow_walk: Any, denoiser: Any, start: Any, difference: Any, name: str, begin: int
) -> None:
    scheduler, stock = pair(name, {"cache_corrector": 3})
    walk = slow_walk(scheduler=scheduler, stock=stock)
    sample = start()
    walked = walk(denoiser, sample, begin=begin)
    assert difference(run(scheduler, denoiser, sample, begin=begin), walked) <= 1e-11
    assert len(scheduler.rows) == 8 - begin
    assert [row.order for row in scheduler.rows[:3]] == [1, 2, 3][: 8 - begin]


@pytest.mark.parametrize("name", ["ddim, clipped", "ddim, thresholded"])
def test_noise_rederived_from_the_clipped_sample_is_cached(
    pair: Any, run: Any, slow_walk: Any, denoiser: Any, start: Any, difference: Any, name: str
) -> None:
    for quantity in ("epsilon", "sample", "velocity"):
        scheduler, stock = pair(name, {"cache_quantity": quantity})
        walk = slow_walk(scheduler=scheduler, stock=stock, use_clipped_model_output=True)
        sample = start()
        ran = run(scheduler, denoiser, sample, use_clipped_model_output=True)
        assert difference(ran, walk(denoiser, sample)) <= 1e-11


@settings(max_examples=60)
@given(data=st.data())
def test_all_cache_options_together_are_the_walk(
    pair: Any, run: Any, slow_walk: Any, denoiser: Any, start: Any, difference: Any, data: st.DataObject
) -> None:
    calls = data.draw(st.integers(1, 8), label="calls")
    gaps = data.draw(st.lists(st.integers(1, 4), min_size=calls, max_size=calls), label="gaps")
    cache = {
        "num_base_steps": sum(gaps),
        "compute_steps": [sum(gaps[:i]) for i in range(calls)],
        "cache_order": data.draw(st.integers(1, 4), label="order"),
        "cache_corrector": data.draw(st.none() | st.integers(1, 4), label="corrector"),
        "cache_predictor": data.draw(st.sampled_from(["extrapolate", "hold"]), label="predictor"),
        "cache_variable": data.draw(st.sampled_from(["index", "timestep", "lambda"]), label="variable"),
        "cache_quantity": data.draw(st.sampled_from(["epsilon", "sample", "velocity"]), label="quantity"),
    }
    scheduler, stock = pair(data.draw(st.sampled_from(list(BASES)), label="base"), cache, calls)
    begin = data.draw(st.integers(0, calls - 1), label="begin")
    walk = slow_walk(scheduler=scheduler, stock=stock)
    sample = start(shape=(1, 2, 3, 3))
    walked = walk(denoiser, sample, begin=begin)
    assert difference(run(scheduler, denoiser, sample, begin=begin), walked) <= 1e-9


# -- noise ----------------------------------------------------------------------------------------------------------

STOCHASTIC: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "eta": ("ddim", {}, {"eta": 1.0}),
    "half eta": ("ddim", {}, {"eta": 0.5}),
    "sde 1st order": ("1st order", {"algorithm_type": "sde-dpmsolver++"}, {}),
    "sde 2nd order": ("2nd order", {"algorithm_type": "sde-dpmsolver++"}, {}),
    "sde 3rd order": ("3rd order", {"algorithm_type": "sde-dpmsolver++"}, {}),
    "sde of noise": ("noise integrals", {"algorithm_type": "sde-dpmsolver", "solver_order": 2}, {}),
    "stochastic flow": ("flow", {"stochastic_sampling": True}, {}),
}


@pytest.mark.parametrize("kind", STOCHASTIC)
@pytest.mark.parametrize("cache", [{}, {"cache_order": 1}, {"num_base_steps": 11, "warmup_calls": 1}], ids=str)
def test_one_draw_has_the_mean_and_variance_of_the_noise_of_all_folded_steps(
    pair: Any, run: Any, slow_walk: Any, start: Any, kind: str, cache: Any
) -> None:
    """The model ignores the sample, so the sample after every call is Gaussian, with the same law in every entry."""
    name, options, step = STOCHASTIC[kind]
    scheduler, stock = pair(name, {"cache_corrector": 3, **cache}, 5, **options)
    count = 40_000
    sample = torch.full((1, 1, 1, count), 0.7, dtype=torch.float64)
    draws = torch.Generator().manual_seed(11)
    noises = torch.randn(scheduler.plan.num_base_steps, *sample.shape, dtype=torch.float64, generator=draws)

    def model(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        return torch.full_like(sample, 0.3 + 0.2 * math.sin(float(timestep) / 200))

    walk = slow_walk(scheduler=scheduler, stock=stock, eta=step.get("eta", 0.0))
    walked = walk(model, sample, noises=list(noises))
    ran = run(scheduler, model, sample, seed=12, **step)
    for ours, theirs in zip(ran, walked, strict=True):
        deviation = float(theirs.std())
        assert abs(float(ours.mean() - theirs.mean())) <= 6 * deviation * (2 / count) ** 0.5 + 1e-9
        assert abs(float(ours.std()) - deviation) <= 6 * deviation / count**0.5
    for ours, theirs in zip(pairwise(ran[:-1]), pairwise(walked[:-1]), strict=True):
        correlations = [float(torch.corrcoef(torch.cat(list(two)).reshape(2, -1))[0, 1]) for two in (ours, theirs)]
        assert abs(correlations[0] - correlations[1]) <= 6 * (2 / count) ** 0.5


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_there_is_one_draw_per_call_and_no_corrector(pair: Any, run: Any, denoiser: Any, start: Any, kind: str) -> None:
    name, options, step = STOCHASTIC[kind]
    scheduler, _ = pair(name, {"cache_corrector": 3}, 5, **options)
    generator = torch.Generator().manual_seed(2)
    sample = start()
    for timestep in scheduler.timesteps:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample, generator=generator, **step).prev_sample
    dtype = torch.float64 if "eta" in step else torch.float32
    again = torch.Generator().manual_seed(2)
    torch.randn(5, *sample.shape, generator=again, dtype=dtype)
    assert torch.equal(generator.get_state(), again.get_state())
    assert [row.corrector for row in scheduler.rows] == [0] * 5


@pytest.mark.parametrize("name", ["ddim", "2nd order", "flow"])
def test_a_deterministic_run_draws_nothing(pair: Any, run: Any, denoiser: Any, start: Any, name: str) -> None:
    scheduler, _ = pair(name, {})
    generator, untouched = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    state = torch.get_rng_state()
    sample = start()
    for timestep in scheduler.timesteps:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample, generator=generator).prev_sample
    assert torch.equal(generator.get_state(), untouched.get_state())
    assert torch.equal(torch.get_rng_state(), state)


# -- grids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [1, 2, 3, 5])
def test_calls_given_to_dpmsolver_as_timesteps_are_kept_and_filled_linearly(
    refine_linearly: Any, interval: int
) -> None:
    calls = [999, 800, 640, 333, 100]
    scheduler = ABCacheDPMSolverMultistepScheduler(cache_interval=interval)
    scheduler.set_timesteps(timesteps=calls)
    assert scheduler.timesteps.tolist() == calls
    expected = refine_linearly(calls, interval)
    assert np.abs(scheduler.base_timesteps.numpy() - expected).max() <= 0.5
    stock = DPMSolverMultistepScheduler()
    stock.set_timesteps(timesteps=scheduler.base_timesteps.tolist())
    assert torch.equal(scheduler.sigmas[:-1], stock.sigmas[:-1][::interval])


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"shift_terminal": 0.1}, {"use_karras_sigmas": True}], ids=str)
@pytest.mark.parametrize("given", ["sigmas", "timesteps"])
def test_calls_given_to_flow_matching_are_filled_linearly_before_any_shift(
    refine_linearly: Any, options: Any, given: str
) -> None:
    calls = np.linspace(1, 0.2, 5) * (1000 if given == "timesteps" else 1)
    scheduler = ABCacheFlowMatchEulerScheduler(cache_interval=3, **options)
    scheduler.set_timesteps(**{given: calls.tolist()})
    stock = FlowMatchEulerDiscreteScheduler(**options)
    stock.set_timesteps(**{given: refine_linearly(calls, 3).tolist()})
    assert torch.allclose(scheduler.base_timesteps, stock.timesteps, rtol=1e-6, atol=0)
    assert torch.allclose(scheduler.sigmas, stock.sigmas[::3], rtol=1e-6, atol=0)
    assert torch.equal(scheduler.timesteps, scheduler.base_timesteps[::3])


def test_the_sigmas_of_pipelines_give_stocks_own_finer_grid() -> None:
    scheduler = ABCacheFlowMatchEulerScheduler(cache_interval=3, shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 17, 17).tolist())
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock.set_timesteps(sigmas=np.linspace(1, 1 / 51, 51).tolist())
    assert torch.allclose(scheduler.base_timesteps, stock.timesteps, rtol=1e-5, atol=0)


def test_mu_shifts_the_base_grid_as_passed() -> None:
    options = {"use_dynamic_shifting": True}
    scheduler, stock = ABCacheFlowMatchEulerScheduler(**options), FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(7, mu=0.8)
    stock.set_timesteps(21, mu=0.8)
    assert torch.equal(scheduler.base_timesteps, stock.timesteps)


@pytest.mark.parametrize("name", BASES)
def test_what_pipelines_read_is_short_and_paired(pair: Any, name: str) -> None:
    scheduler, stock = pair(name, {"warmup_calls": 1})
    calls = list(scheduler.plan.compute_steps)
    assert scheduler.num_inference_steps == len(scheduler.timesteps) == 8
    assert len(scheduler.base_timesteps) == scheduler.plan.num_base_steps == 1 + 7 * 3
    assert torch.allclose(scheduler.timesteps, scheduler.base_timesteps[calls])
    assert torch.allclose(scheduler.base_timesteps, stock.timesteps)
    if not isinstance(scheduler, DDIMScheduler):
        assert torch.allclose(scheduler.sigmas[:-1], stock.sigmas[calls])
        assert scheduler.sigmas[-1] == stock.sigmas[-1]
