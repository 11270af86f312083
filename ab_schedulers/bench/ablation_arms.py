"""The arms of `bench ablation`: tables and factors on the predicted noise, chosen, built or published."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from ab_schedulers.bench.exposure import clean_images
from ab_schedulers.bench.sampling import sample, seeded_noise
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
from ab_schedulers.models import load

MODEL, STEPS = "dit-epsilon", 50
SAMPLERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}
FACTORS = {"ddpm": 0.98, "ddim": 1.005}
"""Factor on the predicted noise per sampler, chosen from `explored_arms` on noises of their own."""

_BUILD_SEED, _FIT_SEED = 29_000, 29_001
_FIT_SAMPLES, _BUILD_SAMPLES = 32, 16
_GRADED = NAMED_TABLES["graded-50"]
_TABLES = {
    "graded table": _GRADED,
    "alternating table": EBTable.uniform(STEPS, 2, action="E", end_steps=10),
    "table of thirds": EBTable.uniform(STEPS, 3, action="E", end_steps=17),
    "table of quarters": EBTable.uniform(STEPS, 4, action="E", end_steps=20),
}
_EXPLORED_FACTORS = {"ddpm": (0.97, 0.985, 1.015, 1.03), "ddim": (0.98, 0.995, 1.005, 1.01, 1.02)}
_WINDOWS = ((2, 14), (14, 26), (26, 38), (38, 50))


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


def stock_scheduler(subject: Any, sampler: str) -> Any:
    """The stock scheduler of a sampler, with the configuration of the subject's."""
    return SAMPLERS[sampler].from_config(subject.scheduler.config)


def chosen_arms(sampler: str) -> list[Arm]:
    """The paper's ablation with the table and the factor that `explored_arms` recommend; nothing is fitted."""
    factor = {"value": FACTORS[sampler]}
    tables = [("alternating table", _TABLES["alternating table"]), ("graded table", _GRADED)]
    return [
        Arm(label="baseline"),
        Arm(label="factor", noise_scaling=factor),
        *(Arm(label=name, table=table) for name, table in tables),
        *(Arm(label=f"{name} + factor", table=table, noise_scaling=factor) for name, table in tables),
        Arm(label="uniform reuse of both", table=_spread(_TABLES["alternating table"].computed("mlp"))),
    ]


def built_arms(sampler: str, speedup: float, data: Path, progress: Callable[[], object]) -> list[Arm]:
    """Tables built and scalings fitted as published, on seeds of their own, and the released table."""
    subject = load(MODEL)
    scheduler = stock_scheduler(subject, sampler)
    noise, labels = seeded_noise(subject, _BUILD_SAMPLES, _BUILD_SEED)

    def run(_: int) -> None:
        sample(subject, scheduler, STEPS, noise, labels, on_call=progress)

    def build(action: str) -> EBTable:
        return build_eb_table(
            subject.model, run, num_inference_steps=STEPS, samples=1, target_speedup=speedup, action=action
        )

    reusing, extrapolating = build("R"), build("E")
    scalings = [_fit(sampler, table, data, progress) for table in (None, reusing, extrapolating)]
    return [
        Arm(label="fitted scaling", noise_scaling=scalings[0]),
        Arm(label="built table", table=reusing),
        Arm(label="built table + fitted scaling", table=reusing, noise_scaling=scalings[1]),
        Arm(label="extrapolating table", table=extrapolating),
        Arm(label="extrapolating table + fitted scaling", table=extrapolating, noise_scaling=scalings[2]),
        Arm(label="released table", table=NAMED_TABLES["dit-ddpm-50"]),
    ]


def explored_arms(sampler: str) -> list[Arm]:
    """What a factor does, and what skipping every other step of one quarter of the run does, one at a time."""
    factors = [Arm(label=f"factor {b}", noise_scaling={"value": b}) for b in _EXPLORED_FACTORS[sampler]]
    windows = [
        Arm(label=f"{name} in steps {low} to {high - 1}", table=_skipping(range(low + 1, high, 2), action))
        for action, name in (("R", "reuse"), ("E", "extrapolation"))
        for low, high in _WINDOWS
    ]
    tables = [
        Arm(label=f"{name}{suffix}", table=table, noise_scaling=b)
        for name, table in _TABLES.items()
        for suffix, b in (("", None), (" + factor", {"value": FACTORS[sampler]}))
    ]
    return [Arm(label="baseline"), *factors, *windows, *tables]


def _spread(computed: int) -> EBTable:
    """Reuse of attention and MLP alike, with `computed` steps spread evenly."""
    steps = {round(i * STEPS / computed) for i in range(computed)}
    return _skipping([step for step in range(STEPS) if step not in steps], "R")


def _skipping(steps: Sequence[int], action: str) -> EBTable:
    row = "".join(action if step in steps else "C" for step in range(STEPS))
    return EBTable(attention=row, mlp=row)


def _fit(sampler: str, table: EBTable | None, data: Path, progress: Callable[[], object]) -> dict[str, Any]:
    bare = load(MODEL)
    walked = replace(bare, model=copy.deepcopy(bare.model))
    noise, labels = seeded_noise(bare, _FIT_SAMPLES, _FIT_SEED)
    scheduler = stock_scheduler(bare, sampler)
    scheduler.set_timesteps(STEPS)

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
