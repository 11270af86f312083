"""Gaussian mixtures as flows: exact velocity, score and density, and a reference solution to a tight tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ab_schedulers.bench.exact_flows import ExactFlow
from ab_schedulers.bench.extras import import_extra


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MixtureFlow(ExactFlow):
    """Data from a mixture of isotropic Gaussians, `Σ_k w_k N(m_k, s_k^2 I)`; no closed form, solved to `rtol`.

    With responsibilities `g_k(z) ∝ w_k N(z; (1-r) m_k, V_k(r) I)`:
    `u = Σ_k g_k [-m_k + V_k'/(2 V_k) (z - (1-r) m_k)]` and `∇ log p(z) = -Σ_k g_k (z - (1-r) m_k) / V_k`.

    Attributes:
        means: (components, dimension), float64.
        stds: (components,), float64.
        weights: (components,), positive, summing to 1.
        rtol: relative tolerance of the reference solution by DOP853 (Hairer, Nørsett and Wanner 1993, II.5).
    """

    means: torch.Tensor
    stds: torch.Tensor
    weights: torch.Tensor
    rtol: float = 1e-12

    @property
    def dimension(self) -> int:
        """Number of coordinates of one sample."""
        return self.means.shape[1]

    def velocity(self, z: torch.Tensor, r: float) -> torch.Tensor:
        """Expected `ε - x_0` given `z` (batch, dimension)."""
        offsets, variances, responsibilities = self._components(z, r)
        slopes = (r - (1.0 - r) * self.stds**2) / variances
        per_component = slopes[None, :, None] * offsets - self.means[None]
        return (responsibilities[:, :, None] * per_component).sum(dim=1)

    def score(self, z: torch.Tensor, r: float) -> torch.Tensor:
        """Gradient of `log_density` at `z` (batch, dimension)."""
        offsets, variances, responsibilities = self._components(z, r)
        return -((responsibilities / variances)[:, :, None] * offsets).sum(dim=1)

    def log_density(self, z: torch.Tensor, r: float) -> torch.Tensor:
        """Logarithm of the density of `z` (batch, dimension) at `r`; shape (batch,)."""
        offsets, variances = self._offsets(z, r)
        return torch.logsumexp(self._log_terms(offsets, variances), dim=1)

    def solution(self, z: torch.Tensor, r_start: float, r_end: float) -> torch.Tensor:
        """Trajectory of `z` (batch, dimension) by DOP853, the whole batch in one integration."""
        integrate = import_extra("scipy.integrate", "the reference trajectory of a Gaussian mixture")

        def right_hand_side(r: float, flat: object) -> object:
            return self.velocity(torch.as_tensor(flat).reshape(z.shape), r).reshape(-1).numpy()

        run = integrate.solve_ivp(
            right_hand_side,
            (r_start, r_end),
            z.double().reshape(-1).numpy(),
            method="DOP853",
            rtol=self.rtol,
            atol=self.rtol,
        )
        if not run.success:
            raise RuntimeError(f"the reference solution of the mixture did not converge: {run.message}")
        return torch.from_numpy(run.y[:, -1].copy()).reshape(z.shape).to(z.dtype)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """`count` samples of the data, (count, dimension)."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.dimension, generator=generator, dtype=torch.float64)
        return self.means[chosen] + self.stds[chosen, None] * noise

    def _offsets(self, z: torch.Tensor, r: float) -> tuple[torch.Tensor, torch.Tensor]:
        offsets = z[:, None, :] - (1.0 - r) * self.means[None]
        return offsets, (1.0 - r) ** 2 * self.stds**2 + r**2

    def _log_terms(self, offsets: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
        normalisation = 0.5 * self.dimension * torch.log(2.0 * math.pi * variances)
        return torch.log(self.weights) - normalisation - 0.5 * (offsets**2).sum(dim=2) / variances

    def _components(self, z: torch.Tensor, r: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        offsets, variances = self._offsets(z, r)
        return offsets, variances, torch.softmax(self._log_terms(offsets, variances), dim=1)


def random_mixture(
    dimension: int = 16, components: int = 8, separation: float = 0.4, std: float = 0.4, seed: int = 0
) -> MixtureFlow:
    """Mixture with normal means, widths within a factor 1.5 of `std` and unequal weights, fixed by `seed`.

    The components overlap a little. Where they are far apart, the few trajectories that end in another component than
    the exact one make up all of the mean square error, and methods cannot be told apart.

    Args:
        dimension: coordinates of a sample.
        components: number of Gaussians.
        separation: standard deviation of the means, per coordinate.
        std: typical standard deviation of a component.
        seed: of means, widths and weights.
    """
    generator = torch.Generator().manual_seed(seed)
    means = separation * torch.randn(components, dimension, generator=generator, dtype=torch.float64)
    spread = torch.rand(components, generator=generator, dtype=torch.float64)
    weights = 1.0 + torch.rand(components, generator=generator, dtype=torch.float64)
    return MixtureFlow(means=means, stds=std * 1.5 ** (2.0 * spread - 1.0), weights=weights / weights.sum())


def ring_mixture(components: int = 5, radius: float = 1.5, std: float = 0.15) -> MixtureFlow:
    """Mixture in two dimensions with equal components on a circle."""
    angle = 2.0 * math.pi * torch.arange(components, dtype=torch.float64) / components
    means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    stds = torch.full((components,), std, dtype=torch.float64)
    return MixtureFlow(means=means, stds=stds, weights=torch.full_like(stds, 1.0 / components))
