"""`ab-schedulers bench jumps`: runs whose guidance changes half way, with and without `reset_history` there.

The guidance changes at a call, as it does where a callback or a pipeline changes it. The error is to the base
sampler's own run on the whole grid with the change at the same timestep. `abruptness` is what the scheduler measures
after a run to tell a jump; the largest value of a run whose guidance does not change stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch

from ab_schedulers.bench.environment import environment, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.sampling import seeded_noise, start_grid
from ab_schedulers.bench.tables import markdown_table, text_table
from ab_schedulers.models import BundledModel, load
from ab_schedulers.schedulers import ABCacheScheduler
from ab_schedulers.schedulers.jumps import abruptness

_INTERVAL = 3
_HEADERS = ("model", "guidance", "switch from", "calls", "across", "reset", "abruptness", "without switch")
SWITCHES = ((4.0, 1.0, 0.6), (4.0, 1.0, 0.3), (1.0, 4.0, 0.8), (4.0, 3.0, 0.875))


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Guidance `before`, and `after` from the fraction `boundary` of the timesteps downward."""

    before: float
    after: float
    boundary: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpResult:
    """One row: RMSE with the history kept and forgotten, and the abruptness at the switch and elsewhere."""

    model: str
    switch: Switch
    calls: int
    across: float
    reset: float
    at_switch: float
    without_switch: float

    def cells(self) -> list[str]:
        """The row as text."""
        guidance = f"{self.switch.before:g} to {self.switch.after:g}"
        errors = [f"{self.across:.4f}", f"{self.reset:.4f}"]
        return [
            self.model,
            guidance,
            f"{self.switch.boundary:g}",
            str(self.calls),
            *errors,
            f"{self.at_switch:.2f}",
            f"{self.without_switch:.2f}",
        ]


@torch.inference_mode()
def switched_run(
    model: BundledModel,
    scheduler: Any,
    calls: int,
    noise: torch.Tensor,
    labels: torch.Tensor,
    switch: Switch,
    *,
    reset: bool = False,
    on_call: Callable[[], object] = lambda: None,
) -> tuple[torch.Tensor, int]:
    """The final samples, and the first call behind the switch."""
    start_grid(scheduler, calls)
    boundary = switch.boundary * scheduler.config.num_train_timesteps
    nothing = torch.full_like(labels, model.num_classes)
    images, first = noise, None
    for call, timestep in enumerate(scheduler.timesteps):
        if first is None and float(timestep) <= boundary:
            first = call
            if reset:
                scheduler.reset_history()
        weight = switch.before if first is None else switch.after
        output = model.predict(images, timestep, labels)
        if weight != 1:
            plain = model.predict(images, timestep, nothing)
            output = plain + weight * (output - plain)
        images = scheduler.step(output, timestep, images, return_dict=False)[0]
        on_call()
    return images, calls if first is None else first


def largest_abruptness(scheduler: ABCacheScheduler, call: int | None = None) -> float:
    """Abruptness of the finished run at `call`, or its largest value."""
    run = scheduler._run
    assert run is not None
    ratios = abruptness(*scheduler._recorded(run))
    return max(ratios) if call is None else ratios[call]


def jump_result(
    name: str, switch: Switch, calls: int, samples: int, on_call: Callable[[], object] = lambda: None
) -> JumpResult:
    """Run one model at one number of calls, the switch at the first call below its boundary."""
    model = load(name)
    noise, labels = seeded_noise(model, samples, 0)
    config = model.scheduler.config

    def run(steps: int, change: Switch, reset: bool = False, **options: Any) -> tuple[torch.Tensor, int, Any]:
        scheduler = ABCacheScheduler.from_config(config, **options)
        images, first = switched_run(model, scheduler, steps, noise, labels, change, reset=reset, on_call=on_call)
        return images, first, scheduler

    at_call = _at_call(switch, ABCacheScheduler.from_config(config, cache_interval=_INTERVAL), calls)
    reference, _, _ = run(calls * _INTERVAL, at_call, cache_interval=1)
    across, first, scheduler = run(calls, at_call, cache_interval=_INTERVAL)
    reset, _, _ = run(calls, at_call, True, cache_interval=_INTERVAL)
    steady = replace(switch, after=switch.before)
    _, _, smooth = run(calls, steady, cache_interval=_INTERVAL)
    return JumpResult(
        model=name,
        switch=switch,
        calls=calls,
        across=rmse(across, reference),
        reset=rmse(reset, reference),
        at_switch=largest_abruptness(scheduler, first),
        without_switch=largest_abruptness(smooth),
    )


def _at_call(switch: Switch, scheduler: Any, calls: int) -> Switch:
    """The same change of guidance, at the first call below the boundary (and half a timestep above it)."""
    start_grid(scheduler, calls)
    train = scheduler.config.num_train_timesteps
    timestep = next(t for t in scheduler.timesteps.tolist() if t <= switch.boundary * train)
    return replace(switch, boundary=(timestep + 0.5) / train)


def jumps(*, models: Sequence[str], calls: Sequence[int], samples: int, out: Path) -> str:
    """Run every model, switch and number of calls, write `jumps.json` and `jumps.md`, return the table as text.

    Args:
        models: Names of bundled models.
        calls: Numbers of model calls.
        samples: Trajectories per run.
        out: Folder of the results.
    """
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    switches = [Switch(before=before, after=after, boundary=boundary) for before, after, boundary in SWITCHES]
    total = len(models) * len(switches) * sum(count * (_INTERVAL + 3) for count in calls)
    with tqdm(total=total, unit="call", desc="jumps", dynamic_ncols=True) as progress:
        results = [
            jump_result(name, switch, count, samples, progress.update)
            for name in models
            for switch in switches
            for count in calls
        ]
    write_json(out / "jumps.json", {"environment": environment(), "results": [asdict(item) for item in results]})
    rows = [item.cells() for item in results]
    (out / "jumps.md").write_text(markdown_table(_HEADERS, rows) + "\n", encoding="utf-8")
    ratio = geometric_mean([item.reset / item.across for item in results])
    note = (
        f"{samples} trajectories; RMSE to the base run on {_INTERVAL} times as many steps with the same switch.\n"
        f"Error with reset over error across: {ratio:.2f} in the geometric mean."
    )
    return f"{text_table(_HEADERS, rows)}\n\n{note}\nResults: {out / 'jumps.json'}"
