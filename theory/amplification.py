"""Part 8, continued: how much errors and decay are amplified, as functions of order and interval."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import sympy as sp

from ab_schedulers import numerics

from .rendering import table, tex
from .row_limits import euler_row
from .stability import part
from .statements import require, require_equal


@part.proves(
    "Noise gain",
    functions=[numerics.noise_gain, numerics.window_noise_gain, numerics.lagrange_weights],
    source="our derivation; AB-Cache, arXiv:2504.10540, for the weights",
    formulas=lambda: {
        "gains": table(
            ["k", *(f"T = {t}" for t in (2, 3, 4, 6, 10)), "limit"],
            [
                [
                    str(k),
                    *(tex(worst_gain(k, t)) for t in (2, 3, 4, 6, 10)),
                    tex(numerics.noise_gain(numerics.binomial_weights(k))),
                ]
                for k in range(1, 6)
            ],
        )
    },
)
def noise_gain_of_a_prediction() -> None:
    r"""Errors of the outputs enter a prediction s windows ahead at most Lambda_k(s) times, 2^k - 1 for s = 1.

    $$
    \Lambda_k(s) = \sum_j |\ell_j(s)| = \sum_{m=0}^{k-1} 2^m \binom{s+m-1}{m}, \qquad \Lambda_k(1) = 2^k - 1 .
    $$

    **Derivation.** For $s > 0$ the weights on $0, -1, \dots$ alternate in sign, so the worst errors are $(-1)^j$. For
    these $\nabla^m f_n = 2^m$, and Newton's form of the interpolant gives the sum.

    Largest gain in a window of $T$ steps, at its last skipped node, $s = (T-1)/T$:

    <<gains>>

    <<noise_gain>>

    **What it means.** Networks are not smooth functions of the step: their error is amplified by up to this
    factor, which doubles with each order. Raising the order pays only while $h^k |f^{(k)}|$ falls faster than
    $2^k$ rises. Checked for symbolic $s$, orders 1 to 6, and the gains of windows of 2 to 6 steps.
    """
    s = sp.Symbol("s", positive=True)
    for k in range(1, 7):
        nodes = [sp.Integer(-j) for j in range(k)]
        weights = numerics.lagrange_weights(nodes, s)
        for j, weight in enumerate(weights):
            require(sp.factor((-1) ** j * weight).is_positive is True, f"sign of weight {j}, order {k}")
        newton = sum(2**m * sp.rf(s, m) / sp.factorial(m) for m in range(k))
        alternating = sum((-1) ** j * weight for j, weight in enumerate(weights))
        require_equal(sp.expand(alternating), sp.expand(sp.expand_func(newton)), f"gain, order {k}")
        require_equal(numerics.noise_gain(numerics.binomial_weights(k)), 2**k - 1, f"2^k - 1, order {k}")
        for t in range(2, 7):
            last = sp.expand_func(newton).subs(s, sp.Rational(t - 1, t))
            require_equal(worst_gain(k, t), last, f"largest gain, order {k}, interval {t}")


def worst_gain(order: int, interval: int) -> Fraction:
    """Largest noise gain over the skipped nodes of a uniform plan."""
    nodes = [Fraction(-j) for j in range(order)]
    return Fraction(numerics.window_noise_gain(nodes, [Fraction(i, interval) for i in range(1, interval)]))


def mean_gain(order: int, interval: int | None) -> sp.Expr:
    """Mean over a window of the gain of its predictions, from Newton's form; over a continuous one without interval."""
    s = sp.Symbol("s")
    gain = sp.expand(sum(2**m * sp.expand_func(sp.rf(s, m)) / sp.factorial(m) for m in range(order)))
    if interval is None:
        return sp.integrate(gain, (s, 0, 1))
    return sum((gain.subs(s, sp.Rational(i, interval)) for i in range(interval)), start=sp.Integer(0)) / interval


def stability_limit(weights: Sequence[sp.Expr]) -> sp.Expr:
    """Left end of the real stability interval of a row, for windows of length one."""
    return -2 / sum(((-1) ** j * b for j, b in enumerate(weights)), start=sp.Integer(0))


def limits_table() -> str:
    """Real stability intervals over order and interval."""
    lines = []
    for k in range(1, 6):
        rows = [euler_row(k, t) for t in (1, 2, 3, 4, 6)] + [list(map(sp.sympify, numerics.adams_bashforth_weights(k)))]
        lines.append([str(k), *(tex(stability_limit(row)) for row in rows)])
    return table(["k", *(f"T = {t}" for t in (1, 2, 3, 4, 6)), "Adams-Bashforth"], lines)


@part.proves(
    "Absolute stability",
    functions=[numerics.fold, numerics.noise_gain],
    source="boundary locus: Hairer and Wanner, *Solving ODEs II*, section V.1; the formula is our derivation",
    formulas=lambda: {"limits": limits_table()},
)
def the_real_stability_interval() -> None:
    r"""For real decay the window may be as long as 2 over the noise gain of the row, and no longer.

    For $f = \mu z$ with $\mu < 0$ and windows of length $H$, all solutions decay exactly if

    $$
    -\frac{2}{G} < H\mu < 0, \qquad G = \sum_j |b_j| ,
    $$

    with $b$ the row for $H = 1$, for every order and interval checked below.

    **Derivation.** Solutions $\zeta^n$ obey $\zeta^{k-1}(\zeta - 1) = H\mu \sum_j b_j \zeta^{k-1-j}$. For small
    $H|\mu|$ all roots are inside the unit circle. A root can leave only where $H\mu$ is real and
    $\zeta = e^{i\theta}$; the imaginary part of the quotient vanishes there,
    $\sin\theta \sum_j b_j\,(U_j - U_{j-1})(\cos\theta) = 0$ with Chebyshev's $U$. The sum has no zero for
    $\cos\theta \in (-1, 1)$, so the only exit is $\zeta = -1$, at $H\mu = -2/\sum_j (-1)^j b_j$; the weights
    alternate in sign, which makes the sum $G$. It is the mean of $\Lambda_k(s)$ over the window.

    Left end of the interval:

    <<limits>>

    <<stability_by_order>>

    <<stability_by_interval>>

    **What it means.** Stiff directions (fine detail near the clean end) limit how far one call can carry, and
    more so at high order and long skips: where a run turns grainy there, lower the order or the interval at the
    end of the grid. Checked exactly: orders 1 to 5, intervals 1, 2, 3, 4, 6 and the Adams-Bashforth limit, with
    Sturm's theorem for the absence of zeros.
    """
    c = sp.Symbol("c")
    for k in range(1, 6):
        rows = {str(t): euler_row(k, t) for t in (1, 2, 3, 4, 6)}
        rows["infinity"] = list(map(sp.sympify, numerics.adams_bashforth_weights(k)))
        for name, row in rows.items():
            where = f"order {k}, interval {name}"
            gain = numerics.noise_gain(row)
            require_equal(stability_limit(row), -2 / gain, f"alternating weights, {where}")
            require_equal(gain, mean_gain(k, None if name == "infinity" else int(name)), f"gain of the row, {where}")
            ladder = [sp.chebyshevu(j, c) for j in range(k)]
            locus = sum(b * (u - v) for b, u, v in zip(row, ladder, [0, *ladder[:-1]], strict=True))
            polynomial = sp.Poly(locus, c)
            at_ends = sum(1 for end in (-1, 1) if polynomial.eval(end) == 0)
            require(
                int(polynomial.count_roots(-1, 1)) == at_ends, f"the boundary locus meets no other real point, {where}"
            )
