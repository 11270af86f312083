"""What the three cached schedulers share: plan, rows, history, and one fused combination per step."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, SchedulerMixin

from ab_schedulers.numerics import BaseGrid, BaseStep, CachePlan, Row, convert_quantity, fold, integral_rows

from . import reports
from .calibrations import CalibratedPlan, check_origin, parse_calibrations
from .combination import linear
from .grids import NoiseGrid, check_number_of_calls, fit_plan
from .jumps import abrupt_call
from .options import check_choice, check_integer, check_options, noise_scale_function, resolve_plan
from .run import CachedRun, Observed
from .sources import BETA_SCHEDULES, resolve_config

logger = logging.getLogger(__name__)

PREDICTION_QUANTITIES = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "velocity",
    "flow_prediction": "velocity",
}


class ABCacheScheduler(SchedulerMixin, ConfigMixin, ABC):
    """Abstract base of the cached schedulers; its `from_config` returns the one that serves a diffusers config.

    A model call at base step ``c`` is cached and walks all base steps up to the next call in one combination
    ``prev_sample = a sample + Σ_j b_j history_j``: the outputs of the skipped steps are predicted from the last
    ``cache_order`` computed ones (AB-Cache, arXiv:2504.10540), and the base sampler's own steps fold into the scalars.
    ``num_inference_steps`` counts **model calls**; each walks ``cache_interval`` base steps.

    Theory: docs/theory/04-folding.md.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> scheduler = ABCacheScheduler.from_config(DDIMScheduler(timestep_spacing="trailing").config)
        >>> scheduler.set_timesteps(17)
        >>> len(scheduler.timesteps), len(scheduler.base_timesteps)
        (17, 51)
    """

    order = 1
    timesteps: torch.Tensor
    sigmas: torch.Tensor
    _served: ClassVar[dict[str, type[ABCacheScheduler]]] = {}
    _target: ClassVar[str] = ""

    def __init_subclass__(cls, target: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if target:
            cls._target = target
            cls._served[target] = cls

    # -- configuration ------------------------------------------------------------------------------------------

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None = None, return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        """The cached scheduler that serves ``config``, with the grid that config means.

        Args:
            config: The config of any diffusers scheduler, usually ``pipe.scheduler.config``.
            return_unused_kwargs: Also return the overrides that the scheduler does not know, as diffusers does.
            **overrides: Values that replace those of ``config``, and the cache options.

        Raises:
            TypeError: If an override is no parameter of the scheduler.
            ValueError: If the config cannot be served, or another of our classes serves it.
        """
        resolved = resolve_config(config)  # type: ignore[arg-type]  # None is refused there
        target = cls._served[resolved.target]
        if not issubclass(target, cls):
            raise ValueError(
                f"{cls.__name__} cannot serve a config of {resolved.source}; expected one that maps to it, received "
                f"one for {target.__name__}. Use ABCacheScheduler.from_config(...), which picks the class."
            )
        known = set(target._get_init_keys(target)) - {"self"}
        unused = {key: overrides.pop(key) for key in set(overrides) - known}
        if unused and not return_unused_kwargs:
            raise TypeError(
                f"{target.__name__} has no parameter {sorted(unused)}; expected some of {sorted(known)}. "
                "Drop or rename them."
            )
        scheduler = target(**{**resolved.values, **overrides})
        scheduler.register_to_config(**{k: v for k, v in resolved.carried.items() if k not in overrides})
        return (scheduler, unused) if return_unused_kwargs else scheduler

    def _initialize_cache(self) -> None:
        """Start without a grid; called at the end of every subclass's ``__init__``."""
        check_origin(parse_calibrations(self.config.calibrations), type(self).__name__, self._prediction)
        self._plan: CachePlan | None = None
        self._grid: NoiseGrid | None = None
        self._run: CachedRun | None = None
        self._calibrated: CalibratedPlan | None = None
        self._base_timesteps: torch.Tensor | None = None
        self._warned: set[str] = set()
        self._step_index: int | None = None
        self._begin_index: int | None = None

    def _check_options(self) -> None:
        """Check every option; called first in every subclass's ``__init__``, and by `set_timesteps` again."""
        check_options(self.config)
        check_integer(self.config, "num_train_timesteps", 1, None)
        for name, choices in self._choices.items():
            check_choice(self.config, name, choices)
        if "beta_schedule" in self.config and self.config.trained_betas is None:
            check_choice(self.config, "beta_schedule", BETA_SCHEDULES)

    _choices: ClassVar[dict[str, tuple[str, ...]]] = {}

    # -- what a base sampler provides ---------------------------------------------------------------------------

    @abstractmethod
    def _base_steps(self, grid: NoiseGrid, first: int, quantity: str) -> tuple[BaseStep, ...]:
        """The base sampler's steps on ``grid`` for a run that starts at base step ``first``."""

    @abstractmethod
    def _default_quantity(self) -> str:
        """The cached quantity where ``cache_quantity`` is None."""

    @property
    def _stochastic(self) -> bool:
        """Whether the run draws fresh noise."""
        return False

    @property
    def _base_quantity(self) -> str | None:
        """The quantity in which the base steps are written; None where they take the cached one."""
        return None

    @property
    def _prediction(self) -> str:
        """The quantity that the model predicts."""
        return PREDICTION_QUANTITIES[self.config.prediction_type]

    # -- set-up -------------------------------------------------------------------------------------------------

    @contextmanager
    def _restored_on_error(self) -> Iterator[None]:
        """Leave the scheduler as it was if the block raises."""
        before, config = dict(self.__dict__), dict(self.config.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            self.config.__dict__.update(config)
            raise

    def _lay_out(
        self,
        num_calls: Any,
        build: Callable[[CachePlan, bool], tuple[CachePlan, NoiseGrid]],
        device: Any,
        *,
        given: bool = False,
    ) -> None:
        """Choose the plan, build the base grid by ``build``, publish the call nodes and fold the rows.

        ``build`` is told whether the calls need not stand on nodes that a pipeline passes, since a calibration or
        ``cache_placement`` has its own. It returns the plan again, with shorter windows where the given call nodes
        leave less room. ``given`` says that the user chose the nodes, which then stay where they are.
        """
        check_number_of_calls(num_calls)
        with self._restored_on_error():
            self._check_options()
            calibrated = self._calibration(num_calls)
            fitting = None if calibrated is None else self._fitting_grid(calibrated, build)
            if fitting is None and calibrated is not None:
                self._warn_once(
                    "calibration",
                    f"The calibration for {num_calls} calls belongs to another grid (timesteps or noise levels of "
                    "its calls differ); the run uses theory rows instead.",
                )
                calibrated = None
            if calibrated is None or fitting is None:
                places = self._places_calls and not given
                plan, grid = build(resolve_plan(self.config, num_calls), places)
                plan = grid.placed(num_calls) if places else plan
            else:
                plan, grid = calibrated.plan, fitting
            self._plan, self._grid, self._calibrated = plan, grid, calibrated
            self._publish(plan, device)
            self._step_index = self._begin_index = None
            self._run = self._begin_run(0)
        if num_calls >= 40 and plan.num_base_steps > num_calls and not self._places_calls:
            self._warn_once(
                "calls",
                f"`num_inference_steps` counts model calls: {num_calls} calls now walk {plan.num_base_steps} base "
                f"steps. To walk about {num_calls} base steps pass num_inference_steps="
                f"{max(1, num_calls * num_calls // plan.num_base_steps)}.",
            )

    def _fit_plan(self, name: str, nodes: Sequence[float], plan: CachePlan, *, integers: bool = False) -> CachePlan:
        """The plan with windows that have room between the call nodes that the user gave as ``name``."""
        fitted = fit_plan(plan, nodes, integers=integers)
        if fitted != plan and plan.num_base_steps == self.config.num_base_steps:
            raise ValueError(
                f"`{name}` have room for {fitted.num_base_steps} base steps between and after them at most, but "
                f"`num_base_steps` is {plan.num_base_steps}; expected one step in every gap without room. Lower "
                f"`num_base_steps`, or spread the `{name}`."
            )
        return fitted

    @property
    def _places_calls(self) -> bool:
        return bool(self.config.cache_placement == "noise_ratio")

    def _calibration(self, num_calls: int) -> CalibratedPlan | None:
        """The calibration for this number of calls, whatever its grid."""
        return parse_calibrations(self.config.calibrations).get(num_calls)

    def _fitting_grid(
        self, calibrated: CalibratedPlan, build: Callable[[CachePlan, bool], tuple[CachePlan, NoiseGrid]]
    ) -> NoiseGrid | None:
        """The base grid of a calibrated plan; None where it is not the grid of the fit."""
        try:
            plan, grid = build(calibrated.plan, True)
        except ValueError:
            return None
        return grid if plan == calibrated.plan and self._fits(calibrated, grid) else None

    def _fits(self, calibrated: CalibratedPlan, grid: NoiseGrid) -> bool:
        calls = calibrated.plan.compute_steps
        if len(grid.timesteps) != calibrated.plan.num_base_steps or self._stochastic:
            return False
        sigmas = [*(grid.sigmas[i] for i in calls), grid.sigmas[-1]]
        return calibrated.matches([grid.timesteps[i] for i in calls], sigmas)

    def _publish(self, plan: CachePlan, device: Any) -> None:
        """Show pipelines the call nodes alone: ``sigmas[i]`` belongs to ``timesteps[i]``, the last is the end."""
        calls = list(plan.compute_steps)
        self._base_timesteps = self.timesteps
        self._call_timesteps = [self.timesteps[i].item() for i in calls]
        self.timesteps = self.timesteps[calls].to(device)
        if self._has_sigmas:
            self.sigmas = self.sigmas[[*calls, -1]]
        self.num_inference_steps = plan.num_calls

    _has_sigmas: ClassVar[bool] = True

    def _begin_run(self, call: int) -> CachedRun:
        """A run that starts at ``call`` with an empty history."""
        plan, grid = self._require_grid()
        calls = plan.compute_steps[call:]
        calibrated = self._calibrated if call == 0 and not self._stochastic else None
        quantity = self._resolve_quantity(calibrated)
        try:
            if calibrated is None:
                rows = self._fold(call, quantity, self.config.cache_order, self._corrector)
            else:
                rows = calibrated.rows
            conversions = tuple(self._conversion(i, self._prediction, quantity) for i in calls)
        except ZeroDivisionError as error:
            where = f"alpha {grid.alphas[calls[0]]:g}, sigma {grid.sigmas[calls[0]]:g} at the first call"
            raise ValueError(self._singularity(quantity, where)) from error
        return CachedRun(
            timesteps=self._call_timesteps,
            first_call=call,
            quantity=quantity,
            rows=rows,
            conversions=conversions,
            calibrated=calibrated is not None,
        )

    def _singularity(self, quantity: str, where: str) -> str:
        """What divides by an alpha of zero: the model's prediction or the cached quantity."""
        if self._prediction == "epsilon":
            return (
                f'`prediction_type="epsilon"` is singular on this grid ({where}): where nothing is left of the clean '
                "sample, the noise does not determine it. Use a grid that starts later, or a model with another "
                "`prediction_type`."
            )
        return (
            f'`cache_quantity`: the quantity "{quantity}" is singular on this grid ({where}, prediction '
            f'{self._prediction!r}); choose "sample" or "velocity", which bear alpha = 0.'
        )

    def _fold(self, call: int, quantity: str, order: int, corrector: int | None) -> tuple[Row, ...]:
        """Theory rows of a run that starts at ``call``."""
        plan, grid = self._require_grid()
        calls = plan.compute_steps[call:]
        if self._integrates:
            angles = grid.angles
            return integral_rows(
                [*(angles[i] for i in calls), angles[-1]],
                quantity=quantity,
                flow=grid.flow,
                order=order,
                corrector=corrector,
                variable=grid.along(self.config.cache_variable),
            )
        conversions = None
        base_quantity = self._base_quantity
        if base_quantity is not None and base_quantity != quantity:
            conversions = tuple(
                convert_quantity(quantity, base_quantity, alpha, sigma, flow=grid.flow)
                for alpha, sigma in zip(grid.alphas[:-1], grid.sigmas[:-1], strict=True)
            )
        base = BaseGrid(
            steps=self._base_steps(grid, calls[0], quantity),
            nodes=grid.nodes(self.config.cache_variable if plan.num_base_steps > plan.num_calls else "index"),
            conversions=conversions,
        )
        return fold(base, calls, order=order, corrector=corrector, predictor=self.config.cache_predictor)

    @property
    def _integrates(self) -> bool:
        """Whether windows are integrated exactly: placed calls aim at the converged trajectory, not at a base grid's.

        Fresh noise, bounds on the clean sample and the binomial weights belong to base steps, and a polynomial in
        lambda has no end.
        """
        config = self.config
        bounded = getattr(config, "clip_sample", False) or getattr(config, "thresholding", False)
        plain = config.cache_predictor == "extrapolate" and config.cache_variable != "lambda"
        return self._places_calls and plain and not bounded and not self._stochastic

    @property
    def _corrector(self) -> int | None:
        corrector: int | None = self.config.cache_corrector
        return None if self._stochastic else corrector

    def _resolve_quantity(self, calibrated: CalibratedPlan | None) -> str:
        quantity = self.config.cache_quantity if calibrated is None else calibrated.quantity
        if quantity == "model_output":
            quantity = self._prediction
        if not self._stochastic:
            return self._default_quantity() if quantity is None else str(quantity)
        if quantity not in (None, "sample") and self.config.cache_quantity is not None:
            raise ValueError(
                f'`cache_quantity` must be "sample" or None while fresh noise is drawn, received {quantity!r}: a '
                "cached noise or velocity cannot see the new noise. Leave `cache_quantity` at None."
            )
        return "sample"

    def _conversion(self, i: int, source: str, target: str) -> tuple[float, float]:
        """Scalars from ``source`` to ``target`` at base node ``i``, the noise scaled as configured.

        Where ``alpha = 0`` nothing is scaled: the noise is the sample itself there, and no prediction.
        """
        _, grid = self._require_grid()
        scaling = noise_scale_function(self.config.noise_scaling) if grid.alphas[i] else None
        scale = None if scaling is None else scaling(grid.timesteps[i] / self.config.num_train_timesteps)
        pair: tuple[float, float] = convert_quantity(
            source,
            target,
            grid.alphas[i],
            grid.sigmas[i],
            flow=grid.flow,
            noise_scale=None if scale == 1 else scale,
        )
        return pair

    # -- one step -----------------------------------------------------------------------------------------------

    def _advance(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        draw_noise: Callable[[], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, Observed]:
        """Check, observe, combine, record, advance."""
        run, call = self._locate(timestep)
        run.check_shapes(model_output, sample)
        precise = sample.to(torch.promote_types(sample.dtype, torch.float32))
        observed = self._observe(run, model_output, precise)
        noise = None if draw_noise is None else draw_noise()
        prev_sample = run.advance(observed, model_output, sample, precise, noise)
        self._run, self._step_index = run, call + 1
        if len(run.excerpts) == len(run.rows):
            self._report_jump(run)
        return prev_sample, observed

    def _locate(self, timestep: Any) -> tuple[CachedRun, int]:
        """The run and the index of this call: a fresh run where it does not start at the first call."""
        plan, _ = self._require_grid()
        call = self._first_index(timestep) if self._step_index is None else self._step_index
        if not 0 <= call < plan.num_calls:
            raise ValueError(
                f"`step` was called for call {call} of {plan.num_calls} model calls; call set_timesteps for a new run."
            )
        run = self._run
        if run is None or (not run.excerpts and run.first_call != call):
            run = self._begin_run(call)
        if run.excerpts:
            run.check_call(call, timestep, self.timesteps)
        return run, call

    def _first_index(self, timestep: Any) -> int:
        """The first call of a run: the begin index, else diffusers' own look-up."""
        if self._begin_index is not None:
            return self._begin_index
        if isinstance(timestep, torch.Tensor):
            timestep = timestep.to(self.timesteps.device)
        index: int = self.index_for_timestep(timestep)
        return index

    def _observe(self, run: CachedRun, model_output: torch.Tensor, sample: torch.Tensor) -> Observed:
        """The cached quantity of this call; ``sample`` comes in float32 or better."""
        of_sample, of_output = run.conversions[run.next_call - run.first_call]
        return Observed(quantity=linear(of_sample, sample, of_output, model_output, out=run.spare))

    def _report_jump(self, run: CachedRun) -> None:
        """Say once if the model's output jumped during a finished run, where predictions reach across the jump."""
        plan, _ = self._require_grid()
        if plan.num_base_steps == plan.num_calls or self._stochastic or "jump" in self._warned:
            return
        place = abrupt_call(*self._recorded(run))
        if place is not None:
            call = run.first_call + place
            self._warn_once(
                "jump",
                f"The model's output changed abruptly at call {call} of {plan.num_calls} (timestep "
                f"{run.timesteps[call]:g}), as when guidance is switched off or another expert takes over. Predictions "
                f"across a jump are less accurate; `scheduler.reset_history()` in a callback after call {call - 1} "
                "forgets what lies before it.",
            )

    def _recorded(self, run: CachedRun) -> tuple[list[torch.Tensor], list[float]]:
        """Excerpts of the outputs of a run, oldest first, and the interpolation variable at each."""
        plan, grid = self._require_grid()
        nodes = grid.nodes(self.config.cache_variable)
        calls = plan.compute_steps[run.first_call : run.next_call]
        return [output.value() for output, _ in run.excerpts], [nodes[i] for i in calls]

    def _require_grid(self) -> tuple[CachePlan, NoiseGrid]:
        if self._plan is None or self._grid is None:
            raise ValueError("`set_timesteps` has not been called, so there is no grid; call it before this.")
        return self._plan, self._grid

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning(message)

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> CachePlan | None:
        """Which base steps call the model, from `set_timesteps`."""
        return self._plan

    @property
    def base_timesteps(self) -> torch.Tensor | None:
        """The timesteps of all base steps, computed and skipped, from `set_timesteps`."""
        return self._base_timesteps

    @property
    def rows(self) -> tuple[Row, ...]:
        """The folded rows of the run, one per call, beginning with the run's first call."""
        return () if self._run is None else self._run.rows

    @property
    def history(self) -> tuple[torch.Tensor, ...]:
        """The cached outputs, newest first."""
        return () if self._run is None else tuple(output.tensor * output.factor for output in self._run.history)

    @property
    def error_estimates(self) -> tuple[float | None, ...]:
        """Per recorded call, root mean square of ``Σ_j (b_j^(k) - b_j^(k-1)) history_j``, in sample units.

        The difference between the window predicted at order ``k`` and at order ``k - 1``, corrector aside: an estimate
        of the error that the prediction leaves in the sample. None where the order was 1. Computed when read, from an
        excerpt of at most 1024 values per output.
        """
        run, order = self._run, self.config.cache_order
        if run is None or order == 1 or run.calibrated:
            return () if run is None else (None,) * len(run.excerpts)
        higher, lower = (self._fold(run.first_call, run.quantity, k, None) for k in (order, order - 1))
        return reports.error_estimates(run, higher, lower)

    def describe(self) -> str:
        """A table of the run: call, timestep, steps walked, order, weights, noise gain and error estimate."""
        plan, _ = self._require_grid()
        assert self._run is not None
        name, variable = type(self).__name__, self.config.cache_variable
        return reports.describe(name, plan, self._run, variable, self.error_estimates)

    def reset_history(self) -> None:
        """Forget the cached outputs, where the model's output jumps (guidance switched off, another expert).

        The next call starts with an empty history, and the rows of the remaining calls are folded again.
        """
        plan, _ = self._require_grid()
        call = self._step_index if self._step_index is not None else self._begin_index or 0
        self._run = self._begin_run(min(call, plan.num_calls - 1))
