"""Signal and noise scale at a timestep, and the predicted quantity, read off a diffusers scheduler."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ab_schedulers.numerics import convert_quantity
from ab_schedulers.schedulers.base import PREDICTION_QUANTITIES

_STOCHASTIC_CLASSES = frozenset(
    {
        "DDPMScheduler",
        "DDPMParallelScheduler",
        "EulerAncestralDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DPMSolverSDEScheduler",
        "SASolverScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "CogVideoXDPMScheduler",
    }
)


def draws_noise(scheduler: Any) -> bool:
    """Whether the scheduler's configuration draws fresh noise in its steps; an ``eta`` given per call is not seen."""
    config = scheduler.config
    return (
        type(scheduler).__name__ in _STOCHASTIC_CLASSES
        or bool(config.get("stochastic_sampling"))
        or str(config.get("algorithm_type", "")).startswith("sde")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePath:
    """``x_t = alpha_t x_0 + sigma_t epsilon`` of the samples that a model is given.

    Args:
        prediction: The quantity the model predicts: ``"epsilon"``, ``"sample"`` or ``"velocity"``.
        alphas_cumprod: ``alpha_t^2`` at every training timestep; None for flow matching, ``alpha_t = 1 - sigma_t``.
        num_train_timesteps: The unit of time: pure noise lies at this timestep.
    """

    prediction: str
    alphas_cumprod: tuple[float, ...] | None
    num_train_timesteps: int

    @classmethod
    def of(cls, scheduler: Any) -> NoisePath:
        """The path of a diffusers scheduler.

        Raises:
            ValueError: If the scheduler tells neither alphas nor that it is a flow-matching one.
        """
        config = scheduler.config
        count = int(config.get("num_train_timesteps") or 1000)
        prediction = config.get("prediction_type", "flow_prediction")
        flow = "FlowMatch" in type(scheduler).__name__ or bool(config.get("use_flow_sigmas"))
        if flow or prediction == "flow_prediction":
            return cls(prediction="velocity", alphas_cumprod=None, num_train_timesteps=count)
        alphas = getattr(scheduler, "alphas_cumprod", None)
        if alphas is None or prediction not in PREDICTION_QUANTITIES:
            raise ValueError(
                f"{type(scheduler).__name__} tells no noise levels (alphas_cumprod, a known prediction_type or flow "
                "sigmas), which are needed here; pass the scheduler that the model was trained for."
            )
        return cls(
            prediction=PREDICTION_QUANTITIES[prediction],
            alphas_cumprod=tuple(float(a) for a in alphas),
            num_train_timesteps=count,
        )

    @property
    def flow(self) -> bool:
        """Whether this is a flow-matching path."""
        return self.alphas_cumprod is None

    def scales(self, timestep: float) -> tuple[float, float]:
        """``(alpha_t, sigma_t)``; between training timesteps ``alpha_t^2`` is interpolated linearly."""
        if self.alphas_cumprod is None:
            sigma = timestep / self.num_train_timesteps
            return 1 - sigma, sigma
        last = len(self.alphas_cumprod) - 1
        t = min(max(timestep, 0.0), float(last))
        low = min(int(t), last - 1)
        squared = self.alphas_cumprod[low] + (t - low) * (self.alphas_cumprod[low + 1] - self.alphas_cumprod[low])
        return math.sqrt(squared), math.sqrt(1 - squared)

    def log_ratio(self, timestep: float) -> float:
        """``lambda_t = log(alpha_t / sigma_t)``.

        Raises:
            ValueError: Where it is infinite.
        """
        alpha, sigma = self.scales(timestep)
        if alpha <= 0 or sigma <= 0:
            raise ValueError(
                f"lambda is infinite at timestep {timestep} (alpha {alpha:g}, sigma {sigma:g}); choose another "
                '`variable`: "index" or "timestep".'
            )
        return math.log(alpha / sigma)

    def convert(
        self, source: str, target: str, timestep: float, *, noise_scale: float | None = None
    ) -> tuple[float, float]:
        """Scalars ``(u, w)`` with ``target = u x + w source``, see `numerics.convert_quantity`.

        One of the two may also be ``"signal"``, ``alpha_t x_0 = x_t - sigma_t epsilon``.

        Raises:
            ValueError: Where the conversion is singular.
        """
        alpha, sigma = self.scales(timestep)
        first, last = ("epsilon" if quantity == "signal" else quantity for quantity in (source, target))
        try:
            u, w = convert_quantity(first, last, alpha, sigma, flow=self.flow, noise_scale=noise_scale)
            if source == "signal":
                u, w = u + w / sigma, -w / sigma
            if target == "signal":
                u, w = 1 - sigma * u, -sigma * w
        except ZeroDivisionError as error:
            raise ValueError(
                f"{source!r} cannot be turned into {target!r} at timestep {timestep} (alpha {alpha:g}, sigma "
                f'{sigma:g}); cache the model\'s own output: quantity="model_output".'
            ) from error
        return u, w
