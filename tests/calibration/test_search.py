"""Which plans the search refines, and how often."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from ab_schedulers.calibration import search
from ab_schedulers.calibration.plans import MOST_SHAPES
from ab_schedulers.calibration.recordings import Recording
from ab_schedulers.calibration.refinement import Judge, Trial, refinement_calls
from ab_schedulers.calibration.runs import Runs
from ab_schedulers.calibration.search import Budget, Search, estimated_calls, rounds

_JUDGE = cast(Judge, None)


class _Unlimited:
    restarts = True
    calls = 0
    inputs = 1


def _search(num_calls: int, limit: int | None = None) -> Search:
    runs = cast(Runs, _Unlimited())
    whatever = cast(Any, None)
    return Search(
        nodes=whatever,
        calls=num_calls,
        known=whatever,
        fit=torch.ones(1, dtype=torch.bool),
        runs=runs,
        budget=Budget(runs=runs, limit=limit),
    )


def _plan(name: str, error: float) -> Trial:
    empty = cast(Recording, None)
    return Trial(walk=cast(Any, name), recording=empty, fit_error=error, held_error=error, error=error)


@pytest.fixture
def refined(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Name and error of every plan that was refined; refining "a", "b", "c" divides the error by 2, "stuck" by 1.01."""
    seen = []

    def refine(trial: Trial, judge: Judge, *, depth: int, label: str) -> list[Trial]:
        name = str(trial.walk)
        seen.append((name, trial.error))
        return [_plan(name, trial.error), _plan(name, trial.error / (1.01 if name == "stuck" else 2))]

    monkeypatch.setattr(search, "refine", refine)
    return seen


def test_each_round_leaves_out_the_worst_plan_down_to_one(refined: list[tuple[str, float]]) -> None:
    found = _search(8)._refined(_JUDGE, [_plan("a", 16.0), _plan("b", 8.0), _plan("c", 32.0)])
    assert [name for name, _ in refined] == ["a", "b", "c", "b", "a", "b", "b", "b"]
    assert min(trial.error for trial in found) == 8 / 2**5
    assert len(found) == 2 * len(refined)


def test_a_plan_that_gains_less_than_a_twentieth_is_not_refined_again(refined: list[tuple[str, float]]) -> None:
    _search(20)._refined(_JUDGE, [_plan("stuck", 1.0), _plan("a", 64.0)])
    assert refined == [("stuck", 1.0), ("a", 64.0), ("a", 32.0)]


def test_no_round_begins_that_the_budget_does_not_bear(refined: list[tuple[str, float]]) -> None:
    assert _search(8, limit=10)._refined(_JUDGE, [_plan("a", 1.0)]) == [] == refined


@pytest.mark.parametrize(("num_calls", "most"), [(1, 5), (5, 5), (8, 5), (10, 4), (12, 3), (15, 2), (20, 2), (50, 2)])
def test_fewer_calls_are_refined_more_often(num_calls: int, most: int) -> None:
    assert rounds(num_calls) == most


def test_the_estimate_bears_every_round(refined: list[tuple[str, float]]) -> None:
    plans = [_plan(name, 1.0) for name in "abc"]
    for num_calls in (5, 8, 10):
        refined.clear()
        _search(num_calls)._refined(_JUDGE, plans)
        depth = search.row_depth(num_calls)
        spent = len(refined) * refinement_calls(num_calls, depth, True)
        walks = (search._MOST_STARTS + MOST_SHAPES + 1) * num_calls
        assert estimated_calls(num_calls, restarts=True, passes=1) == walks + spent
