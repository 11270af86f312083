"""Part 4, continued: what folded rows become on fine base grids."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath
import sympy as sp

from ab_schedulers import numerics

from .base_step_maps import moments
from .folded_rows import part
from .rendering import row_tex, table
from .statements import rational_functions, require, require_all_equal, require_equal


def euler_grid(fine: int, windows: int) -> numerics.BaseGrid:
    """Flow Euler with unit windows of ``fine`` base steps each, in exact fractions."""
    steps = tuple(numerics.BaseStep(sample=Fraction(1), outputs=(Fraction(1, fine),)) for _ in range(fine * windows))
    return numerics.BaseGrid(steps=steps, nodes=tuple(Fraction(i, fine) for i in range(fine * windows)))


def euler_row(order: int, fine: int) -> list[sp.Expr]:
    """Weights of the full-order row on a uniform grid with windows of length one, padded to the order."""
    rows = numerics.fold(euler_grid(fine, order), range(0, order * fine, fine), order=order)
    history = [sp.sympify(b) for b in rows[-1].history]
    return history + [sp.Integer(0)] * (order - len(history))


def row_in_interval(order: int) -> list[sp.Expr]:
    """The weights of `euler_row` as polynomials in ``1/T``, from as many intervals as their degree needs."""
    e = sp.Symbol("e")
    samples = [euler_row(order, fine) for fine in range(1, order + 1)]
    return [
        sp.expand(sp.interpolate([(sp.Rational(1, t + 1), row[j]) for t, row in enumerate(samples)], e))
        for j in range(order)
    ]


def interval_table() -> str:
    """Rows of flow Euler on a uniform grid as functions of the interval."""
    e, big = sp.Symbol("e"), sp.Symbol("T")
    lines = []
    for k in range(1, 5):
        weights = [weight.subs(e, 1 / big) for weight in row_in_interval(k)]
        lines.append([str(k), row_tex(weights), row_tex(numerics.adams_bashforth_weights(k))])
    return table(["k", "row at interval T (window of length one)", "limit: Adams-Bashforth"], lines)


@part.proves(
    "On a fine grid the row is Adams-Bashforth",
    functions=[numerics.fold, numerics.adams_bashforth_weights],
    source="our derivation, by the Euler-Maclaurin formula",
    formulas=lambda: {"rows": interval_table()},
)
def rows_tend_to_adams_bashforth() -> None:
    r"""With T base steps in a window, the row of flow Euler is Adams-Bashforth's plus a polynomial in 1/T.

    $$
    b_j^{(T)} = \frac1T \sum_{i=0}^{T-1} \ell_j(i/T)
    = \int_0^1 \ell_j(s)\,ds - \frac{\ell_j(1) - \ell_j(0)}{2T} + O(T^{-2}) ,
    $$

    a polynomial in $1/T$ of degree below $k$; at $T = 1$ it is the base step itself.

    **Derivation.** The row is the left Riemann sum of the Lagrange basis. Sums of powers, $\frac1T \sum (i/T)^m$, are
    polynomials in $1/T$ of degree $m$ with constant term $1/(m+1)$ and linear term $-1/2$ (Faulhaber).

    <<rows>>

    **What it means.** A cached sampler of order $k$ is a $k$-step solver on the grid of its calls: between the base
    ($T = 1$) and Adams-Bashforth ($T = \infty$). The fair comparison is therefore a solver with *equal model calls*.
    Checked: orders 1 to 5, with $k$ intervals to determine the polynomials and three more to confirm them.
    """
    e = sp.Symbol("e")
    for k in range(1, 6):
        weights = row_in_interval(k)
        for fine in range(k + 1, k + 4):
            values = [weight.subs(e, sp.Rational(1, fine)) for weight in weights]
            require_all_equal(euler_row(k, fine), values, f"order {k}, interval {fine}")
        require_all_equal([w.subs(e, 0) for w in weights], numerics.adams_bashforth_weights(k), f"limit, order {k}")
        ahead = numerics.binomial_weights(k)
        slopes = [-(sp.sympify(ahead[j]) - int(j == 0)) / 2 for j in range(k)]
        require_all_equal([sp.diff(w, e).subs(e, 0) for w in weights], slopes, f"rate, order {k}")


def geometric_sums(q: Any, end: Any, count: Any, highest: int) -> list[Any]:
    r"""``\sum_{i<T} (1 - q) q^{T-1-i} i^m`` for ``m`` up to ``highest``, by summation by parts; ``end`` is ``q^T``."""
    sums: list[Any] = [1 - end]
    for m in range(1, highest + 1):
        sums.append(count**m - sum(math.comb(m, lower) * sums[lower] for lower in range(m)) / (1 - q))
    return sums


@part.proves(
    "In log-SNR the limit is exponential Adams-Bashforth",
    functions=[numerics.fold, numerics.ddim_step],
    source="our derivation; the limit is the weight of Hochbruck and Ostermann 2010, *Exponential integrators*",
)
def rows_tend_to_exponential_adams_bashforth() -> None:
    r"""DDIM rows interpolated in lambda tend to the exponential Adams-Bashforth weights, with an error of H/(2T).

    For a window of length $H$ in $\lambda$, divided evenly, and $x_0$ cached,

    $$
    b_j^{(T)} = \alpha' \int_0^H e^{-(H-\tau)} \ell_j(\tau)\,d\tau
    \;-\; \frac{H}{2T}\, \alpha' \int_0^H e^{-(H-\tau)} \ell_j'(\tau)\,d\tau + O(T^{-2}) .
    $$

    **Derivation.** With $q = e^{-H/T}$ the row is $\alpha' \sum_i (1-q)\, q^{T-1-i}\, \ell_j(iH/T)$. Summation
    by parts gives the sums of powers $S_m$ in closed form, $S_m = T^m - \sum_{l<m} \binom ml S_l/(1-q)$ with
    $S_0 = 1 - q^T$; then expand in $1/T$. The left end of each base step stands for the whole of it, hence the
    derivative of $\ell_j$ and the one half.

    **What it means.** Cached DDIM of order $k$ on a fine grid *is* the exponential multistep solver of order
    $k$ with $\varphi$-functions, obtained without computing one. At interval 3 the rest is no trifle: such a
    row lies between the base step and the solver. Checked: the row for free $q$, intervals 2 to 4, orders 1 to
    3; the expansion for powers up to 3.
    """
    q, alpha, sigma, length = rational_functions("q a s H")
    for fine in (2, 3, 4):
        for order in (1, 2, 3):
            count = fine * order
            sigmas = [sigma * q**i for i in range(count + 1)]
            grid = numerics.BaseGrid(
                steps=tuple(
                    numerics.ddim_step(numerics.quantity_map("sample", alpha, sigmas[i]), alpha, sigmas[i + 1])
                    for i in range(count)
                ),
                nodes=tuple(length * i / fine for i in range(count)),
            )
            row = numerics.fold(grid, range(0, count, fine), order=order)[-1]
            sums = geometric_sums(q, q**fine, fine, order - 1)
            nodes = [-length * j for j in range(order)]
            for power in range(order):  # the row integrates tau^power as the sum does
                found = sum(b * (x**power if power else 1) for b, x in zip(row.history, nodes, strict=True))
                expected = alpha * sums[power] * (length / fine) ** power
                require_equal(found, expected, f"power {power}, order {order}, interval {fine}")
    _expansion_of_the_sums()


def _expansion_of_the_sums() -> None:
    """Value and slope in ``1/T`` of the sums of powers, against the integrals."""
    h, e = sp.symbols("H e", positive=True)
    integrals = moments(sp.exp(-h), h, 4)
    for m, total in enumerate(geometric_sums(sp.exp(-h * e), sp.exp(-h), 1 / e, 3)):
        expansion = sp.series(sp.together(total * (h * e) ** m), e, 0, 2).removeO()
        require_equal(expansion.coeff(e, 0), integrals[m], f"limit of power {m}")
        slope = -h / 2 * m * integrals[m - 1] if m else 0
        require_equal(expansion.coeff(e, 1), slope, f"rate of power {m}")


def scale_and_time(quantity: str, alpha: Any, sigma: Any, phi: Any, *, flow: bool) -> tuple[Any, Any]:
    """``(s, κ)`` of a quantity: the scale and the time in which it is the velocity of a straight line."""
    if quantity == "velocity":
        return 1, sigma if flow else phi
    return (sigma, alpha / sigma) if quantity == "sample" else (alpha, sigma / alpha)


@part.proves(
    "Placed calls integrate whole windows",
    functions=[numerics.integral_rows],
    source="our derivation; for x_0 and epsilon it is the variation of constants of Lu et al. 2022, arXiv:2206.00927",
)
def windows_are_integrals_of_the_cached_quantity() -> None:
    r"""Divided by its own scale, the sample moves by the integral of the cached quantity over its own time.

    Along $dx = x_0\,d\alpha + \epsilon\,d\sigma$, the probability flow,

    $$
    \frac{x'}{s'} = \frac{x}{s} + \int q\,d\kappa, \qquad
    (s, \kappa) = \begin{cases}
    (\sigma,\; \alpha/\sigma) & q = x_0 \\
    (\alpha,\; \sigma/\alpha) & q = \epsilon \\
    (1,\; \varphi) & q = \alpha\epsilon - \sigma x_0,\quad (\alpha, \sigma) = (\cos\varphi, \sin\varphi) \\
    (1,\; \sigma) & q = \epsilon - x_0,\quad \alpha = 1 - \sigma
    \end{cases}
    $$

    **Derivation.** Insert $x = \alpha x_0 + \sigma \epsilon$:
    $d(x/\sigma) = x_0\,(d\alpha - \alpha\,d\sigma/\sigma)/\sigma = x_0\,d(\alpha/\sigma)$, and likewise with $\alpha$.
    On the circle $d\alpha = -\sigma\,d\varphi$ and $d\sigma = \alpha\,d\varphi$.

    **What it means.** With $q$ interpolated through the last outputs, the integral is a row, the limit of the
    statements before for an infinitely fine base grid: no base step is left in it, and no base sampler's error. That
    is what `cache_placement="noise_ratio"` runs and what a calibration starts from. The weights are found by
    quadrature, which lets the outputs be interpolated in any variable; a trained model is smoothest in its timestep.
    Checked: the identity on both paths with free $x_0$ and $\epsilon$; the running rows of order 1 to 3, without
    corrector, on powers of $\varphi$, to twelve digits.
    """
    phi, clean, noise = sp.symbols("varphi x_0 epsilon", real=True)
    for flow in (False, True):
        sigma = phi if flow else sp.sin(phi)
        alpha = 1 - phi if flow else sp.cos(phi)
        speed = clean * sp.diff(alpha, phi) + noise * sp.diff(sigma, phi)
        velocity = noise - clean if flow else alpha * noise - sigma * clean
        sample = alpha * clean + sigma * noise
        for quantity, value in (("sample", clean), ("epsilon", noise), ("velocity", velocity)):
            s, kappa = scale_and_time(quantity, alpha, sigma, phi, flow=flow)
            moved = speed / s - sample * sp.diff(s, phi) / s**2
            require_equal(sp.simplify(moved - value * sp.diff(kappa, phi)), 0, f"{quantity}, flow {flow}")
            _rows_are_the_integrals(quantity, flow=flow)


def _rows_are_the_integrals(quantity: str, *, flow: bool) -> None:
    """`integral_rows` on powers of φ, against quadrature in thirty digits."""
    angles = [1.2, 0.9, 0.7, 0.3]
    for order in (1, 2, 3):
        row = numerics.integral_rows(angles, quantity=quantity, flow=flow, order=order, corrector=None)[-1]
        start, stop = angles[-2:]
        scale = [_of_angle(quantity, phi, flow=flow)[0] for phi in (start, stop)]
        where = f"{quantity}, flow {flow}, order {order}"
        require(math.isclose(row.sample, scale[1] / scale[0], rel_tol=1e-12), f"sample, {where}")
        for power in range(order):
            found = sum(b * phi**power for b, phi in zip(row.history, reversed(angles[:-1]), strict=False))
            exact = scale[1] * _integral(quantity, start, stop, power, flow=flow)
            require(math.isclose(found, exact, rel_tol=1e-12), f"power {power}, {where}")


def _of_angle(quantity: str, phi: Any, *, flow: bool) -> tuple[Any, Any]:
    norm = mpmath.sin(phi) + mpmath.cos(phi) if flow else 1
    return scale_and_time(quantity, mpmath.cos(phi) / norm, mpmath.sin(phi) / norm, phi, flow=flow)


def _integral(quantity: str, start: float, stop: float, power: int, *, flow: bool) -> Any:
    """``∫ φ^power dκ``, by parts, so that κ need not be differentiated."""
    with mpmath.workdps(30):

        def kappa(phi: Any) -> Any:
            return _of_angle(quantity, phi, flow=flow)[1]

        ends = stop**power * kappa(stop) - start**power * kappa(start)
        return ends - (mpmath.quad(lambda phi: power * phi ** (power - 1) * kappa(phi), [start, stop]) if power else 0)
