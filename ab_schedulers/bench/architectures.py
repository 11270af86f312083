"""Released architectures at full size, as data: model config, scheduler config, embeddings and call of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A released model without its weights, and the run that it is timed in.

    Args:
        name: How the command and its tables call it.
        released: Repository of the weights whose ``config.json`` files the two configs repeat.
        parameters: Published size of the denoiser in billions, which a test holds the config to.
        pipeline: Class of diffusers that samples it.
        denoiser: Component and class of the model.
        config: Its config, where it differs from the class's defaults.
        tiny: What replaces parts of the config at scale "tiny": fewer and narrower layers, same inputs.
        scheduler: Class and config of its scheduler.
        embeddings: Shapes of the text embeddings that the pipeline is given.
        masks: Shapes of the attention masks, all true.
        arguments: Further call arguments, such as the size.
        tiny_arguments: What replaces them at scale "tiny".
        missing: Components left out: text encoders and autoencoder.
        steps: The usual number of steps of the stock scheduler.
    """

    name: str
    released: str
    parameters: float
    pipeline: str
    denoiser: tuple[str, str]
    config: Mapping[str, Any]
    tiny: Mapping[str, Any]
    scheduler: tuple[str, Mapping[str, Any]]
    embeddings: Mapping[str, tuple[int, ...]]
    masks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    arguments: Mapping[str, Any]
    tiny_arguments: Mapping[str, Any]
    missing: tuple[str, ...]
    steps: int

    def model_config(self, scale: str) -> dict[str, Any]:
        """The denoiser's config at ``scale``, "full" or "tiny"."""
        return {**self.config, **(self.tiny if scale == "tiny" else {})}

    def call_arguments(self, scale: str, device: torch.device) -> dict[str, Any]:
        """Random embeddings, masks and the size; the same ones whenever it is called."""
        generator = torch.Generator("cpu").manual_seed(0)
        text = {
            key: torch.randn(shape, generator=generator).to(device, torch.bfloat16)
            for key, shape in self.embeddings.items()
        }
        masks = {key: torch.ones(shape, dtype=torch.bool, device=device) for key, shape in self.masks.items()}
        return {**text, **masks, **self.arguments, **(self.tiny_arguments if scale == "tiny" else {})}

    def model(self, scale: str, device: torch.device) -> torch.nn.Module:
        """The denoiser on ``device`` with random weights in bfloat16, the same ones whenever it is called."""
        standard = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
                torch.manual_seed(0)
                model: torch.nn.Module = getattr(diffusers, self.denoiser[1])(**self.model_config(scale))
        finally:
            torch.set_default_dtype(standard)
        return model.eval().requires_grad_(False)

    def stock_scheduler(self) -> Any:
        """The scheduler that the model is released with."""
        name, config = self.scheduler
        return getattr(diffusers, name)(**config)

    def build(self, scale: str, device: torch.device) -> Any:
        """The pipeline around the model, with its own scheduler."""
        parts = {**dict.fromkeys(self.missing), self.denoiser[0]: self.model(scale, device)}
        pipe = getattr(diffusers, self.pipeline)(**parts, scheduler=self.stock_scheduler())
        pipe.set_progress_bar_config(disable=True)
        return pipe


_ENCODERS = ("vae", "text_encoder", "tokenizer")
_TWO_ENCODERS = (*_ENCODERS, "text_encoder_2", "tokenizer_2")
_PICTURE = {"height": 1024, "width": 1024}
_TINY_PICTURE = {"height": 64, "width": 64}
_TINY_VIDEO = {"height": 64, "width": 64, "num_frames": 5}


def _with_negatives(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {**shapes, **{f"negative_{key}": shape for key, shape in shapes.items()}}


ARCHITECTURES = (
    Architecture(
        name="SDXL",
        released="stabilityai/stable-diffusion-xl-base-1.0",
        parameters=2.6,
        pipeline="StableDiffusionXLPipeline",
        denoiser=("unet", "UNet2DConditionModel"),
        config={
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        tiny={
            "block_out_channels": (32, 64, 64),
            "layers_per_block": 1,
            "transformer_layers_per_block": (1, 1, 1),
            "attention_head_dim": (2, 4, 4),
        },
        scheduler=(
            "EulerDiscreteScheduler",
            {
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "timestep_spacing": "leading",
                "steps_offset": 1,
            },
        ),
        embeddings=_with_negatives({"prompt_embeds": (1, 77, 2048), "pooled_prompt_embeds": (1, 1280)}),
        arguments=_PICTURE,
        tiny_arguments=_TINY_PICTURE,
        missing=_TWO_ENCODERS,
        steps=50,
    ),
    Architecture(
        name="SD3",
        released="stabilityai/stable-diffusion-3-medium-diffusers",
        parameters=2.0,
        pipeline="StableDiffusion3Pipeline",
        denoiser=("transformer", "SD3Transformer2DModel"),
        config={
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 192,
        },
        tiny={"num_layers": 2, "num_attention_heads": 2, "caption_projection_dim": 128},
        scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        embeddings=_with_negatives({"prompt_embeds": (1, 333, 4096), "pooled_prompt_embeds": (1, 2048)}),
        arguments=_PICTURE,
        tiny_arguments=_TINY_PICTURE,
        missing=(*_TWO_ENCODERS, "text_encoder_3", "tokenizer_3"),
        steps=28,
    ),
    Architecture(
        name="FLUX.1-dev",
        released="black-forest-labs/FLUX.1-dev",
        parameters=12.0,
        pipeline="FluxPipeline",
        denoiser=("transformer", "FluxTransformer2DModel"),
        config={"guidance_embeds": True},
        tiny={"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2},
        scheduler=(
            "FlowMatchEulerDiscreteScheduler",
            {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
        ),
        embeddings={"prompt_embeds": (1, 512, 4096), "pooled_prompt_embeds": (1, 768)},
        arguments=_PICTURE,
        tiny_arguments=_TINY_PICTURE,
        missing=_TWO_ENCODERS,
        steps=50,
    ),
    Architecture(
        name="HunyuanVideo",
        released="hunyuanvideo-community/HunyuanVideo",
        parameters=13.0,
        pipeline="HunyuanVideoPipeline",
        denoiser=("transformer", "HunyuanVideoTransformer3DModel"),
        config={},
        tiny={"num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2},
        scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 7.0}),
        embeddings={"prompt_embeds": (1, 256, 4096), "pooled_prompt_embeds": (1, 768)},
        masks={"prompt_attention_mask": (1, 256)},
        arguments={"height": 320, "width": 512, "num_frames": 61},
        tiny_arguments=_TINY_VIDEO,
        missing=_TWO_ENCODERS,
        steps=50,
    ),
    Architecture(
        name="Wan2.1-14B",
        released="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        parameters=14.0,
        pipeline="WanPipeline",
        denoiser=("transformer", "WanTransformer3DModel"),
        config={},
        tiny={"num_layers": 1, "num_attention_heads": 2, "ffn_dim": 256},
        scheduler=(
            "UniPCMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
        ),
        embeddings=_with_negatives({"prompt_embeds": (1, 512, 4096)}),
        arguments={"height": 480, "width": 832, "num_frames": 17},
        tiny_arguments=_TINY_VIDEO,
        missing=_ENCODERS,
        steps=50,
    ),
)
