"""The clock: which run, step and stream a call of the model belongs to, from what the model is given.

A *run* is one walk through the timesteps, a *step* all calls at one timestep, a *stream* the calls of one kind over the
steps (conditional, unconditional, skip-layer). Pipelines announce none of these reliably: they name some calls, reset
some models after some runs, and tell nobody when they fail. So everything is read off the call itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

SMALLEST_COSINE = 0.25
"""Below this cosine, two samples do not follow each other in one run.

Consecutive samples of a run share most of their noise or most of their picture (0.85 and more at five steps).
Independent noises of 512 values have a cosine of 0 with standard deviation 0.044.
"""


class Excerpt:
    """Values of a noisy sample, float32, one axis, on the CPU: enough to tell whether two samples follow each other."""

    __slots__ = ("square", "values")

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.square = values, values.dot(values).item()

    def equals(self, other: Excerpt) -> bool:
        """Whether both hold the same values."""
        return torch.equal(self.values, other.values)

    def follows(self, before: Excerpt) -> bool:
        """Whether this sample has enough in common with the one before to be its successor."""
        scale = self.square * before.square
        return scale == 0 or self.values.dot(before.values).item() >= SMALLEST_COSINE * scale**0.5


class Observation(NamedTuple):
    """What one call of the model shows; a named tuple, since one is made at every call, and is made fastest so.

    Attributes:
        timestep: The timestep of the whole batch, in the model's own unit.
        shape: Anything that must not change within a run: shape of one sample, dtype and device.
        batch: Number of samples.
        sample: An excerpt of the first noisy sample.
        name: The name of diffusers' cache context, if the pipeline gives one.
        conditioning: What tells streams without a name apart: an excerpt of text or class embeddings.
    """

    timestep: float
    shape: Hashable
    batch: int
    sample: Excerpt
    name: str | None = None
    conditioning: Hashable = ()

    @property
    def identity(self) -> Hashable:
        """What calls of one stream have in common: batch and name where there is one, else batch and conditioning."""
        return (self.batch, None, self.conditioning) if self.name is None else (self.batch, self.name)


@dataclass(slots=True, kw_only=True, eq=False)
class Stream:
    """The calls of one kind over the steps of a run, and what the hooks remember of them."""

    identity: Hashable
    memory: dict[Hashable, Any] = field(default_factory=dict)


class Tick(NamedTuple):
    """Where a call stands.

    Attributes:
        run: Number of the run, from 1.
        step: Number of the step within the run, from 0.
        timestep: The step's timestep, in the model's own unit.
        place: Number of the call within the step, from 0.
        stream: The stream, empty where the call has no predecessor.
    """

    run: int
    step: int
    timestep: float
    place: int
    stream: Stream


class ScheduleWatch:
    """Sees that a scheduler has laid out its timesteps anew, as pipelines make it do before every run.

    Args:
        scheduler: The scheduler, which is not kept alive; with None nothing is ever seen.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = (lambda: None) if scheduler is None else weakref.ref(scheduler)
        self._timesteps = self._current()

    def has_changed(self) -> bool:
        """Whether the timesteps are other ones than at the last question."""
        before, self._timesteps = self._timesteps, self._current()
        return self._timesteps is not before

    def _current(self) -> Any:
        return getattr(self._scheduler(), "timesteps", None)


class Clock:
    """Places each call in run, step and stream; its rules err on the side of a fresh start, which only costs calls.

    A new run begins where the scheduler, if there is one to watch, has laid out its timesteps anew, where the timestep
    turns back, where shape, dtype or device of the sample change, where the first timestep comes with another sample,
    and where the sample has nothing in common with the one before. Calls at one
    timestep are told apart by the name of their cache context, without one by their conditioning, and among equals by
    their order. A stream whose conditioning changes from step to step, or that missed a step, begins anew.
    """

    def __init__(self, scheduler: Any = None) -> None:
        self._schedule = ScheduleWatch(scheduler)
        self._run = 0
        self._direction = 0  # of the timesteps, once two steps of a run agreed on it
        self.reset()

    def reset(self) -> None:
        """Forget the run; the next call begins a new one."""
        self._step = 0
        self._timestep: float | None = None
        self._trend = 0
        self._shape: Hashable = None
        self._streams: dict[tuple[Hashable, int], Stream] = {}
        self._seen: list[tuple[Hashable, int]] = []
        self._samples: dict[Hashable, Excerpt] = {}

    def observe(self, call: Observation) -> Tick:
        """The place of the next call."""
        identity = call.identity
        if self._schedule.has_changed():
            self.reset()
        if self._timestep is None or self._begins_run(call, identity):
            self.reset()
            self._run += 1
            self._shape, self._timestep = call.shape, call.timestep
        elif call.timestep != self._timestep:
            self._advance(call.timestep)
        occurrence = sum(seen == identity for seen, _ in self._seen)
        if self._step == 0 and occurrence:  # the run failed after its first call and was started again
            occurrence = 0
            self._streams.pop((identity, 0))
            self._seen.remove((identity, 0))
        key = (identity, occurrence)
        self._seen.append(key)
        self._samples[identity] = call.sample
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Stream(identity=identity)
        return Tick(self._run, self._step, call.timestep, len(self._seen) - 1, stream)

    def count(self, timestep: float) -> Tick:
        """The place of the next call by its timestep alone, for caches that skip nothing: only their report needs it.

        A run that begins below the timestep where the one before failed is not seen, and streams are not told apart.
        """
        if self._timestep is None or self._turns_back(timestep):
            self.reset()
            self._run += 1
            self._timestep = timestep
        elif timestep != self._timestep:
            self._advance(timestep)
        self._seen.append((None, len(self._seen)))
        return Tick(self._run, self._step, timestep, len(self._seen) - 1, Stream(identity=None))

    def _begins_run(self, call: Observation, identity: Hashable) -> bool:
        if call.shape != self._shape:
            return True
        if self._turns_back(call.timestep):
            return True
        if self._step == 0 and call.timestep == self._timestep:
            return not call.sample.equals(next(iter(self._samples.values())))
        before = self._samples.get(identity)
        return before is not None and not call.sample.follows(before)

    def _turns_back(self, timestep: float) -> bool:
        turn = _sign(timestep - (self._timestep or 0.0))
        return turn != 0 and turn == -(self._trend or self._direction)

    def _advance(self, timestep: float) -> None:
        turn = _sign(timestep - (self._timestep or 0.0))
        if turn == self._trend:
            self._direction = turn
        self._trend = turn
        self._step, self._timestep = self._step + 1, timestep
        if len(self._seen) < len(self._streams):
            kept = set(self._seen)
            self._streams = {key: stream for key, stream in self._streams.items() if key in kept}
            self._samples = {identity: self._samples[identity] for identity, _ in self._seen}
        self._seen = []


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)
