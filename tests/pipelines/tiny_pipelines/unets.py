"""The Stable Diffusion families: UNets, with DDIM, PNDM and Euler configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)

from .autoencoders import picture_autoencoder
from .case import Case, embedding, generators, seeded, trained_betas

TEXT = 8
UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
XL_UNET: dict[str, Any] = {
    **UNET,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + TEXT,
}


def stable_diffusion() -> Mapping[str, Any]:
    """UNet with cross-attention and a picture autoencoder that shrinks by four."""
    return {
        "unet": seeded(UNet2DConditionModel, **UNET, cross_attention_dim=TEXT),
        "vae": picture_autoencoder(),
        "text_encoder": None,
        "tokenizer": None,
        "safety_checker": None,
        "feature_extractor": None,
    }


def stable_diffusion_xl() -> Mapping[str, Any]:
    """The same with added time and pooled text embeddings."""
    return {
        "unet": seeded(UNet2DConditionModel, **XL_UNET, cross_attention_dim=TEXT),
        "vae": picture_autoencoder(),
        "text_encoder": None,
        "text_encoder_2": None,
        "tokenizer": None,
        "tokenizer_2": None,
    }


def stable_diffusion_with_control() -> Mapping[str, Any]:
    """Stable Diffusion with a ControlNet."""
    control = {key: UNET[key] for key in ("block_out_channels", "layers_per_block", "norm_num_groups")}
    controlnet = seeded(
        ControlNetModel,
        **control,
        attention_head_dim=UNET["attention_head_dim"],
        down_block_types=UNET["down_block_types"],
        cross_attention_dim=TEXT,
        conditioning_embedding_out_channels=(4, 4, 4),
    )
    return {**stable_diffusion(), "controlnet": controlnet}


def stable_diffusion_2() -> Mapping[str, Any]:
    """As Stable Diffusion; its released models predict v."""
    return stable_diffusion()


def prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Call arguments of the Stable Diffusion pipelines."""
    return {
        "prompt_embeds": embedding("text", seeds, 5, TEXT),
        "negative_prompt_embeds": embedding("negative", [0] * len(seeds), 5, TEXT),
        "height": size,
        "width": size,
        "generator": generators(seeds),
        "output_type": "latent",
    }


def pooled_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Call arguments of pipelines that also take pooled embeddings."""
    return {
        **prompt(seeds, size),
        "pooled_prompt_embeds": embedding("pooled", seeds, TEXT),
        "negative_pooled_prompt_embeds": embedding("negative pooled", [0] * len(seeds), TEXT),
    }


def control_window(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """A control picture that guides from a quarter to three quarters of the run."""
    control = embedding("control", seeds, 3, size, size).sigmoid()
    return {**prompt(seeds, size), "image": control, "control_guidance_start": 0.25, "control_guidance_end": 0.75}


def ddim() -> Any:
    """Stable Diffusion's betas, grid and offset in a DDIM scheduler."""
    return DDIMScheduler(**trained_betas(), clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def pndm() -> Any:
    """The released scheduler of Stable Diffusion 1.5."""
    return PNDMScheduler(**trained_betas(), set_alpha_to_one=False, steps_offset=1, skip_prk_steps=True)


def trailing_v() -> Any:
    """Zero terminal signal-to-noise ratio, trailing grid, v-prediction."""
    return DDIMScheduler(
        **trained_betas(),
        clip_sample=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def euler() -> Any:
    """The released scheduler of SDXL."""
    return EulerDiscreteScheduler(**trained_betas(), timestep_spacing="leading", steps_offset=1)


def dpmsolver_karras() -> Any:
    """What users choose most often in its place."""
    return DPMSolverMultistepScheduler(
        **trained_betas(), use_karras_sigmas=True, timestep_spacing="leading", steps_offset=1
    )


def _unet_case(pipeline: str, variant: str, components: Any, scheduler: Any, arguments: Any) -> Case:
    return Case(
        pipeline=pipeline,
        variant=variant,
        components=components,
        scheduler=scheduler,
        arguments=arguments,
        denoisers=("unet",),
        settings={} if "XL" in pipeline else {"requires_safety_checker": False},
    )


CASES = [
    _unet_case("StableDiffusionPipeline", "ddim", stable_diffusion, ddim, prompt),
    _unet_case("StableDiffusionPipeline", "pndm", stable_diffusion, pndm, prompt),
    _unet_case("StableDiffusionPipeline", "v-prediction", stable_diffusion_2, trailing_v, prompt),
    _unet_case("StableDiffusionXLPipeline", "euler", stable_diffusion_xl, euler, pooled_prompt),
    _unet_case("StableDiffusionXLPipeline", "karras", stable_diffusion_xl, dpmsolver_karras, pooled_prompt),
    _unet_case(
        "StableDiffusionControlNetPipeline", "window", stable_diffusion_with_control, dpmsolver_karras, control_window
    ),
]
