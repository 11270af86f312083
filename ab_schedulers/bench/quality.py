"""`ab-schedulers bench quality`: paired Fréchet distances of the base, the defaults and plain reuse.

One Fréchet distance scatters by several percent with its noises, so both sides get the same noises and labels, the
difference is taken set by set, and its mean is printed with its standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ab_schedulers.bench.environment import environment, fingerprint, read_json, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import DEFAULTS, REUSE, Contender, base, cached
from ab_schedulers.bench.metrics import FloatArray, feature_statistics, frechet_distance, paired_difference
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.tables import markdown_table, text_table
from ab_schedulers.models import load, load_classifier, reference_statistics

_BATCH = 100
_FIRST_SEED = 10_000
Key = tuple[str, str, int, str]
Statistics = tuple[FloatArray, FloatArray]
_HEADERS = ("model", "method", "calls", "sets", "Fréchet", "minus base", "std. error", "percent", "accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One contender on one seed set of one model; `fingerprint` is that of the weights and the scheduler's config.

    `to_converged` is the Fréchet distance to samples that took many calls from the same noise, where that was measured.
    """

    model: str
    method: str
    seed: int
    fingerprint: str
    model_calls: int
    frechet: float
    accuracy: float
    to_converged: float | None = None

    @property
    def key(self) -> Key:
        """What identifies the measurement."""
        return (self.model, self.method, self.seed, self.fingerprint)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A contender and a seed set that still have to be measured."""

    subject: Any
    contender: Contender
    seed: int
    fingerprint: str

    @property
    def key(self) -> Key:
        """What identifies the measurement."""
        return (self.subject.name, self.contender.label, self.seed, self.fingerprint)


def measure(
    task: Task, *, samples: int, classifier: Any, progress: Any, converged: Statistics | None = None
) -> tuple[Score, Statistics]:
    """Fréchet distance to the training images and class accuracy on the noises of the task's seed; the statistics.

    Args:
        task: what is measured.
        samples: how many.
        classifier: gives features and classes.
        progress: bar that counts model calls.
        converged: statistics of converged samples, for `Score.to_converged`.
    """
    noise, labels = seeded_noise(task.subject, samples, task.seed)
    features, hits, model_calls = [], 0, 0
    for batch_noise, batch_labels in zip(noise.split(_BATCH), labels.split(_BATCH), strict=True):
        run = sample(
            task.subject,
            task.contender.scheduler,
            task.contender.num_inference_steps,
            batch_noise,
            batch_labels,
            on_call=progress.update,
        )
        model_calls = run.model_calls
        with torch.inference_mode():
            features.append(classifier.features(run.images))
            hits += int((classifier(run.images).argmax(dim=1) == batch_labels).sum())
    statistics = feature_statistics(torch.cat(features))
    score = Score(
        model=task.subject.name,
        method=task.contender.label,
        seed=task.seed,
        fingerprint=task.fingerprint,
        model_calls=model_calls,
        frechet=frechet_distance(*statistics, *reference_statistics()),
        accuracy=hits / samples,
        to_converged=None if converged is None else frechet_distance(*statistics, *converged),
    )
    return score, statistics


def summary(scores: Sequence[Score]) -> list[list[str]]:
    """Rows of the table: every method of every model, with its difference to the first method, paired by seed."""
    rows = []
    for model in dict.fromkeys(score.model for score in scores):
        by_method: dict[str, dict[int, Score]] = {}
        for score in scores:
            if score.model == model:
                by_method.setdefault(score.method, {})[score.seed] = score
        first = next(iter(by_method.values()))
        for method, by_seed in by_method.items():
            seeds = sorted(set(by_seed) & set(first))
            reference = None if by_seed is first else [first[seed] for seed in seeds]
            rows.append([model, method, *_numbers([by_seed[seed] for seed in seeds], reference)])
    return rows


def _numbers(scores: Sequence[Score], reference: Sequence[Score] | None) -> list[str]:
    count = len(scores)
    accuracy = f"{100 * sum(score.accuracy for score in scores) / count:.1f} %"
    distances = [score.frechet for score in scores]
    cells = [str(scores[0].model_calls), str(count), f"{sum(distances) / count:.3f}"]
    if reference is None:
        return [*cells, "", "", "", accuracy]
    reference_distances = [score.frechet for score in reference]
    difference = paired_difference(distances, reference_distances)
    percent = 100 * difference.mean * count / sum(reference_distances)
    return [*cells, f"{difference.mean:+.3f}", f"{difference.standard_error:.3f}", f"{percent:+.1f} %", accuracy]


def quality(
    *, models: Sequence[str], seed_sets: int, samples: int, calls: int = 17, interval: int = 3, out: Path
) -> str:
    """Measure what is missing in `out/quality_MODEL.json`, and return the table as text.

    A result counts as missing when weights or scheduler options have changed since it was written.

    Args:
        models: names of bundled models.
        seed_sets: number of sets of noises, at least 2 for a standard error.
        samples: samples per set.
        calls: model calls of the cached methods.
        interval: base steps per call; the base takes `calls * interval` steps.
        out: folder of `quality_MODEL.json` (read to resume, written after every set) and `quality.md`.

    Raises:
        ValueError: results in `out` that belong to another number of samples or calls.
    """
    settings = {"samples": samples, "calls": calls, "interval": interval}
    tasks = _tasks(models, seed_sets, calls, interval)
    scores = {model: earlier_scores(_path(out, model), settings) for model in models}
    missing = [task for task in tasks if task.key not in scores[task.subject.name]]
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    classifier = load_classifier()
    total = sum(task.contender.num_inference_steps for task in missing) * -(-samples // _BATCH)
    with tqdm(total=total, unit="call", desc="quality", dynamic_ncols=True) as progress:
        for task in missing:
            model = task.subject.name
            progress.set_postfix_str(f"{model}, {task.contender.label}, seed {task.seed}", refresh=False)
            scores[model][task.key], _ = measure(task, samples=samples, classifier=classifier, progress=progress)
            entries = [asdict(score) for score in scores[model].values()]
            content = {"settings": settings, "environment": environment(), "scores": entries}
            write_json(_path(out, model), content)
    rows = summary([scores[task.subject.name][task.key] for task in tasks])
    (out / "quality.md").write_text(markdown_table(_HEADERS, rows, left=2) + "\n", encoding="utf-8")
    legend = f"Sets of {samples} samples, 64 classifier features, against the training images."
    return f"{text_table(_HEADERS, rows, left=2)}\n\n{legend}\nResults: {out}/"


def _path(out: Path, model: str) -> Path:
    return out / f"quality_{model}.json"


def _tasks(models: Sequence[str], seed_sets: int, calls: int, interval: int) -> list[Task]:
    """Seed sets outermost, so that an interrupted run has whole pairs; plain reuse, which decides nothing, last."""
    pairs, reuses = [], []
    for model in models:
        subject = load(model)
        stock = subject.scheduler
        sides = [base(stock, calls * interval), *[cached(stock, m, calls, interval) for m in (DEFAULTS, REUSE)]]
        marked = [(subject, side, side_fingerprint(subject, side)) for side in sides]
        pairs += marked[:2]
        reuses += marked[2:]
    seeds = range(_FIRST_SEED, _FIRST_SEED + seed_sets)
    return [
        Task(subject=subject, contender=contender, seed=seed, fingerprint=mark)
        for group in (pairs, reuses)
        for seed in seeds
        for subject, contender, mark in group
    ]


def side_fingerprint(subject: Any, contender: Contender) -> str:
    """What identifies weights, scheduler and its options."""
    options = {key: value for key, value in contender.scheduler.config.items() if not key.startswith("_")}
    return fingerprint(subject.model, options)


def earlier_scores(path: Path, settings: dict[str, int]) -> dict[Key, Score]:
    """Scores found in `path`; a `ValueError` where they belong to other settings."""
    earlier = read_json(path)
    if earlier is None:
        return {}
    if earlier.get("settings") != settings:
        raise ValueError(
            f"{path} holds results of {earlier.get('settings')}, this run asks for {settings}; choose another --out"
        )
    scores = [Score(**entry) for entry in earlier["scores"]]
    return {score.key: score for score in scores}
