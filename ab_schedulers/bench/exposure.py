"""`ab-schedulers bench exposure`: how far sampling drifts from the forward process, with and without a cache.

Exposure bias: along sampling a model sees samples it was never trained on. Two curves show it at every timestep: the
signal-to-noise ratio of the sample, and the norm of the noise that the model predicts, both against what the forward
process `alpha_t x_0 + sigma_t epsilon` of real images gives at the same timestep.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from ab_schedulers.bench.environment import environment, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.pictures import write_curves
from ab_schedulers.bench.sampling import seeded_noise, start_grid
from ab_schedulers.bench.tables import markdown_table, text_table
from ab_schedulers.caching import (
    ABCacheConfig,
    EBCacheConfig,
    EBTable,
    FittedNoiseScaling,
    apply_ab_cache,
    apply_eb_cache,
    apply_noise_scaling,
    fit_noise_scaling,
    remove_noise_scaling,
)
from ab_schedulers.caching.noise_path import NoisePath
from ab_schedulers.caching.noise_scaling import implied_noise, mean_norm, noised, takes_generator
from ab_schedulers.models import load
from ab_schedulers.models.fashion_mnist import read_split, scale

ARMS = ("uncached", "cached", "cached + scaling")
_FIT_SEED, _SEED, _FRESH_SEED = 20_000, 20_001, 20_002  # a run never draws its own first noise again
_RUNS = 9 + 1 + len(ARMS)  # candidates of the fit, forward process, arms
_HEADERS = (
    "model, sampler",
    "t",
    *(f"SNR {arm}" for arm in ARMS),
    *(f"norm {arm}" for arm in ARMS),
)
_FIT_HEADERS = ("model, sampler", "factor on the predicted noise", "deviation", "")
_FIT_LEGEND = "Deviation: root mean square of log(norm along cached sampling / norm along the forward process)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Along one run, per step: signal-to-noise ratio in dB and mean norm of the predicted noise."""

    snr: tuple[float, ...]
    norm: tuple[float, ...]


def snr_decibels(sample: torch.Tensor, clean: torch.Tensor) -> float:
    r"""Power of a noisy sample along its clean sample over the power across, mean over the batch, in dB.

    `10 log10 ( <x, x_0>^2 / (|x|^2 |x_0|^2 - <x, x_0>^2) )`, which does not depend on the scale of either. On the
    forward process it estimates `alpha_t^2 |x_0|^2 / (sigma_t^2 |epsilon|^2)`.
    """
    x, x0 = sample.double().flatten(1), clean.double().flatten(1)
    along = (x * x0).sum(dim=1).square()
    across = x.square().sum(dim=1) * x0.square().sum(dim=1) - along
    return float((10 * torch.log10(along / across.clamp_min(1e-12 * along))).mean())


def clean_images(labels: torch.Tensor, data: Path) -> torch.Tensor:
    """Training images (count, 1, 28, 28) of the given classes, the first ones of each."""
    images, classes = read_split(data, "train")
    places = {int(c): iter((classes == c).nonzero()[:, 0].tolist()) for c in labels.unique()}
    return scale(images[[next(places[int(label)]) for label in labels]])


@torch.inference_mode()
def along_sampling(predict: Any, scheduler: Any, noise: torch.Tensor, on_call: Callable[[], object]) -> Curve:
    """The curve of a run; the clean sample of each trajectory is where it ends."""
    path = NoisePath.of(scheduler)
    options = {"generator": torch.Generator().manual_seed(_FRESH_SEED)} if takes_generator(scheduler) else {}
    sample, samples, norms = noise, [], []
    for timestep in scheduler.timesteps:
        output = predict(sample, timestep)
        samples.append(sample)
        norms.append(mean_norm(implied_noise(path, output, timestep, sample)))
        sample = scheduler.step(output, timestep, sample, return_dict=False, **options)[0]
        on_call()
    return Curve(snr=tuple(snr_decibels(earlier, sample) for earlier in samples), norm=tuple(norms))


@torch.inference_mode()
def along_forward_process(predict: Any, scheduler: Any, clean: torch.Tensor, on_call: Callable[[], object]) -> Curve:
    """The curve of noised clean samples at the timesteps of a run."""
    path, generator = NoisePath.of(scheduler), torch.Generator().manual_seed(_FRESH_SEED)
    ratios, norms = [], []
    for timestep in scheduler.timesteps:
        sample = noised(path, clean, torch.randn(clean.shape, generator=generator), timestep)
        norms.append(mean_norm(implied_noise(path, predict(sample, timestep), timestep, sample)))
        ratios.append(snr_decibels(sample, clean))
        on_call()
    return Curve(snr=tuple(ratios), norm=tuple(norms))


def attach_reuse(model: torch.nn.Module, steps: int, interval: int) -> None:
    """Plain reuse at every step but each `interval`-th: attention and MLP in transformers, else the whole model."""
    if hasattr(model, "transformer_blocks"):
        apply_eb_cache(model, EBCacheConfig(table=EBTable.uniform(steps, interval)))
    else:
        apply_ab_cache(model, ABCacheConfig(interval=interval, order=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """The curves of one model under one sampler, and the scaling fitted to its cached runs."""

    label: str
    timesteps: tuple[float, ...]
    forward: Curve
    arms: dict[str, Curve]
    fit: FittedNoiseScaling


def measure(
    name: str, scheduler: Any, *, steps: int, interval: int, samples: int, data: Path, on_call: Callable[[], object]
) -> Exposure:
    """Fit the scalings on one set of noises and images, take the curves on another."""
    subject = load(name)
    cached = replace(subject, model=copy.deepcopy(subject.model))
    attach_reuse(cached.model, steps, interval)
    _, labels = seeded_noise(subject, 2 * samples, _SEED)
    images = clean_images(labels, data)
    fit_images, clean, labels = images[:samples], images[samples:], labels[:samples]
    bare, sparing = _with_labels(subject, labels), _with_labels(cached, labels)
    noise, _ = seeded_noise(subject, samples, _FIT_SEED)
    start_grid(scheduler, steps)
    fit = fit_noise_scaling(_counting(sparing, on_call), scheduler, noise=noise, clean=fit_images, forward_predict=bare)
    start_grid(scheduler, steps)
    forward = along_forward_process(bare, scheduler, clean, on_call)
    arms = {}
    noise, _ = seeded_noise(subject, samples, _SEED)
    for arm, predict, scaling in zip(ARMS, (bare, sparing, sparing), (None, None, fit.noise_scaling), strict=True):
        if scaling is not None:
            apply_noise_scaling(scheduler, scaling)
        start_grid(scheduler, steps)
        arms[arm] = along_sampling(predict, scheduler, noise, on_call)
        if scaling is not None:
            remove_noise_scaling(scheduler)
    return Exposure(
        label=f"{name}, {type(scheduler).__name__.removesuffix('Scheduler').removesuffix('Discrete')}",
        timesteps=tuple(float(t) for t in scheduler.timesteps),
        forward=forward,
        arms=arms,
        fit=fit,
    )


def _with_labels(subject: Any, labels: torch.Tensor) -> Any:
    return lambda sample, timestep: subject.predict(sample, timestep, labels)


def _counting(predict: Any, on_call: Callable[[], object]) -> Any:
    def counted(x: torch.Tensor, t: torch.Tensor) -> Any:
        on_call()
        return predict(x, t)

    return counted


def rows(result: Exposure, every: int) -> list[list[str]]:
    """Table rows at every `every`-th timestep: differences in dB, ratios of norms."""
    cells = []
    for i in range(0, len(result.timesteps), every):
        cells.append(
            [
                result.label,
                f"{result.timesteps[i]:.0f}",
                *(f"{result.arms[arm].snr[i] - result.forward.snr[i]:+.2f}" for arm in ARMS),
                *(f"{result.arms[arm].norm[i] / result.forward.norm[i]:.3f}" for arm in ARMS),
            ]
        )
    return cells


def candidates(result: Exposure) -> list[list[str]]:
    """Every scaling tried on the cached runs, with the deviation it leaves."""
    cells = []
    for i, (scaling, deviation) in enumerate(result.fit.deviations):
        name = ("none", "forward / sampling", "sampling / forward")[i] if i < 3 else f"constant {scaling['value']}"
        chosen = "chosen" if scaling == result.fit.noise_scaling else ""
        cells.append([result.label, name, f"{deviation:.4f}", chosen])
    return cells


def exposure(*, models: Sequence[str], samples: int, steps: int = 50, interval: int = 2, data: Path, out: Path) -> str:
    """Take the curves, write `exposure.json`, `exposure.md` and `exposure.png` to `out`, return the table as text.

    Args:
        models: names of bundled models; the noise-predicting one is walked by DDIM and by DDPM.
        samples: trajectories per curve.
        steps: steps of a run.
        interval: every `interval`-th step is computed in the cached runs, the others reuse its outputs.
        data: folder of Fashion-MNIST, for the forward process.
        out: folder of the results.
    """
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    pairs = [(name, load(name).scheduler) for name in models]
    pairs += [
        (n, DDPMScheduler.from_config(s.config)) for n, s in pairs if s.config.get("prediction_type") == "epsilon"
    ]
    results = []
    with tqdm(total=_RUNS * steps * len(pairs), unit="call", desc="exposure", dynamic_ncols=True) as progress:
        for name, scheduler in pairs:
            results.append(
                measure(
                    name,
                    scheduler,
                    steps=steps,
                    interval=interval,
                    samples=samples,
                    data=data,
                    on_call=progress.update,
                )
            )
    cells = [row for result in results for row in rows(result, max(1, steps // 7))]
    fit_rows = [row for result in results for row in candidates(result)]
    settings = {"samples": samples, "steps": steps, "interval": interval}
    content = {"settings": settings, "environment": environment(), "results": [asdict(result) for result in results]}
    write_json(out / "exposure.json", content)
    tables = (markdown_table(_HEADERS, cells), markdown_table(_FIT_HEADERS, fit_rows))
    (out / "exposure.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    write_curves(
        out / "exposure.png",
        f"Exposure bias: {samples} trajectories of {steps} steps, cached = one step of {interval} computed",
        [
            (
                result.label,
                [
                    ("SNR above the forward process, dB", _excess(result)),
                    ("norm of the predicted noise / forward", _ratios(result)),
                ],
            )
            for result in results
        ],
        x_label="timestep (noise on the left)",
    )
    legend = "SNR in dB above the forward process; norm of the predicted noise over that of the forward process."
    fits = text_table(_FIT_HEADERS, fit_rows)
    return f"{text_table(_HEADERS, cells)}\n\n{legend}\n\n{fits}\n\n{_FIT_LEGEND}\nResults: {out}/"


Series = dict[str, tuple[Sequence[float], Sequence[float]]]


def _excess(result: Exposure) -> Series:
    return {
        arm: (result.timesteps, [a - b for a, b in zip(curve.snr, result.forward.snr, strict=True)])
        for arm, curve in result.arms.items()
    }


def _ratios(result: Exposure) -> Series:
    return {
        arm: (result.timesteps, [a / b for a, b in zip(curve.norm, result.forward.norm, strict=True)])
        for arm, curve in result.arms.items()
    }
