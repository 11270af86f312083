"""Trains the bundled models: ``python -m ab_schedulers.models.train dit-epsilon --minutes 30``.

Subjects: the diffusion models ``dit-epsilon``, ``dit-flow`` and ``unet-v``, then ``classifier``, and ``statistics``
(the moments of the classifier's features over the training images, so it comes after ``classifier``).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from tqdm import tqdm

from ab_schedulers.models.bundled import WEIGHTS
from ab_schedulers.models.fashion_mnist import DEBIAN_DIRECTORY
from ab_schedulers.models.recipes import NO_CLASS, RECIPES, Recipe
from ab_schedulers.models.train_classifier import train_classifier, write_statistics
from ab_schedulers.models.training import (
    Budget,
    Settings,
    WeightAverage,
    learning_rate_factor,
    stratified_uniform,
    training_batches,
)

SUBJECTS: tuple[str, ...] = (*RECIPES, "classifier", "statistics")


def use_plain_attention(model: torch.nn.Module) -> None:
    """Attention by two matrix products: on a CPU, twice as fast to train as the fused kernel for 49 tokens."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())


def diffusion_loss(
    model: Any,
    recipe: Recipe,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: Settings,
    generator: torch.Generator,
) -> torch.Tensor:
    """The mean squared error of the recipe's objective on one batch, some labels replaced by "no class"."""
    device = images.device
    noise = torch.randn(images.shape, generator=generator, device=device)
    pair = recipe.objective(images, noise, stratified_uniform(len(images), generator))
    dropped = torch.rand(len(labels), generator=generator, device=device) < settings.label_drop
    labels = torch.where(dropped, NO_CLASS, labels)
    with settings.autocast():
        prediction = model(pair.sample, timestep=pair.timestep, class_labels=labels, return_dict=False)[0]
    loss: torch.Tensor = (prediction.float() - pair.target).square().mean()
    return loss


def save_diffusion(model: Any, recipe: Recipe, out: Path) -> None:
    """Writes the model in float16 in diffusers' own format, and its scheduler's config in a folder below."""
    folder = out / recipe.name
    copy.deepcopy(model).half().save_pretrained(folder, safe_serialization=True)
    recipe.scheduler().save_pretrained(folder / "scheduler")


def train_diffusion(recipe: Recipe, settings: Settings) -> None:
    """Trains one diffusion model and writes the average of its weights, also now and then on the way."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator(settings.device).manual_seed(settings.seed)
    model = recipe.model().to(settings.device).train()
    if settings.device.type == "cpu":
        use_plain_attention(model)
    average = WeightAverage(model, settings.ema_decay)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    batches = training_batches(settings, generator)
    running = torch.zeros((), device=settings.device)
    started = saved = time.monotonic()
    step = 0
    with tqdm(total=settings.budget.steps, desc=recipe.name, unit="step", mininterval=5.0) as bar:
        while (progress := settings.budget.progress(step, started)) < 1.0:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_factor(step, progress, settings.warm_up_steps)
            images, labels = next(batches)
            loss = diffusion_loss(model, recipe, images, labels, settings, generator)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update(step)
            running.lerp_(loss.detach(), max(0.01, 1 / (step + 1)))
            step += 1
            bar.update()
            if step % 50 == 0:
                bar.set_postfix(loss=f"{running.item():.4f}", refresh=False)
                if time.monotonic() - saved > settings.snapshot_seconds:
                    save_diffusion(average.model, recipe, settings.out)
                    saved = time.monotonic()
    save_diffusion(average.model, recipe, settings.out)
    print(f"{recipe.name}: {step} steps, {time.monotonic() - started:.0f} s, running loss {running.item():.5f}")


def parse(arguments: Sequence[str] | None) -> tuple[str, Settings]:
    """The subject and the settings that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--data", type=Path, default=DEBIAN_DIRECTORY, help="folder of the IDX files")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder that receives the weights")
    parser.add_argument("--minutes", type=float, default=None, help="training time; default 30, classifier 3")
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps, instead of --minutes")
    parser.add_argument("--batch-size", type=int, default=None, help="default 64, classifier 128")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--float32", action="store_true", help="no bfloat16, for processors that emulate it")
    given = parser.parse_args(arguments)
    minutes, batch_size = (3.0, 128) if given.subject == "classifier" else (30.0, 64)
    return given.subject, Settings(
        data=given.data,
        out=given.out,
        budget=Budget(steps=given.steps, minutes=minutes if given.minutes is None else given.minutes),
        batch_size=batch_size if given.batch_size is None else given.batch_size,
        seed=given.seed,
        device=given.device,
        mixed_precision=not given.float32,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    subject, settings = parse(arguments)
    if subject == "classifier":
        train_classifier(settings)
    elif subject == "statistics":
        write_statistics(settings)
    else:
        train_diffusion(RECIPES[subject], settings)


if __name__ == "__main__":
    main()
