"""Part 6, continued: the order and the error constant of rows with any predictor and any corrector."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import sympy as sp

from ab_schedulers import numerics

from .observed_orders import run, slope, uniform_plan
from .rendering import table, tex
from .row_limits import euler_grid
from .statements import require, require_equal
from .truncation import base_moment, limit_in_interval, on_power, part, prediction_constant

ORDERS = range(1, 5)
CORRECTORS = range(2, 7)


def correction_constant(outputs: int, interval: int) -> sp.Rational:
    r"""``C*_m(T) = \frac1T \sum_{i<T} \binom{i/T + m - 2}{m}``, with the new output at 1 among the nodes."""
    nodes = [Fraction(1 - j) for j in range(outputs)]
    points = [Fraction(i, interval) for i in range(interval)]
    return sp.Rational(sum(numerics.interpolation_error_constant(nodes, point) for point in points) / interval)


def predicted_defect(order: int, corrector: int, interval: int) -> tuple[int, sp.Rational]:
    """Order of the row and its error constant, as the statement has them."""
    lowest = min(corrector, order + 1)
    constant = sp.Integer(0)
    if corrector <= order + 1:
        constant += correction_constant(corrector, interval)
    if corrector >= order + 1:
        constant += prediction_constant(order, interval)
    return lowest, constant


def corrected_row(order: int, corrector: int, interval: int) -> list[Any]:
    """The row of a uniform plan with unit windows once the history is full."""
    windows = max(order, corrector) + 3
    plan = range(0, windows * interval, interval)
    return list(numerics.fold(euler_grid(interval, windows), plan, order=order, corrector=corrector)[-1].history)


def found_defect(order: int, corrector: int, interval: int) -> tuple[int, sp.Rational]:
    """First power that the running row misses, and what it misses of ``t^power / power!``."""
    row = corrected_row(order, corrector, interval)
    for power in itertools.count():
        missed = base_moment(interval, power) - on_power(row, power)
        if missed:
            return power, sp.Rational(missed / math.factorial(power))
    raise AssertionError("unreachable")


def observed_order(order: int, corrector: int, calls: int = 96) -> float:
    """Slope of the difference to the base on ``dz/dt = -z^2``, three base steps a call, with warm-up calls."""

    def error(count: int) -> float:
        steps, plan = uniform_plan(count, 3, max(order, corrector - 1))
        return abs(run(steps, plan, order, corrector) - run(steps, range(steps), 1))

    return slope(error, calls)


def orders_table() -> str:
    """Order, constant and measured slope over predictor and corrector at three base steps a call."""
    lines = []
    for k in range(1, 4):
        for m in range(2, k + 3):
            order, constant = predicted_defect(k, m, 3)
            lines.append([str(k), str(m), str(order), tex(constant), f"{observed_order(k, m):.2f}"])
    return table(["predictor k", "corrector m", "order", "error constant, T = 3", "slope seen"], lines)


@part.proves(
    "The order of any pair",
    functions=[numerics.fold, numerics.interpolation_error_constant, numerics.adams_moulton_error_constant],
    source="our derivation; PEC methods: Hairer, Norsett and Wanner I, section III.1",
    formulas=lambda: {"orders": orders_table()},
)
def the_order_of_predictor_and_corrector() -> None:
    r"""Against the base, predictor k with a corrector of m outputs has order min(m, k + 1), with these constants.

    The row misses the base's own window by $c\, H^{p+1} f^{(p)}$, $p = \min(m, k+1)$, with

    $$
    c = C^*_m(T) \ (m \le k), \qquad
    c = C_k(T) + C^*_{k+1}(T) \ (m = k + 1), \qquad
    c = C_k(T) \ (m \ge k + 2),
    $$

    $C^*_m(T) = \frac1T \sum_{i<T} \binom{i/T + m - 2}{m}$, the constant of a window that is walked with the new output.

    **Derivation.** The row of a call predicts its own window and replaces, in the window before, the predicted outputs
    by corrected ones. It misses what the prediction misses of its window, $C_k H^{k+1} f^{(k)}(t_{n+1})$, minus what
    the prediction missed of the window before, the same at $t_n$, plus what the correction misses there,
    $C^*_m H^{m+1} f^{(m)}$. The first two differ by $C_k H^{k+2} f^{(k+1)}$ alone. Whichever of $H^{m+1}$ and $H^{k+2}$
    is larger decides; at $m = k + 1$ they are equal and add up. The rows keep the sample (its weight is one), so a
    defect of order $p$ is an error of order $p$ ([part 8](08-stability.md)).

    <<orders>>

    **What it means.** A corrector of more than $k + 1$ outputs buys no order, because the window ahead is still only
    predicted, and has the larger constant; one of fewer than $k$ outputs spoils a good prediction. $m = k + 1$ gains
    an order and $m = k$ a constant. As $T$ grows $C^*_m$ tends to Adams-Moulton's constant. Checked on the running
    rows exactly: orders 1 to 4, correctors 2 to 6, intervals 2 to 4; the slopes of runs within 0.2.
    """
    for k, m in itertools.product(ORDERS, CORRECTORS):
        for fine in (2, 3, 4):
            where = f"predictor {k}, corrector {m}, interval {fine}"
            (order, constant), (power, missed) = predicted_defect(k, m, fine), found_defect(k, m, fine)
            require_equal(power, order, f"order, {where}")
            require_equal(missed, constant, f"constant, {where}")
    for m in CORRECTORS:
        limit = limit_in_interval(lambda t, m=m: correction_constant(m, t), m)
        require_equal(limit, sp.sympify(numerics.adams_moulton_error_constant(m)), f"limit, corrector {m}")
    for k, fine in itertools.product(ORDERS, (2, 3, 4)):
        constants = [predicted_defect(k, m, fine)[1] for m in (k + 1, k + 2)]
        require(bool(0 < constants[0] < constants[1]), f"constants of k + 1 and k + 2, order {k}, interval {fine}")
    for k in range(1, 4):
        for m in range(2, k + 3):
            found = observed_order(k, m)
            require(abs(found - min(m, k + 1)) < 0.2, f"slope of predictor {k}, corrector {m}: {found:.2f}")
