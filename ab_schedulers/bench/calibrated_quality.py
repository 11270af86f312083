"""Fréchet distances of `bench calibration`: best stock solver, placed and calibrated calls on the same noises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ab_schedulers.bench.environment import environment, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import Contender
from ab_schedulers.bench.quality import Task, earlier_scores, measure, side_fingerprint, summary
from ab_schedulers.bench.tables import markdown_table
from ab_schedulers.models import load_classifier

_FIRST_SEED = 80_000
_HEADERS = ("model", "method", "calls", "sets", "Fréchet", "minus stock", "std. error", "percent", "accuracy")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """A bundled model at one number of calls, and the contenders there, the best stock solver first."""

    model: Any
    sides: Sequence[Contender]


def paired_quality(cells: Sequence[Cell], *, sets: int, samples: int, out: Path) -> str:
    """Measure what `out/calibration_quality.json` lacks, and return the table, which is written beside it.

    Args:
        cells: models and contenders; labels differ within a cell.
        sets: seed sets, the same for all contenders, so that differences are paired.
        samples: samples per set.
        out: folder of the results.

    Raises:
        ValueError: results in `out` that belong to another number of samples.
    """
    path, settings = out / "calibration_quality.json", {"samples": samples}
    scores = earlier_scores(path, settings)
    classifier = load_classifier()
    tasks = [
        [
            Task(subject=cell.model, contender=side, seed=seed, fingerprint=_mark(cell.model, side))
            for side in cell.sides
            for seed in range(_FIRST_SEED, _FIRST_SEED + sets)
        ]
        for cell in cells
    ]
    missing = [task for cell in tasks for task in cell if task.key not in scores]
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    total = sum(task.contender.num_inference_steps for task in missing) * -(-samples // 100)
    with tqdm(total=total, unit="call", desc="Fréchet", dynamic_ncols=True) as progress:
        for task in missing:
            scores[task.key] = measure(task, samples=samples, classifier=classifier, progress=progress)
            found = [asdict(score) for score in scores.values()]
            write_json(path, {"settings": settings, "environment": environment(), "scores": found})
    rows = [row for cell in tasks for row in summary([scores[task.key] for task in cell])]
    text = markdown_table(_HEADERS, rows, left=2)
    (out / "calibration_quality.md").write_text(text + "\n", encoding="utf-8")
    return f"Sets of {samples} samples, differences paired by set.\n\n{text}"


def _mark(model: Any, side: Contender) -> str:
    return f"{side_fingerprint(model, side)}_{side.num_inference_steps}"
