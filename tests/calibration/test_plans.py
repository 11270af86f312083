"""The plans that a calibration considers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ab_schedulers.calibration.plans import MOST_SHAPES, reference_steps, search_shapes, shaped_steps
from ab_schedulers.calibration.walks import theory_walk
from ab_schedulers.schedulers.calibrations import parse_calibrations
from ab_schedulers.schedulers.grids import NoiseGrid


def flow_nodes(count: int) -> NoiseGrid:
    sigmas = [1 - i / count for i in range(count + 1)]
    return NoiseGrid(
        timesteps=tuple(1000 * sigma for sigma in sigmas[:-1]),
        alphas=tuple(1 - sigma for sigma in sigmas),
        sigmas=tuple(sigmas),
        flow=True,
    )


@given(
    calls=st.integers(2, 100),
    share=st.floats(0, 1),
    power=st.floats(0.6, 2),
    count=st.sampled_from([100, 250, 1000]),
)
def test_every_shape_gives_rising_steps_from_the_first_on(calls: int, share: float, power: float, count: int) -> None:
    steps = shaped_steps(flow_nodes(count), calls, (share, power))
    assert len(steps) == calls and steps[0] == 0 and steps[-1] < count
    assert all(a < b for a, b in pairwise(steps))


def test_the_plain_shape_is_the_uniform_plan() -> None:
    assert shaped_steps(flow_nodes(1000), 8, (0.0, 1.0)) == tuple(range(0, 1000, 125))


def test_the_log_snr_shape_spaces_the_calls_evenly_in_log_snr() -> None:
    nodes = flow_nodes(1000)
    steps = shaped_steps(nodes, 10, (1.0, 1.0))
    levels = [math.log(nodes.alphas[i] / nodes.sigmas[i]) for i in steps[1:]]
    assert all(b - a == pytest.approx(0.96, abs=0.15) for a, b in pairwise(levels[:-1]))


def test_a_larger_exponent_draws_calls_to_the_noisy_end() -> None:
    even, drawn = (shaped_steps(flow_nodes(1000), 8, (0.0, power)) for power in (1.0, 1.5))
    assert all(a < b for a, b in zip(drawn[1:], even[1:], strict=True))


@pytest.mark.parametrize("count", [100, 200, 500, 1000])
def test_the_reference_calls_at_most_135_times_densest_at_both_ends(count: int) -> None:
    steps = reference_steps(count)
    gaps = [b - a for a, b in pairwise([*steps, count])]
    assert len(steps) <= 135 and steps[0] == 0
    assert gaps[0] == gaps[-1] == 1 and max(gaps) <= max(1, count // 100)


def test_the_search_finds_the_best_shape_of_a_smooth_error_within_its_questions() -> None:
    asked = []

    def error(shape: tuple[float, float]) -> float:
        asked.append(shape)
        return (shape[0] - 0.55) ** 2 + (shape[1] - 1.0) ** 2

    assert search_shapes(error, lambda: True) == pytest.approx((0.55, 1.0))
    assert len(asked) == len(set(asked)) <= MOST_SHAPES


def test_the_search_asks_at_least_once_and_then_heeds_the_budget() -> None:
    asked = []
    search_shapes(lambda shape: asked.append(shape) or 1.0, lambda: False)  # type: ignore[func-returns-value]
    assert len(asked) == 1


def test_the_entry_of_a_walk_is_a_calibration_of_its_number_of_calls() -> None:
    walk = theory_walk(flow_nodes(100), (0, 20, 50, 80), "velocity")
    parsed = parse_calibrations({"4": walk.entry()})[4]
    assert parsed.plan.compute_steps == walk.steps and parsed.quantity == "velocity"
    assert [(row.sample, row.history) for row in parsed.rows] == [(row.sample, row.history) for row in walk.rows]
