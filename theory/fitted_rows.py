"""Part 10: rows fitted by ridge least squares, and plans chosen by the sum of their residuals."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from ab_schedulers import numerics

from .global_bound import graded_grid, walk
from .statements import Part, rational_functions, require, require_all_equal, require_equal

part = Part(
    number=10,
    slug="fitted_rows",
    title="Fitted rows and searched plans",
    opening=r"""
A row is linear in its weights, so the best weights for a given model are a small least-squares problem: on recorded
runs, find the change $c$ of the weights that brings $\sum_p c_p f_p$ closest to $m$, what the row misses of the
reference at the end of its window. The features $f_p$ are the sample and the cached outputs. A ridge $\mu |c|^2$
pulls toward the row one starts from, a theory row or the row of a stock scheduler ([part 5](05-multistep.md)). This
page says what that guarantees and what it does not.
""",
)


def dot(left: Sequence[Any], right: Sequence[Any]) -> Any:
    """Inner product."""
    return sum(a * b for a, b in zip(left[1:], right[1:], strict=True)) + left[0] * right[0]


def normal_equations(features: Sequence[Sequence[Any]], missed: Sequence[Any]) -> tuple[list[list[Any]], list[Any]]:
    """Gram matrix and right side."""
    return [[dot(f, g) for g in features] for f in features], [dot(f, missed) for f in features]


def residual(features: Sequence[Sequence[Any]], missed: Sequence[Any], change: Sequence[Any]) -> Any:
    """``|m - sum_p c_p f_p|^2``."""
    left = list(missed)
    for c, feature in zip(change, features, strict=True):
        left = [u - c * v for u, v in zip(left, feature, strict=True)]
    return dot(left, left)


def quadratic(matrix: Sequence[Sequence[Any]], vector: Sequence[Any], extra: Any) -> Any:
    """``c^T (G + extra I) c``."""
    return dot(vector, [dot(line, vector) + extra * c for line, c in zip(matrix, vector, strict=True)])


def symbolic_problem(count: int) -> tuple[list[list[Any]], list[Any], Any, list[Any]]:
    """Features and missed values over three recorded values, the ridge, and another change, all free."""
    names = [f"f{p}{i}" for p in range(count) for i in range(3)] + [f"m{i}" for i in range(3)] + ["mu"]
    symbols = rational_functions(" ".join([*names, *(f"c{p}" for p in range(count))]))
    features = [symbols[3 * p : 3 * p + 3] for p in range(count)]
    rest = symbols[3 * count :]
    return features, rest[:3], rest[3], rest[4:]


@part.proves(
    "The ridge solution",
    functions=[numerics.ridge_solution],
    source="Hoerl and Kennard 1970, *Technometrics* 12",
)
def the_solution_is_the_unique_minimum() -> None:
    r"""The fitted change is the one minimum of |m - sum c_p f_p|^2 + mu |c|^2, for every mu > 0.

    With $G_{pq} = f_p \cdot f_q$, $r_p = f_p \cdot m$ and $c^* = (G + \mu I)^{-1} r$, every other change costs more by

    $$
    J(c) - J(c^*) = (c - c^*)^\top (G + \mu I)(c - c^*) > 0 .
    $$

    **Derivation.** Complete the square. $G$ is a Gram matrix, hence not negative, and $\mu$ makes the sum positive.

    **What it means.** The solution exists even if outputs are all alike, as they are in the middle of a run, where
    plain least squares divides by nearly nothing. For $\mu \to \infty$ the row stays what it was, for $\mu \to 0$
    it is the least-squares row. Because any row may be the start, a fit near a stock scheduler's row contains that
    scheduler. Checked with free features, ridge and change for one and two features, in fractions for three and four.
    """
    for count in (1, 2):
        features, missed, mu, other = symbolic_problem(count)
        gram, right = normal_equations(features, missed)
        best = numerics.ridge_solution(gram, right, mu)
        difference = [a - b for a, b in zip(other, best, strict=True)]
        cost = residual(features, missed, other) + mu * dot(other, other)
        least = residual(features, missed, best) + mu * dot(best, best)
        require_equal(cost - least, quadratic(gram, difference, mu), f"completed square, {count} features")
    for count in (3, 4):
        features, missed = recorded(count, 7)
        gram, right = normal_equations(features, missed)
        for mu in (Fraction(1, 100), Fraction(3)):
            best = numerics.ridge_solution(gram, right, mu)
            applied = [dot(line, best) + mu * c for line, c in zip(gram, best, strict=True)]
            require_all_equal(applied, right, f"normal equations, {count} features")
        start = numerics.ridge_solution(gram, right, Fraction(10**12))
        require(all(abs(c) < Fraction(1, 10**6) for c in start), f"a strong ridge changes nothing, {count} features")
        alike = [features[0]] * count
        shared = numerics.ridge_solution(*normal_equations(alike, missed), Fraction(1))
        require(all(c == shared[0] for c in shared), "equal outputs share the change")


def recorded(count: int, seed: int, values: int = 9) -> tuple[list[list[Fraction]], list[Fraction]]:
    """Features that resemble one another, as outputs do, and what a row misses."""
    features = [
        [Fraction((i * i + seed) % 11 - 5) + Fraction((i + 3) * (p + 1) * seed % 7, 10) for i in range(values)]
        for p in range(count)
    ]
    return features, [Fraction((5 * i + seed) % 13 - 6, 7) for i in range(values)]


@part.proves(
    "When fitting cannot hurt",
    functions=[numerics.ridge_solution],
    source="our derivation",
)
def fitting_never_hurts_where_it_was_fitted() -> None:
    r"""Where it was fitted the residual falls by c^T (G + 2 mu I) c; elsewhere it cannot rise if mu exceeds the shift.

    $$
    |m|^2 - |m - Fc^*|^2 = {c^*}^\top (G + 2\mu I)\, c^* \ge 0, \qquad
    |m'|^2 - |m' - F'c^*|^2 = {c^*}^\top (G' + 2\mu I)\, c^* + 2\, {c^*}^\top \delta ,
    $$

    with primes for values that were not fitted and $\delta = r' - (G' + \mu I)\,c^*$, which is zero on the fitted
    ones. So the fitted row is at least as good on the others whenever $|\delta| \le \mu |c^*|$.

    **Derivation.** Insert $r = (G + \mu I) c^*$ into $|m|^2 - 2 c^\top r + c^\top G c$; then $r' = (G' + \mu I) c^* +
    \delta$ likewise. The last claim is Cauchy-Schwarz: $2\,|c^{*\top} \delta| \le 2\mu |c^*|^2$.

    **What it means.** For one row and one window this is a guarantee, and the ridge is its price: it must be as
    large as the normal equations differ between the fitted trajectories and all others. With few trajectories they
    differ much. For a *run* there is no such guarantee, because a changed row changes all later samples; that is why a
    calibration compares whole runs on trajectories held back from the fit and keeps the row it started from if that is
    better. Checked with free features and values for one and two features, and in fractions for three.
    """
    for count in (1, 2):
        features, missed, mu, _ = symbolic_problem(count)
        gram, right = normal_equations(features, missed)
        best = numerics.ridge_solution(gram, right, mu)
        gain = dot(missed, missed) - residual(features, missed, best)
        require_equal(gain, quadratic(gram, best, 2 * mu), f"gain where it was fitted, {count} features")
    hurt = 0
    for seed in range(1, 40):
        features, missed = recorded(3, seed)
        mu = Fraction(seed % 5 + 1, 4)
        best = numerics.ridge_solution(*normal_equations(features, missed), mu)
        others, unseen = recorded(3, seed + 5 * (seed % 2))
        gram, right = normal_equations(others, unseen)
        shift = [r - dot(line, best) - mu * c for r, line, c in zip(right, gram, best, strict=True)]
        gain = dot(unseen, unseen) - residual(others, unseen, best)
        require_equal(gain, quadratic(gram, best, 2 * mu) + 2 * dot(best, shift), f"gain on others, seed {seed}")
        if dot(shift, shift) <= mu * mu * dot(best, best):
            require(gain >= 0, f"guarantee, seed {seed}")
        hurt += gain < 0
    require(hurt > 0, "without the condition a fit does hurt in some of these cases")


@part.proves(
    "What a sum of residuals bounds",
    functions=[numerics.gronwall_bound],
    source="our derivation, from part 7",
)
def the_sum_of_residuals_bounds_the_run() -> None:
    r"""The error of a run is at most a weighted sum of its local residuals, with weights from the later rows alone.

    A search for a plan by dynamic programming adds up a residual $\rho_n$ for each window. With the recursion of
    [part 7](07-global-bound.md),

    $$
    e_N = \sum_n g_n\, \rho_n, \qquad 1 \le g_n \le \prod_{i > n} (1 + L\,G_i), \qquad
    \sum_n \rho_n \le e_N \le \Bigl(\max_n g_n\Bigr) \sum_n \rho_n ,
    $$

    in flow coordinates. Squares, which least squares returns, bound less: $(\sum \rho_n)^2 \le N \sum \rho_n^2$.

    **Derivation.** The recursion is linear in the defects. $g_n$ is what becomes of a unit defect at call $n$; nothing
    shrinks it, as $a_i = 1$. Cauchy-Schwarz for the squares.

    **What it means.** The cheapest path minimises a *bound*, up to the factor $\max g / \min g$. The fewer the
    calls, the larger is $G_i$, the more the weights differ between early and late windows, and the less the sum
    says: two windows with the same residual may differ by the factor $1 + L G$ in what they do to the result, and
    residuals of opposite sign may cancel in the run but not in the sum. So the sum is a start, and runs decide.
    Checked in fractions on rows of four plans, orders 1 to 3; and one run in which the smaller sum ends farther away.
    """
    grid, lipschitz = graded_grid(12), Fraction(3, 2)
    for plan in ((0, 3, 6, 9), (0, 1, 2, 6, 11), (0, 5), tuple(range(0, 12, 2))):
        for order in (1, 2, 3):
            rows = numerics.fold(grid, plan, order=order)
            calls = len(rows)
            constants = [lipschitz] * calls
            units = [[Fraction(int(i == n)) for i in range(calls)] for n in range(calls)]
            weights = [numerics.gronwall_bound(rows, constants, unit)[-1] for unit in units]
            residuals = [Fraction((4 * n) % 5 + 1, 20) for n in range(calls)]
            bound = numerics.gronwall_bound(rows, constants, residuals)[-1]
            require_equal(bound, dot(weights, residuals), f"linear in the residuals, {plan}, order {order}")
            growth = Fraction(1)
            for weight, row in zip(reversed(weights), reversed(rows), strict=True):
                require(1 <= weight <= growth, f"weight between one and the growth, {plan}, order {order}")
                growth *= 1 + lipschitz * numerics.noise_gain(row.history)
    _smaller_sum_larger_error()


def _smaller_sum_larger_error() -> None:
    """Two lists of residuals on one plan: the one with the smaller sum ends farther away, in bound and in run."""
    rows = numerics.fold(graded_grid(12), (0, 5), order=1)
    early, late = [Fraction(9, 100), Fraction(0)], [Fraction(0), Fraction(1, 10)]
    require(sum(early) < sum(late), "the early residual is the smaller")
    slopes = [Fraction(3, 2)] * 2
    undisturbed = walk(rows, Fraction(1), [Fraction(0)] * 2, slopes)[-1]
    ends = []
    for residuals in (early, late):
        sample, history = Fraction(1), []
        for row, slope, missed in zip(rows, slopes, residuals, strict=True):
            history.insert(0, slope * sample)
            sample = row.sample * sample + sum(b * f for b, f in zip(row.history, history, strict=False)) + missed
        ends.append(abs(sample - undisturbed))
    require(ends[0] > ends[1], "and ends farther away")
    bounds = [numerics.gronwall_bound(rows, slopes, residuals)[-1] for residuals in (early, late)]
    require_all_equal(bounds, ends, "as the bound says, here with equality")
