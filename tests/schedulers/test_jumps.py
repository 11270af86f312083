"""Jumps in the model's output: found after the run, said once, healed by `reset_history`; stock steps are refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from ab_schedulers import ABCacheScheduler
from ab_schedulers.schedulers.jumps import abrupt_call, abruptness

BASES: dict[str, Any] = {
    "ddim": DDIMScheduler(timestep_spacing="trailing", clip_sample=False),
    "dpmsolver": DPMSolverMultistepScheduler(timestep_spacing="trailing"),
    "flow_match": FlowMatchEulerDiscreteScheduler(),
}
every_base = pytest.mark.parametrize("base", BASES)
SHAPE = (2, 4, 8, 8)


def polynomial(nodes: Sequence[float], degree: int, seed: int) -> list[torch.Tensor]:
    """Outputs that are polynomials of the node, scaled to the interval of the nodes."""
    coefficients = torch.randn(degree + 1, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [sum(c * (node / 1000) ** power for power, c in enumerate(coefficients)) for node in nodes]  # type: ignore[misc]


@given(st.integers(4, 25), st.integers(1, 2), st.integers(0, 99), st.floats(1.0, 2.0))
def test_smooth_outputs_on_uniform_and_graded_nodes_hold_no_jump(n: int, degree: int, seed: int, power: float) -> None:
    nodes = [1000 * (1 - i / n) ** power for i in range(n)]
    assert abrupt_call(polynomial(nodes, degree, seed), nodes) is None


@given(st.integers(6, 25), st.data(), st.integers(0, 99))
def test_a_jump_ten_times_the_change_of_a_call_is_found_at_its_call(n: int, data: Any, seed: int) -> None:
    at = data.draw(st.integers(2, n - 2))
    nodes = [1000 * (1 - i / n) for i in range(n)]
    outputs = polynomial(nodes, 1, seed)
    change = 10 * (outputs[1] - outputs[0]).abs().mean()
    outputs = [output + change * (i >= at) for i, output in enumerate(outputs)]
    assert abrupt_call(outputs, nodes) == at
    assert abruptness(outputs, nodes)[at] > 4


def test_few_outputs_and_constant_outputs_hold_no_jump() -> None:
    ones = [torch.ones(3)] * 6
    assert abrupt_call(ones, range(6)) is None
    assert abrupt_call([torch.zeros(3), torch.ones(3), torch.zeros(3)], range(3)) is None
    assert abrupt_call([], []) is None


def model(sample: torch.Tensor, timestep: torch.Tensor, jump: float) -> torch.Tensor:
    """Smooth in the timestep but for a jump at 500."""
    t = float(timestep) / 1000
    smooth = 0.02 * sample + 0.5 * t
    return smooth + jump * (float(timestep) < 500)


def finished(base: str, jump: float, reset: bool = False, **options: Any) -> Any:
    """A scheduler after a run of twelve calls."""
    scheduler = ABCacheScheduler.from_config(BASES[base].config, cache_quantity="model_output", **options)
    scheduler.set_timesteps(12)
    sample = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    before = 1000.0
    for timestep in scheduler.timesteps:
        if reset and float(timestep) < 500 <= before:
            scheduler.reset_history()
        before = float(timestep)
        sample = scheduler.step(model(sample, timestep, jump), timestep, sample).prev_sample
    return scheduler, sample


@every_base
def test_a_jump_is_said_once_with_its_call_and_what_to_do(base: str, caplog: pytest.LogCaptureFixture) -> None:
    scheduler, _ = finished(base, 5.0)
    [record] = caplog.records
    call = next(i for i, t in enumerate(scheduler.timesteps) if float(t) < 500)
    assert record.levelno == logging.WARNING
    assert f"at call {call} of 12" in record.message
    assert f"reset_history()` in a callback after call {call - 1} " in record.message
    sample = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(12)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(model(sample, timestep, 5.0), timestep, sample).prev_sample
    assert len(caplog.records) == 1


@every_base
def test_nothing_is_said_of_smooth_runs_resets_in_time_and_runs_that_predict_nothing(
    base: str, caplog: pytest.LogCaptureFixture
) -> None:
    finished(base, 0.0)
    finished(base, 5.0, reset=True)
    finished(base, 5.0, cache_interval=1)
    assert not caplog.records


@every_base
def test_a_reset_at_a_large_jump_brings_the_run_nearer_to_the_full_one(base: str) -> None:
    full = ABCacheScheduler.from_config(BASES[base].config, cache_interval=1)
    full.set_timesteps(36)
    reference = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    for timestep in full.timesteps:
        reference = full.step(model(reference, timestep, 5.0), timestep, reference).prev_sample
    across, reset = (finished(base, 5.0, reset=flag)[1] for flag in (False, True))
    assert (reset - reference).square().mean() < 0.5 * (across - reference).square().mean()


OWN_STEPS = {
    "ddim": ["_get_variance"],
    "dpmsolver": [
        "convert_model_output",
        "dpm_solver_first_order_update",
        "multistep_dpm_solver_second_order_update",
        "multistep_dpm_solver_third_order_update",
    ],
}


@pytest.mark.parametrize(("base", "name"), [(base, name) for base, names in OWN_STEPS.items() for name in names])
def test_the_stock_classes_own_steps_are_refused(base: str, name: str) -> None:
    scheduler = ABCacheScheduler.from_config(BASES[base].config)
    with pytest.raises(NotImplementedError, match=f"has no `{name}`.*Keep the stock scheduler"):
        getattr(scheduler, name)(torch.zeros(1), sample=torch.zeros(1))
