"""`ab-schedulers bench ablation`: EB-Cache taken apart on the noise-predicting DiT: table, scaling, both, and reuse.

Every arm walks the same noises, labels and injected noises as the baseline, batch by batch in turn, so differences of
Fréchet distances are paired by seed set and times are ratios within one batch. What was explored, built or fitted had
seeds of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from ab_schedulers.bench.ablation_arms import (
    MODEL,
    SAMPLERS,
    STEPS,
    Arm,
    built_arms,
    chosen_arms,
    explored_arms,
    stock_scheduler,
)
from ab_schedulers.bench.environment import environment, fingerprint, read_json, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.metrics import feature_statistics, frechet_distance, paired_difference
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.tables import markdown_table, text_table
from ab_schedulers.caching import EBTable
from ab_schedulers.models import load, load_classifier, reference_statistics

GROUPS = ("chosen", "built", "explored")
_FIRST_SEED, _EXPLORED_SEED = 30_000, 70_000
_HEADERS = (
    "sampler",
    "arm",
    "attention",
    "MLP",
    "sets",
    "Fréchet",
    "minus baseline",
    "std. error",
    "percent",
    "accuracy",
    "speed-up",
    "quartiles",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore:
    """One arm on one seed set; `seconds` of processor time are those of its batches."""

    sampler: str
    arm: str
    seed: int
    frechet: float
    accuracy: float
    seconds: list[float] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Progress:
    """What a seed set has so far, per arm; kept in a file beside the results after every batch."""

    features: list[list[torch.Tensor]]
    hits: list[int]
    seconds: list[list[float]]

    @classmethod
    def read(cls, path: Path, key: str, arms: int) -> _Progress:
        """The batches found in `path` under `key`, or none."""
        if path.exists():
            content = torch.load(path, weights_only=True)
            if content.pop("key") == key:
                return cls(**content)
        return cls(features=[[] for _ in range(arms)], hits=[0] * arms, seconds=[[] for _ in range(arms)])

    def write(self, path: Path, key: str) -> None:
        beside = path.with_suffix(".writing")
        torch.save({"key": key, "features": self.features, "hits": self.hits, "seconds": self.seconds}, beside)
        beside.replace(path)


def measure(
    sampler: str,
    arms: Sequence[Arm],
    seed: int,
    *,
    samples: int,
    batch: int,
    kept: Path,
    progress: Callable[[], object],
) -> list[ArmScore]:
    """All arms on one seed set, in turn within each batch; finished batches are kept in the file `kept`."""
    subject, classifier = load(MODEL), load_classifier()
    scheduler = stock_scheduler(subject, sampler)
    noise, labels = seeded_noise(subject, samples, seed)
    key = fingerprint(subject.model, sampler, seed, samples, batch, [asdict(arm) for arm in arms])
    found = _Progress.read(kept, key, len(arms))
    batches = list(zip(noise.split(batch), labels.split(batch), strict=True))
    for number, (part, classes) in list(enumerate(batches))[len(found.seconds[-1]) :]:
        for i, arm in enumerate(arms):
            generator = torch.Generator().manual_seed(seed * 1000 + number)
            with arm.applied(subject.model, scheduler):
                started = time.process_time()
                run = sample(subject, scheduler, STEPS, part, classes, on_call=progress, generator=generator)
                found.seconds[i].append(time.process_time() - started)
            with torch.inference_mode():
                found.features[i].append(classifier.features(run.images))
                found.hits[i] += int((classifier(run.images).argmax(dim=1) == classes).sum())
        found.write(kept, key)
    scores = [
        ArmScore(
            sampler=sampler,
            arm=arm.label,
            seed=seed,
            frechet=frechet_distance(*feature_statistics(torch.cat(found.features[i])), *reference_statistics()),
            accuracy=found.hits[i] / samples,
            seconds=found.seconds[i],
        )
        for i, arm in enumerate(arms)
    ]
    kept.unlink()
    return scores


def summary(sampler: str, arms: Sequence[Arm], scores: Sequence[ArmScore]) -> list[list[str]]:
    """Table rows of a sampler: differences to the baseline paired by seed set, speed-up paired by batch."""
    cells = []
    first = {score.seed: score for score in scores if score.arm == arms[0].label}
    for arm in arms:
        own = [score for score in scores if score.arm == arm.label]
        base = [first[score.seed] for score in own]
        distances, reference = [s.frechet for s in own], [s.frechet for s in base]
        difference = paired_difference(distances, reference)
        ratios = [a / b for s, t in zip(own, base, strict=True) for a, b in zip(t.seconds, s.seconds, strict=True)]
        lower, middle, upper = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        counts = [str(STEPS if arm.table is None else arm.table.computed(kind)) for kind in ("attention", "mlp")]
        cells.append(
            [
                sampler,
                arm.label,
                *counts,
                str(len(own)),
                f"{sum(distances) / len(own):.3f}",
                "" if arm is arms[0] else f"{difference.mean:+.3f}",
                "" if arm is arms[0] else f"{difference.standard_error:.3f}",
                "" if arm is arms[0] else f"{100 * difference.mean * len(own) / sum(reference):+.1f} %",
                f"{100 * sum(s.accuracy for s in own) / len(own):.1f} %",
                f"{middle:.2f}",
                f"{lower:.2f} to {upper:.2f}",
            ]
        )
    return cells


def ablation(
    *,
    samplers: Sequence[str],
    seed_sets: int,
    samples: int,
    batch: int = 100,
    group: str = "chosen",
    only: Sequence[str] = (),
    speedup: float = 1.6,
    data: Path,
    out: Path,
) -> str:
    """Measure what is missing in `out/ablation_SAMPLER_GROUP.json`, and return the table as text.

    Args:
        samplers: some of `SAMPLERS`.
        seed_sets: number of seed sets.
        samples: samples per set.
        batch: samples per batch.
        group: which arms, one of `GROUPS`; the explored ones run on seeds that the others do not see.
        only: labels of the arms of the group to run beside the baseline; all where it is empty.
        speedup: the ideal speed-up that tables are built for; what is measured is less by the overhead.
        data: folder of Fashion-MNIST, for the fit of scalings.
        out: folder of the results; arms and finished batches found there are kept.

    Raises:
        ValueError: an unknown sampler, group or arm, or results in `out` that belong to other settings or weights.
    """
    unknown = sorted(set(samplers) - set(SAMPLERS))
    if unknown:
        raise ValueError(f"--samplers knows {', '.join(SAMPLERS)}; received {', '.join(unknown)}")
    if group not in GROUPS:
        raise ValueError(f"--arms knows {', '.join(GROUPS)}; received {group}")
    settings = {
        "samples": samples,
        "batch": batch,
        "only": list(only),
        "speedup": speedup,
        "weights": fingerprint(load(MODEL).model),
    }
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    cells = []
    for sampler in samplers:
        path = out / f"ablation_{sampler}_{group}.json"
        with tqdm(unit="call", desc=f"ablation, {sampler}", dynamic_ncols=True) as progress:
            arms, scores = _earlier(path, settings)
            if not arms:
                arms = _selected(prepare(group, sampler, speedup, data, progress.update), only)
                _save(path, settings, arms, scores)
            done = {score.seed for score in scores}
            first = _EXPLORED_SEED if group == "explored" else _FIRST_SEED
            seeds = range(first, first + seed_sets)
            missing = [seed for seed in seeds if seed not in done]
            progress.reset(total=len(missing) * len(arms) * STEPS * -(-samples // batch))
            for seed in missing:
                kept = path.with_suffix(f".{seed}.pt")
                scores += measure(
                    sampler, arms, seed, samples=samples, batch=batch, kept=kept, progress=progress.update
                )
                _save(path, settings, arms, scores)
        cells += summary(sampler, arms, [score for score in scores if score.seed in seeds])
    (out / f"ablation_{group}.md").write_text(markdown_table(_HEADERS, cells, left=2) + "\n", encoding="utf-8")
    legend = (
        f"Sets of {samples} samples, {STEPS} steps; steps at which attention and MLP are computed; Fréchet distance in "
        "64 classifier features to the training images; speed-up of the loop in processor time, median and quartiles "
        "over batches."
    )
    return f"{text_table(_HEADERS, cells, left=2)}\n\n{legend}\nResults: {out}/"


def prepare(group: str, sampler: str, speedup: float, data: Path, progress: Callable[[], object]) -> list[Arm]:
    """The arms of a group, the baseline first."""
    if group == "explored":
        return explored_arms(sampler)
    if group == "chosen":
        return chosen_arms(sampler)
    return [Arm(label="baseline"), *built_arms(sampler, speedup, data, progress)]


def _selected(arms: Sequence[Arm], only: Sequence[str]) -> list[Arm]:
    """The baseline and the arms that are asked for."""
    labels = [arm.label for arm in arms]
    unknown = sorted(set(only) - set(labels))
    if unknown:
        raise ValueError(f"--only knows {', '.join(labels)}; received {', '.join(unknown)}")
    return [arm for arm in arms if not only or arm is arms[0] or arm.label in only]


def _save(path: Path, settings: dict[str, Any], arms: Sequence[Arm], scores: Sequence[ArmScore]) -> None:
    content = {"settings": settings, "environment": environment(), "arms": [asdict(arm) for arm in arms]}
    write_json(path, {**content, "scores": [asdict(score) for score in scores]})


def _earlier(path: Path, settings: dict[str, Any]) -> tuple[list[Arm], list[ArmScore]]:
    earlier = read_json(path)
    if earlier is None:
        return [], []
    if earlier.get("settings") != settings:
        raise ValueError(
            f"{path} holds results of {earlier.get('settings')}, this run asks for {settings}; choose another --out"
        )
    arms = [
        Arm(**{**entry, "table": None if entry["table"] is None else EBTable(**entry["table"])})
        for entry in earlier["arms"]
    ]
    return arms, [ArmScore(**entry) for entry in earlier["scores"]]
