"""The proven bound is never below the error of a run, on exact flows, for any grid, plan, order and corrector."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ab_schedulers.bench.bounds import compare, derivative_bound
from ab_schedulers.bench.exact_flows import GaussianFlow, LinearFlow, LogisticFlow
from ab_schedulers.cli import main

rates = st.floats(-3, 3).filter(lambda rate: abs(rate) > 0.05)
FLOWS = st.one_of(
    st.tuples(st.builds(lambda rate: LinearFlow(rate=rate), rates), st.floats(-2, 2)),
    st.tuples(st.builds(lambda rate: LogisticFlow(rate=rate), rates), st.floats(0.02, 0.98)),
    st.tuples(
        st.builds(lambda mean, std: GaussianFlow(mean=mean, std=std), st.floats(-1, 1), st.floats(0.15, 3)),
        st.floats(-2, 2),
    ),
)


@st.composite
def grids_and_plans(draw: Any) -> tuple[list[float], list[int]]:
    """A falling grid from 1 to 0 with uneven steps, and any plan on it."""
    count = draw(st.integers(2, 40))
    steps = [draw(st.floats(0.2, 1)) for _ in range(count)]
    levels = [1 - sum(steps[:i]) / sum(steps) for i in range(count)] + [0.0]
    called = draw(st.sets(st.integers(1, count - 1), max_size=count - 1))
    return levels, [0, *sorted(called)]


@settings(max_examples=400)
@given(
    flow_and_start=FLOWS,
    grid_and_plan=grids_and_plans(),
    order=st.integers(1, 4),
    corrector=st.sampled_from([None, 1, 2, 3, 4]),
)
def test_no_run_errs_by_more_than_its_bound(
    flow_and_start: Any, grid_and_plan: Any, order: int, corrector: int | None
) -> None:
    flow, start = flow_and_start
    levels, plan = grid_and_plan
    try:
        found = compare(flow, start, levels, plan, order=order, corrector=corrector)
    except ValueError:
        assume(False)
    assert found.error <= found.bound * (1 + 1e-9) + 1e-12


@settings(max_examples=60)
@given(flow_and_start=FLOWS, low=st.floats(0, 0.9), width=st.floats(0.02, 0.1), count=st.integers(1, 4))
def test_the_derivative_of_the_output_stays_within_its_bound(
    flow_and_start: Any, low: float, width: float, count: int
) -> None:
    """Divided differences of the velocity along the trajectory are its derivatives somewhere in between."""
    flow, start = flow_and_start
    points = [low + width * i / count for i in range(count + 1)]
    first = torch.tensor([start], dtype=torch.float64)
    table = [float(flow.velocity(flow.solution(first, 1.0, r), r)) for r in points]
    scale = max(map(abs, table))
    for m in range(1, count + 1):
        table = [(b - a) / (points[i + m] - points[i]) for i, (a, b) in enumerate(itertools.pairwise(table))]
    rounding = 1e-14 * scale * (4 * count / width) ** count
    bound = derivative_bound(flow, start, count, low, low + width)
    assert abs(table[0]) * math.factorial(count) <= bound * (1 + 1e-9) + rounding * math.factorial(count)


@pytest.mark.parametrize("flow", [GaussianFlow(std=0.7), GaussianFlow(), LogisticFlow(rate=2.0)])
def test_the_bound_is_of_the_size_of_the_error(flow: Any) -> None:
    levels = [1 - i / 150 for i in range(151)]
    found = compare(flow, 0.6, levels, [0, *range(1, 150, 3)], order=2)
    assert found.error < found.bound < 10 * found.error


def test_a_logistic_run_that_leaves_the_unit_interval_has_no_bound() -> None:
    with pytest.raises(ValueError, match=r"leaves \[0, 1\]"):
        compare(LogisticFlow(rate=30.0), 0.5, [1.0, 0.5, 0.0], [0, 1], order=1)


def test_the_command_prints_error_bound_and_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "bounds", "--calls", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 model calls, 3 base steps a call")
    assert len(lines) == 4 + 16
    assert all(float(line.split()[-1]) > 1 for line in lines[4:])
