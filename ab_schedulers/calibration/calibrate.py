"""Fit rows and plan to a model."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
from tqdm import tqdm

from . import checks
from .function_runs import FunctionRuns
from .pipeline_runs import PipelineRuns
from .references import check_same_target, plan_grid, reference_calls, run_reference
from .refinement import Trial
from .result import Calibration
from .runs import Runs
from .search import Budget, Search, estimated_calls
from .trajectories import Trajectories

VALUES = 4096
_HELD_BACK = 4  # every fourth trajectory


def calibrate(
    pipe: Any,
    num_model_calls: Sequence[int] = (5, 6, 8, 10, 15, 20),
    *,
    inputs: Any,
    config: Mapping[str, Any] | None = None,
    num_base_steps: int | None = None,
    trajectories: Trajectories | None = None,
    max_model_calls: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    """Fit rows and plans to a pipeline, or to a function, for given numbers of model calls.

    The reference is the same sampler with 135 calls; with ``num_base_steps`` it is what the scheduler itself gives when
    it computes so many steps, and the calls are chosen among these. Per number of calls, plans of a two-parameter
    family are compared with rows fitted to the reference; the rows of the best are then refined together on the error
    at the end of the run. Every fourth trajectory is held back. Of the candidates that no uncalibrated or stock one
    beats there, the one with the smallest error on all trajectories is taken. Errors are means over trajectories.

    Theory: docs/theory/10-fitted-rows.md.

    Args:
        pipe: A diffusers pipeline whose scheduler `ABCacheScheduler` serves, or a function ``f(sample, timestep)``.
        num_model_calls: Numbers of calls to calibrate.
        inputs: For a pipeline, keyword arguments of its runs, a list of dicts; a run may hold several samples. For a
            function, the noise (trajectories, ...) at the first timestep.
        config: Config of the scheduler; only with a function.
        num_base_steps: Steps of the run that is to be reproduced, as a cache does; None for the converged trajectory.
        trajectories: Reference trajectories of the same inputs and seed from `record`, to save their model calls.
        max_model_calls: Stop improving before more model calls are made.
        seed: Seed of the pipeline's first run; the others count up.
        progress: Show a progress bar.

    Returns:
        The calibration; ``pipe.scheduler = calibration.scheduler(pipe.scheduler.config)`` uses it.

    Raises:
        TypeError: If ``config`` is missing or superfluous.
        ValueError: If something cannot be calibrated, or the budget does not bear one reference run and one run of
            each number of calls; before any model call wherever it can be known.
    """
    wanted = checks.check_calls(num_model_calls)
    checks.check_base_steps(num_base_steps, wanted)
    if trajectories is not None:
        check_same_target(trajectories, num_base_steps)
    with tqdm(disable=not progress, unit="call", dynamic_ncols=True) as bar:
        runs = _runs(pipe, inputs, config, seed, bar.update)
        steps = reference_calls(num_base_steps) if trajectories is None else 0
        least = runs.inputs * (steps + sum(wanted))
        if max_model_calls is not None and max_model_calls < least:
            raise ValueError(
                f"`max_model_calls`={max_model_calls} is too small: the reference and one run of each number of calls "
                f"take {least} model calls. Raise it, or pass fewer inputs."
            )
        bar.total = runs.inputs * (
            steps + sum(estimated_calls(calls, restarts=runs.restarts, passes=runs.passes) for calls in wanted)
        )
        bar.set_description("reference")
        grids = {calls: plan_grid(runs, calls, num_base_steps) for calls in wanted}
        known = trajectories or run_reference(runs, type(pipe).__name__, num_base_steps)
        checks.check_number_of_trajectories(known.count)
        fit = torch.arange(known.count) % _HELD_BACK != min(_HELD_BACK, known.count) - 1
        entries, errors = {}, {}
        for place, calls in enumerate(wanted):
            bar.set_description(f"{calls} calls")
            reserved = runs.inputs * sum(wanted[place + 1 :])
            budget = Budget(runs=runs, limit=None if max_model_calls is None else max_model_calls - reserved)
            trials = Search(nodes=grids[calls], calls=calls, known=known, fit=fit, runs=runs, budget=budget).trials()
            entries[str(calls)], errors[str(calls)] = _chosen(trials, runs)
        bar.total = bar.n
    return Calibration(entries=entries, report={**_provenance(pipe, inputs, known, fit, runs), "errors": errors})


def record(
    pipe: Any,
    *,
    inputs: Any,
    config: Mapping[str, Any] | None = None,
    num_base_steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Trajectories:
    """Reference trajectories for `calibrate`, to be saved and used again; arguments as there."""
    checks.check_base_steps(num_base_steps, [])
    with tqdm(disable=not progress, unit="call", dynamic_ncols=True, desc="reference") as bar:
        runs = _runs(pipe, inputs, config, seed, bar.update)
        bar.total = runs.inputs * reference_calls(num_base_steps)
        return run_reference(runs, type(pipe).__name__, num_base_steps)


def _runs(pipe: Any, inputs: Any, config: Mapping[str, Any] | None, seed: int, on_call: Any) -> Runs:
    if hasattr(pipe, "scheduler"):
        if config is not None:
            raise TypeError("`config` is taken from the pipeline's scheduler, received one as well; drop it.")
        checks.check_config(pipe.scheduler.config)
        chosen = checks.check_inputs(inputs)
        names = [str(getattr(part, "name_or_path", "") or "") for part in getattr(pipe, "components", {}).values()]
        checks.warn_of_distillation([str(getattr(pipe, "name_or_path", "") or ""), *names])
        return PipelineRuns(pipe, chosen, seed, VALUES, on_call)
    if config is None or not callable(pipe):
        raise TypeError("pass a diffusers pipeline, or a function f(sample, timestep) with the scheduler's `config`.")
    checks.check_config(config)
    if not isinstance(inputs, torch.Tensor) or inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError("`inputs` of a function must be the noise, a tensor (trajectories, ...); pass such a tensor.")
    if not bool(torch.isfinite(inputs).all()):
        raise ValueError("`inputs` hold values that are not finite, expected noise; correct them.")
    checks.check_number_of_trajectories(len(inputs))
    return FunctionRuns(pipe, inputs, config, VALUES, on_call)


def _chosen(trials: Sequence[tuple[Trial, bool]], runs: Runs) -> tuple[dict[str, Any], dict[str, Any]]:
    """Entry and errors of the best candidate among those that no start beats on the trajectories held back."""
    bound = min(trial.held_error for trial, start in trials if start)
    best = min((trial for trial, _ in trials if trial.held_error <= bound), key=lambda trial: trial.error)
    candidates = [
        {
            "label": trial.walk.label,
            "fit": trial.fit_error,
            "held_back": trial.held_error,
            "all": trial.error,
            "start": start,
        }
        for trial, start in trials
    ]
    scheduler = checks.check_config(runs.config)
    entry = {
        **best.walk.entry(),
        "scheduler": type(scheduler).__name__,
        "prediction": scheduler._prediction,
        "found_as": best.walk.label,
        "error_held_back": best.held_error,
        "error_fit": best.fit_error,
    }
    found = {
        "chosen": best.walk.label,
        "fit": best.fit_error,
        "held_back": best.held_error,
        "all": best.error,
        "candidates": candidates,
    }
    return entry, found


def _provenance(pipe: Any, inputs: Any, known: Trajectories, fit: torch.Tensor, runs: Runs) -> dict[str, Any]:
    from ab_schedulers import __version__

    guidance = (
        sorted({float(run["guidance_scale"]) for run in checks.check_inputs(inputs) if "guidance_scale" in run})
        if hasattr(pipe, "scheduler")
        else []
    )
    return {
        "model": type(pipe).__name__,
        "guidance_scale": guidance,
        "num_base_steps": known.num_base_steps,
        "trajectories": known.count,
        "held_back": int((~fit).sum()),
        "model_calls": runs.calls,
        "versions": {
            "ab_schedulers": __version__,
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
