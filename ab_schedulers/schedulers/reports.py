"""What a run reports about itself: error estimates and the table of `describe`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ab_schedulers.numerics import CachePlan, Row, embedded_difference, noise_gain

from .run import CachedRun


def error_estimates(run: CachedRun, higher: Sequence[Row], lower: Sequence[Row]) -> tuple[float | None, ...]:
    """Root mean square of ``Σ_j (b_j - b'_j) history_j`` for every recorded call of ``run``.

    Args:
        run: The run with its excerpts.
        higher: Rows of the run's order.
        lower: Rows of one order less.
    """
    estimates: list[float | None] = []
    outputs = [output.value() for output, _ in run.excerpts]
    base_outputs = [None if output is None else output.value() for _, output in run.excerpts]
    for call, newest in enumerate(outputs):
        if higher[call].order == lower[call].order:
            estimates.append(None)
            continue
        weights, base_weights = embedded_difference(higher[call], lower[call])
        total = torch.zeros_like(newest, dtype=torch.float64)
        for j, weight in enumerate(weights):
            total += weight * outputs[call - j]
        for j, weight in enumerate(base_weights):
            base_output = base_outputs[call - j]
            if base_output is not None:
                total += weight * base_output
        estimates.append(float(total.square().mean().sqrt()))
    return tuple(estimates)


def describe(name: str, plan: CachePlan, run: CachedRun, variable: str, estimates: Sequence[float | None]) -> str:
    """The table of `ABCacheScheduler.describe`."""
    depth = max(len(row.history) + len(row.base_history) for row in run.rows)
    lines = [
        f"{name}: {plan.num_calls} model calls walk {plan.num_base_steps} base steps; "
        f"{'calibrated' if run.calibrated else 'theory'} rows, cached quantity {run.quantity}, variable {variable}, "
        f"row depth {depth}",
        f"{'call':>4} {'timestep':>9} {'steps':>5} {'order':>5} {'corr.':>5} {'gain':>9} {'estimate':>9}  "
        "a | weights, newest first",
    ]
    for place, row in enumerate(run.rows):
        call = run.first_call + place
        estimate = estimates[place] if place < len(estimates) else None
        all_weights = (*row.history, *row.base_history)
        weights = " ".join(f"{weight:+.5f}" for weight in all_weights)
        lines.append(
            f"{call:>4} {run.timesteps[call]:>9.2f} {len(plan.windows[call]):>5} {row.order:>5} "
            f"{row.corrector or '-':>5} {noise_gain(all_weights):>9.4f} "
            f"{'-' if estimate is None else format(estimate, '.2e'):>9}  {row.sample:+.5f} | {weights}"
        )
    return "\n".join(lines)
