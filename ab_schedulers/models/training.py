"""What the trainings share: settings, the learning rate, batches, the average of the weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ab_schedulers.models.fashion_mnist import read_split, scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long to train: a number of optimizer steps, or minutes when `steps` is None."""

    steps: int | None
    minutes: float

    def progress(self, step: int, started: float) -> float:
        """The share of the budget that is spent, from 0 to 1."""
        spent = step / self.steps if self.steps is not None else (time.monotonic() - started) / (60 * self.minutes)
        return min(spent, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of one training run that are not the model's own."""

    data: Path
    out: Path
    budget: Budget
    batch_size: int
    seed: int
    device: torch.device
    mixed_precision: bool
    warm_up_steps: int = 300
    ema_decay: float = 0.9995
    label_drop: float = 0.1
    snapshot_seconds: float = 120.0

    def autocast(self) -> torch.autocast:
        """The context of a forward pass: matrix products in bfloat16 if the precision is mixed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed_precision)


def learning_rate_factor(step: int, progress: float, warm_up_steps: int) -> float:
    """Linear warm-up times a half cosine down to zero at the end of the budget."""
    return min(1.0, (step + 1) / warm_up_steps) * 0.5 * (1 + math.cos(math.pi * progress))


def training_batches(settings: Settings, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless full batches of training images and labels; each epoch is one random permutation."""
    images, labels = (part.to(settings.device) for part in read_split(settings.data, "train"))
    batch_size = min(settings.batch_size, len(images))
    while True:
        order = torch.randperm(len(images), generator=generator, device=settings.device)
        for start in range(0, len(images) - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            yield scale(images[chosen]), labels[chosen]


def stratified_uniform(count: int, generator: torch.Generator) -> torch.Tensor:
    """One uniform number in each of `count` equal parts of [0, 1): less variance than independent numbers."""
    device = generator.device
    jitter = torch.rand(count, generator=generator, device=device)
    return (torch.arange(count, device=device) + jitter) / count


class WeightAverage:
    """An exponential moving average of a model's parameters, shorter at the start of training."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._average: list[torch.Tensor] = list(self.model.parameters())
        self._source: list[torch.Tensor] = list(model.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average toward the current parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, self._source, 1 - decay)
