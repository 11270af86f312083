"""Image to image, inpainting and video to video: where a run with `strength` starts, and what inpainting re-imposes."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tiny_pipelines import CASES, Case, cached, counterpart, difference, of, rounding, sample, watched

CONDITIONED = [case for case in CASES if case.mode == "image"]
INPAINTING = [case for case in CONDITIONED if "Inpaint" in case.pipeline]
# Grids on which the node of a call lies where the stock grid of as many steps has it.
NESTED = {"FluxImg2ImgPipeline", "FluxInpaintPipeline", "WanVideoToVideoPipeline", "CogVideoXVideoToVideoPipeline"}
CALLS = 10


@pytest.mark.slow
@of(CONDITIONED)
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9, 1.0])
def test_strength_starts_at_the_stock_index_of_the_grid_of_calls(case: Case, strength: float) -> None:
    arguments = {"strength": strength, "num_inference_steps": CALLS}
    stock, ours = case.build(counterpart(case)), case.build(cached(case))
    same = case.build(cached(case, cache_interval=1))
    with watched(stock, case) as expected:
        result = sample(stock, case, **arguments)
    assert difference(sample(same, case, **arguments), result) < rounding(case)
    with watched(ours, case) as seen:
        sample(ours, case, **arguments)
    start = CALLS - len(expected.timesteps)
    assert seen.timesteps == ours.scheduler.timesteps[start:].tolist()
    assert [bar.n for bar in seen.bars] == [len(expected.timesteps)]
    level, stock_level = seen.timesteps[0], expected.timesteps[0]
    assert (abs(level - stock_level) < 1.5) == (case.pipeline in NESTED or (start == 0 and not _leading(ours)))


@of(INPAINTING)
def test_nothing_of_our_output_in_the_known_region_reaches_the_result(case: Case) -> None:
    """The corrector's term there is overwritten; a row combines each entry of the latent with itself alone."""
    pipe = case.build(cached(case))
    undisturbed = sample(pipe, case, num_inference_steps=CALLS)
    known = _left_half(pipe, undisturbed).to(undisturbed.device)
    step = pipe.scheduler.step
    changed = []

    @functools.wraps(step)
    def disturbed(model_output: Any, timestep: Any, latents: Any, **options: Any) -> Any:
        result, *rest = step(model_output, timestep, latents, **options)
        changed.append(timestep)
        return (torch.where(known, result + 5.0, result), *rest)

    pipe.scheduler.step = disturbed
    assert torch.equal(sample(pipe, case, num_inference_steps=CALLS), undisturbed)
    assert len(changed) == 9


def _leading(pipe: Any) -> bool:
    config = pipe.scheduler.config
    return config.get("timestep_spacing") == "leading" and not config.get("use_karras_sigmas")


def _left_half(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """Where the latents of an inpainted picture are given: the left half, packed as the pipeline packs them."""
    channels, height, width = (4, 8, 8) if latents.dim() == 3 else latents.shape[1:]
    left = torch.zeros(1, channels, height, width)
    left[..., : width // 2] = 1
    return (pipe._pack_latents(left, 1, channels, height, width) if latents.dim() == 3 else left).bool()
