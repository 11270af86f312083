"""The linear algebra of a calibration."""

from __future__ import annotations

import pytest
import torch

from ab_schedulers.calibration.least_squares import (
    fit_row,
    gauss_newton_step,
    moved,
    number_of_directions,
    predicted,
    ridge_solve,
    row_changes,
    row_directions,
    shifted,
)
from ab_schedulers.calibration.recordings import Recording
from ab_schedulers.calibration.refinement import trajectory_weights
from ab_schedulers.numerics import Row

ROWS = (
    Row(sample=0.9, history=(0.2,), order=1),
    Row(sample=0.8, history=(0.3, -0.1), order=2),
    Row(sample=0.7, history=(0.4, -0.2, 0.1), order=3),
)


@pytest.fixture
def recording() -> Recording:
    generator = torch.Generator().manual_seed(3)
    return Recording(
        samples=torch.randn(5, 4, 40, generator=generator), outputs=torch.randn(5, 3, 40, generator=generator)
    )


def weights(row: Row) -> list[float]:
    return [row.sample, *row.history]


@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_row_that_made_the_target_is_found_again(recording: Recording, call: int) -> None:
    target = predicted(recording, call, ROWS[call]).view(5, 40)
    start = Row(sample=1.0, history=(0.5,), order=1)
    found = fit_row(recording, call, target, start, depth=3, ridge=1e-12)
    assert weights(found) == pytest.approx(weights(ROWS[call]), abs=1e-6)


def test_a_strong_ridge_keeps_the_row_it_pulls_toward(recording: Recording) -> None:
    target = predicted(recording, 2, ROWS[2]).view(5, 40)
    start = Row(sample=1.0, history=(0.5,), order=1)
    found = fit_row(recording, 2, target, start, depth=3, ridge=1e9)
    assert weights(found) == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-6)


def test_a_shallow_fit_leaves_older_weights_alone(recording: Recording) -> None:
    target = torch.zeros(5, 40)
    found = fit_row(recording, 2, target, ROWS[2], depth=1, ridge=1e-6)
    assert found.history[1:] == ROWS[2].history[1:] and found.history[0] != ROWS[2].history[0]


def test_the_ridge_is_relative_to_the_scale_of_the_features() -> None:
    features = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    target = features[0] - 2 * features[2]
    small, large = (ridge_solve(scale * features, scale * target, 0.1) for scale in (1.0, 1e3))
    assert torch.allclose(small, large)


def test_directions_move_the_next_sample_by_one_and_are_uncorrelated(recording: Recording) -> None:
    directions = row_directions(recording, 3)
    assert len(directions) == number_of_directions(3, 3) == 9
    moves = [
        predicted(recording, one.call, shifted(ROWS[one.call], one.change))
        - predicted(recording, one.call, ROWS[one.call])
        for one in directions
    ]
    for one, move in zip(directions, moves, strict=True):
        assert float(move.square().mean()) == pytest.approx(1, abs=1e-3)
        for other, its in zip(directions, moves, strict=True):
            if other is not one and other.call == one.call:
                assert float((move * its).mean()) == pytest.approx(0, abs=1e-3)


def test_a_gauss_newton_step_without_damping_solves_a_linear_problem(recording: Recording) -> None:
    directions = row_directions(recording, 3)
    generator = torch.Generator().manual_seed(4)
    jacobian = torch.randn(len(directions), 200, generator=generator, dtype=torch.float64)
    planted = torch.randn(len(directions), generator=generator, dtype=torch.float64)
    step = gauss_newton_step(
        jacobian, planted @ jacobian, directions, torch.zeros(3, 4, dtype=torch.float64), ridge=0.0, damping=0.0
    )
    assert torch.allclose(step, planted)
    changed = row_changes(moved(ROWS, directions, planted), ROWS, 3)
    again = gauss_newton_step(
        jacobian, torch.zeros(200, dtype=torch.float64), directions, changed, ridge=1e9, damping=0.0
    )
    assert torch.allclose(again, -planted, atol=1e-4)  # a strong ridge undoes what was changed


def test_damping_shortens_the_step(recording: Recording) -> None:
    directions = row_directions(recording, 3)
    jacobian = torch.randn(len(directions), 200, generator=torch.Generator().manual_seed(4))
    lengths = [
        float(
            gauss_newton_step(
                jacobian, jacobian[0], directions, torch.zeros(3, 4, dtype=torch.float64), ridge=0.0, damping=mu
            ).norm()
        )
        for mu in (0.0, 1.0, 10.0)
    ]
    assert lengths[0] > lengths[1] > lengths[2] > 0


def test_the_most_sensitive_trajectories_are_scaled_down_by_the_root_of_their_excess_and_no_other() -> None:
    jacobian = torch.ones(3, 5 * 4)
    for place, scale in enumerate((1.0, 2.0, 4.0, 0.5, 40.0)):
        jacobian[:, 4 * place : 4 * place + 4] *= scale
    weights = trajectory_weights(jacobian, 5).view(5, 4)
    assert weights[:, 0].tolist() == pytest.approx([1, 1, 0.5**0.5, 1, 0.05**0.5])
    assert bool((weights == weights[:, :1]).all())
