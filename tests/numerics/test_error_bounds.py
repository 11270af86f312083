"""What the bounds refuse, and the cases that can be computed by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ab_schedulers.numerics import (
    BaseGrid,
    BaseStep,
    Row,
    fold,
    gronwall_bound,
    prediction_error_bound,
    window_output_weights,
)

STEPS = tuple(BaseStep(sample=Fraction(1, 2), outputs=(Fraction(i + 1),)) for i in range(4))
GRID = BaseGrid(steps=STEPS, nodes=tuple(Fraction(i) for i in range(4)))


def test_an_output_enters_the_end_through_the_later_steps() -> None:
    assert window_output_weights(GRID, range(1, 4)) == (Fraction(2, 4), Fraction(3, 2), 4)


def test_the_weights_of_a_window_are_the_row_of_order_one_summed() -> None:
    (row,) = fold(GRID, [0], order=1)
    assert row.history == (sum(window_output_weights(GRID, range(4))),)


def test_what_is_computed_is_not_predicted() -> None:
    assert prediction_error_bound(GRID, range(1, 2), [1, 0], Fraction(7)) == 0
    assert prediction_error_bound(GRID, range(2, 4), [2, 0], Fraction(2)) == 2 * 4 * Fraction(1 * 3, 2)


def test_the_recursion_sums_what_samples_and_outputs_pass_on() -> None:
    rows = [Row(sample=-2, history=(3,), order=1), Row(sample=1, history=(2, -1), order=2)]
    assert gronwall_bound(rows, [5, 7], [Fraction(1, 2), 0], 1) == (
        Fraction(2 + 15) + Fraction(1, 2),
        Fraction(35, 2) * (1 + 14) + 5,
    )


def test_a_run_without_error_has_none() -> None:
    rows = fold(GRID, [0, 2], order=2)
    assert gronwall_bound(rows, [1, 1], [0, 0]) == (0, 0)


def test_bases_with_several_outputs_are_refused() -> None:
    grid = BaseGrid(steps=(BaseStep(sample=1, outputs=(1, 2)),), nodes=(0,))
    with pytest.raises(ValueError, match="takes 2 outputs, expected one"):
        window_output_weights(grid, range(1))


def test_unequal_lengths_and_base_outputs_are_refused() -> None:
    row = Row(sample=1, history=(1,), order=1)
    with pytest.raises(ValueError, match="equally long, received 1, 2 and 1"):
        gronwall_bound([row], [1, 1], [0])
    with pytest.raises(ValueError, match="fold without conversions"):
        gronwall_bound([Row(sample=1, history=(1,), base_history=(1,), order=1)], [1], [0])
