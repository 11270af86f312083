"""The ridge solution solves its equations exactly, and refuses systems that have none."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ab_schedulers.numerics import ridge_solution

entries = st.fractions(-4, 4, max_denominator=7)


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(entries, min_size=3, max_size=3), min_size=n, max_size=n)))
def test_the_solution_satisfies_the_normal_equations(features: list[list[Fraction]]) -> None:
    """Also with more features than values, which are dependent."""
    gram = [[sum(a * b for a, b in zip(f, g, strict=True)) for g in features] for f in features]
    right = [sum(f) for f in features]
    solution = ridge_solution(gram, right, Fraction(1, 10))
    for line, c, wanted in zip(gram, solution, right, strict=True):
        assert sum(a * b for a, b in zip(line, solution, strict=True)) + c / 10 == wanted


def test_floats_are_taken_as_well() -> None:
    assert ridge_solution([[4.0, 2.0], [2.0, 5.0]], [2.0, 1.0], 0.0) == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize(("gram", "right"), [([], []), ([[1]], [1, 2]), ([[1, 2], [3]], [1, 2])])
def test_shapes_that_disagree_are_refused(gram: list[list[int]], right: list[int]) -> None:
    with pytest.raises(ValueError, match="`gram` must be square and as long as `right`"):
        ridge_solution(gram, right, 1)


def test_dependent_features_need_a_penalty() -> None:
    alike = [[Fraction(2)] * 2] * 2
    assert ridge_solution(alike, [Fraction(1)] * 2, Fraction(1)) == (Fraction(1, 5), Fraction(1, 5))
    with pytest.raises(ValueError, match="linearly dependent and `penalty` is 0"):
        ridge_solution(alike, [Fraction(1)] * 2, Fraction(0))
