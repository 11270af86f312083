"""A folded row equals the step-by-step walk, exactly, on random grids, plans and coefficients."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ab_schedulers.numerics import BaseGrid, BaseStep, Row, fold

PREDICTORS = ("extrapolate", "hold")


@dataclass(kw_only=True)
class Case:
    """A random base sampler, plan and outputs; everything a run needs but a model."""

    grid: BaseGrid
    calls: tuple[int, ...]
    start: Fraction
    quantities: dict[int, Fraction]  # the cached quantity at the calls
    base_outputs: dict[int, Fraction]  # the base output at the calls
    residuals: dict[int, Fraction] = field(default_factory=dict)  # of clipping at the calls
    kicks: dict[int, Fraction] = field(default_factory=dict)  # added to the sample at the end of base steps


def neville(nodes: Sequence[Fraction], values: Sequence[Fraction], point: Fraction) -> Fraction:
    """The interpolating polynomial at ``point`` by Neville's recursion."""
    row = list(values)
    for reach in range(1, len(nodes)):
        for j in range(len(nodes) - reach):
            far, near = nodes[j + reach], nodes[j]
            row[j] = ((point - far) * row[j] + (near - point) * row[j + 1]) / (near - far)
    return row[0]


def next_by_differences(values: Sequence[Fraction]) -> Fraction:
    """The value that continues ``values`` (newest first) with a vanishing highest backward difference."""
    total, row = Fraction(0), list(values)
    while row:
        total += row[0]
        row = [newer - older for newer, older in zip(row, row[1:], strict=False)]  # noqa: RUF007
    return total


def walk_window(case: Case, window: range, x: Fraction, fit: Sequence[int], predictor: str) -> Fraction:
    """Walk the base steps of one window from ``x``, its skipped outputs predicted from the calls ``fit``."""
    grid, produced = case.grid, {}
    nodes = [grid.nodes[c] for c in fit]
    for i in window:
        if i == window.start:
            produced[i] = case.base_outputs[i]
        else:
            known = [case.quantities[c] for c in fit]
            quantity = (
                neville(nodes, known, grid.nodes[i]) if predictor == "extrapolate" else next_by_differences(known)
            )
            u, w = grid.conversions[i] if grid.conversions is not None else (0, 1)
            produced[i] = u * x + w * quantity
        step = grid.steps[i]
        following = step.sample * x
        for lag, weight in enumerate(step.outputs):
            before = i - lag
            if before in produced:
                output = produced[before]
            elif before in case.base_outputs and before <= max(fit):
                output = case.base_outputs[before]
            else:
                output = neville(nodes, [case.base_outputs[c] for c in fit], grid.nodes[before])
            following += weight * output
        if i == window.start:
            following += step.clip * case.residuals.get(i, 0)
        x = following + case.kicks.get(i, 0)
    return x


def walk(case: Case, order: int, corrector: int | None, predictor: str) -> list[Fraction]:
    """The sample that each call hands to the next: predict, evaluate, correct (PEC)."""
    ends = [*case.calls[1:], len(case.grid.steps)]
    opened = x = case.start
    handed = []
    for call, (start, end) in enumerate(zip(case.calls, ends, strict=True)):
        known = case.calls[call::-1]
        if corrector is not None and call > 0 and start - known[1] > 1:
            x = walk_window(case, range(known[1], start), opened, known[:corrector], "extrapolate")
        opened = x
        x = walk_window(case, range(start, end), opened, known[:order], predictor)
        handed.append(x)
    return handed


def by_rows(case: Case, rows: Sequence[Row]) -> list[Fraction]:
    """The same samples by one combination per call."""
    x, handed = case.start, []
    for call, row in enumerate(rows):
        known = case.calls[call::-1]
        total = row.sample * x + row.clip * case.residuals.get(known[0], 0)
        total += sum(b * case.quantities[c] for b, c in zip(row.history, known, strict=False))
        total += sum(d * case.base_outputs[c] for d, c in zip(row.base_history, known, strict=False))
        x = total
        handed.append(x)
    return handed


@st.composite
def cases(draw: st.DrawFn, *, converted: bool | None = None, most_outputs: int = 3) -> Case:
    """Random rationals everywhere, from a drawn seed; the structure is drawn by Hypothesis."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    first = draw(st.integers(0, 2))
    outputs = draw(st.integers(1, most_outputs))
    with_conversions = draw(st.booleans()) if converted is None else converted
    dice = random.Random(draw(st.integers(0, 2**32)))

    def number() -> Fraction:
        return Fraction(dice.randint(-12, 12), dice.randint(1, 6))

    calls = tuple(first + sum(lengths[:call]) for call in range(len(lengths)))
    count = first + sum(lengths)
    nodes = [number()]
    direction = dice.choice([-1, 1])
    for _ in range(count - 1):
        nodes.append(nodes[-1] + direction * Fraction(dice.randint(1, 9), dice.randint(1, 4)))
    steps = tuple(
        BaseStep(
            sample=number() or Fraction(1, 2),
            outputs=tuple(number() for _ in range(dice.randint(1, max(1, min(outputs, i - first + 1))))),
            variance=Fraction(dice.randint(0, 6), 5),
            clip=number(),
        )
        for i in range(count)
    )
    quantities = {c: number() for c in calls}
    return Case(
        grid=BaseGrid(
            steps=steps,
            nodes=tuple(nodes),
            conversions=tuple((number(), number()) for _ in range(count)) if with_conversions else None,
        ),
        calls=calls,
        start=number(),
        quantities=quantities,
        base_outputs={c: number() for c in calls} if with_conversions else quantities,
        residuals={c: number() for c in calls},
    )


orders = st.integers(1, 6)
predictors = st.sampled_from(PREDICTORS)
correctors = st.none() | st.integers(1, 7)


@settings(max_examples=120)
@given(case=cases(), order=orders, predictor=predictors)
def test_a_folded_row_is_the_step_by_step_walk(case: Case, order: int, predictor: str) -> None:
    rows = fold(case.grid, case.calls, order=order, predictor=predictor)
    assert by_rows(case, rows) == walk(case, order, None, predictor)


@settings(max_examples=160)
@given(case=cases(), order=orders, corrector=st.integers(1, 7), predictor=predictors)
def test_a_corrected_row_is_the_predict_evaluate_correct_walk(
    case: Case, order: int, corrector: int, predictor: str
) -> None:
    rows = fold(case.grid, case.calls, order=order, corrector=corrector, predictor=predictor)
    assert by_rows(case, rows) == walk(case, order, corrector, predictor)


@settings(max_examples=60)
@given(case=cases(), order=orders, corrector=correctors, predictor=predictors)
def test_rows_say_what_they_are_and_touch_only_outputs_that_exist(
    case: Case, order: int, corrector: int | None, predictor: str
) -> None:
    rows = fold(case.grid, case.calls, order=order, corrector=corrector, predictor=predictor)
    lengths = [b - a for a, b in zip(case.calls, [*case.calls[1:], len(case.grid.steps)], strict=True)]
    base_depth = max(len(step.outputs) for step in case.grid.steps)
    deepest = max(order, base_depth) if corrector is None else max(order + 1, corrector, base_depth + 1)
    assert len(rows) == len(case.calls)
    for call, row in enumerate(rows):
        correcting = corrector is not None and call > 0 and lengths[call - 1] > 1
        assert row.order == min(order, call + 1)
        assert row.corrector == (min(corrector or 0, call + 1) if correcting else 0)
        assert 1 <= len(row.history) <= min(deepest, call + 1)
        if case.grid.conversions is None:
            assert row.base_history == ()
        else:
            assert 1 <= len(row.base_history) <= min(deepest, call + 1)


@settings(max_examples=60)
@given(case=cases(most_outputs=1, converted=False), order=orders, corrector=correctors)
def test_a_one_step_base_is_as_deep_as_its_predictor_and_corrector(
    case: Case, order: int, corrector: int | None
) -> None:
    for row in fold(case.grid, case.calls, order=order, corrector=corrector):
        deepest = order if corrector is None else max(order + 1, corrector)
        assert len(row.history) <= deepest


@settings(max_examples=60)
@given(case=cases(), order=orders, corrector=correctors, predictor=predictors, draw=st.data())
def test_a_start_in_the_middle_is_a_fresh_run_on_the_rest_of_the_grid(
    case: Case, order: int, corrector: int | None, predictor: str, draw: st.DataObject
) -> None:
    begin = draw.draw(st.integers(0, len(case.calls) - 1))
    first = case.calls[begin]
    steps = tuple(
        BaseStep(
            sample=step.sample,
            outputs=step.outputs[: max(1, i - first + 1)],
            variance=step.variance,
            clip=step.clip,
        )
        for i, step in enumerate(case.grid.steps)
    )
    grid = BaseGrid(steps=steps, nodes=case.grid.nodes, conversions=case.grid.conversions)
    rest = BaseGrid(
        steps=steps[first:],
        nodes=grid.nodes[first:],
        conversions=None if grid.conversions is None else grid.conversions[first:],
    )
    options: dict[str, Any] = {"order": order, "corrector": corrector, "predictor": predictor}
    shifted = [c - first for c in case.calls[begin:]]
    assert fold(grid, case.calls[begin:], **options) == fold(rest, shifted, **options)


@settings(max_examples=60)
@given(case=cases(), order=orders, corrector=correctors, predictor=predictors)
def test_a_plan_that_computes_every_step_is_the_base_sampler(
    case: Case, order: int, corrector: int | None, predictor: str
) -> None:
    first, grid = case.calls[0], case.grid
    rows = fold(grid, range(first, len(grid.steps)), order=order, corrector=corrector, predictor=predictor)
    for step, row in zip(grid.steps[first:], rows, strict=True):
        used = row.history if grid.conversions is None else row.base_history
        kept = len(step.outputs)
        while kept > 1 and step.outputs[kept - 1] == 0:
            kept -= 1
        assert used == step.outputs[:kept]
        assert (row.sample, row.variance, row.clip, row.corrector) == (step.sample, step.variance, step.clip, 0)
        if grid.conversions is not None:
            assert row.history == (0,)


@settings(max_examples=60)
@given(case=cases(converted=False), order=orders, corrector=correctors, predictor=predictors)
def test_variance_is_that_of_the_independent_noises_of_the_window(
    case: Case, order: int, corrector: int | None, predictor: str
) -> None:
    assert_variances(case, order, corrector, predictor)


def assert_variances(case: Case, order: int, corrector: int | None, predictor: str) -> None:
    """Kick the sample after each base step in turn, the outputs held, and add up the squared responses."""
    ends = [*case.calls[1:], len(case.grid.steps)]
    rows = fold(case.grid, case.calls, order=order, corrector=corrector, predictor=predictor)
    for call, (row, start, end) in enumerate(zip(rows, case.calls, ends, strict=True)):
        fit = case.calls[call::-1][:order]
        case.kicks = {}
        still = walk_window(case, range(start, end), case.start, fit, predictor)
        variance = Fraction(0)
        for i in range(start, end):
            case.kicks = {i: Fraction(1)}
            response = walk_window(case, range(start, end), case.start, fit, predictor) - still
            variance += response**2 * case.grid.steps[i].variance
        assert row.variance == variance


@settings(max_examples=60)
@given(case=cases(converted=True), order=orders, corrector=correctors, predictor=predictors)
def test_variance_counts_the_noise_that_conversions_carry_into_the_outputs(
    case: Case, order: int, corrector: int | None, predictor: str
) -> None:
    """A converted output ``u x + w q`` at a skipped step sees the fresh noise of the steps before it."""
    assert_variances(case, order, corrector, predictor)


@settings(max_examples=60)
@given(case=cases(converted=False), order=orders, corrector=correctors, predictor=predictors, factor=st.integers(-3, 3))
def test_rows_are_linear_in_the_output_weights_of_the_base(
    case: Case, order: int, corrector: int | None, predictor: str, factor: int
) -> None:
    grid, dice = case.grid, random.Random(factor)

    def with_outputs(outputs: list[tuple[Fraction, ...]]) -> tuple[Row, ...]:
        pairs = zip(grid.steps, outputs, strict=True)
        steps = tuple(BaseStep(sample=step.sample, outputs=weights) for step, weights in pairs)
        laid = BaseGrid(steps=steps, nodes=grid.nodes)
        return fold(laid, case.calls, order=order, corrector=corrector, predictor=predictor)

    first = [step.outputs for step in grid.steps]
    second = [tuple(Fraction(dice.randint(-5, 5), 3) for _ in weights) for weights in first]
    both = [tuple(a + factor * b for a, b in zip(*pair, strict=True)) for pair in zip(first, second, strict=True)]
    for alone, other, joint in zip(with_outputs(first), with_outputs(second), with_outputs(both), strict=True):
        depth = max(len(row.history) for row in (alone, other, joint))
        a, b, c = ([*row.history, *[0] * (depth - len(row.history))] for row in (alone, other, joint))
        assert c == [u + factor * v for u, v in zip(a, b, strict=True)]
        assert alone.sample == other.sample == joint.sample


@settings(max_examples=60)
@given(case=cases(), order=orders, corrector=correctors, predictor=predictors, draw=st.data())
def test_rows_do_not_see_shift_and_scale_of_the_interpolation_variable(
    case: Case, order: int, corrector: int | None, predictor: str, draw: st.DataObject
) -> None:
    rational = st.fractions(min_value=-4, max_value=4, max_denominator=6)
    shift, scale = draw.draw(rational), draw.draw(rational.filter(bool))
    moved = BaseGrid(
        steps=case.grid.steps,
        nodes=tuple(scale * node + shift for node in case.grid.nodes),
        conversions=case.grid.conversions,
    )
    options: dict[str, Any] = {"order": order, "corrector": corrector, "predictor": predictor}
    assert fold(moved, case.calls, **options) == fold(case.grid, case.calls, **options)


def test_floats_give_the_rational_rows() -> None:
    dice = random.Random(4)
    count, calls = 13, (0, 1, 4, 6, 9)
    nodes = [Fraction(-i * i, 4) - i for i in range(count)]
    weights = [
        (Fraction(dice.randint(5, 10), 8), tuple(Fraction(dice.randint(-4, 4), 8) for _ in range(min(2, i + 1))))
        for i in range(count)
    ]

    def rows(number: type) -> tuple[Row, ...]:
        steps = tuple(BaseStep(sample=number(a), outputs=tuple(number(b) for b in bs)) for a, bs in weights)
        grid = BaseGrid(steps=steps, nodes=tuple(number(node) for node in nodes))
        return fold(grid, calls, order=4, corrector=5)

    for exact, floating in zip(rows(Fraction), rows(float), strict=True):
        assert floating.sample == pytest.approx(float(exact.sample), rel=1e-13)
        length = len(exact.history)
        assert floating.history[:length] == pytest.approx([float(b) for b in exact.history], rel=1e-10, abs=1e-13)
