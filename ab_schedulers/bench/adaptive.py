"""`ab-schedulers bench adaptive`: skipping inside the model, fixed against adaptive, and what the hooks cost.

The error is the distance to the run of the same stock scheduler with every step computed, from the same noise.
Thresholds of the adaptive runs are chosen on noises of their own. Other people's caches are in `bench caches`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import diffusers
import torch

from ab_schedulers.bench.environment import environment, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.speed import Spread, spread
from ab_schedulers.bench.tables import markdown_table, text_table
from ab_schedulers.caching import (
    ABCacheConfig,
    EBCacheConfig,
    EBTable,
    apply_ab_cache,
    apply_eb_cache,
    remove_cache,
)
from ab_schedulers.caching.ab_config import QUANTITIES
from ab_schedulers.models import load

_STEPS = 50
_SEED, _TUNING_SEED = 40_000, 39_000
_HEADERS = ("model", "method", "calls", "RMSE to base", "std. error", "over plain reuse")
_COST_HEADERS = ("measurement", "median", "quartiles", "unit")
_LONGEST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedError:
    """RMSE to the base of one method, mean over sets of noises with its standard error."""

    model: str
    method: str
    calls: float
    error: float
    standard_error: float


class _Runner:
    """Runs one model from the noises of several sets, and knows their base results."""

    def __init__(
        self, name: str, solver: str, samples: int, sets: int, seed: int, on_call: Callable[[], object]
    ) -> None:
        self.subject, self.on_call = load(name), on_call
        self.scheduler = self.subject.scheduler
        if solver == "DPM-Solver++":
            self.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(self.scheduler.config)
        self.sets = [seeded_noise(self.subject, samples, seed + i) for i in range(sets)]
        self.base = [self.images(*pair) for pair in self.sets]

    def images(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return sample(self.subject, self.scheduler, _STEPS, noise, labels, on_call=self.on_call).images

    def ab_cached(self, **options: Any) -> tuple[float, list[float]]:
        """Computed calls per run, and errors."""
        errors, calls = [], []
        cache = apply_ab_cache(self.subject.model, ABCacheConfig(**options), scheduler=self.scheduler)
        try:
            for pair, base in zip(self.sets, self.base, strict=True):
                errors.append(rmse(self.images(*pair), base))
                calls.append(sum(record.computed for record in cache.records))
        finally:
            remove_cache(self.subject.model)
        return mean(calls), errors


def tuned_threshold(runner: _Runner, calls: float) -> float:
    """The smallest threshold that takes no more than ``calls`` computed calls, by bisection of its logarithm."""
    low, high = -4.0, 0.0
    for _ in range(7):
        middle = (low + high) / 2
        used, _ = runner.ab_cached(threshold=10**middle, interval=_LONGEST)
        low, high = (middle, high) if used > calls else (low, middle)
    return float(10**high)


def solvers(name: str) -> tuple[str, ...]:
    """The stock solvers that a bundled model is sampled with."""
    return ("flow Euler",) if name == "dit-flow" else ("DDIM", "DPM-Solver++")


def compare(
    name: str, *, samples: int, sets: int, intervals: Sequence[int], on_call: Callable[[], object]
) -> list[CachedError]:
    """Every method at the calls of each interval, under every solver of the model."""
    results = []
    for solver in solvers(name):
        runner = _Runner(name, solver, samples, sets, _SEED, on_call)
        tuning = _Runner(name, solver, samples, 1, _TUNING_SEED, on_call)
        for interval in intervals:
            found = {
                "plain reuse": runner.ab_cached(interval=interval, order=1, warmup_steps=1, quantity="model_output")
            }
            found["AB-Cache"] = runner.ab_cached(interval=interval)
            for quantity in QUANTITIES:
                found[f"AB-Cache, {quantity}"] = runner.ab_cached(interval=interval, quantity=quantity)
            threshold = tuned_threshold(tuning, found["AB-Cache"][0])
            found["AB-Cache, adaptive"] = runner.ab_cached(threshold=threshold, interval=_LONGEST)
            results += [_error(f"{name}, {solver}", label, *pair) for label, pair in found.items()]
    return results


def _error(model: str, method: str, calls: float, errors: Sequence[float]) -> CachedError:
    scatter = stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else float("inf")
    return CachedError(model=model, method=method, calls=calls, error=mean(errors), standard_error=scatter)


@torch.no_grad()  # as in pipelines; of inference tensors the hooks could not know that they are unchanged
def overhead(name: str, batch: int, repeats: int) -> list[Spread]:
    """Processor time of calls with hooks that never skip over that of the bare model, both in turn, in percent beyond.

    A plan that lists every step also follows runs and keeps outputs, as a cache that skips does when it computes.
    Processor time rather than wall clock: other programs on the machine would drown a few microseconds.
    """
    bare, hooked = load(name), load(name)
    noise, labels = seeded_noise(bare, batch, 0)
    every = ABCacheConfig(compute_steps=range(_STEPS))
    placed: list[tuple[str, Callable[[], Any]]] = [
        ("apply_ab_cache, interval 1", lambda: apply_ab_cache(hooked.model, ABCacheConfig(interval=1))),
        ("apply_ab_cache, every step listed", lambda: apply_ab_cache(hooked.model, every)),
    ]
    if hasattr(hooked.model, "transformer_blocks"):
        table = EBTable(attention="C" * _STEPS, mlp="C" * _STEPS)
        placed.append(
            ("apply_eb_cache, all computed", lambda: apply_eb_cache(hooked.model, EBCacheConfig(table=table)))
        )
    spreads = []
    for label, place in placed:
        place()
        ratios = []
        for repeat in range(repeats + 1):
            seconds = [0.0, 0.0]
            for step in range(_STEPS):
                timestep = torch.tensor(999 - 20 * step)
                for i, subject in enumerate((bare, hooked) if step % 2 else (hooked, bare)):
                    started = time.process_time()
                    subject.predict(noise, timestep, labels)
                    seconds[i if step % 2 else 1 - i] += time.process_time() - started
            if repeat:
                ratios.append(100 * (seconds[1] / seconds[0] - 1))
        remove_cache(hooked.model)
        spreads.append(spread(f"{label}, {name}, batch {batch}: beyond the bare model", ratios, "%"))
    return spreads


def adaptive(
    *, models: Sequence[str], samples: int, sets: int, repeats: int, out: Path, intervals: Sequence[int] = (3,)
) -> str:
    """Run all comparisons, write `adaptive.json` and `adaptive.md` to `out`, return the tables as text.

    Args:
        models: names of bundled models.
        samples: trajectories per set.
        sets: sets of noises.
        repeats: interleaved repeats of the overhead, at least 2.
        out: folder of the results.
        intervals: intervals of the fixed cache, whose calls the others get.

    Raises:
        ValueError: fewer than two repeats.
    """
    if repeats < 2:
        raise ValueError(f"--repeats must be at least 2 for a spread; received {repeats}")
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    with tqdm(unit="call", desc="adaptive", dynamic_ncols=True) as progress:
        results = [
            result
            for name in models
            for result in compare(name, samples=samples, sets=sets, intervals=intervals, on_call=progress.update)
        ]
    costs = [cost for name in models for batch in (1, 16) for cost in overhead(name, batch, repeats)]
    cells, reuse = [], 1.0
    for result in results:
        reuse = result.error if result.method == "plain reuse" else reuse
        error, scatter = f"{result.error:.4f}", f"{result.standard_error:.4f}"
        cells.append(
            [result.model, result.method, f"{result.calls:.1f}", error, scatter, f"{result.error / reuse:.2f}"]
        )
    cost_cells = [cost.cells() for cost in costs]
    content = {
        "settings": {"samples": samples, "sets": sets, "intervals": list(intervals), "repeats": repeats},
        "environment": environment(),
        "errors": [asdict(result) for result in results],
        "costs": [asdict(cost) for cost in costs],
    }
    write_json(out / "adaptive.json", content)
    tables = (markdown_table(_HEADERS, cells, left=2), markdown_table(_COST_HEADERS, cost_cells))
    (out / "adaptive.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    shown = (text_table(_HEADERS, cells, left=2), text_table(_COST_HEADERS, cost_cells))
    return f"{shown[0]}\n\n{sets} sets of {samples} trajectories, {_STEPS} steps.\n\n{shown[1]}\nResults: {out}/"
