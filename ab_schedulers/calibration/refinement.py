"""Joint refinement of all rows and places of a walk on the error at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from .least_squares import (
    Direction,
    gauss_newton_step,
    moved,
    number_of_directions,
    row_changes,
    row_directions,
)
from .moves import Move, possible_moves, with_moves
from .recordings import Recording, root_mean_squares
from .runs import Runs
from .walks import Walk, theory_walk

_STEP = 5e-3  # of a finite difference, in root mean square of the next sample
_STEPS = 2
_DAMPINGS = (0.1, 1.0, 10.0)
_RIDGE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """A walk, how it ran, and how it fared.

    Errors are means over trajectories of each one's root mean square. Squares of all together would let a single
    trajectory near a fork between two pictures choose for the others.

    Args:
        walk: Rows and calls.
        recording: What a run of all trajectories gave.
        fit_error: On the trajectories of the fit.
        held_error: On those held back.
        error: On all.
    """

    walk: Walk
    recording: Recording
    fit_error: float
    held_error: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judge:
    """Runs walks and compares their ends with the reference.

    Args:
        runs: The sampler.
        final: Where the reference ends, (trajectories, values).
        fit: Mask of the trajectories of the fit.
    """

    runs: Runs
    final: torch.Tensor
    fit: torch.Tensor

    def __call__(self, walk: Walk) -> Trial:
        """Run a walk and judge it."""
        return self.verdict(walk, self.runs.run(walk))

    def verdict(self, walk: Walk, recording: Recording) -> Trial:
        """The errors of a run."""
        errors = root_mean_squares(recording.final - self.final)
        fit, held, both = (float(part.mean()) for part in (errors[self.fit], errors[~self.fit], errors))
        return Trial(walk=walk, recording=recording, fit_error=fit, held_error=held, error=both)


def refine(trial: Trial, judge: Judge, *, depth: int, label: str) -> list[Trial]:
    """One Jacobian by finite differences, and damped Gauss-Newton steps with it; all trials made, in turn.

    Every row's weights and the places of the calls are moved at once, so that early rows may err where later ones, or
    the model itself, undo it. The ridge pulls toward the rows of theory at the places. With each damping two steps are
    made, the second with the same Jacobian at the new place. Damping is what keeps a fit to few trajectories from
    describing them alone; how much is needed, the trajectories held back tell.
    """
    directions = row_directions(trial.recording.of(judge.fit), depth)
    moves = possible_moves(trial.walk)
    jacobian = torch.stack(list(_derivatives(trial, directions, moves, judge)))
    weights = trajectory_weights(jacobian, int(judge.fit.sum()))
    weighted = jacobian * weights
    trials = []
    for damping in _DAMPINGS:
        best = trial
        for _ in range(_STEPS):
            walk = best.walk
            theory = theory_walk(walk.nodes, walk.steps, walk.quantity)
            step = gauss_newton_step(
                weighted,
                (judge.final - best.recording.final)[judge.fit].flatten() * weights,
                directions,
                row_changes(walk.rows, theory.rows, depth),
                ridge=_RIDGE,
                damping=damping,
            )
            fitted = replace(walk, label=label, rows=moved(walk.rows, directions, step[: len(directions)]))
            found = judge(with_moves(fitted, moves, step[len(directions) :].tolist()))
            trials.append(found)
            if found.fit_error > 0.98 * best.fit_error:
                break
            best = found
    return trials


def trajectory_weights(jacobian: torch.Tensor, trajectories: int) -> torch.Tensor:
    """Weights that keep the most sensitive trajectories from ruling the fit, one per value.

    Near a fork between two pictures a trajectory answers to the rows many times more strongly than others, and no rows
    suit all such trajectories. Those that answer more strongly than the median are scaled down, by the square root of
    how much more: down to the median they would hardly count, although they are most of the mean square error.

    Args:
        jacobian: Derivative of the final samples, (directions, trajectories × values).
        trajectories: How many there are.

    Returns:
        (trajectories × values,), at most 1.
    """
    answers = jacobian.view(len(jacobian), trajectories, -1).double().square().sum(dim=(0, 2)).sqrt()
    weights = (answers.median() / answers.clamp_min(torch.finfo(answers.dtype).tiny)).clamp(max=1).sqrt()
    return weights.to(jacobian.dtype).repeat_interleave(jacobian.shape[1] // trajectories)


def refinement_calls(num_calls: int, depth: int, restarts: bool) -> int:
    """Model calls per input that `refine` makes at most."""
    if restarts:
        changes = [1 + min(depth, call + 1) for call in range(num_calls)]
        changes[:-1] = [number + 1 for number in changes[:-1]]  # the move of the call after it
        jacobian = num_calls + sum(number * (num_calls - call - 1) for call, number in enumerate(changes))
    else:
        jacobian = num_calls * (number_of_directions(num_calls, depth) + num_calls - 1)
    return jacobian + _STEPS * len(_DAMPINGS) * num_calls


def _derivatives(
    trial: Trial, directions: Sequence[Direction], moves: Sequence[Move], judge: Judge
) -> Iterator[torch.Tensor]:
    walk, start = trial.walk, trial.recording.final[judge.fit]
    changed = [(one.call, replace(walk, rows=moved(walk.rows, [one], torch.tensor([_STEP])))) for one in directions]
    displaced = [(move.call - 1, with_moves(walk, [move], [1.0])) for move in moves]
    scales = [_STEP] * len(changed) + [1.0] * len(displaced)
    ends = judge.runs.ends(walk, [*changed, *displaced], judge.fit)
    for scale, end in zip(scales, ends, strict=True):
        yield ((end - start) / scale).flatten()
