"""The linear algebra: rows from recorded runs, and damped Gauss-Newton steps on the final error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ab_schedulers.numerics import Row
from ab_schedulers.numerics.ridge import ridge_solution

from .recordings import Recording


def ridge_solve(features: torch.Tensor, target: torch.Tensor, ridge: float) -> torch.Tensor:
    """``argmin_c |target - Σ_p c_p features_p|² + ridge m |c|²`` with m the mean square norm of the features.

    Args:
        features: (features, values).
        target: (values,).
        ridge: Relative strength of the penalty.

    Returns:
        (features,), float64.
    """
    gram = _inner(features, features)
    penalty = ridge * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    right = _inner(features, target[None])[:, 0]
    return torch.tensor(ridge_solution(gram.tolist(), right.tolist(), float(penalty)), dtype=torch.float64)


def fit_row(recording: Recording, call: int, target: torch.Tensor, row: Row, *, depth: int, ridge: float) -> Row:
    """The row that carries the recorded samples to the reference at the end of the window, near ``row``.

    Args:
        recording: The run so far; its own samples and outputs are the features, so that the row learns to undo the
            errors made before.
        call: Which call.
        target: States of the reference at the end of the window, (trajectories, values).
        row: What the ridge pulls toward.
        depth: Outputs that may get a new weight; the sample's weight is fitted as well.
        ridge: Relative strength of the pull.
    """
    features = row_features(recording, call, depth)
    miss = target.flatten() - predicted(recording, call, row)
    return shifted(row, ridge_solve(features, miss, ridge))


def row_features(recording: Recording, call: int, depth: int) -> torch.Tensor:
    """Sample and newest outputs at a call, (1 + outputs, trajectories × values)."""
    outputs = [recording.outputs[:, call - age].flatten() for age in range(min(depth, call + 1))]
    return torch.stack([recording.samples[:, call].flatten(), *outputs])


def predicted(recording: Recording, call: int, row: Row) -> torch.Tensor:
    """``a x + Σ_j b_j q_j`` on the recorded sample and outputs, flat, float64."""
    total: torch.Tensor = row.sample * recording.samples[:, call].flatten().double()
    for age, weight in enumerate(row.history):
        total += weight * recording.outputs[:, call - age].flatten().double()
    return total


def shifted(row: Row, change: torch.Tensor) -> Row:
    """The row with ``change`` added to the weights of sample and newest outputs."""
    first, *others = change.tolist()
    length = max(len(row.history), len(others))
    history = [0.0] * length
    for values in (row.history, others):
        for age, value in enumerate(values):
            history[age] += value
    return replace(row, sample=row.sample + first, history=tuple(history))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Direction:
    """A change of one row's weights that moves the next sample by 1 in root mean square.

    Args:
        call: Which row.
        change: Weights of the sample and of the newest outputs, (1 + outputs,), float64.
        scale: Mean square of the features, the unit of the ridge.
    """

    call: int
    change: torch.Tensor
    scale: float


def row_directions(recording: Recording, depth: int) -> list[Direction]:
    """Directions of every row in which its features are uncorrelated on ``recording``."""
    found = []
    for call in range(recording.outputs.shape[1]):
        features = row_features(recording, call, depth)
        gram = _inner(features, features) / features.shape[1]
        scale = gram.diagonal().mean()
        values, vectors = torch.linalg.eigh(gram + 1e-9 * scale * torch.eye(len(gram), dtype=gram.dtype))
        for value, vector in zip(values, vectors.T, strict=True):
            found.append(Direction(call=call, change=vector / value.sqrt(), scale=float(scale)))
    return found


def number_of_directions(num_calls: int, depth: int) -> int:
    """How many `row_directions` finds."""
    return sum(1 + min(depth, call + 1) for call in range(num_calls))


def gauss_newton_step(
    jacobian: torch.Tensor,
    miss: torch.Tensor,
    directions: Sequence[Direction],
    changes: torch.Tensor,
    *,
    ridge: float,
    damping: float,
) -> torch.Tensor:
    """The damped step ``(JᵀJ + R + μ diag JᵀJ) u = Jᵀ miss - R c``.

    Args:
        jacobian: Derivative of the final samples along every direction, and along whatever else may change, which no
            ridge pulls, (directions + others, values).
        miss: Reference minus final samples, (values,).
        directions: What the first entries of ``u`` count.
        changes: How far each row stands from the one the ridge pulls toward, (calls, 1 + depth).
        ridge: Relative strength of the pull, mean square per value.
        damping: μ.

    Returns:
        ``u``, (directions + others,), float64.
    """
    count = jacobian.shape[1]
    normal = _inner(jacobian, jacobian) / count
    right = _inner(jacobian, miss[None])[:, 0] / count
    for p, one in enumerate(directions):
        reach = changes[one.call, : len(one.change)]
        right[p] -= ridge * one.scale * float(reach @ one.change)
        for q, other in enumerate(directions):
            if other.call == one.call:
                normal[p, q] += ridge * one.scale * float(one.change @ other.change)
    step: torch.Tensor = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal()), right)
    return step


def moved(rows: Sequence[Row], directions: Sequence[Direction], step: torch.Tensor) -> tuple[Row, ...]:
    """The rows after a step along the directions."""
    result = list(rows)
    for length, direction in zip(step.tolist(), directions, strict=True):
        result[direction.call] = shifted(result[direction.call], length * direction.change)
    return tuple(result)


def row_changes(rows: Sequence[Row], origin: Sequence[Row], depth: int) -> torch.Tensor:
    """Weights of ``rows`` minus those of ``origin``, (calls, 1 + depth), float64."""
    changes = torch.zeros(len(rows), 1 + depth, dtype=torch.float64)
    for call, (row, start) in enumerate(zip(rows, origin, strict=True)):
        changes[call, 0] = row.sample - start.sample
        for sign, history in ((1, row.history), (-1, start.history)):
            for age, weight in enumerate(history[:depth]):
                changes[call, 1 + age] += sign * weight
    return changes


def _inner(a: torch.Tensor, b: torch.Tensor, chunk: int = 1 << 20) -> torch.Tensor:
    """``a bᵀ`` accumulated in float64, chunk by chunk."""
    total = torch.zeros(len(a), len(b), dtype=torch.float64)
    for left, right in zip(a.split(chunk, dim=1), b.split(chunk, dim=1), strict=True):
        total += left.double() @ right.double().T
    return total
