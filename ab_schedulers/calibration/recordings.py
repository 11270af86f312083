"""What is kept of a run: an excerpt of every trajectory's samples and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """Excerpts of one run of all trajectories.

    Args:
        samples: Samples at every call and at the end, (trajectories, calls + 1, values), float32.
        outputs: The cached quantity at every call, (trajectories, calls, values), float32.
    """

    samples: torch.Tensor
    outputs: torch.Tensor

    @classmethod
    def of_lists(cls, samples: list[torch.Tensor], outputs: list[torch.Tensor]) -> Recording:
        """From one tensor (trajectories, values) per call."""
        return cls(samples=torch.stack(samples, dim=1), outputs=torch.stack(outputs, dim=1))

    @property
    def final(self) -> torch.Tensor:
        """Final samples, (trajectories, values)."""
        return self.samples[:, -1]

    def of(self, chosen: torch.Tensor) -> Recording:
        """The recording of the trajectories that the mask ``chosen`` holds."""
        return Recording(samples=self.samples[chosen], outputs=self.outputs[chosen])


def excerpt(batch: torch.Tensor, values: int) -> torch.Tensor:
    """At most ``values`` regularly spaced values per trajectory of a batch, (batch, values), float32, on the CPU."""
    flat = batch.detach().reshape(len(batch), -1)
    stride = -(-flat.shape[1] // values)
    return flat[:, ::stride].to(device="cpu", dtype=torch.float32, copy=True)


def root_mean_squares(difference: torch.Tensor) -> torch.Tensor:
    """Of each trajectory (trajectories, values), (trajectories,), float64."""
    return difference.double().square().mean(dim=1).sqrt()
