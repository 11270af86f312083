"""What the search asks of a sampler: its grid, runs, and the ends of perturbed runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ab_schedulers.numerics import CachePlan, Row
from ab_schedulers.schedulers import ABCacheScheduler
from ab_schedulers.schedulers.grids import NoiseGrid

from .recordings import Recording
from .walks import Walk

BASE_STEPS = (1000, 500, 250, 200, 100)
"""Base grids that are tried in turn; some schedules repeat timesteps on the finer ones."""


Choose = Callable[[int, Recording], Row]
"""The row of a call, from the recording up to that call."""


class _GridSeenError(Exception):
    """Ends a run as soon as its grid is known, before the model is called."""

    def __init__(self, grid: NoiseGrid) -> None:
        super().__init__("the grid is known")
        self.grid = grid


class _WalkSeenError(Exception):
    """Ends a run as soon as its rows are known, before the model is called."""

    def __init__(self, walk: Walk) -> None:
        super().__init__("the rows are known")
        self.walk = walk


class Runs(ABC):
    """Runs of one set of trajectories under different schedulers, always from the same noise.

    Args:
        config: Config of the scheduler that is calibrated.
        values: How many values of each trajectory are kept.
        on_call: Called after every model call.
    """

    def __init__(self, config: Mapping[str, Any], values: int, on_call: Callable[[], object]) -> None:
        self.config, self.values = dict(config), values
        self.calls = 0
        self._on_call = on_call

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Model calls per step: runs that together make up all trajectories."""

    @property
    @abstractmethod
    def restarts(self) -> bool:
        """Whether a run can go on from the middle of another, so that a perturbed row costs only the calls after it."""

    @abstractmethod
    def base_states(self, num_base_steps: int) -> torch.Tensor:
        """Samples of the scheduler's own run with every step computed, (trajectories, steps + 1, values)."""

    @abstractmethod
    def run(self, walk: Walk) -> Recording:
        """Walk all trajectories."""

    @abstractmethod
    def fit(self, walk: Walk, choose: Choose) -> tuple[Walk, Recording]:
        """Walk all trajectories with rows chosen on the way, each once the outputs of its call are known."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """Runs of all trajectories that `fit` takes."""

    @abstractmethod
    def ends(self, walk: Walk, others: Sequence[tuple[int, Walk]], chosen: torch.Tensor) -> Iterator[torch.Tensor]:
        """Final samples (chosen trajectories, values) of each of ``others`` in turn.

        Beside each stands the first call whose row is not that of ``walk``; up to that call they agree.
        """

    @abstractmethod
    def _set_timesteps(self, scheduler: ABCacheScheduler, num_calls: int) -> None:
        """Lay out the grid of a run as the run itself does."""

    def base_nodes(self, num_calls: int) -> NoiseGrid:
        """The finest base grid that a run of ``num_calls`` calls can stand on; no model call.

        Raises:
            ValueError: If no grid is fine enough.
        """
        refusal: Exception | None = None
        for count in BASE_STEPS:
            if count < num_calls:
                continue
            try:
                nodes = self.nodes(count, num_calls)
            except ValueError as error:
                refusal = error
                continue
            if len(set(nodes.timesteps)) == count:
                return nodes
        raise ValueError(
            f"the scheduler's grid cannot be refined for {num_calls} calls: none of {list(BASE_STEPS)} base steps "
            f"gives different timesteps ({refusal}). Use another timestep spacing, or fewer calls."
        )

    def nodes(self, count: int, num_calls: int) -> NoiseGrid:
        """The grid of ``count`` base steps under a run of ``num_calls`` calls; no model call.

        Raises:
            ValueError: If the run has no such grid.
        """
        steps = CachePlan.uniform(num_calls=num_calls, num_base_steps=count).compute_steps
        blank = {
            "num_base_steps": count,
            "compute_steps": list(steps),
            "cache_quantity": "velocity",
            "timesteps": [0.0] * num_calls,
            "sigmas": [0.0] * (num_calls + 1),
            "rows": [{"sample": 1.0, "history": [0.0]}] * num_calls,
        }
        scheduler = self._scheduler({str(num_calls): blank})

        def see(calibrated: object, grid: NoiseGrid) -> bool:
            raise _GridSeenError(grid)

        setattr(scheduler, "_fits", see)  # noqa: B010 - on this instance alone
        try:
            self._set_timesteps(scheduler, num_calls)
        except _GridSeenError as seen:
            grid = seen.grid
        else:
            raise ValueError("the pipeline never called `set_timesteps` of its scheduler; it cannot be calibrated.")
        if len(grid.timesteps) != count:
            raise ValueError(f"the grid has {len(grid.timesteps)} base steps instead of {count}")
        return grid

    def plain_nodes(self, num_calls: int) -> NoiseGrid | None:
        """The scheduler's own grid of as many base steps as calls; None where it has none."""
        try:
            return self.nodes(num_calls, num_calls)
        except ValueError:
            return None

    @property
    def stock_config(self) -> dict[str, Any]:
        """The config without the cache options, for schedulers of diffusers."""
        from ab_schedulers.schedulers.sources import OWN_OPTIONS

        return {key: value for key, value in self.config.items() if key not in OWN_OPTIONS}

    def default_walk(self, num_calls: int, label: str = "default options", **options: Any) -> Walk | None:
        """What the scheduler does uncalibrated, with its own options and ``options``; None with two histories."""
        scheduler = self._scheduler({}, keep_plan=not options, **options)
        begin = scheduler._begin_run

        def see(call: int) -> Any:
            run = begin(call)
            assert scheduler.plan is not None and scheduler._grid is not None
            steps = scheduler.plan.compute_steps
            raise _WalkSeenError(
                Walk(label=label, nodes=scheduler._grid, steps=steps, quantity=run.quantity, rows=run.rows)
            )

        setattr(scheduler, "_begin_run", see)  # noqa: B010 - on this instance alone
        try:
            self._set_timesteps(scheduler, num_calls)
        except _WalkSeenError as seen:
            return None if any(row.base_history for row in seen.walk.rows) else seen.walk
        raise ValueError("the pipeline never called `set_timesteps` of its scheduler; it cannot be calibrated.")

    def _base(self) -> ABCacheScheduler:
        """The scheduler that computes every one of its steps, as its stock base does."""
        return self._scheduler({}, cache_interval=1, cache_corrector=None, cache_placement="even")

    def _scheduler(self, calibrations: Mapping[str, Any], keep_plan: bool = False, **options: Any) -> ABCacheScheduler:
        if not keep_plan:
            options = {"num_base_steps": None, "compute_steps": None, **options}
        scheduler: ABCacheScheduler = ABCacheScheduler.from_config(
            self.config, calibrations=dict(calibrations) or None, **options
        )
        scheduler._warned.update(("calls", "jump"))  # advice for users, not for trials
        return scheduler

    def _called(self) -> None:
        self.calls += 1
        self._on_call()

    @staticmethod
    def check_calibrated(scheduler: ABCacheScheduler, walk: Walk) -> None:
        """Raise ``ValueError`` unless the scheduler walks as it was told."""
        run = scheduler._run
        if run is None or not run.calibrated or scheduler.plan is None or scheduler.plan.num_calls != len(walk.steps):
            raise ValueError(
                f"the run did not walk the {len(walk.steps)} calls it was given: it starts in the middle of its grid "
                "(image to image), passes its own `sigmas` or `timesteps`, or changes the number of steps. Expected a "
                "run of `num_inference_steps` calls from pure noise; change the inputs."
            )
