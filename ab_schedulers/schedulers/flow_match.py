"""Cached flow-matching Euler."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from ab_schedulers.numerics import BaseStep, CachePlan, ddim_step, quantity_map

from .base import ABCacheScheduler
from .grids import NoiseGrid, call_nodes, check_mu, check_number_of_calls, is_uniform, refine, uniform_sigmas
from .options import check_number
from .parameters import base_parameters


class ABCacheFlowMatchEulerScheduler(ABCacheScheduler, FlowMatchEulerDiscreteScheduler, target="flow_match"):
    """Flow-matching Euler on a fine grid, with the model called on every ``cache_interval``-th step only.

    Each base step is ``x' = x + (sigma' - sigma) v`` (with ``stochastic_sampling``, ``(1 - sigma') x_0 + sigma' z``);
    the outputs of skipped steps are predicted from the cached ones (AB-Cache, arXiv:2504.10540). Without ``sigmas`` the
    base grid is stock's, which ends at ``sigma = 1 / num_train_timesteps`` before its last step; pipelines pass
    ``sigmas = linspace(1, 1/n, n)``.

    The parameters before ``cache_interval`` are those of `diffusers.FlowMatchEulerDiscreteScheduler`, with the same
    meaning and defaults; ``invert_sigmas`` must be False.

    Theory: docs/theory/03-base-steps.md.

    Args:
        cache_interval: Base steps that a model call walks; 1 is plain Euler.
        cache_order: Number of cached outputs that predict a skipped one, 1 (plain reuse) to 8.
        cache_predictor: ``"extrapolate"`` to each skipped node, or ``"hold"`` the binomial weights for a window.
        cache_variable: In which variable outputs are interpolated: ``"index"``, ``"timestep"`` or ``"lambda"``.
        cache_quantity: What is cached: ``"model_output"``, ``"epsilon"``, ``"sample"`` (x_0) or ``"velocity"``;
            None for the measured default (``"sample"`` whenever fresh noise is drawn).
        cache_corrector: Number of outputs of the free Adams-Moulton corrector, or None.
        warmup_calls: First calls that walk one base step each.
        num_base_steps: Number of base steps, in place of ``cache_interval``.
        compute_steps: The base steps that call the model, with ``num_base_steps``; overrides the plan.
        cache_placement: ``"even"``, a call on every ``cache_interval``-th base step; or ``"noise_ratio"``, calls where
            `noise_ratios` puts them on a fine grid of ``num_base_steps`` (by default half of ``num_train_timesteps``).
        calibrations: Fitted rows and plans, keyed by the number of calls.
        noise_scaling: A factor on the predicted noise, see `noise_scale_function`.

    Examples:
        >>> scheduler = ABCacheFlowMatchEulerScheduler(shift=3.0, cache_interval=3)
        >>> scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
        >>> sample = torch.zeros(1, 4, 8, 8)
        >>> for t in scheduler.timesteps:
        ...     sample = scheduler.step(torch.ones_like(sample), t, sample).prev_sample
    """

    _compatibles = FlowMatchEulerDiscreteScheduler._compatibles
    _choices: ClassVar[dict[str, tuple[str, ...]]] = {"time_shift_type": ("exponential", "linear")}

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        invert_sigmas: bool = False,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        time_shift_type: str = "exponential",
        stochastic_sampling: bool = False,
        cache_interval: int = 3,
        cache_order: int = 2,
        cache_predictor: str = "extrapolate",
        cache_variable: str = "timestep",
        cache_quantity: str | None = None,
        cache_corrector: int | None = 3,
        warmup_calls: int = 0,
        num_base_steps: int | None = None,
        compute_steps: list[int] | None = None,
        cache_placement: str = "even",
        calibrations: dict[str, Any] | None = None,
        noise_scaling: dict[str, Any] | None = None,
    ) -> None:
        if invert_sigmas:
            raise ValueError(
                "`invert_sigmas` must be False, received True: the cached scheduler walks from noise to data. Keep the "
                "stock scheduler for this pipeline."
            )
        self._check_options()
        super().__init__(**base_parameters(FlowMatchEulerDiscreteScheduler, self.config))
        self._initialize_cache()

    def _check_options(self) -> None:
        super()._check_options()
        check_number(self.config, "shift", 0, math.inf)
        if self.config.shift_terminal:  # 0 means none, as in diffusers
            check_number(self.config, "shift_terminal", 0, 1)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        """Lay out the base grid, publish the timesteps of the model calls and fold the rows.

        Args:
            num_inference_steps: Number of **model calls**; each walks ``cache_interval`` base steps.
            device: Where ``timesteps`` and ``sigmas`` live.
            sigmas: Noise scales of the calls before shifting, falling; base steps are inserted linearly between them
                and after the last one toward 0 (none if it is 0), then shift, terminal and sigma schedule act as in
                diffusers. Where they are the pipelines' own ``linspace(1, 1/n, n)``, the nodes of a calibration that
                fits, or of ``cache_placement``, replace them.
            mu: Shift of the dynamic time shift, taken as passed.
            timesteps: Timesteps of the calls, treated likewise.

        Raises:
            ValueError: If the calls, the plan or the grid are impossible; the scheduler is left as it was.
        """
        if sigmas is not None:
            sigmas = call_nodes("sigmas", sigmas, 0, 1)
        if timesteps is not None:
            timesteps = call_nodes("timesteps", timesteps, 0, self.config.num_train_timesteps)
        if num_inference_steps is not None:
            check_number_of_calls(num_inference_steps)
        counts = [num_inference_steps, *(None if nodes is None else len(nodes) for nodes in (sigmas, timesteps))]
        given = {count for count in counts if count is not None}
        if len(given) != 1:
            raise ValueError(
                "Pass `num_inference_steps`, `sigmas` or `timesteps`, all for one number of calls; received "
                f"{counts[0]} calls, {counts[1]} sigmas and {counts[2]} timesteps."
            )
        if self.config.use_dynamic_shifting and mu is None:
            raise ValueError(
                "`mu` must be passed where `use_dynamic_shifting` is set, received None; pass the shift that the "
                "pipeline computes from the image size."
            )
        if self.config.use_dynamic_shifting:
            check_mu(mu, self.config.time_shift_type)
        self._lay_out(
            given.pop(),
            lambda plan, free: self._build_grid(plan, sigmas, mu, timesteps, free),
            device,
            given=timesteps is not None or (sigmas is not None and not is_uniform(sigmas)),
        )
        self.sigmas = self.sigmas.to(device)

    def _build_grid(
        self,
        plan: CachePlan,
        sigmas: list[float] | None,
        mu: float | None,
        timesteps: list[float] | None,
        free: bool,
    ) -> tuple[CachePlan, NoiseGrid]:
        replaced = free and sigmas is not None and is_uniform(sigmas)
        for name, nodes in (("sigmas", None if replaced else sigmas), ("timesteps", timesteps)):
            plan = plan if nodes is None else self._fit_plan(name, nodes, plan)
        base_sigmas = uniform_sigmas(plan.num_base_steps) if replaced else None
        if sigmas is not None and not replaced:
            base_sigmas = refine(sigmas, plan)
        base_timesteps = None if timesteps is None else refine(timesteps, plan)
        FlowMatchEulerDiscreteScheduler.set_timesteps(
            self, plan.num_base_steps, "cpu", sigmas=base_sigmas, mu=mu, timesteps=base_timesteps
        )
        levels = self.sigmas.tolist()
        return plan, NoiseGrid(
            timesteps=tuple(self.timesteps.tolist()),
            alphas=tuple(1 - s for s in levels),
            sigmas=tuple(levels),
            flow=True,
            shift=self._time_shift(mu),
        )

    def _time_shift(self, mu: float | None) -> float:
        """The factor on ``sigma / (1 - sigma)`` of the static or the dynamic shift."""
        if not self.config.use_dynamic_shifting or mu is None:
            return float(self.config.shift)
        return math.exp(mu) if self.config.time_shift_type == "exponential" else float(mu)

    @property
    def _prediction(self) -> str:
        return "velocity"

    def _default_quantity(self) -> str:
        return "velocity" if self._places_calls else "sample"

    @property
    def _stochastic(self) -> bool:
        return bool(self.config.stochastic_sampling)

    def _base_steps(self, grid: NoiseGrid, first: int, quantity: str) -> tuple[BaseStep, ...]:
        steps = []
        for i in range(len(grid.timesteps)):
            if grid.sigmas[i] == grid.sigmas[i + 1]:  # a last step that stands still, at zero
                steps.append(BaseStep(sample=1.0, outputs=(0.0,)))
                continue
            start = quantity_map(quantity, grid.alphas[i], grid.sigmas[i], flow=True)
            alpha_next, sigma_next = grid.alphas[i + 1], grid.sigmas[i + 1]
            if self._stochastic:
                steps.append(ddim_step(start, alpha_next, 0.0, sigma_next * sigma_next))
            else:
                steps.append(ddim_step(start, alpha_next, sigma_next))
        return tuple(steps)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: torch.Generator | None = None,
        per_token_timesteps: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[torch.Tensor]:
        """Walk all base steps up to the next model call.

        Args:
            model_output: Output of the model (velocity), the shape of ``sample``.
            timestep: The entry of ``timesteps`` that the model was called with.
            sample: Current sample (batch, ...).
            s_churn: Unused, as in diffusers.
            s_tmin: Unused, as in diffusers.
            s_tmax: Unused, as in diffusers.
            s_noise: Unused, as in diffusers.
            generator: Source of the noise of ``stochastic_sampling``.
            per_token_timesteps: Not supported; must be None.
            return_dict: Return an output object rather than a tuple.

        Raises:
            ValueError: Before any state changes, if the input does not belong to this call or is not finite.
        """
        self._require_grid()
        if per_token_timesteps is not None:
            raise ValueError(
                "`per_token_timesteps` is not supported: cached rows hold for one noise level per call. Keep the stock "
                "scheduler for this pipeline."
            )
        if isinstance(timestep, (int, torch.IntTensor, torch.LongTensor)):
            raise ValueError(
                f"`timestep` must be one of `scheduler.timesteps` (floating point), received the integer {timestep!r}; "
                "loop over `scheduler.timesteps`."
            )

        def draw() -> torch.Tensor:
            noise: torch.Tensor = randn_tensor(
                sample.shape, generator=generator, device=sample.device, dtype=torch.float32
            )
            return noise

        prev_sample, _ = self._advance(model_output, timestep, sample, draw if self._stochastic else None)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=prev_sample) if return_dict else (prev_sample,)
