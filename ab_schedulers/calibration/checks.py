"""What is refused and what is warned of, before any model call."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ab_schedulers.schedulers import ABCacheScheduler

logger = logging.getLogger(__name__)

FEW_TRAJECTORIES = 16
_DISTILLED = ("turbo", "lightning", "schnell", "lcm", "hyper-sd", "distill", "dmd", "-sprint")


def check_calls(num_model_calls: Any) -> list[int]:
    """The numbers of calls, sorted.

    Raises:
        ValueError: Unless they are whole numbers from 2 to 100.
    """
    wanted = [num_model_calls] if isinstance(num_model_calls, int) else num_model_calls
    if not isinstance(wanted, Sequence) or isinstance(wanted, str) or not wanted:
        raise ValueError(
            f"`num_model_calls` must be a list such as [5, 8, 10], received {num_model_calls!r}; correct it."
        )
    for calls in wanted:
        if isinstance(calls, bool) or not isinstance(calls, int) or not 2 <= calls <= 100:
            raise ValueError(
                f"`num_model_calls` must hold whole numbers from 2 to 100, received {calls!r}; drop or correct it."
            )
    return sorted(set(wanted))


def check_base_steps(num_base_steps: Any, wanted: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``num_base_steps`` is None, or a whole number above every number of calls."""
    if num_base_steps is None:
        return
    least = max(wanted, default=1) + 1
    whole = isinstance(num_base_steps, int) and not isinstance(num_base_steps, bool)
    if not whole or not least <= num_base_steps <= 1000:
        raise ValueError(
            f"`num_base_steps` must be None or a whole number from {least} (more than the calls) to 1000, received "
            f"{num_base_steps!r}; pass the number of steps that you would take without a cache, 50 say."
        )


def check_config(config: Mapping[str, Any]) -> ABCacheScheduler:
    """The cached scheduler that serves ``config``.

    Raises:
        ValueError: If it is not served, draws fresh noise, or clips.
    """
    scheduler: ABCacheScheduler = ABCacheScheduler.from_config(config, calibrations=None)
    if scheduler._stochastic:
        raise ValueError(
            "the scheduler draws fresh noise at every step, so its trajectories cannot be repeated; expected a "
            "deterministic one. Switch the noise off (`stochastic_sampling=False`, algorithm_type='dpmsolver++')."
        )
    for option in ("clip_sample", "thresholding"):
        if scheduler.config.get(option):
            raise ValueError(
                f"the scheduler has `{option}=True`, which fitted rows, being linear, cannot express; expected False. "
                f"Set {option}=False, or keep the uncalibrated scheduler."
            )
    return scheduler


def check_inputs(inputs: Any) -> list[dict[str, Any]]:
    """Keyword arguments of the pipeline's runs.

    Raises:
        ValueError: If there are none, or they draw noise or set what the calibration sets.
    """
    wanted = [inputs] if isinstance(inputs, Mapping) else inputs
    if not isinstance(wanted, Sequence) or isinstance(wanted, str) or not wanted:
        raise ValueError(
            f"`inputs` must hold the keyword arguments of at least one run of the pipeline, received {inputs!r}; pass "
            'a list such as [{"prompt": "a lighthouse"}, ...], a few dozen pictures in all.'
        )
    for run in wanted:
        if not isinstance(run, Mapping):
            raise ValueError(f"`inputs` must be a list of dicts, received the entry {run!r}; pass keyword arguments.")
        if run.get("eta"):
            raise ValueError(f"`inputs` ask for fresh noise, eta={run['eta']}; calibrate the deterministic sampler.")
        fixed = {"num_inference_steps", "timesteps", "sigmas", "strength"} & set(run)
        if fixed:
            raise ValueError(f"`inputs` set {sorted(fixed)}, which the calibration chooses; drop them.")
    return [dict(run) for run in wanted]


def warn_of_distillation(names: Sequence[str]) -> None:
    """Log a warning where a name says that the model was distilled to few steps."""
    found = [name for name in names if any(mark in name.lower() for mark in _DISTILLED)]
    if found:
        logger.warning(
            "%s sounds like a model distilled to few steps: it does not follow the flow that the reference converges "
            "to, so more accurate sampling may look worse. Compare pictures before you use the calibration.",
            found[0],
        )


def check_number_of_trajectories(count: int) -> None:
    """Refuse fewer than two trajectories, warn of few.

    Raises:
        ValueError: If there are fewer than two.
    """
    if count < 2:
        raise ValueError(
            f"a calibration needs at least two trajectories, one to fit and one held back, received {count}; pass "
            "more inputs, a few dozen if you can."
        )
    if count < FEW_TRAJECTORIES:
        logger.warning(
            "%d trajectories are few: rows fitted to them may not carry over to others. Use %d or more.",
            count,
            FEW_TRAJECTORIES,
        )
