"""Truncation constants, noise gain and the embedded error estimate."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from .folding import Row
from .interpolation import Number, lagrange_integral_weights, lagrange_weights


def interpolation_error_constant(nodes: Sequence[Number], point: Number) -> Number:
    """``Π_j (point - x_j) / k!``, the factor of ``f^(k)(ξ)`` in the error of `lagrange_weights`.

    The sign is that of ``f(point) - p(point)``.

    Derived in docs/theory/01-adams.md.
    """
    constant: Number = 1
    for j, node in enumerate(nodes):
        constant = constant * (point - node) / (j + 1)
    return constant


def adams_bashforth_weights(order: int) -> tuple[Number, ...]:
    """``∫_0^1`` of the Lagrange basis on ``0, -1, ..., 1 - k``: ``1``; ``3/2, -1/2``; ...

    Derived in docs/theory/01-adams.md.
    """
    return lagrange_integral_weights([Fraction(-j) for j in range(order)], Fraction(0), Fraction(1))


def adams_moulton_weights(order: int) -> tuple[Number, ...]:
    """``∫_0^1`` of the Lagrange basis on ``1, 0, ..., 2 - k``: ``1``; ``1/2, 1/2``; ...

    Derived in docs/theory/01-adams.md.
    """
    return lagrange_integral_weights([Fraction(1 - j) for j in range(order)], Fraction(0), Fraction(1))


def adams_bashforth_error_constant(order: int) -> Number:
    """Factor of ``h^(k+1) y^(k+1)`` in the local error of Adams-Bashforth: 1/2, 5/12, 3/8, 251/720, ...

    Derived in docs/theory/01-adams.md.
    """
    return _adams_error_constant(adams_bashforth_weights(order), [Fraction(-j) for j in range(order)])


def adams_moulton_error_constant(order: int) -> Number:
    """Factor of ``h^(k+1) y^(k+1)`` in the local error of Adams-Moulton: -1/2, -1/12, -1/24, -19/720, ...

    Derived in docs/theory/01-adams.md.
    """
    return _adams_error_constant(adams_moulton_weights(order), [Fraction(1 - j) for j in range(order)])


def _adams_error_constant(weights: Sequence[Number], nodes: Sequence[Number]) -> Number:
    """Defect on the first monomial that the weights do not integrate, divided by its factorial."""
    order = len(nodes)
    moment = Fraction(0)
    for weight, node in zip(weights, nodes, strict=True):
        power = Fraction(1)
        for _ in range(order):
            power = power * node
        moment = moment + weight * power
    factorial = 1
    for m in range(1, order + 1):
        factorial *= m
    return (Fraction(1, order + 1) - moment) / factorial


def noise_gain(weights: Sequence[Number]) -> Number:
    """``sum_j |w_j|``: the largest factor by which errors of the cached outputs enter a prediction.

    ``2^k - 1`` for the binomial weights of order ``k``.

    Derived in docs/theory/08-stability.md.
    """
    return sum((abs(weight) for weight in weights), start=0)


def window_noise_gain(nodes: Sequence[Number], points: Sequence[Number]) -> Number:
    """Largest `noise_gain` of the Lagrange weights on ``nodes`` over the skipped ``points`` of a window.

    Derived in docs/theory/08-stability.md.
    """
    return max(noise_gain(lagrange_weights(nodes, point)) for point in points)


def embedded_difference(row: Row, lower: Row) -> tuple[tuple[Number, ...], tuple[Number, ...]]:
    """Weights of ``row - lower`` on the cached quantities and on the base outputs.

    With ``lower`` folded at one order less over the same plan, the combination estimates the error that the window's
    predicted outputs leave in the sample, without a further model call (Hairer, Norsett and Wanner, *Solving ODEs I*,
    section III.7).

    Derived in docs/theory/06-truncation.md.
    """
    return _difference(row.history, lower.history), _difference(row.base_history, lower.base_history)


def embedded_weights(nodes: Sequence[Number], point: Number) -> tuple[Number, ...]:
    """Weights of the prediction of order ``k = len(nodes)`` at ``point`` minus those of order ``k - 1``.

    Their combination of the outputs estimates the error of the lower order without a further model call (Hairer,
    Norsett and Wanner, *Solving ODEs I*, section III.7). They sum to zero.

    Derived in docs/theory/06-truncation.md.

    Raises:
        ValueError: If there are fewer than two nodes or two are equal.
    """
    if len(nodes) < 2:
        raise ValueError(f"an embedded estimate needs at least two nodes, received {len(nodes)}; pass one more output.")
    return _difference(lagrange_weights(nodes, point), lagrange_weights(nodes[:-1], point))


def _difference(newer: Sequence[Number], older: Sequence[Number]) -> tuple[Number, ...]:
    depth = max(len(newer), len(older))
    padded = [*newer, *[0] * (depth - len(newer))], [*older, *[0] * (depth - len(older))]
    return tuple(a - b for a, b in zip(*padded, strict=True))
