"""The global error of a cached run, bounded from its rows: a discrete Gronwall inequality with its constants."""

from __future__ import annotations

from collections.abc import Sequence

from .bounds import interpolation_error_constant
from .folding import BaseGrid, Row
from .interpolation import Number


def window_output_weights(grid: BaseGrid, window: range) -> tuple[Number, ...]:
    """Weight with which the output of each step of ``window`` enters the sample at its end.

    Derived in docs/theory/07-global-bound.md.

    Raises:
        ValueError: If a step takes more than one output: the outputs then enter several steps.
    """
    weights: list[Number] = []
    for i in window:
        step = grid.steps[i]
        if len(step.outputs) != 1:
            raise ValueError(
                f"step {i} of `grid` takes {len(step.outputs)} outputs, expected one (DDIM, flow Euler): bounds for "
                "multistep bases are not known here. Fold a first-order base."
            )
        weights = [step.sample * weight for weight in weights] + [step.outputs[0]]
    return tuple(weights)


def prediction_error_bound(grid: BaseGrid, window: range, known: Sequence[int], derivative: Number) -> Number:
    """Bound on what predicting the skipped outputs of a window leaves in its end.

    ``derivative * Σ_i |W_i| Π_j |t_i - x_j| / k!`` over the steps ``i`` of the window, with their weights
    ``W_i`` from `window_output_weights` and the nodes ``x_j`` of the ``k`` outputs that predict.

    Derived in docs/theory/07-global-bound.md.

    Args:
        grid: The base sampler; every step takes one output.
        window: The base steps of the call.
        known: Base steps whose outputs are interpolated: the call's and older ones, and for a corrector the next
            call's.
        derivative: Bound on the ``k``-th derivative, in the grid's variable, of the output along the trajectory
            compared with, from the oldest to the newest of these nodes. (Or ``k!`` times a bound on its divided
            differences, where only values at the nodes are known.)

    Raises:
        ValueError: If a step takes more than one output.
    """
    nodes = [grid.nodes[i] for i in known]
    total: Number = 0
    for i, weight in zip(window, window_output_weights(grid, window), strict=True):
        total = total + abs(weight * interpolation_error_constant(nodes, grid.nodes[i]))
    return derivative * total


def gronwall_bound(
    rows: Sequence[Row], lipschitz: Sequence[Number], defects: Sequence[Number], start: Number = 0
) -> tuple[Number, ...]:
    """Bound on the error after every call, ``e_{n+1} = |a_n| e_n + Σ_j |b_{n,j}| L_{n-j} e_{n-j} + d_n``.

    Holds in every norm, for any plan and order, with the rows of a run that began with an empty history. Without
    ``|a_n| > 1`` it is at most ``(start + Σ_n d_n) Π_n (1 + L Σ_j |b_{n,j}|)`` (the discrete Gronwall lemma;
    Hairer, Norsett and Wanner, *Solving ODEs I*, section I.7 and III.4).

    Derived in docs/theory/07-global-bound.md.

    Args:
        rows: One row per call, without base outputs.
        lipschitz: ``L_n``: Lipschitz constant in the sample of the cached output at call ``n``, between run and
            trajectory.
        defects: ``d_n``: bound on what row ``n`` misses of the trajectory compared with when given that trajectory's
            own sample and outputs.
        start: Error of the first sample.

    Returns:
        ``e_1, ..., e_N``.

    Raises:
        ValueError: If the lengths differ or a row weights base outputs.
    """
    if not len(rows) == len(lipschitz) == len(defects):
        raise ValueError(
            f"`rows`, `lipschitz` and `defects` must be equally long, received {len(rows)}, {len(lipschitz)} and "
            f"{len(defects)}; give one of each per call."
        )
    if any(row.base_history for row in rows):
        raise ValueError("`rows` weight base outputs besides the cached ones; fold without conversions to bound them.")
    errors = [start]
    for n, (row, defect) in enumerate(zip(rows, defects, strict=True)):
        error = abs(row.sample) * errors[n] + defect
        for j, weight in enumerate(row.history):
            error = error + abs(weight) * lipschitz[n - j] * errors[n - j]
        errors.append(error)
    return tuple(errors[1:])
