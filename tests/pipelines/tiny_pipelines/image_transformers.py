"""Text to image with transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from .autoencoders import picture_autoencoder, qwen_autoencoder
from .case import Case, embedding, flow, generators, names, seeded

TEXT = 8
WIDTH = 16  # two heads of eight


def _common(seeds: Sequence[int], size: int, tokens: int = 5, width: int = TEXT) -> dict[str, Any]:
    return {
        "prompt_embeds": embedding("text", seeds, tokens, width),
        "height": size,
        "width": size,
        "generator": generators(seeds),
        "output_type": "latent",
    }


def _negative(seeds: Sequence[int], tokens: int = 5, width: int = TEXT) -> dict[str, Any]:
    return {"negative_prompt_embeds": embedding("negative", [0] * len(seeds), tokens, width)}


def _pooled(seeds: Sequence[int]) -> dict[str, Any]:
    return {"pooled_prompt_embeds": embedding("pooled", seeds, TEXT)}


def _masks(seeds: Sequence[int], name: str = "prompt_attention_mask", tokens: int = 5) -> dict[str, Any]:
    mask = embedding("text", seeds, tokens, 1)[..., 0].abs() >= 0
    return {name: mask.long(), f"negative_{name}": mask.long()}


DYNAMIC = flow(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)


# -- Stable Diffusion 3 -------------------------------------------------------------------------------------------


def stable_diffusion_3() -> Mapping[str, Any]:
    """Two joint blocks; inpainting insists on sixteen channels."""
    return {
        "transformer": seeded(
            diffusers.SD3Transformer2DModel,
            sample_size=16,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=TEXT,
            out_channels=16,
            pos_embed_max_size=32,
        ),
        "vae": picture_autoencoder(latent_channels=16),
        **names("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
    }


def stable_diffusion_3_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Text and pooled embeddings, with their negatives."""
    negative = embedding("negative pooled", [0] * len(seeds), TEXT)
    return {
        **_common(seeds, size),
        **_negative(seeds),
        **_pooled(seeds),
        "negative_pooled_prompt_embeds": negative,
    }


def skip_layer_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """The same with skip-layer guidance over a window inside the run."""
    window = {"skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.5}
    return {**stable_diffusion_3_prompt(seeds, size), "skip_guidance_layers": [1], **window}


# -- Flux and its kin ---------------------------------------------------------------------------------------------


def flux(guidance_embeds: bool = True) -> Mapping[str, Any]:
    """One double and one single block."""
    return {
        "transformer": seeded(
            diffusers.FluxTransformer2DModel,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            pooled_projection_dim=TEXT,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 2, 2),
        ),
        "vae": picture_autoencoder(),
        **names("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    }


def flux_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Guidance is an input of the model."""
    return {**_common(seeds, size), **_pooled(seeds)}


def flux_true_cfg_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Two calls of the model per step."""
    negative = embedding("negative pooled", [0] * len(seeds), TEXT)
    guidance = {"negative_pooled_prompt_embeds": negative, "true_cfg_scale": 3.0}
    return {**flux_prompt(seeds, size), **_negative(seeds), **guidance}


def flux2() -> Mapping[str, Any]:
    """One double and one single block, with Flux2's autoencoder."""
    vae = seeded(
        diffusers.AutoencoderKLFlux2,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4,) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    transformer = seeded(
        diffusers.Flux2Transformer2DModel,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        timestep_guidance_channels=8,
        axes_dims_rope=(2, 2, 2, 2),
    )
    return {"transformer": transformer, "vae": vae, **names("text_encoder", "tokenizer")}


def chroma() -> Mapping[str, Any]:
    """Flux's blocks with modulations from an approximator."""
    return {
        "transformer": seeded(
            diffusers.ChromaTransformer2DModel,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            axes_dims_rope=(4, 2, 2),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
        "vae": picture_autoencoder(),
        **names("text_encoder", "tokenizer"),
    }


def masked_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Text embeddings, negatives and attention masks."""
    return {**_common(seeds, size), **_negative(seeds), **_masks(seeds)}


def qwen() -> Mapping[str, Any]:
    """Two joint blocks, with Qwen-Image's autoencoder."""
    return {
        "transformer": seeded(
            diffusers.QwenImageTransformer2DModel,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            axes_dims_rope=(4, 2, 2),
        ),
        "vae": qwen_autoencoder(),
        **names("text_encoder", "tokenizer"),
    }


def qwen_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """True guidance, whose norm is that of the conditional output."""
    masks = _masks(seeds, "prompt_embeds_mask")
    return {**_common(seeds, size), **_negative(seeds), **masks, "true_cfg_scale": 3.0}


# -- PixArt, DiT, Sana --------------------------------------------------------------------------------------------


def pixart() -> Mapping[str, Any]:
    """Two blocks with learned variance, which the pipeline drops."""
    return {
        "transformer": seeded(
            diffusers.PixArtTransformer2DModel,
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            norm_num_groups=4,
            cross_attention_dim=WIDTH,
            sample_size=16,
            caption_channels=TEXT,
            use_additional_conditions=False,
        ),
        "vae": picture_autoencoder(),
        **names("text_encoder", "tokenizer"),
    }


def boolean_masks(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """As `masked_prompt`, with masks as Chroma takes them."""
    arguments = masked_prompt(seeds, size)
    return {key: value.bool() if key.endswith("_mask") else value for key, value in arguments.items()}


def unbinned_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Masked prompts at exactly the asked size."""
    return {
        **masked_prompt(seeds, size),
        "negative_prompt": None,
        "use_resolution_binning": False,
        "clean_caption": False,
    }


def pixart_scheduler() -> Any:
    """The released scheduler of PixArt."""
    return DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, solver_order=2)


def dit() -> Mapping[str, Any]:
    """Two blocks, ten classes."""
    return {
        "transformer": seeded(
            diffusers.DiTTransformer2DModel,
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            norm_num_groups=4,
            sample_size=16,
            num_embeds_ada_norm=1000,
        ),
        "vae": picture_autoencoder(),
    }


def dit_labels(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Class labels; the size is the model's own."""
    return {"class_labels": [seed % 10 for seed in seeds], "generator": generators(seeds), "output_type": "np"}


def dit_scheduler() -> Any:
    """The released scheduler of DiT, with the grid of its DDIM use."""
    return DDIMScheduler(beta_schedule="linear", clip_sample=False)


def sana() -> Mapping[str, Any]:
    """One block of linear attention."""
    return {
        "transformer": seeded(
            diffusers.SanaTransformer2DModel,
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=WIDTH,
            caption_channels=TEXT,
            sample_size=16,
        ),
        "vae": None,
        **names("text_encoder", "tokenizer"),
    }


def sana_scheduler() -> Any:
    """The released scheduler of Sana."""
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )


# -- AuraFlow, Lumina, HiDream, CogView, Z-Image -------------------------------------------------------------------


def aura_flow() -> Mapping[str, Any]:
    """One joint and one single block."""
    return {
        "transformer": seeded(
            diffusers.AuraFlowTransformer2DModel,
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            caption_projection_dim=WIDTH,
            pos_embed_max_size=64,
        ),
        "vae": picture_autoencoder(),
        **names("text_encoder", "tokenizer"),
    }


def lumina2() -> Mapping[str, Any]:
    """One block and one refiner."""
    return {
        "transformer": seeded(
            diffusers.Lumina2Transformer2DModel,
            sample_size=16,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(32, 32, 32),
            cap_feat_dim=TEXT,
        ),
        "vae": picture_autoencoder(),
        **names("text_encoder", "tokenizer"),
    }


def hidream() -> Mapping[str, Any]:
    """One double and one single block, two experts."""
    return {
        "transformer": seeded(
            diffusers.HiDreamImageTransformer2DModel,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=[TEXT, TEXT],
            text_emb_dim=TEXT,
            num_routed_experts=2,
            num_activated_experts=1,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(16, 16),
            llama_layers=[0, 1],
            force_inference_output=True,
        ),
        "vae": picture_autoencoder(),
        **{f"{part}{i}": None for i in ("", "_2", "_3", "_4") for part in ("text_encoder", "tokenizer")},
    }


def hidream_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Embeddings of T5, of two Llama layers, and pooled ones."""
    zeros = [0] * len(seeds)
    return {
        "prompt_embeds_t5": embedding("t5", seeds, 4, TEXT),
        "negative_prompt_embeds_t5": embedding("negative t5", zeros, 4, TEXT),
        "prompt_embeds_llama3": embedding("llama", seeds, 2, 4, TEXT).transpose(0, 1),
        "negative_prompt_embeds_llama3": embedding("negative llama", zeros, 2, 4, TEXT).transpose(0, 1),
        "pooled_prompt_embeds": embedding("pooled", seeds, TEXT),
        "negative_pooled_prompt_embeds": embedding("negative pooled", zeros, TEXT),
        "height": size,
        "width": size,
        "generator": generators(seeds),
        "output_type": "latent",
    }


def cogview4() -> Mapping[str, Any]:
    """One joint block."""
    return {
        "transformer": seeded(
            diffusers.CogView4Transformer2DModel,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=TEXT,
            time_embed_dim=8,
            condition_dim=4,
            pos_embed_max_size=16,
            sample_size=16,
            rope_axes_dim=(16, 16),
        ),
        "vae": picture_autoencoder(),
        **names("text_encoder", "tokenizer"),
    }


def guided_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Text embeddings and their negatives."""
    return {**_common(seeds, size), **_negative(seeds)}


def z_image() -> Mapping[str, Any]:
    """One layer and one refiner."""
    return {
        "transformer": seeded(
            diffusers.ZImageTransformer2DModel,
            in_channels=4,
            dim=16,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=TEXT,
            axes_dims=[4, 2, 2],
            axes_lens=[64, 32, 32],
        ),
        "vae": picture_autoencoder(),
        **names("text_encoder", "tokenizer"),
    }


def z_image_prompt(seeds: Sequence[int], size: int) -> dict[str, Any]:
    """Lists of text embeddings; guidance is cut off at low noise."""
    positive, negative = embedding("text", seeds, 5, TEXT), embedding("negative", [0] * len(seeds), 5, TEXT)
    lists = {"prompt_embeds": [*positive], "negative_prompt_embeds": [*negative]}
    return {**_common(seeds, size), **lists, "guidance_scale": 3.0, "cfg_truncation": 0.8}


CASES = [
    Case(
        pipeline="StableDiffusion3Pipeline",
        components=stable_diffusion_3,
        scheduler=flow(shift=3.0),
        arguments=stable_diffusion_3_prompt,
    ),
    Case(
        pipeline="StableDiffusion3Pipeline",
        variant="skip-layer guidance",
        components=stable_diffusion_3,
        scheduler=flow(shift=3.0),
        arguments=skip_layer_prompt,
    ),
    Case(pipeline="FluxPipeline", variant="distilled", components=flux, scheduler=DYNAMIC, arguments=flux_prompt),
    Case(
        pipeline="FluxPipeline",
        variant="true guidance",
        components=flux,
        scheduler=DYNAMIC,
        arguments=flux_true_cfg_prompt,
    ),
    Case(pipeline="Flux2Pipeline", components=flux2, scheduler=DYNAMIC, arguments=_common),
    Case(pipeline="ChromaPipeline", components=chroma, scheduler=flow(shift=1.0), arguments=boolean_masks),
    Case(
        pipeline="QwenImagePipeline",
        components=qwen,
        scheduler=flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02),
        arguments=qwen_prompt,
    ),
    Case(pipeline="PixArtAlphaPipeline", components=pixart, scheduler=pixart_scheduler, arguments=unbinned_prompt),
    Case(pipeline="PixArtSigmaPipeline", components=pixart, scheduler=pixart_scheduler, arguments=unbinned_prompt),
    Case(pipeline="DiTPipeline", components=dit, scheduler=dit_scheduler, arguments=dit_labels),
    Case(
        pipeline="SanaPipeline", components=sana, scheduler=sana_scheduler, arguments=unbinned_prompt, sizes=(128, 192)
    ),
    Case(pipeline="AuraFlowPipeline", components=aura_flow, scheduler=flow(shift=1.73), arguments=masked_prompt),
    Case(pipeline="Lumina2Pipeline", components=lumina2, scheduler=flow(shift=6.0), arguments=masked_prompt),
    Case(
        pipeline="HiDreamImagePipeline",
        components=hidream,
        scheduler=flow(shift=3.0),
        arguments=hidream_prompt,
        attributes={"default_sample_size": 8},
    ),
    Case(
        pipeline="CogView4Pipeline",
        components=cogview4,
        scheduler=flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"),
        arguments=guided_prompt,
    ),
    Case(pipeline="ZImagePipeline", components=z_image, scheduler=flow(shift=3.0), arguments=z_image_prompt),
]
