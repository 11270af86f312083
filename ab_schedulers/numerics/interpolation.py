"""Lagrange weights at a node and their integrals, on arbitrary nodes.

Every function uses ``+ - * /`` alone, so the same code takes ``float`` at run time, ``fractions.Fraction`` in exact
tests and sympy symbols in ``ab_schedulers.theory``.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeAlias

Number: TypeAlias = Any
"""A value of any field: ``float``, ``Fraction``, a sympy expression, a tensor."""


def check_nodes(nodes: Sequence[Number]) -> None:
    """Raise ``ValueError`` unless there is at least one node and no two are equal."""
    if len(nodes) == 0:
        raise ValueError("`nodes` must hold at least one interpolation node, received none; pass one node per output.")
    if len(set(nodes)) != len(nodes):
        raise ValueError(
            f"`nodes` must be pairwise different, received {list(nodes)}; a polynomial through two outputs "
            "at one node does not exist, so drop the repeated node."
        )


def lagrange_weights(nodes: Sequence[Number], point: Number) -> tuple[Number, ...]:
    """Weights that evaluate at ``point`` the polynomial through outputs known at ``nodes``.

    ``w_j = Π_{m≠j} (point - x_m) / (x_j - x_m)``, so that ``Σ_j w_j f(x_j)`` equals ``f(point)`` for every
    polynomial ``f`` of degree below ``len(nodes)``. On uniform nodes one step ahead these are the binomial weights
    ``(-1)^(j-1) C(k, j)`` that follow from setting Adams-Bashforth equal to Adams-Moulton (AB-Cache,
    arXiv:2504.10540).

    Derived in docs/theory/01-adams.md.

    Args:
        nodes: The ``k`` nodes, newest first by convention, pairwise different.
        point: Where to evaluate.

    Returns:
        ``k`` weights in the order of ``nodes``; they sum to one.

    Raises:
        ValueError: If there is no node or two are equal.
    """
    return weights_from_denominators(nodes, lagrange_denominators(nodes), point)


def lagrange_denominators(nodes: Sequence[Number]) -> tuple[Number, ...]:
    """``Π_{m≠j} (x_j - x_m)``, the part of `lagrange_weights` that does not depend on the point.

    Raises:
        ValueError: If there is no node or two are equal.
    """
    check_nodes(nodes)
    denominators = []
    for j, node in enumerate(nodes):
        denominator = 1 + 0 * node
        for m, other in enumerate(nodes):
            if m != j:
                denominator = denominator * (node - other)
        denominators.append(denominator)
    return tuple(denominators)


def weights_from_denominators(
    nodes: Sequence[Number], denominators: Sequence[Number], point: Number
) -> tuple[Number, ...]:
    """`lagrange_weights` at one of several points, with the denominators at hand."""
    weights = []
    for j, denominator in enumerate(denominators):
        numerator: Number = 1
        for m, other in enumerate(nodes):
            if m != j:
                numerator = numerator * (point - other)
        weights.append(numerator / denominator)
    return tuple(weights)


def lagrange_integral_weights(nodes: Sequence[Number], lower: Number, upper: Number) -> tuple[Number, ...]:
    """Integrals over ``[lower, upper]`` of the Lagrange basis polynomials on ``nodes``.

    ``v_j = ∫_lower^upper Π_{m≠j} (s - x_m) / (x_j - x_m) ds``. With the nodes
    ``0, -1, ..., 1 - k`` and the interval ``[0, 1]`` these are the Adams-Bashforth weights of order ``k``; with the
    nodes ``1, 0, ..., 2 - k`` those of Adams-Moulton (Hairer, Norsett and Wanner, *Solving ODEs I*, section III.1).

    Derived in docs/theory/01-adams.md.

    Args:
        nodes: The ``k`` nodes, pairwise different.
        lower: Lower end of the interval.
        upper: Upper end of the interval.

    Returns:
        ``k`` weights in the order of ``nodes``; they sum to ``upper - lower``.

    Raises:
        ValueError: If there is no node or two are equal.
    """
    check_nodes(nodes)
    width = upper - lower
    weights = []
    for j, node in enumerate(nodes):
        coefficients: list[Number] = [1]  # of the product over m != j of (u - (x_m - lower)), lowest degree first
        denominator: Number = 1
        for m, other in enumerate(nodes):
            if m != j:
                coefficients = _times_linear(coefficients, other - lower)
                denominator = denominator * (node - other)
        power: Number = width
        total: Number = 0
        for degree, coefficient in enumerate(coefficients):
            total = total + coefficient * power / (degree + 1)
            power = power * width
        weights.append(total / denominator)
    return tuple(weights)


def _times_linear(coefficients: Sequence[Number], root: Number) -> list[Number]:
    """Multiply a polynomial (lowest degree first) by ``u - root``."""
    shifted = [0, *coefficients]
    for degree, coefficient in enumerate(coefficients):
        shifted[degree] = shifted[degree] - root * coefficient
    return shifted


def binomial_weights(order: int) -> tuple[Number, ...]:
    """Weights ``(-1)^(j-1) C(k, j)`` that make the backward difference of order ``k`` vanish one node ahead.

    ``∇^k f_(n+1) = 0`` solved for ``f_(n+1)``: ``1``; ``2, -1``; ``3, -3, 1``; ... They are the Lagrange weights
    of uniform nodes and are computed as such. Source: AB-Cache (arXiv:2504.10540), from AB_k = AM_k.

    Derived in docs/theory/02-linear-relation.md.
    """
    return lagrange_weights([Fraction(-j) for j in range(order)], Fraction(1))
