"""Part 1: Adams-Bashforth and Adams-Moulton of any order, on uniform and on arbitrary nodes."""

from __future__ import annotations

import math
from fractions import Fraction

import sympy as sp

from ab_schedulers import numerics

from .rendering import equation, row_tex, table, tex
from .statements import Part, rational_functions, require, require_all_equal, require_equal

HAIRER = "Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*, section III.1"
ORDERS = range(1, 9)

part = Part(
    number=1,
    slug="adams",
    title="Adams coefficients",
    opening=r"""
A sampler integrates $y' = f$. Where $f$ is known at a few nodes, an Adams method integrates the polynomial
through them: *Adams-Bashforth* over the interval ahead of the newest node, *Adams-Moulton* over the interval
that ends there. This page derives the weights for any order and any nodes, and what they leave over. Everything
later stands on it: a cached sampler is an Adams-Bashforth method on the nodes where the model is called ([part
4](04-folding.md)).
""",
)


def gamma(order: int, *, implicit: bool = False) -> list[sp.Expr]:
    r"""The first ``order`` coefficients of the backward difference form, from their generating function.

    Adams-Bashforth: ``-t / ((1 - t) log(1 - t))``; Adams-Moulton: ``-t / log(1 - t)``.
    """
    t = sp.Symbol("t")
    reciprocal = sum(t**m / (m + 1) for m in range(order + 1))  # -log(1 - t) / t
    if not implicit:
        reciprocal = sp.expand(reciprocal * (1 - t))
    known = sp.Poly(reciprocal, t)
    coefficients: list[sp.Expr] = []
    for m in range(order):  # the product of the series and its reciprocal is one
        total = sum(known.coeff_monomial(t ** (m - i)) * c for i, c in enumerate(coefficients))
        coefficients.append(sp.Integer(int(m == 0)) - total)
    return coefficients


def difference_weights(coefficients: list[sp.Expr]) -> list[sp.Expr]:
    r"""Weights of ``f_n, f_{n-1}, ...`` in ``\sum_m c_m \nabla^m f_n``."""
    return [
        sum(c * (-1) ** j * sp.binomial(m, j) for m, c in enumerate(coefficients)) for j in range(len(coefficients))
    ]


def two_nodes() -> str:
    """The integration weights on two nodes."""
    weights = numerics.lagrange_integral_weights(sp.symbols("x_0 x_1"), *sp.symbols("a b"))
    return equation("v", sp.Matrix([[sp.factor(weight) for weight in weights]]))


@part.proves(
    "Weights on arbitrary nodes",
    functions=[numerics.lagrange_integral_weights],
    source=HAIRER,
    formulas=lambda: {"two": two_nodes()},
)
def integrals_of_the_basis() -> None:
    r"""The integration weights are the integrals of the Lagrange basis polynomials on the given nodes.

    For pairwise different nodes $x_0, \dots, x_{k-1}$ and any limits $a, b$,

    $$
    v_j = \int_a^b \ell_j(s)\,ds, \qquad \ell_j(s) = \prod_{m \ne j} \frac{s - x_m}{x_j - x_m}.
    $$

    **Derivation.** The polynomial through the values $f_j$ at the nodes is $\sum_j f_j \ell_j(s)$, since
    $\ell_j$ is one at $x_j$ and zero at the other nodes; integrate term by term. For two nodes:

    <<two>>

    **What it means.** The weights take the *nodes*, never a step size: on a graded grid, weights made for equal
    steps lose their order. Checked as an identity of rational functions in all nodes and both limits for one to
    four nodes.
    """
    for k in range(1, 5):
        *nodes, a, b = rational_functions(" ".join(f"x_{j}" for j in range(k)) + " a b")
        for j, weight in enumerate(numerics.lagrange_integral_weights(nodes, a, b)):
            coefficients = [a**0]  # of the product over m != j of (s - x_m), lowest degree first
            for node in [*nodes[:j], *nodes[j + 1 :]]:
                shifted = [0 * a, *coefficients]
                coefficients = [u - node * v for u, v in zip(shifted, [*coefficients, 0 * a], strict=True)]
            integral = sum(c * (b ** (m + 1) - a ** (m + 1)) / (m + 1) for m, c in enumerate(coefficients))
            denominator = math.prod((nodes[j] - node for m, node in enumerate(nodes) if m != j), start=a**0)
            require_equal(weight, integral / denominator, f"weight {j} of {k}")


@part.proves(
    "Degree of exactness",
    functions=[numerics.lagrange_integral_weights, numerics.lagrange_weights],
    source=HAIRER,
)
def exact_on_polynomials() -> None:
    r"""With k nodes, polynomials of degree below k are integrated and evaluated exactly, and only so.

    For $m = 0, \dots, k-1$,

    $$
    \sum_j v_j x_j^m = \frac{b^{m+1} - a^{m+1}}{m+1}, \qquad \sum_j w_j x_j^m = p^m ,
    $$

    with $v$ the integration weights over $[a, b]$ and $w$ the weights that evaluate at the point $p$.

    **Derivation.** A polynomial of degree below $k$ *is* its own interpolant. Conversely the $k$ conditions are
    a linear system whose matrix is Vandermonde's, with determinant $\prod_{i<j}(x_j - x_i) \ne 0$ for different
    nodes.

    **What it means.** The degree of exactness *defines* the weights, so a test that feeds monomials finds every
    wrong coefficient. Checked for one to four symbolic nodes, and for five to eight nodes on a graded grid of
    fractions.
    """
    for k in range(1, 9):
        symbolic = k <= 4
        *named, a, b, p = rational_functions(" ".join(f"x_{j}" for j in range(k if symbolic else 0)) + " a b p")
        nodes = named if symbolic else [a**0 * -(j + 1) * (j + 3) / 5 for j in range(k)]
        integrals, values = numerics.lagrange_integral_weights(nodes, a, b), numerics.lagrange_weights(nodes, p)
        for m in range(k):
            integral = sum(v * x**m for v, x in zip(integrals, nodes, strict=True))
            require_equal(integral, (b ** (m + 1) - a ** (m + 1)) / (m + 1), f"integral of degree {m}, {k} nodes")
            value = sum(w * x**m for w, x in zip(values, nodes, strict=True))
            require_equal(value, p**m, f"value of degree {m}, {k} nodes")
    x = sp.symbols("x_0:4")
    vandermonde = sp.Matrix([[node**m for node in x] for m in range(len(x))])
    product = sp.Mul(*[x[j] - x[i] for j in range(len(x)) for i in range(j)])
    require_equal(sp.expand(vandermonde.det(method="berkowitz")), sp.expand(product), "Vandermonde's determinant")


@part.proves(
    "Uniform nodes and the generating functions",
    functions=[numerics.adams_bashforth_weights, numerics.adams_moulton_weights],
    source=HAIRER,
    formulas=lambda: {
        "weights": table(
            ["k", "Adams-Bashforth, newest first", "Adams-Moulton, newest first"],
            [
                [str(k), row_tex(numerics.adams_bashforth_weights(k)), row_tex(numerics.adams_moulton_weights(k))]
                for k in range(1, 7)
            ],
        )
    },
)
def generating_functions() -> None:
    r"""On uniform nodes the weights are those of the backward difference series of the two generating functions.

    $$
    y_{n+1} - y_n = h \sum_{m<k} \gamma_m \nabla^m f_n, \qquad
    \sum_m \gamma_m t^m = \frac{-t}{(1-t)\log(1-t)} ,
    $$

    and $\nabla^m f_{n+1}$ with $\sum_m \gamma^*_m t^m = -t/\log(1-t)$ for Adams-Moulton.

    **Derivation.** Newton's backward form of the interpolant is $\sum_m \binom{s+m-1}{m} \nabla^m f_n$, and
    $\sum_m \binom{s+m-1}{m} t^m = (1-t)^{-s}$. Hence $\gamma_m = \int_0^1 \binom{s+m-1}{m} ds$ and
    $\sum_m \gamma_m t^m = \int_0^1 (1-t)^{-s} ds$, which is the generating function. Adams-Moulton integrates over
    $s \in [-1, 0]$ relative to its newest node, which multiplies the function by $1 - t$.

    <<weights>>

    **What it means.** Any order can be had, none needs to be looked up. Checked: the integrals symbolically, the
    weights of the running functions for orders 1 to 8.
    """
    s, u = sp.Symbol("s"), sp.Symbol("u", positive=True)  # u = -log(1 - t), hence (1 - t)^-s = e^(u s)
    one_minus_t = sp.exp(-u)
    explicit = sp.integrate(sp.exp(u * s), (s, 0, 1))
    implicit = sp.integrate(sp.exp(u * s), (s, -1, 0))
    require_equal(explicit, (1 - one_minus_t) / (one_minus_t * u), "generating function of Adams-Bashforth")
    require_equal(implicit, (1 - one_minus_t) / u, "generating function of Adams-Moulton")
    for k in ORDERS:
        bashforth, moulton = difference_weights(gamma(k)), difference_weights(gamma(k, implicit=True))
        require_all_equal(numerics.adams_bashforth_weights(k), bashforth, f"Adams-Bashforth {k}")
        require_all_equal(numerics.adams_moulton_weights(k), moulton, f"Adams-Moulton {k}")
    for m, coefficient in enumerate(gamma(6)):
        newton = sp.Mul(*[(s + i) / sp.Integer(i + 1) for i in range(m)])
        require_equal(sp.integrate(sp.expand(newton), (s, 0, 1)), coefficient, f"gamma_{m} as an integral")


def constants_table() -> str:
    """Both error constants and the size of their ratio."""
    lines = []
    for k in ORDERS:
        explicit, implicit = numerics.adams_bashforth_error_constant(k), numerics.adams_moulton_error_constant(k)
        lines.append([str(k), tex(explicit), tex(implicit), f"{float(abs(explicit / implicit)):.1f}"])
    return table(["order k", "Adams-Bashforth", "Adams-Moulton", "ratio"], lines)


@part.proves(
    "Error constants",
    functions=[numerics.adams_bashforth_error_constant, numerics.adams_moulton_error_constant],
    source=HAIRER,
    formulas=lambda: {"constants": constants_table()},
)
def error_constants() -> None:
    r"""The local error of order k is the next coefficient of the same series times h^(k+1) y^(k+1).

    $$
    y(t_{n+1}) - y_{n+1} = \gamma_k\, h^{k+1} y^{(k+1)}(\xi) \quad\text{(Adams-Bashforth)}, \qquad
    \gamma^*_k\, h^{k+1} y^{(k+1)}(\xi) \quad\text{(Adams-Moulton)},
    $$

    with $\gamma^*_k = \gamma_k - \gamma_{k-1}$.

    **Derivation.** The interpolant misses $f$ by $f^{(k)}(\xi) \prod_j (s - x_j)/k!$. The product keeps its sign
    over the interval of integration, so the mean value theorem takes $f^{(k)}$ out, and
    $\int_0^1 \prod_j (s + j)/k!\, ds = \int_0^1 \binom{s+k-1}{k} ds = \gamma_k$. Multiplying the generating
    function by $1 - t$ gives the relation to $\gamma^*$.

    <<constants>>

    **What it means.** At equal order Adams-Moulton is the more accurate, by the ratio in the last column, which
    grows with the order: that is the gain the free corrector of [part 4](04-folding.md) collects. Checked for
    orders 1 to 8.
    """
    s = sp.Symbol("s")
    for k in ORDERS:
        explicit, implicit = numerics.adams_bashforth_error_constant(k), numerics.adams_moulton_error_constant(k)
        require_equal(explicit, gamma(k + 1)[k], f"error constant of Adams-Bashforth {k}")
        require_equal(implicit, gamma(k + 1, implicit=True)[k], f"error constant of Adams-Moulton {k}")
        require_equal(implicit, explicit - gamma(k)[k - 1], f"relation of the constants, order {k}")
        missed = numerics.interpolation_error_constant([sp.Integer(-j) for j in range(k)], s)
        require_equal(sp.integrate(sp.expand(missed), (s, 0, 1)), explicit, f"integral of the missed term, order {k}")
        ahead = numerics.interpolation_error_constant([sp.Integer(1 - j) for j in range(k)], s)
        require_equal(sp.integrate(sp.expand(ahead), (s, 0, 1)), implicit, f"integral, Adams-Moulton, order {k}")


@part.proves(
    "Error on arbitrary nodes",
    functions=[numerics.lagrange_integral_weights, numerics.interpolation_error_constant],
    source=HAIRER + "; on variable steps section III.5",
)
def error_on_arbitrary_nodes() -> None:
    r"""On any nodes the first missed monomial is missed by the integral of the node polynomial.

    $$
    \int_a^b f\,ds - \sum_j v_j f(x_j) = \int_a^b f[x_0, \dots, x_{k-1}, s] \prod_j (s - x_j)\, ds ,
    $$

    which for $f = s^k$ is $\int_a^b \prod_j (s - x_j)\,ds$ exactly.

    **Derivation.** The error of interpolation is the divided difference times the node polynomial, and the divided
    difference of $s^k$ on $k + 1$ nodes is one.

    **What it means.** The leading error of any step of any grid is known before the model is run. Checked as an
    identity in all nodes and limits for one to three nodes.
    """
    s = sp.Symbol("s")
    for k in range(1, 4):
        *nodes, a, b = rational_functions(" ".join(f"x_{j}" for j in range(k)) + " a b")
        weights = numerics.lagrange_integral_weights(nodes, a, b)
        quadrature = sum(v * x**k for v, x in zip(weights, nodes, strict=True))
        missed = (b ** (k + 1) - a ** (k + 1)) / (k + 1) - quadrature
        symbols = [node.as_expr() for node in nodes]
        polynomial = sp.expand(numerics.interpolation_error_constant(symbols, s) * sp.factorial(k))
        integral = sp.integrate(polynomial, (s, a.as_expr(), b.as_expr()))
        require_equal(missed.as_expr(), integral, f"missed monomial, {k} nodes")


@part.proves(
    "Change of variable",
    functions=[numerics.lagrange_integral_weights, numerics.lagrange_weights],
    source="affine invariance of interpolation",
)
def affine_covariance() -> None:
    r"""Shifting and scaling all nodes and limits leaves evaluation weights alone and scales integration weights.

    For $x \mapsto c x + d$: $w \mapsto w$ and $v \mapsto c\, v$.

    **Derivation.** Numerator and denominator of each $\ell_j$ are products of $k - 1$ differences of nodes;
    shifts cancel in each difference and $c^{k-1}$ cancels in the quotient, while $ds$ brings one factor $c$.

    **What it means.** Units do not matter: interpolating in the timestep, in the step index or in $t/1000$ is
    the same on a uniform grid. What matters is a *nonlinear* change of variable, such as to $\lambda$. On
    uniform nodes the variable-step weights therefore *are* the fixed-step weights, exactly. Checked for one to
    three symbolic nodes.
    """
    for k in range(1, 4):
        *nodes, a, b, c, d, p = rational_functions(" ".join(f"x_{j}" for j in range(k)) + " a b c d p")
        moved = [c * x + d for x in nodes]
        require_all_equal(
            numerics.lagrange_weights(moved, c * p + d), numerics.lagrange_weights(nodes, p), f"evaluation, {k} nodes"
        )
        scaled = [c * v for v in numerics.lagrange_integral_weights(nodes, a, b)]
        require_all_equal(
            numerics.lagrange_integral_weights(moved, c * a + d, c * b + d), scaled, f"integration, {k} nodes"
        )
    h, t = sp.symbols("h t")
    for k in (2, 3, 4):
        stepped = numerics.lagrange_integral_weights([t - j * h for j in range(k)], t, t + h)
        fixed = [h * sp.sympify(v) for v in numerics.adams_bashforth_weights(k)]
        require_all_equal(stepped, fixed, f"uniform nodes, order {k}")
        ahead = numerics.lagrange_weights([t - j * h for j in range(k)], t + h)
        require_all_equal(ahead, numerics.binomial_weights(k), f"uniform nodes, evaluation, order {k}")
    require(all(isinstance(v, Fraction) for v in numerics.adams_bashforth_weights(3)), "the weights are fractions")
