"""Exposure bias: the variance of correlated errors, and the factor ``b(t)`` on the predicted noise that counters it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .interpolation import Number


def published_noise_scale(
    t: float,
    *,
    high: float,
    low: float,
    threshold: float,
    exp: Callable[[Number], Number] = math.exp,
) -> Number:
    """EB-Cache's factor on the predicted noise at ``t`` in [0, 1], where 1 is pure noise.

    ``t >= tau``: ``b_h + (1 - b_h) exp(-5 (1 - t) / (1 - tau))``;
    ``t < tau``: ``b_l + (b_h - b_l) exp(5 (t - tau) / (1 - tau))`` (arXiv:2503.07120, with the
    example values ``b_h = .98``, ``b_l = .96``, ``tau = .4``).

    Derived in docs/theory/09-exposure-bias.md.

    Args:
        t: Timestep as a fraction of the number of training timesteps.
        high: ``b_h``.
        low: ``b_l``.
        threshold: ``tau``, between 0 and 1.
        exp: The exponential function of the number type of ``t``.
    """
    if t >= threshold:
        return high + (1 - high) * exp(-5 * (1 - t) / (1 - threshold))
    return low + (high - low) * exp(5 * (t - threshold) / (1 - threshold))


def correlated_variance(weights: Sequence[Number], correlation: Number) -> Number:
    """``Σ_i Σ_j w_i w_j ρ^|i-j|``: variance of a combination of unit errors correlated by distance.

    With ``N`` weights of one it is ``N + 2 Σ_{0<d<N} (N - d) ρ^d``, the variance of ``N`` consecutive cached
    steps of EB-Cache (arXiv:2503.07120); with the weights of a prediction, what correlated errors of the outputs
    leave in it.

    Derived in docs/theory/09-exposure-bias.md.

    Args:
        weights: Weights of consecutive errors.
        correlation: Correlation ``ρ`` of neighbours.
    """
    total: Number = 0
    for i, weight in enumerate(weights):
        power: Number = 1
        crossed: Number = 0
        for other in weights[i + 1 :]:
            power = power * correlation
            crossed = crossed + power * other
        total = total + weight * (weight + 2 * crossed)
    return total
