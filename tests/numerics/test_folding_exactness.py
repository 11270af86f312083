"""What folded rows reproduce exactly: constants, polynomials, and the samplers they are made of."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ab_schedulers.numerics import (
    BaseGrid,
    BaseStep,
    CachePlan,
    Row,
    adams_moulton_weights,
    binomial_weights,
    convert_quantity,
    ddim_step,
    dpmsolver_step,
    fold,
    lagrange_weights,
    quantity_map,
)

orders = st.integers(1, 6)
correctors = st.none() | st.integers(1, 7)
predictors = st.sampled_from(["extrapolate", "hold"])


@st.composite
def grids(
    draw: st.DrawFn, *, warmup: int = 0
) -> tuple[tuple[int, ...], list[tuple[Fraction, Fraction]], list[Fraction]]:
    """Calls, random positive scales ``(alpha, sigma)`` of all ends, and rising log-SNR-like values of all ends."""
    lengths = [1] * warmup + draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    count = sum(lengths)
    calls = tuple(accumulate(lengths[:-1], initial=0))
    dice = random.Random(draw(st.integers(0, 2**32)))

    def positive() -> Fraction:
        return Fraction(dice.randint(1, 16), dice.randint(4, 8))

    scales = [(positive(), positive()) for _ in range(count + 1)]
    return calls, scales, list(accumulate((positive() for _ in range(count)), initial=Fraction(0)))


def apply(rows: tuple[Row, ...], calls: tuple[int, ...], x: Any, q: list[Any], m: list[Any]) -> Any:
    """Final sample of a run whose cached quantities and base outputs are prescribed."""
    for call, row in enumerate(rows):
        known = calls[call::-1]
        history = sum(b * q[c] for b, c in zip(row.history, known, strict=False))
        x = row.sample * x + history + sum(d * m[c] for d, c in zip(row.base_history, known, strict=False))
    return x


def multistep(scales: list[tuple[Fraction, Fraction]], lambdas: list[Fraction], order: int) -> tuple[BaseStep, ...]:
    """DPM-Solver++ of rising order on rational scales and log-SNRs; any values will do for exact identities."""
    steps = []
    for i, ((alpha, sigma), (alpha_next, sigma_next)) in enumerate(pairwise(scales)):
        used = min(order, i + 1)
        known = [lambdas[i + 1], *(lambdas[i - lag] for lag in range(used))]
        steps.append(dpmsolver_step((alpha, alpha_next), (sigma, sigma_next), known, order=used))
    return tuple(steps)


@settings(max_examples=40)
@given(grid=grids(), order=orders, corrector=correctors, predictor=predictors, base=st.integers(0, 3))
def test_a_constant_clean_sample_and_noise_are_carried_exactly(
    grid: tuple[tuple[int, ...], list[tuple[Fraction, Fraction]], list[Fraction]],
    order: int,
    corrector: int | None,
    predictor: str,
    base: int,
) -> None:
    """Consistency, for DDIM (``base`` 0) and DPM-Solver++ 1 to 3, cached in x_0: predictor and corrector alike."""
    calls, scales, lambdas = grid
    clean, noise = Fraction(5, 7), Fraction(-2, 3)
    if base == 0:
        steps = tuple(ddim_step(quantity_map("sample", *here), *there) for here, there in pairwise(scales))
    else:
        steps = multistep(scales, lambdas, base)
    laid = BaseGrid(steps=steps, nodes=tuple(lambdas[:-1]))
    rows = fold(laid, calls, order=order, corrector=corrector, predictor=predictor)
    start = scales[0][0] * clean + scales[0][1] * noise
    end = apply(rows, calls, start, [clean] * len(steps), [])
    assert end == scales[-1][0] * clean + scales[-1][1] * noise


@settings(max_examples=40)
@given(grid=grids(), order=orders, corrector=correctors, base=st.integers(1, 3))
def test_constants_are_carried_through_conversions_too(
    grid: tuple[tuple[int, ...], list[tuple[Fraction, Fraction]], list[Fraction]],
    order: int,
    corrector: int | None,
    base: int,
) -> None:
    """DPM-Solver++ in x_0 with the noise as the cached quantity: both constant, both kept."""
    calls, scales, lambdas = grid
    clean, noise = Fraction(5, 7), Fraction(-2, 3)
    conversions = tuple(convert_quantity("epsilon", "sample", *here) for here in scales[:-1])
    laid = BaseGrid(steps=multistep(scales, lambdas, base), nodes=tuple(lambdas[:-1]), conversions=conversions)
    rows = fold(laid, calls, order=order, corrector=corrector)
    count = len(laid.steps)
    end = apply(rows, calls, scales[0][0] * clean + scales[0][1] * noise, [noise] * count, [clean] * count)
    assert end == scales[-1][0] * clean + scales[-1][1] * noise


@settings(max_examples=40)
@given(order=orders, draw=st.data(), base=st.integers(0, 3), excess=st.none() | st.integers(0, 2))
def test_outputs_polynomial_in_the_variable_give_the_uncached_run(
    order: int, draw: st.DataObject, base: int, excess: int | None
) -> None:
    """Degree of exactness ``k - 1`` after ``k - 1`` one-step warm-up calls, with a corrector of ``k`` or more too."""
    calls, scales, lambdas = draw.draw(grids(warmup=order - 1))
    coefficients = draw.draw(st.lists(st.integers(-3, 3), min_size=order, max_size=order))
    nodes = lambdas[:-1]
    outputs = [sum((c * node**degree for degree, c in enumerate(coefficients)), start=Fraction(0)) for node in nodes]
    if base == 0:
        steps = tuple(ddim_step(quantity_map("sample", *here), *there) for here, there in pairwise(scales))
    else:
        steps = multistep(scales, lambdas, base)
    laid = BaseGrid(steps=steps, nodes=tuple(nodes))
    everywhere = tuple(range(len(steps)))
    uncached = apply(fold(laid, everywhere, order=1), everywhere, Fraction(1, 3), outputs, [])
    corrector = None if excess is None else order + excess
    rows = fold(laid, calls, order=order, corrector=corrector)
    assert apply(rows, calls, Fraction(1, 3), outputs, []) == uncached


@settings(max_examples=40)
@given(order=orders, draw=st.data(), excess=st.none() | st.integers(0, 2))
def test_converted_outputs_polynomial_in_the_variable_give_the_uncached_run(
    order: int, draw: st.DataObject, excess: int | None
) -> None:
    """The cached noise is polynomial, the base runs in x_0: a one-step base sees no interpolated base output."""
    calls, scales, lambdas = draw.draw(grids(warmup=order - 1))
    coefficients = draw.draw(st.lists(st.integers(-3, 3), min_size=order, max_size=order))
    nodes = lambdas[:-1]
    noise = [sum((c * node**degree for degree, c in enumerate(coefficients)), start=Fraction(0)) for node in nodes]
    conversions = tuple(convert_quantity("epsilon", "sample", *here) for here in scales[:-1])
    laid = BaseGrid(steps=multistep(scales, lambdas, 1), nodes=tuple(nodes), conversions=conversions)
    x, clean, at_call = Fraction(1, 3), [], []
    for step, (u, w), output in zip(laid.steps, conversions, noise, strict=True):
        at_call.append(x)
        clean.append(u * x + w * output)
        x = step.sample * x + step.outputs[0] * clean[-1]
    corrector = None if excess is None else order + excess
    rows = fold(laid, calls, order=order, corrector=corrector)
    assert apply(rows, calls, Fraction(1, 3), noise, clean) == x


@pytest.mark.parametrize("order", range(1, 7))
def test_a_window_of_two_uniform_steps_uses_the_binomial_weights(order: int) -> None:
    """One skipped step on a grid whose calls are one step apart: extrapolation and hold are one row."""
    count = order + 1
    steps = tuple(BaseStep(sample=Fraction(1), outputs=(Fraction(1),)) for _ in range(count))
    grid = BaseGrid(steps=steps, nodes=tuple(Fraction(i) for i in range(count)))
    rows = [fold(grid, range(order), order=order, predictor=kind)[-1] for kind in ("extrapolate", "hold")]
    expected = tuple(w + (1 if j == 0 else 0) for j, w in enumerate(binomial_weights(order)))
    assert rows[0].history == rows[1].history == expected


@pytest.mark.parametrize("interval", [2, 3, 5])
def test_hold_answers_a_whole_window_with_the_same_weights(interval: int) -> None:
    plan = CachePlan.uniform(num_calls=4, cache_interval=interval)
    steps = tuple(BaseStep(sample=Fraction(1), outputs=(Fraction(1),)) for _ in range(plan.num_base_steps))
    grid = BaseGrid(steps=steps, nodes=tuple(Fraction(i * i + i) for i in range(plan.num_base_steps)))
    row = fold(grid, plan.compute_steps, order=3, predictor="hold")[-1]
    skipped = interval - 1
    expected = tuple(skipped * w + (1 if j == 0 else 0) for j, w in enumerate(binomial_weights(3)))
    assert row.history == expected


@settings(max_examples=40)
@given(grid=grids(warmup=2), order=orders)
def test_extrapolation_weighs_every_skipped_node_by_its_own_lagrange_weights(
    grid: tuple[tuple[int, ...], list[tuple[Fraction, Fraction]], list[Fraction]], order: int
) -> None:
    calls, scales, lambdas = grid
    steps = tuple(BaseStep(sample=Fraction(1), outputs=(sigma,)) for _, sigma in scales[:-1])
    row = fold(BaseGrid(steps=steps, nodes=tuple(lambdas[:-1])), calls, order=order)[-1]
    newest = calls[::-1][:order]
    expected = [Fraction(0)] * len(newest)
    expected[0] = steps[calls[-1]].outputs[0]
    for i in range(calls[-1] + 1, len(steps)):
        for j, weight in enumerate(lagrange_weights([lambdas[c] for c in newest], lambdas[i])):
            expected[j] += steps[i].outputs[0] * weight
    padded = [*row.history, *[0] * (len(newest) - len(row.history))]
    assert padded == expected


@pytest.mark.parametrize("order", range(1, 7))
def test_two_calls_know_no_more_than_two_outputs(order: int) -> None:
    """Start-up raises the order with the history, one call at a time."""
    plan = CachePlan.uniform(num_calls=8, cache_interval=2)
    steps = tuple(BaseStep(sample=Fraction(1), outputs=(Fraction(1),)) for _ in range(plan.num_base_steps))
    grid = BaseGrid(steps=steps, nodes=tuple(Fraction(i) for i in range(plan.num_base_steps)))
    rows = fold(grid, plan.compute_steps, order=order)
    assert [row.order for row in rows] == [min(order, call + 1) for call in range(8)]
    assert [len(row.history) for row in rows] == [min(order, call + 1) for call in range(8)]


@pytest.mark.parametrize("corrector", range(1, 7))
def test_on_a_frozen_path_the_corrector_is_adams_moulton_in_the_limit_of_many_steps(corrector: int) -> None:
    """``x' = f`` by Euler on ever finer base steps: predictor plus correction tend to the integrals of the cubics.

    The corrected part of the row is, to ``O(1/T)``, the Adams-Moulton row on the computed nodes.
    """
    errors = []
    for interval in (20, 40):
        count = (corrector + 2) * interval
        steps = tuple(BaseStep(sample=Fraction(1), outputs=(Fraction(1, interval),)) for _ in range(count))
        grid = BaseGrid(steps=steps, nodes=tuple(Fraction(i, interval) for i in range(count)))
        calls = range(0, count, interval)
        plain, corrected = (fold(grid, calls, order=1, corrector=c) for c in (None, corrector))
        difference = [b - (plain[-1].history[j] if j < 1 else 0) for j, b in enumerate(corrected[-1].history)]
        moulton = [*adams_moulton_weights(corrector), Fraction(0)]
        moulton[1] -= 1  # the prediction that is taken back: plain reuse of the older output
        difference += [Fraction(0)] * (len(moulton) - len(difference))
        errors.append(max(abs(a - b) for a, b in zip(difference, moulton, strict=False)))
    assert errors[1] < errors[0] * Fraction(6, 10)
    assert errors[1] < Fraction(1, 8)
