"""One entry of the matrix: a real pipeline of diffusers with small random components."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import diffusers
import torch

Arguments = Callable[[Sequence[int], int], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pipeline, how to build it and how to call it.

    Args:
        pipeline: Name of the class in diffusers.
        variant: What tells two entries of one class apart.
        components: Makes the components, without the scheduler; called once, they are shared between pipelines.
        scheduler: Makes the stock scheduler, with the config of the released model.
        arguments: Call arguments for given samples and size: one sample per seed, which names its conditioning.
        denoisers: Names of the components that the loop calls.
        sizes: Two sizes that `arguments` takes.
        mode: "text" for text to X, "image" for modes that start from a picture or a video.
        settings: Further arguments of the pipeline's constructor.
        attributes: What is set on the pipeline, where its constructor only knows full sizes.
        device: Where the models and the call arguments lie; generators stay on the CPU.
    """

    pipeline: str
    components: Callable[[], Mapping[str, Any]]
    scheduler: Callable[[], Any]
    arguments: Arguments
    variant: str = ""
    denoisers: tuple[str, ...] = ("transformer",)
    sizes: tuple[int, int] = (32, 48)
    mode: str = "text"
    settings: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The identifier of the entry in test reports and on the page."""
        return f"{self.pipeline}-{self.variant}" if self.variant else self.pipeline

    def available(self) -> bool:
        """Whether the installed diffusers has the class."""
        return hasattr(diffusers, self.pipeline)

    def build(self, scheduler: Any = None) -> Any:
        """The pipeline with `scheduler`, or with the stock one; its progress bar is off."""
        pipeline_class = getattr(diffusers, self.pipeline)
        chosen = self.scheduler() if scheduler is None else scheduler
        pipe = pipeline_class(**components_of(self), scheduler=chosen, **self.settings)
        for key, value in self.attributes.items():
            setattr(pipe, key, value)
        pipe.set_progress_bar_config(disable=True)
        return pipe


@cache
def _built(components: Callable[[], Mapping[str, Any]], device: str) -> Mapping[str, Any]:
    if device == "cpu":
        return components()
    return {name: placed_module(part, device) for name, part in _built(components, "cpu").items()}


def placed_module(part: Any, device: str) -> Any:
    """A copy of a model on `device`; other components as they are."""
    return copy.deepcopy(part).to(device) if isinstance(part, torch.nn.Module) else part


def placed(value: Any, device: str) -> Any:
    """A call argument with its tensors on `device`."""
    if isinstance(value, list):
        return [placed(item, device) for item in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


def components_of(case: Case) -> dict[str, Any]:
    """The components of a case on its device, built once."""
    return dict(_built(case.components, case.device))


def seeded(build: Callable[..., torch.nn.Module], seed: int = 0, **config: Any) -> Any:
    """A model in evaluation mode whose weights follow from `seed`; weights that start at zero become small noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(**config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.05)
    return model


def embedding(name: str, seeds: Sequence[int], *shape: int) -> torch.Tensor:
    """Conditioning, one row per seed, which depends on the seed and the name alone."""
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(start + s)) for s in seeds])


def names(*missing: str) -> dict[str, None]:
    """Components that are left out."""
    return dict.fromkeys(missing)


def flow(**config: Any) -> Callable[[], Any]:
    """A factory of flow-matching Euler schedulers."""
    return lambda: diffusers.FlowMatchEulerDiscreteScheduler(**config)


def trained_betas() -> dict[str, Any]:
    """The betas of Stable Diffusion and of what was trained after it."""
    return {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per sample."""
    return [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
