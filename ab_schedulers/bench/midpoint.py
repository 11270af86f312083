"""The midpoint rule as a scheduler, so that any loop that calls one can run it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler


class FlowMatchMidpointScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Midpoint rule on even steps of sigma from 1 to 0, with two model calls a step.

    A model's output ripples with a period of some six timesteps, so that many small steps of low order converge where
    few of high order do not. Whatever `sigmas`, `timesteps` or `mu` a pipeline passes is not used: they say where few
    steps stand best, and the trajectory itself does not depend on them.
    """

    order = 2
    init_noise_sigma = 1.0

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Any = None,
        mu: object = None,
        timesteps: Any = None,
    ) -> None:
        """Lay out the calls: each step begins at a level and calls once more in its middle.

        As many steps as `sigmas` or `timesteps` have entries, where a pipeline passes these alone.
        """
        if num_inference_steps is None:
            num_inference_steps = len(timesteps if sigmas is None else sigmas)
        self.num_inference_steps, self._call = num_inference_steps, 0
        levels = [1.0 - i / num_inference_steps for i in range(num_inference_steps)]
        half = -0.5 / num_inference_steps
        calls = [sigma for level in levels for sigma in (level, level + half)]
        scale = self.config.num_train_timesteps
        self.sigmas = torch.tensor([*calls, 0.0])
        self.timesteps = torch.tensor([scale * sigma for sigma in calls], device=device)

    def scale_model_input(self, sample: torch.Tensor, timestep: object = None) -> torch.Tensor:
        """The sample as it is."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: object,
        sample: torch.Tensor,
        generator: object = None,
        return_dict: bool = True,
    ) -> Any:
        """To the middle of the step, then from its begin to its end with the output found in the middle."""
        h = -1.0 / self.num_inference_steps
        if self._call % 2 == 0:
            self._begin = sample
            prev_sample = sample + 0.5 * h * model_output
        else:
            prev_sample = self._begin + h * model_output
        self._call += 1
        if not return_dict:
            return (prev_sample,)
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput

        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=prev_sample)
