"""Small autoencoders; they encode given pictures and are otherwise never called."""

from __future__ import annotations

from functools import cache
from typing import Any

from diffusers import AutoencoderKL, AutoencoderKLCogVideoX, AutoencoderKLQwenImage, AutoencoderKLWan

from .case import seeded


@cache
def picture_autoencoder(latent_channels: int = 4, levels: int = 3) -> Any:
    """An `AutoencoderKL` that makes pictures smaller by `2 ** (levels - 1)`."""
    return seeded(
        AutoencoderKL,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(4,) * levels,
        norm_num_groups=2,
        latent_channels=latent_channels,
        mid_block_add_attention=False,
        shift_factor=0.1,
        scaling_factor=0.5,
    )


def _video_statistics(channels: int) -> dict[str, Any]:
    return {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}


@cache
def qwen_autoencoder() -> Any:
    """Qwen-Image's autoencoder, four latent channels, a quarter of the size."""
    return seeded(
        AutoencoderKLQwenImage,
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        **_video_statistics(4),
    )


@cache
def wan_autoencoder() -> Any:
    """Wan's autoencoder, four latent channels, an eighth of the size, a quarter of the frames."""
    return seeded(
        AutoencoderKLWan,
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        **_video_statistics(4),
    )


@cache
def cogvideo_autoencoder() -> Any:
    """CogVideoX's autoencoder, four latent channels, an eighth of the size, a quarter of the frames."""
    return seeded(
        AutoencoderKLCogVideoX,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
