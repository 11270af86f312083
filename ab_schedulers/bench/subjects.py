"""What the bench samples: something with a stock scheduler and a `predict(sample, timestep, labels)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers.bench.exact_flows import ExactFlow, PredictionType
from ab_schedulers.bench.mixtures import MixtureFlow, random_mixture


class Subject(Protocol):
    """A model together with the stock diffusers scheduler it was made for; the bundled models are subjects."""

    @property
    def name(self) -> str:
        """Short name, as printed in tables."""

    @property
    def scheduler(self) -> Any:
        """Stock diffusers scheduler of the model."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch."""

    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Model output at `sample` (batch, …) and the scheduler's `timestep`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactSubject:
    """An exact flow behind the interface of a network: it is called with the scheduler's `timestep`.

    Variance-preserving schedulers: `alpha_t^2` is `alphas_cumprod`, linearly interpolated at fractional timesteps.
    Flow matching: `sigma_t = timestep / num_train_timesteps`, `alpha_t = 1 - sigma_t`.
    """

    name: str
    flow: ExactFlow
    scheduler: Any
    prediction_type: PredictionType
    sample_shape: tuple[int, ...]

    def noise_level(self, timestep: torch.Tensor | float) -> tuple[float, float]:
        """`(alpha_t, sigma_t)` at `timestep`."""
        t = float(timestep)
        if self.prediction_type == "flow_prediction":
            sigma_t = t / self.scheduler.config.num_train_timesteps
            return 1.0 - sigma_t, sigma_t
        table = self.scheduler.alphas_cumprod.double()
        low = min(max(int(t), 0), len(table) - 1)
        high = min(low + 1, len(table) - 1)
        alpha_squared = float(table[low] + (t - low) * (table[high] - table[low]))
        return alpha_squared**0.5, (1.0 - alpha_squared) ** 0.5

    def predict(
        self, sample: torch.Tensor, timestep: torch.Tensor | float, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Exact model output; `labels` are ignored."""
        return self.flow.model_output(sample, *self.noise_level(timestep), self.prediction_type)

    def converged(self, noise: torch.Tensor, first_timestep: torch.Tensor | float) -> torch.Tensor:
        """Clean samples at the end of the exact trajectories that start from `noise` at `first_timestep`."""
        return self.flow.solve(noise, self.noise_level(first_timestep))


_GRID: dict[str, Any] = {"clip_sample": False, "timestep_spacing": "trailing"}
_STABLE_DIFFUSION: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_KINDS: dict[str, tuple[Any, PredictionType, dict[str, Any]]] = {
    "vp": (DDIMScheduler, "epsilon", _GRID),
    "sd": (DDIMScheduler, "epsilon", {**_GRID, **_STABLE_DIFFUSION}),
    "flow": (FlowMatchEulerDiscreteScheduler, "flow_prediction", {}),
}


def mixture_subject(kind: str, flow: MixtureFlow | None = None) -> ExactSubject:
    """Gaussian mixture as a subject.

    Args:
        kind: `vp` (ε-prediction, linear betas, trailing DDIM grid), `sd` (the same with Stable Diffusion's betas) or
            `flow` (flow matching).
        flow: the mixture; `random_mixture()` in 16 dimensions when not given.

    Raises:
        ValueError: unknown `kind`.
    """
    flow = random_mixture() if flow is None else flow
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}; received {kind!r}")
    scheduler_class, prediction_type, options = _KINDS[kind]
    return ExactSubject(
        name=f"mixture-{kind}",
        flow=flow,
        scheduler=scheduler_class(**options),
        prediction_type=prediction_type,
        sample_shape=(flow.dimension,),
    )
