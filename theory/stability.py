"""Part 8: what happens to errors of the outputs, with every way of filling the history."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import sympy as sp
from sympy.polys.matrices import DomainMatrix

from ab_schedulers import numerics

from .rendering import table
from .row_limits import euler_grid
from .statements import Part, as_expr, rational_functions, require, require_all_equal, require_equal

DAHLQUIST = "root condition: Dahlquist 1956; Hairer, Norsett and Wanner I, section III.3"

part = Part(
    number=8,
    slug="stability",
    title="Stability",
    opening=r"""
The published update leaves open what the history holds while several steps are skipped. That decides whether
the method works at all. Three readings exist: answer the whole window with one prediction (*hold*), push every
prediction into the history as if it had been computed, or extrapolate the *computed* outputs to each skipped
node. This page proves that the second diverges, that the first has order one, and that the third, which is what
this package does, is stable with any interval.
""",
)


def pushed_back(order: int, interval: int, history: Sequence[Any]) -> list[Any]:
    """One window with predictions pushed into the history, newest first, and then a computed output without error."""
    values = list(history)
    weights = [sp.sympify(w) for w in numerics.binomial_weights(order)]
    for _ in range(interval - 1):
        values = [sum(w * f for w, f in zip(weights, values, strict=True)), *values[:-1]]
    return [sp.Integer(0), *values[:-1]]


def window_matrix(order: int, interval: Any) -> sp.Matrix:
    """How a window maps the errors of the entries behind the computed one, for a symbolic interval."""
    nodes = [0 * interval - j for j in range(order)]
    rows = [numerics.lagrange_weights(nodes, interval - j)[1:] for j in range(1, order)]
    return sp.Matrix([[as_expr(entry) for entry in row] for row in rows])


def growth_table() -> str:
    """Spectral radius of the window matrix."""
    lines = []
    for k in range(2, 6):
        radii = []
        for interval in range(2, 7):
            values = window_matrix(k, sp.Integer(interval)).charpoly().nroots(n=30, maxsteps=200)
            radii.append(f"{float(max(abs(value) for value in values)):.3g}")
        lines.append([str(k), *radii])
    return table(["k", *(f"T = {interval}" for interval in range(2, 7))], lines)


@part.proves(
    "Pushing predictions into the history diverges",
    functions=[numerics.binomial_weights, numerics.lagrange_weights],
    source="our derivation",
    formulas=lambda: {"growth": growth_table()},
)
def pushing_predictions_back_is_unstable() -> None:
    r"""With predictions in the history, errors grow in every window for T >= 3 at k = 2 and for T >= 2 at k >= 3.

    The largest growth factor $\varrho$ of a window obeys

    $$
    \varrho = T - 1 \quad (k = 2), \qquad
    \varrho \ge \frac{1}{k-1}\left[\binom{T+k-1}{k-1} - k\right] \ge \frac k2 > 1 \quad (k \ge 3,\ T \ge 2).
    $$

    **Derivation.** Let the computed outputs be free of error, and $P$ be the polynomial of degree below $k$
    through the errors in the history: $P(0) = 0$ at the computed entry. Pushed back predictions lie on $P$
    themselves, since they keep $\nabla^k = 0$, so after the window the history holds $P(T-1), P(T-2), \dots$
    behind a new zero. In terms of polynomials vanishing at 0 the window is

    $$
    M : P \mapsto P(\cdot + T) - P(T)\, \ell_0, \qquad \ell_0(x) = \binom{x+k-1}{k-1} ,
    $$

    the shift $E$ by $T$ followed by the projection along $\ell_0$. A shift has trace $k$ and determinant one on
    polynomials of degree below $k$. The projection takes $(E \ell_0)(0)$ off the trace, and by Jacobi's identity for
    complementary minors multiplies the determinant by $(E^{-1}\ell_0)(0)$:

    $$
    \operatorname{tr} M = k - \binom{T+k-1}{k-1}, \qquad \det M = (-1)^{k-1} \binom{T-1}{k-1} .
    $$

    For $k = 2$ the trace is the only eigenvalue, $-(T-1)$. For $k \ge 3$ the largest of the $k-1$ eigenvalues
    is at least the mean of their moduli, $|\operatorname{tr} M|/(k-1)$; the binomial grows with $T$ and is
    $k(k+1)/2$ at $T = 2$.

    Growth factor of a window:

    <<growth>>

    **What it means.** At $k = 2$, $T = 2$ the factor is one with a negative sign: errors never die and
    alternate. From there on every window multiplies them, and a run of a dozen windows is lost. No step size
    helps, as the factor does not depend on it. Checked: the recursion with the running weights against $M$
    (orders 2 to 5, intervals 2 to 6), trace and determinant as polynomials in $T$ (orders 2 to 6), and the
    bound.
    """
    (symbol,) = rational_functions("T")
    interval = sp.Symbol("T")
    for k in range(2, 7):
        matrix = window_matrix(k, symbol)
        coefficients = DomainMatrix.from_Matrix(matrix.applyfunc(sp.expand)).charpoly()
        trace, determinant = -coefficients[1], (-1) ** (k - 1) * coefficients[-1]
        chosen = sp.expand(sp.expand_func(sp.binomial(interval + k - 1, k - 1)))
        require_equal(trace.as_expr(), k - chosen, f"trace, order {k}")
        skipped = sp.expand(sp.expand_func(sp.ff(interval - 1, k - 1)) / sp.factorial(k - 1))
        require_equal(determinant.as_expr(), sp.expand((-1) ** (k - 1) * skipped), f"determinant, order {k}")
    for k in range(2, 6):
        errors = sp.symbols(f"e_1:{k}")
        for steps in range(2, 7):
            walked = pushed_back(k, steps, [sp.Integer(0), *errors])
            mapped = window_matrix(k, sp.Integer(steps)) * sp.Matrix(errors)
            require_all_equal(walked[1:], mapped, f"window of {steps} steps, order {k}")
    n = sp.Symbol("n", integer=True, positive=True)  # the order
    require_equal(sp.expand_func(sp.binomial(n + 1, 2)) - n, n * (n - 1) / 2, "trace at T = 2, any order")


@part.proves(
    "Hold has order one",
    functions=[numerics.fold],
    source="our derivation",
)
def hold_loses_the_order() -> None:
    r"""Holding one prediction for a whole window leaves the error of plain reuse with the opposite sign, at any order.

    On a uniform grid with steps $h$ and outputs $f = f_n + f' (t - t_n)$, a window of flow Euler differs from
    the base's own by

    $$
    \frac{T(T-1)}{2} h^2 f' \ \text{(reuse)}, \qquad -\frac{T(T-1)}{2} h^2 f' \ \text{(hold, any } k \ge 2), \qquad
    0 \ \text{(extrapolation, } k \ge 2).
    $$

    **Derivation.** Reuse answers node $i$ of the window with the output of node 0, an error of $i h f'$. Hold
    answers it with the extrapolation to the *next call*, node $T$: an error of $(i - T) h f'$. Both add up to
    $T(T-1)/2$ times $h f'$ over the skipped nodes, with opposite signs. Per unit of time that is $O(h)$: order
    one.

    **What it means.** Hold is as inaccurate as plain reuse while it amplifies noise $2^k - 1$ times. The mean
    of the two would be better than either; extrapolation to the true node is that idea done properly. Checked
    on the running rows: orders 2 to 4, intervals 1 to 8, for constant and linear outputs.
    """
    for fine in range(1, 9):
        grid = euler_grid(fine, 4)
        plan = range(0, 4 * fine, fine)
        step = Fraction(1, fine)  # windows of length one
        own = sum((step * (3 + i * step) for i in range(fine)), start=Fraction(0))  # the base on f = t
        missed = step * step * fine * (fine - 1) / 2
        reuse = numerics.fold(grid, plan, order=1)[-1]
        require_equal(own - _on_line(reuse), missed, f"reuse, interval {fine}")
        for k in (2, 3, 4):
            hold = numerics.fold(grid, plan, order=k, predictor="hold")[-1]
            require_equal(sum(hold.history), 1, f"hold on constants, order {k}, interval {fine}")
            require_equal(own - _on_line(hold), -missed, f"hold, order {k}, interval {fine}")
            require_equal(own - _on_line(numerics.fold(grid, plan, order=k)[-1]), 0, f"extrapolation, order {k}")


def _on_line(row: numerics.Row) -> Any:
    """The row's combination of ``f = t`` at calls one unit apart, the newest at 3."""
    return sum(b * (3 - j) for j, b in enumerate(row.history))


@part.proves(
    "Extrapolating computed outputs is stable",
    functions=[numerics.fold, numerics.ddim_step],
    source=DAHLQUIST,
)
def extrapolation_satisfies_the_root_condition() -> None:
    r"""With only computed outputs in the history the rows satisfy the root condition for every order and interval.

    Without feedback through the model the run is $x_{n+1} = a_n x_n$, and the factors telescope:
    $\prod a_n = \alpha_N/\alpha_0$ with the noise cached, $\sigma_N/\sigma_0$ with the clean sample, and 1 in flow
    coordinates. The characteristic polynomial is $\zeta^{k-1}(\zeta - 1)$.

    **Derivation.** A prediction is a fixed combination of computed outputs, so no prediction enters another.
    The only recursion is that of the sample, whose weight is the product of the base steps' own; the roots are
    one, simple, and zero.

    **What it means.** An error made at one call is carried to the end like any error of the base sampler and is not
    amplified by the history, whatever $k$ and $T$. With the degree of exactness of [part 1](01-adams.md) the order is
    kept too. Checked for free $\alpha_i, \sigma_i$ and nodes, orders 1 to 4.
    """
    names = [f"{name}{i}" for name in ("a", "s") for i in range(7)] + [f"n{i}" for i in range(6)]
    symbols = rational_functions(" ".join(names))
    alphas, sigmas, nodes = symbols[:7], symbols[7:14], symbols[14:]
    ends = {"epsilon": alphas[-1] / alphas[0], "sample": sigmas[-1] / sigmas[0]}
    for quantity, total in ends.items():
        steps = tuple(
            numerics.ddim_step(numerics.quantity_map(quantity, alphas[i], sigmas[i]), alphas[i + 1], sigmas[i + 1])
            for i in range(6)
        )
        grid = numerics.BaseGrid(steps=steps, nodes=tuple(nodes))
        for order in (1, 2, 3, 4):
            product = 0 * alphas[0] + 1
            for row in numerics.fold(grid, (0, 1, 2, 4), order=order):
                product = product * row.sample
            require_equal(product, total, f"weights of the sample with {quantity} cached, order {order}")
    for order in range(1, 6):
        rows = numerics.fold(euler_grid(3, order), range(0, 3 * order, 3), order=order)
        require(all(row.sample == 1 for row in rows), f"flow coordinates, order {order}")
