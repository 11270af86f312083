"""Observed orders of the difference between a cached run and the uncached run on the same grid.

This is what caching itself costs. Against the exact flow one would see the order of the base (`test_orders_to_flow`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ab_schedulers.numerics import CachePlan

TOLERANCE = 0.2
INTERVAL = 3
# The linear flow is the fastest here and the random maps the roughest: below these sizes their slopes still drift.
SIZE = 160
GRIDS = [
    ("uniform", "index"),
    ("quadratic", "index"),
    ("geometric", "value"),
    ("random-smooth-1", "value"),
    ("random-smooth-2", "index"),
]


@pytest.fixture
def orders_to_base(lay_out: Any, watched_calls: Any, distance: Any, observed_orders: Any) -> Callable[..., list[float]]:
    """Observed orders of the difference at three steps a call, for several ``(order, corrector)`` at once."""

    def observe(
        name: str,
        map_name: str,
        variable: str,
        pairs: list[tuple[int, int | None]],
        *,
        warmup: int,
        exact_start: int = 0,
        size: int = SIZE,
        solver_order: int = 0,
    ) -> list[float]:
        def errors(num_calls: int) -> list[float]:
            plan = CachePlan.uniform(num_calls=num_calls, cache_interval=INTERVAL, warmup_calls=warmup)
            calls = plan.compute_steps
            course = lay_out(name, map_name, plan.num_base_steps, solver_order=solver_order, variable=variable)
            base = course.base()
            given = [base[i] for i in calls[:exact_start]]
            watched = watched_calls(num_calls)
            truth = [base[plan.windows[call].stop] for call in watched]
            runs = [course.walk(calls, course.rows(calls, *pair), given) for pair in pairs]
            return [distance([run[call] for call in watched], truth) for run in runs]

        return observed_orders(size, errors)

    return observe


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(("map_name", "variable"), GRIDS)
@pytest.mark.parametrize("name", ["linear", "logistic", "gaussian", "gaussian-x0", "gaussian-epsilon"])
def test_cached_run_has_order_k_to_its_base_and_a_corrector_of_k_plus_one_outputs_adds_one(
    orders_to_base: Any, name: str, map_name: str, variable: str, order: int
) -> None:
    """After ``k - 1`` one-step warm-up calls."""
    pairs = [(order, None), (order, order + 1)]
    observed = orders_to_base(name, map_name, variable, pairs, warmup=order - 1)
    assert observed == pytest.approx([order, order + 1], abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("name", "map_name"),
    [("linear-inside", "geometric"), ("logistic-inside", "random-smooth-1"), ("gaussian-inside", "quadratic")],
)
@pytest.mark.parametrize("solver_order", [2, 3])
def test_on_multistep_bases_too(orders_to_base: Any, name: str, map_name: str, solver_order: int, order: int) -> None:
    """DPM-Solver++ 2M and 3M, whose steps also use interpolated outputs of the window before.

    They need one warm-up call more for every step of their own rising start: its first step has the local error
    ``O(h^2)``, so the outputs jump by as much, and a polynomial through them would keep the difference at order three.
    """
    pairs = [(order, None), (order, order + 1)]
    warmup = order - 1 + solver_order - 1
    observed = orders_to_base(name, map_name, "lambda", pairs, warmup=warmup, solver_order=solver_order, size=320)
    assert observed == pytest.approx([order, order + 1], abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_on_a_gaussian_mixture_too(orders_to_base: Any, order: int) -> None:
    pairs = [(order, None), (order, order + 1)]
    observed = orders_to_base("mixture", "geometric", "value", pairs, warmup=order - 1)
    assert observed == pytest.approx([order, order + 1], abs=TOLERANCE)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize(("map_name", "variable"), GRIDS)
def test_exact_starting_outputs_serve_as_well_as_warmup_calls(
    orders_to_base: Any, map_name: str, variable: str, order: int
) -> None:
    """The first ``k`` calls are handed the base's own samples."""
    observed = orders_to_base("logistic", map_name, variable, [(order, None)], warmup=0, exact_start=order)
    assert observed == pytest.approx([order], abs=TOLERANCE)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["linear", "logistic", "gaussian"])
def test_a_plain_start_caps_the_order_at_two_and_with_a_corrector_at_three(
    orders_to_base: Any, name: str, order: int
) -> None:
    """The first window is plain reuse: a local error ``O(h^2)``, which the corrector makes ``O(h^3)``.

    The corrected order 3 has an error ``O(h^4)`` that falls below the start's only on long runs, hence their length.
    """
    pairs = [(order, None), (order, order + 1)]
    observed = orders_to_base(name, "uniform", "index", pairs, warmup=0, size=320)
    assert observed == pytest.approx([min(order, 2), min(order + 1, 3)], abs=TOLERANCE)
