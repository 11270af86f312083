"""`ab-schedulers bench ablation`: EB-Cache taken apart on the noise-predicting DiT: table, scaling, both, and reuse.

Every arm walks the same noises, labels and injected noises as the baseline, batch by batch in turn, so differences of
Fréchet distances are paired by seed set and wall clocks are ratios within one batch. Tables and scalings come from
seeds of their own.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from ab_schedulers.bench.environment import environment, fingerprint, read_json, write_json
from ab_schedulers.bench.exposure import clean_images
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.metrics import feature_statistics, frechet_distance, paired_difference
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.tables import markdown_table, text_table
from ab_schedulers.caching import (
    NAMED_TABLES,
    EBCacheConfig,
    EBTable,
    apply_eb_cache,
    apply_noise_scaling,
    build_eb_table,
    fit_noise_scaling,
    remove_cache,
    remove_noise_scaling,
)
from ab_schedulers.models import load, load_classifier, reference_statistics

SAMPLERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}
_MODEL, _STEPS = "dit-epsilon", 50
_FIRST_SEED, _BUILD_SEED, _FIT_SEED = 30_000, 29_000, 29_001
_FIT_SAMPLES, _BUILD_SAMPLES = 32, 16
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
class Arm:
    """A table (None computes everything) and a factor on the predicted noise (None leaves it alone)."""

    label: str
    table: EBTable | None = None
    noise_scaling: dict[str, Any] | None = None

    @contextmanager
    def applied(self, model: torch.nn.Module, scheduler: Any) -> Iterator[None]:
        """Model and scheduler with the arm's cache and scaling."""
        if self.table is not None:
            apply_eb_cache(model, EBCacheConfig(table=self.table))
        if self.noise_scaling is not None:
            apply_noise_scaling(scheduler, self.noise_scaling)
        try:
            yield
        finally:
            if self.noise_scaling is not None:
                remove_noise_scaling(scheduler)
            if self.table is not None:
                remove_cache(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore:
    """One arm on one seed set; `seconds` are those of its batches."""

    sampler: str
    arm: str
    seed: int
    frechet: float
    accuracy: float
    seconds: list[float] = field(default_factory=list)


def prepare(sampler: str, speedup: float, data: Path, progress: Callable[[], object]) -> list[Arm]:
    """The arms: tables built and scalings fitted for the sampler, on seeds that the comparison does not use."""
    subject = load(_MODEL)
    scheduler = _scheduler(subject, sampler)
    noise, labels = seeded_noise(subject, _BUILD_SAMPLES, _BUILD_SEED)

    def run(_: int) -> None:
        sample(subject, scheduler, _STEPS, noise, labels, on_call=progress)

    tables = {
        action: build_eb_table(
            subject.model, run, num_inference_steps=_STEPS, samples=1, target_speedup=speedup, action=action
        )
        for action in ("R", "E")
    }
    built = tables["R"]
    computed = (built.computed("attention") + built.computed("mlp")) / 2
    uniform = _uniform(round(computed))
    scalings = [_fit(sampler, table, data, progress) for table in (None, built, tables["E"])]
    return [
        Arm(label="baseline"),
        Arm(label="scaling only", noise_scaling=scalings[0]),
        Arm(label="built table", table=built),
        Arm(label="built table + scaling", table=built, noise_scaling=scalings[1]),
        Arm(label="extrapolating table", table=tables["E"]),
        Arm(label="extrapolating table + scaling", table=tables["E"], noise_scaling=scalings[2]),
        Arm(label="uniform reuse of both", table=uniform),
        Arm(label="released table", table=NAMED_TABLES["dit-ddpm-50"]),
    ]


def _uniform(computed: int) -> EBTable:
    """Reuse of attention and MLP alike, with `computed` steps spread evenly."""
    steps = {round(i * _STEPS / computed) for i in range(computed)}
    row = "".join("C" if step in steps else "R" for step in range(_STEPS))
    return EBTable(attention=row, mlp=row, provenance={"method": "uniform", "computed": computed})


def _scheduler(subject: Any, sampler: str) -> Any:
    return SAMPLERS[sampler].from_config(subject.scheduler.config)


def _fit(sampler: str, table: EBTable | None, data: Path, progress: Callable[[], object]) -> dict[str, Any]:
    bare = load(_MODEL)
    walked = replace(bare, model=copy.deepcopy(bare.model))
    noise, labels = seeded_noise(bare, _FIT_SAMPLES, _FIT_SEED)
    scheduler = _scheduler(bare, sampler)
    scheduler.set_timesteps(_STEPS)

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        progress()
        return walked.predict(x, t, labels)

    with Arm(label="fit", table=table).applied(walked.model, scheduler):
        fit = fit_noise_scaling(
            predict,
            scheduler,
            noise=noise,
            clean=clean_images(labels, data),
            forward_predict=None if table is None else lambda x, t: bare.predict(x, t, labels),
        )
    return fit.noise_scaling


def measure(
    sampler: str, arms: Sequence[Arm], seed: int, *, samples: int, batch: int, progress: Callable[[], object]
) -> list[ArmScore]:
    """All arms on one seed set, in turn within each batch."""
    subject, classifier = load(_MODEL), load_classifier()
    scheduler = _scheduler(subject, sampler)
    noise, labels = seeded_noise(subject, samples, seed)
    features: list[list[torch.Tensor]] = [[] for _ in arms]
    hits, seconds = [0] * len(arms), [list[float]() for _ in arms]
    batches = list(zip(noise.split(batch), labels.split(batch), strict=True))
    for number, (part, classes) in enumerate(batches):
        for i, arm in enumerate(arms):
            generator = torch.Generator().manual_seed(seed * 1000 + number)
            with arm.applied(subject.model, scheduler):
                started = time.perf_counter()
                run = sample(subject, scheduler, _STEPS, part, classes, on_call=progress, generator=generator)
                seconds[i].append(time.perf_counter() - started)
            with torch.inference_mode():
                features[i].append(classifier.features(run.images))
                hits[i] += int((classifier(run.images).argmax(dim=1) == classes).sum())
    return [
        ArmScore(
            sampler=sampler,
            arm=arm.label,
            seed=seed,
            frechet=frechet_distance(*feature_statistics(torch.cat(features[i])), *reference_statistics()),
            accuracy=hits[i] / samples,
            seconds=seconds[i],
        )
        for i, arm in enumerate(arms)
    ]


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
        counts = [str(_STEPS if arm.table is None else arm.table.computed(kind)) for kind in ("attention", "mlp")]
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
    speedup: float = 1.6,
    data: Path,
    out: Path,
) -> str:
    """Measure what is missing in `out/ablation_SAMPLER.json`, and return the table as text.

    Args:
        samplers: some of `SAMPLERS`.
        seed_sets: number of seed sets.
        samples: samples per set.
        batch: samples per batch.
        speedup: the ideal speed-up that tables are built for; what is measured is less by the overhead.
        data: folder of Fashion-MNIST, for the fit of the scalings.
        out: folder of the results; arms and finished seed sets found there are kept.

    Raises:
        ValueError: an unknown sampler, or results in `out` that belong to other settings or weights.
    """
    unknown = sorted(set(samplers) - set(SAMPLERS))
    if unknown:
        raise ValueError(f"--samplers knows {', '.join(SAMPLERS)}; received {', '.join(unknown)}")
    settings = {"samples": samples, "batch": batch, "speedup": speedup, "weights": fingerprint(load(_MODEL).model)}
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    cells = []
    for sampler in samplers:
        path = out / f"ablation_{sampler}.json"
        with tqdm(unit="call", desc=f"ablation, {sampler}", dynamic_ncols=True) as progress:
            arms, scores = _earlier(path, settings)
            if not arms:
                arms = prepare(sampler, speedup, data, progress.update)
                _save(path, settings, arms, scores)
            done = {score.seed for score in scores}
            seeds = range(_FIRST_SEED, _FIRST_SEED + seed_sets)
            missing = [seed for seed in seeds if seed not in done]
            progress.reset(total=len(missing) * len(arms) * _STEPS * -(-samples // batch))
            for seed in missing:
                scores += measure(sampler, arms, seed, samples=samples, batch=batch, progress=progress.update)
                _save(path, settings, arms, scores)
        cells += summary(sampler, arms, [score for score in scores if score.seed in seeds])
    (out / "ablation.md").write_text(markdown_table(_HEADERS, cells, left=2) + "\n", encoding="utf-8")
    legend = (
        f"Sets of {samples} samples, {_STEPS} steps; steps at which attention and MLP are computed; Fréchet distance "
        "in 64 classifier features to the training images; speed-up of the loop, median and quartiles over batches."
    )
    return f"{text_table(_HEADERS, cells, left=2)}\n\n{legend}\nResults: {out}/"


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
