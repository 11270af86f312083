"""Cached DDIM."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from ab_schedulers.numerics import BaseStep, CachePlan, convert_quantity, ddim_step, quantity_map

from .base import ABCacheScheduler
from .combination import linear
from .grids import NoiseGrid
from .options import check_number
from .parameters import base_parameters, check_leading_reach, check_noise_shape, check_number_of_base_steps
from .run import CachedRun, Observed
from .stock_steps import refused


class ABCacheDDIMScheduler(ABCacheScheduler, DDIMScheduler, target="ddim"):
    """DDIM on a fine grid, with the model called on every ``cache_interval``-th step only.

    Each base step is ``x' = alpha' x_0 + sqrt(sigma'^2 - s^2) epsilon + s z`` (Song et al. 2021, arXiv:2010.02502,
    equation 12); the outputs of skipped steps are predicted from the cached ones (AB-Cache, arXiv:2504.10540).

    Unlike stock DDIM, which strides ``num_train_timesteps // num_inference_steps`` whatever the grid, each step ends at
    the grid's next entry; the two agree for ``leading`` spacing and wherever the number of steps divides
    ``num_train_timesteps``. Clipping and thresholding act at computed nodes alone.

    The parameters before ``snr_shift_scale`` are those of `diffusers.DDIMScheduler`, with the same meaning and
    defaults.

    Theory: docs/theory/03-base-steps.md.

    Args:
        snr_shift_scale: CogVideoX's shift of the signal-to-noise ratio; None for none.
        cache_interval: Base steps that a model call walks; 1 is plain DDIM.
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
        >>> scheduler = ABCacheDDIMScheduler(timestep_spacing="trailing", clip_sample=False, cache_interval=3)
        >>> scheduler.set_timesteps(17)
        >>> sample = torch.zeros(1, 4, 8, 8)
        >>> for t in scheduler.timesteps:
        ...     sample = scheduler.step(torch.ones_like(sample), t, sample).prev_sample
    """

    _has_sigmas = False
    _choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "prediction_type": ("epsilon", "sample", "v_prediction"),
        "timestep_spacing": ("leading", "linspace", "trailing"),
    }
    _compatibles = DDIMScheduler._compatibles

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray[Any, Any] | list[float] | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        snr_shift_scale: float | None = None,
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
        self._check_options()
        super().__init__(**base_parameters(DDIMScheduler, self.config))
        if snr_shift_scale is not None:
            self._take_shifted_alphas()
        self._eta = 0.0
        self._use_clipped_model_output = False
        self._initialize_cache()

    def _check_options(self) -> None:
        super()._check_options()
        if self.config.snr_shift_scale is not None:
            check_number(self.config, "snr_shift_scale", 0, math.inf)

    def _take_shifted_alphas(self) -> None:
        """Take the signal-to-noise ratios of CogVideoX's own DDIM scheduler."""
        shifted = CogVideoXDDIMScheduler(**base_parameters(CogVideoXDDIMScheduler, self.config))
        self.betas, self.alphas = shifted.betas, shifted.alphas
        self.alphas_cumprod, self.final_alpha_cumprod = shifted.alphas_cumprod, shifted.final_alpha_cumprod

    # DDIM knows no index; pipelines that set one find the same members as on the other schedulers.
    index_for_timestep = DPMSolverMultistepScheduler.index_for_timestep
    set_begin_index = DPMSolverMultistepScheduler.set_begin_index
    step_index = DPMSolverMultistepScheduler.step_index
    begin_index = DPMSolverMultistepScheduler.begin_index
    _get_variance = refused("_get_variance")

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Lay out the base grid, publish the timesteps of the model calls and fold the rows.

        Args:
            num_inference_steps: Number of **model calls**; each walks ``cache_interval`` base steps.
            device: Where ``timesteps`` lives.

        Raises:
            ValueError: If the calls, the plan or the grid are impossible; the scheduler is left as it was.
        """
        with self._restored_on_error():
            self._eta, self._use_clipped_model_output = 0.0, False
            self._lay_out(num_inference_steps, lambda plan, _: self._build_grid(plan), device)

    def _build_grid(self, plan: CachePlan) -> tuple[CachePlan, NoiseGrid]:
        check_number_of_base_steps(self.config, plan)
        check_leading_reach(self.config, plan, lambda n: (n - 1) * (self.config.num_train_timesteps // n))
        steps = plan.num_base_steps
        DDIMScheduler.set_timesteps(self, steps, "cpu")
        self.timesteps = self.timesteps[:steps]  # stock's trailing grid has a stray entry -1 for some numbers of steps
        timesteps = self.timesteps.tolist()
        if max(timesteps) >= len(self.alphas_cumprod) or min(timesteps) < 0:
            raise ValueError(
                f"the base grid runs from timestep {max(timesteps)} to {min(timesteps)}, expected timesteps from 0 to "
                f"{len(self.alphas_cumprod) - 1}; correct `steps_offset`, `num_train_timesteps` or `trained_betas`."
            )
        cumprod = [*self.alphas_cumprod[timesteps].tolist(), float(self.final_alpha_cumprod)]
        return plan, NoiseGrid(
            timesteps=tuple(float(t) for t in timesteps),
            alphas=tuple(math.sqrt(a) for a in cumprod),
            sigmas=tuple(math.sqrt(1 - a) for a in cumprod),
            flow=False,
        )

    def _default_quantity(self) -> str:
        return "velocity" if self._places_calls and self._prediction == "velocity" else "sample"

    @property
    def _stochastic(self) -> bool:
        return self._eta > 0

    def _base_steps(self, grid: NoiseGrid, first: int, quantity: str) -> tuple[BaseStep, ...]:
        steps = []
        for i in range(len(grid.timesteps)):
            start = quantity_map(quantity, grid.alphas[i], grid.sigmas[i])
            variance = self._variance(grid, i)
            remaining = grid.sigmas[i + 1] ** 2 - variance
            if remaining < 0:
                raise ValueError(
                    f"`eta` = {self._eta} asks for more noise at base step {i} than the next level holds; expected a "
                    "value from 0 to 1. Lower it."
                )
            steps.append(ddim_step(start, grid.alphas[i + 1], math.sqrt(remaining), variance))
        return tuple(steps)

    def _variance(self, grid: NoiseGrid, i: int) -> float:
        """``eta^2 (sigma'^2 / sigma^2) (1 - alpha^2 / alpha'^2)``, equation 16 of arXiv:2010.02502."""
        if self._eta == 0:
            return 0.0
        noise = (grid.sigmas[i + 1] / grid.sigmas[i]) ** 2
        return self._eta**2 * noise * max(0.0, 1 - (grid.alphas[i] / grid.alphas[i + 1]) ** 2)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | None = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Walk all base steps up to the next model call.

        Args:
            model_output: Output of the model, the shape of ``sample``.
            timestep: The entry of ``timesteps`` that the model was called with.
            sample: Current sample (batch, channels, ...).
            eta: Weight of fresh noise, 0 (DDIM) to 1 (DDPM); one draw of the window's accumulated variance.
            use_clipped_model_output: Re-derive the noise from the clipped clean sample, and cache it so.
            generator: Source of the noise.
            variance_noise: The noise itself, in place of ``generator``.
            return_dict: Return an output object rather than a tuple ``(prev_sample, pred_original_sample)``.

        Raises:
            ValueError: Before any state changes, if the input does not belong to this call or is not finite.
        """
        self._require_grid()
        if variance_noise is not None and generator is not None:
            raise ValueError("Pass either `generator` or `variance_noise`, received both; drop one of them.")
        if not 0 <= eta <= 1:
            raise ValueError(f"`eta` must lie between 0 and 1, received {eta}; choose a value in that range.")

        def draw() -> torch.Tensor:
            if variance_noise is not None:
                return check_noise_shape(variance_noise, sample)
            noise: torch.Tensor = randn_tensor(
                model_output.shape, generator=generator, device=model_output.device, dtype=model_output.dtype
            )
            return noise

        changed = (eta, use_clipped_model_output) != (self._eta, self._use_clipped_model_output)
        with self._restored_on_error() if changed else nullcontext():
            if changed:
                self._eta, self._use_clipped_model_output = eta, use_clipped_model_output
                self._run = None  # another noise needs other rows; the history starts anew
            prev_sample, observed = self._advance(model_output, timestep, sample, draw if eta > 0 else None)
        assert observed.clean is not None
        clean = observed.clean.to(sample.dtype, copy=observed.clean is observed.quantity.tensor)
        if not return_dict:
            return prev_sample, clean
        return DDIMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=clean)

    def _observe(self, run: CachedRun, model_output: torch.Tensor, sample: torch.Tensor) -> Observed:
        plan, grid = self._require_grid()
        i = plan.compute_steps[run.next_call]
        cached = super()._observe(run, model_output, sample).quantity
        clean = cached.value() if run.quantity == "sample" else self._clean(i, sample, model_output)
        bounded = self._bound(clean)
        if bounded is not None and self._use_clipped_model_output:
            of_sample, of_output = convert_quantity("sample", run.quantity, grid.alphas[i], grid.sigmas[i])
            quantity = linear(of_sample, sample, of_output, bounded)
            return Observed(quantity=quantity, clean=bounded, unbounded=clean)
        if bounded is None:
            return Observed(quantity=cached, clean=clean)
        return Observed(quantity=cached, residual=bounded - clean, clean=bounded)

    def _clean(self, i: int, sample: torch.Tensor, model_output: torch.Tensor) -> torch.Tensor:
        of_sample, of_output = self._conversion(i, self._prediction, "sample")
        return linear(of_sample, sample, of_output, model_output).value()

    def _bound(self, clean: torch.Tensor) -> torch.Tensor | None:
        """The clipped or thresholded clean sample; None where the config asks for neither."""
        if self.config.thresholding:
            bounded: torch.Tensor = self._threshold_sample(clean)
            return bounded
        if self.config.clip_sample:
            return clean.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        return None
