"""Part 7: the global error of a cached run, bounded by a discrete Gronwall inequality."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from ab_schedulers import numerics

from .rendering import table
from .statements import Part, require, require_equal

GRONWALL = "Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*, sections I.7 and III.4"

part = Part(
    number=7,
    slug="global_bound",
    title="A bound on the global error",
    opening=r"""
[Part 6](06-truncation.md) says what one window misses. Here the windows are put together: an output that is
Lipschitz in the sample, with constant $L$, passes an error of the sample on, and the rows say with which weights.
The bound holds for any plan, order and grid, and its constants are computed from the rows that run.
""",
)


def walk(rows: Sequence[numerics.Row], start: Any, outputs: Sequence[Any], slopes: Sequence[Any]) -> list[Any]:
    """Samples of a run whose output at call ``n`` is ``outputs[n] + slopes[n] sample``, after every call."""
    samples, history = [start], []
    for n, row in enumerate(rows):
        history.insert(0, outputs[n] + slopes[n] * samples[-1])
        total = row.sample * samples[-1]
        samples.append(total + sum(b * f for b, f in zip(row.history, history, strict=False)))
    return samples[1:]


def graded_grid(count: int) -> numerics.BaseGrid:
    """Flow Euler from 0 to 1 on steps that grow linearly, in fractions."""
    times = [Fraction(i * (i + count), 2 * count * count) for i in range(count + 1)]
    steps = [numerics.BaseStep(sample=Fraction(1), outputs=(times[i + 1] - times[i],)) for i in range(count)]
    return numerics.BaseGrid(steps=tuple(steps), nodes=tuple(times[:-1]))


def ddim_grid(count: int) -> numerics.BaseGrid:
    """DDIM with the clean sample cached, whose rows shrink the sample, in fractions."""
    sigmas = [Fraction(count + 1 - i, count + 1) for i in range(count + 1)]
    steps = tuple(
        numerics.ddim_step(numerics.quantity_map("sample", 1 - s, s), 1 - s_next, s_next)
        for s, s_next in itertools.pairwise(sigmas)
    )
    return numerics.BaseGrid(steps=steps, nodes=tuple(sigmas[:-1]))


PLANS = {12: ((0, 3, 6, 9), (0, 1, 2, 6, 11), (0, 5)), 20: (tuple(range(0, 20, 4)), (0, 2, 3, 9, 10, 17))}


@part.proves(
    "The recursion of errors",
    functions=[numerics.gronwall_bound],
    source=GRONWALL,
)
def no_run_leaves_the_bound() -> None:
    r"""The error after every call is at most that of the recursion with the sizes of the row's weights.

    With rows $x_{n+1} = a_n x_n + \sum_j b_{n,j} f_{n-j}$, a trajectory $X_n$ whose outputs $F_n$ leave the defect
    $\delta_n = X_{n+1} - a_n X_n - \sum_j b_{n,j} F_{n-j}$, and $\|f_n - F_n\| \le L_n \|x_n - X_n\|$:

    $$
    \|x_n - X_n\| \le e_n, \qquad e_{n+1} = |a_n|\, e_n + \sum_j |b_{n,j}|\, L_{n-j}\, e_{n-j} + \|\delta_n\| .
    $$

    **Derivation.** Subtract the two recursions and take norms; by induction. If all outputs err in the direction
    in which the weights enter, nothing is lost, so the recursion cannot be sharpened without more knowledge of $f$.

    **What it means.** The bound costs a loop over scalars and holds in every norm. It needs no smoothness: only
    $\delta_n$ does. Checked in fractions, for flow Euler on a graded grid and DDIM with the clean sample cached, five
    plans, orders 1 to 4 with and without corrector: for outputs of either sign and random trajectories no run
    leaves the bound, and where all signs agree it is attained.
    """
    for count, plans in PLANS.items():
        for grid in (graded_grid(count), ddim_grid(count)):
            for plan in plans:
                for order, corrector in ((1, None), (2, None), (2, 3), (3, None), (4, None), (4, 2)):
                    _check_runs(numerics.fold(grid, plan, order=order, corrector=corrector))


def _check_runs(rows: Sequence[numerics.Row]) -> None:
    """Two runs from different starts and with outputs of different intercept: their distance against the bound."""
    calls = len(rows)
    for signs in ((1,) * calls, tuple((-1) ** (n * n // 3) for n in range(calls))):
        lipschitz = [Fraction(n % 3 + 1, 2) for n in range(calls)]
        slopes = [sign * constant for sign, constant in zip(signs, lipschitz, strict=True)]
        outputs = [Fraction((7 * n) % 5 - 2, 3) for n in range(calls)]
        trajectory = walk(rows, Fraction(1), outputs, slopes)
        defects = [Fraction((3 * n) % 7 - 3, 50) for n in range(calls)]
        samples, history = [Fraction(3, 2)], []
        for n, row in enumerate(rows):
            history.insert(0, outputs[n] + slopes[n] * samples[-1])
            combined = sum(b * f for b, f in zip(row.history, history, strict=False))
            samples.append(row.sample * samples[-1] + combined + defects[n])
        bound = numerics.gronwall_bound(rows, lipschitz, [abs(d) for d in defects], Fraction(1, 2))
        for n, (x, reached, limit) in enumerate(zip(samples[1:], trajectory, bound, strict=True)):
            require(abs(x - reached) <= limit, f"call {n} of {calls}: {x - reached} exceeds {limit}")
    positive = [row for row in rows if row.sample >= 0 and all(b >= 0 for b in row.history)]
    if len(positive) == calls:
        ones = [Fraction(1)] * calls
        apart = walk(rows, Fraction(1), [Fraction(0)] * calls, ones)
        bound = numerics.gronwall_bound(rows, ones, [Fraction(0)] * calls, Fraction(1))
        require_equal(apart[-1], bound[-1], "attained where all signs agree")


@part.proves(
    "The defect of a window",
    functions=[numerics.prediction_error_bound, numerics.window_output_weights, numerics.fold],
    source="our derivation",
)
def the_defect_is_bounded_by_a_derivative() -> None:
    r"""Prediction leaves at most M_k sum_i |W_i| prod_j |t_i - x_j| / k! in the end of a window, on any grid.

    $W_i = B_i \prod_{i' > i} A_{i'}$ is the weight with which the output of step $i$ enters the end of the window, and
    $M_k$ a bound on $f^{(k)}$ along the trajectory. Against the base on the same grid nothing else is missed; against
    the exact flow each Euler step adds at most $h_i^2 M_1 / 2$. A corrected row misses at most
    $D_n + |a_n| (D_{n-1} + D'_{n-1})$, with $D'$ the same sum on the corrector's nodes.

    **Derivation.** The error of interpolation at $t_i$, times the weight of that output. The row of a call with a
    corrector is its predictor, minus what the predictor missed of the window before, plus what the corrector missed of
    it.

    **What it means.** The constant takes the nodes and the weights as they are, so warm-ups, uneven plans and graded
    grids need no theory of their own. Checked in fractions for $f = t^k/k!$, whose $k$-th derivative is one: the defect
    equals the bound on flow Euler, where all products have one sign, and with a corrector stays within it.
    """
    for count, plans in PLANS.items():
        for plan in plans:
            for grid in (graded_grid(count), ddim_grid(count)):
                for order in (1, 2, 3, 4):
                    rows = numerics.fold(grid, plan, order=order)
                    for call, row in enumerate(rows):
                        degree = min(order, call + 1)
                        missed, bound = window_defect(grid, plan, call, row, degree)
                        require_equal(missed, bound, f"call {call} of {plan}, order {order}")
    for order, corrector in ((2, 2), (2, 3), (3, 3)):
        _check_corrected(graded_grid(12), (0, 2, 4, 7, 9), order, corrector)


def known_steps(plan: Sequence[int], call: int, order: int, *, corrects: bool = False) -> list[int]:
    """Base steps of the outputs that predict the window of a call, or that correct it."""
    newest = call + 1 if corrects else call
    return [plan[newest - j] for j in range(min(order, newest + 1))]


def window_of(grid: numerics.BaseGrid, plan: Sequence[int], call: int) -> range:
    """Base steps of a call."""
    return range(plan[call], [*plan, len(grid.steps)][call + 1])


def window_defect(
    grid: numerics.BaseGrid, plan: Sequence[int], call: int, row: numerics.Row, degree: int
) -> tuple[Any, Any]:
    """What a predicted row misses of ``f = t^degree / degree!``, and the bound with derivative one."""
    window, known = window_of(grid, plan, call), known_steps(plan, call, degree)
    weights = numerics.window_output_weights(grid, window)
    own = sum(w * grid.nodes[i] ** degree for w, i in zip(weights, window, strict=True))
    cached = sum(b * grid.nodes[i] ** degree for b, i in zip(row.history, known, strict=False))
    missed = abs(own - cached) / math.factorial(degree)
    return missed, numerics.prediction_error_bound(grid, window, known, Fraction(1))


def _check_corrected(grid: numerics.BaseGrid, plan: Sequence[int], order: int, corrector: int) -> None:
    """Defects of corrected rows on ``f = t^k / k!`` with full histories, ``k`` the larger number of outputs."""
    power = max(order, corrector)
    rows = numerics.fold(grid, plan, order=order, corrector=corrector)
    for call in range(power, len(rows)):
        window = window_of(grid, plan, call)
        weights = numerics.window_output_weights(grid, window)
        own = sum(w * grid.nodes[i] ** power for w, i in zip(weights, window, strict=True))
        cached = sum(b * grid.nodes[plan[call - j]] ** power for j, b in enumerate(rows[call].history))
        before = window_of(grid, plan, call - 1)
        # the derivatives of t^power / power! on [0, 1] are at most one
        bounds = [
            numerics.prediction_error_bound(grid, window, known_steps(plan, call, order), Fraction(1)),
            numerics.prediction_error_bound(grid, before, known_steps(plan, call - 1, order), Fraction(1)),
            numerics.prediction_error_bound(
                grid, before, known_steps(plan, call - 1, corrector, corrects=True), Fraction(1)
            ),
        ]
        missed = abs(own - cached) / math.factorial(power)
        require(missed <= bounds[0] + abs(rows[call].sample) * (bounds[1] + bounds[2]), f"corrected call {call}")


def decay_error_and_bound(plan: Sequence[int], count: int, order: int) -> tuple[Fraction, Fraction]:
    r"""Error of a cached run on ``dz/dt = -z^2``, ``z = 1/(1 + t)``, at ``t = 1``, and its bound.

    ``|f^{(m)}| = (m+1)!/(1+t)^{m+2}`` falls with time, and ``L = 2`` as long as run and flow stay within one.
    """
    grid = graded_grid(count)
    rows = numerics.fold(grid, plan, order=order)
    samples, history = [Fraction(1)], []
    for row in rows:
        history.insert(0, -(rounded(samples[-1]) ** 2))
        combined = sum(b * f for b, f in zip(row.history, history, strict=False))
        samples.append(row.sample * samples[-1] + combined)
    require(all(0 <= x <= 1 for x in samples), "the run stays where L = 2")
    defects = []
    for call in range(len(rows)):
        window, known = window_of(grid, plan, call), known_steps(plan, call, order)
        oldest, degree = grid.nodes[known[-1]], len(known)
        derivative = math.factorial(degree + 1) / (1 + oldest) ** (degree + 2)
        base = sum(grid.steps[i].outputs[0] ** 2 / (1 + grid.nodes[i]) ** 3 for i in window)  # h^2 M_1 / 2
        rounding = sum(abs(b) for b in rows[call].history) * Fraction(1, 10**12)
        defects.append(numerics.prediction_error_bound(grid, window, known, derivative) + base + rounding)
    bound = numerics.gronwall_bound(rows, [Fraction(2)] * len(rows), defects)
    return abs(samples[-1] - Fraction(1, 2)), bound[-1]


def rounded(value: Fraction) -> Fraction:
    """The value to fifteen digits, so that fractions stay short; the square then errs by less than ``10^-12``."""
    return Fraction(round(value * 10**15), 10**15)


def ratios_table() -> str:
    """Error, bound and their ratio for several plans and orders."""
    lines = []
    for interval in (2, 3, 4):
        for order in (1, 2, 3):
            count = 48
            plan = [*range(order - 1), *range(order - 1, count, interval)]
            error, bound = decay_error_and_bound(plan, count, order)
            numbers = (f"{float(error):.3g}", f"{float(bound):.3g}", f"{float(bound / error):.0f}")
            lines.append([str(interval), str(order), str(len(plan)), *numbers])
    return table(["T", "k", "calls", "error", "bound", "bound / error"], lines)


@part.proves(
    "From local to global",
    functions=[numerics.gronwall_bound, numerics.prediction_error_bound],
    source=GRONWALL + "; the constants are our derivation",
    formulas=lambda: {"ratios": ratios_table()},
)
def the_bound_holds_on_a_flow() -> None:
    r"""In flow coordinates the error is at most the sum of the defects times prod (1 + L G_n), at most exp(L sum G_n).

    $G_n = \sum_j |b_{n,j}|$ is the noise gain of the row times its window, so $\sum G_n$ is about the noise gain of the
    method.

    $$
    e_N \le \Bigl(e_0 + \sum_n \|\delta_n\|\Bigr) \prod_n (1 + L\, G_n)
        \le \Bigl(e_0 + \sum_n \|\delta_n\|\Bigr)\, e^{L \sum_n G_n} .
    $$

    **Derivation.** Let $E_n$ be the largest of $e_0, \dots, e_n$; then $E_{n+1} \le (1 + L G_n) E_n + \|\delta_n\|$, as
    $a_n = 1$; unroll. Then $1 + x \le e^x$.

    On $dz/dt = -z^2$ from one, a graded grid of 48 base steps and $k - 1$ warm-up calls, against the exact flow:

    <<ratios>>

    <<bound>>

    **What it means.** The order of the defects is the order of the run. The price of a bound is the exponent: it
    adds up sizes where errors of opposite sign cancel. `ab-schedulers bench bounds` prints the ratio on the flows that
    diffusion models follow. Checked: the closed form against the recursion for the plans above, and the bound against
    the error on this flow, in fractions.
    """
    for interval in (2, 3, 4, 6):
        for order in (1, 2, 3, 4):
            plan = [*range(order - 1), *range(order - 1, 36, interval)]
            error, bound = decay_error_and_bound(plan, 36, order)
            where = f"interval {interval}, order {order}: error {float(error):.2e}, bound {float(bound):.2e}"
            require(0 < error <= bound, where)
            require(order > 2 or bound < 100 * error, f"the bound is of the size of the error, {where}")
    grid = graded_grid(20)
    for plan in PLANS[20]:
        for order in (1, 2, 3):
            rows = numerics.fold(grid, plan, order=order)
            defects = [Fraction(n + 1, 100) for n in range(len(rows))]
            total, growth = Fraction(1, 7) + sum(defects), Fraction(1)
            for row in rows:
                growth *= 1 + Fraction(3, 2) * numerics.noise_gain(row.history)
            bound = numerics.gronwall_bound(rows, [Fraction(3, 2)] * len(rows), defects, Fraction(1, 7))
            require(bound[-1] <= total * growth, f"closed form, order {order}, plan {plan}")
