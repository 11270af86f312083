"""`ab-schedulers bench caches`: caches on a 50-step base at equal numbers of computed steps.

Every cache runs on the same noise. Its errors are the RMSE to the base's own result and to the converged trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ab_schedulers.bench.cache_methods import cache_methods, calibrated_cache
from ab_schedulers.bench.cache_peers import magnitude_ratios
from ab_schedulers.bench.cache_runs import CachedRun, CacheMethod
from ab_schedulers.bench.environment import environment, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import base
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.solver_results import SEARCH_SEED
from ab_schedulers.bench.tables import markdown_table
from ab_schedulers.bench.trials import ModelTrial, prepare_model
from ab_schedulers.models import load

_HEADERS = ("cache", "setting", "computed", "skipped", "layers", "RMSE to the base", "RMSE to the converged")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One cache at one number of calls: what it computed, and its errors per seed set; `refused` says why it has none.

    Attributes:
        calls: steps that might be computed.
        computed: steps that were.
        share: share of the layers of all steps that ran.
        to_base: RMSE to the base's result.
        to_converged: RMSE to the converged trajectory.
    """

    model: str
    cache: str
    calls: int
    setting: str = ""
    computed: int = 0
    share: float = math.nan
    to_base: tuple[float, ...] = ()
    to_converged: tuple[float, ...] = ()
    refused: str = ""


def measure_caches(trial: ModelTrial, method: CacheMethod, calls: int, steps: int, fine: torch.Tensor) -> CacheEntry:
    """The run of `method` that comes nearest to the base's result `fine`, among its settings with `calls` calls."""
    name = trial.subject.name
    try:
        found = [
            _entry(trial, method, calls, run, fine)
            for run in method.run(trial.subject, calls, steps, trial.noise, trial.labels)
        ]
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        return CacheEntry(model=name, cache=method.name, calls=calls, refused=f"{type(error).__name__}: {error}")
    if not found:
        return CacheEntry(
            model=name, cache=method.name, calls=calls, refused=f"no setting computes {calls} steps or fewer"
        )
    return min(found, key=lambda entry: sum(entry.to_base))


def _entry(trial: ModelTrial, method: CacheMethod, calls: int, run: CachedRun, fine: torch.Tensor) -> CacheEntry:
    pairs = zip(run.images.chunk(trial.sets), fine.chunk(trial.sets), strict=True)
    return CacheEntry(
        model=trial.subject.name,
        cache=method.name,
        calls=calls,
        setting=run.setting,
        computed=run.computed,
        share=run.share,
        to_base=tuple(rmse(images, exact) for images, exact in pairs),
        to_converged=trial.errors(run.images),
    )


def cache_table(entries: Sequence[CacheEntry], steps: int) -> str:
    """Markdown table of one model at one number of calls, mean ± standard deviation over the seed sets."""
    rows = []
    for entry in entries:
        if entry.refused:
            rows.append([entry.cache, entry.refused.replace("\n", " "), *[""] * 5])
            continue
        counts = [str(entry.computed), str(steps - entry.computed), f"{100 * entry.share:.0f} %"]
        rows.append([entry.cache, entry.setting, *counts, _number(entry.to_base), _number(entry.to_converged)])
    return markdown_table(_HEADERS, rows, left=2)


def _number(errors: Sequence[float]) -> str:
    mean = sum(errors) / len(errors)
    if len(errors) < 2:
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {math.sqrt(sum((e - mean) ** 2 for e in errors) / (len(errors) - 1)):.4f}"


def caches(
    *,
    models: Sequence[str],
    calls: Sequence[int],
    steps: int,
    sets: int,
    samples: int,
    trajectories: int,
    out: Path,
) -> str:
    """Measure all caches, write `caches.json` and `caches.md` to `out`, return the tables as text.

    Args:
        models: names of bundled models.
        calls: numbers of computed steps.
        steps: steps of the base.
        sets: seed sets; the spread is taken over them.
        samples: trajectories per seed set.
        trajectories: of the calibration, held-back ones included.
        out: folder of the results, the calibrations and the converged trajectories.

    Raises:
        ValueError: as many calls as steps, or more.
    """
    if max(calls) >= steps:
        raise ValueError(f"--calls must be smaller than the {steps} steps of the base; received {max(calls)}")
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    parts, entries = ["# Caches on one base at equal computed steps"], []
    for name in models:
        subject = load(name)
        trial, note = prepare_model(subject, sets, samples, out / "references")
        stock = base(subject.scheduler, steps)
        fine = sample(subject, stock.scheduler, steps, trial.noise, trial.labels).images
        parts.append(
            f"## `{name}`\n\nBase: {steps} steps of {type(stock.scheduler).__name__} at interval 1, "
            f"{_number(trial.errors(fine))} from the converged trajectory. {sets} seed sets of {samples}."
        )
        methods = [*cache_methods(_ratios(subject, steps)), calibrated_cache(trajectories, out / "calibrations")]
        with tqdm(total=len(methods) * len(calls), unit="cache", desc=name, dynamic_ncols=True) as progress:
            for count in calls:
                measured = []
                for method in methods:
                    measured.append(measure_caches(trial, method, count, steps, fine))
                    progress.update()
                entries += measured
                parts.append(f"At {count} computed steps:\n\n{cache_table(measured, steps)}")
        content = {"environment": environment("cache-dit"), "steps": steps, "references": note}
        write_json(out / "caches.json", {**content, "entries": [asdict(entry) for entry in entries]})
    text = "\n\n".join(parts)
    (out / "caches.md").write_text(text + "\n", encoding="utf-8")
    return f"{text}\n\nResults: {out / 'caches.json'}"


def _ratios(subject: Any, steps: int) -> dict[str, list[float]]:
    """MagCache's ratios on other noises than those of the comparison; none for a model without a list of blocks."""
    if not hasattr(subject.model, "transformer_blocks"):
        return {}
    noise, labels = seeded_noise(subject, 8, SEARCH_SEED)
    return {subject.name: magnitude_ratios(subject, steps, noise, labels)}
