"""Caches that answer steps of one base run: other people's inside the model, ours inside it and in the scheduler."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from ab_schedulers.bench.methods import DEFAULTS, HOLD, REUSE, Contender, Method, base, cached
from ab_schedulers.bench.sampling import SamplingRun, sample
from ab_schedulers.caching import ABCacheConfig, apply_ab_cache
from ab_schedulers.numerics import CachePlan

_ATTENTION, _MLP = "attn1.to_q", "ff.net.0.proj"
_BISECTIONS = 8
_MODULES = [r"transformer_blocks\.\d+\.attn1", r"transformer_blocks\.\d+\.ff"]
Hook = Callable[[Any], object]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CachedRun:
    """Result of a run with a cache.

    Attributes:
        images: final samples.
        computed: steps at which the last block of the model ran.
        share: attention and MLP layers that ran, as a share of all steps' layers.
        setting: what the cache was told.
    """

    images: torch.Tensor
    computed: int
    share: float
    setting: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CacheMethod:
    """A cache and how to run it: `run(subject, calls, steps, noise, labels)` gives runs with at most `calls` calls."""

    name: str
    run: Callable[[Any, int, int, torch.Tensor, torch.Tensor], Iterator[CachedRun]]


class _Copy:
    """A copy of a subject's model that counts the layers that run."""

    def __init__(self, subject: Any) -> None:
        self.scheduler = subject.scheduler
        self.model = copy.deepcopy(subject.model)
        names = {name: module for name, module in self.model.named_modules() if name.endswith((_ATTENTION, _MLP))}
        if not any(name.endswith(_MLP) for name in names):
            names = {"conv_in": self.model.conv_in}
        self.runs = dict.fromkeys(names, 0)
        for name, module in names.items():
            module.register_forward_pre_hook(self._counter(name))

    def _counter(self, name: str) -> Callable[[object, object], None]:
        def count(module: object, arguments: object) -> None:
            self.runs[name] += 1

        return count

    @property
    def computed(self) -> int:
        return list(self.runs.values())[-1]

    @torch.no_grad()
    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        timesteps = torch.as_tensor(timestep).expand(sample.shape[0])
        output: torch.Tensor = self.model(sample, timestep=timesteps, class_labels=labels, return_dict=False)[0]
        return output


def hooked_run(
    subject: Any, steps: int, noise: torch.Tensor, labels: torch.Tensor, place: Hook, setting: str
) -> CachedRun:
    """The base sampler's `steps` steps on a copy of the model on which `place` put a cache."""
    copied: Any = _Copy(subject)
    place(copied.model)
    run = sample(copied, base(subject.scheduler, steps).scheduler, steps, noise, labels)
    share = sum(copied.runs.values()) / (len(copied.runs) * steps)
    return CachedRun(images=run.images, computed=copied.computed, share=share, setting=setting)


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


def model_cache(order: int) -> CacheMethod:
    """`apply_ab_cache` with `calls` computed steps, spread evenly."""

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        plan = CachePlan.uniform(num_calls=calls, num_base_steps=steps)
        config = ABCacheConfig(order=order, compute_steps=plan.compute_steps, num_inference_steps=steps)

        def place(model: Any) -> object:
            return apply_ab_cache(model, config, scheduler=base(subject.scheduler, steps).scheduler)

        yield hooked_run(subject, steps, noise, labels, place, f"order {order}, uniform plan")

    return CacheMethod(name="apply_ab_cache", run=run)


def taylorseer() -> CacheMethod:
    """TaylorSeer (Liu et al. 2025, arXiv 2503.06923) of diffusers on every attention and MLP module.

    Its own patterns match no module of these models, so the modules are named.
    """

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

        _need_transformer(subject)
        for order in (1, 2):
            for interval, first in taylorseer_plans(calls, steps):
                config = TaylorSeerCacheConfig(
                    cache_interval=interval,
                    disable_cache_before_step=first,
                    max_order=order,
                    taylor_factors_dtype=torch.float32,
                    cache_identifiers=_MODULES,
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

        _need_transformer(subject)

        def at(threshold: float) -> CachedRun:
            def place(model: Any) -> object:
                apply_first_block_cache(model, FirstBlockCacheConfig(threshold=threshold))
                return set_context(model)

            return hooked_run(subject, steps, noise, labels, place, f"threshold {threshold:.3g}")

        yield bisected(at, calls)

    return CacheMethod(name="first block (diffusers)", run=run)


def magcache(ratios: Mapping[str, list[float]]) -> CacheMethod:
    """MagCache (Ma et al. 2025, arXiv 2506.09045) of diffusers, ratios measured on other noises, threshold searched."""

    def run(subject: Any, calls: int, steps: int, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[CachedRun]:
        from diffusers.hooks import MagCacheConfig, apply_mag_cache

        _need_transformer(subject)
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
    copied: Any = _Copy(subject)
    states: list[torch.Tensor] = []
    inputs: list[torch.Tensor] = []
    blocks = copied.model.transformer_blocks
    blocks[0].register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    blocks[-1].register_forward_hook(lambda module, arguments, output: states.append(output - inputs[-1]))
    sample(copied, base(subject.scheduler, steps).scheduler, steps, noise, labels)
    norms = [state.float().norm(dim=-1) for state in states]
    return [1.0, *[float((b / (a + 1e-8)).mean()) for a, b in pairwise(norms)]]


def bisected(at: Callable[[float], CachedRun], calls: int) -> CachedRun:
    """The run with the most computed steps among those with at most `calls`, by bisection of the threshold.

    Where no threshold gets down to `calls`, the run with the fewest.
    """
    low, high = 1e-4, 10.0
    best = at(high)
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        found = at(middle)
        if found.computed <= calls:
            high = middle
            best = found if found.computed >= best.computed or best.computed > calls else best
        else:
            low = middle
        if best.computed == calls:
            break
    return best


def set_context(model: Any) -> object:
    """Name the one call that a step makes, which diffusers' pipelines do for models that are ready for caches."""
    from diffusers.hooks import HookRegistry, hooks

    registry = HookRegistry.check_if_exists_or_initialize(model)
    if not hasattr(hooks, "CacheContext"):  # older diffusers names the context alone
        return registry._set_context("both")
    registry.invalidate_child_registries_cache()
    return hooks._set_cache_context(model, hooks.CacheContext(name="both"))


def cache_methods(ratios: Mapping[str, list[float]]) -> list[CacheMethod]:
    """All caches, plain reuse first."""
    own = [scheduler_cache(DEFAULTS), model_cache(2), model_cache(3)]
    return [scheduler_cache(REUSE), scheduler_cache(HOLD), taylorseer(), first_block(), magcache(ratios), *own]


def _need_transformer(subject: Any) -> None:
    if not hasattr(subject.model, "transformer_blocks"):
        raise ValueError(f"{type(subject.model).__name__} has no list of transformer blocks to cache")
