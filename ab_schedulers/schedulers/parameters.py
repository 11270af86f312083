"""Reading a diffusers class's own parameters out of a config, and the reach of its grids."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ab_schedulers.numerics import CachePlan


def base_parameters(base: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ``base.__init__`` as they stand in ``config``.

    All are passed by keyword: a positional call would mark them as defaults in diffusers' bookkeeping.
    """
    names = [name for name in inspect.signature(base.__init__).parameters if name != "self"]  # type: ignore[misc]
    return {name: config[name] for name in names}


def check_number_of_base_steps(config: Mapping[str, Any], plan: CachePlan) -> None:
    """Raise ``ValueError`` if the base grid has more steps than the model was trained with."""
    if plan.num_base_steps > config["num_train_timesteps"]:
        raise ValueError(
            f"{plan.num_calls} model calls (`num_inference_steps`) walk {plan.num_base_steps} base steps, expected "
            f"at most `num_train_timesteps`={config['num_train_timesteps']}. Lower `num_base_steps`, `cache_interval` "
            "or the number of calls."
        )


def check_noise_shape(noise: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """Return ``noise`` if it has the shape of ``sample`` or broadcasts to it, as in diffusers; else raise."""
    try:
        fits = torch.broadcast_shapes(noise.shape, sample.shape) == sample.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"`variance_noise` must have the shape of the sample, {tuple(sample.shape)}, or broadcast to it, received "
            f"{tuple(noise.shape)}; pass noise of that shape."
        )
    return noise


def check_leading_reach(config: Mapping[str, Any], plan: CachePlan, first_timestep: Callable[[int], int]) -> None:
    """Refuse a ``leading`` base grid that skips the noisy end because it has too many steps.

    Such a grid has the stride ``num_train_timesteps // steps`` and starts at ``stride * steps``: 600 steps of 1000
    start at t = 600, silently.

    Args:
        config: The scheduler's config.
        plan: Base steps and calls; a plan that skips nothing is the stock grid and is let through.
        first_timestep: The first timestep of the grid with so many steps.

    Raises:
        ValueError: If the grid has more steps than half of ``num_train_timesteps``, or starts more than a tenth of
            ``num_train_timesteps`` below the grid with one step per call.
    """
    steps, calls, train = plan.num_base_steps, plan.num_calls, config["num_train_timesteps"]
    if config["timestep_spacing"] != "leading" or steps == calls:
        return
    if steps > train // 2 or first_timestep(steps) < first_timestep(calls) - train // 10:
        fitting = max(n for n in range(calls, steps) if first_timestep(n) >= first_timestep(calls) - train // 10)
        raise ValueError(
            f'timestep_spacing="leading" with {steps} base steps starts at timestep {first_timestep(steps)} of {train} '
            f"and never sees the noise above it. Set `num_base_steps` to {min(fitting, train // 2)} or less, lower "
            '`cache_interval`, or use timestep_spacing="trailing".'
        )
