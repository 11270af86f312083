"""Other people's caches inside the model, each with its settings searched for a number of computed steps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch

from ab_schedulers.bench.cache_runs import (
    CachedRun,
    CacheMethod,
    Hook,
    ModelCopy,
    bisected,
    hooked_run,
    is_transformer,
    need_transformer,
    set_context,
)
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import base
from ab_schedulers.bench.sampling import sample
from ab_schedulers.numerics import CachePlan

_MODULES = [r"transformer_blocks\.\d+\.attn1", r"transformer_blocks\.\d+\.ff"]
_UNET_MODULES = [r".*(resnets|attentions)\.\d+"]
_WARMUPS = (1, 2, 4, 8)


def taylorseer() -> CacheMethod:
    """TaylorSeer (Liu et al. 2025, arXiv 2503.06923) of diffusers on every attention and MLP module, or residual block.

    Its own patterns match no module of these models, so the modules are named.
    """

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

        modules = _MODULES if is_transformer(subject.model) else _UNET_MODULES
        for order in (1, 2):
            for interval, first in taylorseer_plans(calls, steps):
                config = TaylorSeerCacheConfig(
                    cache_interval=interval,
                    disable_cache_before_step=first,
                    max_order=order,
                    taylor_factors_dtype=torch.float32,
                    cache_identifiers=modules,
                )
                setting = f"order {order}, interval {interval}, from step {first}"

                def place(model: Any, config: Any = config) -> object:
                    apply_taylorseer_cache(model, config)
                    return set_context(model)

                yield hooked_run(subject, steps, noise, labels, place, setting)

    return CacheMethod(name="TaylorSeer (diffusers)", run=run)


def taylorseer_plans(calls: int, steps: int) -> list[tuple[int, int]]:
    """Intervals and first cached steps with which TaylorSeer computes `calls` of `steps` steps, or just fewer.

    It computes the steps before `first`, and those with `(step - first - 1) % interval == 0`.
    """
    counts: dict[tuple[int, int], int] = {}
    for interval in range(2, steps):
        for first in range(1, 6):
            computed = [s for s in range(steps) if s < first or (s - first - 1) % interval == 0]
            counts[(interval, first)] = len(computed)
    most = max(count for count in counts.values() if count <= calls)
    return [plan for plan, count in counts.items() if count == most]


def first_block() -> CacheMethod:
    """First-block cache of diffusers, its threshold searched for the number of calls."""

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache

        need_transformer(subject)

        def at(threshold: float) -> CachedRun:
            def place(model: Any) -> object:
                apply_first_block_cache(model, FirstBlockCacheConfig(threshold=threshold))
                return set_context(model)

            return hooked_run(subject, steps, noise, labels, place, f"threshold {threshold:.3g}")

        yield bisected(at, calls)

    return CacheMethod(name="first block (diffusers)", run=run)


def cache_dit() -> CacheMethod:
    """DBCache of cache-dit (github.com/vipshop/cache-dit), with TaylorSeer of each order as its calibrator.

    At fixed steps by its mask, or where the residual of the first block differs by less than a searched threshold.
    """

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "warning")  # else it reports every placement
        library = import_extra("cache_dit", "the rows of cache-dit", "cache-dit")
        need_transformer(subject)
        mask = [0] * steps
        for step in CachePlan.uniform(num_calls=calls, num_base_steps=steps).compute_steps:
            mask[step] = 1

        def place(order: int, **options: Any) -> Hook:
            config = library.DBCacheConfig(Fn_compute_blocks=1, num_inference_steps=steps, **options)
            taylor = library.TaylorSeerCalibratorConfig(taylorseer_order=order) if order else None
            return lambda model: library.enable_cache(model, cache_config=config, calibrator_config=taylor)

        for order in (0, 1, 2):
            name = f"TaylorSeer {order}" if order else "residual"
            fixed = place(order, steps_computation_mask=mask, steps_computation_policy="static")
            yield hooked_run(subject, steps, noise, labels, fixed, f"{name}, uniform plan")
            for warmup in (warmup for warmup in _WARMUPS if warmup < calls):

                def at(threshold: float, order: int = order, warmup: int = warmup, name: str = name) -> CachedRun:
                    hook = place(order, residual_diff_threshold=threshold, max_warmup_steps=warmup)
                    setting = f"{name}, threshold {threshold:.3g}, from step {warmup}"
                    return hooked_run(subject, steps, noise, labels, hook, setting)

                found = bisected(at, calls)
                if found.computed <= calls:
                    yield found

    return CacheMethod(name="cache-dit", run=run)


def magcache(ratios: Mapping[str, list[float]]) -> CacheMethod:
    """MagCache (Ma et al. 2025, arXiv 2506.09045) of diffusers, ratios measured on other noises, threshold searched."""

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        from diffusers.hooks import MagCacheConfig, apply_mag_cache

        need_transformer(subject)
        for retention, longest in ((0.2, 3), (0.1, 3), (0.2, 6), (0.1, 6)):

            def at(threshold: float, retention: float = retention, longest: int = longest) -> CachedRun:
                config = MagCacheConfig(
                    threshold=threshold,
                    max_skip_steps=longest,
                    retention_ratio=retention,
                    num_inference_steps=steps,
                    mag_ratios=ratios[subject.name],
                )
                setting = f"threshold {threshold:.3g}, retention {retention}, at most {longest} skipped"

                def place(model: Any) -> object:
                    return apply_mag_cache(model, config)

                return hooked_run(subject, steps, noise, labels, place, setting)

            found = bisected(at, calls)
            if found.computed <= calls:
                yield found

    return CacheMethod(name="MagCache (diffusers)", run=run)


def magnitude_ratios(subject: Any, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """What MagCache's calibration measures: ratios of the norms of successive residuals of all blocks together."""
    copied: Any = ModelCopy(subject)
    states: list[torch.Tensor] = []
    inputs: list[torch.Tensor] = []
    blocks = copied.model.transformer_blocks
    blocks[0].register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    blocks[-1].register_forward_hook(lambda module, arguments, output: states.append(output - inputs[-1]))
    sample(copied, base(subject.scheduler, steps).scheduler, steps, noise, labels)
    norms = [state.float().norm(dim=-1) for state in states]
    return [1.0, *[float((b / (a + 1e-8)).mean()) for a, b in pairwise(norms)]]
