"""Part 9: EB-Cache's exposure bias, as variance, as signal-to-noise ratio, and as a factor on the noise."""

from __future__ import annotations

from typing import Any

import sympy as sp

from ab_schedulers import numerics

from .rendering import equation, table, tex
from .statements import Part, rational_functions, require, require_equal

EB = "EB-Cache, arXiv:2503.07120"

part = Part(
    number=9,
    slug="exposure_bias",
    title="Exposure bias and noise scaling",
    opening=r"""
EB-Cache argues that caching amplifies *exposure bias*: the samples of a run drift off the levels that the model
was trained at, and a factor on the predicted noise brings them back. This page gives the variance of consecutive
cached errors in closed form, says what a factor does to the signal-to-noise ratio, and compares the published
factor with the released code. They disagree.
""",
)


def variance_closed_form(count: Any, rho: Any) -> sp.Expr:
    """Variance of ``count`` consecutive unit errors with correlation ``rho^d`` at distance ``d``."""
    return count * (1 + rho) / (1 - rho) - 2 * rho * (1 - rho**count) / (1 - rho) ** 2


def variance_table() -> str:
    """Variances of sums over a window and of predictions one step ahead, over the correlation."""
    rhos = [sp.Integer(0), sp.Rational(1, 2), sp.Rational(4, 5), sp.Rational(19, 20), sp.Integer(1)]
    lines = []
    for name, weights in (
        ("sum of 3 reused", [1] * 3),
        ("sum of 5 reused", [1] * 5),
        *((f"prediction, k = {k}", numerics.binomial_weights(k)) for k in (1, 2, 3, 4)),
    ):
        lines.append([name, *(tex(numerics.correlated_variance([sp.sympify(w) for w in weights], r)) for r in rhos)])
    return table(["", *(rf"$\varrho = {sp.latex(r)}$" for r in rhos)], lines)


@part.proves(
    "Correlated errors",
    functions=[numerics.correlated_variance],
    source=EB + "; the closed form and the variances of predictions are our derivation",
    formulas=lambda: {
        "closed": equation(r"\operatorname{Var} S_N", variance_closed_form(sp.Symbol("N"), sp.Symbol("varrho"))),
        "variances": variance_table(),
    },
)
def variance_of_consecutive_errors() -> None:
    r"""N consecutive errors with correlation rho^d have the variance N(1+rho)/(1-rho) - 2 rho (1-rho^N)/(1-rho)^2.

    <<closed>>

    It is $N$ for independent errors, $N^2$ for equal ones, and grows as $N (1+\varrho)/(1-\varrho)$ between. At
    $\varrho = 4/5$ and $N = 5$ it is $11317/625 = 18.1072$.

    **Derivation.** $\operatorname{Var} S_N = N + 2\sum_{d=1}^{N-1} (N-d) \varrho^d$ grows by
    $1 + 2\sum_{d=1}^{N} \varrho^d = 1 + 2\varrho(1-\varrho^N)/(1-\varrho)$ from $N$ to $N+1$; the closed form
    grows by the same and is one at $N = 1$.

    <<variances>>

    **What it means.** A window of reused outputs repeats one error, so its errors add up like equal ones. In a
    prediction of order two or more the weights alternate in sign, and there correlation helps: errors that move
    together cancel, and at $\varrho = 1$ every order passes an error on once. The gain $2^k - 1$ of [part
    8](08-stability.md) is the worst case of errors that alternate. Checked for symbolic $N$ and $\varrho$, and for 1
    to 8 weights.
    """
    n, rho = sp.symbols("N varrho", positive=True)
    growth = variance_closed_form(n + 1, rho) - variance_closed_form(n, rho)
    require_equal(sp.simplify(growth - (1 + 2 * rho * (1 - rho**n) / (1 - rho))), 0, "growth")
    require_equal(sp.cancel(variance_closed_form(sp.Integer(1), rho)), 1, "one error")
    for count in range(1, 9):
        found = numerics.correlated_variance([sp.Integer(1)] * count, rho)
        closed = sp.cancel(variance_closed_form(sp.Integer(count), rho))
        require_equal(sp.expand(found), sp.expand(closed), f"{count} errors")
        require_equal(found.subs(rho, 0) if count > 1 else found, count, f"{count} independent errors")
        require_equal(found.subs(rho, 1) if count > 1 else found, count**2, f"{count} equal errors")
        weights = [sp.sympify(w) for w in numerics.binomial_weights(count)]
        require_equal(numerics.correlated_variance(weights, sp.Integer(1)), 1, f"equal errors, order {count}")
        worst = numerics.correlated_variance(weights, sp.Integer(-1))
        require_equal(worst, numerics.noise_gain(weights) ** 2, f"alternating errors, order {count}")
    value = numerics.correlated_variance([1] * 5, sp.Rational(4, 5))
    require_equal(value, sp.Rational("18.1072"), "the published value")


@part.proves(
    "Noise scaling corrects the signal-to-noise ratio",
    functions=[numerics.convert_quantity, numerics.ddim_step],
    source=EB + " for the idea; the factors are our derivation",
)
def noise_scaling_moves_the_ratio() -> None:
    r"""A factor b on the predicted noise multiplies the noise left after a DDIM step by 1 + (1 - b)(e^h - 1).

    $h = \lambda' - \lambda$ is the step in log-SNR. The signal is untouched, so the signal-to-noise ratio
    $\alpha'^2/\sigma'^2$ is divided by the square of that factor: $b < 1$ leaves *more* noise, $b > 1$ less. Over
    a run the factors multiply. If the model does not see the surplus and keeps returning the old noise, the surplus
    $g - b$ grows as $e^{\lambda}$.

    **Derivation.** With $\varepsilon \to b\,\varepsilon$ the clean sample is $(x - \sigma b \varepsilon)/\alpha$,
    and $x' = \frac{\alpha'}{\alpha} x + b\,(\sigma' - \frac{\alpha'\sigma}{\alpha})\,\varepsilon$. With $x = \alpha x_0
    + \sigma g\,\varepsilon$ the noise after the step is $g' \sigma'$, $g' = e^h g + b\,(1 - e^h)\,g$ if the model
    returns $g\,\varepsilon$, and $g' = e^h g + b\,(1 - e^h)$ if it returns $\varepsilon$.

    **What it means.** If a run removes too much noise, by a factor $g < 1$ per step, the factor that restores it
    is $b = 1 - (1/g - 1)/(e^h - 1)$. It depends on the step: a constant $b$ acts most where steps in log-SNR are
    longest. A deviation of the ratio is measured, not assumed; hence a fitted table in `noise_scaling`. Checked
    for free $\alpha, \sigma, \alpha', \sigma', b, g$.
    """
    alpha, sigma, alpha_next, sigma_next, b, g, x0, eps = rational_functions("a s an sn b g x0 eps")
    growth = alpha_next * sigma / (alpha * sigma_next)  # e^h
    x = alpha * x0 + sigma * g * eps

    def noise_after(returned: Any) -> Any:
        of_sample, of_output = numerics.convert_quantity("epsilon", "epsilon", alpha, sigma, noise_scale=b)
        scaled = of_sample * x + of_output * returned
        of_sample, of_output = numerics.convert_quantity("epsilon", "sample", alpha, sigma, noise_scale=b)
        clean = of_sample * x + of_output * returned
        step = numerics.ddim_step(numerics.quantity_map("epsilon", alpha, sigma), alpha_next, sigma_next)
        reached = step.sample * x + step.outputs[0] * scaled
        require_equal(reached, alpha_next * clean + sigma_next * scaled, "both forms of the scaled step")
        return (reached - alpha_next * x0) / (sigma_next * eps)

    require_equal(noise_after(g * eps), g * (1 + (1 - b) * (growth - 1)), "a model that sees the noise")
    require_equal(noise_after(eps) - b, growth * (g - b), "a model that does not")
    restoring = 1 - (1 / g - 1) / (growth - 1)
    require_equal(g * (1 + (1 - restoring) * (growth - 1)), 1, "the factor that restores the level")


def published(t: Any, high: Any, low: Any, threshold: Any) -> tuple[sp.Expr, sp.Expr]:
    """The two branches of the published factor, above and below the threshold."""
    above = high + (1 - high) * sp.exp(-5 * (1 - t) / (1 - threshold))
    below = low + (high - low) * sp.exp(5 * (t - threshold) / (1 - threshold))
    return above, below


def factor_table() -> str:
    """The published factor with the example values, and the released one."""
    values = {"high": sp.Rational(98, 100), "low": sp.Rational(96, 100), "threshold": sp.Rational(2, 5)}
    lines = []
    for t in ("0", "0.2", "0.399", "0.4", "0.6", "0.8", "1"):
        found = numerics.published_noise_scale(sp.Rational(t), **values, exp=sp.exp)
        lines.append([t, f"{float(found):.5f}", f"{1 / 0.965:.5f}"])
    return table(["t", "published b(t)", "released code, 1 / 0.965"], lines)


@part.proves(
    "The published factor",
    functions=[numerics.published_noise_scale],
    source=EB + " for b(t); the factor 1/0.965 is that of its released script",
    formulas=lambda: {"factors": factor_table()},
)
def the_published_factor_and_the_code_disagree() -> None:
    r"""b(t) rises from near b_l to 1, jumps by (1 - b_h) e^-5 at tau, and shrinks the noise that the code enlarges.

    $$
    b(\tau^+) - b(\tau^-) = (1 - b_h)\, e^{-5}, \qquad b(1) = 1, \qquad b(0) = b_l + (b_h - b_l)\, e^{-5\tau/(1-\tau)} .
    $$

    <<factors>>

    **Derivation.** Insert $t = \tau$ into both branches: $b_h + (1 - b_h) e^{-5}$ and $b_h$. Both rise, as
    $b_l < b_h < 1$. The example values $b_h = .98$, $b_l = .96$, $\tau = .4$ jump by $1.3 \cdot 10^{-4}$, too little to
    be noticed.

    **What it means.** Every $b(t) < 1$ for $t < 1$ leaves more noise than an unscaled step. The released code divides
    the noise by 0.965, a factor above one, which leaves less. The paper's account, that
    caching removes too much noise, asks for the former. For a given model one of the two has the sign wrong, so
    neither is a default here: the factor is fitted, or left at one. Checked: the
    running function against both branches at rational $t$, the jump and the ends symbolically, and the signs.
    """
    t, tau, high, low = sp.symbols("t tau b_h b_l", positive=True)
    above, below = published(t, high, low, tau)
    jump = above.subs(t, tau) - below.subs(t, tau)
    require_equal(jump, (1 - high) * sp.exp(-5), "jump at the threshold")
    require_equal(above.subs(t, 1), 1, "noisy end")
    require_equal(below.subs(t, 0), low + (high - low) * sp.exp(-5 * tau / (1 - tau)), "clean end")
    values = {high: sp.Rational(98, 100), low: sp.Rational(96, 100), tau: sp.Rational(2, 5)}
    before = sp.Integer(0)
    for i in range(21):
        point = sp.Rational(i, 20)
        branch = above if point >= values[tau] else below
        found = numerics.published_noise_scale(
            point, high=values[high], low=values[low], threshold=values[tau], exp=sp.exp
        )
        require_equal(found, branch.subs(values).subs(t, point), f"the function at t = {point}")
        require(bool(found > before), f"b rises at t = {point}")
        require(bool(found < 1) or point == 1, f"b shrinks the noise at t = {point}")
        before = found
    require(1 / sp.Rational("0.965") > 1, "the released factor enlarges the noise")
