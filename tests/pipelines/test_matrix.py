"""Every pipeline of the matrix, in its own loop: what a user may expect of our schedulers in it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from tiny_pipelines import CALLS, CASES, Case, cached, counterpart, difference, of, rounding, sample, watched

pytestmark = of(CASES)


def test_interval_one_is_the_stock_pipeline(case: Case) -> None:
    stock = sample(case.build(counterpart(case)), case)
    ours = sample(case.build(cached(case, cache_interval=1)), case)
    assert difference(ours, stock) < rounding(case)
    assert difference(sample(case.build(cached(case)), case), stock) > 1e-3, "the cache changes nothing"


def test_steps_count_model_calls_and_the_bar_ends_full(case: Case) -> None:
    stock, ours = case.build(counterpart(case)), case.build(cached(case))
    with watched(stock, case) as expected:
        sample(stock, case)
    with watched(ours, case) as seen:
        sample(ours, case)
    assert len(seen.timesteps) == len(expected.timesteps)
    assert len(seen.forwards) == len(expected.forwards)
    assert case.mode == "image" or len(seen.timesteps) == CALLS
    assert seen.timesteps == ours.scheduler.timesteps[-len(seen.timesteps) :].tolist()
    assert [bar.n for bar in seen.bars] == [bar.total for bar in seen.bars] == [len(seen.timesteps)]


def test_placed_calls_are_as_many_and_stand_on_the_grid_of_the_scheduler(case: Case) -> None:
    even, placed = case.build(cached(case)), case.build(cached(case, cache_placement="noise_ratio"))
    with watched(even, case) as expected:
        sample(even, case)
    with watched(placed, case) as seen:
        result = sample(placed, case)
    assert bool(torch.isfinite(result).all())
    assert len(seen.timesteps) == len(expected.timesteps)
    assert len(seen.forwards) == len(expected.forwards)
    assert seen.timesteps == placed.scheduler.timesteps[-len(seen.timesteps) :].tolist()
    assert placed.scheduler.plan.num_base_steps > 10 * CALLS


@pytest.mark.slow
def test_a_second_run_is_bit_equal_also_after_an_interruption_or_an_exception(case: Case) -> None:
    pipe = case.build(cached(case))
    first = sample(pipe, case)
    assert torch.equal(sample(pipe, case), first)

    def interrupt(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = index > 0
        return tensors

    if "callback_on_step_end" in inspect.signature(pipe.__call__).parameters:
        sample(pipe, case, callback_on_step_end=interrupt)
        assert torch.equal(sample(pipe, case), first)

    def fail(count: int) -> None:
        if count > 2:
            raise RuntimeError("the model failed")

    with watched(pipe, case, on_forward=fail), pytest.raises(RuntimeError, match="the model failed"):
        sample(pipe, case, num_inference_steps=8)
    assert torch.equal(sample(pipe, case), first)


@pytest.mark.slow
def test_size_batch_and_number_of_calls_may_change_between_runs(case: Case) -> None:
    changed: dict[str, Any] = {"seeds": (1, 2), "size": case.sizes[1], "num_inference_steps": CALLS + 1}
    pipe = case.build(cached(case))
    first = sample(pipe, case)
    assert torch.equal(sample(pipe, case, **changed), sample(case.build(cached(case)), case, **changed))
    assert torch.equal(sample(pipe, case), first)


@pytest.mark.slow
def test_batches_do_not_mix_samples(case: Case) -> None:
    pipe = case.build(cached(case))
    together = sample(pipe, case, seeds=(0, 1))
    alone = [sample(pipe, case, seeds=(seed,)) for seed in (0, 1)]
    assert difference(alone[0], alone[1]) > 1e-2, "the two samples are one"
    assert difference(together, torch.cat(alone)) < 5 * rounding(case)
