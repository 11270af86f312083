"""Part 5: the linear multistep schedulers of diffusers as rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import sympy as sp

from ab_schedulers import numerics

from .base_step_maps import moments
from .statements import Part, rational_functions, require, require_all_equal, require_equal

UNIPC = "Zhao et al. 2023, arXiv:2302.04867 (UniPC), as diffusers computes it"

part = Part(
    number=5,
    slug="multistep",
    title="Every linear multistep scheduler is a row",
    opening=r"""
Most samplers of diffusers are linear multistep methods: DDIM, PLMS, iPNDM, LMS, DEIS, DPM-Solver, UniPC, flow
Euler. Each takes $x' = a\,x + \sum_j b_j f_j$ with scalars of its own, provided that $f$ is the quantity it
integrates. So one analysis serves all of them, they can be run inside a cached scheduler, and fitted rows
([part 10](10-fitted-rows.md)) contain each of them as a special case. Tests compare the formulas of this page with
the rows that [`probe`](../../ab_schedulers/schedulers/probe.py) reads off the schedulers themselves.
""",
)


def interpolatory_weights(nodes: Sequence[Any], known: Sequence[Any]) -> list[Any]:
    r"""Values ``L(\ell_j)`` on the Lagrange basis of a linear functional with ``L(tau^m) = known[m]``."""
    weights = []
    for j, node in enumerate(nodes):
        others = [*nodes[:j], *nodes[j + 1 :]]
        total = 0
        for m in range(len(nodes)):  # the coefficient of tau^m in the product over the others of (tau - node)
            roots = itertools.combinations(others, len(others) - m)
            total = total + known[m] * (-1) ** (len(others) - m) * sum(math.prod(chosen) for chosen in roots)
        weights.append(total / math.prod(node - other for other in others))
    return weights


def exponential_weights(nodes: Sequence[Any], decay: Any, h: Any) -> list[Any]:
    r"""``\int_0^h e^{-(h - tau)} \ell_j(tau) dtau`` for the Lagrange basis on ``nodes``; ``decay`` is ``e^-h``."""
    return interpolatory_weights(nodes, moments(decay, h, len(nodes)))


def unipc_weights(
    order: int, nodes: Sequence[Any], decay: Any, h: Any, *, corrects: bool, bh1: bool = False
) -> list[Any]:
    r"""Weights of UniP (or of UniC) on ``nodes``, newest first, divided by ``alpha'``, as published.

    ``(1 - e^-h) m_0 + B(h) \sum_j \rho_j (m_j - m_0) / r_j`` with ``r_j = nodes_j / h`` and ``\rho`` from
    ``\sum_j r_j^i \rho_j = \int_0^h e^{-(h - tau)} (tau / h)^{i+1} dtau / B(h)``; UniP of order 2 and UniC of order 1
    take ``\rho = 1/2`` instead. The newest computed node is 0; the corrector's new output, at ``h``, comes before it.
    """
    origin = int(corrects)
    others = [*nodes[:origin], *nodes[origin + 1 :]]
    scale = h if bh1 else 1 - decay  # B(h)
    ratios = [node / h for node in others]
    if len(others) == 1 and order == (1 if corrects else 2):
        factors = [decay**0 / 2]
    else:
        integrals = moments(decay, h, len(others) + 1)
        factors = interpolatory_weights(ratios, [m / (h**i * scale) for i, m in enumerate(integrals)][1:])
    slopes = [scale * rho / ratio for rho, ratio in zip(factors, ratios, strict=True)]
    slopes.insert(origin, 1 - decay - sum(slopes))
    return slopes


def unipc_row(
    order: int, alphas: Sequence[Any], sigmas: Sequence[Any], lambdas: Sequence[Any], *, bh1: bool = False
) -> list[Any]:
    """The row of UniPC at a call in the middle of a run: predictor, and the corrector of the window before.

    Args:
        order: Order of predictor and corrector, 1 to 3.
        alphas: Signal scales of the end of the step, of the call and of the calls before, ``order + 2`` of them.
        sigmas: Noise scales likewise.
        lambdas: Log signal-to-noise ratios likewise.
        bh1: Whether ``B(h) = h`` rather than ``1 - e^-h``.

    Returns:
        The weight of the sample, then of the clean samples, newest first.
    """
    decays = [sigmas[i] * alphas[i + 1] / (sigmas[i + 1] * alphas[i]) for i in range(2)]
    spans = [lambdas[i] - lambdas[i + 1] for i in range(2)]
    now = [lam - lambdas[1] for lam in lambdas[1 : order + 1]]
    before = [lam - lambdas[2] for lam in lambdas[2 : order + 2]]
    ahead = unipc_weights(order, now, decays[0], spans[0], corrects=False, bh1=bh1)
    predicted = unipc_weights(order, before, decays[1], spans[1], corrects=False, bh1=bh1)
    corrected = unipc_weights(order, [spans[1], *before], decays[1], spans[1], corrects=True, bh1=bh1)
    scale = sigmas[0] / sigmas[1] * alphas[1]
    change = [c - p for c, p in zip(corrected, [0, *predicted], strict=True)]
    return [
        sigmas[0] / sigmas[1],
        *(alphas[0] * w + scale * c for w, c in zip([*ahead, 0], change, strict=True)),
    ]


def noise_row(weights: Sequence[Any], alphas: Sequence[Any], sigmas: Sequence[Any]) -> list[Any]:
    """The row ``x'/alpha' = x/alpha + (rho' - rho) sum_j w_j epsilon_j`` in ``rho = sigma/alpha``, newest first."""
    span = sigmas[0] - alphas[0] * sigmas[1] / alphas[1]
    return [alphas[0] / alphas[1], *(span * weight for weight in weights)]


def adams_row(order: int, alphas: Sequence[Any], sigmas: Sequence[Any]) -> list[Any]:
    """The row of PLMS and iPNDM: Adams-Bashforth weights for *even* steps, whatever the nodes."""
    return noise_row([sp.sympify(w) for w in numerics.adams_bashforth_weights(order)], alphas, sigmas)


def lms_row(order: int, alphas: Sequence[Any], sigmas: Sequence[Any]) -> list[Any]:
    """The row of LMS: the integrals of the Lagrange basis in ``rho``, on the nodes as they are."""
    rhos = [s / a for s, a in zip(sigmas, alphas, strict=True)]
    weights = numerics.lagrange_integral_weights(rhos[1 : order + 1], rhos[1], rhos[0])
    return noise_row([weight / (rhos[0] - rhos[1]) for weight in weights], alphas, sigmas)


def deis_row(order: int, alphas: Sequence[Any], sigmas: Sequence[Any], lambdas: Sequence[Any]) -> list[Any]:
    """The row of DEIS (type "logrho"): the noise interpolated in ``log rho = -lambda`` and integrated over ``rho``."""
    growth = sigmas[1] * alphas[0] / (alphas[1] * sigmas[0])  # e^h
    h = lambdas[0] - lambdas[1]
    nodes = [lambdas[1] - lam for lam in lambdas[1 : order + 1]]  # in log rho, which falls by h
    weights = exponential_weights(nodes, growth, -h)
    return [alphas[0] / alphas[1], *(sigmas[0] * weight for weight in weights)]


def expressed_in_noise(calls: int) -> list[list[Any]]:
    r"""Rows of DPM-Solver++ 2M in the noise, from elimination: for each call the weights of its own and older noises.

    The samples are forms in the first one and in the noises; the row is what leads from one to the next.
    """
    names = [f"a{i}" for i in range(calls + 1)] + [f"s{i}" for i in range(calls + 1)]
    symbols = rational_functions(" ".join(names) + " h g")
    alphas, sigmas, h, g = symbols[: calls + 1], symbols[calls + 1 : 2 * calls + 2], symbols[-2], symbols[-1]
    zero, one = 0 * h, 0 * h + 1
    forms = [[one, *[zero] * calls]]
    cleans: list[list[Any]] = []
    rows = []
    for call in range(calls):
        clean = [value / alphas[call] for value in forms[call]]
        clean[call + 1] = clean[call + 1] - sigmas[call] / alphas[call]
        cleans.insert(0, clean)
        ends = (alphas[call], alphas[call + 1]), (sigmas[call], sigmas[call + 1])
        step = numerics.dpmsolver_step(*ends, (h, zero, -g), order=min(2, call + 1))
        following = [step.sample * value for value in forms[call]]
        for weight, output in zip(step.outputs, cleans, strict=False):
            following = [u + weight * v for u, v in zip(following, output, strict=True)]
        scale = following[0] / forms[call][0]
        rest = [u - scale * v for u, v in zip(following, forms[call], strict=True)]
        rows.append(rest[call + 1 : 0 : -1])
        forms.append(following)
    return rows


@part.proves(
    "The natural quantity",
    functions=[numerics.dpmsolver_step],
    source="our derivation",
)
def the_history_is_short_in_one_quantity_alone() -> None:
    r"""A multistep method has a short history in the quantity it integrates, and a growing one in every other.

    DPM-Solver++ 2M weights two clean samples. In the noise the row of call $n$ weights all $n + 1$ outputs, the
    oldest included.

    **Derivation.** An old clean sample is $(x_j - \sigma_j \varepsilon_j)/\alpha_j$ and brings in the *sample* $x_j$ of
    its call. To be a row it must be expressed by the newest sample, which takes one step back, and that step
    contains the clean sample before it; so on to the first call. With one output (DDIM, order 1) nothing older is
    needed, which is why first-order methods are rows in every quantity.

    **What it means.** Which quantity a scheduler integrates is a part of the method. A cache, a calibration or an
    analysis in another one sees a method of growing depth. Probing sends unit vectors through the scheduler in its
    own quantity. Checked for free $\alpha_i, \sigma_i$ and spans, calls 1 to 4.
    """
    a, s, b, sn, h, g = rational_functions("a s b sn h g")
    two = numerics.dpmsolver_step((a, b), (s, sn), (h, 0 * h, -g), order=2)
    require(len(two.outputs) == 2, "two clean samples")
    decay = sn * a / (s * b)
    require_equal(two.sample, sn / s, "weight of the sample")
    require_equal(sum(two.outputs), b * (1 - decay), "weights of the clean samples")
    for call, row in enumerate(expressed_in_noise(4)):
        require(len(row) == call + 1 and row[-1] != 0, f"call {call} weights the first noise")


@part.proves(
    "UniPC is exponential Adams with a folded corrector",
    functions=[numerics.dpmsolver_step],
    source=UNIPC,
)
def unipc_is_exponential_adams() -> None:
    r"""UniP of order 3 and UniC of order 2 and 3 are the exponential Adams weights on any nodes; UniP 2 is "midpoint".

    UniC of order $p$ interpolates the new output and the $p$ before it. UniP of order 2 and UniC of order 1, where
    the published code takes $\rho_1 = 1/2$, replace $h - 1 + e^{-h}$ by $h\,(1 - e^{-h})/2$.

    **Derivation.** The conditions on the published factors $\rho_j$ say that the differences $m_j - m_0$ are
    weighted such that $\tau, \dots, \tau^{n}$ are integrated exactly, with $n$ the number of differences;
    constants are anyway. That is the degree of exactness that defines the interpolatory weights, whatever $B(h)$
    is. Where one difference is weighted by $B(h)/2$ instead, $B(h) = 1 - e^{-h}$ ("bh2") is the step of
    DPM-Solver++ 2M.

    **What it means.** UniPC adds no method to the list: predictor 3 is the order-3 integrator that DPM-Solver++ 3M
    would be without its halved curvature ([part 3](03-base-steps.md)), and its gain comes from the free corrector.
    $B(h)$ matters at UniP 2 and UniC 1 alone. Checked for free nodes.
    """
    h, r, s, decay, a, b = rational_functions("h r s E a b")
    behind = [0 * h, -r, -s]
    for bh1 in (False, True):
        three = unipc_weights(3, behind, decay, h, corrects=False, bh1=bh1)
        require_all_equal(three, exponential_weights(behind, decay, h), "UniP 3")
        for order in (2, 3):
            nodes = [h, *behind[:order]]
            corrected = unipc_weights(order, nodes, decay, h, corrects=True, bh1=bh1)
            require_all_equal(corrected, exponential_weights(nodes, decay, h), f"UniC {order}")
    midpoint = numerics.dpmsolver_step((a, b), (a, decay * b), (h, 0 * h, -r), order=2)
    two = unipc_weights(2, behind[:2], decay, h, corrects=False)
    require_all_equal([b * w for w in two], midpoint.outputs, "UniP 2")
    one = unipc_weights(1, [h, 0 * h], decay, h, corrects=True)
    require_all_equal(one, [(1 - decay) / 2, (1 - decay) / 2], "UniC 1")
    weights = exponential_weights(behind, decay, h)
    for m, moment in enumerate(moments(decay, h, 3)):
        powers = [node**m if m else h**0 for node in behind]
        require_equal(sum(w * x for w, x in zip(weights, powers, strict=True)), moment, f"integral of tau^{m}")
