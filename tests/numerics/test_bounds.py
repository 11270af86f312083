"""Adams weights, truncation constants, noise gain and the embedded difference."""

from __future__ import annotations

import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ab_schedulers.numerics import (
    BaseGrid,
    BaseStep,
    adams_bashforth_error_constant,
    adams_bashforth_weights,
    adams_moulton_error_constant,
    adams_moulton_weights,
    binomial_weights,
    embedded_difference,
    embedded_weights,
    fold,
    interpolation_error_constant,
    lagrange_weights,
    noise_gain,
    window_noise_gain,
)

ORDERS = range(1, 9)


def gamma(count: int, *, implicit: bool) -> list[Fraction]:
    r"""Coefficients of ``-t / ((1-t)^{0 or -1} log(1-t))``, Hairer, Norsett and Wanner I, (III.1.7) and (III.1.11).

    ``sum_{i<=m} gamma_{m-i} / (i+1)`` is 1 for every m (Bashforth), and 1 for m = 0, else 0 (Moulton).
    """
    coefficients: list[Fraction] = []
    for m in range(count):
        total = Fraction(0 if implicit and m > 0 else 1)
        coefficients.append(total - sum(coefficients[m - i] / (i + 1) for i in range(1, m + 1)))
    return coefficients


def from_backward_differences(coefficients: list[Fraction]) -> tuple[Fraction, ...]:
    r"""Weights of ``sum_m gamma_m \nabla^m f`` on ``f_n, f_{n-1}, ...``."""
    order = len(coefficients)
    return tuple(sum((-1) ** j * comb(m, j) * coefficients[m] for m in range(j, order)) for j in range(order))


@pytest.mark.parametrize("order", ORDERS)
def test_adams_bashforth_follows_from_its_generating_function(order: int) -> None:
    coefficients = gamma(order + 1, implicit=False)
    assert adams_bashforth_weights(order) == from_backward_differences(coefficients[:order])
    assert adams_bashforth_error_constant(order) == coefficients[order]


@pytest.mark.parametrize("order", ORDERS)
def test_adams_moulton_follows_from_its_generating_function(order: int) -> None:
    coefficients = gamma(order + 1, implicit=True)
    assert adams_moulton_weights(order) == from_backward_differences(coefficients[:order])
    assert adams_moulton_error_constant(order) == coefficients[order]


def test_golden_rows_of_the_literature() -> None:
    """Golden: Hairer, Norsett and Wanner I, tables III.1.1 and III.1.2, as printed."""
    assert adams_bashforth_weights(4) == tuple(Fraction(n, 24) for n in (55, -59, 37, -9))
    assert adams_moulton_weights(4) == tuple(Fraction(n, 24) for n in (9, 19, -5, 1))
    assert adams_bashforth_error_constant(4) == Fraction(251, 720)
    assert adams_moulton_error_constant(4) == Fraction(-19, 720)


@settings(max_examples=60)
@given(
    nodes=st.lists(st.fractions(min_value=-4, max_value=0, max_denominator=8), min_size=1, max_size=6, unique=True),
    point=st.fractions(min_value=-5, max_value=2, max_denominator=8),
)
def test_error_constant_is_the_whole_error_on_the_monomial_of_degree_k(nodes: list[Fraction], point: Fraction) -> None:
    order = len(nodes)
    predicted = sum(w * x**order for w, x in zip(lagrange_weights(nodes, point), nodes, strict=True))
    assert point**order - predicted == math.factorial(order) * interpolation_error_constant(nodes, point)


@settings(max_examples=60)
@given(
    nodes=st.lists(st.integers(min_value=-40, max_value=0), min_size=1, max_size=6, unique=True),
    point=st.integers(min_value=-40, max_value=12),
    waves=st.lists(st.tuples(st.floats(-1, 1), st.floats(0.2, 2), st.floats(0, 6.3)), min_size=1, max_size=3),
)
def test_error_constant_bounds_the_error_of_smooth_outputs(
    nodes: list[int], point: int, waves: list[tuple[float, float, float]]
) -> None:
    """``|f(x) - p(x)| <= |prod (x - x_j) / k!| max |f^(k)|`` for sums of waves, whose derivatives are bounded."""
    xs, x = [node / 10 for node in nodes], point / 10

    def output(s: float) -> float:
        return sum(a * math.sin(w * s + p) for a, w, p in waves)

    weights = lagrange_weights(xs, x)
    error = abs(output(x) - sum(w * output(s) for w, s in zip(weights, xs, strict=True)))
    largest_derivative = sum(abs(a) * w ** len(xs) for a, w, _ in waves)
    rounding = 1e-14 * (1 + noise_gain(weights)) * (1 + sum(abs(a) for a, _, _ in waves))
    assert error <= abs(interpolation_error_constant(xs, x)) * largest_derivative + rounding


@pytest.mark.parametrize("order", ORDERS)
def test_noise_gain_of_the_binomial_weights_is_two_to_the_k_less_one(order: int) -> None:
    assert noise_gain(binomial_weights(order)) == 2**order - 1


@settings(max_examples=60)
@given(
    nodes=st.lists(st.fractions(min_value=-4, max_value=0, max_denominator=8), min_size=1, max_size=6, unique=True),
    point=st.fractions(min_value=0, max_value=2, max_denominator=8),
    draw=st.data(),
)
def test_noise_gain_is_the_largest_error_that_errors_of_one_can_make(
    nodes: list[Fraction], point: Fraction, draw: st.DataObject
) -> None:
    weights = lagrange_weights(nodes, point)
    error = st.fractions(min_value=-1, max_value=1, max_denominator=10)
    errors = draw.draw(st.lists(error, min_size=len(nodes), max_size=len(nodes)))
    assert abs(sum(w * e for w, e in zip(weights, errors, strict=True))) <= noise_gain(weights)
    worst = [1 if w > 0 else -1 for w in weights]
    assert sum(w * e for w, e in zip(weights, worst, strict=True)) == noise_gain(weights)


def test_window_noise_gain_is_the_largest_over_the_skipped_points() -> None:
    nodes = [Fraction(0), Fraction(-3), Fraction(-6)]
    points = [Fraction(1), Fraction(2)]
    assert window_noise_gain(nodes, points) == max(noise_gain(lagrange_weights(nodes, p)) for p in points)
    assert window_noise_gain(nodes, points) == noise_gain(lagrange_weights(nodes, Fraction(2)))
    assert window_noise_gain(nodes, [Fraction(1)]) < window_noise_gain(nodes, points)


@settings(max_examples=40)
@given(order=st.integers(2, 6), draw=st.data())
def test_embedded_difference_is_what_the_highest_order_adds(order: int, draw: st.DataObject) -> None:
    """It vanishes on outputs that the lower order already reproduces, and not on the next monomial."""
    calls = draw.draw(st.integers(order, order + 2))
    interval = draw.draw(st.integers(2, 4))
    count = calls * interval
    gap = st.fractions(min_value=Fraction(1, 4), max_value=2, max_denominator=4)
    nodes = [Fraction(0)]
    for _ in range(count - 1):
        nodes.append(nodes[-1] + draw.draw(gap))
    steps = tuple(BaseStep(sample=Fraction(1), outputs=(Fraction(1, 3),)) for _ in range(count))
    grid = BaseGrid(steps=steps, nodes=tuple(nodes))
    plan = range(0, count, interval)
    row, lower = (fold(grid, plan, order=k)[-1] for k in (order, order - 1))
    difference, base_difference = embedded_difference(row, lower)
    assert base_difference == ()
    computed = [nodes[i] for i in reversed(plan)]
    for degree in range(order):
        moment = sum(d * x**degree for d, x in zip(difference, computed, strict=False))
        assert (moment == 0) == (degree < order - 1)


def test_embedded_difference_covers_the_base_outputs_too() -> None:
    one, half = Fraction(1), Fraction(1, 2)
    steps = (BaseStep(sample=one, outputs=(one,)), *[BaseStep(sample=half, outputs=(one, half))] * 5)
    grid = BaseGrid(steps=steps, nodes=tuple(Fraction(i) for i in range(6)), conversions=((half, one),) * 6)
    row, lower = (fold(grid, (0, 2, 4), order=k)[2] for k in (3, 2))
    history, base_history = embedded_difference(row, lower)
    pairs = [(row.history, lower.history, history), (row.base_history, lower.base_history, base_history)]
    for newer, older, difference in pairs:
        assert len(difference) == 3
        for j, d in enumerate(difference):
            assert d == (newer[j] if j < len(newer) else 0) - (older[j] if j < len(older) else 0)
    assert any(d != 0 for d in base_history)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_embedded_difference_estimates_the_error_of_the_lower_row_at_its_order(order: int) -> None:
    """For ``x' = f(t)`` the estimate tends to the window's true error, which is ``O(h^order)``."""
    interval = 3
    ratios, errors = [], []
    spans = [0.2 / 2**level for level in range(4)]
    for span in spans:
        count = interval * order
        nodes = [span * (i / interval - (order - 1)) for i in range(count)]  # the window starts at 0
        steps = tuple(BaseStep(sample=1.0, outputs=(span / interval,)) for _ in nodes)
        grid = BaseGrid(steps=steps, nodes=tuple(nodes))
        row, lower = (fold(grid, range(0, count, interval), order=k)[-1] for k in (order, order - 1))
        outputs = [math.exp(nodes[i]) for i in reversed(range(0, count, interval))]
        base = sum(span / interval * math.exp(nodes[i]) for i in range(count - interval, count))
        error = base - sum(b * f for b, f in zip(lower.history, outputs, strict=False))
        estimate = sum(d * f for d, f in zip(embedded_difference(row, lower)[0], outputs, strict=True))
        ratios.append(estimate / error)
        errors.append(abs(estimate))
    assert np.polyfit(np.log(spans), np.log(errors), 1)[0] == pytest.approx(order, abs=0.2)
    assert ratios[-1] == pytest.approx(1, abs=0.25)
    assert abs(ratios[-1] - 1) < abs(ratios[0] - 1) / 4  # it is asymptotically correct, to first order in h


@pytest.mark.parametrize("order", range(2, 6))
def test_embedded_weights_are_the_difference_of_two_orders(order: int) -> None:
    """They vanish on polynomials of the lower order, and on the next monomial give what the lower order misses."""
    nodes, point = [Fraction(-j * j - j) for j in range(order)], Fraction(3, 2)
    weights = embedded_weights(nodes, point)
    for degree in range(order - 1):
        assert sum(w * x**degree for w, x in zip(weights, nodes, strict=True)) == 0
    highest = order - 1
    missed = point**highest - sum(
        w * x**highest for w, x in zip(lagrange_weights(nodes[:-1], point), nodes, strict=False)
    )
    assert sum(w * x**highest for w, x in zip(weights, nodes, strict=True)) == missed != 0


def test_one_node_has_no_embedded_estimate() -> None:
    with pytest.raises(ValueError, match="at least two nodes"):
        embedded_weights([Fraction(0)], Fraction(1))
