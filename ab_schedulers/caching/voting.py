"""Trying three answers to each call of a model, and letting the samples vote for the one that suffices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.hooks import ModelHook

from .clock import Clock, Tick
from .eb_cache import ModuleCache, remember
from .eb_table import COMPUTE, EBTable
from .families import KINDS
from .observing import CallReader, ContextName
from .outputs import take_apart

STAGE_BOUNDARY = 0.4
CHOICES = ("both", "candidate", "none")  # what is skipped, most first


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """When a skipped answer is good enough, and how it is made.

    Args:
        delta: Tolerated relative deviation of the norm, in the middle of time.
        tilt: Its slope, in [-1, 1]: at 1 the tolerance falls to zero toward the data, at -1 toward the noise.
        action: ``"R"`` or ``"E"``.
        order: Number of outputs that are kept for ``"E"``.
        scale: ``b(t)``, which multiplies the norm of a skipped answer.
        num_train_timesteps: The timestep of pure noise.
    """

    delta: float
    tilt: float
    action: str
    order: int
    scale: Callable[[float], float]
    num_train_timesteps: int

    def tolerance(self, t: float) -> float:
        """``delta(t) = delta (1 + tilt (2 t - 1))``, where ``t = 1`` is pure noise."""
        return self.delta * (1 + self.tilt * (2 * t - 1))


@dataclass(slots=True, kw_only=True)
class Ballot:
    """Votes per step, the kinds that were its candidate, and the time that attention and MLP take of the model's."""

    votes: dict[int, dict[str, int]] = field(default_factory=dict)
    candidates: dict[int, tuple[str, ...]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*KINDS, "model"), 0.0))

    def cast(self, step: int, counts: Mapping[str, int]) -> None:
        """Add votes for what is reused at a step."""
        tally = self.votes.setdefault(step, dict.fromkeys(CHOICES, 0))
        for choice, count in counts.items():
            tally[choice] += count

    def share(self, kind: str) -> float:
        """Share of the time of a full call of the model."""
        return self.seconds[kind] / self.seconds["model"]

    def speedup(self, table: EBTable) -> float:
        """Time of a run that computes everything over that of a run by the table, overhead aside."""
        saved = sum(self.share(kind) * (1 - table.computed(kind) / table.num_steps) for kind in KINDS)
        return 1 / (1 - saved)


def majority(counts: Mapping[str, int]) -> str:
    """The choice with most votes; among equals the one that reuses less."""
    return max(reversed(CHOICES), key=lambda choice: counts.get(choice, 0))


class TableProbe(ModelHook):  # type: ignore[misc]  # diffusers' class carries no annotations
    """A root hook that tries three ways to answer each call, lets the batch vote, and goes on with the winner."""

    def __init__(self, reader: CallReader, criterion: Criterion) -> None:
        super().__init__()
        self.tick: Tick | None = None
        self.called: dict[str, bool] = {}
        self.ballot = Ballot()
        self._reader, self._context, self._clock = reader, ContextName(), Clock()
        self._criterion = criterion
        self._actions: dict[str, str] = {}
        self._computed: dict[str, Any] = {}
        self._decided: tuple[int, int, str] = (0, -1, "none")
        self._unit = 1.0

    def action(self, kind: str) -> str:
        """What modules of a kind do in the variant that is tried."""
        return self._actions[kind]

    def keep(self, module: ModuleCache, output: Any) -> None:
        """Hold a computed output until the vote."""
        self._computed[module.name] = output

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Answer by the variant that wins."""
        tick = self._clock.observe(self._reader.observe(args, kwargs, self._context.name))
        if tick.step == 0:
            self._unit = 1.0 / self._criterion.num_train_timesteps if tick.timestep > 1 else 1.0
        t = tick.timestep * self._unit
        reused = ("mlp",) if t > STAGE_BOUNDARY else ("attention", "cross_attention")
        self.ballot.candidates[tick.step] = reused
        skip = self._criterion.action
        actions = {
            "none": dict.fromkeys(KINDS, COMPUTE),
            "candidate": {kind: skip if kind in reused else COMPUTE for kind in KINDS},
            "both": dict.fromkeys(KINDS, skip),
        }
        variants = {"none": self._try(tick, actions["none"], args, kwargs)}
        if tick.step > 0:
            variants |= {c: self._try(tick, actions[c], args, kwargs) for c in ("candidate", "both")}
            choice = self._vote(tick, t, {c: output for c, (output, _) in variants.items()}, args, kwargs)
        else:
            choice = "none"
            self.ballot.cast(0, {"none": 1})
        output, computed = variants[choice]
        for name, value in computed.items():
            remember(tick, name, value, self._criterion.order)
        return output

    def _try(self, tick: Tick, actions: dict[str, str], args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.tick, self.called, self._actions, self._computed = tick, {}, actions, {}
        started = time.perf_counter()
        try:
            output = self.fn_ref.original_forward(*args, **kwargs)
        finally:
            self.tick = None
        if set(actions.values()) == {COMPUTE}:
            self.ballot.seconds["model"] += _wait(output) - started
        return output, self._computed

    def _vote(self, tick: Tick, t: float, outputs: Mapping[str, Any], args: Any, kwargs: Any) -> str:
        """Every sample votes for the most reuse whose norm is within the tolerance; the step's first call decides."""
        channels = self._reader.sample(args, kwargs).shape[1]
        norms = {}
        for choice, output in outputs.items():
            first = take_apart(output)[1][0]
            norms[choice] = first[:, :channels].float().flatten(1).norm(dim=1)
        counts = dict.fromkeys(CHOICES, 0)
        allowed = {
            choice: (norms[choice] * self._criterion.scale(t) / norms["none"] - 1).abs() <= self._criterion.tolerance(t)
            for choice in ("both", "candidate")
        }
        counts["both"] = int(allowed["both"].sum())
        counts["candidate"] = int((allowed["candidate"] & ~allowed["both"]).sum())
        counts["none"] = len(norms["none"]) - counts["both"] - counts["candidate"]
        self.ballot.cast(tick.step, counts)
        if self._decided[:2] != (tick.run, tick.step):
            self._decided = (tick.run, tick.step, majority(counts))
        return self._decided[2]


def _wait(output: Any) -> float:
    """The time once the device is done with the output."""
    tensor = take_apart(output)[1][0]
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()


class TimedModule(ModuleCache):
    """A module hook that also takes the time of the full calls."""

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Compute or answer, and take the time."""
        root = self._root
        started = time.perf_counter()
        output = super().new_forward(module, *args, **kwargs)
        if set(root._actions.values()) == {COMPUTE}:
            root.ballot.seconds[self.kind] += _wait(output) - started
        return output
