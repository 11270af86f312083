"""Part 5, continued: orders, error constants and noise gains of the multistep schedulers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sympy as sp

from ab_schedulers import numerics

from .amplification import mean_gain
from .base_step_maps import moments
from .multistep_rows import UNIPC, adams_row, deis_row, exponential_weights, lms_row, part, unipc_row, unipc_weights
from .rendering import row_tex, table, tex
from .statements import rational_functions, require_all_equal, require_equal

FIRST_ORDER = "DDIM, Euler, DPM-Solver++ 1, flow Euler"
ORDERS = {FIRST_ORDER: 1, "PLMS, iPNDM": 4, "LMS": 4, "DPM-Solver++ 2M": 2, "DPM-Solver++ 2M heun": 2}
ORDERS |= {"DPM-Solver++ 3M": 2, "DEIS 2": 2, "DEIS 3": 3, "UniPC 1": 2, "UniPC 2": 3, "UniPC 3": 4}


def exponential(x: Any, degree: int = 8) -> Any:
    """``e^x`` up to ``x^degree``, in the field of ``x``."""
    return 1 + sum(x**m / math.factorial(m) for m in range(1, degree + 1))


def stock_rows(h: Any) -> dict[str, tuple[str, str, list[Any]]]:
    """Quantity, variable and row of each multistep scheduler, on a grid of even steps ``h`` in that variable."""
    alphas, lambdas = [h**0] * 6, [-i * h for i in range(6)]
    sigmas = [h**0, *(exponential(i * h) for i in range(1, 6))]
    rhos = [1 + i * h for i in range(6)]
    rows: dict[str, tuple[str, str, list[Any]]] = {
        FIRST_ORDER: ("any", "any", adams_row(1, alphas, rhos)),
        "PLMS, iPNDM": ("noise", r"$\rho$", adams_row(4, alphas, rhos)),
        "LMS": ("noise", r"$\rho$", lms_row(4, alphas, rhos)),
    }
    ends = (alphas[1], alphas[0]), (sigmas[1], sigmas[0])
    for order, solver_type, name in ((2, "midpoint", "2M"), (2, "heun", "2M heun"), (3, "midpoint", "3M")):
        step = numerics.dpmsolver_step(*ends, lambdas[: order + 1], order=order, solver_type=solver_type)
        rows[f"DPM-Solver++ {name}"] = ("clean sample", r"$\lambda$", [step.sample, *step.outputs])
    for order in (2, 3):
        rows[f"DEIS {order}"] = ("noise", r"$\lambda$", deis_row(order, alphas, sigmas, lambdas))
    for order in (1, 2, 3):
        rows[f"UniPC {order}"] = ("clean sample", r"$\lambda$", unipc_row(order, alphas, sigmas, lambdas))
    return rows


def shares(row: Sequence[Any]) -> list[sp.Expr]:
    """Weights of the outputs relative to their sum, for vanishing steps: a row over ``QQ(h)`` at ``h = 0``."""
    total = sum(row[1:])
    return [sp.sympify(s.numer.coeff(1)) / sp.sympify(s.denom.coeff(1)) for s in (w / total for w in row[1:])]


def order_and_constant(weights: Sequence[Any]) -> tuple[int, sp.Expr]:
    """Order of weights on ``0, -1, -2, ...`` over the step from 0 to 1, and the factor of ``h^(k+1) f^(k)``."""
    for m in range(len(weights) + 1):
        missed = sp.Rational(1, m + 1) - sum(w * (-j) ** m for j, w in enumerate(weights))
        if missed != 0:
            break
    return m, missed / sp.factorial(m)


def leading_power(element: Any) -> Any:
    """Exponent of the leading term in ``h``, the first generator; infinite for zero."""
    if element == 0:
        return math.inf
    numerator, denominator = (min(monomial[0] for monomial in p.monoms()) for p in (element.numer, element.denom))
    return numerator - denominator


def local_power(weights: Sequence[Any], nodes: Sequence[Any], integrals: Sequence[Any]) -> Any:
    """Leading power of ``h`` in what the weights miss of the integrals of ``tau^m``, over all given ``m``."""
    missed = []
    for m, integral in enumerate(integrals):
        powers = [node**m if m else 1 for node in nodes]
        missed.append(integral - sum(w * x for w, x in zip(weights, powers, strict=True)))
    return min(leading_power(defect) for defect in missed)


def table_of_schedulers() -> str:
    """Quantity, variable, orders, error constant and noise gain of each scheduler."""
    (h,) = rational_functions("h")
    lines = []
    for name, (quantity, variable, row) in stock_rows(h).items():
        weights = shares(row)
        order, constant = order_and_constant(weights)
        graded = graded_adams_order(4) if name == "PLMS, iPNDM" else order
        gain = numerics.noise_gain(weights)
        lines.append([name, quantity, variable, str(order), str(graded), tex(constant), tex(gain)])
    return table(
        ["scheduler", "quantity", "even steps in", "order, even", "order, graded", "error constant", "noise gain"],
        lines,
    )


def table_of_weights() -> str:
    """The limiting weights and the schedulers that have them."""
    (h,) = rational_functions("h")
    names: dict[str, list[str]] = {}
    for name, (_, _, row) in stock_rows(h).items():
        names.setdefault(row_tex(shares(row)), []).append(name)
    lines = [[weights, "; ".join(shared)] for weights, shared in names.items()]
    return table([r"weights as $h \to 0$, newest first", "schedulers"], lines)


def graded_adams_order(order: int) -> int:
    r"""Global order of constant-step Adams-Bashforth weights on nodes ``\rho(s) = s + c s^2 / 2``, ``s = -jh``."""
    h, c = rational_functions("h c")

    def node(j: int) -> Any:
        return j * h + c * (j * h) ** 2 / 2 if j else 0 * h

    nodes = [node(-j) for j in range(order)]
    end = node(1)
    weights = adams_row(order, [h**0] * 2, [end, 0 * h])[1:]
    weights = [as_field(w, h) for w in weights]
    integrals = [end ** (m + 1) / (m + 1) for m in range(order + 1)]
    return int(local_power(weights, nodes, integrals)) - 1


def as_field(value: Any, like: Any) -> Any:
    """A weight in the field of ``like``."""
    return value if hasattr(value, "numer") and hasattr(value, "field") else like**0 * value


@part.proves(
    "Orders, error constants and noise gains",
    functions=[
        numerics.dpmsolver_step,
        numerics.adams_bashforth_weights,
        numerics.adams_bashforth_error_constant,
        numerics.lagrange_integral_weights,
        numerics.noise_gain,
    ],
    source="our derivation; " + UNIPC,
    formulas=lambda: {"schedulers": table_of_schedulers(), "weights": table_of_weights()},
)
def orders_of_the_multistep_schedulers() -> None:
    r"""On graded grids PLMS and iPNDM fall from order 4 to 2, all others keep theirs; UniPC p has order p + 1.

    <<schedulers>>

    The error constant is the factor of $h^{k+1} f^{(k)}$ in a step, $k$ the order; the noise gain is the sum of
    the sizes of the weights. $\rho = \sigma/\alpha = e^{-\lambda}$.

    <<weights>>

    **Derivation.** For vanishing steps the weights over the step tend to those of a linear multistep method on even
    nodes, and the first monomial that these miss gives order and constant. On graded grids: the weights of LMS, DEIS
    and UniPC are interpolatory on the nodes as they are, those of DPM-Solver++ exact for lines up to $h^3/12$.
    PLMS and iPNDM take the weights of even steps. On nodes $\rho(s)$ with $s = jh$ they integrate $f(\rho(s))$ over
    $s$ and multiply by $\rho'$ at large; the covariance of the two over a step, $\rho'' f' h^3/12$, is lost.
    In UniPC the predictor of order $p$ enters through the outputs alone, $O(h^{p+1})$, while the sample is
    corrected with order $p + 1$. The folded corrector adds the next backward difference with the weight $\gamma_p$,
    which is the step from Adams-Bashforth of order $p$ to that of order $p + 1$.

    **What it means.** At vanishing steps UniPC of order $p$ *is* Adams-Bashforth of order $p + 1$, in accuracy
    and in noise gain; DEIS 3 and UniPC 2 differ in the quantity alone. A fourth-order row amplifies the errors of the
    network nearly seven times, a second-order one twice. Checked: rows as formulas over $\mathbb{Q}(h)$ with the
    exponential to $h^8$; predictors and correctors of UniPC, DEIS and DPM-Solver++ for free ratios of the steps;
    iPNDM for free grading. Tests measure these orders on the rows of the stock schedulers, on graded grids. One
    exception stays: stock DEIS 3 takes small differences of large terms in float32, and its error rises again between
    50 and 200 steps.
    """
    (h,) = rational_functions("h")
    for name, (_, _, row) in stock_rows(h).items():
        order, constant = order_and_constant(shares(row))
        require_equal(order, ORDERS[name], f"order of {name}")
        if name != "DPM-Solver++ 3M":
            require_all_equal(shares(row), numerics.adams_bashforth_weights(order), f"weights of {name}")
            require_equal(constant, numerics.adams_bashforth_error_constant(order), f"error constant of {name}")
            require_equal(numerics.noise_gain(shares(row)), mean_gain(order, None), f"noise gain of {name}")
    require_equal(graded_adams_order(4), 2, "PLMS and iPNDM on a graded grid")
    require_equal(graded_adams_order(1), 1, "order 1 on a graded grid")
    _orders_on_free_nodes()


def _orders_on_free_nodes() -> None:
    """Local powers of the methods that take their nodes, with steps ``h, r h, s h, t h``."""
    h, r, s, t = rational_functions("h r s t")
    decay = exponential(-h)
    integrals = moments(decay, h, 5)
    behind = [0 * h, -r * h, -(r + s) * h, -(r + s + t) * h]
    for k in (1, 2, 3):
        require_equal(local_power(exponential_weights(behind[:k], decay, h), behind[:k], integrals), k + 1, f"DEIS {k}")
        predictor = unipc_weights(k, behind[:k], decay, h, corrects=False)
        require_equal(local_power(predictor, behind[:k], integrals), k + 1, f"UniP {k}")
        known = [h, *behind[:k]]
        corrector = unipc_weights(k, known, decay, h, corrects=True)
        require_equal(local_power(corrector, known, integrals), k + 2, f"UniC {k}")
    for order, solver_type in ((2, "midpoint"), (2, "heun"), (3, "midpoint")):
        lambdas = [h, *behind[:order]]
        step = numerics.dpmsolver_step((h**0, h**0), (h**0, decay), lambdas, order=order, solver_type=solver_type)
        require_equal(local_power(step.outputs, behind[:order], integrals), 3, f"DPM-Solver++ {order} {solver_type}")
    weights = numerics.lagrange_integral_weights(behind, 0 * h, h)
    require_equal(local_power(weights, behind, [h ** (m + 1) / (m + 1) for m in range(6)]), 5, "LMS")
