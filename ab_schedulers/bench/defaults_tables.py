"""Tables of `ab-schedulers bench defaults`: errors per subject, and the ranking over all subjects of a base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ab_schedulers.bench.tables import markdown_table

EQUAL_CALLS = "base at equal calls"
FIXED = (EQUAL_CALLS, "plain reuse", "hold", "defaults", "defaults, warm-up 1", "defaults, warm-up 2")
_BARS = (EQUAL_CALLS, "plain reuse")
_SHOWN = 12
_ROUNDING = 1e-4


class Measured(Protocol):
    """What the tables read of an entry."""

    @property
    def subject(self) -> str:
        """Name of the subject."""

    @property
    def base(self) -> str:
        """Name of the base sampler."""

    @property
    def label(self) -> str:
        """Name of the method."""

    @property
    def calls(self) -> int:
        """Number of model calls."""

    @property
    def rmse_converged(self) -> float | None:
        """Error to the converged trajectory."""

    @property
    def rmse_base(self) -> float | None:
        """Error to the base on the same grid."""


Errors = dict[str, dict[tuple[str, int], float]]


def report(entries: Sequence[Measured], references: Mapping[str, Any]) -> str:
    """Markdown of all tables."""
    parts = ["# Errors by quantity, variable, order and corrector"]
    for base in dict.fromkeys(entry.base for entry in entries):
        of_base = [entry for entry in entries if entry.base == base]
        parts.append(f"## Base `{base}`, all subjects\n\n{_ranking(of_base)}")
        for subject in dict.fromkeys(entry.subject for entry in of_base):
            of_subject = [entry for entry in of_base if entry.subject == subject]
            note = references[subject]
            head = f"### `{subject}` with base `{base}`"
            source = (
                f"{note['samples']} trajectories; converged trajectory: {note['method']}, "
                f"halving error {note['halving_error']:.1e}."
            )
            parts.append(
                f"{head}\n\n{source}\n\nRMSE to the converged trajectory\n\n{_errors(of_subject, 'rmse_converged')}"
            )
            parts.append(f"RMSE to the base on the same grid\n\n{_errors(of_subject, 'rmse_base')}")
    return "\n\n".join(parts)


def _collect(entries: Sequence[Measured], attribute: str) -> Errors:
    errors: Errors = {}
    for entry in entries:
        value = getattr(entry, attribute)
        errors.setdefault(entry.label, {})
        if value is not None:
            errors[entry.label][(entry.subject, entry.calls)] = value if math.isfinite(value) else math.inf
    return errors


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(value, 1e-300)) for value in values) / len(values))


def _ordered(errors: Errors, score: Mapping[str, float]) -> list[str]:
    combinations = sorted((label for label in errors if label not in FIXED), key=lambda label: score[label])
    return [label for label in FIXED if label in errors] + combinations[:_SHOWN]


def _errors(entries: Sequence[Measured], attribute: str) -> str:
    errors = _collect(entries, attribute)
    cells = list(dict.fromkeys((entry.subject, entry.calls) for entry in entries))
    score = {
        label: _geometric_mean(list(of_label.values())) if len(of_label) == len(cells) else math.inf
        for label, of_label in errors.items()
    }
    rows = [
        [label, *[_number(errors[label].get(cell)) for cell in cells], _number(score[label])]
        for label in _ordered(errors, score)
    ]
    return markdown_table(["method", *[f"{calls} calls" for _, calls in cells], "geometric mean"], rows)


def _ranking(entries: Sequence[Measured]) -> str:
    """Error relative to the better of plain reuse and the base at equal calls: geometric mean and worst case."""
    errors = _collect(entries, "rmse_converged")
    cells = list(dict.fromkeys((entry.subject, entry.calls) for entry in entries))
    bar = {cell: min(errors[label][cell] for label in _BARS) for cell in cells}
    ratios = {
        label: [of_label[cell] / bar[cell] for cell in cells] if len(of_label) == len(cells) else [math.inf]
        for label, of_label in errors.items()
    }
    score = {label: _geometric_mean(values) for label, values in ratios.items()}
    rows = []
    for label in _ordered(errors, score):
        values = ratios[label]
        subjects = dict.fromkeys(subject for subject, _ in cells)
        per_subject = [
            _geometric_mean([value for value, cell in zip(values, cells, strict=False) if cell[0] == subject])
            for subject in subjects
        ]
        worse = sum(value > 1.0 + _ROUNDING for value in values)
        rows.append([label, *[f"{value:.3f}" for value in (*per_subject, score[label], max(values))], str(worse)])
    headers = ["method", *dict.fromkeys(subject for subject, _ in cells), "all", "worst", "times worse"]
    note = "Error over that of the better of plain reuse and the base at equal calls; `worst` is the largest ratio."
    return f"{note}\n\n{markdown_table(headers, rows)}"


def _number(value: float | None) -> str:
    return "refused" if value is None or value == math.inf else f"{value:.4f}"
