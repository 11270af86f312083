"""`cache_placement="noise_ratio"`: where the calls stand, what stays the user's, and what it gains on an exact flow."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given
from hypothesis import strategies as st

from ab_schedulers import ABCacheDDIMScheduler, ABCacheScheduler
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.sampling import sample as sample_subject
from ab_schedulers.bench.subjects import mixture_subject
from ab_schedulers.numerics import noise_ratios
from ab_schedulers.schedulers.grids import PLACEMENT_POWER, uniform_sigmas
from tests.schedulers.conftest import denoise, run_through, starting_sample

SOURCES: dict[str, Any] = {
    "ddim": DDIMScheduler(clip_sample=False),
    "ddim, velocity": DDIMScheduler(
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
    "dpmsolver, leading": DPMSolverMultistepScheduler(timestep_spacing="leading", steps_offset=1),
    "dpmsolver, karras": DPMSolverMultistepScheduler(use_karras_sigmas=True),
    "dpmsolver, flow": DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "unipc": UniPCMultistepScheduler(),
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
}
every_source = pytest.mark.parametrize("kind", SOURCES)


def placed(kind: str, **options: Any) -> Any:
    return ABCacheScheduler.from_config(SOURCES[kind].config, cache_placement="noise_ratio", **options)


def ratios(scheduler: Any, shift: float = 1.0) -> list[float]:
    grid = scheduler._grid
    calls = scheduler.plan.compute_steps
    return [grid.sigmas[i] / grid.alphas[i] / shift if grid.alphas[i] > 0 else math.inf for i in calls]


@every_source
@pytest.mark.parametrize("calls", [5, 8, 12])
def test_the_calls_stand_at_the_noise_ratios_as_near_as_the_grid_allows(kind: str, calls: int) -> None:
    scheduler = placed(kind)
    scheduler.set_timesteps(calls)
    assert len(scheduler.timesteps) == calls
    assert scheduler.plan.compute_steps[0] == 0
    grid, shift = scheduler._grid, scheduler._grid.shift
    lambdas = grid.lambdas()
    for step, wanted in zip(
        scheduler.plan.compute_steps[1:], noise_ratios(calls, shift=shift, power=PLACEMENT_POWER)[1:], strict=True
    ):
        near = lambdas[max(step - 1, 1)], lambdas[step], lambdas[step + 1]
        target = -math.log(wanted)
        assert abs(near[1] - target) <= max(near[1] - near[0], near[2] - near[1]) / 2 + 1e-9


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("calls", [4, 9])
def test_a_static_shift_and_a_dynamic_one_multiply_the_ratios(shift: float, calls: int) -> None:
    static = FlowMatchEulerDiscreteScheduler(shift=shift)
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    linear = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    nodes = []
    for stock, mu in ((static, None), (dynamic, math.log(shift)), (linear, shift)):
        scheduler = ABCacheScheduler.from_config(stock.config, cache_placement="noise_ratio")
        scheduler.set_timesteps(sigmas=uniform_sigmas(calls), mu=mu)
        nodes.append(ratios(scheduler, shift)[1:])
    assert nodes[0] == pytest.approx(nodes[1], rel=0.02)
    assert nodes[0] == pytest.approx(nodes[2], rel=0.02)
    wanted = noise_ratios(calls, shift=1.0, power=PLACEMENT_POWER)[1:]
    assert nodes[0] == pytest.approx(wanted, rel=0.1)


def test_the_nodes_that_a_user_chose_stay_where_they_are() -> None:
    scheduler = placed("flow")
    own = [1.0, 0.8, 0.5, 0.1]
    scheduler.set_timesteps(sigmas=own)
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock.set_timesteps(sigmas=own)
    assert torch.allclose(scheduler.timesteps, stock.timesteps)
    timesteps = [900, 500, 100]
    other = placed("dpmsolver, leading")
    other.set_timesteps(timesteps=timesteps)
    assert other.timesteps.tolist() == timesteps


@pytest.mark.parametrize("kind", ["ddim", "dpmsolver, flow", "flow"])
@given(calls=st.integers(1, 60))
def test_any_number_of_calls_gets_distinct_falling_nodes_on_the_grid(kind: str, calls: int) -> None:
    scheduler = placed(kind)
    scheduler.set_timesteps(calls)
    levels = ratios(scheduler)
    assert len(levels) == calls
    assert all(a > b for a, b in pairwise(levels))


def test_many_calls_do_not_crowd_at_the_ends_of_the_grid() -> None:
    scheduler = placed("ddim")
    scheduler.set_timesteps(50)
    windows = [len(window) for window in scheduler.plan.windows]
    assert windows[:3] != [1, 1, 1]
    assert windows[-3:] != [1, 1, 1]


@pytest.mark.parametrize("option", [{"num_base_steps": 200, "compute_steps": [0, 50, 120]}, {"warmup_calls": 2}])
def test_a_second_plan_beside_the_placement_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="places the calls itself"):
        placed("ddim", **option)


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(ValueError, match="`cache_placement` must be one of"):
        ABCacheDDIMScheduler(cache_placement="logarithmic")


def test_more_calls_than_base_steps_are_refused_and_leave_the_grid() -> None:
    scheduler = placed("ddim", num_base_steps=20)
    scheduler.set_timesteps(8)
    before = scheduler.timesteps.tolist()
    with pytest.raises(ValueError, match="`num_base_steps`=20 cannot be walked by 21"):
        scheduler.set_timesteps(21)
    assert scheduler.timesteps.tolist() == before


@every_source
def test_a_start_in_the_middle_and_a_second_run_work_as_ever(kind: str) -> None:
    scheduler = placed(kind)
    runs = []
    for _ in range(2):
        scheduler.set_timesteps(8)
        runs.append(run_through(scheduler, denoise, starting_sample(torch.float32), begin=3))
    assert len(runs[0]) == 5
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert bool(torch.isfinite(runs[0][-1]).all())


def test_fresh_noise_works_with_placed_calls() -> None:
    scheduler = placed("ddim")
    scheduler.set_timesteps(8)
    samples = run_through(scheduler, denoise, starting_sample(torch.float32), eta=1.0, seed=0)
    assert bool(torch.isfinite(samples[-1]).all())


def test_the_option_travels_and_stock_forgets_it(tmp_path: Any) -> None:
    scheduler = placed("flow")
    scheduler.save_pretrained(tmp_path)
    assert type(scheduler).from_pretrained(tmp_path).config.cache_placement == "noise_ratio"
    stock = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
    assert stock.config.shift == 3.0


# -- windows are integrated, not walked ----------------------------------------------------------------------------


def test_the_rows_of_placed_calls_know_no_base_sampler() -> None:
    """Order and kind of the base solver change nothing; DDIM and DPM-Solver++ have the same rows on the same grid."""
    shared = {"timestep_spacing": "trailing", "cache_corrector": 3, "cache_variable": "timestep"}
    stocks = [
        DPMSolverMultistepScheduler(solver_order=order, solver_type=kind, final_sigmas_type="zero")
        for order, kind in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"))
    ]
    stocks.append(DDIMScheduler(clip_sample=False))
    found = []
    for stock in stocks:
        scheduler = ABCacheScheduler.from_config(stock.config, cache_placement="noise_ratio", **shared)
        scheduler.set_timesteps(8)
        found.append(scheduler.rows)
    for rows in found[1:]:
        for mine, first in zip(rows, found[0], strict=True):
            assert (mine.sample, *mine.history) == pytest.approx((first.sample, *first.history), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"cache_predictor": "hold"}, {"cache_variable": "lambda"}, {"clip_sample": True}, {"thresholding": True}],
)
def test_what_belongs_to_base_steps_still_walks_them(options: dict[str, Any]) -> None:
    exact, walked = placed("ddim"), placed("ddim", **options)
    for scheduler in (exact, walked):
        scheduler.set_timesteps(8)
    assert exact.plan == walked.plan
    assert exact.rows[0] != walked.rows[0]
    assert (walked.rows[0].clip != 0) and exact.rows[0].clip == 0


@given(calls=st.integers(2, 20), slope=st.floats(-2, 2), start=st.floats(-2, 2))
def test_a_velocity_linear_in_time_is_integrated_exactly_once_two_outputs_are_known(
    calls: int, slope: float, start: float
) -> None:
    """``dx/dσ = start + slope σ``: the first window, which knows one output, misses, and the corrector mends it.

    What is left is the timestep's, which is linear in φ between base nodes.
    """
    scheduler = placed("flow", cache_corrector=2)
    scheduler.set_timesteps(sigmas=uniform_sigmas(calls))
    sigmas = scheduler._grid.sigmas
    levels = [sigmas[i] for i in scheduler.plan.compute_steps]
    sample = torch.full((2,), 0.25, dtype=torch.float64)
    for level, timestep in zip(levels, scheduler.timesteps, strict=True):
        sample = scheduler.step(torch.full_like(sample, start + slope * level), timestep, sample).prev_sample
    exact = 0.25 - start - slope / 2
    assert sample.tolist() == pytest.approx([exact, exact], abs=1e-5)


@pytest.mark.parametrize("kind", ["vp", "sd", "flow"])
def test_twenty_placed_calls_end_nearer_to_the_exact_flow_than_499_base_steps(kind: str) -> None:
    subject = mixture_subject(kind)
    noise = torch.randn(32, *subject.sample_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    placing = ABCacheScheduler.from_config(subject.scheduler.config, cache_placement="noise_ratio")
    base = ABCacheScheduler.from_config(subject.scheduler.config, cache_interval=1)
    errors = []
    for scheduler, steps in ((placing, 20), (base, 499)):
        run = sample_subject(subject, scheduler, steps, noise)
        errors.append(rmse(run.images, subject.converged(noise, scheduler.timesteps[0])))
    assert errors[0] < errors[1]


@pytest.mark.parametrize("kind", ["vp", "flow"])
@pytest.mark.parametrize("calls", [6, 10, 15])
def test_on_the_exact_mixture_placed_calls_end_nearer_than_even_ones(kind: str, calls: int) -> None:
    subject = mixture_subject(kind)
    noise = torch.randn(32, *subject.sample_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    errors = []
    for placement in ("noise_ratio", "even"):
        scheduler = ABCacheScheduler.from_config(subject.scheduler.config, cache_placement=placement)
        run = sample_subject(subject, scheduler, calls, noise)
        exact = subject.converged(noise, scheduler.timesteps[0])
        errors.append(rmse(run.images, exact))
    assert errors[0] < errors[1]


@pytest.mark.parametrize("variable", ["index", "timestep"])
def test_the_variable_along_the_path_meets_its_nodes_and_goes_on_to_the_end(variable: str) -> None:
    scheduler = placed("flow")
    scheduler.set_timesteps(5)
    grid = scheduler._grid
    along = grid.along(variable)
    for angle, node in zip(grid.angles, grid.nodes(variable), strict=False):
        assert along(angle) == pytest.approx(node)
    end = grid.count if variable == "index" else 0.0
    assert along(grid.angles[-1]) == pytest.approx(end, abs=0.05)
    middle = (grid.angles[7] + grid.angles[8]) / 2
    assert along(middle) == pytest.approx((along(grid.angles[7]) + along(grid.angles[8])) / 2)
