"""Part 3: each base step as a linear map, and on what outputs it is exact."""

from __future__ import annotations

from typing import Any

import sympy as sp

from ab_schedulers import numerics

from .rendering import display, equation, table, tex
from .statements import Part, rational_functions, require, require_all_equal, require_equal

DDIM = "Song et al. 2021, arXiv:2010.02502"
DPM = "Lu et al. 2022, arXiv:2211.01095 (DPM-Solver++), arXiv:2206.00927 (DPM-Solver)"

part = Part(
    number=3,
    slug="base_steps",
    title="Base steps as linear maps",
    opening=r"""
A network is trained to predict the noise $\varepsilon$, the clean sample $x_0$ or a velocity. Given one of
them, every deterministic sampler takes a step that is *linear* in the sample and in the outputs. This page
writes the steps down, shows that DDIM and the Euler step of flow matching are one and the same, and says on
which outputs each step is exact. Linearity is what lets skipped steps be folded ([part 4](04-folding.md)).
""",
)


def vp_node(u: Any) -> tuple[Any, Any]:
    """Rational point ``(alpha, sigma)`` of the unit circle."""
    return (1 - u * u) / (1 + u * u), 2 * u / (1 + u * u)


def quantity_value(quantity: str, alpha: Any, sigma: Any, x0: Any, eps: Any, *, flow: bool) -> Any:
    """What a perfect model of ``quantity`` returns, from the definition."""
    if quantity == "velocity":
        return eps - x0 if flow else alpha * eps - sigma * x0
    return {"epsilon": eps, "sample": x0}[quantity]


@part.proves(
    "Three names for one output",
    functions=[numerics.quantity_map, numerics.convert_quantity],
    source="Salimans and Ho 2022, arXiv:2202.00512, for the velocity; noise scaling from EB-Cache, arXiv:2503.07120",
)
def quantities_are_equivalent() -> None:
    r"""At a given sample, noise, clean sample and velocity determine each other linearly.

    With $x = \alpha x_0 + \sigma \varepsilon$ and $v = \alpha \varepsilon - \sigma x_0$
    ($\alpha^2 + \sigma^2 = 1$) or $v = \varepsilon - x_0$ ($\alpha + \sigma = 1$), each of the three outputs
    gives back $x_0$ and $\varepsilon$, and any one turns into any other as $u\,x + w\,q$.

    **Derivation.** Two linear equations in $x_0$ and $\varepsilon$, with a determinant that is $\alpha$, $\sigma$ or
    one.

    **What it means.** What a model predicts and what is cached are separate choices. They agree at a computed
    node and differ *between* nodes: a line through two noises is not the line through two clean samples,
    because the conversion brings in the sample of its own node. Checked as identities in
    $\alpha, \sigma, x_0, \varepsilon$ for all pairs, on both kinds of paths, and with a scaled noise
    $\varepsilon \to b\,\varepsilon$.
    """
    t, x0, eps, b = rational_functions("t x0 eps b")
    for flow, (alpha, sigma) in ((False, vp_node(t)), (True, (1 - t, t))):
        x = alpha * x0 + sigma * eps
        for source in numerics.QUANTITIES:
            q = quantity_value(source, alpha, sigma, x0, eps, flow=flow)
            known = numerics.quantity_map(source, alpha, sigma, flow=flow)
            require_equal(known.x0_sample * x + known.x0_output * q, x0, f"x_0 from {source}")
            require_equal(known.eps_sample * x + known.eps_output * q, eps, f"epsilon from {source}")
            for target in numerics.QUANTITIES:
                u, w = numerics.convert_quantity(source, target, alpha, sigma, flow=flow)
                wanted = quantity_value(target, alpha, sigma, x0, eps, flow=flow)
                require_equal(u * x + w * q, wanted, f"{target} from {source}")
                u, w = numerics.convert_quantity(source, target, alpha, sigma, flow=flow, noise_scale=b)
                rescaled = (x - sigma * b * eps) / alpha
                wanted = quantity_value(target, alpha, sigma, rescaled, b * eps, flow=flow)
                require_equal(u * x + w * q, wanted, f"{target} from {source} with scaled noise")


@part.proves(
    "DDIM is exact for a frozen output",
    functions=[numerics.ddim_step],
    source=DDIM + ", equation 12 and section 4.3",
)
def ddim_is_exact_for_frozen_outputs() -> None:
    r"""If the noise, the clean sample or both stay constant along the step, DDIM follows the probability flow exactly.

    The flow is $\dot x = \dot\alpha\, x_0 + \dot\sigma\, \varepsilon$ with $x = \alpha x_0 + \sigma \varepsilon$. The
    step is $x' = \alpha' x_0 + \sigma' \varepsilon$, the same map whichever quantity the model predicts:

    $$
    x' = \frac{\alpha'}{\alpha} x + \Bigl(\sigma' - \frac{\alpha'\sigma}{\alpha}\Bigr) \varepsilon
       = \frac{\sigma'}{\sigma} x + \Bigl(\alpha' - \frac{\sigma'\alpha}{\sigma}\Bigr) x_0 .
    $$

    **Derivation.** With $\varepsilon$ frozen, $x(t) = \alpha_t c + \sigma_t \varepsilon$ solves the flow for every
    constant $c$, and $c$ is the clean sample at the start of the step; with $x_0$ frozen, $x(t) = \alpha_t x_0 +
    \sigma_t c$.

    **What it means.** The error of DDIM, and of any cached DDIM, comes only from the *change* of the output,
    never from the schedule. Checked for symbolic schedules and every quantity.
    """
    time, c, frozen = sp.symbols("t c e")
    alpha_of, sigma_of = sp.Function("alpha")(time), sp.Function("sigma")(time)
    path = alpha_of * c + sigma_of * frozen
    drift = sp.diff(alpha_of, time) / alpha_of
    flow_of_noise = drift * path + (sp.diff(sigma_of, time) - drift * sigma_of) * frozen
    require_equal(sp.diff(path, time), flow_of_noise, "the path of a frozen noise solves the flow")

    t, s, x0, eps = rational_functions("t s x0 eps")
    for flow, node in ((False, vp_node), (True, lambda u: (1 - u, u))):
        (alpha, sigma), (alpha_next, sigma_next) = node(t), node(s)
        x = alpha * x0 + sigma * eps
        for quantity in numerics.QUANTITIES:
            q = quantity_value(quantity, alpha, sigma, x0, eps, flow=flow)
            start = numerics.quantity_map(quantity, alpha, sigma, flow=flow)
            step = numerics.ddim_step(start, alpha_next, sigma_next)
            reached = step.sample * x + step.outputs[0] * q
            require_equal(reached, alpha_next * x0 + sigma_next * eps, f"DDIM in {quantity}")


@part.proves(
    "DDIM is Euler's method, and flow Euler is DDIM",
    functions=[numerics.ddim_step, numerics.quantity_map],
    source="our derivation; the change of variables is that of Karras et al. 2022, arXiv:2206.00364, appendix B",
)
def ddim_is_euler_in_flow_coordinates() -> None:
    r"""With z = x/(alpha + sigma) and r = sigma/(alpha + sigma), DDIM is Euler's step with the velocity eps - x_0.

    $$
    \frac{dz}{dr} = \varepsilon - x_0, \qquad z' = z + (r' - r)(\varepsilon - x_0) ,
    $$

    for every schedule. Where $\alpha + \sigma = 1$ the coordinates are the sample and its noise level themselves, and
    the step is the Euler step of flow matching.

    **Derivation.** $z = (1-r)\,x_0 + r\,\varepsilon$, since $\alpha/(\alpha+\sigma) = 1 - r$; DDIM keeps both
    and moves $r$ to $r'$.

    **What it means.** Every deterministic path is *one* differential equation, and all that follows about order
    and stability is proved once, in these coordinates. The schedule only decides where the nodes $r$ lie.
    Checked for free $\alpha, \sigma, \alpha', \sigma'$.
    """
    alpha, sigma, alpha_next, sigma_next, x0, eps = rational_functions("a s an sn x0 eps")
    step = numerics.ddim_step(numerics.quantity_map("epsilon", alpha, sigma), alpha_next, sigma_next)
    reached = step.sample * (alpha * x0 + sigma * eps) + step.outputs[0] * eps
    r, r_next = sigma / (alpha + sigma), sigma_next / (alpha_next + sigma_next)
    z = (1 - r) * x0 + r * eps
    require_equal(reached / (alpha_next + sigma_next), z + (r_next - r) * (eps - x0), "DDIM as Euler's step")
    t, s = rational_functions("t s")
    euler = numerics.ddim_step(numerics.quantity_map("velocity", 1 - t, t, flow=True), 1 - s, s)
    require_all_equal((euler.sample, *euler.outputs), (1, s - t), "flow Euler")


def phi(order: int, z: Any) -> sp.Expr:
    r"""``\varphi_m(z) = \int_0^1 e^{(1-\theta) z} \theta^{m-1}/(m-1)! d\theta``, through its recurrence."""
    value = sp.exp(z)
    for m in range(order):
        value = (value - 1 / sp.factorial(m)) / z
    return value


def moments(decay: Any, h: Any, count: int) -> list[Any]:
    r"""``\int_0^h e^{-(h - tau)} tau^m dtau`` by parts, with ``decay`` for ``e^-h``."""
    integrals = [1 - decay]
    for m in range(1, count):
        integrals.append(h**m - m * integrals[-1])
    return integrals


@part.proves(
    "The exponential integrator",
    functions=[numerics.dpmsolver_step, numerics.ddim_step],
    source=DPM + "; Hochbruck and Ostermann 2010, *Exponential integrators*",
    formulas=lambda: {
        "phis": display(
            *(rf"\varphi_{m}(z) = {sp.latex(sp.simplify(phi(m, sp.Symbol('z'))))}" for m in (1, 2, 3)),
        )
    },
)
def exponential_integrator() -> None:
    r"""In log-SNR the flow is linear plus the output, and DDIM is the first order of its exponential integrator.

    With $\lambda = \log(\alpha/\sigma)$ and $h = \lambda' - \lambda$, variation of constants gives exactly

    $$
    x' = \frac{\sigma'}{\sigma} x + \alpha' \int_0^h e^{-(h-\tau)}\, x_0(\lambda + \tau)\, d\tau
       = \frac{\sigma'}{\sigma} x + \alpha' \sum_m h^{m+1} \varphi_{m+1}(-h)\, x_0^{(m)}(\lambda) ,
    $$

    and the first term of the sum is DPM-Solver++ of order 1, which is DDIM.

    **Derivation.** $d(x/\sigma)/d\lambda = e^\lambda x_0$; integrate and expand $x_0$ in $\tau$. The functions
    $\varphi_m(z) = \int_0^1 e^{(1-\theta)z}\, \theta^{m-1}/(m-1)!\, d\theta$ follow by parts from one another,
    $\varphi_{m+1}(z) = (\varphi_m(z) - 1/m!)/z$:

    <<phis>>

    **What it means.** The linear part of the equation costs no error at all. Higher orders only need derivatives of
    $x_0$ in $\lambda$, which multistep methods take from the cached outputs. Checked: the flow in $\lambda$, the
    functions against their integrals, and the running step of order 1 against both forms.
    """
    lam, tau = sp.symbols("lambda tau")
    h = sp.Symbol("h", positive=True)
    ratio, clean = sp.Function("y")(lam), sp.Function("x_0")(lam)  # y = x / sigma = e^lambda x_0 + eps
    noise = ratio - sp.exp(lam) * clean
    sigma_of = sp.Function("sigma")(lam)
    alpha_of = sp.exp(lam) * sigma_of
    flow = sp.diff(alpha_of, lam) * clean + sp.diff(sigma_of, lam) * noise
    change = (flow - sp.diff(sigma_of, lam) * ratio) / sigma_of
    require_equal(sp.expand(change), sp.expand(sp.exp(lam) * clean), "the flow of x / sigma")
    for m in range(3):
        integral = sp.integrate(sp.exp(-(h - tau)) * tau**m, (tau, 0, h))
        require_equal(integral, moments(sp.exp(-h), h, m + 1)[m], f"moment {m}")
        require_equal(integral, sp.factorial(m) * h ** (m + 1) * phi(m + 1, -h), f"phi_{m + 1}")
    a, s, b, sn, l0, l1 = rational_functions("a s b sn l0 l1")
    first = numerics.dpmsolver_step((a, b), (s, sn), (l1, l0), order=1)
    ddim = numerics.ddim_step(numerics.quantity_map("sample", a, s), b, sn)
    require_all_equal((first.sample, *first.outputs), (ddim.sample, *ddim.outputs), "order 1 is DDIM")
    decay = sn * a / (s * b)
    require_equal(first.outputs[0], b * moments(decay, l1 - l0, 1)[0], "order 1 is the first phi-function")
    noise_form = numerics.dpmsolver_step((a, b), (s, sn), (l1, l0), order=1, algorithm_type="dpmsolver")
    ddim = numerics.ddim_step(numerics.quantity_map("epsilon", a, s), b, sn)
    require_all_equal((noise_form.sample, *noise_form.outputs), (ddim.sample, *ddim.outputs), "noise form, order 1")


def defects(order: int, solver_type: str, *, uniform: bool = False) -> list[Any]:
    r"""What a step of DPM-Solver++ misses of ``\tau^m``, ``m = 0, 1, 2``, divided by ``alpha'``, on any nodes."""
    a, s, b, decay, h, h1, h2 = rational_functions("a s b E h h_1 h_2")
    if uniform:
        h1 = h2 = h
    lambdas = (h, 0 * h, -h1, -h1 - h2)
    step = numerics.dpmsolver_step((a, b), (s, b * s * decay / a), lambdas, order=order, solver_type=solver_type)
    exact = moments(decay, h, 3)
    nodes = lambdas[1:]
    missed = []
    for m in range(3):
        powers = [node**m if m else h**0 for node in nodes]
        found = sum(w * p for w, p in zip(step.outputs, powers, strict=False))
        missed.append(exact[m] - found / b)
    return missed


def with_exponential(defect: Any) -> sp.Expr:
    """A defect with its decay written as ``e^-h``."""
    return defect.as_expr().subs(sp.Symbol("E"), sp.exp(-sp.Symbol("h")))


def leading(defect: Any) -> sp.Expr:
    """Leading term in ``h`` of a uniform defect."""
    h = sp.Symbol("h")
    return sp.series(with_exponential(defect), h, 0, 5).removeO().as_leading_term(h)


def constants_table() -> str:
    """Leading local defects of the multistep updates on a uniform grid in lambda."""
    lines = []
    for order, solver_type in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")):
        missed = [leading(defect) for defect in defects(order, solver_type, uniform=True)]
        name = f"{order}, {solver_type}" if order == 2 else str(order)
        lines.append([name, *(tex(value / sp.factorial(m)) for m, value in enumerate(missed))])
    return table(["order, type", r"factor of $x_0$", r"of $x_0'$", r"of $x_0''$"], lines)


@part.proves(
    "DPM-Solver++ of order 2 and 3",
    functions=[numerics.dpmsolver_step],
    source=DPM + "; that order 3 halves the curvature is our finding",
    formulas=lambda: {
        "constants": constants_table(),
        "midpoint": equation(
            r"\int_0^h e^{-(h-\tau)} \tau\,d\tau - \tfrac h2 (1 - e^{-h})",
            sp.series(with_exponential(defects(2, "midpoint")[1]), sp.Symbol("h"), 0, 5),
        ),
    },
)
def multistep_orders() -> None:
    r"""Type "heun" of order 2 is exact for x_0 linear in lambda, "midpoint" nearly so, order 3 sees half the curvature.

    On any nodes in $\lambda$: every order is exact for constant $x_0$; order 2 "heun" and order 3 are exact for
    linear $x_0$; order 3 integrates a quadratic $x_0$ with exactly half of its second-order term.

    **Derivation.** Feed $x_0 = \tau^m$ at the nodes and compare with the exact moments. For order 3 the code,
    like the authors' and diffusers', multiplies $D_2$ by the integral that belongs to $x_0''$; but $D_2$ is
    $h^2$ times the divided difference, which is $h^2 x_0''/2$. For "midpoint", $h/2\,(1 - e^{-h})$ stands for
    $h - 1 + e^{-h}$:

    <<midpoint>>

    Leading defects of a step on a uniform grid, divided by $\alpha'$:

    <<constants>>

    **What it means.** Order 3 is a method of *order two* with a leading constant five times smaller than that
    of order 2; expect slope 2 from it in a convergence plot. "Midpoint" and "heun" are both of order two.
    Checked with free $\alpha, \sigma, \alpha'$ and free spans, also the noise form of order 2.
    """
    for order, solver_type in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")):
        missed = defects(order, solver_type)
        require_equal(missed[0], 0, f"constants, order {order} {solver_type}")
        exact_on_lines = solver_type == "heun" or order == 3
        require((missed[1] == 0) is exact_on_lines, f"linear outputs, order {order} {solver_type}")
    decay, h = rational_functions("a s b E h h_1 h_2")[3:5]
    require_equal(defects(3, "midpoint")[2], moments(decay, h, 3)[2] / 2, "half of the curvature")
    h_symbol = sp.Symbol("h")
    two, three = defects(2, "heun", uniform=True)[2], defects(3, "midpoint", uniform=True)[2]
    require_equal(leading(two), sp.factorial(2) * numerics.adams_bashforth_error_constant(2) * h_symbol**3, "order 2")
    require_equal(leading(two), 5 * leading(three), "ratio of the constants")
    require_equal(leading(defects(2, "midpoint")[1]), h_symbol**3 / 12, "midpoint on linear outputs")

    a, s, b, growth, h, h1 = rational_functions("a s b G h h_1")
    noise = numerics.dpmsolver_step(
        (a, b), (s, b * s / (a * growth)), (h, 0 * h, -h1), order=2, algorithm_type="dpmsolver", solver_type="heun"
    )
    scale = -b * s / (a * growth)
    require_equal(sum(noise.outputs), scale * (growth - 1), "noise form, constants")
    require_equal(noise.outputs[1] * -h1, scale * (growth - 1 - h), "noise form, linear outputs")
