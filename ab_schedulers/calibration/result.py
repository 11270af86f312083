"""What a calibration found, and its JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ab_schedulers.schedulers import ABCacheScheduler
from ab_schedulers.schedulers.calibrations import parse_calibrations

_FORMAT = "ab_schedulers calibration 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Fitted rows and plans, keyed by the number of model calls.

    Theory: docs/theory/10-fitted-rows.md.

    Args:
        entries: What the scheduler option ``calibrations`` takes.
        report: How it was found: model, guidance, trajectories, model calls, versions, and per number of calls the
            errors of every candidate on the trajectories of the fit, on those held back and on all.

    Raises:
        TypeError: If an entry is no dict.
        ValueError: If an entry is malformed.

    Examples:
        >>> calibration = Calibration(entries={}, report={})
        >>> calibration.entries
        {}
    """

    entries: Mapping[str, Any]
    report: Mapping[str, Any]

    def __post_init__(self) -> None:
        parse_calibrations(self.entries)

    def scheduler(self, config: Mapping[str, Any], **overrides: Any) -> ABCacheScheduler:
        """``ABCacheScheduler.from_config(config, calibrations=entries)``; earlier entries of the config stay.

        Raises:
            ValueError: If the config belongs to another prediction type or base than the fit.
        """
        merged = {**(config.get("calibrations") or {}), **self.entries}
        scheduler: ABCacheScheduler = ABCacheScheduler.from_config(config, calibrations=merged, **overrides)
        return scheduler

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "entries": self.entries, "report": self.report}
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is corrupted, or another kind of JSON.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {path}: expected a calibration that was saved before; calibrate first.")
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is not JSON ({error}); expected a saved calibration, so calibrate again."
            ) from error
        if (
            not isinstance(content, dict)
            or content.get("format") != _FORMAT
            or not {"entries", "report"} <= set(content)
        ):
            raise ValueError(
                f"{path} is no calibration: expected a JSON object with format {_FORMAT!r}, entries and report; pass "
                "the file that `Calibration.save` wrote."
            )
        return cls(entries=content["entries"], report=content["report"])

    def __str__(self) -> str:
        """One line per number of calls: errors on the trajectories held back."""
        lines = []
        for calls, found in self.report.get("errors", {}).items():
            start = min(each["held_back"] for each in found["candidates"] if each["start"])
            lines.append(
                f"{calls:>3} calls: mean RMSE {found['held_back']:.4f} on trajectories held back, {start:.4f} before "
                f"({found['chosen']})"
            )
        return "\n".join(lines)
