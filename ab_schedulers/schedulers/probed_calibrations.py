"""Probed rows of stock schedulers as calibrations of ours."""

from __future__ import annotations

from typing import Any

from .base import ABCacheScheduler
from .probe import ProbedRows


def calibration_entry(
    probed: ProbedRows, scheduler: ABCacheScheduler, **set_timesteps_options: Any
) -> dict[str, dict[str, Any]]:
    """Probed rows as ``calibrations`` of one of our schedulers, which then walks as the stock scheduler does.

    Args:
        probed: Rows from `probe`.
        scheduler: The scheduler that shall walk them, for instance ``ABCacheScheduler.from_config(stock.config)``; it
            is left as it is.
        **set_timesteps_options: What its ``set_timesteps`` is given beside the number of calls.

    Returns:
        ``{"8": entry}`` for eight calls, to be merged with others and passed as the option ``calibrations``.

    Raises:
        ValueError: If the nodes of the calls differ from those of the scheduler's own grid of as many base steps.
    """
    calls = len(probed.rows)
    plain = type(scheduler).from_config(
        scheduler.config,
        cache_interval=1,
        warmup_calls=0,
        num_base_steps=None,
        compute_steps=None,
        calibrations=None,
    )
    plain.set_timesteps(
        None if {"sigmas", "timesteps"} & set(set_timesteps_options) else calls, **set_timesteps_options
    )
    _, grid = plain._require_grid()
    for what, mine, theirs, tolerance in (
        ("timesteps", grid.timesteps, probed.timesteps, 1.0),  # some classes cut them off to whole numbers
        ("alphas", grid.alphas, probed.alphas, 1e-4),
        ("sigmas", grid.sigmas, probed.sigmas, 1e-4),
    ):
        differing = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if not abs(a - b) <= tolerance]
        if len(mine) != len(theirs) or differing:
            i = differing[0] if differing else 0
            raise ValueError(
                f"the {what} of {probed.scheduler} for {calls} calls differ from those of {type(scheduler).__name__}, "
                f"first at node {i} ({theirs[i]:g}, expected {mine[i]:g}); its rows would not fit. Give both the same "
                "schedule and spacing, or the same `sigmas`."
            )
    entry = {
        "num_base_steps": calls,
        "compute_steps": list(range(calls)),
        "cache_quantity": probed.quantity,
        "timesteps": list(grid.timesteps),
        "sigmas": list(grid.sigmas),
        "rows": [{"sample": row.sample, "history": list(row.history)} for row in probed.rows],
        "probed_from": probed.scheduler,
    }
    return {str(calls): entry}
