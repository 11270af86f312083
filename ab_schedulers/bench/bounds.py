"""`ab-schedulers bench bounds`: the error of cached runs on exact flows beside the bound that the theory gives.

Runs are flow Euler in the coordinates of `exact_flows`, from `r = 1` to `r = 0`, in one dimension. Every constant of
the bound is derived from the flow: the Lipschitz constant of its velocity, and bounds on the derivatives of the
velocity along the exact trajectory, from polynomials in Bernstein form, which lie within their coefficients.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ab_schedulers.bench.exact_flows import ExactFlow, GaussianFlow, LinearFlow, LogisticFlow
from ab_schedulers.bench.tables import text_table
from ab_schedulers.numerics import BaseGrid, BaseStep, CachePlan, Row, fold, gronwall_bound, prediction_error_bound

BoundedFlow = LinearFlow | LogisticFlow | GaussianFlow
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Error of a run at `r = 0` against the exact flow, and its bound."""

    error: float
    bound: float


def compare(
    flow: BoundedFlow,
    start: float,
    levels: Sequence[float],
    plan: Sequence[int],
    *,
    order: int,
    corrector: int | None = None,
) -> Comparison:
    """Run cached flow Euler and bound its error.

    Args:
        flow: The flow.
        start: The sample at `r = 1`; between 0 and 1 for the logistic flow.
        levels: The base grid, falling from 1 to 0.
        plan: Base steps that call the model.
        order: Number of outputs that predict.
        corrector: Number of outputs of the corrector.

    Raises:
        ValueError: If a run of the logistic flow leaves the interval from 0 to 1.
    """
    grid = BaseGrid(
        steps=tuple(BaseStep(sample=1.0, outputs=(b - a,)) for a, b in itertools.pairwise(levels)),
        nodes=tuple(levels[:-1]),
    )
    rows = fold(grid, plan, order=order, corrector=corrector)
    sample = torch.tensor([start], dtype=torch.float64)
    history: list[torch.Tensor] = []
    for call, row in zip(plan, rows, strict=True):
        history.insert(0, flow.velocity(sample, levels[call]))
        sample = row.sample * sample + sum(b * f for b, f in zip(row.history, history, strict=False))
        if isinstance(flow, LogisticFlow) and not 0 <= float(sample) <= 1:
            raise ValueError(
                f"the run leaves [0, 1] at r = {levels[call]:g}, where the constants of the logistic flow hold; use "
                "more calls or a lower order."
            )
    exact = flow.solution(torch.tensor([start], dtype=torch.float64), levels[0], levels[-1])
    lipschitz = [_lipschitz(flow, levels[call]) for call in plan]
    defects = _defects(flow, start, levels, grid, plan, rows, order, corrector)
    return Comparison(error=float((sample - exact).abs()), bound=gronwall_bound(rows, lipschitz, defects)[-1])


def _defects(
    flow: BoundedFlow,
    start: float,
    levels: Sequence[float],
    grid: BaseGrid,
    plan: Sequence[int],
    rows: Sequence[Row],
    order: int,
    corrector: int | None,
) -> list[float]:
    """Per call: what the base steps miss of the flow, and what prediction and correction miss of the base steps."""
    ends = [*plan[1:], len(grid.steps)]
    defects = []
    predicted, corrected = 0.0, 0.0
    for call, (begin, end) in enumerate(zip(plan, ends, strict=True)):
        defect = _ROUNDING
        for i in range(begin, end):
            slope = derivative_bound(flow, start, 1, levels[i + 1], levels[i])
            defect += 0.5 * slope * (levels[i] - levels[i + 1]) ** 2
        if corrector is not None and call > 0:
            before = range(plan[call - 1], begin)
            used = plan[max(0, call + 1 - corrector) : call + 1][::-1]
            slope = derivative_bound(flow, start, len(used), levels[begin], levels[used[-1]])
            corrected = prediction_error_bound(grid, before, used, slope)
            defect += abs(rows[call].sample) * (predicted + corrected)
        used = plan[max(0, call + 1 - order) : call + 1][::-1]
        slope = derivative_bound(flow, start, len(used), levels[end], levels[used[-1]])
        predicted = prediction_error_bound(grid, range(begin, end), used, slope)
        defects.append(defect + predicted)
    return defects


def _lipschitz(flow: BoundedFlow, r: float) -> float:
    """Lipschitz constant of the velocity in `z` at `r` (for the logistic flow, between 0 and 1)."""
    if isinstance(flow, GaussianFlow):
        variance = (1 - r) ** 2 * flow.std**2 + r**2
        return abs(r - (1 - r) * flow.std**2) / variance
    return abs(flow.rate)


def derivative_bound(flow: BoundedFlow, start: float, count: int, low: float, high: float) -> float:
    """Bound on the `count`-th derivative in `r` of the velocity along the trajectory, between two levels."""
    first = torch.tensor([start], dtype=torch.float64)
    if isinstance(flow, GaussianFlow):
        return _gaussian_bound(flow, start, count, low, high)
    ends = [float(flow.solution(first, 1.0, r)) for r in (low, high)]
    if isinstance(flow, LinearFlow):
        return abs(flow.rate) ** (count + 1) * max(abs(z) for z in ends)
    polynomial = [0.0, flow.rate, -flow.rate]  # rate z (1 - z), and its derivatives along the flow
    for _ in range(count):
        polynomial = _product(_derivative(polynomial), [0.0, flow.rate, -flow.rate])
    return _largest(polynomial, min(ends), max(ends))


def _gaussian_bound(flow: GaussianFlow, start: float, count: int, low: float, high: float) -> float:
    """`z = (1-r) mean + c sqrt(V)`; the m-th derivative of `sqrt(V)` is a polynomial times `V^(1/2 - m)`."""
    square = flow.std**2
    variance = [square, -2 * square, 1 + square]  # of r, lowest degree first
    polynomial = [1.0]
    for m in range(count + 1):  # z^(count + 1) is the count-th derivative of the velocity
        grown = _product(_derivative(polynomial), variance)
        polynomial = _sum(grown, [(0.5 - m) * c for c in _product(_derivative(variance), polynomial)])
    lowest = square / (1 + square)  # the minimum of V, at r = s^2 / (1 + s^2)
    nearest = min(max(lowest, low), high)
    smallest = (1 - nearest) ** 2 * square + nearest**2
    return abs(start) * _largest(polynomial, low, high) * float(smallest ** (-0.5 - count))


def _derivative(polynomial: Sequence[float]) -> list[float]:
    return [degree * c for degree, c in enumerate(polynomial)][1:] or [0.0]


def _product(left: Sequence[float], right: Sequence[float]) -> list[float]:
    total = [0.0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            total[i + j] += a * b
    return total


def _sum(left: Sequence[float], right: Sequence[float]) -> list[float]:
    length = max(len(left), len(right))
    padded = ([*p, *[0.0] * (length - len(p))] for p in (left, right))
    return [a + b for a, b in zip(*padded, strict=True)]


def _largest(polynomial: Sequence[float], low: float, high: float) -> float:
    """Bound on the size of a polynomial over an interval: the largest coefficient of its Bernstein form there."""
    shifted = [0.0]
    for coefficient in reversed(polynomial):  # Horner's scheme in t, x = low + (high - low) t
        shifted = _sum(_product(shifted, [low, high - low]), [coefficient])
    degree = len(polynomial) - 1
    bernstein = [
        sum(math.comb(i, j) / math.comb(degree, j) * shifted[j] for j in range(i + 1)) for i in range(degree + 1)
    ]
    return max(abs(c) for c in bernstein) * (1 + 1e-9)


_FLOWS: dict[str, tuple[ExactFlow, float]] = {
    "linear, rate 1.5": (LinearFlow(), 1.0),
    "logistic, rate 2": (LogisticFlow(rate=2.0), 0.6),
    "Gaussian, std 0.7": (GaussianFlow(std=0.7), 1.0),
    "Gaussian, std 0.3": (GaussianFlow(), 1.0),
}


def bounds(*, calls: int, interval: int) -> str:
    """Table of error, bound and ratio for every flow, orders 1 to 3, with and without corrector."""
    lines = []
    for name, (flow, start) in _FLOWS.items():
        assert isinstance(flow, BoundedFlow)
        for order, corrector in ((1, None), (2, None), (2, 3), (3, None)):
            plan = CachePlan.uniform(num_calls=calls, cache_interval=interval, warmup_calls=min(order - 1, calls))
            steps = plan.num_base_steps
            levels = [1 - i / steps for i in range(steps + 1)]
            found = compare(flow, start, levels, plan.compute_steps, order=order, corrector=corrector)
            numbers = [f"{found.error:.2e}", f"{found.bound:.2e}", f"{found.bound / found.error:.1f}"]
            lines.append([name, str(order), "-" if corrector is None else str(corrector), *numbers])
    title = f"{calls} model calls, {interval} base steps a call; error at r = 0 against the exact flow"
    return title + "\n\n" + text_table(["flow", "order", "corrector", "error", "bound", "ratio"], lines)
