"""Caches that answer steps of one base run: other people's inside the model, ours inside it and in the scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ab_schedulers.bench.cache_peers import cache_dit, first_block, magcache, taylorseer
from ab_schedulers.bench.cache_runs import CachedRun, CacheMethod, hooked_run
from ab_schedulers.bench.calibrated import calibrated_once
from ab_schedulers.bench.methods import DEFAULTS, HOLD, REUSE, Contender, Method, base, cached
from ab_schedulers.bench.sampling import SamplingRun, sample
from ab_schedulers.caching import ABCacheConfig, apply_ab_cache
from ab_schedulers.numerics import CachePlan


def scheduler_cache(method: Method) -> CacheMethod:
    """The cached scheduler with the options of `method` on the same base grid."""

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        options = {**method.options, "num_base_steps": steps}
        contender: Contender = cached(subject.scheduler, Method(label=method.label, options=options), calls, 1)
        found: SamplingRun = sample(subject, contender.scheduler, calls, noise, labels)
        yield CachedRun(
            images=found.images, computed=found.model_calls, share=found.model_calls / steps, setting="uniform plan"
        )

    return CacheMethod(name=f"{method.label} (scheduler)", run=run)


def calibrated_cache(trajectories: int, folder: Path) -> CacheMethod:
    """The scheduler calibrated to the base's own result, on other noises and classes than those of the comparison."""

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        found, _ = calibrated_once(subject, trajectories, calls, folder, num_base_steps=steps)
        images = sample(subject, found.scheduler(subject.scheduler.config), calls, noise, labels).images
        setting = f"{trajectories} trajectories"
        yield CachedRun(images=images, computed=calls, share=calls / steps, setting=setting)

    return CacheMethod(name="calibrated (scheduler)", run=run)


def model_cache(order: int) -> CacheMethod:
    """`apply_ab_cache` with `calls` computed steps, spread evenly, or a warm-up step and the last step among them."""

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        for label, computed in _model_plans(calls, steps).items():
            config = ABCacheConfig(order=order, compute_steps=computed, num_inference_steps=steps)

            def place(model: Any, config: ABCacheConfig = config) -> object:
                return apply_ab_cache(model, config, scheduler=base(subject.scheduler, steps).scheduler)

            yield hooked_run(subject, steps, noise, labels, place, f"order {order}, {label}")

    return CacheMethod(name="apply_ab_cache", run=run)


def _model_plans(calls: int, steps: int) -> dict[str, tuple[int, ...]]:
    """Computed steps: a uniform plan, and steps 0 and 1 and evenly on to the last, as `interval=3` places them."""
    plans = {"uniform plan": CachePlan.uniform(num_calls=calls, num_base_steps=steps).compute_steps}
    if 3 <= calls <= steps:
        rest = (1 + i * (steps - 2) // (calls - 2) for i in range(calls - 1))
        plans["warm-up and last step"] = (0, *rest)
    return plans


def cache_methods(ratios: Mapping[str, list[float]]) -> list[CacheMethod]:
    """All caches that need no calibration, plain reuse first."""
    own = [scheduler_cache(DEFAULTS), model_cache(2), model_cache(3)]
    others = [taylorseer(), first_block(), magcache(ratios), cache_dit()]
    return [scheduler_cache(REUSE), scheduler_cache(HOLD), *others, *own]
