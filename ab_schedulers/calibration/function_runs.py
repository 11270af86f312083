"""Runs of a bare function ``f(sample, timestep)``, which can go on from the middle of another run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ab_schedulers.numerics import Row
from ab_schedulers.schedulers import ABCacheScheduler
from ab_schedulers.schedulers.options import MAX_ORDER

from .recordings import Recording, excerpt
from .runs import Choose, Runs
from .walks import Walk

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(slots=True, kw_only=True)
class _State:
    """A run in the middle: the sample at a call and the outputs of the calls before, newest first."""

    sample: torch.Tensor
    history: list[torch.Tensor]


class FunctionRuns(Runs):
    """Runs of a function ``f(sample, timestep)``.

    Args:
        function: The model, with guidance and conditioning inside; it gets all of ``noise``'s trajectories, or those
            that ``function.of(indices)`` selects, where it has such a method.
        noise: Samples at the first timestep, (trajectories, ...).
        config: Config of the scheduler.
        values: How many values of each trajectory are kept.
        on_call: Called after every model call.
    """

    inputs, restarts, passes = 1, True, 1

    def __init__(
        self,
        function: Denoiser,
        noise: torch.Tensor,
        config: Mapping[str, Any],
        values: int,
        on_call: Callable[[], object],
    ) -> None:
        super().__init__(config, values, on_call)
        self._function, self._noise = function, noise

    def _set_timesteps(self, scheduler: ABCacheScheduler, num_calls: int) -> None:
        if type(scheduler)._target == "flow_match":
            sigmas = [1 - i / num_calls for i in range(num_calls)]
            mu = 1.0 if scheduler.config.use_dynamic_shifting else None
            scheduler.set_timesteps(sigmas=sigmas, mu=mu)
        else:
            scheduler.set_timesteps(num_calls)

    @torch.no_grad()
    def base_states(self, num_base_steps: int) -> torch.Tensor:
        """The plain sampling loop."""
        scheduler, sample = self._base(), self._noise
        self._set_timesteps(scheduler, num_base_steps)
        states = [excerpt(sample, self.values)]
        for timestep in scheduler.timesteps:
            sample = scheduler.step(self._function(sample, timestep), timestep, sample, return_dict=False)[0]
            states.append(excerpt(sample, self.values))
            self._called()
        return torch.stack(states, dim=1)

    def run(self, walk: Walk) -> Recording:
        """Walk all trajectories at once."""
        _, recording = self.fit(walk, lambda call, recording: walk.rows[call])
        return recording

    def fit(self, walk: Walk, choose: Choose) -> tuple[Walk, Recording]:
        """Walk all trajectories at once, with rows chosen on the way."""
        samples, outputs, rows = [excerpt(self._noise, self.values)], [], []

        def next_row(call: int, output: torch.Tensor) -> Row:
            outputs.append(excerpt(output, self.values))
            rows.append(choose(call, Recording.of_lists(samples, outputs)))
            return rows[-1]

        def see(state: _State) -> None:
            samples.append(excerpt(state.sample, self.values))

        self._walk(walk, next_row, self._function, _State(sample=self._noise, history=[]), 0, see)
        return replace(walk, rows=tuple(rows)), Recording.of_lists(samples, outputs)

    def ends(self, walk: Walk, others: Sequence[tuple[int, Walk]], chosen: torch.Tensor) -> Iterator[torch.Tensor]:
        """One run of the chosen trajectories, then for every other walk the calls after the first row that differs."""
        function, noise = self._restricted(chosen)
        states = [_State(sample=noise, history=[])]
        self._walk(walk, lambda call, output: walk.rows[call], function, states[0], 0, states.append)
        for call, other in others:
            rows, history = other.rows, states[call + 1].history
            start = _State(sample=_combine(rows[call], states[call].sample, history), history=history)
            known = functools.partial(_known_row, rows)
            end = self._walk(other, known, function, start, call + 1, lambda state: None)
            yield excerpt(end.sample, self.values)

    def _restricted(self, chosen: torch.Tensor) -> tuple[Denoiser, torch.Tensor]:
        """Function and noise of some trajectories."""
        select = getattr(self._function, "of", None)
        if select is not None:
            return select(chosen), self._noise[chosen]

        def padded(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            full = self._noise.clone()
            full[chosen] = sample
            return self._function(full, timestep)[chosen]

        return padded, self._noise[chosen]

    @torch.no_grad()
    def _walk(
        self,
        walk: Walk,
        row: Callable[[int, torch.Tensor], Row],
        function: Denoiser,
        state: _State,
        first: int,
        see: Callable[[_State], object],
    ) -> _State:
        """Go on from call ``first``: ``row`` is given each new output, ``see`` each new state."""
        scheduler = self._laid_out(walk)
        run = scheduler._run
        assert run is not None
        for call in range(first, len(walk.rows)):
            output = function(state.sample, scheduler.timesteps[call])
            self._called()
            of_sample, of_output = run.conversions[call]
            history = [of_sample * state.sample + of_output * output, *state.history][:MAX_ORDER]
            state = _State(sample=_combine(row(call, history[0]), state.sample, history), history=history)
            see(state)
        return state

    def _laid_out(self, walk: Walk) -> ABCacheScheduler:
        """A scheduler on the grid of the walk; one suffices for all runs that share a plan."""
        key = (walk.nodes.count, walk.steps, walk.quantity)
        if getattr(self, "_laid_out_key", None) != key:
            scheduler = self._scheduler({str(len(walk.steps)): walk.entry()})
            self._set_timesteps(scheduler, len(walk.steps))
            self.check_calibrated(scheduler, walk)
            self._laid_out_key, self._laid_out_scheduler = key, scheduler
        return self._laid_out_scheduler


def _known_row(rows: Sequence[Row], call: int, output: torch.Tensor) -> Row:
    return rows[call]


def _combine(row: Row, sample: torch.Tensor, history: Sequence[torch.Tensor]) -> torch.Tensor:
    total: torch.Tensor = row.sample * sample
    for weight, output in zip(row.history, history, strict=False):
        total = total + weight * output
    return total
