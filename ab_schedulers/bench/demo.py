"""`ab-schedulers demo`: the bundled models at a third of their model calls, one table and two kinds of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import DEFAULTS, REUSE, Contender, Method, base, cached, compared_methods
from ab_schedulers.bench.metrics import class_accuracy, rmse
from ab_schedulers.bench.pictures import write_image_grid, write_plan_raster
from ab_schedulers.bench.sampling import sample, seeded_noise, start_grid
from ab_schedulers.bench.tables import text_table
from ab_schedulers.models import load, load_classifier

_BATCH = 16
_AMPLIFIED = 8
_OVERVIEW_COLUMNS = 6
_HEADERS = ("model", "method", "calls", "speed", "RMSE to base", "class accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRow:
    """What one contender did on all samples; `speed` compares its fastest batch with the base's, in the same run."""

    model: str
    method: str
    model_calls: int
    speed: float
    rmse_to_base: float
    accuracy: float
    images: torch.Tensor

    def cells(self) -> list[str]:
        """The row as text."""
        numbers = [f"{self.speed:.2f}x", f"{self.rmse_to_base:.4f}", f"{100 * self.accuracy:.0f} %"]
        return [self.model, self.method, str(self.model_calls), *numbers]


def contenders(stock: Any, methods: Sequence[Method], calls: int, interval: int) -> list[Contender]:
    """The base on the whole grid first, the stock class on the same grid, then every cached method."""
    steps = calls * interval
    label = f"stock {type(stock).__name__.removesuffix('Scheduler')}"
    return [
        base(stock, steps),
        Contender(label=label, scheduler=stock, num_inference_steps=steps),
        *[cached(stock, method, calls, interval) for method in methods],
    ]


def compare(
    subject: Any, rows: Sequence[Contender], count: int, seed: int, classifier: Any, progress: Any
) -> list[DemoRow]:
    """Sample the same noise with every contender, batch by batch in turn, so that load changes hit all of them."""
    noise, labels = seeded_noise(subject, count, seed)
    images: list[list[torch.Tensor]] = [[] for _ in rows]
    seconds = [math.inf] * len(rows)
    calls = [0] * len(rows)
    for batch_noise, batch_labels in zip(noise.split(_BATCH), labels.split(_BATCH), strict=True):
        for i, row in enumerate(rows):
            progress.set_postfix_str(f"{subject.name}, {row.label}", refresh=False)
            run = sample(
                subject, row.scheduler, row.num_inference_steps, batch_noise, batch_labels, on_call=progress.update
            )
            images[i].append(run.images)
            seconds[i] = min(seconds[i], run.seconds / len(batch_noise))
            calls[i] = run.model_calls
    finished = [torch.cat(batches) for batches in images]
    with torch.inference_mode():
        accuracies = [class_accuracy(classifier(batch), labels) for batch in finished]
    return [
        DemoRow(
            model=subject.name,
            method=row.label,
            model_calls=calls[i],
            speed=seconds[0] / seconds[i],
            rmse_to_base=rmse(finished[i], finished[0]),
            accuracy=accuracies[i],
            images=finished[i],
        )
        for i, row in enumerate(rows)
    ]


def raster_codes(scheduler: Any, num_inference_steps: int) -> list[int]:
    """Per base step 0 where the model is called, otherwise how many computed outputs the prediction uses."""
    start_grid(scheduler, num_inference_steps)
    codes: list[int] = []
    for row, window in zip(scheduler.rows, scheduler.plan.windows, strict=True):
        codes += [0] + [row.order] * (len(window) - 1)
    return codes


def run_demo(
    *, models: Sequence[str], samples: int, calls: int, interval: int, seed: int, out: Path, methods: Sequence[Method]
) -> list[DemoRow]:
    """Sample every model with every method, write the pictures to `out`, return the rows of the table."""
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    import_extra("matplotlib.figure", "writing pictures")  # before the work, not after it
    out.mkdir(parents=True, exist_ok=True)
    classifier = load_classifier()
    batches = -(-samples // _BATCH)
    per_model = 2 * calls * interval + len(methods) * calls
    results: list[DemoRow] = []
    with tqdm(total=len(models) * batches * per_model, unit="call", desc="demo", dynamic_ncols=True) as progress:
        for name in models:
            subject = load(name)
            rows = contenders(subject.scheduler, methods, calls, interval)
            finished = compare(subject, rows, samples, seed, classifier, progress)
            results += finished
            _write_pictures(out, subject, finished, rows)
    _write_overview(out, results)
    return results


def _write_overview(out: Path, results: Sequence[DemoRow]) -> None:
    """The base, plain reuse and the defaults of every model on one picture, each with its difference to the base."""
    rows: list[tuple[str, torch.Tensor]] = []
    for model in dict.fromkeys(result.model for result in results):
        of_model = [result for result in results if result.model == model]
        pictures = of_model[0].images[:_OVERVIEW_COLUMNS]
        rows.append((f"{model}\n{of_model[0].model_calls} calls", _side_by_side(pictures, pictures)))
        for result in of_model:
            if result.method in (REUSE.label, DEFAULTS.label):
                label = f"{result.method}\n{result.model_calls} calls"
                rows.append((label, _side_by_side(result.images[:_OVERVIEW_COLUMNS], pictures)))
    columns = len(rows[0][1])
    names = ["" for _ in range(columns)]
    names[0], names[columns // 2] = "samples", f"difference, {_AMPLIFIED} times"
    write_image_grid(out / "overview.png", "Same noise, a third of the model calls", rows, names)


def _side_by_side(images: torch.Tensor, base_images: torch.Tensor) -> torch.Tensor:
    return torch.cat([images, _difference(images, base_images)])


def _difference(images: torch.Tensor, base_images: torch.Tensor) -> torch.Tensor:
    return _AMPLIFIED * (images - base_images).abs() - 1


def _write_pictures(out: Path, subject: Any, finished: Sequence[DemoRow], rows: Sequence[Contender]) -> None:
    shown = min(len(finished[0].images), subject.num_classes)
    labelled = [(f"{row.method}\n{row.model_calls} calls", row.images[:shown]) for row in finished]
    names = [str(name) for name in subject.class_names[:shown]]
    write_image_grid(out / f"{subject.name}.png", f"{subject.name}: same noise, one class per column", labelled, names)
    differences = [(label, _difference(images, labelled[0][1])) for label, images in labelled[1:]]
    title = f"{subject.name}: difference to the base, {_AMPLIFIED} times (black: none)"
    write_image_grid(out / f"{subject.name}_differences.png", title, differences, names)
    cached = [(row.label, raster_codes(row.scheduler, row.num_inference_steps)) for row in (rows[0], *rows[2:])]
    steps = rows[0].num_inference_steps
    title = f"{subject.name}: which of the {steps} base steps call the model; the others are predicted"
    write_plan_raster(out / f"{subject.name}_plans.png", title, cached)


def demo(
    *, models: Sequence[str], samples: int = 64, calls: int = 17, interval: int = 3, seed: int = 0, out: Path
) -> str:
    """Run the demo and return its table as text.

    Args:
        models: names of bundled models.
        samples: pictures per method, the classes in turn.
        calls: model calls of the cached methods.
        interval: base steps per call; the base takes `calls * interval` steps.
        seed: of the noise.
        out: folder for the pictures.
    """
    results = run_demo(
        models=models,
        samples=samples,
        calls=calls,
        interval=interval,
        seed=seed,
        out=out,
        methods=compared_methods(),
    )
    table = text_table(_HEADERS, [row.cells() for row in results], left=2)
    legend = (
        f"{samples} samples, seed {seed}. speed: loop time of the base over the method's, fastest batch of each."
        f"\nRMSE to base: against the base sampler's {calls * interval} steps from the same noise."
        "\nStock DDIM walks a stride that leaves its own trailing grid unless the number of steps divides 1000."
    )
    return f"{table}\n\n{legend}\nPictures: {out}/"
