"""Theory rows between arbitrary nodes, in the limit of an infinitely fine base grid.

A node is an angle ``φ = atan2(σ, α)``, from π/2 (noise) to 0 (data). In its own scale ``s`` and time ``κ`` every
quantity is the velocity of a straight line,

    x' / s' = x / s + ∫ q dκ,

with ``(s, κ) = (σ, α/σ)`` for the clean sample, ``(α, σ/α)`` for the noise, ``(1, φ)`` for the velocity of a
variance-preserving path and ``(1, σ)`` for that of a flow. Outputs are interpolated as polynomials in φ, which is
finite at both ends, or in a variable that the caller maps it to.

Derived in docs/theory/04-folding.md, section 4.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from .folding import Row
from .interpolation import lagrange_weights

# Gauss-Legendre quadrature on [-1, 1] with eight points, (point, weight): Abramowitz and Stegun 1964, table 25.4.
_HALF_RULE = (
    (0.1834346424956498, 0.3626837833783620),
    (0.5255324099163290, 0.3137066458778873),
    (0.7966664774136267, 0.2223810344533745),
    (0.9602898564975363, 0.1012285362903763),
)
_RULE = (*((-point, weight) for point, weight in reversed(_HALF_RULE)), *_HALF_RULE)
_PANELS = 8


def integral_rows(
    angles: Sequence[float],
    *,
    quantity: str,
    flow: bool,
    order: int,
    corrector: int | None,
    variable: Callable[[float], float] = float,
) -> tuple[Row, ...]:
    """Exponential Adams-Bashforth rows, with the Adams-Moulton corrector of the window before folded in.

    Theory: docs/theory/04-folding.md.

    Args:
        angles: φ of the calls and of the end, falling.
        quantity: ``"epsilon"``, ``"sample"`` or ``"velocity"``.
        flow: Whether ``α + σ = 1`` rather than ``α² + σ² = 1``.
        order: Number of outputs that the predictor interpolates.
        corrector: Number of outputs of the corrector, or None.
        variable: What outputs are interpolated in, a monotone function of φ; φ itself if not given.

    Raises:
        ZeroDivisionError: For ``"epsilon"`` at φ = π/2.

    Examples:
        >>> rows = integral_rows([1.0, 0.5, 0.0], quantity="velocity", flow=False, order=2, corrector=None)
        >>> [round(weight, 3) for weight in rows[1].history]  # Adams-Bashforth of order 2, times the step of -0.5
        [-0.75, 0.25]
    """
    rows: list[Row] = []
    predicted: tuple[float, ...] = ()
    for call in range(len(angles) - 1):
        known = [angles[call - age] for age in range(min(order, call + 1))]
        sample, weights = window_weights(angles[call], angles[call + 1], known, quantity, flow, variable)
        history = list(weights)
        if corrector is not None and call > 0:
            known = [angles[call - age] for age in range(min(corrector, call + 1))]
            _, corrected = window_weights(angles[call - 1], angles[call], known, quantity, flow, variable)
            correction = _sum(corrected, [0.0, *(-weight for weight in predicted)])
            history = _sum(history, [sample * weight for weight in correction])
        rows.append(Row(sample=sample, history=tuple(history), order=min(order, call + 1)))
        if corrector is not None and call > 0:
            rows[-1] = replace(rows[-1], corrector=min(corrector, call + 1))
        predicted = weights
    return tuple(rows)


def window_weights(
    start: float,
    stop: float,
    nodes: Sequence[float],
    quantity: str,
    flow: bool,
    variable: Callable[[float], float] = float,
) -> tuple[float, tuple[float, ...]]:
    """``(a, b)`` with ``x(stop) = a x(start) + Σ_j b_j q(nodes_j)``, exact where q is a polynomial in ``variable``.

    Gauss-Legendre quadrature on panels; ``stop = 0`` takes the limit for the clean sample, ``a = 0`` and
    extrapolation to 0.
    """
    places = [variable(node) for node in nodes]
    if quantity == "sample" and stop <= 0:
        return 0.0, lagrange_weights(places, variable(0.0))
    scale = _scale(stop, quantity, flow)
    total = [0.0] * len(nodes)
    for low, high in _panels(stop, start):
        half, middle = (high - low) / 2, (high + low) / 2
        for point, weight in _RULE:
            phi = middle + half * point
            speed = -scale * weight * half * _speed(phi, quantity, flow)  # φ falls from start to stop
            for j, value in enumerate(lagrange_weights(places, variable(phi))):
                total[j] += speed * value
    return scale / _scale(start, quantity, flow), tuple(total)


def _panels(stop: float, start: float) -> list[tuple[float, float]]:
    """Panels from ``stop`` up to ``start``, in geometric progression unless ``stop`` is 0."""
    if stop <= 0:
        ends = [start * i / _PANELS for i in range(_PANELS + 1)]
    else:
        ends = [stop * (start / stop) ** (i / _PANELS) for i in range(_PANELS + 1)]
    return list(pairwise(ends))


def _scale(phi: float, quantity: str, flow: bool) -> float:
    norm = math.sin(phi) + math.cos(phi) if flow else 1.0
    return {"sample": math.sin(phi) / norm, "epsilon": math.cos(phi) / norm, "velocity": 1.0}[quantity]


def _speed(phi: float, quantity: str, flow: bool) -> float:
    """dκ/dφ."""
    if quantity == "sample":
        return -1 / math.sin(phi) ** 2
    if quantity == "epsilon":
        return 1 / math.cos(phi) ** 2
    return 1 / (math.sin(phi) + math.cos(phi)) ** 2 if flow else 1.0


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Elementwise sum, the shorter one continued by zeros."""
    length = max(len(a), len(b))
    return [(a[i] if i < len(a) else 0.0) + (b[i] if i < len(b) else 0.0) for i in range(length)]
