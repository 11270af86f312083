"""Fréchet distances of `bench calibration`: best stock solver, placed and calibrated calls on the same noises.

A model has a distance of its own to the training images, which a run of many calls shows. So the same stock solver is
measured with `CONVERGED_CALLS` as well, and every side's distance to those samples beside that to the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ab_schedulers.bench.environment import environment, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import Contender
from ab_schedulers.bench.quality import Score, Statistics, Task, earlier_scores, measure, side_fingerprint, summary
from ab_schedulers.bench.tables import markdown_table
from ab_schedulers.models import load_classifier

CONVERGED_CALLS = 100
_FIRST_SEED = 80_000
_HEADERS = (
    *("model", "method", "calls", "sets", "Fréchet", "minus stock", "std. error", "percent", "accuracy"),
    "to converged",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """A bundled model at one number of calls: the contenders, the best stock solver first, and it with many calls."""

    model: Any
    sides: Sequence[Contender]
    converged: Contender

    def tasks(self, seed: int) -> list[Task]:
        """What is measured on one seed set, the converged samples first."""
        many = replace(self.converged, label=f"{self.converged.label}, {self.converged.num_inference_steps} calls")
        return [
            Task(subject=self.model, contender=side, seed=seed, fingerprint=_mark(self.model, side))
            for side in (many, *self.sides)
        ]


def paired_quality(cells: Sequence[Cell], *, sets: int, samples: int, out: Path) -> str:
    """Measure what `out/calibration_quality.json` lacks, and return the table, which is written beside it.

    Args:
        cells: models and contenders; labels differ within a cell.
        sets: seed sets, the same for all contenders, so that differences are paired.
        samples: samples per set.
        out: folder of the results; statistics of the converged samples are kept in its folder `converged`.

    Raises:
        ValueError: results in `out` that belong to another number of samples.
    """
    path, settings = out / "calibration_quality.json", {"samples": samples}
    scores = earlier_scores(path, settings)
    classifier = load_classifier()
    groups = [[cell.tasks(seed) for seed in range(_FIRST_SEED, _FIRST_SEED + sets)] for cell in cells]
    missing = {task.key: task for cell in groups for tasks in cell for task in tasks if task.key not in scores}
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    total = sum(task.contender.num_inference_steps for task in missing.values()) * -(-samples // 100)
    with tqdm(total=total, unit="call", desc="Fréchet", dynamic_ncols=True) as progress:

        def score(task: Task, converged: Statistics | None) -> Statistics:
            found, statistics = measure(
                task, samples=samples, classifier=classifier, progress=progress, converged=converged
            )
            scores[task.key] = found
            known = [asdict(one) for one in scores.values()]
            write_json(path, {"settings": settings, "environment": environment(), "scores": known})
            return statistics

        for many, *sides in (tasks for cell in groups for tasks in cell):
            kept = out / "converged" / f"{many.subject.name}_{many.seed}_{many.fingerprint}.npz"
            if many.key not in scores or not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                mean, covariance = score(many, None)
                np.savez(kept, mean=mean, covariance=covariance)
            for task in sides:
                if task.key not in scores:
                    with np.load(kept) as stored:
                        score(task, (stored["mean"], stored["covariance"]))
    text = markdown_table(_HEADERS, [row for cell in groups for row in _rows(cell, scores)], left=2)
    (out / "calibration_quality.md").write_text(text + "\n", encoding="utf-8")
    return f"Sets of {samples} samples, differences paired by set.\n\n{text}"


def _rows(cell: Sequence[Sequence[Task]], scores: dict[Any, Score]) -> list[list[str]]:
    """The rows of a cell: the best stock solver, its rivals, and last the solver with many calls."""
    found = [scores[task.key] for many, *sides in cell for task in (*sides, many)]
    rows = []
    for row in summary(found):
        distances = [one.to_converged for one in found if one.method == row[1] and one.to_converged is not None]
        rows.append([*row, f"{sum(distances) / len(distances):.3f}" if distances else ""])
    return rows


def _mark(model: Any, side: Contender) -> str:
    return f"{side_fingerprint(model, side)}_{side.num_inference_steps}"
