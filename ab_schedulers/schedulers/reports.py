"""What a run reports about itself: error estimates and the table of `describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ab_schedulers.numerics import embedded_difference, noise_gain

if TYPE_CHECKING:
    from .base import ABCacheScheduler

EXCERPT_SIZE = 1024


def excerpt(history: list[torch.Tensor], base_history: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A regular excerpt of the newest outputs, small enough to keep for every call."""
    return _thin(history[0]), _thin(base_history[0]) if base_history else None


def _thin(output: torch.Tensor) -> torch.Tensor:
    stride = -(-output.numel() // EXCERPT_SIZE)
    return output.reshape(-1)[:: max(stride, 1)].clone()


def error_estimates(scheduler: ABCacheScheduler) -> tuple[float | None, ...]:
    """See `ABCacheScheduler.error_estimates`."""
    excerpts = scheduler._excerpts
    order = scheduler.config.cache_order
    if not excerpts or order == 1 or scheduler._calibrated is not None:
        return (None,) * len(excerpts)
    higher, lower = (scheduler._fold(k, None) for k in (order, order - 1))
    estimates: list[float | None] = []
    for call in range(len(excerpts)):
        if higher[call].order == lower[call].order:
            estimates.append(None)
            continue
        weights, base_weights = embedded_difference(higher[call], lower[call])
        total = torch.zeros_like(excerpts[call][0], dtype=torch.float64)
        for j, weight in enumerate(weights):
            total += weight * excerpts[call - j][0]
        for j, weight in enumerate(base_weights):
            base = excerpts[call - j][1]
            if base is not None:
                total += weight * base
        estimates.append(float(total.square().mean().sqrt()))
    return tuple(estimates)


def describe(scheduler: ABCacheScheduler) -> str:
    """See `ABCacheScheduler.describe`."""
    plan, _ = scheduler._require_grid()
    first = scheduler._first_call
    rows = scheduler.rows
    source = "calibrated rows" if scheduler._calibrated is not None and first == 0 and rows else "theory rows"
    depth = max((len(row.history) + len(row.base_history) for row in rows), default=0)
    lines = [
        f"{type(scheduler).__name__}: {plan.num_calls} model calls walk {plan.num_base_steps} base steps; {source}, "
        f"cached quantity {scheduler._quantity}, variable {scheduler.config.cache_variable}, row depth {depth}",
        f"{'call':>4} {'timestep':>9} {'steps':>5} {'order':>5} {'corr.':>5} {'gain':>9} {'estimate':>9}  "
        "a | weights, newest first",
    ]
    estimates = error_estimates(scheduler)
    for place, row in enumerate(rows):
        call = first + place
        estimate = estimates[place] if place < len(estimates) else None
        weights = " ".join(f"{weight:+.5f}" for weight in (*row.history, *row.base_history))
        lines.append(
            f"{call:>4} {scheduler._call_timesteps[call]:>9.2f} {len(plan.windows[call]):>5} {row.order:>5} "
            f"{row.corrector or '-':>5} {noise_gain((*row.history, *row.base_history)):>9.4f} "
            f"{'-' if estimate is None else format(estimate, '.2e'):>9}  {row.sample:+.5f} | {weights}"
        )
    return "\n".join(lines)
