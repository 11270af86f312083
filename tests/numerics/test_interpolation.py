"""Lagrange weights and their integrals, exactly, on arbitrary nodes."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import comb

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from ab_schedulers.numerics import binomial_weights, check_nodes, lagrange_integral_weights, lagrange_weights

ORDERS = range(1, 9)

rationals = st.fractions(min_value=-5, max_value=5, max_denominator=12)
node_lists = st.lists(rationals, min_size=1, max_size=8, unique=True)
nonzero = rationals.filter(bool)


def value(coefficients: list[Fraction], x: Fraction) -> Fraction:
    """The polynomial with these coefficients, lowest degree first, at ``x``."""
    return sum((c * x**degree for degree, c in enumerate(coefficients)), start=Fraction(0))


def integral(coefficients: list[Fraction], lower: Fraction, upper: Fraction) -> Fraction:
    """The integral of the same polynomial over ``[lower, upper]``."""
    primitive = [Fraction(0), *(c / (degree + 1) for degree, c in enumerate(coefficients))]
    return value(primitive, upper) - value(primitive, lower)


def applied(weights: tuple[Fraction, ...], values: list[Fraction]) -> Fraction:
    """``sum_j w_j f_j``."""
    return sum((w * f for w, f in zip(weights, values, strict=True)), start=Fraction(0))


@settings(max_examples=80)
@given(nodes=node_lists, point=rationals, draw=st.data())
def test_weights_of_k_nodes_evaluate_every_polynomial_of_degree_below_k(
    nodes: list[Fraction], point: Fraction, draw: st.DataObject
) -> None:
    polynomial = draw.draw(st.lists(rationals, min_size=len(nodes), max_size=len(nodes)))
    values = [value(polynomial, x) for x in nodes]
    assert applied(lagrange_weights(nodes, point), values) == value(polynomial, point)


@settings(max_examples=80)
@given(nodes=node_lists, lower=rationals, upper=rationals, draw=st.data())
def test_integral_weights_of_k_nodes_integrate_every_polynomial_of_degree_below_k(
    nodes: list[Fraction], lower: Fraction, upper: Fraction, draw: st.DataObject
) -> None:
    polynomial = draw.draw(st.lists(rationals, min_size=len(nodes), max_size=len(nodes)))
    values = [value(polynomial, x) for x in nodes]
    assert applied(lagrange_integral_weights(nodes, lower, upper), values) == integral(polynomial, lower, upper)


@pytest.mark.parametrize("order", ORDERS)
def test_degree_of_exactness_is_the_order_less_one_and_no_more(order: int) -> None:
    nodes = [Fraction(-j * (j + 3), 7) for j in range(order)]
    for degree in range(order + 1):
        monomial = [Fraction(0)] * degree + [Fraction(1)]
        values = [value(monomial, x) for x in nodes]
        exact_at_a_point = applied(lagrange_weights(nodes, Fraction(1, 2)), values) == value(monomial, Fraction(1, 2))
        exact_as_integral = applied(lagrange_integral_weights(nodes, Fraction(0), Fraction(1, 2)), values) == integral(
            monomial, Fraction(0), Fraction(1, 2)
        )
        assert exact_at_a_point == exact_as_integral == (degree < order)


@settings(max_examples=40)
@given(nodes=node_lists, lower=rationals, upper=rationals)
def test_weights_sum_to_one_and_integral_weights_to_the_length(
    nodes: list[Fraction], lower: Fraction, upper: Fraction
) -> None:
    assert sum(lagrange_weights(nodes, upper)) == 1
    assert sum(lagrange_integral_weights(nodes, lower, upper)) == upper - lower


@settings(max_examples=40)
@given(nodes=node_lists)
def test_weights_at_a_node_pick_its_output(nodes: list[Fraction]) -> None:
    for j, node in enumerate(nodes):
        assert lagrange_weights(nodes, node) == tuple(int(m == j) for m in range(len(nodes)))


@settings(max_examples=40)
@given(nodes=node_lists, lower=rationals, upper=rationals, shift=rationals, scale=nonzero)
def test_weights_do_not_see_shift_and_scale_and_integrals_scale_with_the_variable(
    nodes: list[Fraction], lower: Fraction, upper: Fraction, shift: Fraction, scale: Fraction
) -> None:
    moved = [scale * x + shift for x in nodes]
    ends = scale * lower + shift, scale * upper + shift
    assert lagrange_weights(moved, ends[1]) == lagrange_weights(nodes, upper)
    scaled = tuple(scale * v for v in lagrange_integral_weights(nodes, lower, upper))
    assert lagrange_integral_weights(moved, *ends) == scaled


@settings(max_examples=40)
@given(nodes=node_lists, lower=rationals, upper=rationals, draw=st.data())
def test_weights_follow_their_nodes_through_every_permutation(
    nodes: list[Fraction], lower: Fraction, upper: Fraction, draw: st.DataObject
) -> None:
    order = draw.draw(st.permutations(range(len(nodes))))
    permuted = [nodes[j] for j in order]
    weights, integrals = lagrange_weights(nodes, upper), lagrange_integral_weights(nodes, lower, upper)
    assert lagrange_weights(permuted, upper) == tuple(weights[j] for j in order)
    assert lagrange_integral_weights(permuted, lower, upper) == tuple(integrals[j] for j in order)


@settings(max_examples=40)
@given(nodes=node_lists, lower=rationals, middle=rationals, upper=rationals)
def test_integral_weights_add_over_adjacent_intervals(
    nodes: list[Fraction], lower: Fraction, middle: Fraction, upper: Fraction
) -> None:
    left = lagrange_integral_weights(nodes, lower, middle)
    right = lagrange_integral_weights(nodes, middle, upper)
    whole = lagrange_integral_weights(nodes, lower, upper)
    assert tuple(a + b for a, b in zip(left, right, strict=True)) == whole


@pytest.mark.parametrize("order", ORDERS)
def test_binomial_weights_are_alternating_binomial_coefficients(order: int) -> None:
    assert binomial_weights(order) == tuple((-1) ** (j - 1) * comb(order, j) for j in range(1, order + 1))


@pytest.mark.parametrize("order", ORDERS)
def test_binomial_weights_make_the_backward_difference_of_their_order_vanish(order: int) -> None:
    values = [Fraction(3 * j * j + 7, j + 2) for j in range(order)]  # newest first, no polynomial
    row = [applied(binomial_weights(order), values), *values]
    for _ in range(order):
        row = [newer - older for newer, older in pairwise(row)]
    assert row == [0]


@pytest.mark.parametrize("function", [lagrange_weights, lagrange_integral_weights])
def test_no_node_and_repeated_nodes_are_refused(function: object) -> None:
    ends = (1,) if function is lagrange_weights else (0, 1)
    with pytest.raises(ValueError, match="`nodes` must hold at least one"):
        function([], *ends)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"`nodes` must be pairwise different, received \[1, 0, 1\].*drop"):
        function([1, 0, 1], *ends)  # type: ignore[operator]


def test_distinct_nodes_pass_the_check() -> None:
    check_nodes([0.0, -1.0])
    check_nodes([Fraction(1, 3)])


@pytest.mark.parametrize("order", range(1, 4))
def test_weights_hold_identically_in_symbols(order: int) -> None:
    nodes = sympy.symbols(f"x0:{order}")
    lower, upper, s = sympy.symbols("a b s")
    weights = lagrange_weights(nodes, upper)
    integrals = lagrange_integral_weights(nodes, lower, upper)
    for degree in range(order):
        moment = sum(w * x**degree for w, x in zip(weights, nodes, strict=True))
        assert sympy.cancel(moment - upper**degree) == 0
        area = sum(w * x**degree for w, x in zip(integrals, nodes, strict=True))
        assert sympy.cancel(area - sympy.integrate(s**degree, (s, lower, upper))) == 0


def test_integers_and_floats_give_the_rational_weights() -> None:
    nodes, point = [0, -1, -3, -4], 2
    exact = lagrange_weights([Fraction(x) for x in nodes], Fraction(point))
    exact_integrals = lagrange_integral_weights([Fraction(x) for x in nodes], Fraction(0), Fraction(point))
    for number in (int, float):
        weights = lagrange_weights([number(x) for x in nodes], number(point))
        integrals = lagrange_integral_weights([number(x) for x in nodes], number(0), number(point))
        assert weights == pytest.approx([float(w) for w in exact], rel=1e-14)
        assert integrals == pytest.approx([float(w) for w in exact_integrals], rel=1e-13)
        assert all(isinstance(w, float) for w in (*weights, *integrals))
