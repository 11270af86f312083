"""Runs of a whole pipeline as a black box."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ab_schedulers.numerics import Row
from ab_schedulers.schedulers import ABCacheScheduler

from .recordings import Recording, excerpt
from .runs import Choose, Runs
from .walks import Walk

_PASSES = 4


class PipelineRuns(Runs):
    """Runs of a pipeline as a black box: its scheduler is exchanged, its own loop walks.

    Args:
        pipe: A diffusers pipeline.
        inputs: Keyword arguments of its call, one mapping per run; each run may hold several trajectories.
        seed: The run ``i`` gets a generator with seed ``seed + i`` unless its inputs name one or ``latents``.
        values: How many values of each trajectory are kept.
        on_call: Called after every model call.
    """

    restarts = False

    def __init__(
        self,
        pipe: Any,
        inputs: Sequence[Mapping[str, Any]],
        seed: int,
        values: int,
        on_call: Callable[[], object],
    ) -> None:
        super().__init__(pipe.scheduler.config, values, on_call)
        self._pipe, self._inputs, self._seed = pipe, list(inputs), seed
        self._batches: list[int] = []

    @property
    def inputs(self) -> int:
        """Pipeline runs per pass."""
        return len(self._inputs)

    def _set_timesteps(self, scheduler: ABCacheScheduler, num_calls: int) -> None:
        self._call(scheduler, 0, num_calls)

    @property
    def passes(self) -> int:
        """One where a single run holds all trajectories; else the rows are fitted again after each of a few passes."""
        return 1 if self.inputs == 1 else _PASSES

    def base_states(self, num_base_steps: int) -> torch.Tensor:
        """One run of the pipeline for every one of the inputs."""
        return torch.cat([self._base_states(num_base_steps, i) for i in range(self.inputs)])

    def _base_states(self, num_base_steps: int, i: int) -> torch.Tensor:
        scheduler = self._base()
        states: list[torch.Tensor] = []
        original = scheduler.step

        @functools.wraps(original)
        def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not states:
                states.append(excerpt(sample, self.values))
            result = original(model_output, timestep, sample, *args, **kwargs)
            states.append(excerpt(result[0], self.values))
            self._called()
            return result

        setattr(scheduler, "step", step)  # noqa: B010 - on this instance alone
        self._call(scheduler, i, num_base_steps)
        if len(states) != num_base_steps + 1:
            raise ValueError(
                f"the pipeline made {max(len(states) - 1, 0)} steps instead of {num_base_steps}: it starts in the "
                "middle of its grid (image to image), or passes its own `sigmas` or `timesteps`. Expected a run of "
                "`num_inference_steps` steps from pure noise; change the inputs."
            )
        return torch.stack(states, dim=1)

    def run(self, walk: Walk) -> Recording:
        """Run the pipeline once for every one of the inputs."""
        recordings = [self._record(walk, i, lambda call, recording: walk.rows[call]) for i in range(self.inputs)]
        self._batches = [len(recording.samples) for recording in recordings]
        return Recording(
            samples=torch.cat([recording.samples for recording in recordings]),
            outputs=torch.cat([recording.outputs for recording in recordings]),
        )

    def fit(self, walk: Walk, choose: Choose) -> tuple[Walk, Recording]:
        """Rows chosen in the run where one holds all trajectories, else from what the pass before recorded."""
        if self.inputs > 1:
            for _ in range(_PASSES - 1):
                recording = self.run(walk)
                walk = replace(walk, rows=tuple(choose(call, recording) for call in range(len(walk.rows))))
            return walk, self.run(walk)
        rows: list[Row] = []

        def next_row(call: int, recording: Recording) -> Row:
            rows.append(choose(call, recording))
            return rows[-1]

        recording = self._record(walk, 0, next_row)
        return replace(walk, rows=tuple(rows)), recording

    def ends(self, walk: Walk, others: Sequence[tuple[int, Walk]], chosen: torch.Tensor) -> Iterator[torch.Tensor]:
        """A whole run per walk, of those inputs that hold chosen trajectories."""
        masks = chosen.split(self._batches)
        for _, other in others:
            yield torch.cat([self._final(other, i)[mask] for i, mask in enumerate(masks) if bool(mask.any())])

    def _final(self, walk: Walk, i: int) -> torch.Tensor:
        return self._record(walk, i, lambda call, recording: walk.rows[call]).final

    def _record(self, walk: Walk, i: int, choose: Choose) -> Recording:
        """Run the pipeline on inputs ``i``; every row is chosen once the output of its call is known."""
        scheduler = self._scheduler({str(len(walk.rows)): walk.entry()})
        samples: list[torch.Tensor] = []
        outputs: list[torch.Tensor] = []
        original = scheduler.step

        @functools.wraps(original)
        def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            run, call = scheduler._run, len(outputs)
            self.check_calibrated(scheduler, walk)
            assert run is not None
            of_sample, of_output = run.conversions[call]
            before = excerpt(sample, self.values)
            outputs.append(of_sample * before + of_output * excerpt(model_output, self.values))
            if not samples:
                samples.append(before)
            row = choose(call, Recording.of_lists(samples, outputs))
            run.rows = (*run.rows[:call], row, *run.rows[call + 1 :])
            result = original(model_output, timestep, sample, *args, **kwargs)
            samples.append(excerpt(result[0], self.values))
            self._called()
            return result

        setattr(scheduler, "step", step)  # noqa: B010 - on this instance alone
        self._call(scheduler, i, len(walk.rows))
        if len(outputs) != len(walk.rows):
            raise ValueError(
                f"the pipeline made {len(outputs)} steps instead of {len(walk.rows)}; it cannot be calibrated."
            )
        return Recording.of_lists(samples, outputs)

    def _call(self, scheduler: ABCacheScheduler, i: int, num_calls: int) -> None:
        """Run the pipeline on inputs ``i`` with another scheduler, and put its own back, whatever happens."""
        arguments: dict[str, Any] = {"num_inference_steps": num_calls, **self._inputs[i]}
        if "generator" in arguments:
            arguments["generator"] = _as_given(arguments["generator"])
        elif "latents" not in arguments:
            arguments["generator"] = torch.Generator().manual_seed(self._seed + i)
        if "output_type" in inspect.signature(type(self._pipe).__call__).parameters:
            arguments.setdefault("output_type", "latent")
        own = self._pipe.scheduler
        self._pipe.scheduler = scheduler
        try:
            self._pipe(**arguments)
        finally:
            self._pipe.scheduler = own


def _as_given(generator: Any) -> Any:
    """Copies of one generator or of a list of them, so that every run draws the same noise."""
    if isinstance(generator, (list, tuple)):
        return [_as_given(each) for each in generator]
    return torch.Generator(generator.device).set_state(generator.get_state())
