"""Cached DPM-Solver++."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from ab_schedulers.numerics import BaseStep, CachePlan, convert_quantity, dpmsolver_step
from ab_schedulers.numerics.base_steps import ALGORITHM_TYPES, SOLVER_TYPES

from .base import ABCacheScheduler
from .combination import Scaled, linear
from .grids import NoiseGrid, call_nodes, check_mu, refine
from .options import check_integer, check_number
from .parameters import base_parameters, check_leading_reach, check_noise_shape, check_number_of_base_steps
from .run import CachedRun, Observed
from .stock_steps import refused

# Names that other multistep classes write into the shared keys, and what they mean here.
_ALGORITHM_TYPES = {"deis": "dpmsolver++", "data_prediction": "dpmsolver++", "noise_prediction": "dpmsolver++"}
_SOLVER_TYPES = {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"}


class ABCacheDPMSolverMultistepScheduler(ABCacheScheduler, DPMSolverMultistepScheduler, target="dpmsolver"):
    """DPM-Solver++ (orders 1 to 3) on a fine grid, with the model called on every ``cache_interval``-th step only.

    Each base step is the multistep exponential integrator of Lu et al. (arXiv:2211.01095) with diffusers' own choice
    of order; the outputs of skipped steps are predicted from the cached ones (AB-Cache, arXiv:2504.10540). At the start
    of a window the outputs of earlier skipped nodes are interpolated again with the newest computed ones, so a row
    stays shallow. The thresholded clean sample is what is stored.

    The parameters before ``cache_interval`` are those of `diffusers.DPMSolverMultistepScheduler`, with the same meaning
    and defaults.

    Theory: docs/theory/03-base-steps.md.

    Args:
        cache_interval: Base steps that a model call walks; 1 is plain DPM-Solver++.
        cache_order: Number of cached outputs that predict a skipped one, 1 (plain reuse) to 8.
        cache_predictor: ``"extrapolate"`` to each skipped node, or ``"hold"`` the binomial weights for a window.
        cache_variable: In which variable outputs are interpolated: ``"index"``, ``"timestep"`` or ``"lambda"``.
        cache_quantity: What is cached: ``"model_output"``, ``"epsilon"``, ``"sample"`` (x_0) or ``"velocity"``;
            None for what the solver integrates (x_0 for the ``++`` types).
        cache_corrector: Number of outputs of the free Adams-Moulton corrector, or None.
        warmup_calls: First calls that walk one base step each.
        num_base_steps: Number of base steps, in place of ``cache_interval``.
        compute_steps: The base steps that call the model, with ``num_base_steps``; overrides the plan.
        cache_placement: ``"even"``, a call on every ``cache_interval``-th base step; or ``"noise_ratio"``, calls where
            `noise_ratios` puts them on a fine grid of ``num_base_steps`` (by default half of ``num_train_timesteps``).
        calibrations: Fitted rows and plans, keyed by the number of calls.
        noise_scaling: A factor on the predicted noise, see `noise_scale_function`.

    Examples:
        >>> scheduler = ABCacheDPMSolverMultistepScheduler(cache_interval=3)
        >>> scheduler.set_timesteps(8)
        >>> sample = torch.zeros(1, 4, 8, 8)
        >>> for t in scheduler.timesteps:
        ...     sample = scheduler.step(torch.ones_like(sample), t, sample).prev_sample
    """

    _compatibles = DPMSolverMultistepScheduler._compatibles
    _choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
        "timestep_spacing": ("leading", "linspace", "trailing"),
        "algorithm_type": (*ALGORITHM_TYPES, *_ALGORITHM_TYPES),
        "solver_type": (*SOLVER_TYPES, *_SOLVER_TYPES),
        "final_sigmas_type": ("zero", "sigma_min"),
        "time_shift_type": ("exponential", "linear"),
    }

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray[Any, Any] | list[float] | None = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: str = "dpmsolver++",
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_lu_lambdas: bool = False,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        final_sigmas_type: str = "zero",
        lambda_min_clipped: float = -float("inf"),
        variance_type: str | None = None,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        cache_interval: int = 3,
        cache_order: int = 2,
        cache_predictor: str = "extrapolate",
        cache_variable: str = "index",
        cache_quantity: str | None = None,
        cache_corrector: int | None = 2,
        warmup_calls: int = 0,
        num_base_steps: int | None = None,
        compute_steps: list[int] | None = None,
        cache_placement: str = "even",
        calibrations: dict[str, Any] | None = None,
        noise_scaling: dict[str, Any] | None = None,
    ) -> None:
        self._check_options()
        parameters = base_parameters(DPMSolverMultistepScheduler, self.config)
        parameters["algorithm_type"] = _ALGORITHM_TYPES.get(algorithm_type, algorithm_type)
        parameters["solver_type"] = _SOLVER_TYPES.get(solver_type, solver_type)
        super().__init__(**parameters)
        self.register_to_config(algorithm_type=algorithm_type, solver_type=solver_type)
        self._initialize_cache()

    def _check_options(self) -> None:
        super()._check_options()
        check_integer(self.config, "solver_order", 1, 3)
        check_number(self.config, "flow_shift", 0, math.inf)
        if self._algorithm_type == "sde-dpmsolver" and self.config.solver_order == 3:
            raise ValueError(
                '`algorithm_type="sde-dpmsolver"` has no third-order update, received solver_order=3; use '
                'solver_order=2 or algorithm_type="sde-dpmsolver++".'
            )

    convert_model_output = refused("convert_model_output")
    dpm_solver_first_order_update = refused("dpm_solver_first_order_update")
    multistep_dpm_solver_second_order_update = refused("multistep_dpm_solver_second_order_update")
    multistep_dpm_solver_third_order_update = refused("multistep_dpm_solver_third_order_update")

    @property
    def _algorithm_type(self) -> str:
        name: str = self.config.algorithm_type
        return _ALGORITHM_TYPES.get(name, name)

    @property
    def _solver_type(self) -> str:
        name: str = self.config.solver_type
        return _SOLVER_TYPES.get(name, name)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        mu: float | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """Lay out the base grid, publish the timesteps of the model calls and fold the rows.

        Args:
            num_inference_steps: Number of **model calls**; each walks ``cache_interval`` base steps.
            device: Where ``timesteps`` lives.
            mu: Exponent of the dynamic time shift; ignored unless ``use_dynamic_shifting``, since pipelines of flow
                models pass it whatever the scheduler.
            timesteps: The timesteps of the calls, falling; base steps are inserted linearly between them and after the
                last one toward 0, no more than there are integers. Not with ``num_inference_steps``, nor with another
                sigma schedule.

        Raises:
            ValueError: If the calls, the plan or the grid are impossible; the scheduler is left as it was.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError(
                f"Pass exactly one of `num_inference_steps` and `timesteps`, received {num_inference_steps!r} and "
                f"{timesteps!r}; drop one of them."
            )
        if mu is not None and not self.config.use_dynamic_shifting:
            mu = None
        if mu is not None:
            if self.config.time_shift_type != "exponential":
                raise ValueError(
                    '`time_shift_type` must be "exponential" where `mu` is passed, received '
                    f"{self.config.time_shift_type!r}: DPM-Solver++ of diffusers knows no other one. Set it, or "
                    "use the config of FlowMatchEulerDiscreteScheduler."
                )
            check_mu(mu, "exponential")
        calls, nodes = num_inference_steps, None
        if timesteps is not None:
            if self._replaces_spacing:
                raise ValueError(
                    "`timesteps` cannot be given together with karras, exponential, beta, lu or flow sigmas, which "
                    f"make timesteps of their own; received {timesteps!r}. Pass `num_inference_steps`."
                )
            nodes = call_nodes("timesteps", timesteps, 0, self.config.num_train_timesteps - 1, integers=True)
            calls = len(nodes)
        self._lay_out(calls, lambda plan, _: self._build_grid(plan, mu, nodes), device, given=nodes is not None)

    def _build_grid(
        self, plan: CachePlan, mu: float | None, timesteps: list[float] | None
    ) -> tuple[CachePlan, NoiseGrid]:
        if timesteps is not None:
            plan = self._fit_plan("timesteps", timesteps, plan, integers=True)
            nodes = refine(timesteps, plan, integers=True)
            DPMSolverMultistepScheduler.set_timesteps(self, None, "cpu", mu=mu, timesteps=nodes)
        else:
            if not self._replaces_spacing:
                check_number_of_base_steps(self.config, plan)
                check_leading_reach(self.config, plan, lambda n: n * (self.config.num_train_timesteps // (n + 1)))
            steps = plan.num_base_steps
            DPMSolverMultistepScheduler.set_timesteps(self, steps, "cpu", mu=mu)
            # stock's trailing grid has a stray entry -1 for some numbers of steps
            self.timesteps, self.sigmas = self.timesteps[:steps], torch.cat([self.sigmas[:steps], self.sigmas[-1:]])
        flow = self.config.use_flow_sigmas
        velocity = {True: "flow_prediction", False: "v_prediction"}
        if self.config.prediction_type == velocity[not flow]:
            raise ValueError(
                f'`prediction_type="{self.config.prediction_type}"` needs use_flow_sigmas={not flow}, received {flow}; '
                f'set use_flow_sigmas={not flow}, or use prediction_type="{velocity[flow]}".'
            )
        ratios = self.sigmas.tolist()
        alphas = [1 - s if flow else 1 / (1 + s * s) ** 0.5 for s in ratios]
        return plan, NoiseGrid(
            timesteps=tuple(float(t) for t in self.timesteps.tolist()),
            alphas=tuple(alphas),
            sigmas=tuple(ratios if flow else [s * a for s, a in zip(ratios, alphas, strict=True)]),
            flow=flow,
            shift=1.0 if not flow else float(self.config.flow_shift) if mu is None else math.exp(mu),
        )

    @property
    def _replaces_spacing(self) -> bool:
        config = self.config
        return bool(
            config.use_karras_sigmas
            or config.use_exponential_sigmas
            or config.use_beta_sigmas
            or config.use_lu_lambdas
            or config.use_flow_sigmas
        )

    @property
    def _base_quantity(self) -> str:
        return "sample" if self._algorithm_type.endswith("++") else "epsilon"

    def _default_quantity(self) -> str:
        if self._places_calls and self._prediction == "velocity" and self._base_quantity == "sample":
            return "velocity"
        return self._base_quantity

    @property
    def _stochastic(self) -> bool:
        return self._algorithm_type.startswith("sde-")

    def _base_steps(self, grid: NoiseGrid, first: int, quantity: str) -> tuple[BaseStep, ...]:
        lambdas = grid.lambdas()
        algorithm_type, solver_type = self._algorithm_type, self._solver_type
        steps = []
        for i, order in enumerate(self._solver_orders(len(grid.timesteps), first)):
            ends = (grid.alphas[i], grid.alphas[i + 1]), (grid.sigmas[i], grid.sigmas[i + 1])
            if ends[0][0] * ends[1][1] == ends[0][1] * ends[1][0]:  # a last step that stands still
                steps.append(BaseStep(sample=1.0, outputs=(0.0,)))
                continue
            spans = [lambdas[i + 1], *(lambdas[i - lag] for lag in range(order))]
            steps.append(
                dpmsolver_step(*ends, spans, order=order, algorithm_type=algorithm_type, solver_type=solver_type)
            )
        return tuple(steps)

    def _solver_orders(self, num_steps: int, first: int) -> list[int]:
        """Diffusers' choice of order at every base step of a run that starts at step ``first``."""
        config, top = self.config, int(self.config.solver_order)
        few = config.lower_order_final and num_steps < 15
        orders = [max(1, min(top, i - first + 1)) for i in range(num_steps)]
        if few and num_steps > 1:
            orders[-2] = min(orders[-2], 2)
        if config.euler_at_final or few or config.final_sigmas_type == "zero":
            orders[-1] = 1
        return orders

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """Walk all base steps up to the next model call.

        Args:
            model_output: Output of the model, the shape of ``sample`` (with learned variance, twice its channels).
            timestep: The entry of ``timesteps`` that the model was called with.
            sample: Current sample (batch, channels, ...).
            generator: Source of the noise of the SDE variants, one draw of the window's accumulated variance.
            variance_noise: The noise itself, in place of ``generator``.
            return_dict: Return a `SchedulerOutput` rather than a tuple.

        Raises:
            ValueError: Before any state changes, if the input does not belong to this call or is not finite.
        """
        self._require_grid()
        if self.config.variance_type in ("learned", "learned_range") and self.config.prediction_type == "epsilon":
            model_output = model_output[:, : sample.shape[1]]

        def draw() -> torch.Tensor:
            if variance_noise is not None:
                return check_noise_shape(variance_noise, sample).to(device=model_output.device, dtype=torch.float32)
            noise: torch.Tensor = randn_tensor(
                model_output.shape, generator=generator, device=model_output.device, dtype=torch.float32
            )
            return noise

        prev_sample, _ = self._advance(model_output, timestep, sample, draw if self._stochastic else None)
        return SchedulerOutput(prev_sample=prev_sample) if return_dict else (prev_sample,)

    def _observe(self, run: CachedRun, model_output: torch.Tensor, sample: torch.Tensor) -> Observed:
        separate = run.quantity != self._base_quantity and bool(run.rows[0].base_history)
        if not separate and not self.config.thresholding:
            return super()._observe(run, model_output, sample)
        plan, grid = self._require_grid()
        i = plan.compute_steps[run.next_call]
        scales = grid.alphas[i], grid.sigmas[i]

        def convert(source: str, target: str, output: Scaled) -> Scaled:
            of_sample, of_output = convert_quantity(source, target, *scales, flow=grid.flow)
            return linear(of_sample, sample, of_output * output.factor, output.tensor)

        of_sample, of_output = self._conversion(i, self._prediction, self._base_quantity)
        unbounded, base_output = None, linear(of_sample, sample, of_output, model_output)
        if self.config.thresholding:
            unbounded = convert(self._base_quantity, "sample", base_output).value()
            bounded = Scaled(factor=1.0, tensor=self._threshold_sample(unbounded))
            base_output = convert("sample", self._base_quantity, bounded)
        if not separate:
            return Observed(quantity=base_output, unbounded=unbounded)
        quantity = convert(self._base_quantity, run.quantity, base_output)
        return Observed(quantity=quantity, base_output=base_output, unbounded=unbounded)
