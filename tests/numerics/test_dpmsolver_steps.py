"""DPM-Solver and DPM-Solver++ against their formulas, the exact integral and the exact posterior."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ab_schedulers.numerics import BaseStep, ddim_step, dpmsolver_step, quantity_map

TYPES = ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
FORMS = [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")]

# Neither the papers nor diffusers have a third-order SDE-DPM-Solver.
PUBLISHED = [(kind, *form) for kind in TYPES for form in FORMS if (kind, form[0]) != ("sde-dpmsolver", 3)]

positive = st.fractions(min_value=Fraction(1, 9), max_value=3, max_denominator=9)
gaps = st.lists(positive, min_size=3, max_size=3)


@st.composite
def ends(draw: st.DrawFn) -> tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]]:
    """Arbitrary positive ``(alpha, alpha_next), (sigma, sigma_next)``."""
    return (draw(positive), draw(positive)), (draw(positive), draw(positive))


def falling(spans: list[Fraction]) -> list[Fraction]:
    """``lambda_next, lambda, lambda_previous, ...`` with these gaps."""
    lambdas = [Fraction(0)]
    for span in spans:
        lambdas.append(lambdas[-1] - span)
    return lambdas


def published_step(
    kind: str, order: int, solver_type: str, lambdas: list[float], m: list[float], x: float
) -> tuple[float, float]:
    """Mean and variance of the next sample, line by line from the papers.

    DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095): algorithm 2 (2M) with its heun form, the multistep third-order
    update of the authors' code, and the SDE forms of its appendix; DPM-Solver (arXiv:2206.00927) likewise. The sign of
    1/2 in the D_2 factor of the third-order SDE is diffusers'.
    """
    lambda_t, lambda_s0 = lambdas[0], lambdas[1]
    alpha_t, alpha_s0 = (1 / math.sqrt(1 + math.exp(-2 * value)) for value in (lambda_t, lambda_s0))
    sigma_t, sigma_s0 = (1 / math.sqrt(1 + math.exp(2 * value)) for value in (lambda_t, lambda_s0))
    h = lambda_t - lambda_s0
    D0 = m[0]
    D1 = D2 = 0.0
    if order == 2:
        r0 = (lambda_s0 - lambdas[2]) / h
        D1 = (1.0 / r0) * (m[0] - m[1])
    if order == 3:
        r0, r1 = (lambda_s0 - lambdas[2]) / h, (lambdas[2] - lambdas[3]) / h
        D1_0, D1_1 = (1.0 / r0) * (m[0] - m[1]), (1.0 / r1) * (m[1] - m[2])
        D1 = D1_0 + (r0 / (r0 + r1)) * (D1_0 - D1_1)
        D2 = (1.0 / (r0 + r1)) * (D1_0 - D1_1)
    midpoint = order == 2 and solver_type == "midpoint"
    if kind == "dpmsolver++":
        first = np.exp(-h) - 1.0
        slope = -0.5 * alpha_t * first if midpoint else alpha_t * (first / h + 1.0)
        mean = (sigma_t / sigma_s0) * x - alpha_t * first * D0 + slope * D1
        return mean - alpha_t * ((first + h) / h**2 - 0.5) * D2, 0.0
    if kind == "dpmsolver":
        first = np.exp(h) - 1.0
        slope = -0.5 * sigma_t * first if midpoint else -sigma_t * (first / h - 1.0)
        mean = (alpha_t / alpha_s0) * x - sigma_t * first * D0 + slope * D1
        return mean - sigma_t * ((first - h) / h**2 - 0.5) * D2, 0.0
    if kind == "sde-dpmsolver++":
        first = 1.0 - np.exp(-2.0 * h)
        slope = 0.5 * alpha_t * first if midpoint else alpha_t * (first / (-2.0 * h) + 1.0)
        mean = (sigma_t / sigma_s0 * np.exp(-h)) * x + alpha_t * first * D0 + slope * D1
        return mean + alpha_t * ((first - 2.0 * h) / (2.0 * h) ** 2 - 0.5) * D2, sigma_t**2 * first
    first = np.exp(h) - 1.0
    slope = -sigma_t * first if midpoint else -2.0 * sigma_t * (first / h - 1.0)
    mean = (alpha_t / alpha_s0) * x - 2.0 * sigma_t * first * D0 + slope * D1
    return mean, sigma_t**2 * (np.exp(2 * h) - 1.0)


@settings(max_examples=30)
@given(
    start=st.floats(-4, 4),
    spans=st.lists(st.floats(0.05, 1.5), min_size=3, max_size=3),
    outputs=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    x=st.floats(-2, 2),
)
@pytest.mark.parametrize(("kind", "order", "solver_type"), PUBLISHED)
def test_step_is_the_published_update(
    kind: str, order: int, solver_type: str, start: float, spans: list[float], outputs: list[float], x: float
) -> None:
    lambdas = [start, start - spans[0], start - spans[0] - spans[1], start - sum(spans)]
    alphas = tuple(1 / math.sqrt(1 + math.exp(-2 * value)) for value in lambdas[:2])
    sigmas = tuple(1 / math.sqrt(1 + math.exp(2 * value)) for value in lambdas[:2])
    step = dpmsolver_step(
        (alphas[1], alphas[0]),
        (sigmas[1], sigmas[0]),
        lambdas,
        order=order,
        algorithm_type=kind,
        solver_type=solver_type,
    )
    mean, variance = published_step(kind, order, solver_type, lambdas, outputs, x)
    assert len(step.outputs) == order
    ours = step.sample * x + sum(b * m for b, m in zip(step.outputs, outputs, strict=False))
    scale = abs(step.sample * x) + sum(abs(b) for b in step.outputs) + 1
    assert ours == pytest.approx(mean, rel=1e-10, abs=1e-10 * scale)
    assert step.variance == pytest.approx(variance, rel=1e-10, abs=1e-13)


@settings(max_examples=40)
@given(where=ends())
def test_order_one_is_ddim_in_its_own_quantity(
    where: tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]],
) -> None:
    (alpha, alpha_next), (sigma, sigma_next) = where
    for kind, quantity in (("dpmsolver++", "sample"), ("dpmsolver", "epsilon")):
        step = dpmsolver_step(*where, [Fraction(1), Fraction(0)], order=1, algorithm_type=kind)
        ddim = ddim_step(quantity_map(quantity, alpha, sigma), alpha_next, sigma_next)
        assert (step.sample, step.outputs) == (ddim.sample, ddim.outputs)


@settings(max_examples=40)
@given(where=ends(), spans=gaps, form=st.sampled_from(FORMS))
def test_dpmsolver_is_dpmsolver_plus_plus_with_signal_and_noise_exchanged(
    where: tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]], spans: list[Fraction], form: tuple[int, str]
) -> None:
    (alphas, sigmas), (order, solver_type) = where, form
    lambdas = falling(spans)
    plus = dpmsolver_step(alphas, sigmas, lambdas, order=order, solver_type=solver_type)
    exchanged = dpmsolver_step(
        sigmas,
        alphas,
        [-value for value in lambdas],
        order=order,
        algorithm_type="dpmsolver",
        solver_type=solver_type,
    )
    assert exchanged == plus


@settings(max_examples=40)
@given(where=ends(), spans=gaps, form=st.sampled_from(FORMS))
def test_constant_outputs_are_reproduced(
    where: tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]], spans: list[Fraction], form: tuple[int, str]
) -> None:
    """``x = alpha c`` with clean sample ``c`` goes to ``alpha' c``; ``x = sigma c`` with noise ``c`` to ``sigma' c``.

    SDE-DPM-Solver's mean goes to ``sigma' (2 - e^h) c`` instead: it replaces part of the noise by fresh noise.
    """
    ((alpha, alpha_next), (sigma, sigma_next)), (order, solver_type) = where, form

    def sent(kind: str, x: Fraction) -> Fraction:
        step = dpmsolver_step(*where, falling(spans), order=order, algorithm_type=kind, solver_type=solver_type)
        return step.sample * x + sum(step.outputs)

    assert sent("dpmsolver++", alpha) == alpha_next
    assert sent("sde-dpmsolver++", alpha) == alpha_next
    assert sent("dpmsolver", sigma) == sigma_next
    if order < 3:
        growth = alpha_next * sigma / (alpha * sigma_next)
        assert sent("sde-dpmsolver", sigma) == sigma_next * (2 - growth)


@settings(max_examples=40)
@given(where=ends())
def test_the_sde_of_order_one_draws_from_the_exact_posterior(
    where: tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]],
) -> None:
    """``q(x_t | x_s, x_0)`` by conditioning Gaussians (Ho et al. 2020, arXiv:2006.11239, equations 6 and 7)."""
    (alpha, alpha_next), (sigma, sigma_next) = where
    ratio = alpha / alpha_next
    conditional = sigma**2 - ratio**2 * sigma_next**2
    step = dpmsolver_step(*where, [Fraction(1), Fraction(0)], order=1, algorithm_type="sde-dpmsolver++")
    assert step.sample == ratio * sigma_next**2 / sigma**2
    assert step.outputs == (alpha_next * conditional / sigma**2,)
    assert step.variance == sigma_next**2 * conditional / sigma**2
    assert step.sample**2 * sigma**2 + step.variance == sigma_next**2


def high_precision_step(lambdas: list[mpmath.mpf], order: int, solver_type: str, kind: str) -> BaseStep:
    """A step on the variance-preserving path at these log-SNRs."""
    alphas = [1 / mpmath.sqrt(1 + mpmath.exp(-2 * value)) for value in lambdas[1::-1]]
    sigmas = [1 / mpmath.sqrt(1 + mpmath.exp(2 * value)) for value in lambdas[1::-1]]
    return dpmsolver_step(
        (alphas[0], alphas[1]),
        (sigmas[0], sigmas[1]),
        lambdas,
        order=order,
        solver_type=solver_type,
        algorithm_type=kind,
    )


def defect(kind: str, order: int, solver_type: str, degree: int, lambdas: list[mpmath.mpf]) -> mpmath.mpf:
    """Exact next sample less the step's, for outputs ``(s - lambda)^degree``, in units of the output weight scale.

    ``x' = sigma' / sigma x + sigma' int e^s x_0(s) ds`` and ``alpha' / alpha x - alpha' int e^-s epsilon(s) ds``
    (propositions 4.1 of arXiv:2211.01095 and 3.1 of arXiv:2206.00927).
    """
    step = high_precision_step(lambdas, order, solver_type, kind)
    sign = 1 if kind.endswith("++") else -1
    target, start = lambdas[0], lambdas[1]
    scale = 1 / mpmath.sqrt(1 + mpmath.exp(-2 * sign * target))
    integral = mpmath.quad(lambda s: mpmath.exp(sign * (s - target)) * (s - start) ** degree, [start, target])
    outputs = [(node - start) ** degree for node in lambdas[1 : order + 1]]
    return sign * scale * integral - mpmath.fsum(b * m for b, m in zip(step.outputs, outputs, strict=True))


@pytest.mark.parametrize("kind", ["dpmsolver++", "dpmsolver"])
@pytest.mark.parametrize("lambdas", [("1", "0.3", "-0.1", "-1"), ("-2", "-2.75", "-3.5", "-4.25")])
def test_heun_and_third_order_integrate_polynomials_in_log_snr_up_to_degree_one(
    kind: str, lambdas: tuple[str, ...]
) -> None:
    with mpmath.workdps(40):
        nodes = [mpmath.mpf(value) for value in lambdas]
        for order, solver_type in FORMS:
            exact_degrees = 1 if order == 1 or (order, solver_type) == (2, "midpoint") else 2
            for degree in range(3):
                exact = abs(defect(kind, order, solver_type, degree, nodes)) < mpmath.mpf("1e-35")
                assert exact == (degree < exact_degrees), (order, solver_type, degree)


@pytest.mark.parametrize("kind", ["dpmsolver++", "dpmsolver"])
def test_third_order_takes_half_of_the_curvature_as_published(kind: str) -> None:
    """A quadratic output is *not* integrated exactly: the multistep D_2 estimates half the second derivative.

    ``D_2 = (D_10 - D_11) / (r_0 + r_1)`` tends to ``h^2 x_0'' / 2``, and is weighted as if it were ``h^2 x_0''``, in
    the authors' code and in diffusers. Doubled, it would be exact; as it is, the update has order two.
    """
    with mpmath.workdps(40):
        lambdas = [mpmath.mpf(value) for value in ("1", "0.3", "-0.1", "-1")]
        sign = 1 if kind.endswith("++") else -1
        h = lambdas[0] - lambdas[1]
        scale = 1 / mpmath.sqrt(1 + mpmath.exp(-2 * sign * lambdas[0]))
        weight = -scale * ((mpmath.expm1(-sign * h) + sign * h) / h**2 - mpmath.mpf(1) / 2)
        assert mpmath.almosteq(defect(kind, 3, "midpoint", 2, lambdas), weight * h**2, rel_eps=mpmath.mpf("1e-30"))


def test_third_order_sde_follows_diffusers_in_the_sign_of_one_half() -> None:
    """The derivation has ``+ 1/2`` in the factor of D_2, diffusers 0.42 ``- 1/2``; the difference is ``alpha' D_2``.

    Hence the mean is exact for outputs linear in lambda and wrong by ``alpha' D_2`` at least for quadratic ones.
    """
    lambdas = [1.0, 0.3, -0.1, -1.0]
    alphas = [1 / math.sqrt(1 + math.exp(-2 * value)) for value in lambdas]
    sigmas = [1 / math.sqrt(1 + math.exp(2 * value)) for value in lambdas]
    step = dpmsolver_step(
        (alphas[1], alphas[0]), (sigmas[1], sigmas[0]), lambdas, order=3, algorithm_type="sde-dpmsolver++"
    )
    h = lambdas[0] - lambdas[1]
    for degree, factor in ((0, 1 - math.exp(-2 * h)), (1, h + math.expm1(-2 * h) / 2)):
        linear = sum(b * (node - lambdas[1]) ** degree for b, node in zip(step.outputs, lambdas[1:], strict=True))
        assert linear == pytest.approx(alphas[0] * factor)
    published = alphas[0] * ((1 - math.exp(-2 * h) - 2 * h) / (2 * h) ** 2 + 0.5) * h**2
    quadratic = sum(b * (node - lambdas[1]) ** 2 for b, node in zip(step.outputs, lambdas[1:], strict=True))
    assert quadratic == pytest.approx(published - alphas[0] * h**2)


@pytest.mark.parametrize(("order", "solver_type"), FORMS)
def test_steps_fall_continuously_to_standing_still(order: int, solver_type: str) -> None:
    """As the step shrinks, the sample's weight tends to one and the outputs' to zero."""
    largest = []
    for h in (1e-2, 1e-3):
        lambdas = [0.2, 0.2 - h, 0.2 - 2.5 * h, 0.2 - 3.5 * h]
        alphas = [1 / math.sqrt(1 + math.exp(-2 * value)) for value in lambdas]
        sigmas = [1 / math.sqrt(1 + math.exp(2 * value)) for value in lambdas]
        step = dpmsolver_step(
            (alphas[1], alphas[0]), (sigmas[1], sigmas[0]), lambdas, order=order, solver_type=solver_type
        )
        largest.append(max(abs(step.sample - 1), *(abs(b) for b in step.outputs)))
    assert all(later < earlier / 8 for earlier, later in pairwise(largest))


def test_an_infinite_first_log_snr_is_harmless_at_order_one() -> None:
    """The last step to ``sigma = 0`` returns the clean sample."""
    step = dpmsolver_step((0.8, 1.0), (0.6, 0.0), [math.inf, math.log(0.8 / 0.6)], order=1)
    assert (step.sample, step.outputs) == (0.0, (1.0,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, r"`order` must be one of \[1, 2, 3\], received 0; choose"),
        ({"order": 4}, r"`order` must be one of \[1, 2, 3\], received 4; choose"),
        ({"order": 1, "algorithm_type": "deis"}, r"`algorithm_type` must be one of .* received 'deis'; choose"),
        ({"order": 2, "solver_type": "bh2"}, r"`solver_type` must be one of .* received 'bh2'; choose"),
        ({"order": 3, "algorithm_type": "sde-dpmsolver"}, r"no third-order update, received order 3; use order 2"),
    ],
)
def test_updates_that_do_not_exist_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dpmsolver_step((0.6, 0.8), (0.8, 0.6), [0.3, -0.3, -1.0, -2.0], **options)
