"""Text to video with transformers; the autoencoders are left out, since latents are what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, EulerAncestralDiscreteScheduler, UniPCMultistepScheduler

from .case import Case, embedding, flow, generators, names, seeded, trained_betas

TEXT = 8
WIDTH = 16
FRAMES = 5


def video_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Text embeddings and their negatives, five frames."""
    return {
        "prompt_embeds": embedding("text", seeds, 5, TEXT),
        "negative_prompt_embeds": embedding("negative", [0] * len(seeds), 5, TEXT),
        "height": size,
        "width": size,
        "num_frames": FRAMES,
        "generator": generators(seeds),
        "output_type": "latent",
    }


def masked_video_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """The same with attention masks."""
    mask = embedding("text", seeds, 5, TEXT)[..., 0].isfinite().long()
    masks = {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    return {**video_prompt(seeds, size), **masks}


# -- HunyuanVideo -------------------------------------------------------------------------------------------------


def hunyuan_video() -> Mapping[str, Any]:
    """One double and one single block."""
    return {
        "transformer": seeded(
            diffusers.HunyuanVideoTransformer3DModel,
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=TEXT,
            pooled_projection_dim=TEXT,
            rope_axes_dim=(2, 2, 4),
        ),
        **names("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    }


def hunyuan_video_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Guidance is an input of the model."""
    arguments = masked_video_prompt(seeds, size)
    for key in ("negative_prompt_embeds", "negative_prompt_attention_mask"):
        del arguments[key]
    return {**arguments, "pooled_prompt_embeds": embedding("pooled", seeds, TEXT)}


# -- Wan and its kin ----------------------------------------------------------------------------------------------

_WAN: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": TEXT,
    "freq_dim": 8,
    "ffn_dim": 16,
    "num_layers": 1,
    "rope_max_seq_len": 32,
}


def wan() -> Mapping[str, Any]:
    """One block."""
    return {
        "transformer": seeded(diffusers.WanTransformer3DModel, **_WAN),
        **names("vae", "text_encoder", "tokenizer"),
    }


def wan_experts() -> Mapping[str, Any]:
    """Two experts of one block each."""
    second = seeded(diffusers.WanTransformer3DModel, seed=1, **_WAN)
    return {**wan(), "transformer_2": second}


def skyreels() -> Mapping[str, Any]:
    """One block."""
    return {
        "transformer": seeded(diffusers.SkyReelsV2Transformer3DModel, **_WAN),
        **names("vae", "text_encoder", "tokenizer"),
    }


def unipc_flow() -> Any:
    """The released scheduler of Wan."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


# -- CogVideoX ----------------------------------------------------------------------------------------------------


def cogvideo_transformer() -> Any:
    """One block; four latent channels."""
    return seeded(
        diffusers.CogVideoXTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=TEXT,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=FRAMES,
        max_text_seq_length=5,
    )


def cogvideo() -> Mapping[str, Any]:
    """The transformer alone."""
    return {"transformer": cogvideo_transformer(), **names("vae", "text_encoder", "tokenizer")}


def cogvideo_scheduler() -> Any:
    """The released scheduler of CogVideoX: v-prediction, trailing, shifted signal-to-noise ratio, zero at the end."""
    return CogVideoXDDIMScheduler(
        **trained_betas(),
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
    )


def dynamic_guidance_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Guidance that rises along the run."""
    return {**video_prompt(seeds, size), "use_dynamic_cfg": True}


# -- LTX, Latte, Allegro, Sana Video ------------------------------------------------------------------------------


def ltx() -> Mapping[str, Any]:
    """One block."""
    return {
        "transformer": seeded(
            diffusers.LTXVideoTransformer3DModel,
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=WIDTH,
            num_layers=1,
            caption_channels=TEXT,
        ),
        **names("vae", "text_encoder", "tokenizer"),
    }


def latte() -> Mapping[str, Any]:
    """One spatial and one temporal block."""
    return {
        "transformer": seeded(
            diffusers.LatteTransformer3DModel,
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            cross_attention_dim=WIDTH,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            caption_channels=TEXT,
            video_length=2,
        ),
        **names("vae", "text_encoder", "tokenizer"),
    }


def latte_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Two frames."""
    arguments = video_prompt(seeds, size)
    del arguments["num_frames"]
    return {**arguments, "negative_prompt": None, "video_length": 2, "mask_feature": False, "clean_caption": False}


def latte_scheduler() -> Any:
    """The released scheduler of Latte, without its learned variance."""
    return DDIMScheduler(beta_schedule="linear", clip_sample=False)


def allegro() -> Mapping[str, Any]:
    """One block."""
    return {
        "transformer": seeded(
            diffusers.AllegroTransformer3DModel,
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            cross_attention_dim=24,
            sample_height=4,
            sample_width=4,
            sample_frames=2,
            caption_channels=TEXT,
        ),
        **names("vae", "text_encoder", "tokenizer"),
    }


def allegro_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Eight frames, two latent ones."""
    return {
        **masked_video_prompt(seeds, size),
        "negative_prompt": None,
        "num_frames": 8,
        "clean_caption": False,
    }


def allegro_scheduler() -> Any:
    """The released scheduler of Allegro."""
    return EulerAncestralDiscreteScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)


def sana_video() -> Mapping[str, Any]:
    """One block."""
    return {
        "transformer": seeded(
            diffusers.SanaVideoTransformer3DModel,
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=TEXT,
            sample_size=8,
            rope_max_seq_len=32,
        ),
        **names("vae", "text_encoder", "tokenizer"),
    }


def sana_video_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Five frames at exactly the asked size."""
    arguments = masked_video_prompt(seeds, size)
    arguments["frames"] = arguments.pop("num_frames")
    return {**arguments, "negative_prompt": None, "use_resolution_binning": False}


def kandinsky5() -> Mapping[str, Any]:
    """One text block and one visual block."""
    return {
        "transformer": seeded(
            diffusers.Kandinsky5Transformer3DModel,
            in_visual_dim=4,
            in_text_dim=TEXT,
            in_text_dim2=TEXT,
            time_dim=8,
            out_visual_dim=4,
            model_dim=16,
            ff_dim=16,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=(4, 2, 2),
        ),
        **names("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    }


def kandinsky5_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Embeddings of two encoders, with the ends of the prompts in the first."""
    zeros = [0] * len(seeds)
    ends = torch.arange(len(seeds) + 1) * 5
    return {
        "prompt_embeds_qwen": embedding("text", seeds, 5, TEXT),
        "negative_prompt_embeds_qwen": embedding("negative", zeros, 5, TEXT),
        "prompt_embeds_clip": embedding("pooled", seeds, TEXT),
        "negative_prompt_embeds_clip": embedding("negative pooled", zeros, TEXT),
        "prompt_cu_seqlens": ends,
        "negative_prompt_cu_seqlens": ends,
        "height": size,
        "width": size,
        "num_frames": FRAMES,
        "generator": generators(seeds),
        "output_type": "latent",
    }


CASES = [
    Case(
        pipeline="HunyuanVideoPipeline",
        components=hunyuan_video,
        scheduler=flow(shift=7.0),
        arguments=hunyuan_video_prompt,
    ),
    Case(pipeline="WanPipeline", variant="2.1", components=wan, scheduler=unipc_flow, arguments=video_prompt),
    Case(
        pipeline="WanPipeline",
        variant="2.2",
        components=wan_experts,
        scheduler=unipc_flow,
        arguments=video_prompt,
        denoisers=("transformer", "transformer_2"),
        settings={"boundary_ratio": 0.875},
    ),
    Case(pipeline="SkyReelsV2Pipeline", components=skyreels, scheduler=unipc_flow, arguments=video_prompt),
    Case(pipeline="CogVideoXPipeline", components=cogvideo, scheduler=cogvideo_scheduler, arguments=video_prompt),
    Case(
        pipeline="CogVideoXPipeline",
        variant="dynamic guidance",
        components=cogvideo,
        scheduler=cogvideo_scheduler,
        arguments=dynamic_guidance_prompt,
    ),
    Case(
        pipeline="LTXPipeline",
        components=ltx,
        scheduler=flow(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1),
        arguments=masked_video_prompt,
        sizes=(64, 96),
    ),
    Case(pipeline="LattePipeline", components=latte, scheduler=latte_scheduler, arguments=latte_prompt),
    Case(pipeline="AllegroPipeline", components=allegro, scheduler=allegro_scheduler, arguments=allegro_prompt),
    Case(
        pipeline="SanaVideoPipeline",
        components=sana_video,
        scheduler=flow(shift=8.0),
        arguments=sana_video_prompt,
        sizes=(32, 64),
    ),
    Case(
        pipeline="Kandinsky5T2VPipeline",
        components=kandinsky5,
        scheduler=flow(shift=5.0),
        arguments=kandinsky5_prompt,
        sizes=(32, 64),
    ),
]
