"""Part 2: why adjacent outputs obey a linear relation, what it costs, and where along the run it is good."""

from __future__ import annotations

import math

import sympy as sp

from ab_schedulers import numerics

from .adams import gamma
from .rendering import equation, row_tex, table
from .statements import Part, as_expr, rational_functions, require, require_all_equal, require_equal

AB_CACHE = "AB-Cache, arXiv:2504.10540, where AB_k = AM_k is stated"
ORDERS = range(1, 8)

part = Part(
    number=2,
    slug="linear_relation",
    title="The linear relation between outputs",
    opening=r"""
AB-Cache predicts the output of a skipped step by a fixed combination of the last ones, such as
$2 f_n - f_{n-1}$. This page derives the combination, shows that it is polynomial extrapolation and how it reads
on a graded grid, gives its exact error, and explains by a formula why adjacent outputs are most alike in the
middle of a run.
""",
)


@part.proves(
    "Adams-Bashforth equals Adams-Moulton",
    functions=[numerics.adams_bashforth_weights, numerics.adams_moulton_weights],
    source=AB_CACHE + "; the factor is our derivation",
)
def equal_methods_leave_a_difference() -> None:
    r"""The Adams-Moulton step minus the Adams-Bashforth step of order k is a multiple of the k-th backward difference.

    $$
    \mathrm{AM}_k - \mathrm{AB}_k = \gamma_{k-1}\, h\, \nabla^k f_{n+1}, \qquad \gamma_{k-1} > 0 .
    $$

    Setting the two methods equal therefore says $\nabla^k f_{n+1} = 0$, and nothing else.

    **Derivation.** Both integrate a polynomial of degree below $k$ over the same step. The two polynomials
    agree at the $k - 1$ nodes they share, so their difference is $c \prod_{j=0}^{k-2} (s + j)$, and comparing
    the node that each has alone gives $c = \nabla^k f_{n+1} / (k-1)!$. The integral of the product over
    $[0, 1]$, divided by $(k-1)!$, is $\gamma_{k-1}$ of [part 1](01-adams.md): an integral of positive factors,
    hence not zero.

    **What it means.** The relation needs no property of the model but smoothness. Checked on the weights of the
    running functions for orders 1 to 7.
    """
    for k in ORDERS:
        moulton = [*numerics.adams_moulton_weights(k), 0]  # on f_{n+1}, f_n, ..., f_{n+1-k}
        bashforth = [0, *numerics.adams_bashforth_weights(k)]
        factor = gamma(k)[k - 1]
        require(factor > 0, f"gamma_{k - 1} is positive")
        difference = [sp.sympify(a) - sp.sympify(b) for a, b in zip(moulton, bashforth, strict=True)]
        backward = [factor * (-1) ** j * sp.binomial(k, j) for j in range(k + 1)]
        require_all_equal(difference, backward, f"AM_{k} - AB_{k}")


@part.proves(
    "The binomial weights",
    functions=[numerics.binomial_weights, numerics.lagrange_weights],
    source=AB_CACHE,
    formulas=lambda: {
        "weights": table(
            ["k", "weights of the cached outputs, newest first"],
            [[str(k), row_tex(numerics.binomial_weights(k))] for k in range(1, 7)],
        )
    },
)
def binomial_weights_solve_it() -> None:
    r"""Solving the relation for the newest output gives the weights (-1)^(j-1) C(k, j).

    $$
    \hat f_{n+1} = \sum_{j=1}^{k} (-1)^{j-1} \binom{k}{j} f_{n+1-j} .
    $$

    **Derivation.** $\nabla^k f_{n+1} = \sum_{j=0}^k (-1)^j \binom{k}{j} f_{n+1-j}$, solved for the term $j = 0$. The
    weights are Lagrange's on uniform nodes one step ahead, and that is how the code computes them.

    <<weights>>

    **What it means.** Order 1 is plain reuse, order 2 the line through the last two outputs, and so on: the weights
    predict the *output*, and the base sampler still takes its own step with it. They are not the update weights
    $3/2, -1/2$ of Adams-Bashforth. Checked for orders 1 to 7.
    """
    for k in ORDERS:
        expected = [(-1) ** (j - 1) * sp.binomial(k, j) for j in range(1, k + 1)]
        require_all_equal(numerics.binomial_weights(k), expected, f"binomial weights {k}")
        nodes = [sp.Integer(-j) for j in range(k)]
        require_all_equal(numerics.lagrange_weights(nodes, sp.Integer(1)), expected, f"Lagrange weights {k}")


@part.proves(
    "The relation on any grid",
    functions=[numerics.lagrange_integral_weights, numerics.lagrange_weights],
    source="our derivation",
)
def the_relation_on_any_grid() -> None:
    r"""On any nodes, AB_k = AM_k holds exactly if the new output is the Lagrange extrapolation of the last k.

    For nodes $x_{n+1}, x_n, \dots, x_{n+1-k}$ with outputs $f$, and $\ell$ the Lagrange weights at $x_{n+1}$,

    $$
    \mathrm{AM}_k - \mathrm{AB}_k =
    \Bigl(f_{n+1} - \sum_{j=1}^k \ell_j f_{n+1-j}\Bigr)
    \frac{\int_{x_n}^{x_{n+1}} \prod_{j=1}^{k-1} (s - x_{n+1-j})\, ds}{\prod_{j=1}^{k-1} (x_{n+1} - x_{n+1-j})} .
    $$

    **Derivation.** As on the uniform grid; the bracket is $f[x_{n+1}, \dots, x_{n+1-k}] \prod_{j=1}^k (x_{n+1} -
    x_{n+1-j})$ by Newton's formula. The factor is positive when the nodes are ordered.

    **What it means.** The published binomial weights are the uniform case. On timesteps that are not equally
    spaced the relation itself asks for weights that take the nodes. Checked as an identity in all nodes for
    orders 1 to 3.
    """
    for k in range(1, 4):
        nodes = rational_functions(" ".join(f"x_{j}" for j in range(k + 1)))
        newest, known = nodes[0], nodes[1:]
        moulton = numerics.lagrange_integral_weights(nodes[:k], known[0], newest)
        bashforth = numerics.lagrange_integral_weights(known, known[0], newest)
        weights = numerics.lagrange_weights(known, newest)
        factor = moulton[0]  # the basis polynomial of the newest node: exactly the quotient above
        difference = [a - b for a, b in zip([*moulton, 0], [0 * newest, *bashforth], strict=True)]
        require_all_equal(difference, [factor, *(-factor * w for w in weights)], f"AM_{k} - AB_{k} on any nodes")
        s = sp.Symbol("s")
        shared = [as_expr(node) for node in known[: k - 1]]
        product = sp.expand(sp.Mul(*[s - node for node in shared]))
        quotient = sp.integrate(product, (s, as_expr(known[0]), as_expr(newest)))
        quotient /= sp.Mul(*[as_expr(newest) - node for node in shared])
        require_equal(as_expr(factor), quotient, f"factor, order {k}")


@part.proves(
    "The error is exactly h^k f^(k)",
    functions=[numerics.binomial_weights, numerics.interpolation_error_constant],
    source="Peano kernel of the k-th difference: the cardinal B-spline (Schoenberg 1946)",
)
def the_error_is_a_derivative() -> None:
    r"""Predicting one uniform step ahead misses the output by h^k f^(k)(xi), with no further factor.

    $$
    f_{n+1} - \hat f_{n+1} = \nabla^k f_{n+1} = h^k \int_0^k f^{(k)}(x_{n+1} - h u)\, B_k(u)\, du
    = h^k f^{(k)}(\xi) ,
    $$

    with $B_k$ the B-spline of order $k$, the $k$-fold convolution of the indicator of $[0, 1]$.

    **Derivation.** $\nabla f(x) = h \int_0^1 f'(x - h u)\,du$; apply it $k$ times, and the integrals convolve.
    $B_k$ is not negative and has integral one, so the mean value theorem gives $\xi$. Both sides are linear and
    invariant under shifts, so exponentials decide: $\nabla^k e^{a x} = (1 - e^{-ah})^k e^{a x}$, and the
    Laplace transform of $B_k$ at $ah$ is $((1 - e^{-ah})/(ah))^k$.

    **What it means.** The constant is one for every order: raising $k$ pays while the output is smooth on the
    scale of a window, $h^k |f^{(k)}|$ falling, and hurts where it is not. Checked: the constant of the running
    function for orders 1 to 7, the kernel's transform, and monomials up to degree $k + 1$.
    """
    a, h, u = sp.symbols("a h u", positive=True)
    box = sp.integrate(sp.exp(-a * h * u), (u, 0, 1))
    require_equal(box, (1 - sp.exp(-a * h)) / (a * h), "transform of the indicator")
    for k in ORDERS:
        nodes = [sp.Integer(-j) for j in range(k)]
        require_equal(numerics.interpolation_error_constant(nodes, sp.Integer(1)), 1, f"constant, order {k}")
        weights = numerics.binomial_weights(k)
        exponential = 1 - sum(sp.sympify(w) * sp.exp(-(j + 1) * a * h) for j, w in enumerate(weights))
        require_equal(sp.expand(exponential), sp.expand((1 - sp.exp(-a * h)) ** k), f"exponential, order {k}")
        for m in range(k + 2):
            missed = sp.expand(0 - sum(sp.sympify(w) * (-(j + 1)) ** m for j, w in enumerate(weights))) + int(m == 0)
            # m-th moment of f = x^m at x_{n+1} = 0: k! for m = k; the kernel's mean is k/2, hence the next one
            expected = {k: sp.factorial(k), k + 1: -sp.factorial(k + 1) * sp.Rational(k, 2)}.get(m, 0)
            require_equal(missed, expected, f"monomial {m}, order {k}")


def output_energy(scale: sp.Symbol, r: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    r"""Flow output ``u(r)`` of unit noise for Gaussian data of standard deviation ``scale``, and ``u'(r)``."""
    point = sp.Symbol("r", real=True)
    deviation = sp.sqrt((1 - point) ** 2 * scale**2 + point**2)
    first = sp.diff(deviation, point)
    return sp.simplify(first.subs(point, r)), sp.simplify(sp.diff(first, point).subs(point, r))


def speed_formula() -> str:
    """Displayed change of the output of one mode."""
    s, r = sp.Symbol("s", positive=True), sp.Symbol("r", real=True)
    return equation(r"\frac{du}{dr}", sp.factor(output_energy(s, r)[1]))


@part.proves(
    "Why the similarity has the shape of a U",
    source="our derivation, for Gaussian data; AB-Cache observes the shape",
    formulas=lambda: {"speed": speed_formula()},
)
def similarity_has_the_shape_of_a_u() -> None:
    r"""Coarse content changes the output at the noisy end and fine detail at the clean end, so both ends differ most.

    Let the data be Gaussian with standard deviations $s_i$ along its principal axes. In the coordinate
    $r = \sigma/(\alpha + \sigma)$ of [part 3](03-base-steps.md) every trajectory is
    $z_i(r) = V_i(r)^{1/2}\, c_i$, $V_i = (1-r)^2 s_i^2 + r^2$, with $c_i$ standard normal, and the output is
    $u_i = dz_i/dr$. For $c_i = 1$

    <<speed>>

    so $|\nabla u|^2 \approx h^2 \sum_i s_i^4 / V_i^3$ is the squared difference of adjacent outputs. The term
    of axis $i$ peaks at $r = s_i^2/(1 + s_i^2)$: near the noise ($r = 1$) for large $s_i$, near the data for
    small $s_i$. For a pair of axes $s$ and $1/s$ the sum is larger at both ends than in the middle exactly if
    $s^2 + s^{-2} > \sqrt{65} - 1$ (at the clean end), that is from $s \approx 2.6$ on.

    **Derivation.** $u' = (V V''/2 - V'^2/4)/V^{3/2}$, and $V$ is a quadratic in $r$ whose discriminant makes
    the numerator the constant $s^2$. The minimum of $V$ is at $s^2/(1+s^2)$. At the ends the sum is
    $s^{2} + s^{-2}$ ($r=0$) and $s^4 + s^{-4}$ ($r=1$), in the middle $64/(s + 1/s)^2 = 64/(s^2 + s^{-2} + 2)$.

    <<similarity>>

    **What it means.** Images have a wide spectrum, large variance in coarse directions and small in fine ones,
    hence the U. Skip in the middle, compute at both ends: plans that are denser there, and grids that are
    graded towards them, are not a trick but follow from the data. `ab-schedulers bench similarity` prints the curve
    of every bundled model and of two Gaussian mixtures beside the formula ([measurements](../measurements.md)).
    Checked symbolically in $s$ and $r$.
    """
    s, q = sp.symbols("s q", positive=True)
    r = sp.Symbol("r", real=True)
    variance = (1 - r) ** 2 * s**2 + r**2
    require_equal(output_energy(s, r)[1], s**2 / variance ** sp.Rational(3, 2), "change of the output")
    (peak,) = sp.solve(sp.diff(variance, r), r)
    require_equal(peak, s**2 / (1 + s**2), "where it peaks")

    def total(point: sp.Expr) -> sp.Expr:
        return sum((scale**4 / variance.subs({s: scale, r: point}) ** 3 for scale in (s, 1 / s)), start=sp.Integer(0))

    clean, noisy, middle = total(sp.Integer(0)), total(sp.Integer(1)), total(sp.Rational(1, 2))
    require_equal(clean, s**2 + s**-2, "clean end")
    require_equal(noisy, s**4 + s**-4, "noisy end")
    require_equal(middle, 64 / (s**2 + s**-2 + 2), "middle")
    threshold = sp.sqrt(65) - 1
    require_equal((q - 64 / (q + 2)).subs(q, threshold), 0, "threshold")
    require(sp.simplify(sp.diff(q - 64 / (q + 2), q)).is_positive is True, "the difference of end and middle rises")
    # noisy end: q^2 - 2 exceeds q for q > 2, and q = s^2 + s^-2 is at least 2
    require(sp.factor(q**2 - 2 - q) == (q - 2) * (q + 1), "the noisy end exceeds the clean end")
    require(math.isclose(float(sp.sqrt((threshold + sp.sqrt(threshold**2 - 4)) / 2)), 2.63, abs_tol=0.01), "s = 2.6")
