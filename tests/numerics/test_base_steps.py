"""Quantities and the one-output base steps, DDIM and flow Euler, as exact identities."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from ab_schedulers.numerics import QUANTITIES, BaseStep, QuantityMap, convert_quantity, ddim_step, quantity_map

numbers = st.fractions(min_value=-3, max_value=3, max_denominator=20)
shares = st.fractions(min_value=Fraction(1, 20), max_value=Fraction(19, 20), max_denominator=20)


@st.composite
def scales(draw: st.DrawFn, *, flow: bool | None = None) -> tuple[Fraction, Fraction, bool]:
    """``(alpha, sigma, flow)``: a rational point of the unit circle, or of the line ``alpha + sigma = 1``."""
    share = draw(shares)
    if draw(st.booleans()) if flow is None else flow:
        return 1 - share, share, True
    return (1 - share**2) / (1 + share**2), 2 * share / (1 + share**2), False


def quantities(clean: Fraction, noise: Fraction, alpha: Fraction, sigma: Fraction, flow: bool) -> dict[str, Fraction]:
    """What each quantity is, by definition."""
    velocity = noise - clean if flow else alpha * noise - sigma * clean
    return {"sample": clean, "epsilon": noise, "velocity": velocity}


def implied(known: QuantityMap, x: Fraction, q: Fraction) -> tuple[Fraction, Fraction]:
    """Clean sample and noise by a quantity map."""
    return known.x0_sample * x + known.x0_output * q, known.eps_sample * x + known.eps_output * q


def stepped(step: BaseStep, x: Fraction, output: Fraction) -> Fraction:
    """The next sample by a one-output step."""
    assert len(step.outputs) == 1
    return step.sample * x + step.outputs[0] * output


@settings(max_examples=60)
@given(where=scales(), x=numbers, q=numbers, quantity=st.sampled_from(QUANTITIES))
def test_quantity_maps_give_back_the_sample_whatever_the_output(
    where: tuple[Fraction, Fraction, bool], x: Fraction, q: Fraction, quantity: str
) -> None:
    alpha, sigma, flow = where
    clean, noise = implied(quantity_map(quantity, alpha, sigma, flow=flow), x, q)
    assert alpha * clean + sigma * noise == x
    assert quantities(clean, noise, alpha, sigma, flow)[quantity] == q


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("flow", [False, True])
def test_quantity_maps_invert_their_definition_identically_in_symbols(quantity: str, flow: bool) -> None:
    sigma, clean, noise, angle = sympy.symbols("sigma x_0 epsilon phi", positive=True)
    alpha = 1 - sigma if flow else sympy.cos(angle)
    sigma = sigma if flow else sympy.sin(angle)
    output = quantities(clean, noise, alpha, sigma, flow)[quantity]
    recovered = implied(quantity_map(quantity, alpha, sigma, flow=flow), alpha * clean + sigma * noise, output)
    assert sympy.simplify(recovered[0] - clean) == 0
    assert sympy.simplify(recovered[1] - noise) == 0


@settings(max_examples=60)
@given(
    where=scales(),
    clean=numbers,
    noise=numbers,
    source=st.sampled_from(QUANTITIES),
    target=st.sampled_from(QUANTITIES),
)
def test_conversion_meets_the_definition_and_its_round_trip_is_the_identity(
    where: tuple[Fraction, Fraction, bool], clean: Fraction, noise: Fraction, source: str, target: str
) -> None:
    alpha, sigma, flow = where
    x = alpha * clean + sigma * noise
    known = quantities(clean, noise, alpha, sigma, flow)
    u, w = convert_quantity(source, target, alpha, sigma, flow=flow)
    assert u * x + w * known[source] == known[target]
    back_u, back_w = convert_quantity(target, source, alpha, sigma, flow=flow)
    assert (back_u + back_w * u, back_w * w) == (0, 1)


@settings(max_examples=60)
@given(where=scales(), source=st.sampled_from(QUANTITIES), target=st.sampled_from(QUANTITIES))
def test_noise_scale_one_is_no_noise_scale(where: tuple[Fraction, Fraction, bool], source: str, target: str) -> None:
    alpha, sigma, flow = where
    plain = convert_quantity(source, target, alpha, sigma, flow=flow)
    assert convert_quantity(source, target, alpha, sigma, flow=flow, noise_scale=Fraction(1)) == plain


@settings(max_examples=60)
@given(where=scales(), x=numbers, q=numbers, source=st.sampled_from(QUANTITIES), b=shares)
def test_noise_scale_multiplies_the_noise_and_keeps_the_sample(
    where: tuple[Fraction, Fraction, bool], x: Fraction, q: Fraction, source: str, b: Fraction
) -> None:
    alpha, sigma, flow = where
    _, noise = implied(quantity_map(source, alpha, sigma, flow=flow), x, q)
    scaled = {}
    for target in QUANTITIES:
        u, w = convert_quantity(source, target, alpha, sigma, flow=flow, noise_scale=b)
        scaled[target] = u * x + w * q
    assert scaled["epsilon"] == b * noise
    assert alpha * scaled["sample"] + sigma * scaled["epsilon"] == x
    assert scaled == quantities(scaled["sample"], scaled["epsilon"], alpha, sigma, flow)


def test_unknown_quantities_are_refused_with_the_choices() -> None:
    half = Fraction(1, 2)
    with pytest.raises(
        ValueError, match=r"`quantity` must be one of \['epsilon', 'sample', 'velocity'\], received 'x'"
    ):
        quantity_map("x", half, half)
    with pytest.raises(ValueError, match=r"`target` must be one of .* received 'v_prediction'"):
        convert_quantity("epsilon", "v_prediction", half, half)
    for target in ("epsilon", "noise"):
        with pytest.raises(ValueError, match=r"`source` must be one of .* received 'noise'"):
            convert_quantity("noise", target, half, half)


@pytest.mark.parametrize(("quantity", "alpha", "sigma"), [("epsilon", 0.0, 1.0), ("sample", 1.0, 0.0)])
def test_quantities_that_vanish_from_the_sample_cannot_be_inverted(quantity: str, alpha: float, sigma: float) -> None:
    with pytest.raises(ZeroDivisionError):
        quantity_map(quantity, alpha, sigma)
    clean, noise = 0.3, 0.7
    velocity = alpha * noise - sigma * clean
    assert implied(quantity_map("velocity", alpha, sigma), alpha * clean + sigma * noise, velocity) == (clean, noise)


@settings(max_examples=60)
@given(start=scales(), end=scales(), clean=numbers, noise=numbers, quantity=st.sampled_from(QUANTITIES))
def test_ddim_in_every_quantity_moves_clean_sample_and_noise_to_the_next_scales(
    start: tuple[Fraction, Fraction, bool],
    end: tuple[Fraction, Fraction, bool],
    clean: Fraction,
    noise: Fraction,
    quantity: str,
) -> None:
    """Exact for frozen noise and for a frozen clean sample alike; all forms agree on consistent outputs."""
    alpha, sigma, flow = start
    step = ddim_step(quantity_map(quantity, alpha, sigma, flow=flow), end[0], end[1])
    output = quantities(clean, noise, alpha, sigma, flow)[quantity]
    assert stepped(step, alpha * clean + sigma * noise, output) == end[0] * clean + end[1] * noise
    assert step.variance == 0


@settings(max_examples=40)
@given(path=st.lists(scales(flow=False), min_size=3, max_size=6), clean=numbers, x=numbers)
def test_many_ddim_steps_with_one_frozen_quantity_are_one_step(
    path: list[tuple[Fraction, Fraction, bool]], clean: Fraction, x: Fraction
) -> None:
    for quantity in ("epsilon", "sample"):
        first = ddim_step(quantity_map(quantity, *path[0][:2]), *path[-1][:2])
        walked = x
        for (alpha, sigma, _), (alpha_next, sigma_next, _) in pairwise(path):
            walked = stepped(ddim_step(quantity_map(quantity, alpha, sigma), alpha_next, sigma_next), walked, clean)
        assert walked == stepped(first, x, clean)


@settings(max_examples=40)
@given(sigma=shares, sigma_next=shares, quantity=st.sampled_from(QUANTITIES), x=numbers, v=numbers)
def test_ddim_on_a_flow_path_is_euler(
    sigma: Fraction, sigma_next: Fraction, quantity: str, x: Fraction, v: Fraction
) -> None:
    u, w = convert_quantity("velocity", quantity, 1 - sigma, sigma, flow=True)
    step = ddim_step(quantity_map(quantity, 1 - sigma, sigma, flow=True), 1 - sigma_next, sigma_next)
    assert stepped(step, x, u * x + w * v) == x + (sigma_next - sigma) * v
    euler = ddim_step(quantity_map("velocity", 1 - sigma, sigma, flow=True), 1 - sigma_next, sigma_next)
    assert (euler.sample, euler.outputs) == (1, (sigma_next - sigma,))


def test_flow_euler_takes_its_first_step_from_pure_noise() -> None:
    """At ``sigma = 1`` there is no signal left, and the velocity form divides by nothing."""
    step = ddim_step(quantity_map("velocity", Fraction(0), Fraction(1), flow=True), Fraction(1, 4), Fraction(3, 4))
    assert (step.sample, step.outputs) == (1, (Fraction(-1, 4),))


@settings(max_examples=40)
@given(start=scales(flow=False), end=scales(flow=False), share=shares, quantity=st.sampled_from(QUANTITIES))
def test_stochastic_ddim_keeps_the_marginal_of_every_clean_sample(
    start: tuple[Fraction, Fraction, bool], end: tuple[Fraction, Fraction, bool], share: Fraction, quantity: str
) -> None:
    """``x ~ N(alpha x_0, sigma^2)`` becomes ``N(alpha' x_0, sigma'^2)`` when the output belongs to ``x_0``.

    With ``direction = c sigma'`` and ``variance = (1 - c^2) sigma'^2``, any rational ``c``.
    """
    (alpha, sigma, _), (alpha_next, sigma_next, _) = start, end
    direction, variance = share * sigma_next, (1 - share**2) * sigma_next**2
    step = ddim_step(quantity_map(quantity, alpha, sigma), alpha_next, direction, variance)
    clean = Fraction(3, 7)
    of_unit_noise = []
    for noise in (Fraction(0), Fraction(1)):
        output = quantities(clean, noise, alpha, sigma, False)[quantity]
        of_unit_noise.append(stepped(step, alpha * clean + sigma * noise, output))
    assert of_unit_noise[0] == alpha_next * clean
    assert (of_unit_noise[1] - of_unit_noise[0]) ** 2 + step.variance == sigma_next**2


@settings(max_examples=40)
@given(start=scales(), end=scales(), quantity=st.sampled_from(QUANTITIES), residual=numbers)
def test_clip_weight_is_the_effect_of_a_changed_clean_sample_at_the_same_noise(
    start: tuple[Fraction, Fraction, bool], end: tuple[Fraction, Fraction, bool], quantity: str, residual: Fraction
) -> None:
    alpha, sigma, flow = start
    known = quantity_map(quantity, alpha, sigma, flow=flow)
    step = ddim_step(known, end[0], end[1])
    x, output = Fraction(2, 3), Fraction(-1, 5)
    clean, noise = implied(known, x, output)
    assert stepped(step, x, output) + step.clip * residual == end[0] * (clean + residual) + end[1] * noise
