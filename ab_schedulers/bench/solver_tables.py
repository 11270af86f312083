"""Tables of `ab-schedulers bench solvers`: the best of each side per number of calls, and every solver at its best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ab_schedulers.bench.solver_results import OWN, STOCK, STOCK_PLACED, Entry, best
from ab_schedulers.bench.tables import markdown_table


def report(search: Sequence[Entry], last: Sequence[Entry], note: Mapping[str, Any]) -> str:
    """Markdown of the tables of one subject, from all methods and from the finalists."""
    parts = [
        f"## `{last[0].subject}`",
        f"RMSE to the converged trajectory ({note['method']}, halving error {note['halving_error']:.1e}), mean ± "
        f"standard deviation over {note['sets']} seed sets of {note['samples']} trajectories; ratio of the means, and "
        "the smallest and largest ratio of the sets.",
        summary(last),
        "Each of ours:",
        by_solver([entry for entry in last if entry.group == OWN], with_spread=True),
        "Stock solvers at the places of our calls, which do not count as stock settings above:",
        by_solver([entry for entry in last if entry.group == STOCK_PLACED], with_spread=True),
        f"Every solver at its best setting, on the {note['searched']} trajectories that chose the finalists:",
        by_solver(search),
    ]
    failed = refusals(search)
    return "\n\n".join([*parts, *(["No result:", failed] if failed else [])])


def summary(entries: Sequence[Entry]) -> str:
    """Per number of calls the best stock solver and the best of ours, with the ratio of their errors."""
    rows = []
    own = best(entries, OWN)
    for cell, (stock,) in sorted(best(entries, STOCK).items(), key=lambda item: item[0]):
        ours = own[cell][0] if cell in own else None
        found = ["", "", ""] if ours is None else [_label(ours), _number(ours), _ratio(ours, stock)]
        rows.append([str(cell[1]), _label(stock), _number(stock), *found])
    return markdown_table(["calls", "best stock", "error", "best of ours", "error", "ratio"], rows)


def by_solver(entries: Sequence[Entry], with_spread: bool = False) -> str:
    """Smallest error of every solver over its settings, solvers in the order of their geometric mean."""
    calls = sorted({entry.calls for entry in entries})
    cells: dict[tuple[str, str], dict[int, Entry]] = {}
    for entry in entries:
        row = cells.setdefault((entry.group, entry.solver), {})
        if entry.error < (row[entry.calls].error if entry.calls in row else math.inf):
            row[entry.calls] = entry
    complete = {key: row for key, row in cells.items() if row}
    ordered = sorted(complete.items(), key=lambda item: _geometric_mean(item[1], calls))
    rows = [
        [f"{solver} ({group})", *[_cell(row.get(count), with_spread) for count in calls]]
        for (group, solver), row in ordered
    ]
    return markdown_table(["solver", *[f"{count} calls" for count in calls]], rows)


def refusals(entries: Sequence[Entry]) -> str:
    """Why methods have no result, one line for each solver and reason."""
    reasons: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        if entry.refused:
            reasons.setdefault((entry.solver, entry.refused), set()).add(entry.setting)
    rows = [[solver, ", ".join(sorted(settings)), reason] for (solver, reason), settings in reasons.items()]
    return markdown_table(["solver", "settings", "reason"], rows) if rows else ""


def _geometric_mean(row: Mapping[int, Entry], calls: Sequence[int]) -> float:
    if len(row) < len(calls):
        return math.inf
    return math.exp(sum(math.log(max(entry.error, 1e-300)) for entry in row.values()) / len(row))


def _label(entry: Entry) -> str:
    return f"{entry.solver}, {entry.setting}"


def _number(entry: Entry) -> str:
    return f"{entry.error:.4f} ± {entry.spread:.4f}"


def _ratio(ours: Entry, stock: Entry) -> str:
    ratios = [a / b for a, b in zip(ours.errors, stock.errors, strict=True)]
    return f"{ours.error / stock.error:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _cell(entry: Entry | None, with_spread: bool) -> str:
    if entry is None:
        return "none"
    used = "" if entry.model_calls == entry.calls else f" [{entry.model_calls} calls]"
    number = _number(entry) if with_spread else f"{entry.error:.4f}"
    return f"{number} ({entry.setting}){used}"
