"""Probability flows whose solution is known, in one pair of coordinates that serves every noise schedule.

With `x_t = alpha_t x_0 + sigma_t ε`, the coordinates

    z = x_t / (alpha_t + sigma_t),    r = sigma_t / (alpha_t + sigma_t) in [0, 1]

turn the probability flow of any schedule into `dz/dr = u(z, r) = ε - x_0`, the rectified flow: variance-preserving and
flow-matching models of the same data are one ordinary differential equation. (Same change of variables as Karras et al.
2022, arXiv 2206.00364, appendix B, with `1 - r` for their scale; finite at both ends, `alpha_t = 0` included.)

A flow gives `velocity(z, r)` and, where there is one, its closed-form `solution`. Everything is elementwise or batched
over the first axis, in the dtype of `z`; use float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import torch

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
PREDICTION_TYPES: tuple[PredictionType, ...] = get_args(PredictionType)


class ExactFlow(ABC):
    """A flow `dz/dr = u(z, r)` with a known solution."""

    @abstractmethod
    def velocity(self, z: torch.Tensor, r: float) -> torch.Tensor:
        """Right-hand side `u(z, r) = ε - x_0`, of the shape of `z`."""

    @abstractmethod
    def solution(self, z: torch.Tensor, r_start: float, r_end: float) -> torch.Tensor:
        """State at `r_end` of the trajectory that is at `z` when `r = r_start`."""

    def model_output(
        self, sample: torch.Tensor, alpha_t: float, sigma_t: float, prediction_type: PredictionType
    ) -> torch.Tensor:
        """What a perfectly trained network returns at the exact noise level `(alpha_t, sigma_t)`.

        Args:
            sample: `x_t`, any shape the flow takes.
            alpha_t: factor of the clean sample.
            sigma_t: factor of the noise.
            prediction_type: `epsilon`, `sample` (x_0), `v_prediction` (`alpha_t ε - sigma_t x_0`) or `flow_prediction`
                (`ε - x_0`).

        Raises:
            ValueError: unknown `prediction_type`.
        """
        scale = alpha_t + sigma_t
        z, r = sample / scale, sigma_t / scale
        velocity = self.velocity(z, r)
        if prediction_type == "flow_prediction":
            return velocity
        if prediction_type == "epsilon":
            return z + (1.0 - r) * velocity
        if prediction_type == "sample":
            return z - r * velocity
        if prediction_type == "v_prediction":
            return alpha_t * (z + (1.0 - r) * velocity) - sigma_t * (z - r * velocity)
        raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}; received {prediction_type!r}")

    def solve(
        self, sample: torch.Tensor, start: tuple[float, float], end: tuple[float, float] = (1.0, 0.0)
    ) -> torch.Tensor:
        """Exact `x` at `end = (alpha, sigma)` of the trajectory through `sample` at `start`; by default clean data."""
        scale_start, scale_end = sum(start), sum(end)
        return scale_end * self.solution(sample / scale_start, start[1] / scale_start, end[1] / scale_end)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenFlow(ExactFlow):
    """One predicted quantity is a constant `value`; the sampler that holds this quantity is exact on it.

    The noise cannot be frozen at `r = 1` (no data left) nor x_0 at `r = 0` (no noise left).
    """

    quantity: PredictionType
    value: float = 0.7

    def velocity(self, z: torch.Tensor, r: float) -> torch.Tensor:
        """`(c - z)/(1 - r)`, `(z - c)/r` or `c` for frozen ε, x_0 or velocity `c`."""
        if self.quantity == "epsilon":
            return (self.value - z) / (1.0 - r)
        if self.quantity == "sample":
            return (z - self.value) / r
        if self.quantity == "flow_prediction":
            return torch.full_like(z, self.value)
        raise ValueError(f"quantity must be epsilon, sample or flow_prediction; received {self.quantity!r}")

    def solution(self, z: torch.Tensor, r_start: float, r_end: float) -> torch.Tensor:
        """`z` is linear in `r` along every trajectory."""
        if self.quantity == "epsilon":
            return (1.0 - r_end) / (1.0 - r_start) * (z - r_start * self.value) + r_end * self.value
        if self.quantity == "sample":
            return self.value + r_end / r_start * (z - self.value)
        if self.quantity == "flow_prediction":
            return z + self.value * (r_end - r_start)
        raise ValueError(f"quantity must be epsilon, sample or flow_prediction; received {self.quantity!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFlow(ExactFlow):
    """`u = rate z`, hence `z(r) = z(r_0) exp(rate (r - r_0))`."""

    rate: float = 1.5

    def velocity(self, z: torch.Tensor, r: float) -> torch.Tensor:
        """`rate z`."""
        return self.rate * z

    def solution(self, z: torch.Tensor, r_start: float, r_end: float) -> torch.Tensor:
        """Exponential in `r`."""
        return z * math.exp(self.rate * (r_end - r_start))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticFlow(ExactFlow):
    """`u = rate z (1 - z)`, hence `1/z(r) - 1 = (1/z(r_0) - 1) exp(-rate (r - r_0))`; start in (0, 1)."""

    rate: float = 4.0

    def velocity(self, z: torch.Tensor, r: float) -> torch.Tensor:
        """`rate z (1 - z)`."""
        return self.rate * z * (1.0 - z)

    def solution(self, z: torch.Tensor, r_start: float, r_end: float) -> torch.Tensor:
        """Logistic curve through `z` at `r_start`."""
        return 1.0 / (1.0 + (1.0 / z - 1.0) * math.exp(-self.rate * (r_end - r_start)))


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianFlow(ExactFlow):
    """Data `N(mean, std^2)`: `z ~ N((1-r) mean, V(r))` with `V(r) = (1-r)^2 std^2 + r^2`.

    `u = -mean + V'/(2V) (z - (1-r) mean)`, and the trajectory keeps its quantile:
    `z(r) = (1-r) mean + sqrt(V(r)/V(r_0)) (z(r_0) - (1-r_0) mean)`.
    """

    mean: float = 0.5
    std: float = 0.3

    def velocity(self, z: torch.Tensor, r: float) -> torch.Tensor:
        """`-mean + V'/(2V) (z - (1-r) mean)`."""
        slope = r - (1.0 - r) * self.std**2
        return -self.mean + slope / self._variance(r) * (z - (1.0 - r) * self.mean)

    def solution(self, z: torch.Tensor, r_start: float, r_end: float) -> torch.Tensor:
        """Moves with the mean and scales with the standard deviation of `z`."""
        ratio = math.sqrt(self._variance(r_end) / self._variance(r_start))
        return (1.0 - r_end) * self.mean + ratio * (z - (1.0 - r_start) * self.mean)

    def _variance(self, r: float) -> float:
        return (1.0 - r) ** 2 * self.std**2 + r**2
