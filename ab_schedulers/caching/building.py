"""Building a table for a model: the most reuse that leaves the norm of its output where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from ab_schedulers.schedulers.options import check_choice, noise_scale_function

from .eb_cache import check_transformer
from .eb_table import COMPUTE, EXTRAPOLATE, REUSE, EBTable
from .families import KINDS
from .placement import place, remove_cache
from .voting import STAGE_BOUNDARY, Ballot, Criterion, TableProbe, TimedModule, majority

_FIRST_DELTA, _DOUBLINGS, _HALVINGS = 0.005, 8, 4


def build_eb_table(
    pipe: Any,
    run: Callable[[int], object],
    *,
    num_inference_steps: int,
    samples: int = 8,
    target_speedup: float | None = None,
    delta: float | None = None,
    tilt: float = 1.0,
    action: str = REUSE,
    order: int = 2,
    noise_scaling: Mapping[str, Any] | None = None,
    num_train_timesteps: int = 1000,
) -> EBTable:
    """A table for ``pipe``: at each step the most reuse that keeps the norm of the model's output.

    Along calibration runs each call is answered three times: computed, with attention and MLP reused, and with the
    candidate of the stage reused (the MLP alone early, attention alone late). Every sample votes for the most reuse
    whose norm, after noise scaling, deviates from the computed one by no more than ``delta(t)``, linear in ``t``; the
    majority decides (EB-Cache, arXiv:2503.07120). Runs continue with the majority of their own batch.

    Theory: docs/theory/09-exposure-bias.md.

    Args:
        pipe: A pipeline with a ``transformer``, or the transformer itself.
        run: Samples once with ``pipe``; it is called with 0, 1, ... and decides on prompt, batch and seed.
        num_inference_steps: Steps of each run, and of the table.
        samples: Number of calls of ``run``.
        target_speedup: Choose the smallest ``delta`` that gives this speed-up. What a step costs without attention and
            MLP is measured. Each try takes ``samples`` runs of three times the model calls, up to 13 tries.
        delta: The tolerance itself, instead.
        tilt: Slope of the tolerance, -1 to 1; the tolerance is ``delta (1 + tilt (2 t - 1))``.
        action: ``"R"`` reuses the last output at skipped steps, ``"E"`` extrapolates the last ``order`` ones.
        order: The ``order`` that `EBCacheConfig` will have, where outputs are extrapolated.
        noise_scaling: The scaling that the runs will have, in the forms the schedulers take.
        num_train_timesteps: The timestep of pure noise.

    Raises:
        ValueError: If not exactly one of ``target_speedup`` and ``delta`` is given, one is out of range, the speed-up
            cannot be had, or a run has another number of steps.
    """
    model = getattr(pipe, "transformer", pipe)
    _check(target_speedup, delta, tilt, num_inference_steps, samples)
    check_choice({"action": action}, "action", (REUSE, EXTRAPOLATE))
    scale = noise_scale_function(noise_scaling) or (lambda t: 1.0)
    provenance = {
        "method": "build_eb_table",
        "model": type(model).__name__,
        "samples": samples,
        "tilt": tilt,
        "action": action,
        "order": order,
        "stage_boundary": STAGE_BOUNDARY,
        "noise_scaling": None if noise_scaling is None else dict(noise_scaling),
        "target_speedup": target_speedup,
    }

    seconds: dict[str, float] = {}

    def attempt(tolerance: float) -> tuple[EBTable, float]:
        criterion = Criterion(
            delta=tolerance,
            tilt=tilt,
            action=action,
            order=order,
            scale=scale,
            num_train_timesteps=num_train_timesteps,
        )
        ballot = _take_votes(model, run, samples, num_inference_steps, criterion)
        seconds.update(ballot.seconds if not seconds else {})  # one measurement, lest the tries differ by its noise
        ballot.seconds = dict(seconds)
        table = _elect(ballot, num_inference_steps, action)
        speedup = ballot.speedup(table)
        shares = {kind: round(ballot.share(kind), 3) for kind in KINDS}
        noted = {**provenance, "delta": tolerance, "ideal_speedup": round(speedup, 3), "time_shares": shares}
        return replace(table, provenance=noted), speedup

    if delta is not None:
        return attempt(delta)[0]
    assert target_speedup is not None
    return _search(attempt, target_speedup)


def _check(
    target_speedup: float | None, delta: float | None, tilt: float, num_inference_steps: int, samples: int
) -> None:
    if (target_speedup is None) == (delta is None):
        raise ValueError("exactly one of `target_speedup` and `delta` must be given; 1.5 is a usual speed-up.")
    if target_speedup is not None and not target_speedup > 1:
        raise ValueError(f"`target_speedup` must exceed 1, received {target_speedup}; 1.5 is usual.")
    if delta is not None and not delta >= 0:
        raise ValueError(f"`delta` must not be negative, received {delta}; 0.01 is a start.")
    if not -1 <= tilt <= 1:
        raise ValueError(f"`tilt` must lie between -1 and 1, received {tilt}; 1 is the default.")
    if num_inference_steps < 2 or samples < 1:
        raise ValueError(
            f"`num_inference_steps` must be at least 2 and `samples` at least 1, received {num_inference_steps} and "
            f"{samples}; raise them."
        )


def _take_votes(
    model: torch.nn.Module, run: Callable[[int], object], samples: int, num_inference_steps: int, criterion: Criterion
) -> Ballot:
    reader, modules = check_transformer(model)
    probe = TableProbe(reader, criterion)
    place(model, probe, {module: TimedModule(probe, name, kind) for name, (kind, module) in modules.items()})
    try:
        for i in range(samples):
            run(i)
            steps = len(probe.ballot.votes)
            if steps != num_inference_steps:
                raise ValueError(
                    f"the calibration run had {steps} steps, but `num_inference_steps` is {num_inference_steps}; let "
                    "`run` sample with that number."
                )
    finally:
        remove_cache(model)
    return probe.ballot


def _elect(ballot: Ballot, num_steps: int, action: str) -> EBTable:
    """The table of the majorities."""
    rows = {kind: [COMPUTE] * num_steps for kind in KINDS}
    for step, counts in ballot.votes.items():
        choice = majority(counts)
        for kind in KINDS:
            if choice == "both" or (choice == "candidate" and kind in ballot.candidates[step]):
                rows[kind][step] = action
    attention, cross_attention, mlp = ("".join(rows[kind]) for kind in KINDS)
    return EBTable(attention=attention, cross_attention=cross_attention, mlp=mlp)


def _search(attempt: Callable[[float], tuple[EBTable, float]], target: float) -> EBTable:
    """The table of least speed-up that reaches the target: the tolerance doubled until it does, then halved in."""
    tolerance, too_low = _FIRST_DELTA, 0.0
    table, speedup = attempt(tolerance)
    for _ in range(_DOUBLINGS):
        if speedup >= target:
            break
        too_low, tolerance = tolerance, 2 * tolerance
        table, speedup = attempt(tolerance)
    if speedup < target:
        raise ValueError(
            f"no tolerance up to {tolerance:.3g} gives a speed-up of {target}; the largest found is {speedup:.2f}. "
            "Lower `target_speedup`; `tilt` nearer to 0 allows reuse at more steps."
        )
    best, enough = (speedup, table), tolerance
    for _ in range(_HALVINGS):
        tolerance = (too_low + enough) / 2
        table, speedup = attempt(tolerance)
        if speedup >= target:
            enough = tolerance
            best = min(best, (speedup, table), key=lambda found: found[0])
        else:
            too_low = tolerance
    return best[1]
