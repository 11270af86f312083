"""`cache_interval=1` is the stock scheduler over whole runs, for every option of the three base classes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ab_schedulers import (
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
    ABCacheScheduler,
)

OURS: dict[type, type] = {
    DDIMScheduler: ABCacheDDIMScheduler,
    DPMSolverMultistepScheduler: ABCacheDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler: ABCacheFlowMatchEulerScheduler,
}
FLOAT32, FLOAT64, WALK = 1e-5, 2e-6, 1e-12

# The first-generation solvers stay served until diffusers drops them; it says so whenever one is built.
pytestmark = pytest.mark.filterwarnings("ignore:.*algorithm_type .* is deprecated:FutureWarning")

Compare = Callable[..., None]


@pytest.fixture(scope="session")
def compare(denoiser: Any, start: Any, run: Any, difference: Any, slow_walk: Any) -> Compare:
    """A whole run beside stock's in float32 and float64, and beside the float64 walk of stock's grid."""

    def check(
        base: type,
        config: Mapping[str, Any],
        grid: Mapping[str, Any],
        *,
        cache: Mapping[str, Any] | None = None,
        begin: int = 0,
        step: Mapping[str, Any] | None = None,
        channels: int = 3,
        beside_stock: bool = True,
    ) -> None:
        step = dict(step or {})
        # Stock itself cancels digits in exp(h) - 1 of float32 log-SNRs for the first-generation solvers, and in
        # 1 - alpha / alpha' of neighbouring timesteps for DDIM's noise in its last step from t = 1 to t = 0; the former
        # amplify the rounding of any sample, in float64 too, where alpha is small.
        loses_digits = config.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver")
        loses_digits |= bool(step.get("eta")) and not config.get("set_alpha_to_one", True)
        doubled = config.get("variance_type") is not None

        def model(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
            output = denoiser(sample, timestep)
            return torch.cat([output, -output], dim=1) if doubled else output

        stock = base(**config)
        stock.set_timesteps(**grid)
        for dtype, bound, exact in ((torch.float32, FLOAT32, FLOAT32), (torch.float64, FLOAT64, WALK)):
            ours, theirs = OURS[base](cache_interval=1, **config, **(cache or {})), base(**config)
            for scheduler in (ours, theirs):
                scheduler.set_timesteps(**grid)
            count = len(ours.timesteps)
            assert torch.equal(ours.timesteps, theirs.timesteps[:count])
            assert ours.timesteps.dtype == theirs.timesteps.dtype
            assert all(t == -1 for t in theirs.timesteps[count:])
            sample = start(dtype, (2, channels, 4, 4))
            mine = run(ours, model, sample, begin=begin, **step)
            walk = slow_walk(
                scheduler=ours,
                stock=stock,
                eta=step.get("eta", 0.0),
                use_clipped_model_output=step.get("use_clipped_model_output", False),
            )
            noises = step.get("variance_noise")
            if "seed" in step:
                generator = torch.Generator().manual_seed(step["seed"])
                drawn = dtype if base is DDIMScheduler else torch.float32
                noises = [torch.randn(sample.shape, generator=generator, dtype=drawn).double() for _ in range(count)]
            walked = walk(denoiser, sample.double(), begin=begin, noises=noises)
            assert difference(mine, walked) <= ({FLOAT32: 1e-3, WALK: 10 * WALK}[exact] if loses_digits else exact)
            if not beside_stock:
                continue
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(step.get("seed", 0))  # diffusers 0.37 draws flow noise without the generator
                stocks = run(theirs, model, sample, begin=begin, **step)[: len(mine)]
            if not stocks[-1].isfinite().all():  # stock divides by h = 0 where its last step stands still
                assert mine[-1].isfinite().all()
                mine, stocks, walked = mine[:-1], stocks[:-1], walked[:-1]
            slack = difference(stocks, walked) if loses_digits else 0.0
            assert slack < 1e-3
            assert difference(mine, stocks) <= bound + 3 * slack  # in float32 our own rounding is amplified alike

    return check


# -- DDIM ---------------------------------------------------------------------------------------------------------

DDIM_OPTIONS: list[dict[str, Any]] = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": np.linspace(0.001, 0.05, 200).tolist(), "num_train_timesteps": 200},
    {"num_train_timesteps": 600},
    {"timestep_spacing": "trailing"},
    {"steps_offset": 1, "set_alpha_to_one": False},
    {"set_alpha_to_one": False, "timestep_spacing": "trailing"},
    {"clip_sample": True},
    {"clip_sample": True, "clip_sample_range": 0.6},
    {"thresholding": True},
    {"thresholding": True, "sample_max_value": 1.4, "dynamic_thresholding_ratio": 0.8, "clip_sample": True},
]
DDIM_STEPS: list[dict[str, Any]] = [
    {},
    {"use_clipped_model_output": True},
    {"eta": 0.6, "seed": 3},
    {"eta": 1.0, "seed": 4, "use_clipped_model_output": True},
]


def ddim(options: Mapping[str, Any], prediction: str) -> dict[str, Any]:
    return {"clip_sample": False, "prediction_type": prediction, **options}


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("options", DDIM_OPTIONS, ids=str)
@pytest.mark.parametrize("step", DDIM_STEPS, ids=str)
def test_one_base_step_per_call_is_stock_ddim(compare: Compare, prediction: str, options: Any, step: Any) -> None:
    compare(DDIMScheduler, ddim(options, prediction), {"num_inference_steps": 10}, step=step)


@pytest.mark.parametrize("num_inference_steps", [1, 2, 5, 15, 25, 50])
@pytest.mark.parametrize("step", DDIM_STEPS, ids=str)
def test_it_is_stock_ddim_at_every_number_of_steps(compare: Compare, num_inference_steps: int, step: Any) -> None:
    compare(DDIMScheduler, ddim({}, "epsilon"), {"num_inference_steps": num_inference_steps}, step=step)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("step", DDIM_STEPS, ids=str)
def test_it_is_stock_ddim_at_zero_terminal_snr(compare: Compare, prediction: str, spacing: str, step: Any) -> None:
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": spacing, "clip_sample": True}
    cache = {"cache_quantity": "velocity"} if not step else {}
    grid = {"num_inference_steps": 10}
    if step.get("eta") == 1:  # stock takes the root of a difference that float32 makes negative at alpha = 0
        step = {**step, "eta": 0.9}
    compare(DDIMScheduler, ddim(options, prediction), grid, step=step, cache={"cache_variable": "index"})
    if not step:
        compare(DDIMScheduler, ddim(options, prediction), grid, cache=cache)


def test_noise_given_to_ddim_takes_the_place_of_a_generator(compare: Compare, start: Any) -> None:
    noises = [start(seed=seed) for seed in range(10)]
    step = {"eta": 1.0, "variance_noise": noises}
    compare(DDIMScheduler, ddim({}, "epsilon"), {"num_inference_steps": 10}, step=step)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_step_of_a_grid_with_all_training_steps_is_stock_ddims(compare: Compare, spacing: str) -> None:
    options = {"num_train_timesteps": 20, "timestep_spacing": spacing}
    compare(DDIMScheduler, ddim(options, "epsilon"), {"num_inference_steps": 20})


@pytest.mark.parametrize(
    ("spacing", "num_inference_steps"), [("linspace", 10), ("linspace", 25), ("trailing", 30), ("trailing", 61)]
)
@pytest.mark.parametrize("step", DDIM_STEPS, ids=str)
def test_where_stock_ddim_leaves_its_own_grid_each_step_ends_at_the_next_entry(
    compare: Compare, spacing: str, num_inference_steps: int, step: Any
) -> None:
    grid = {"num_inference_steps": num_inference_steps}
    compare(DDIMScheduler, ddim({"timestep_spacing": spacing}, "epsilon"), grid, step=step, beside_stock=False)


# -- DPM-Solver++ ---------------------------------------------------------------------------------------------------

SOLVERS: list[dict[str, Any]] = [
    {"solver_order": order, "solver_type": solver, "algorithm_type": kind}
    | ({} if kind.endswith("++") else {"final_sigmas_type": "sigma_min"})
    for order, solver, kind in itertools.product(
        (1, 2, 3), ("midpoint", "heun"), ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
    )
    if not (order == 3 and (kind == "sde-dpmsolver" or solver == "heun"))
]
GRIDS: list[dict[str, Any]] = [
    {},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "trailing"},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_lu_lambdas": True},
    {"use_flow_sigmas": True, "flow_shift": 3.0},
    {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
]
ENDS: list[dict[str, Any]] = [
    {"final_sigmas_type": final, "lower_order_final": lower, "euler_at_final": euler}
    for final, lower, euler in itertools.product(("zero", "sigma_min"), (True, False), (True, False))
]
DPM_OPTIONS: list[dict[str, Any]] = [
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    {"trained_betas": np.linspace(0.001, 0.05, 200).tolist(), "num_train_timesteps": 200},
    {"num_train_timesteps": 600},
    {"rescale_betas_zero_snr": True},
    {"thresholding": True, "sample_max_value": 1.4, "dynamic_thresholding_ratio": 0.8},
    {"variance_type": "learned"},
    {"variance_type": "learned_range"},
]


def seeded(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"seed": 5} if str(config.get("algorithm_type", "")).startswith("sde") else {}


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_one_base_step_per_call_is_stock_dpmsolver_on_every_grid(compare: Compare, solver: Any, grid: Any) -> None:
    config = {**grid, **solver, "prediction_type": "v_prediction"}
    if "use_flow_sigmas" in grid:  # stock's first-generation solvers know no flow prediction
        config["prediction_type"] = "flow_prediction" if solver["algorithm_type"].endswith("++") else "epsilon"
    compare(DPMSolverMultistepScheduler, config, {"num_inference_steps": 10}, step=seeded(config))


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("end", ENDS, ids=lambda e: "-".join(map(str, e.values())))
def test_it_ends_as_stock_dpmsolver_ends_with_few_and_many_steps(compare: Compare, solver: Any, end: Any) -> None:
    config = {**end, **solver}
    for num_inference_steps in (5, 14, 15, 25):
        compare(DPMSolverMultistepScheduler, config, {"num_inference_steps": num_inference_steps}, step=seeded(config))


@pytest.mark.parametrize("num_inference_steps", [1, 2, 3])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_is_stock_dpmsolver_at_very_few_steps(compare: Compare, num_inference_steps: int, order: int) -> None:
    compare(DPMSolverMultistepScheduler, {"solver_order": order}, {"num_inference_steps": num_inference_steps})


@pytest.mark.parametrize(
    ("prediction", "options"),
    [
        (prediction, options)
        for prediction, options in itertools.product(("epsilon", "sample", "v_prediction"), DPM_OPTIONS)
        if prediction == "epsilon" or "variance_type" not in options  # only the noise comes with a learned variance
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"])
def test_it_is_stock_dpmsolver_for_every_other_option(
    compare: Compare, prediction: str, options: Any, kind: str
) -> None:
    final = {} if kind.endswith("++") else {"final_sigmas_type": "sigma_min"}
    config = {"prediction_type": prediction, "algorithm_type": kind, **options, **final}
    compare(DPMSolverMultistepScheduler, config, {"num_inference_steps": 12}, step=seeded(config))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_custom_timesteps_are_stock_dpmsolvers(compare: Compare, order: int) -> None:
    grid = {"num_inference_steps": None, "timesteps": [999, 850, 700, 500, 321, 200, 90, 20]}
    compare(DPMSolverMultistepScheduler, {"solver_order": order}, grid)


@pytest.mark.parametrize("mu", [0.4, 1.15])
def test_the_dynamic_shift_is_stock_dpmsolvers(compare: Compare, mu: float) -> None:
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": True}
    compare(DPMSolverMultistepScheduler, config, {"num_inference_steps": 10, "mu": mu})


def test_noise_given_to_dpmsolver_takes_the_place_of_a_generator(compare: Compare, start: Any) -> None:
    noises = [start(torch.float32, seed=seed).double() for seed in range(8)]
    config = {"algorithm_type": "sde-dpmsolver++"}
    compare(DPMSolverMultistepScheduler, config, {"num_inference_steps": 8}, step={"variance_noise": noises})


@pytest.mark.parametrize(("spacing", "count"), [("trailing", 61), ("trailing", 999), ("linspace", 100)])
def test_a_stray_timestep_past_the_end_of_stocks_trailing_grid_is_dropped(spacing: str, count: int) -> None:
    config = {"timestep_spacing": spacing, "final_sigmas_type": "zero"}
    stock, ours = DPMSolverMultistepScheduler(**config), ABCacheDPMSolverMultistepScheduler(cache_interval=1, **config)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(count)
    assert len(ours.timesteps) == count
    assert torch.equal(ours.timesteps, stock.timesteps[:count])
    assert torch.equal(ours.sigmas[:-1], stock.sigmas[:count])


# -- flow matching --------------------------------------------------------------------------------------------------

FLOW_OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"shift": 3.0}, {}),
    ({"num_train_timesteps": 2000}, {}),
    ({"shift_terminal": 0.1}, {}),
    ({"use_dynamic_shifting": True}, {"mu": 0.9}),
    ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, {"mu": 1.3}),
    ({"use_dynamic_shifting": True, "shift_terminal": 0.1}, {"mu": 0.9}),
    ({"use_karras_sigmas": True}, {}),
    ({"use_exponential_sigmas": True, "shift": 2.0}, {}),
    ({"use_beta_sigmas": True}, {}),
    ({"use_beta_sigmas": True, "use_dynamic_shifting": True}, {"mu": 0.9}),
]
TEN = np.linspace(1, 0.1, 10)
FLOW_GRIDS: list[dict[str, Any]] = [
    {"num_inference_steps": 10},
    {"sigmas": TEN.tolist()},
    {"num_inference_steps": 10, "sigmas": [*(TEN**2).tolist()]},
    {"timesteps": (1000 * TEN).tolist()},
    {"sigmas": TEN.tolist(), "timesteps": (900 * TEN).tolist()},
]


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("options", FLOW_OPTIONS, ids=str)
@pytest.mark.parametrize("grid", FLOW_GRIDS, ids=lambda g: "-".join(g))
def test_one_base_step_per_call_is_stock_flow_matching(
    compare: Compare, options: Any, grid: Any, stochastic: bool
) -> None:
    config, mu = options
    config = {**config, "stochastic_sampling": stochastic}
    step = {"seed": 6} if stochastic else {}
    compare(FlowMatchEulerDiscreteScheduler, config, {**grid, **mu}, step=step)


@pytest.mark.parametrize("num_inference_steps", [1, 2, 25, 61])
def test_it_is_stock_flow_matching_at_every_number_of_steps(compare: Compare, num_inference_steps: int) -> None:
    compare(FlowMatchEulerDiscreteScheduler, {"shift": 3.0}, {"num_inference_steps": num_inference_steps})


# -- all three ------------------------------------------------------------------------------------------------------

BASES: list[tuple[type, dict[str, Any]]] = [
    (DDIMScheduler, ddim({}, "epsilon")),
    (DDIMScheduler, ddim({"clip_sample": True}, "v_prediction")),
    (DPMSolverMultistepScheduler, {"solver_order": 3, "lower_order_final": False}),
    (DPMSolverMultistepScheduler, {"use_karras_sigmas": True, "prediction_type": "v_prediction"}),
    (DPMSolverMultistepScheduler, {"thresholding": True, "solver_order": 3}),
    (FlowMatchEulerDiscreteScheduler, {"shift": 2.0, "num_train_timesteps": 900}),
]


@pytest.mark.parametrize(("base", "config"), BASES)
@pytest.mark.parametrize("begin", [1, 4, 9])
def test_a_start_in_the_middle_is_stocks(compare: Compare, base: type, config: Any, begin: int) -> None:
    compare(base, config, {"num_inference_steps": 10}, begin=begin)


@pytest.mark.parametrize(("base", "config"), BASES)
@pytest.mark.parametrize(
    "cache",
    [
        {"cache_order": 1},
        {"cache_order": 8},
        {"cache_predictor": "hold"},
        {"cache_variable": "lambda"},
        {"cache_variable": "index", "cache_corrector": 4},
        {"cache_variable": "timestep", "warmup_calls": 3},
        {"cache_quantity": "model_output"},
        {"cache_quantity": "epsilon", "cache_corrector": 2},
        {"cache_quantity": "sample"},
        {"cache_quantity": "velocity"},
    ],
    ids=str,
)
def test_no_cache_option_matters_where_nothing_is_skipped(
    compare: Compare, base: type, config: Any, cache: Any
) -> None:
    grid: dict[str, Any] = {"num_inference_steps": 10}
    if base is FlowMatchEulerDiscreteScheduler:  # sigma = 1 holds no noise prediction to cache
        grid = {"sigmas": np.linspace(0.95, 0.1, 10).tolist()}
    compare(base, config, grid, cache=cache)


@pytest.mark.parametrize(("base", "config"), BASES)
def test_skipping_nothing_by_any_plan_is_stock(compare: Compare, base: type, config: Any) -> None:
    cache = {"num_base_steps": 10, "compute_steps": list(range(10))}
    compare(base, config, {"num_inference_steps": 10}, cache=cache)


@settings(max_examples=60)
@given(data=st.data())
def test_options_of_dpmsolver_combine_as_in_stock(compare: Compare, data: st.DataObject) -> None:
    config = {
        **data.draw(st.sampled_from(GRIDS)),
        **data.draw(st.sampled_from(ENDS)),
        **data.draw(st.sampled_from(SOLVERS)),
        "prediction_type": data.draw(st.sampled_from(["sample", "v_prediction"])),
        "thresholding": data.draw(st.booleans()),
    }
    count = data.draw(st.integers(4, 18))
    begin = data.draw(st.integers(0, count - 1))
    assume(not (config.get("use_flow_sigmas") and config["prediction_type"] == "v_prediction"))
    compare(DPMSolverMultistepScheduler, config, {"num_inference_steps": count}, begin=begin, step=seeded(config))


@settings(max_examples=40)
@given(data=st.data())
def test_options_of_ddim_combine_as_in_stock(compare: Compare, data: st.DataObject) -> None:
    config = {
        **data.draw(st.sampled_from(DDIM_OPTIONS)),
        "prediction_type": data.draw(st.sampled_from(["epsilon", "sample", "v_prediction"])),
        "steps_offset": data.draw(st.integers(0, 2)),
        "set_alpha_to_one": data.draw(st.booleans()),
    }
    count = data.draw(st.sampled_from([4, 8, 10, 20]))
    begin = data.draw(st.integers(0, count - 1))
    step = data.draw(st.sampled_from(DDIM_STEPS))
    compare(DDIMScheduler, config, {"num_inference_steps": count}, begin=begin, step=step)


@pytest.mark.parametrize("interval", [1, 3])
def test_a_flow_grid_that_is_told_to_end_at_zero_stands_still_in_its_last_step(
    interval: int, run: Any, denoiser: Any, start: Any, difference: Any
) -> None:
    """Some pipelines set `scheduler.sigma_min = 0`, so the grid reaches zero one step early."""
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = ABCacheScheduler.from_config(stock.config, cache_interval=interval)
    stock.sigma_min = ours.sigma_min = 0.0
    stock.set_timesteps(6)
    ours.set_timesteps(6)
    samples = run(ours, denoiser, start(torch.float32))
    if interval == 1:
        assert difference(samples, run(stock, denoiser, start(torch.float32))) < 1e-5
    assert float(ours.sigmas[-1]) == 0.0
    assert all(sample.isfinite().all() for sample in samples)
