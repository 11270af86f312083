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

from .folding import Row
from .interpolation import lagrange_weights

_POINTS = 32


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
            correction = _sum(corrected, [0, *(-weight for weight in predicted)])
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

    Fejér's quadrature in a variable that keeps away from the pole of ``dκ/dφ``; ``stop = 0`` takes the limit for the
    clean sample, ``a = 0`` and extrapolation to 0.
    """
    places = [variable(node) for node in nodes]
    if quantity == "sample" and stop <= 0:
        return 0, lagrange_weights(places, variable(0))
    scale = _scale(stop, quantity, flow)
    total: list[float] = [0] * len(nodes)
    for phi, weight in _quadrature(start, stop, quantity):
        speed = scale * weight * _speed(phi, quantity, flow)
        for j, value in enumerate(lagrange_weights(places, variable(phi))):
            total[j] += speed * value
    return scale / _scale(start, quantity, flow), tuple(total)


def _quadrature(start: float, stop: float, quantity: str) -> list[tuple[float, float]]:
    """``(φ, weight)`` from ``start`` to ``stop``, in the logarithm of the distance to the pole, or in φ without one."""
    if quantity == "velocity":
        middle, half = (start + stop) / 2, (stop - start) / 2
        return [(middle + half * point, half * weight) for point, weight in _FEJER]
    pole = 0 if quantity == "sample" else math.pi / 2
    rise = math.log((stop - pole) / (start - pole)) / 2
    offsets = [(start - pole) * math.exp(rise * (1 + point)) for point, _ in _FEJER]
    return [(pole + offset, offset * rise * weight) for offset, (_, weight) in zip(offsets, _FEJER, strict=True)]


def _fejer(points: int) -> tuple[tuple[float, float], ...]:
    """``(point, weight)`` of Fejér's first rule on [-1, 1], exact for polynomials of degree below ``points``."""
    rule = []
    for k in range(points):
        theta = (2 * k + 1) * math.pi / (2 * points)
        terms = (math.cos(2 * j * theta) / ((2 * j) ** 2 - 1) for j in range(1, points // 2 + 1))
        rule.append((math.cos(theta), 2 * (1 - 2 * sum(terms)) / points))
    return tuple(rule)


_FEJER = _fejer(_POINTS)


def _scale(phi: float, quantity: str, flow: bool) -> float:
    norm = math.sin(phi) + math.cos(phi) if flow else 1
    return {"sample": math.sin(phi) / norm, "epsilon": math.cos(phi) / norm, "velocity": 1}[quantity]


def _speed(phi: float, quantity: str, flow: bool) -> float:
    """dκ/dφ."""
    if quantity == "sample":
        return -1 / math.sin(phi) ** 2
    if quantity == "epsilon":
        return 1 / math.cos(phi) ** 2
    return 1 / (math.sin(phi) + math.cos(phi)) ** 2 if flow else 1


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Elementwise sum, the shorter one continued by zeros."""
    length = max(len(a), len(b))
    return [(a[i] if i < len(a) else 0) + (b[i] if i < len(b) else 0) for i in range(length)]
