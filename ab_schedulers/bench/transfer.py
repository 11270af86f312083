"""`ab-schedulers bench transfer`: how a calibration does where it was not made, and how little it can be made from.

Each is tested on the seeds and classes of `bench calibration`, which no fit has seen: a fit with fewer trajectories,
rows interpolated between two other numbers of calls, rows of another model on the same path, and of other guidance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ab_schedulers.bench.calibrated import calibrated_competitor, calibrated_once
from ab_schedulers.bench.competitors import Competitor, placed_competitor
from ab_schedulers.bench.solver_results import Entry
from ab_schedulers.bench.solvers import measure
from ab_schedulers.bench.tables import markdown_table
from ab_schedulers.bench.trials import prepare
from ab_schedulers.calibration import Calibration
from ab_schedulers.calibration.function_runs import FunctionRuns
from ab_schedulers.calibration.least_squares import row_changes, shifted
from ab_schedulers.calibration.moves import at_places
from ab_schedulers.calibration.walks import Walk, theory_walk
from ab_schedulers.models import load
from ab_schedulers.numerics import Row
from ab_schedulers.schedulers.grids import NoiseGrid

_DEPTH = 6
_FEWER = (32, 16)
_APART = 2
_HEADERS = ("sampled", "calibrated on", "RMSE", "over own", "over placed calls")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guided:
    """A bundled model with classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) inside."""

    bundled: Any
    guidance: float

    @property
    def name(self) -> str:
        """Model and guidance scale."""
        return f"{self.bundled.name}, guidance {self.guidance:g}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bundled, name)

    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """``u + g (c - u)`` with and without the class."""
        nothing = torch.full_like(labels, self.bundled.num_classes)
        output = self.bundled.predict(torch.cat([sample, sample]), timestep, torch.cat([labels, nothing]))
        with_class, without = output.chunk(2)
        guided: torch.Tensor = without + self.guidance * (with_class - without)
        return guided


def fitted_walk(found: Calibration, nodes: NoiseGrid, calls: int) -> Walk:
    """The walk that a calibration holds, on the grid it was fitted on."""
    entry = found.entries[str(calls)]
    rows = tuple(Row(sample=row["sample"], history=tuple(row["history"]), order=1) for row in entry["rows"])
    steps = tuple(entry["compute_steps"])
    return Walk(label="fitted", nodes=nodes, steps=steps, quantity=entry["cache_quantity"], rows=rows)


def excess(walk: Walk) -> torch.Tensor:
    """What a fit added to the rows of theory at its places, (calls, 1 + 6)."""
    return row_changes(walk.rows, theory_walk(walk.nodes, walk.steps, walk.quantity).rows, _DEPTH)


def with_excess(nodes: NoiseGrid, steps: Sequence[int], added: torch.Tensor, quantity: str) -> Walk:
    """Rows of theory at ``steps`` and ``added`` to them; outputs that are not there yet get nothing."""
    theory = theory_walk(nodes, steps, quantity)
    rows = [shifted(row, added[call, : 2 + min(call, _DEPTH - 1)]) for call, row in enumerate(theory.rows)]
    return Walk(label="transferred", nodes=nodes, steps=tuple(steps), quantity=quantity, rows=tuple(rows))


def between(low: Walk, high: Walk, nodes: NoiseGrid, calls: int) -> Walk:
    """Places and excess for ``calls`` calls, linearly between two walks, along ``u = j/n`` in each of them."""
    share = (calls - len(low.steps)) / (len(high.steps) - len(low.steps))
    wanted = torch.arange(calls, dtype=torch.float64) / calls
    places, added = torch.zeros(calls, dtype=torch.float64), torch.zeros(calls, 1 + _DEPTH, dtype=torch.float64)
    for weight, walk in ((1 - share, low), (share, high)):
        ends = torch.tensor([*walk.steps, walk.nodes.count], dtype=torch.float64) / walk.nodes.count
        own = excess(walk)
        places += weight * _interpolated(wanted, ends[:, None])[:, 0]
        added += weight * _interpolated(wanted, torch.cat([own, own[-1:]]))
    steps = [0]
    for place in places[1:].tolist():
        steps.append(max(round(place * nodes.count), steps[-1] + 1))
    return with_excess(nodes, steps, added, low.quantity)


def _interpolated(at: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values`` (n + 1, columns), which belong to ``0, 1/n, … 1``, linearly at ``at``."""
    position = at * (len(values) - 1)
    left = position.floor().long().clamp(max=len(values) - 2)
    share = (position - left)[:, None]
    return (1 - share) * values[left] + share * values[left + 1]


def transplanted(walk: Walk, nodes: NoiseGrid) -> Walk:
    """The walk on the grid of another model: its angles, and what its fit added to theory there."""
    angles = torch.tensor(nodes.angles[:-1], dtype=torch.float64)
    steps = [int((angles - walk.nodes.angles[i]).abs().argmin()) for i in walk.steps]
    if not all(a < b for a, b in pairwise(steps)):
        raise ValueError("the other model's grid is too coarse at these angles")
    return at_places(walk, nodes, steps)


def base_nodes(model: Any, calls: int) -> NoiseGrid:
    """The grid that a calibration of a bundled model stands on."""
    noise = torch.zeros(1, *model.sample_shape)
    runs = FunctionRuns(lambda sample, timestep: sample, noise, model.scheduler.config, 1, lambda: None)
    return runs.base_nodes(calls)


def transfer(
    *,
    models: Sequence[str],
    calls: int,
    guidance: float,
    trajectories: int,
    sets: int,
    samples: int,
    out: Path,
) -> str:
    """Fit what `out/calibrations` lacks, and compare; the table is returned and written to `out/transfer.md`.

    Args:
        models: bundled models; of two on the same path, each is sampled with the rows of the other, too.
        calls: number of model calls, at least 5.
        guidance: the other guidance scale beside 1.
        trajectories: of the fits, held-back ones included.
        sets: seed sets of the test.
        samples: trajectories per seed set.
        out: folder of the results.
    """
    if calls < 3 + _APART:
        raise ValueError(
            f"--calls must be at least {3 + _APART}, received {calls}: rows for {calls - _APART} are fitted."
        )
    rows = []
    for name in models:
        plain = load(name)
        for subject in (plain, Guided(bundled=plain, guidance=guidance)):
            trial, _ = prepare(subject, sets, samples, out / "references")
            placed = measure(trial, placed_competitor(subject.scheduler), calls, {})
            sides = _sides(subject, plain, models, calls, trajectories, guidance, out / "calibrations")
            entries = [(label, measure(trial, side, calls, {})) for label, side in sides]
            rows += [_row(label, entry, entries[0][1], placed) for label, entry in entries]
            rows.append(_row("placed calls, nothing fitted", placed, entries[0][1], placed))
    text = markdown_table(_HEADERS, rows, left=2)
    (out / "transfer.md").write_text(text + "\n", encoding="utf-8")
    return f"{calls} calls, mean ± standard deviation over {sets} sets of {samples}.\n\n{text}"


def _sides(
    subject: Any, plain: Any, models: Sequence[str], calls: int, trajectories: int, guidance: float, folder: Path
) -> Iterator[tuple[str, Competitor]]:
    """What is compared on one subject, its own calibration first."""

    def fit(model: Any, number: int = trajectories, count: int = calls) -> Calibration:
        return calibrated_once(model, number, count, folder)[0]

    def moved(walk: Walk) -> Competitor:
        whole = {**fit(plain).entries[str(calls)], **walk.entry()}
        return calibrated_competitor(Calibration(entries={str(calls): whole}, report={}), plain)

    yield f"itself, {trajectories} trajectories", calibrated_competitor(fit(subject), subject)
    if subject is not plain:
        yield "guidance 1", calibrated_competitor(fit(plain), plain)
        return
    for number in (number for number in _FEWER if number < trajectories):
        yield f"itself, {number} trajectories", calibrated_competitor(fit(plain, number), plain)
    guided = Guided(bundled=plain, guidance=guidance)
    yield f"guidance {guidance:g}", calibrated_competitor(fit(guided), plain)
    low, high = (fitted_walk(fit(plain, count=n), base_nodes(plain, n), n) for n in (calls - _APART, calls + _APART))
    if low.quantity == high.quantity:
        walk = between(low, high, base_nodes(plain, calls), calls)
        yield f"itself at {calls - _APART} and {calls + _APART} calls", moved(walk)
    for name in models:
        other = load(name)
        if name != plain.name and base_nodes(other, calls).flow == base_nodes(plain, calls).flow:
            walk = fitted_walk(fit(other), base_nodes(other, calls), calls)
            yield name, moved(transplanted(walk, base_nodes(plain, calls)))


def _row(label: str, entry: Entry, own: Entry, placed: Entry) -> list[str]:
    return [
        entry.subject,
        label,
        f"{entry.error:.4f} ± {entry.spread:.4f}",
        f"{entry.error / own.error:.2f}",
        f"{entry.error / placed.error:.2f}",
    ]
