"""Noise scaling around stock schedulers, and a schedule of it that is fitted instead of believed."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ab_schedulers.schedulers import ABCacheScheduler
from ab_schedulers.schedulers.combination import linear
from ab_schedulers.schedulers.options import noise_scale_function

from .noise_path import NoisePath

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def apply_noise_scaling(scheduler: Any, noise_scaling: Mapping[str, Any]) -> None:
    """Multiply the noise that the model predicts by ``b(t)`` in every `step` of a stock scheduler.

    Caching, like every discretization, changes the scale of the predicted noise along sampling (exposure bias); the
    factor counters it (EB-Cache, arXiv:2503.07120; epsilon scaling, arXiv:2308.15321). It acts on the implied noise,
    whatever the model predicts, after guidance. The scheduler keeps its class, signature and configuration.

    Theory: docs/theory/09-exposure-bias.md.

    Args:
        scheduler: The scheduler, changed in place. Our own take the option ``noise_scaling`` instead.
        noise_scaling: ``{"value": b}``, ``{"high": b_h, "low": b_l, "threshold": tau}`` (the published b(t)) or
            ``{"t": [...], "values": [...]}``, where ``t`` is the timestep as a fraction of ``num_train_timesteps``.

    Raises:
        TypeError: If ``noise_scaling`` is no dict.
        ValueError: If its form is unknown, the scheduler is scaled already or one of ours, tells no noise levels, or
            keeps its sample in sigma space while the model predicts anything but the noise.

    Examples:
        >>> from diffusers import DDPMScheduler
        >>> scheduler = DDPMScheduler()
        >>> apply_noise_scaling(scheduler, {"value": 0.98})
        >>> remove_noise_scaling(scheduler)
    """
    scale = noise_scale_function(noise_scaling)
    if scale is None:
        raise TypeError("`noise_scaling` must be a dict, received None; leave the scheduler as it is for no scaling.")
    if isinstance(scheduler, ABCacheScheduler):
        raise ValueError(
            f"{type(scheduler).__name__} scales by itself; pass noise_scaling=... to ABCacheScheduler.from_config."
        )
    stock = type(scheduler)
    if hasattr(stock, "_unscaled_class"):
        raise ValueError(f"{stock.__name__} is scaled already; call remove_noise_scaling(scheduler) first.")
    path = NoisePath.of(scheduler)
    if path.prediction != "epsilon" and hasattr(scheduler, "is_scale_input_called"):
        raise ValueError(
            f"{stock.__name__} keeps its sample in sigma space, where the noise implied by a {path.prediction} "
            "prediction needs another formula; use ABCacheScheduler.from_config(config, cache_interval=1, "
            "noise_scaling=...)."
        )

    @functools.wraps(stock.step)
    def step(self: Any, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        scaled = scaled_output(path, scale, model_output, timestep, sample)
        return stock.step(self, scaled, timestep, sample, *args, **kwargs)

    members = {"__module__": stock.__module__, "__doc__": stock.__doc__, "step": step, "_unscaled_class": stock}
    scheduler.__class__ = type(stock.__name__, (stock,), members)


def remove_noise_scaling(scheduler: Any) -> None:
    """Undo `apply_noise_scaling`.

    Raises:
        ValueError: If the scheduler is not scaled.
    """
    stock = getattr(type(scheduler), "_unscaled_class", None)
    if stock is None:
        raise ValueError(f"{type(scheduler).__name__} is not scaled; pass the scheduler that was.")
    scheduler.__class__ = stock


def scaled_output(
    path: NoisePath, scale: Callable[[float], float], output: torch.Tensor, timestep: Any, sample: torch.Tensor
) -> torch.Tensor:
    """The model's output with its implied noise multiplied by ``b(t)``; a learned variance behind it is left alone.

    At pure noise (``alpha_t = 0``) the output is left alone, too: the noise is the sample itself and no prediction.
    """
    t = float(timestep)
    factor = scale(t / path.num_train_timesteps)
    if factor == 1 or path.scales(t)[0] == 0:
        return output
    pair = path.convert(path.prediction, path.prediction, t, noise_scale=factor)
    prediction, variance = output, None
    if output.shape != sample.shape:
        prediction, variance = output.tensor_split([sample.shape[1]], dim=1)
    precise = sample.to(torch.promote_types(sample.dtype, torch.float32))
    scaled = linear(pair[0], precise, pair[1], prediction).value().to(output.dtype)
    return scaled if variance is None else torch.cat([scaled, variance], dim=1)


def implied_noise(path: NoisePath, output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> torch.Tensor:
    """The noise that an output implies, in float32 or better."""
    pair = path.convert(path.prediction, "epsilon", float(timestep))
    precise = sample.to(torch.promote_types(sample.dtype, torch.float32))
    return linear(pair[0], precise, pair[1], output[:, : sample.shape[1]].to(precise.dtype)).value()


def noised(path: NoisePath, clean: torch.Tensor, noise: torch.Tensor, timestep: Any) -> torch.Tensor:
    """The forward process: ``alpha_t x_0 + sigma_t epsilon``."""
    alpha, sigma = path.scales(float(timestep))
    return alpha * clean + sigma * noise


def mean_norm(tensor: torch.Tensor) -> float:
    """Mean over the batch of the L2 norm of a sample."""
    return float(tensor.flatten(1).norm(dim=1).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedNoiseScaling:
    """What `fit_noise_scaling` found.

    Args:
        noise_scaling: The best candidate, a value for ``noise_scaling``.
        deviations: Every candidate with the root mean square of ``log(norm along sampling / norm along the forward
            process)`` over the steps; the first is no scaling.
        ratios: ``norm along the forward process / norm along sampling`` without scaling, per step: the factor of
            epsilon scaling.
    """

    noise_scaling: dict[str, Any]
    deviations: tuple[tuple[dict[str, Any], float], ...]
    ratios: tuple[float, ...]


@torch.no_grad()
def fit_noise_scaling(
    predict: Predict,
    scheduler: Any,
    *,
    noise: torch.Tensor,
    clean: torch.Tensor,
    forward_predict: Predict | None = None,
    constants: Sequence[float] = (0.98, 0.99, 0.995, 1.005, 1.01, 1.02),
    generator: torch.Generator | None = None,
) -> FittedNoiseScaling:
    """The scaling under which sampling keeps the norm of the predicted noise nearest to that of the forward process.

    Epsilon scaling (Ning et al., arXiv:2308.15321) divides the predicted noise by the ratio of its norm along sampling
    to that along the forward process. That is one candidate here, its reciprocal is another, and constants are the
    rest; each is tried on whole runs, because scaling at one step changes the samples of all later ones, and may
    well drive the norm away from where it should be. So the sign is measured.

    Theory: docs/theory/09-exposure-bias.md.

    Args:
        predict: The model's output, after guidance, of a noisy batch (batch, ...) and a timestep.
        scheduler: A stock scheduler after `set_timesteps`, whose samples are those the model is given.
        noise: Starting noise (batch, ...).
        clean: Clean samples of the same shape, each of the conditioning that ``predict`` uses for its row.
        forward_predict: The same with a bare model, which judges the samples; needed where ``predict`` is cached.
        constants: Constant factors to try.
        generator: Of the noise of the forward process and of stochastic steps.

    Raises:
        ValueError: If ``clean`` and ``noise`` differ in shape, the scheduler tells no noise levels or is scaled.
    """
    if clean.shape != noise.shape:
        raise ValueError(
            f"`clean` must have the shape of `noise`, {tuple(noise.shape)}, received {tuple(clean.shape)}; pass one "
            "clean sample per row, of the same conditioning."
        )
    path, judge = NoisePath.of(scheduler), forward_predict or predict
    generator = generator or torch.Generator(noise.device).manual_seed(0)
    seed = generator.initial_seed()
    expected = []
    for timestep in scheduler.timesteps:
        fresh = torch.randn(noise.shape, generator=generator, dtype=noise.dtype, device=noise.device)
        truth = noised(path, clean, fresh, timestep)
        expected.append(mean_norm(implied_noise(path, judge(truth, timestep), timestep, truth)))

    def ratios(noise_scaling: Mapping[str, Any]) -> list[float]:
        walker = copy.deepcopy(scheduler)
        apply_noise_scaling(walker, noise_scaling)
        norms = _norms(predict, forward_predict, walker, path, noise, generator.manual_seed(seed))
        return [norm / norm_forward for norm, norm_forward in zip(norms, expected, strict=True)]

    plain = ratios({"value": 1.0})
    inverse = [1 / ratio for ratio in plain]
    times = [float(timestep) / path.num_train_timesteps for timestep in scheduler.timesteps]
    candidates: list[dict[str, Any]] = [
        *({"t": times[::-1], "values": values[::-1]} for values in (inverse, plain)),
        *({"value": constant} for constant in constants),
    ]
    deviations = [({"value": 1.0}, _deviation(plain)), *((c, _deviation(ratios(c))) for c in candidates)]
    best = min(deviations, key=lambda pair: pair[1])[0]
    return FittedNoiseScaling(noise_scaling=best, deviations=tuple(deviations), ratios=tuple(inverse))


def _deviation(ratios: Sequence[float]) -> float:
    return math.sqrt(sum(math.log(ratio) ** 2 for ratio in ratios) / len(ratios))


def _norms(
    predict: Predict,
    judge: Predict | None,
    scheduler: Any,
    path: NoisePath,
    sample: torch.Tensor,
    generator: torch.Generator,
) -> list[float]:
    """Mean norm of the noise that the bare model predicts at each sample of a run."""
    options = {"generator": generator} if takes_generator(scheduler) else {}
    norms = []
    for timestep in scheduler.timesteps:
        output = predict(sample, timestep)
        judged = output if judge is None else judge(sample, timestep)
        norms.append(mean_norm(implied_noise(path, judged, timestep, sample)))
        sample = scheduler.step(output, timestep, sample, return_dict=False, **options)[0]
    return norms


def takes_generator(scheduler: Any) -> bool:
    """Whether `step` draws from a generator that it is given."""
    return "generator" in inspect.signature(scheduler.step).parameters
