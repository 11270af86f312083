"""Work-precision diagrams of `ab-schedulers bench solvers`, and the settings that nothing else beats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.solver_results import OWN, STOCK, STOCK_PLACED, Entry, best

Point = tuple[float, float]
_STOCK_COLORS = ("#4c72b0", "#8172b3", "#64b5cd", "#937860", "#55a868", "#8c8c8c")
_OWN_COLORS = ("#c44e52", "#dd8452", "#da8bc3", "#ccb974")


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """Points that no other point matches or undercuts in both coordinates, by rising first coordinate."""
    front: list[Point] = []
    for cost, error in sorted(set(points)):
        if math.isfinite(error) and (not front or error < front[-1][1]):
            front.append((cost, error))
    return front


def milliseconds(entry: Entry, model_ms: float) -> float:
    """Time of a whole run: its model calls at `model_ms` each, and its own scheduler time."""
    return entry.model_calls * (model_ms + entry.scheduler_ms)


def write_diagrams(path: Path, search: Sequence[Entry], entries: Sequence[Entry], batch: int) -> None:
    """Three panels for one subject: error against calls, against time, and all settings with the two fronts.

    Args:
        path: PNG file to write.
        search: all methods on few trajectories, for the thin lines of the leading stock solvers.
        entries: finalists.
        batch: trajectories per model call of the finalists, to give the time per trajectory.
    """
    figures = import_extra("matplotlib.figure", "writing pictures")
    finite = [entry for entry in entries if math.isfinite(entry.error)]
    times = sorted(entry.model_ms for entry in finite)
    model_ms = times[len(times) // 2]
    figure = figures.Figure(figsize=(16, 5.4), dpi=130, layout="constrained")
    by_calls, by_time, every = figure.subplots(1, 3, sharey=True)
    for label, color, line in _stock_lines(search):
        by_calls.plot([entry.model_calls for entry in line], [e.error for e in line], color=color, lw=1, label=label)
    for label, color, line in _lines(finite):
        style = {"color": color, "linewidth": 2.4, "marker": "o", "markersize": 4}
        errors, spreads = [entry.error for entry in line], [entry.spread for entry in line]
        by_calls.errorbar([entry.model_calls for entry in line], errors, yerr=spreads, label=label, **style)
        by_time.plot([milliseconds(entry, model_ms) / batch for entry in line], errors, **style)
    for group, color, name in ((STOCK, "#4c72b0", "stock"), (OWN, "#c44e52", "ours")):
        side = [entry for entry in finite if entry.group == group]
        points = [(milliseconds(entry, model_ms) / batch, entry.error) for entry in side]
        every.plot(*zip(*points, strict=True), "o", color=color, markersize=3, alpha=0.35)
        every.plot(*zip(*pareto_front(points), strict=True), "-", color=color, linewidth=2.4, label=f"{name}, front")
    _dress(by_calls, "model calls", sorted({entry.calls for entry in finite}))
    _dress(by_time, "milliseconds per trajectory", None)
    _dress(every, "milliseconds per trajectory", None)
    by_calls.set_ylabel("RMSE to the converged trajectory")
    by_calls.legend(fontsize=7.5, frameon=False)
    every.legend(fontsize=8, frameon=False)
    titles = ("each solver at its best setting", "the same against time", "all measured settings")
    for axes, title in zip((by_calls, by_time, every), titles, strict=True):
        axes.set_title(f"{finite[0].subject}: {title}", fontsize=10)
    figure.savefig(path)


def _lines(entries: Sequence[Entry]) -> list[tuple[str, str, list[Entry]]]:
    """Label, colour and entries by rising calls: the best stock setting of each number of calls, and all of ours."""
    cells = best(entries)
    stock = [("best stock", "black", [cells[cell][0] for cell in sorted(cells)])]
    moved = best(entries, STOCK_PLACED)
    if moved:
        stock.append(("best stock at our places", "#b8860b", [moved[cell][0] for cell in sorted(moved)]))
    own = _at_best([entry for entry in entries if entry.group == OWN])
    return [*stock, *[(f"{name} (ours)", color, line) for (name, line), color in zip(own, _OWN_COLORS, strict=False)]]


def _stock_lines(entries: Sequence[Entry]) -> list[tuple[str, str, list[Entry]]]:
    stock = _at_best([entry for entry in entries if entry.group == STOCK])
    return [(name, color, line) for (name, line), color in zip(stock, _STOCK_COLORS, strict=False)]


def _at_best(entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """Every solver at its best setting for each number of calls, the most accurate solver first."""
    rows: dict[str, dict[int, Entry]] = {}
    for entry in entries:
        row = rows.setdefault(entry.solver, {})
        if math.isfinite(entry.error) and (entry.calls not in row or entry.error < row[entry.calls].error):
            row[entry.calls] = entry
    counts = {entry.calls for entry in entries}
    complete = {name: [row[count] for count in sorted(row)] for name, row in rows.items() if set(row) == counts}
    return sorted(complete.items(), key=lambda item: sum(math.log(entry.error) for entry in item[1]))


def _dress(axes: Any, label: str, ticks: Sequence[int] | None) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.grid(which="both", alpha=0.25)
    if ticks is not None:
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
