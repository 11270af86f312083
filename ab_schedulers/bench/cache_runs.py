"""A base run with a cache on a copy of its model, the layers that ran counted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ab_schedulers.bench.methods import base
from ab_schedulers.bench.sampling import sample

# Layers that are counted: attention and MLP of a transformer, convolutions and attention of a UNet.
_LAYERS = ("attn1.to_q", "ff.net.0.proj")
_UNET_LAYERS = (".conv1", ".to_q")
_BISECTIONS = 8
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


class ModelCopy:
    """A copy of a subject's model that counts the layers that run."""

    def __init__(self, subject: Any) -> None:
        self.scheduler = subject.scheduler
        self.model = copy.deepcopy(subject.model)
        layers = _LAYERS if is_transformer(self.model) else _UNET_LAYERS
        names = {name: module for name, module in self.model.named_modules() if name.endswith(layers)}
        self.runs = dict.fromkeys(names, 0)
        for name, module in names.items():
            module.register_forward_pre_hook(self._counter(name))

    def _counter(self, name: str) -> Callable[[object, object], None]:
        def count(module: object, arguments: object) -> None:
            self.runs[name] += 1

        return count

    @property
    def computed(self) -> int:
        """How often the last layer ran."""
        return list(self.runs.values())[-1]

    @torch.no_grad()
    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What the model gives, as a subject does."""
        timesteps = torch.as_tensor(timestep).expand(sample.shape[0])
        output: torch.Tensor = self.model(sample, timestep=timesteps, class_labels=labels, return_dict=False)[0]
        return output


def hooked_run(
    subject: Any, steps: int, noise: torch.Tensor, labels: torch.Tensor, place: Hook, setting: str
) -> CachedRun:
    """The base sampler's `steps` steps on a copy of the model on which `place` put a cache."""
    copied: Any = ModelCopy(subject)
    place(copied.model)
    run = sample(copied, base(subject.scheduler, steps).scheduler, steps, noise, labels)
    share = sum(copied.runs.values()) / (len(copied.runs) * steps)
    return CachedRun(images=run.images, computed=copied.computed, share=share, setting=setting)


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


def is_transformer(model: Any) -> bool:
    """Whether the model has a list of transformer blocks."""
    return hasattr(model, "transformer_blocks")


def need_transformer(subject: Any) -> None:
    """Raise `ValueError` unless the subject's model has one."""
    if not is_transformer(subject.model):
        raise ValueError(f"{type(subject.model).__name__} has no list of transformer blocks to cache")
