"""Plans: which base steps call the model."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ab_schedulers.numerics import CachePlan


@st.composite
def uniform_arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `CachePlan.uniform` that a plan exists for."""
    num_calls = draw(st.integers(1, 40))
    warmup_calls = draw(st.integers(0, num_calls))
    arguments: dict[str, Any] = {"num_calls": num_calls, "warmup_calls": warmup_calls}
    if draw(st.booleans()):
        longest = num_calls if warmup_calls == num_calls else 5 * num_calls + 7
        arguments["num_base_steps"] = draw(st.integers(num_calls, longest))
    else:
        arguments["cache_interval"] = draw(st.integers(1, 12))
    return arguments


@settings(max_examples=100)
@given(arguments=uniform_arguments())
def test_windows_partition_the_grid_and_open_with_their_call(arguments: dict[str, Any]) -> None:
    plan = CachePlan.uniform(**arguments)
    walked = [step for window in plan.windows for step in window]
    assert walked == list(range(plan.num_base_steps))
    assert tuple(window.start for window in plan.windows) == plan.compute_steps
    assert plan.compute_steps[0] == 0
    assert plan.num_calls == len(plan.compute_steps) == len(plan.windows) == arguments["num_calls"]


@settings(max_examples=100)
@given(arguments=uniform_arguments())
def test_windows_are_one_step_in_the_warmup_and_even_after_it(arguments: dict[str, Any]) -> None:
    plan = CachePlan.uniform(**arguments)
    lengths = [len(window) for window in plan.windows]
    warmup, later = lengths[: arguments["warmup_calls"]], lengths[arguments["warmup_calls"] :]
    assert set(warmup) <= {1}
    if later:
        assert max(later) - min(later) <= 1
        assert later[0] == max(later)
    if "cache_interval" in arguments:
        assert set(later) <= {arguments["cache_interval"]}
        skipped = (arguments["cache_interval"] - 1) * len(later)
        assert plan.num_base_steps == arguments["num_calls"] + skipped
    else:
        assert plan.num_base_steps == arguments["num_base_steps"]


@settings(max_examples=50)
@given(arguments=uniform_arguments())
def test_longer_windows_are_spread_evenly(arguments: dict[str, Any]) -> None:
    """Every run of consecutive windows after the warm-up is within one step of its even share."""
    plan = CachePlan.uniform(**arguments)
    starts = [step - arguments["warmup_calls"] for step in plan.compute_steps[arguments["warmup_calls"] :]]
    if starts:
        share = (plan.num_base_steps - arguments["warmup_calls"]) / len(starts)
        assert all(0 <= start - i * share < 1 for i, start in enumerate(starts))


@settings(max_examples=50)
@given(steps=st.sets(st.integers(1, 60)), beyond=st.integers(1, 20))
def test_from_steps_keeps_exactly_the_given_calls(steps: set[int], beyond: int) -> None:
    calls = [0, *sorted(steps)]
    plan = CachePlan.from_steps(calls, num_base_steps=calls[-1] + beyond)
    assert plan.compute_steps == tuple(calls)
    assert [window.stop for window in plan.windows] == [*calls[1:], calls[-1] + beyond]
    assert all(later.start == earlier.stop for earlier, later in pairwise(plan.windows))


def test_interval_one_calls_the_model_at_every_step() -> None:
    plan = CachePlan.uniform(num_calls=5)
    assert plan.compute_steps == (0, 1, 2, 3, 4)
    assert plan.num_base_steps == 5


def test_a_plan_of_warmup_alone_walks_one_step_a_call() -> None:
    plan = CachePlan.uniform(num_calls=4, warmup_calls=4, cache_interval=9)
    assert plan.compute_steps == (0, 1, 2, 3)
    assert plan.num_base_steps == 4


def test_fifty_one_steps_by_seventeen_calls() -> None:
    plan = CachePlan.uniform(num_calls=17, cache_interval=3)
    assert plan.compute_steps == tuple(range(0, 51, 3))
    assert plan.num_base_steps == 51
    assert CachePlan.uniform(num_calls=17, num_base_steps=51) == plan


BAD_STEPS = [
    ([], 5, ValueError, r"`compute_steps` must start with 0, received \[\]; .*put 0 first"),
    ([1, 3], 5, ValueError, r"`compute_steps` must start with 0, received \[1, 3\]; .*put 0 first"),
    ([0, 3, 2], 5, ValueError, r"`compute_steps` must rise strictly, received \[0, 3, 2\]; sort"),
    ([0, 2, 2], 5, ValueError, r"`compute_steps` must rise strictly, received \[0, 2, 2\]; .*drop repeated"),
    ([0, 2, 5], 5, ValueError, r"must lie below `num_base_steps`=5, received 5; drop .* or raise"),
    ([0, -2], 5, ValueError, r"`compute_steps\[i\]` must be at least 0, received -2"),
    ([0, 2.0], 5, TypeError, r"`compute_steps\[i\]` must be an integer, received 2.0; pass a whole number"),
    ([0, True], 5, TypeError, r"`compute_steps\[i\]` must be an integer, received True"),
    ([0], 0, ValueError, r"`num_base_steps` must be at least 1, received 0; pass a larger number"),
    ([0], "5", TypeError, r"`num_base_steps` must be an integer, received '5'"),
]


@pytest.mark.parametrize(("steps", "num_base_steps", "error", "message"), BAD_STEPS)
def test_impossible_steps_are_refused_with_what_to_do(
    steps: list[Any], num_base_steps: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CachePlan.from_steps(steps, num_base_steps=num_base_steps)


BAD_UNIFORM = [
    ({"num_calls": 0}, ValueError, "`num_calls` must be at least 1, received 0"),
    ({"num_calls": 2.0}, TypeError, "`num_calls` must be an integer, received 2.0"),
    ({"num_calls": True}, TypeError, "`num_calls` must be an integer, received True"),
    ({"num_calls": 3, "cache_interval": 0}, ValueError, "`cache_interval` must be at least 1, received 0"),
    ({"num_calls": 3, "cache_interval": "3"}, TypeError, "`cache_interval` must be an integer, received '3'"),
    ({"num_calls": 3, "warmup_calls": -1}, ValueError, "`warmup_calls` must be at least 0, received -1"),
    ({"num_calls": 3, "warmup_calls": 4}, ValueError, "`warmup_calls` must not exceed .* 3, received 4; lower it"),
    ({"num_calls": 3, "num_base_steps": 2}, ValueError, "`num_base_steps`=2 cannot .* expected at least 3 base steps"),
    (
        {"num_calls": 3, "warmup_calls": 3, "num_base_steps": 4},
        ValueError,
        "`num_base_steps`=4 cannot .* expected exactly 3 base steps",
    ),
    ({"num_calls": 3, "num_base_steps": 0}, ValueError, "`num_base_steps` must be at least 1, received 0"),
    ({"num_calls": 3, "num_base_steps": 9.0}, TypeError, "`num_base_steps` must be an integer, received 9.0"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_UNIFORM)
def test_impossible_uniform_plans_are_refused_with_what_to_do(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CachePlan.uniform(**arguments)


def test_plans_are_values() -> None:
    plan = CachePlan(num_base_steps=6, compute_steps=[0, 3])  # type: ignore[arg-type]
    assert plan == CachePlan.from_steps((0, 3), num_base_steps=6)
    assert hash(plan) == hash(CachePlan.uniform(num_calls=2, cache_interval=3))
    with pytest.raises(AttributeError):
        plan.num_base_steps = 7  # type: ignore[misc]
