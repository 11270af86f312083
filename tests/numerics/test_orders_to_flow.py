"""Observed orders of cached runs against the exact flow: the base's own at a fixed interval, k in the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch

from ab_schedulers.numerics import Row, lagrange_weights

TOLERANCE = 0.2
GRIDS = ["uniform", "quadratic", "geometric", "random-smooth-1", "random-smooth-2"]
Pair = tuple[int, int | None]


@pytest.fixture
def errors_to_flow(watched_calls: Any, distance: Any) -> Callable[..., list[float]]:
    """Errors of runs and of the base itself, the last one, on a course whose calls are `interval` steps apart.

    The first calls are given the flow's own samples, and the corrector begins after them: what is left is the error of
    the rows, not of the start.
    """

    def measure(course: Any, interval: int, pairs: Sequence[Pair], limits: Sequence[Sequence[Row]] = ()) -> Any:
        count = len(course.grid.steps)
        calls = range(0, count, interval)
        watched = watched_calls(len(calls))
        truth = course.exact([calls[call] + interval for call in watched])
        start = course.exact(calls[: max(corrector or order for order, corrector in pairs)])

        def error(rows: Sequence[Row], given: list[torch.Tensor]) -> float:
            run = course.walk(calls, rows, given)
            return float(distance([run[call] for call in watched], truth))

        errors = []
        for place, (order, corrector) in enumerate(pairs):
            if limits:
                errors.append(error(limits[place], start[: corrector or order]))
                continue
            rows = course.rows(calls, order, corrector)
            if corrector is not None:
                rows = (*course.rows(calls, order)[:corrector], *rows[corrector:])
            errors.append(error(rows, start[: corrector or order]))
        base = course.base(course.exact(range(3)))
        return [*errors, float(distance([base[calls[call] + interval] for call in watched], truth))]

    return measure


@pytest.mark.slow
@pytest.mark.parametrize("map_name", GRIDS)
@pytest.mark.parametrize("name", ["linear", "logistic", "gaussian", "gaussian-x0", "gaussian-epsilon", "mixture"])
def test_at_a_fixed_interval_the_order_to_the_flow_is_the_one_of_ddim(
    lay_out: Any, errors_to_flow: Any, observed_orders: Any, name: str, map_name: str
) -> None:
    """One, whatever is cached: skipping adds a term of order ``k``, and the base's own error is there all along."""
    pairs: list[Pair] = [(1, None), (1, 2), (2, None), (2, 3), (3, None), (4, None), (4, 5)]
    observed = observed_orders(128, lambda n: errors_to_flow(lay_out(name, map_name, 3 * n), 3, pairs))
    assert observed == pytest.approx([1] * 8, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "map_name"),
    [
        ("linear-inside", "uniform"),
        ("linear-inside", "geometric"),
        ("logistic-inside", "random-smooth-1"),
        ("gaussian-inside", "quadratic"),
        ("gaussian-inside", "random-smooth-2"),
        ("mixture-inside", "geometric"),
    ],
)
@pytest.mark.parametrize("solver_order", [2, 3])
def test_at_a_fixed_interval_the_order_to_the_flow_is_two_on_dpmsolver_2m_and_3m(
    lay_out: Any, errors_to_flow: Any, observed_orders: Any, name: str, map_name: str, solver_order: int
) -> None:
    """Or one with plain reuse. Two for 3M as well, whose published weight of ``D_2`` is half of the exact one.

    Orders 2 + 3 and 3 are left out: their cached error of order three is far larger than the base's of order two up to
    thousands of calls, and a slope between them says nothing.
    """
    pairs: list[Pair] = [(1, None), (2, None), (4, None), (4, 5)]

    def errors(num_calls: int) -> Any:
        return errors_to_flow(lay_out(name, map_name, 2 * num_calls, solver_order=solver_order), 2, pairs)

    assert observed_orders(256, errors) == pytest.approx([1, 2, 2, 2, 2], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "map_name"),
    [("logistic-inside", "random-smooth-1"), ("gaussian-inside", "uniform"), ("gaussian-inside", "quadratic")],
)
def test_twice_the_published_curvature_makes_3m_a_method_of_order_three(
    lay_out: Any, errors_to_flow: Any, observed_orders: Any, name: str, map_name: str
) -> None:
    """And the run that caches it with four outputs. As published, both have order two on the same grids."""
    for doubled in (False, True):

        def errors(num_calls: int, doubled: bool = doubled) -> Any:
            course = lay_out(name, map_name, 2 * num_calls, solver_order=3, variable="lambda")
            return errors_to_flow(course.with_exact_curvature() if doubled else course, 2, [(4, None)])

        assert observed_orders(256, errors) == pytest.approx([3, 3] if doubled else [2, 2], abs=TOLERANCE), doubled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "map_name"),
    [
        ("linear-inside", "uniform"),
        ("linear-inside", "quadratic"),
        ("logistic-inside", "uniform"),
        ("gaussian-inside", "geometric"),
        ("gaussian-inside", "random-smooth-2"),
        ("mixture-inside", "random-smooth-2"),
    ],
)
def test_as_the_interval_grows_with_the_calls_the_order_to_the_flow_is_k(
    lay_out: Any, errors_to_flow: Any, observed_orders: Any, name: str, map_name: str
) -> None:
    """``k + 1`` with a corrector. The base's own error, ``O(1 / (n T)^2)`` on 3M, stays below with ``T = n / 4``."""
    pairs: list[Pair] = [(1, None), (2, None), (3, None), (3, 4), (4, None)]

    def errors(num_calls: int) -> list[float]:
        interval = num_calls // 4
        course = lay_out(name, map_name, interval * num_calls, solver_order=3, variable="lambda")
        *cached, base = errors_to_flow(course, interval, pairs)
        assert base < min(cached) / 2
        return cached

    assert observed_orders(96, errors) == pytest.approx([1, 2, 3, 4, 4], abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("map_name", GRIDS)
@pytest.mark.parametrize("name", ["linear", "logistic", "gaussian", "mixture"])
def test_the_limit_of_flow_euler_rows_has_order_k(
    lay_out: Any, errors_to_flow: Any, observed_orders: Any, name: str, map_name: str
) -> None:
    """``k + 1`` with a corrector. Euler's error, ``O(1 / (n T))``, would hide this at any interval that can be walked.

    So the limit is taken exactly: with evenly divided windows and outputs interpolated in sigma a weight is a left
    Riemann sum of a polynomial, hence a polynomial in ``1 / T`` of a degree below the number of outputs.
    """
    pairs: list[Pair] = [(1, None), (1, 2), (2, None), (2, 3), (3, None), (3, 4), (4, None), (4, 5)]

    def errors(num_calls: int) -> Any:
        course = lay_out(name, map_name, num_calls)
        limits: list[list[Row]] = []
        for order, corrector in pairs:
            rows = limit_rows(course, order, corrector)
            limits.append(rows if corrector is None else [*limits[-1][:corrector], *rows[corrector:]])
        return errors_to_flow(course, 1, pairs, limits)[:-1]

    assert observed_orders(144, errors) == pytest.approx([1, 2, 2, 3, 3, 4, 4, 5], abs=TOLERANCE)


def limit_rows(course: Any, order: int, corrector: int | None) -> list[Row]:
    """The rows of infinitely many base steps in every window, from those of 1, 2, ... even ones."""
    intervals = range(1, max(order, corrector or 0) + 1)
    weights = [float(w) for w in lagrange_weights([Fraction(1, interval) for interval in intervals], Fraction(0))]
    family = []
    for interval in intervals:
        fine = course.divided(interval)
        family.append(fine.rows(range(0, len(fine.grid.steps), interval), order, corrector))
    limits = []
    for rows in zip(*family, strict=True):
        width = max(len(row.history) for row in rows)
        padded = [(*row.history, *[0.0] * (width - len(row.history))) for row in rows]
        history = tuple(
            sum(w * b for w, b in zip(weights, column, strict=True)) for column in zip(*padded, strict=True)
        )
        limits.append(Row(sample=1.0, history=history, order=order))
    return limits
