"""Pipelines that cannot work are told so, before a wrong picture is made."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion import compute_noise
from tiny_pipelines import BY_NAME, Case, cached, components_of, named, sample

from ab_schedulers import ABCacheScheduler

CONFIGS: list[tuple[str, Any, str]] = [
    ("Mochi", lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "runs from data to noise"),
    ("StableAudio", lambda: diffusers.EDMDPMSolverMultistepScheduler(), "preconditions the model by sigma"),
    ("Cosmos text2world", lambda: diffusers.EDMEulerScheduler(), "preconditions the model by sigma"),
    ("LatentConsistency", lambda: diffusers.LCMScheduler(), "distilled to a few calls"),
    ("SanaSprint", lambda: diffusers.SCMScheduler(), "distilled to a few calls"),
    (
        "StableVideoDiffusion",
        lambda: diffusers.EulerDiscreteScheduler(
            prediction_type="v_prediction", use_karras_sigmas=True, timestep_type="continuous", sigma_max=700.0
        ),
        "continuous",
    ),
    ("StableCascade", lambda: diffusers.DDPMWuerstchenScheduler(), "a stochastic process of its own"),
]


@pytest.mark.parametrize(("released", "reason"), [entry[1:] for entry in CONFIGS], ids=[entry[0] for entry in CONFIGS])
def test_the_released_config_is_refused_with_the_reason(released: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ABCacheScheduler.from_config(released().config)


@pytest.mark.parametrize("kind", ["ddim", "dpmsolver"])
def test_inversion_that_computes_the_steps_itself_is_refused(kind: str) -> None:
    """LEDITS++ asks the scheduler's own internals which noise leads from one latent to the next."""
    stock = (
        diffusers.DDIMScheduler(clip_sample=False)
        if kind == "ddim"
        else diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=2)
    )
    latents = torch.ones(1, 4, 8, 8)
    for scheduler in (stock, ABCacheScheduler.from_config(stock.config)):
        scheduler.set_timesteps(10)
        timestep = scheduler.timesteps[3]
        arguments = (scheduler, 0.9 * latents, latents, timestep, 0.1 * latents, 1.0)
        if scheduler is stock:
            compute_noise(*arguments)
        else:
            with pytest.raises(NotImplementedError, match="Keep the stock scheduler in a pipeline that takes"):
                compute_noise(*arguments)


def test_sigmas_that_rise_as_in_cosmos_are_refused() -> None:
    scheduler = ABCacheScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True).config)
    with pytest.raises(ValueError, match="strictly falling"):
        scheduler.set_timesteps(sigmas=torch.linspace(0, 1, 8))


@named("StableDiffusionPipeline-ddim", "StableDiffusion3Pipeline")
def test_a_second_step_in_one_iteration_is_refused(case: Case) -> None:
    pipe = case.build(cached(case))

    def step_again(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe.scheduler.step(tensors["latents"], timestep, tensors["latents"])
        return tensors

    with pytest.raises(ValueError, match="belongs to call 0, but this is call 1"):
        sample(pipe, case, callback_on_step_end=step_again)


def test_latents_that_change_their_shape_in_mid_run_are_refused() -> None:
    """ChronoEdit's temporal reasoning drops frames after some steps."""
    case = BY_NAME["WanPipeline-2.1"]
    pipe = case.build(cached(case))

    def drop_a_frame(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"][:, :, :1]} if index == 1 else tensors

    with pytest.raises(ValueError, match="must have one shape throughout a run"):
        sample(pipe, case, callback_on_step_end=drop_a_frame)


def test_views_that_share_one_scheduler_are_refused() -> None:
    """Panorama steps once per view and iteration, with one saved state for all views at the start."""
    case = BY_NAME["StableDiffusionPipeline-ddim"]
    components = components_of(case)
    pipe = diffusers.StableDiffusionPanoramaPipeline(
        **components, scheduler=cached(case), requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 64, 144, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="more than one step per model call is not supported"):
        sample(pipe, case, height=256, width=576, latents=latents)
