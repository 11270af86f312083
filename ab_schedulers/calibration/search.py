"""The search for one number of calls: plans, rows, refinement, within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ab_schedulers.numerics import Row
from ab_schedulers.schedulers.grids import NoiseGrid

from .least_squares import fit_row, shifted
from .plans import MOST_SHAPES, search_shapes, shaped_steps
from .recordings import Recording
from .references import QUANTITY
from .refinement import Judge, Trial, refine, refinement_calls
from .runs import Runs
from .stock import stock_walks
from .trajectories import Trajectories
from .walks import Walk, theory_walk

_RIDGE = 1e-6
_MOST_STARTS = 10


def estimated_calls(num_calls: int, *, restarts: bool, passes: int) -> int:
    """Model calls per input that one number of calls takes at most, the reference aside."""
    depth = row_depth(num_calls)
    walks = _MOST_STARTS + passes * (MOST_SHAPES + 1)
    refinements = sum(max(1, 1 + refined_plans(num_calls) - done) for done in range(rounds(num_calls)))
    return walks * num_calls + refinements * refinement_calls(num_calls, depth, restarts)


def row_depth(num_calls: int) -> int:
    """Outputs in a fitted row: deeper rows pay where windows are wide, and cost a run per weight."""
    return 4 if num_calls <= 15 else 3


def refined_plans(num_calls: int) -> int:
    """How many searched plans are refined beside the placed one: the plan that is best before need not be after."""
    return 2 if num_calls <= 10 else 1


def rounds(num_calls: int) -> int:
    """How often plans are refined at most: few calls gain longest, and many make a round dear."""
    return min(5, max(2, 40 // num_calls))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many model calls may still be made."""

    runs: Runs
    limit: int | None

    def bears(self, calls: int) -> bool:
        """Whether ``calls`` more calls per input stay within the limit."""
        return self.limit is None or self.runs.calls + self.runs.inputs * calls <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Search:
    """The search for one number of calls."""

    nodes: NoiseGrid
    calls: int
    known: Trajectories
    fit: torch.Tensor
    runs: Runs
    budget: Budget

    def trials(self) -> list[tuple[Trial, bool]]:
        """Every candidate that was run, and whether it is a start rather than a fit."""
        judge = Judge(runs=self.runs, final=self.known.final, fit=self.fit)
        started = [judge(walk) for walk in self._starts()]
        self._check_same_noise(started[0])
        cost = self.runs.passes * self.calls
        if not self.budget.bears(cost):
            return [(trial, True) for trial in started]
        fitted: dict[Sequence[int], Trial] = {}

        def fit(steps: Sequence[int]) -> float:
            fitted[steps] = self._fit(judge, theory_walk(self.nodes, steps, QUANTITY))
            return fitted[steps].fit_error

        fit(self._placed)
        if self.budget.bears(cost):
            search_shapes(
                lambda shape: fit(shaped_steps(self.nodes, self.calls, shape)), lambda: self.budget.bears(cost)
            )
        best = sorted(fitted, key=lambda steps: fitted[steps].fit_error)[: refined_plans(self.calls)]
        refined = self._refined(judge, [fitted[steps] for steps in dict.fromkeys([*best, self._placed])])
        return [*((trial, True) for trial in started), *((trial, False) for trial in (*fitted.values(), *refined))]

    @property
    def _placed(self) -> tuple[int, ...]:
        """The base steps that ``cache_placement="noise_ratio"`` calls."""
        return self.nodes.placed(self.calls).compute_steps

    def _refined(self, judge: Judge, plans: Sequence[Trial]) -> list[Trial]:
        """Trials from refining plans and their rows, round after round.

        Each round leaves out the worst plan, down to one, and those that gain no more.
        """
        trials: list[Trial] = []
        depth = row_depth(self.calls)
        for _ in range(rounds(self.calls)):
            gained: list[Trial] = []
            for before in plans:
                if not self.budget.bears(refinement_calls(self.calls, depth, self.runs.restarts)):
                    return trials
                found = refine(before, judge, depth=depth, label="refined together")
                trials += found
                best = min(found, key=lambda trial: trial.error)
                if best.error < 0.95 * before.error:
                    gained.append(best)
            plans = sorted(gained, key=lambda trial: trial.error)[: max(1, len(plans) - 1)]
        return trials

    def _starts(self) -> list[Walk]:
        """Uncalibrated candidates, the scheduler's own options first."""
        own = self._own_walk()
        placed = self.runs.default_walk(self.calls, "placed calls, default options", cache_placement="noise_ratio")
        uniform = [i * self.nodes.count // self.calls for i in range(self.calls)]
        theory = [
            theory_walk(self.nodes, steps, quantity, plan=plan)
            for plan, steps in (("placed calls", self._placed), ("even calls", uniform))
            for quantity in ("velocity", "sample")
        ]
        walks = [*(walk for walk in (own, placed) if walk is not None), *theory, *stock_walks(self.runs, self.calls)]
        kept = []
        for place, walk in enumerate(walks):
            if place == 0 or self.budget.bears((place + 1) * self.calls):
                kept.append(walk)
        return kept

    def _own_walk(self) -> Walk | None:
        """The scheduler with its own options, on the base steps that are to be reproduced if there are such.

        None where it has two histories, or where windows of different lengths bend the grid of a flow.
        """
        steps = self.known.num_base_steps
        if steps is None:
            return self.runs.default_walk(self.calls)
        walk = self.runs.default_walk(self.calls, num_base_steps=steps, cache_placement="even")
        return walk if walk is not None and self.nodes.same_levels(walk.nodes) else None

    def _fit(self, judge: Judge, origin: Walk) -> Trial:
        """The walk with each row fitted along the run itself to the reference at the end of its window."""
        ends, depth = [*origin.steps[1:], self.nodes.count], row_depth(self.calls)
        targets = self.known.at([self.nodes.alphas[i] for i in ends], [self.nodes.sigmas[i] for i in ends])[self.fit]

        def choose(call: int, recording: Recording) -> Row:
            seen = recording.of(self.fit)
            return fit_row(seen, call, targets[:, call], origin.rows[call], depth=depth, ridge=_RIDGE)

        deep = tuple(
            shifted(row, torch.zeros(1 + min(depth, call + 1))) for call, row in enumerate(origin.rows)
        )  # so that a scheduler keeps the outputs that the fit may weight
        walk, recording = self.runs.fit(replace(origin, rows=deep), choose)
        return judge.verdict(replace(walk, label="fitted row by row, searched plan"), recording)

    def _check_same_noise(self, trial: Trial) -> None:
        first, recorded = trial.recording.samples[:, 0], self.known.states[:, 0]
        if first.shape != recorded.shape or not torch.allclose(first, recorded, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"the reference trajectories {tuple(recorded.shape)} start from other noise than the runs "
                f"{tuple(first.shape)}; expected the same inputs and seed, and a pipeline that repeats itself. Record "
                "them again."
            )
