"""diffusers' IPNDM on the noise levels of a model's own schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch


class IPNDMOnGrid:
    """IPNDM (Zhang and Chen 2022, arXiv 2204.13902, section 3) on the levels of `EulerDiscreteScheduler`'s grid.

    diffusers' IPNDM brings a schedule of its own, has no prediction type and reads the model's output as v, but takes
    any noise levels as `trained_betas`. It gets the grid's here; the model is called with the grid's timesteps, and
    what it predicts as ε is converted to v.

    Args:
        schedule: betas and prediction type of the model, `epsilon` or `v_prediction`.
        spacing: timestep spacing of the grid.

    Raises:
        ValueError: another prediction type.
    """

    init_noise_sigma = 1.0
    order = 1

    def __init__(self, schedule: Mapping[str, Any], spacing: str) -> None:
        if schedule["prediction_type"] not in ("epsilon", "v_prediction"):
            raise ValueError(f"IPNDM needs epsilon or v_prediction; received {schedule['prediction_type']!r}")
        self.config = {**schedule, "timestep_spacing": spacing}
        self._grid = diffusers.EulerDiscreteScheduler(**self.config)

    def set_timesteps(self, num_inference_steps: int, device: str | None = None) -> None:
        """Lay out the grid of `num_inference_steps` calls."""
        self._grid.set_timesteps(num_inference_steps)
        ratios = self._grid.sigmas.double()
        self.timesteps = self._grid.timesteps.to(device)
        self._solver = diffusers.IPNDMScheduler(trained_betas=(ratios / (1.0 + ratios**2).sqrt()).tolist())
        self._solver.set_timesteps(num_inference_steps)
        self._index = 0

    def scale_model_input(self, sample: torch.Tensor, timestep: object = None) -> torch.Tensor:
        """The sample as it is."""
        return sample

    def step(
        self, model_output: torch.Tensor, timestep: object, sample: torch.Tensor, return_dict: bool = False
    ) -> tuple[torch.Tensor]:
        """One step of IPNDM with the output at the next entry of `timesteps`."""
        alpha, sigma = float(self._solver.alphas[self._index]), float(self._solver.betas[self._index])
        if self.config["prediction_type"] == "epsilon":
            model_output = (model_output - sigma * sample) / alpha
        inner_timestep = self._solver.timesteps[self._index]
        self._index += 1
        prev_sample: torch.Tensor = self._solver.step(model_output, inner_timestep, sample, return_dict=False)[0]
        return (prev_sample,)
