"""Plans and grids at their limits: what a run with skipped steps does there is still the walk over every base step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers import (
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
)

OURS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "ddim": (ABCacheDDIMScheduler, DDIMScheduler, {"timestep_spacing": "trailing", "clip_sample": False}),
    "dpmsolver": (ABCacheDPMSolverMultistepScheduler, DPMSolverMultistepScheduler, {}),
    "flow": (ABCacheFlowMatchEulerScheduler, FlowMatchEulerDiscreteScheduler, {}),
}
every_class = pytest.mark.parametrize("name", OURS)
SMALL = (1, 2, 3, 3)


@pytest.fixture
def check_walk(run: Any, slow_walk: Any, denoiser: Any, start: Any, difference: Any) -> Any:
    """A whole run beside the slow walk on stock's grid, which takes the arguments `grid` or its own, `stock_grid`."""

    def check(
        name: str,
        config: Mapping[str, Any],
        cache: Mapping[str, Any],
        grid: Mapping[str, Any],
        stock_grid: Mapping[str, Any] | None = None,
        bound: float = 1e-9,
    ) -> Any:
        ours, base, common = OURS[name]
        scheduler, stock = ours(**{**common, **config, **cache}), base(**{**common, **config})
        scheduler.set_timesteps(**grid)
        steps = {"num_inference_steps": scheduler.plan.num_base_steps}
        stock.set_timesteps(**({**grid, **steps} if stock_grid is None else stock_grid))
        assert torch.allclose(scheduler.base_timesteps, stock.timesteps[: scheduler.plan.num_base_steps])
        walked = slow_walk(scheduler=scheduler, stock=stock)(denoiser, start(shape=SMALL))
        assert difference(run(scheduler, denoiser, start(shape=SMALL)), walked) <= bound
        return scheduler

    return check


# -- plans ----------------------------------------------------------------------------------------------------------

PLANS: list[tuple[int, dict[str, Any], list[int]]] = [
    (5, {"warmup_calls": 5}, [1, 1, 1, 1, 1]),
    (5, {"warmup_calls": 4}, [1, 1, 1, 1, 3]),
    (5, {"warmup_calls": 5, "num_base_steps": 5}, [1, 1, 1, 1, 1]),
    (5, {"num_base_steps": 5}, [1, 1, 1, 1, 1]),
    (5, {"num_base_steps": 6}, [2, 1, 1, 1, 1]),
    (1, {"num_base_steps": 1}, [1]),
    (1, {"cache_interval": 40}, [40]),
    (1, {"compute_steps": [0], "num_base_steps": 100}, [100]),
    (4, {"compute_steps": [0, 97, 98, 99], "num_base_steps": 100}, [97, 1, 1, 1]),
    (4, {"compute_steps": [0, 1, 2, 3], "num_base_steps": 12}, [1, 1, 1, 9]),
    (3, {"compute_steps": list(range(3)), "num_base_steps": 3}, [1, 1, 1]),
    (6, {"cache_interval": 60}, [60] * 6),
    (12, {"cache_order": 8, "cache_corrector": 8}, [3] * 12),
    (12, {"cache_order": 6, "cache_corrector": 7, "warmup_calls": 5}, [1] * 5 + [3] * 7),
    (3, {"cache_order": 8, "cache_corrector": 8}, [3] * 3),
]


@every_class
@pytest.mark.parametrize(("calls", "options", "lengths"), PLANS, ids=str)
def test_a_plan_at_its_limits_is_walked_step_by_step(
    check_walk: Any, name: str, calls: int, options: Any, lengths: list[int]
) -> None:
    scheduler = check_walk(name, {}, options, {"num_inference_steps": calls}, bound=1e-8)
    assert [len(window) for window in scheduler.plan.windows] == lengths
    assert len(scheduler.timesteps) == len(scheduler.rows) == calls


def test_ddim_walks_all_training_steps_in_five_calls(check_walk: Any) -> None:
    scheduler = check_walk("ddim", {}, {"num_base_steps": 1000}, {"num_inference_steps": 5})
    assert scheduler.base_timesteps.tolist() == list(range(999, -1, -1))


# -- grids ----------------------------------------------------------------------------------------------------------

CACHES: list[dict[str, Any]] = [
    {},
    {"cache_order": 3, "cache_variable": "index", "cache_corrector": None},
    {"cache_order": 3, "cache_variable": "timestep", "cache_corrector": 4, "warmup_calls": 2},
    {"cache_quantity": "velocity", "cache_variable": "index", "cache_interval": 5},
]
DPM_GRIDS: list[dict[str, Any]] = [
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_lu_lambdas": True},
    {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    {"timestep_spacing": "leading", "steps_offset": 1, "final_sigmas_type": "sigma_min"},
    {"timestep_spacing": "trailing", "euler_at_final": True},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
]
DDIM_GRIDS: list[dict[str, Any]] = [
    {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False},
    {"timestep_spacing": "linspace"},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
]


def at_interval(cache: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The cache options; many sigma schedules repeat whole timesteps, where lambda takes their place."""
    repeats = {"use_exponential_sigmas", "use_lu_lambdas", "use_karras_sigmas", "use_beta_sigmas"} & set(config)
    return {**cache, "cache_variable": "lambda"} if repeats and cache.get("cache_variable") == "timestep" else {**cache}


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("config", DPM_GRIDS, ids=str)
@pytest.mark.parametrize("order", [2, 3])
def test_dpmsolver_skips_on_every_sigma_schedule(check_walk: Any, config: Any, order: int, cache: Any) -> None:
    config = {**config, "solver_order": order, "prediction_type": "v_prediction"}
    check_walk("dpmsolver", config, at_interval(cache, config), {"num_inference_steps": 10})


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("config", DDIM_GRIDS, ids=str)
def test_ddim_skips_on_every_spacing_and_beta_schedule(check_walk: Any, config: Any, cache: Any) -> None:
    check_walk("ddim", config, cache, {"num_inference_steps": 10})


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("mu", [0.4, 1.15])
def test_dpmsolver_skips_on_a_dynamically_shifted_grid(check_walk: Any, mu: float, cache: Any) -> None:
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": True}
    check_walk("dpmsolver", config, cache, {"num_inference_steps": 10, "mu": mu})


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("given", ["num_inference_steps", "sigmas", "timesteps"])
@pytest.mark.parametrize(
    ("config", "mu"),
    [
        ({"use_dynamic_shifting": True}, 0.9),
        ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, 1.3),
        ({"use_dynamic_shifting": True, "shift_terminal": 0.1}, 0.9),
        ({"use_karras_sigmas": True, "shift": 3.0}, None),
        ({"use_exponential_sigmas": True, "use_dynamic_shifting": True}, 0.9),
        ({"use_beta_sigmas": True, "use_dynamic_shifting": True}, 0.9),
    ],
    ids=str,
)
def test_flow_matching_skips_on_every_sigma_schedule_with_given_calls_and_mu(
    check_walk: Any, refine_linearly: Any, config: Any, mu: float | None, given: str, cache: Any
) -> None:
    shift = {} if mu is None else {"mu": mu}
    if given == "num_inference_steps":
        check_walk("flow", config, cache, {given: 9, **shift})
        return
    interval, warmup = cache.get("cache_interval", 3), cache.get("warmup_calls", 0)
    calls = np.linspace(1, 1 / 9, 9) ** 1.5 * (1000 if given == "timesteps" else 1)
    refined = [*calls[:warmup], *refine_linearly(calls[warmup:], interval)]
    check_walk("flow", config, cache, {given: calls.tolist(), **shift}, {given: refined, **shift}, bound=1e-6)


# -- no signal left at the start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["index", "timestep", "lambda"])
@pytest.mark.parametrize("quantity", [None, "model_output", "epsilon", "sample", "velocity"])
@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "dpmsolver"])
def test_at_zero_terminal_snr_every_quantity_and_variable_is_walked_or_refused_by_name(
    check_walk: Any, name: str, prediction: str, quantity: str | None, variable: str
) -> None:
    """DPM-Solver++ keeps a trace of signal there (as in diffusers), DDIM keeps none."""
    config = {"rescale_betas_zero_snr": True, "prediction_type": prediction, "timestep_spacing": "trailing"}
    cache = {"cache_quantity": quantity, "cache_variable": variable}
    if name == "ddim" and (quantity == "epsilon" or variable == "lambda"):
        culprit = "cache_quantity" if quantity == "epsilon" else "cache_variable"
        with pytest.raises(ValueError, match=f"`{culprit}"):
            OURS[name][0](**config, **cache).set_timesteps(6)
        return
    check_walk(name, config, cache, {"num_inference_steps": 6}, bound=1e-8 if quantity != "epsilon" else 1e-4)


@pytest.mark.parametrize("quantity", [None, "model_output", "sample", "velocity"])
@pytest.mark.parametrize("variable", ["index", "timestep"])
def test_flow_matching_starts_from_pure_noise(check_walk: Any, quantity: str | None, variable: str) -> None:
    cache = {"cache_quantity": quantity, "cache_variable": variable}
    scheduler = check_walk("flow", {"shift": 3.0}, cache, {"num_inference_steps": 6})
    assert scheduler.sigmas[0] == 1


@pytest.mark.parametrize("quantity", [None, "sample", "velocity", "epsilon"])
def test_what_is_singular_at_pure_noise_is_named(quantity: str | None) -> None:
    """The cause, not what merely follows from it."""
    config = {**OURS["ddim"][2], "rescale_betas_zero_snr": True, "prediction_type": "epsilon"}
    with pytest.raises(ValueError, match=r'`prediction_type="epsilon"` is singular .*alpha 0.* Use'):
        OURS["ddim"][0](**config, cache_quantity=quantity).set_timesteps(6)


# -- given calls that lie close together ----------------------------------------------------------------------------

DEEPFLOYD_FAST = [
    *(999, 800, 799, 600, 599, 500, 400, 399, 377, 355, 333, 311, 288, 266, 244, 222, 200, 199, 177, 155, 133, 111),
    *(88, 66, 44, 22, 0),
]


@pytest.mark.parametrize(
    "calls", [DEEPFLOYD_FAST, [999, 998, 997, 500, 1], [999, 997, 500, 2, 1, 0], [2, 1, 0]], ids=len
)
@pytest.mark.parametrize("interval", [2, 3, 7])
def test_calls_without_room_between_them_are_kept_and_their_windows_shortened(
    run: Any, slow_walk: Any, denoiser: Any, start: Any, difference: Any, calls: list[int], interval: int
) -> None:
    scheduler, stock = ABCacheDPMSolverMultistepScheduler(cache_interval=interval), DPMSolverMultistepScheduler()
    scheduler.set_timesteps(timesteps=calls)
    base = scheduler.base_timesteps.tolist()
    assert scheduler.timesteps.tolist() == calls
    assert scheduler.plan.num_base_steps == len(base)
    assert all(later < earlier for earlier, later in itertools.pairwise(base))
    room = [max(1, a - b) for a, b in zip(calls, [*calls[1:], 0], strict=True)]
    assert [len(window) for window in scheduler.plan.windows] == [min(interval, r) for r in room]
    stock.set_timesteps(timesteps=base)
    walked = slow_walk(scheduler=scheduler, stock=stock)(denoiser, start(shape=SMALL))
    assert difference(run(scheduler, denoiser, start(shape=SMALL)), walked) <= 1e-9


def test_a_number_of_base_steps_without_room_between_given_calls_is_refused() -> None:
    for options in ({"num_base_steps": 9}, {"num_base_steps": 9, "compute_steps": [0, 3, 6]}):
        scheduler = ABCacheDPMSolverMultistepScheduler(**options)
        scheduler.set_timesteps(timesteps=[999, 500, 100])
        before = scheduler.timesteps
        with pytest.raises(ValueError, match=r"`timesteps` have room for 7 .* `num_base_steps` is 9.* Lower"):
            scheduler.set_timesteps(timesteps=[999, 998, 100])
        assert torch.equal(scheduler.timesteps, before) and scheduler.plan.num_base_steps == 9


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("given", ["sigmas", "timesteps"])
@pytest.mark.parametrize("quantity", [None, "sample", "velocity"])
def test_given_flow_calls_that_end_at_zero_stand_still_there(
    run: Any, denoiser: Any, start: Any, refine_linearly: Any, interval: int, given: str, quantity: str | None
) -> None:
    calls = [c * (1000 if given == "timesteps" else 1) for c in (1.0, 0.6, 0.3, 0.0)]
    scheduler = ABCacheFlowMatchEulerScheduler(cache_interval=interval, cache_quantity=quantity)
    scheduler.set_timesteps(**{given: calls})
    assert [len(window) for window in scheduler.plan.windows] == [interval, interval, interval, 1]
    ran = run(scheduler, denoiser, start(shape=SMALL))
    corrected = scheduler.rows[-1].corrector > 0
    assert corrected == (interval == 3)
    if not corrected:
        stock = FlowMatchEulerDiscreteScheduler()
        stock.set_timesteps(**{given: calls})
        assert torch.allclose(ran[-1], run(stock, denoiser, start(shape=SMALL))[-1].double(), rtol=1e-6, atol=1e-6)
        assert torch.equal(ran[-1], ran[-2])
