"""Results of `ab-schedulers bench solvers`: one entry per method and number of calls, in a file that is resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ab_schedulers.bench.environment import environment, read_json, write_json
from ab_schedulers.bench.processes import from_first, own_path, written_paths

STOCK, OWN = "stock", "own"
STOCK_PLACED = "stock, our places"
"""Stock solvers that are given the places of our calls: shown, and never the best stock setting."""
SEARCH_SEED = 39_000
FIRST_SEED = 40_000
_WRITE_EVERY = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One method at one number of calls.

    Attributes:
        calls: model calls that were allowed.
        model_calls: model calls that were made.
        errors: RMSE to the converged trajectory, one per seed set.
        first_timestep: where the run started.
        scheduler_ms: milliseconds per call outside the model, for the whole batch.
        model_ms: milliseconds per call in the model, for the whole batch.
        refused: why there is no result.
    """

    subject: str
    group: str
    solver: str
    setting: str
    calls: int
    fingerprint: str
    model_calls: int = 0
    errors: tuple[float, ...] = ()
    first_timestep: float = math.nan
    scheduler_ms: float = math.nan
    model_ms: float = math.nan
    refused: str = ""

    @property
    def key(self) -> tuple[str, str, str, str, int, str]:
        """What identifies the measurement."""
        return (self.subject, self.group, self.solver, self.setting, self.calls, self.fingerprint)

    @property
    def error(self) -> float:
        """Mean over the seed sets; infinite where there is no finite result."""
        mean = sum(self.errors) / len(self.errors) if self.errors else math.inf
        return mean if math.isfinite(mean) else math.inf

    @property
    def spread(self) -> float:
        """Standard deviation over the seed sets."""
        if len(self.errors) < 2:
            return math.nan
        return math.sqrt(sum((error - self.error) ** 2 for error in self.errors) / (len(self.errors) - 1))


def best(entries: Iterable[Entry], group: str = STOCK, count: int = 1) -> dict[tuple[str, int], list[Entry]]:
    """Per subject and number of calls, the `count` entries of `group` with the smallest mean errors, best first."""
    cells: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        if entry.group == group and math.isfinite(entry.error):
            cells.setdefault((entry.subject, entry.calls), []).append(entry)
    return {cell: sorted(found, key=lambda entry: entry.error)[:count] for cell, found in cells.items()}


@dataclass(slots=True, kw_only=True)
class Results:
    """What has been measured, in one JSON file, and in one more for each further process while it works."""

    path: Path
    entries: dict[Any, Entry] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=dict)
    written: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Results:
        """Earlier results, none where there is no file."""
        stored = from_first(lambda: [read_json(part) for part in written_paths(path)])
        entries = [Entry(**{**item, "errors": tuple(item["errors"])}) for part in stored for item in part["entries"]]
        references = {name: note for part in stored for name, note in part["references"].items()}
        return cls(path=path, entries={entry.key: entry for entry in entries}, references=references)

    def add(self, entry: Entry) -> None:
        """Keep `entry`, and write everything if the file is older than a few seconds."""
        self.entries[entry.key] = entry
        if time.monotonic() - self.written > _WRITE_EVERY:
            self._write(own_path(self.path))

    def merge(self, entries: Iterable[Entry]) -> None:
        """Keep the entries of all processes, write them in one file, and remove what the other processes wrote."""
        self.entries.update({entry.key: entry for entry in entries})

        def write() -> None:
            self._write(self.path)
            for part in written_paths(self.path):
                if part != self.path:
                    part.unlink()

        from_first(write)

    def _write(self, path: Path) -> None:
        """Write everything in one move."""
        self.written = time.monotonic()
        content = {
            "environment": environment(),
            "seeds": {"search": SEARCH_SEED, "first": FIRST_SEED},
            "references": self.references,
        }
        write_json(path, {**content, "entries": [asdict(entry) for entry in self.entries.values()]})


def finalists(entries: Iterable[Entry], count: int = 3) -> set[tuple[str, int, str, str]]:
    """Group, calls, solver and setting of what is measured in full: the `count` best stock entries, and all of ours.

    As many stock entries at our places of the calls are measured beside them.
    """
    listed = list(entries)
    chosen = [
        entry for group in (STOCK, STOCK_PLACED) for cell in best(listed, group, count).values() for entry in cell
    ]
    chosen += [entry for entry in listed if entry.group == OWN]
    return {(entry.group, entry.calls, entry.solver, entry.setting) for entry in chosen}
