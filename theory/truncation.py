"""Part 6: what a cached step misses, and what start and corrector do to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import sympy as sp

from ab_schedulers import numerics

from .rendering import row_tex, table, tex
from .row_limits import euler_grid
from .statements import Part, require, require_all_equal, require_equal

part = Part(
    number=6,
    slug="truncation",
    title="Truncation error and order",
    opening=r"""
"Order $k$" is easily misread. A cached run can be compared with the *base sampler on the same grid* or with
the *exact flow*, and the grid can be refined with the interval $T$ fixed or with the calls fixed. This page
gives the local error with its constant, and says which order is seen in which comparison. Everything is stated
for flow Euler, which by [part 3](03-base-steps.md) is every deterministic first-order sampler in the right
coordinates; $H$ is the length of a window, $H/T$ that of a base step.
""",
)


def prediction_constant(order: int, interval: int) -> sp.Rational:
    r"""``C_k(T) = \frac1T \sum_{i<T} \binom{i/T + k - 1}{k}``, from the nodes of a uniform plan."""
    nodes = [Fraction(-j) for j in range(order)]
    points = [Fraction(i, interval) for i in range(interval)]
    return sp.Rational(sum(numerics.interpolation_error_constant(nodes, point) for point in points) / interval)


def difference_weights(order: int) -> list[int]:
    r"""Weights of ``f_n, f_{n-1}, ...`` in the backward difference of the given order."""
    return [(-1) ** j * math.comb(order, j) for j in range(order + 1)]


def steady_row(fine: int, order: int, corrector: int | None = None) -> list[Any]:
    """The row of a uniform plan with unit windows once the history is full, padded to ``order + 1`` weights."""
    windows = order + 3
    rows = numerics.fold(euler_grid(fine, windows), range(0, windows * fine, fine), order=order, corrector=corrector)
    history = list(rows[-1].history)
    return history + [Fraction(0)] * (order + 1 - len(history))


def base_moment(fine: int, power: int) -> Fraction:
    """What the base sampler makes of ``f = t^power`` over a window of length one."""
    return sum((Fraction(i, fine) ** power for i in range(fine)), start=Fraction(0)) / fine


def on_power(history: Sequence[Any], power: int) -> Any:
    """A row's combination of ``f = t^power`` with the calls at 0, -1, -2, ..."""
    return sum(b * (Fraction(-j) ** power) for j, b in enumerate(history))


def constants_table() -> str:
    """The constants over order and interval, and their limit."""
    lines = []
    for k in range(1, 6):
        limit = numerics.adams_bashforth_error_constant(k)
        lines.append([str(k), *(tex(prediction_constant(k, t)) for t in (1, 2, 3, 4, 6)), tex(limit)])
    return table(["k", *(f"T = {t}" for t in (1, 2, 3, 4, 6)), "limit"], lines)


@part.proves(
    "Local error of a cached window",
    functions=[numerics.fold, numerics.interpolation_error_constant, numerics.adams_bashforth_error_constant],
    source="our derivation; AB-Cache, arXiv:2504.10540, states the power of h",
    formulas=lambda: {"constants": constants_table()},
)
def the_window_misses_a_derivative() -> None:
    r"""A window predicted from k outputs misses the base sampler's own by C_k(T) H^(k+1) f^(k).

    $$
    \text{base} - \text{cached} = C_k(T)\, H^{k+1} f^{(k)}(\xi), \qquad
    C_k(T) = \frac1T \sum_{i=0}^{T-1} \binom{i/T + k - 1}{k} ,
    $$

    and on any nodes by $\sum_i h_i \prod_j (t_i - x_j) f^{(k)}(\xi_i) / k!$ over the skipped steps $h_i$ at $t_i$.

    **Derivation.** A prediction at $t_i$ misses the output by $\prod_j (t_i - x_j) f^{(k)}(\xi_i)/k!$, and the base
    step multiplies it by $h_i$. The products have one sign, so one $\xi$ serves all.

    <<constants>>

    **What it means.** $C_k(1) = 0$: nothing is predicted. The constant rises with $T$ to that of
    Adams-Bashforth, so a longer interval costs little beyond what the longer window $H$ costs: order two at $T = 3$
    has 62 % of the constant of its limit. Checked on the running rows: orders 1 to 5, intervals 1 to 6, and on
    graded grids with uneven plans.
    """
    for k in range(1, 6):
        for fine in range(1, 7):
            row = steady_row(fine, k)
            for m in range(k):
                require_equal(on_power(row, m), base_moment(fine, m), f"power {m}, order {k}, interval {fine}")
            missed = (base_moment(fine, k) - on_power(row, k)) / math.factorial(k)
            require_equal(missed, prediction_constant(k, fine), f"constant, order {k}, interval {fine}")
        rise = [prediction_constant(k, fine) for fine in range(1, 8)]
        require(all(a < b for a, b in itertools.pairwise(rise)), f"the constant rises, order {k}")
        limit = sp.sympify(numerics.adams_bashforth_error_constant(k))
        require_equal(limit_in_interval(lambda fine, k=k: prediction_constant(k, fine), k), limit, f"limit, order {k}")
    _on_graded_grids()


def limit_in_interval(value: Callable[[int], Any], degree: int) -> sp.Expr:
    """Limit for ever larger intervals of a polynomial in ``1/T`` of at most the given degree."""
    e = sp.Symbol("e")
    points = [(sp.Rational(1, t), sp.sympify(value(t))) for t in range(1, degree + 2)]
    return sp.sympify(sp.interpolate(points, e)).subs(e, 0)


def _on_graded_grids() -> None:
    """Every row of an uneven plan on a graded grid against the sum over the skipped steps."""
    times = [Fraction(i * (i + 5), 40) for i in range(16)]
    steps = tuple(numerics.BaseStep(sample=Fraction(1), outputs=(b - a,)) for a, b in itertools.pairwise(times))
    grid = numerics.BaseGrid(steps=steps, nodes=tuple(times[:-1]))
    plan = (0, 1, 3, 4, 8, 11)
    for k in (1, 2, 3, 4):
        for call, row in enumerate(numerics.fold(grid, plan, order=k)):
            known = [times[plan[call - j]] for j in range(min(k, call + 1))]
            window = range(plan[call], [*plan, 15][call + 1])
            degree = len(known)
            own = sum(steps[i].outputs[0] * times[i] ** degree for i in window)
            cached = sum(b * x**degree for b, x in zip(row.history, known, strict=False))
            constants = [numerics.interpolation_error_constant(known, times[i]) for i in window]
            missed = sum(steps[i].outputs[0] * c for i, c in zip(window, constants, strict=True))
            require_equal((own - cached) / math.factorial(degree), missed, f"call {call}, order {k}")


def comparisons_table() -> str:
    """Leading local errors at interval 3 against base and flow, and against the flow in the limit."""
    lines = []
    for k in (1, 2, 3, 4):
        power, limit = f"H^{{{k + 1}}} f^{{({k})}}", sp.sympify(numerics.adams_bashforth_error_constant(k))
        values = (prediction_constant(k, 3), power), (flow_defect(k, 3, 1), "H^2 f'"), (limit, power)
        lines.append([str(k), *(rf"${sp.latex(constant)}\, {what}$" for constant, what in values)])
    return table(["k", "local error to the base", "to the flow, T fixed", r"to the flow, $T \to \infty$"], lines)


@part.proves(
    "Three orders of one run",
    functions=[numerics.fold],
    source="our derivation, by the Euler-Maclaurin formula",
    formulas=lambda: {
        "rows": comparisons_table(),
    },
)
def the_order_depends_on_the_comparison() -> None:
    r"""The order is k against the base on the same grid, min(p, k) against the flow at fixed T, and k as T grows.

    $p$ is the order of the base, 1 for flow Euler. Against the exact flow the row misses $f = t^m$ by

    $$
    \int_0^1 t^m dt - \sum_j b_j (-j)^m = \frac{1}{m+1} - \frac1T \sum_{i<T} (i/T)^m = \frac{1}{2T} + O(T^{-2})
    \qquad (1 \le m < k),
    $$

    which is the *base's own* error and does not depend on $k$.

    **Derivation.** For $m < k$ prediction is exact, so the row does what the base does: a left Riemann sum. Its first
    missed power is $m = p$. The errors of caching begin at $m = k$. Whichever power is lower decides, hence
    $\min(p, k)$. As $T$ grows the base's share falls as $1/T$ and leaves the Adams-Bashforth error. At $T = 3$:

    <<rows>>

    <<order_comparisons>>

    **What it means.** Someone who halves the step at fixed $T$ and compares with the exact flow sees order one
    from any cached flow Euler, however good the prediction. To see order $k$, compare with the base, or refine the
    base grid until its share is negligible: $T$ must grow like $H^{1-k}$. Checked exactly for orders 1 to 5,
    intervals 1 to 8, and for a base of order two.
    """
    for k in range(1, 6):
        for fine in range(1, 9):
            row = steady_row(fine, k)
            require_equal(on_power(row, 0), 1, f"constants, order {k}, interval {fine}")
            for m in range(1, k):
                own = sp.Rational(1, m + 1) - sp.Rational(base_moment(fine, m))
                require_equal(sp.Rational(1, m + 1) - sp.sympify(on_power(row, m)), own, f"power {m}, order {k}")
            first = sp.Rational(1, 2) - sp.sympify(on_power(row, 1))
            lowest = sp.Rational(1, 2 * fine) + (prediction_constant(1, fine) if k == 1 else 0)
            require_equal(first, lowest, f"leading error to the flow, order {k}, interval {fine}")
        for m in range(1, k):
            own = limit_in_interval(lambda t, m=m: base_moment(t, m), m)
            require_equal(own, sp.Rational(1, m + 1), f"the base's share vanishes, power {m}")
        limit = limit_in_interval(lambda t, k=k: sp.Rational(1, k + 1) - on_power(steady_row(t, k), k), k)
        require_equal(limit / sp.factorial(k), numerics.adams_bashforth_error_constant(k), f"limit, order {k}")
        for fine in (2, 3, 4):
            row = second_order_base_row(fine, k)
            first = next(m for m in range(4) if on_power(row, m) != sp.Rational(1, m + 1))
            require_equal(first, min(2, k), f"base of order 2, order {k}, interval {fine}")


def second_order_base_row(fine: int, order: int) -> list[Any]:
    """The row of a full history where the base is Adams-Bashforth of order 2."""
    windows = order + 3
    weights = tuple(w / fine for w in numerics.adams_bashforth_weights(2))
    steps = tuple(
        numerics.BaseStep(sample=Fraction(1), outputs=weights if i else (Fraction(1, fine),))
        for i in range(windows * fine)
    )
    nodes = tuple(Fraction(i, fine) for i in range(windows * fine))
    return list(
        numerics.fold(numerics.BaseGrid(steps=steps, nodes=nodes), range(0, windows * fine, fine), order=order)[
            -1
        ].history
    )


def flow_defect(order: int, fine: int, power: int) -> sp.Expr:
    """What the row misses of ``t^power / power!`` against the exact integral."""
    missed = sp.Rational(1, power + 1) - sp.sympify(on_power(steady_row(fine, order), power))
    return missed / sp.factorial(power)


def corrected_table() -> str:
    """Limits of the rows with correctors of k and k + 1 outputs, with their error constants."""
    lines = []
    for k in (1, 2, 3):
        for corrector in (k, k + 1):
            weights = corrected_limit(k, corrector)
            exact = next(m for m in range(k + 3) if on_power(weights, m) != sp.Rational(1, m + 1))
            constant = (sp.Rational(1, exact + 1) - on_power(weights, exact)) / sp.factorial(exact)
            gain = numerics.noise_gain(weights)
            lines.append([str(k), str(corrector), row_tex(weights), str(exact), tex(constant), tex(gain)])
    return table(["predictor", "corrector", "row in the limit", "order", "error constant", "noise gain"], lines)


def corrected_limit(order: int, corrector: int) -> list[sp.Expr]:
    """Weights of the folded row with a corrector, for ever larger intervals."""
    return [limit_in_interval(lambda t, j=j: steady_row(t, order, corrector)[j], order + 1) for j in range(order + 1)]


@part.proves(
    "What the corrector adds",
    functions=[numerics.fold, numerics.adams_bashforth_weights],
    source="our derivation; Milne's device in PEC form: Hairer, Norsett and Wanner I, section III.1",
    formulas=lambda: {"rows": corrected_table()},
)
def the_corrector_adds_a_difference() -> None:
    r"""A corrector of k + 1 outputs adds C_k(T) times the k-th difference to the next row: one order more, for free.

    $$
    b^{(k,\,k+1)} = b^{(k)} + C_k(T)\, \nabla^k, \qquad b^{(k,\,k)} = b^{(k)} + C_{k-1}(T)\, \nabla^k ,
    $$

    so with $k + 1$ outputs the row is exact for powers up to $k$, and in the limit it *is* Adams-Bashforth of order
    $k + 1$. With $k \ge 2$ outputs the order stays $k$, and the error constant becomes $C_k - C_{k-1}$, in the limit
    that of Adams-Moulton.

    **Derivation.** The two interpolants of the window before agree at the $k$ (or $k-1$) nodes they share; their
    difference is $\nabla^k f_n$ times $\binom{s+k-1}{k}$ (or $\binom{s+k-2}{k-1}$). Walking the window averages
    the binomial over its steps, which is $C$.

    <<rows>>

    **What it means.** In this form a corrector is not a second method: it *is* the next backward difference, with the
    weight that the interval asks for. At order 2 the choice is between Adams-Bashforth 3 (corrector 3: gain
    $11/3$) and a second-order row with a constant five times smaller (corrector 2: gain 4). Checked: orders 1 to
    4, intervals 1 to 6.
    """
    for k in range(1, 5):
        for fine in range(1, 7):
            plain = steady_row(fine, k)
            for corrector, lower in ((k + 1, k), (k, k - 1)):
                weight = prediction_constant(lower, fine) if lower else int(fine > 1) * sp.Rational(fine - 1, fine)
                change = [weight * d for d in difference_weights(k)]
                corrected = steady_row(fine, k, corrector)
                added = [sp.sympify(c - p) for c, p in zip(corrected, plain, strict=True)]
                require_all_equal(added, change, f"predictor {k}, corrector {corrector}, interval {fine}")
            for m in range(k + 1):
                found = on_power(steady_row(fine, k, k + 1), m)
                require_equal(found, base_moment(fine, m), f"power {m}, corrector {k + 1}, interval {fine}")
        require_all_equal(corrected_limit(k, k + 1), numerics.adams_bashforth_weights(k + 1), f"limit, order {k}")
