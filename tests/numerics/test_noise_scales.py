"""The published noise scale ``b(t)``, and the variance of correlated errors."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from ab_schedulers.numerics.noise_scales import correlated_variance, published_noise_scale

PUBLISHED = {"high": 0.98, "low": 0.96, "threshold": 0.4}


@st.composite
def constants(draw: st.DrawFn) -> dict[str, float]:
    """``b_l <= b_h <= 1`` and a threshold inside the interval."""
    low = draw(st.floats(0.5, 0.99))
    return {"low": low, "high": draw(st.floats(low, 1.0)), "threshold": draw(st.floats(0.05, 0.95))}


@settings(max_examples=50)
@given(values=constants())
def test_pure_noise_is_not_scaled(values: dict[str, float]) -> None:
    assert published_noise_scale(1.0, **values) == pytest.approx(1.0, abs=1e-15)


@settings(max_examples=50)
@given(values=constants())
def test_scale_jumps_at_the_threshold_by_what_the_published_constants_leave(values: dict[str, float]) -> None:
    """From ``b_h`` just below to ``b_h + (1 - b_h) e^-5`` at the threshold: the published form is not continuous."""
    high, tau = values["high"], values["threshold"]
    below, at, above = (published_noise_scale(t, **values) for t in (math.nextafter(tau, 0), tau, tau + 1e-12))
    assert below == pytest.approx(high, abs=1e-13)
    assert at == pytest.approx(high + (1 - high) * math.exp(-5), abs=1e-13)
    assert above == pytest.approx(at, abs=1e-9)


def test_jump_with_the_published_constants_is_of_the_size_of_one_in_ten_thousand() -> None:
    jump = published_noise_scale(0.4, **PUBLISHED) - published_noise_scale(math.nextafter(0.4, 0), **PUBLISHED)
    assert jump == pytest.approx(0.02 * math.exp(-5))
    assert 1e-4 < jump < 2e-4


@settings(max_examples=50)
@given(values=constants(), times=st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_scale_rises_with_noise_between_low_and_one(values: dict[str, float], times: list[float]) -> None:
    earlier, later = sorted(times)
    scales = [published_noise_scale(t, **values) for t in (earlier, later)]
    assert scales[0] <= scales[1] + 1e-15
    assert values["low"] - 1e-15 <= scales[0] and scales[1] <= 1 + 1e-15


def test_scale_is_the_published_formula_in_symbols() -> None:
    t = sympy.Symbol("t", positive=True)
    high, low, tau = sympy.Rational(98, 100), sympy.Rational(96, 100), sympy.Rational(4, 10)
    noisy = high + (1 - high) * sympy.exp(-5 * (1 - t) / (1 - tau))
    clean = low + (high - low) * sympy.exp(5 * (t - tau) / (1 - tau))
    for formula, value in ((noisy, sympy.Rational(7, 10)), (clean, sympy.Rational(1, 10))):
        ours = published_noise_scale(value, high=high, low=low, threshold=tau, exp=sympy.exp)
        assert sympy.simplify(ours - formula.subs(t, value)) == 0


def test_clean_end_is_close_to_low_and_above_it() -> None:
    scale = published_noise_scale(0.0, **PUBLISHED)
    assert scale == pytest.approx(0.96 + 0.02 * math.exp(-5 * 0.4 / 0.6))
    assert scale > 0.96


@given(st.lists(st.fractions(-5, 5, max_denominator=9), max_size=7), st.fractions(-1, 1, max_denominator=9))
def test_the_variance_is_the_quadratic_form_of_the_correlations(weights: list[Fraction], correlation: Fraction) -> None:
    form = sum(
        v * w * correlation ** abs(i - j) if i != j else v * w
        for i, v in enumerate(weights)
        for j, w in enumerate(weights)
    )
    assert correlated_variance(weights, correlation) == form


def test_five_cached_steps_have_the_published_variance() -> None:
    assert correlated_variance([1] * 5, 0.8) == pytest.approx(18.1072, abs=1e-12)
