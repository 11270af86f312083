"""What a cache did, step by step, for its summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class CallRecord(NamedTuple):
    """One call of a hooked model: where it stood, whether it was computed, the embedded estimate if one was taken."""

    step: int
    timestep: float
    place: int
    computed: bool
    estimate: float | None = None


def summarize(title: str, records: Sequence[CallRecord]) -> str:
    """The calls of one run in a few lines."""
    if not records:
        return f"{title}: no call of the model yet"
    computed = sum(record.computed for record in records)
    steps = len({record.step for record in records})
    raster = "".join(
        "C" if any(r.computed for r in records if r.step == step) else "."
        for step in range(max(record.step for record in records) + 1)
    )
    lines = [
        f"{title}: {len(records)} calls in {steps} steps, {computed} computed, {len(records) - computed} answered from "
        f"the cache ({len(records) / max(computed, 1):.2f} times fewer)",
        f"steps (C computed, . predicted): {raster}",
    ]
    estimates = [record.estimate for record in records if record.estimate is not None]
    if estimates:
        lines.append(f"embedded estimates: smallest {min(estimates):.2e}, largest {max(estimates):.2e}")
    if computed == len(records):
        lines.append("nothing was skipped")
    return "\n".join(lines)
