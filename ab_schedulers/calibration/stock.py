"""Rows of stock schedulers as candidates, read by probing."""

from __future__ import annotations

import diffusers

from ab_schedulers.schedulers.grids import NoiseGrid
from ab_schedulers.schedulers.probe import ProbedRows, probe

from .runs import Runs
from .walks import Walk

_VP_SOLVERS = (
    ("DPM-Solver++ 2M", "DPMSolverMultistepScheduler", {"solver_order": 2}),
    ("DPM-Solver++ 3M", "DPMSolverMultistepScheduler", {"solver_order": 3}),
    ("UniPC 2", "UniPCMultistepScheduler", {"solver_order": 2}),
    ("DEIS 3", "DEISMultistepScheduler", {"solver_order": 3}),
)


def stock_walks(runs: Runs, num_calls: int) -> list[Walk]:
    """Multistep solvers of diffusers on the scheduler's own nodes; none for flow matching, whose nodes differ.

    A solver that cannot be read, or whose nodes are not the scheduler's own, is left out.
    """
    own = runs.plain_nodes(num_calls)
    if own is None or own.flow:
        return []
    walks = []
    for label, name, options in _VP_SOLVERS:
        try:
            scheduler = getattr(diffusers, name).from_config(runs.stock_config, **options)
            probed = probe(scheduler, num_calls)
        except (ValueError, TypeError, ImportError):
            continue
        if _same_nodes(probed, own):
            walks.append(
                Walk(
                    label=f"stock {label}",
                    nodes=own,
                    steps=tuple(range(num_calls)),
                    quantity=probed.quantity,
                    rows=probed.rows,
                )
            )
    return walks


def _same_nodes(probed: ProbedRows, own: NoiseGrid) -> bool:
    return len(probed.timesteps) == own.count and all(
        abs(a - b) <= tolerance
        for mine, theirs, tolerance in (
            (own.timesteps, probed.timesteps, 1.0),
            (own.alphas, probed.alphas, 1e-4),
            (own.sigmas, probed.sigmas, 1e-4),
        )
        for a, b in zip(mine, theirs, strict=True)
    )
