"""The base grid as the fit sees it, and a way to walk it: calls, quantity and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ab_schedulers.numerics import Row, integral_rows
from ab_schedulers.schedulers.grids import NoiseGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One way to walk a base grid with ``len(steps)`` model calls.

    Args:
        label: What it is, for reports.
        nodes: The base grid.
        steps: Base steps that call the model.
        quantity: What the rows weight.
        rows: One row per call.
    """

    label: str
    nodes: NoiseGrid
    steps: tuple[int, ...]
    quantity: str
    rows: tuple[Row, ...]

    def entry(self) -> dict[str, Any]:
        """The walk as it stands in a scheduler's ``calibrations``."""
        return {
            "num_base_steps": self.nodes.count,
            "compute_steps": list(self.steps),
            "cache_quantity": self.quantity,
            "timesteps": [self.nodes.timesteps[i] for i in self.steps],
            "sigmas": [*(self.nodes.sigmas[i] for i in self.steps), self.nodes.sigmas[-1]],
            "rows": [{"sample": row.sample, "history": list(row.history)} for row in self.rows],
        }


def theory_walk(
    nodes: NoiseGrid,
    steps: Sequence[int],
    quantity: str,
    *,
    order: int = 2,
    corrector: int | None = 3,
    plan: str = "searched plan",
) -> Walk:
    """The walk with `integral_rows` at ``steps``; ``plan`` says in its label where these come from."""
    angles = nodes.angles
    chosen = [*(angles[i] for i in steps), angles[-1]]
    rows = integral_rows(
        chosen, quantity=quantity, flow=nodes.flow, order=order, corrector=corrector, variable=nodes.along("timestep")
    )
    orders = f"order {order}" + ("" if corrector is None else f" + corrector {corrector}")
    label = f"theory, {quantity}, {orders}, {plan}"
    return Walk(label=label, nodes=nodes, steps=tuple(steps), quantity=quantity, rows=rows)
