"""The numbers of the pictures, from the functions that run, rounded to what a picture can show."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ab_schedulers import numerics

from ..amplification import worst_gain
from ..global_bound import decay_error_and_bound
from ..observed_orders import predicted, refined_error, run_error
from ..row_limits import euler_row

MEASURED = Path(__file__).parents[1] / "measured_similarity.json"

INTERVAL = 3
REGION_ORDER = 3
INTERVALS = (1, 2, 3, 6)
GAIN_INTERVALS = range(2, 13)
SLOPE_CALLS = (12, 24, 48, 96, 192)
COMPARED_ORDER = 3
BOUND_STEPS = (12, 18, 24, 36, 48, 72, 96, 144)
RASTER_CALLS = 17
PLACEMENT = {"shift": 1.0, "power": 1.25}

Numbers = dict[str, Any]


def rounded(values: Iterable[float], digits: int = 4) -> list[float]:
    """Significant digits that a picture can show; the last bits of a sum depend on the Python that adds it."""
    return [float(f"{float(value):.{digits}g}") for value in values]


def region(row: Sequence[Any], points: int = 121) -> Numbers:
    """Upper half of the boundary of the region of absolute stability of a row, for windows of length one.

    The points ``z = zeta^(k-1) (zeta - 1) / sum_j b_j zeta^(k-1-j)`` with ``|zeta| = 1`` whose other roots do
    not lie outside the unit circle.
    """
    weights = np.array([float(b) for b in row])
    order = len(weights)
    kept = []
    for angle in np.linspace(0.0, math.pi, points):
        root = complex(math.cos(angle), math.sin(angle))
        z = root ** (order - 1) * (root - 1) / np.polyval(weights, root)
        polynomial = np.concatenate([[1.0, -1.0], np.zeros(order - 1)]).astype(complex)
        polynomial[1:] -= z * weights
        if np.abs(np.roots(polynomial)).max() <= 1 + 1e-6:
            kept.append(z)
    return {"real": rounded(z.real for z in kept), "imaginary": rounded(abs(z.imag) for z in kept)}


def stability_by_order() -> Numbers:
    """Regions of cached flow Euler beside those of Adams-Bashforth of the same order."""
    return {
        "interval": INTERVAL,
        "cached": {str(k): region(euler_row(k, INTERVAL)) for k in range(1, 5)},
        "adams_bashforth": {str(k): region(numerics.adams_bashforth_weights(k)) for k in range(1, 5)},
    }


def stability_by_interval() -> Numbers:
    """Regions of one order as the interval grows."""
    return {
        "order": REGION_ORDER,
        "cached": {str(t): region(euler_row(REGION_ORDER, t)) for t in INTERVALS},
        "adams_bashforth": region(numerics.adams_bashforth_weights(REGION_ORDER)),
    }


def noise_gain() -> Numbers:
    """Largest gain in a window over the interval, and its limit."""
    return {
        "intervals": list(GAIN_INTERVALS),
        "gain": {str(k): rounded(worst_gain(k, t) for t in GAIN_INTERVALS) for k in range(1, 6)},
        "limit": {str(k): float(numerics.noise_gain(numerics.binomial_weights(k))) for k in range(1, 6)},
    }


def _errors(pairs: Iterable[tuple[float, float]], order: int) -> Numbers:
    lengths, errors = zip(*pairs, strict=True)
    return {"window": rounded(lengths), "error": rounded(errors), "predicted_order": order}


def order_slopes() -> Numbers:
    """Difference to the base on the same grid over the length of a window, orders 1 to 4."""
    return {
        kind: {
            str(k): _errors((run_error(k, kind, calls) for calls in SLOPE_CALLS), predicted(k, kind))
            for k in range(1, 5)
        }
        for kind in ("base", "corrector")
    }


def order_comparisons() -> Numbers:
    """One order in four comparisons."""
    k = COMPARED_ORDER
    found = {
        kind: _errors((run_error(k, kind, calls) for calls in SLOPE_CALLS), predicted(k, kind))
        for kind in ("base", "plain start", "flow")
    }
    return found | {"refined": _errors((refined_error(k, calls) for calls in (16, 32, 48, 96)), k)}


def bound() -> Numbers:
    """Error and proven bound of cached runs over their calls."""
    found = {}
    for order in (1, 2, 3):
        plans = [[*range(order - 1), *range(order - 1, count, INTERVAL)] for count in BOUND_STEPS]
        pairs = [
            decay_error_and_bound(plan, plan_steps, order) for plan, plan_steps in zip(plans, BOUND_STEPS, strict=True)
        ]
        found[str(order)] = {
            "calls": [len(plan) for plan in plans],
            "error": rounded(error for error, _ in pairs),
            "bound": rounded(limit for _, limit in pairs),
        }
    return found


def skip_raster() -> Numbers:
    """Which base steps call the model, for several plans with as many calls."""
    n, steps = RASTER_CALLS, RASTER_CALLS * INTERVAL
    ratios = [math.inf, *((steps - i) / i for i in range(1, steps))]
    plans = {
        "uniform": numerics.CachePlan.uniform(num_calls=n, cache_interval=INTERVAL),
        "warm-up": numerics.CachePlan.uniform(num_calls=n, cache_interval=INTERVAL, warmup_calls=3),
        "50 steps": numerics.CachePlan.uniform(num_calls=n, num_base_steps=50),
        "placed": numerics.CachePlan.from_steps(numerics.place_calls(ratios, n, **PLACEMENT), num_base_steps=steps),
    }
    return {name: {"steps": p.num_base_steps, "calls": list(p.compute_steps)} for name, p in plans.items()}


def similarity() -> Numbers:
    """Change of the output between adjacent calls, measured on models and mixtures, and by the formula.

    Measured by ``ab-schedulers bench similarity --json theory/measured_similarity.json``.
    """
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    curves = {
        name: {
            "r": curve["places"],
            "measured": rounded(1 - value for value in curve["similarity"]),
            "formula": rounded(1 - value for value in curve["similarity_formula"]),
        }
        for name, curve in measured.items()
        if name != "settings"
    }
    return {"settings": measured["settings"], "curves": curves}
