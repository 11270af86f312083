"""The tables of `ab-schedulers bench latency`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from ab_schedulers.bench.tables import markdown_table

HEADERS = ("model", "scheduler", "calls", "base steps", "seconds", "range", "speed", "ms of step", "peak GiB")
GIB = 2**30


def latency_rows(entry: dict[str, Any]) -> Iterable[list[str]]:
    """The cells of one architecture, a row per scheduler and number of calls."""
    usual = median(entry["timings"][0]["seconds"])
    for timing in entry["timings"]:
        seconds, peak = timing["seconds"], timing["peak_bytes"]
        yield [
            entry["architecture"],
            timing["scheduler"],
            str(timing["calls"]),
            str(timing["base_steps"]),
            f"{median(seconds):.3g}",
            f"{min(seconds):.3g} to {max(seconds):.3g}",
            f"{usual / median(seconds):.2f}x",
            f"{1000 * timing['step_seconds']:.2f}",
            "-" if peak is None else f"{peak / GIB:.2f}",
        ]


def latency_report(entries: Sequence[dict[str, Any]]) -> str:
    """A table per device and scale."""
    parts = []
    for device, scale in dict.fromkeys((entry["device"], entry["scale"]) for entry in entries):
        together = [entry for entry in entries if (entry["device"], entry["scale"]) == (device, scale)]
        versions = together[0]["environment"]
        parts.append(f"{device}, scale {scale}, torch {versions['torch']}, diffusers {versions['diffusers']}\n")
        parts.append(markdown_table(HEADERS, [row for entry in together for row in latency_rows(entry)], left=2) + "\n")
    return "\n".join(parts)
