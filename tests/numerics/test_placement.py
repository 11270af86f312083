"""Calls stand where the formula says, or at the nearest base step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ab_schedulers.numerics import flow_sigmas, noise_ratios, place_calls

_positive = st.floats(0.3, 4.0)


@given(num_calls=st.integers(1, 40), shift=_positive, power=_positive)
def test_lambda_is_a_shifted_and_stretched_logit(num_calls: int, shift: float, power: float) -> None:
    ratios = noise_ratios(num_calls, shift=shift, power=power)
    assert len(ratios) == num_calls
    assert ratios[0] == math.inf
    for i, ratio in enumerate(ratios[1:], start=1):
        u = 1 - i / num_calls
        assert -math.log(ratio) == pytest.approx(-math.log(shift) + power * math.log((1 - u) / u), abs=1e-9)


@given(num_calls=st.integers(1, 40), shift=_positive)
def test_power_one_is_the_time_shift_of_flow_matching(num_calls: int, shift: float) -> None:
    for i, sigma in enumerate(flow_sigmas(num_calls, shift=shift, power=1.0)):
        u = 1 - i / num_calls
        assert sigma == pytest.approx(shift * u / (1 + (shift - 1) * u))


@given(num_calls=st.integers(2, 40), shift=_positive, power=_positive)
def test_sigmas_fall_from_one_and_stay_above_zero(num_calls: int, shift: float, power: float) -> None:
    sigmas = flow_sigmas(num_calls, shift=shift, power=power)
    assert sigmas[0] == 1.0
    assert sigmas[-1] > 0
    assert all(a > b for a, b in pairwise(sigmas))


@given(num_calls=st.integers(1, 12), num_base_steps=st.integers(12, 60), shift=_positive, power=_positive)
def test_every_call_gets_a_step_of_its_own_whatever_the_base(
    num_calls: int, num_base_steps: int, shift: float, power: float
) -> None:
    base = [math.exp(4 - 8 * i / num_base_steps) for i in range(num_base_steps)]
    steps = place_calls(base, num_calls, shift=shift, power=power)
    assert len(steps) == num_calls
    assert steps[0] == 0
    assert all(a < b for a, b in pairwise(steps))
    assert steps[-1] < num_base_steps


def test_calls_stand_at_the_nearest_base_step() -> None:
    base = [math.inf, *(math.exp(5 - 0.01 * i) for i in range(1, 1000))]
    steps = place_calls(base, 8, shift=1.25, power=1.25)
    for step, ratio in zip(steps[1:], noise_ratios(8, shift=1.25, power=1.25)[1:], strict=True):
        assert abs(math.log(base[step] / ratio)) <= 0.005 + 1e-9


@pytest.mark.parametrize(("calls", "shift", "power"), [(0, 1.0, 1.0), (4, 0.0, 1.0), (4, 1.0, -1.0)])
def test_what_is_not_positive_is_refused(calls: int, shift: float, power: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        noise_ratios(calls, shift=shift, power=power)


def test_too_short_a_base_is_refused() -> None:
    with pytest.raises(ValueError, match="2 base steps, too few for 3 calls"):
        place_calls([2.0, 1.0], 3, shift=1.0, power=1.0)
