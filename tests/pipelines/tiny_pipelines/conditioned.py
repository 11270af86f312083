"""Modes that start from a picture or a video: image to image, inpainting, video to video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from . import image_transformers as transformers
from . import unets, videos
from .autoencoders import cogvideo_autoencoder, wan_autoencoder
from .case import Arguments, Case, embedding, flow, names


def picture(seeds: Sequence[int], size: int) -> torch.Tensor:
    """One random picture per seed (batch, 3, size, size), values from 0 to 1."""
    return embedding("picture", seeds, 3, size, size).sigmoid()


def half_mask(seeds: Sequence[int], size: int) -> torch.Tensor:
    """A mask (batch, 1, size, size) that repaints the right half."""
    mask = torch.zeros(len(seeds), 1, size, size)
    mask[..., size // 2 :] = 1
    return mask


STRENGTH = {"strength": 0.9}


def from_picture(arguments: Arguments) -> Arguments:
    """Arguments of an image-to-image pipeline."""
    return lambda seeds, size: {**_sizeless(arguments(seeds, size)), "image": picture(seeds, size), **STRENGTH}


def from_sized_picture(arguments: Arguments) -> Arguments:
    """The same for pipelines that also take height and width."""
    return lambda seeds, size: {**arguments(seeds, size), "image": picture(seeds, size), **STRENGTH}


def from_mask(arguments: Arguments) -> Arguments:
    """Arguments of an inpainting pipeline."""
    masked = from_sized_picture(arguments)
    return lambda seeds, size: {**masked(seeds, size), "mask_image": half_mask(seeds, size)}


def from_video(arguments: Arguments) -> Arguments:
    """Arguments of a video-to-video pipeline: five frames."""

    def build(seeds: Sequence[int], size: int) -> dict[str, Any]:
        rest = arguments(seeds, size)
        del rest["num_frames"]
        video = embedding("video", seeds, videos.FRAMES, 3, size, size).sigmoid()
        return {**rest, "video": video, **STRENGTH}

    return build


def _sizeless(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in ("height", "width")}


def wan_with_autoencoder() -> Mapping[str, Any]:
    """Wan's transformer and autoencoder."""
    return {**videos.wan(), "vae": wan_autoencoder()}


def cogvideo_with_autoencoder() -> Mapping[str, Any]:
    """CogVideoX's transformer and autoencoder."""
    return {
        "transformer": videos.cogvideo_transformer(),
        "vae": cogvideo_autoencoder(),
        **names("text_encoder", "tokenizer"),
    }


def _stable_diffusion(pipeline: str, variant: str, scheduler: Any, arguments: Arguments) -> Case:
    return Case(
        pipeline=pipeline,
        variant=variant,
        mode="image",
        components=unets.stable_diffusion_xl if "XL" in pipeline else unets.stable_diffusion,
        scheduler=scheduler,
        arguments=arguments,
        denoisers=("unet",),
        settings={} if "XL" in pipeline else {"requires_safety_checker": False},
    )


def _case(pipeline: str, components: Any, scheduler: Any, arguments: Arguments) -> Case:
    return Case(pipeline=pipeline, mode="image", components=components, scheduler=scheduler, arguments=arguments)


_QWEN = flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02)
_PROMPT, _POOLED = unets.prompt, unets.pooled_prompt

CASES = [
    _stable_diffusion("StableDiffusionImg2ImgPipeline", "ddim", unets.ddim, from_picture(_PROMPT)),
    _stable_diffusion("StableDiffusionInpaintPipeline", "ddim", unets.ddim, from_mask(_PROMPT)),
    _stable_diffusion("StableDiffusionXLImg2ImgPipeline", "karras", unets.dpmsolver_karras, from_picture(_POOLED)),
    _stable_diffusion("StableDiffusionXLInpaintPipeline", "euler", unets.euler, from_mask(_POOLED)),
    _case(
        "StableDiffusion3Img2ImgPipeline",
        transformers.stable_diffusion_3,
        flow(shift=3.0),
        from_sized_picture(transformers.stable_diffusion_3_prompt),
    ),
    _case(
        "StableDiffusion3InpaintPipeline",
        transformers.stable_diffusion_3,
        flow(shift=3.0),
        from_mask(transformers.stable_diffusion_3_prompt),
    ),
    _case("FluxImg2ImgPipeline", transformers.flux, transformers.DYNAMIC, from_sized_picture(transformers.flux_prompt)),
    _case("FluxInpaintPipeline", transformers.flux, transformers.DYNAMIC, from_mask(transformers.flux_prompt)),
    _case("QwenImageImg2ImgPipeline", transformers.qwen, _QWEN, from_sized_picture(transformers.qwen_prompt)),
    _case("QwenImageInpaintPipeline", transformers.qwen, _QWEN, from_mask(transformers.qwen_prompt)),
    _case("WanVideoToVideoPipeline", wan_with_autoencoder, videos.unipc_flow, from_video(videos.video_prompt)),
    _case(
        "CogVideoXVideoToVideoPipeline",
        cogvideo_with_autoencoder,
        videos.cogvideo_scheduler,
        from_video(videos.video_prompt),
    ),
]
