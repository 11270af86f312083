"""What each bundled model is: architecture, the stock scheduler it belongs to, and its training objective.

Every recipe has one extra class: label 10 means "no class". It is trained on a tenth of the images, so that
classifier-free guidance (Ho and Salimans, 2022) works with the bundled models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)

NUM_CLASSES = 10
NO_CLASS = NUM_CLASSES
NUM_TRAIN_TIMESTEPS = 1000
LOGIT_SCALE = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPair:
    """One regression problem for a batch: the model sees `sample` at `timestep` and should say `target`."""

    sample: torch.Tensor
    timestep: torch.Tensor
    target: torch.Tensor


Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], TrainingPair]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that defines one bundled diffusion model before training."""

    name: str
    model_class: type[Any]
    model_config: Mapping[str, Any]
    scheduler_class: type[Any]
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    objective: Objective
    learning_rate: float

    def scheduler(self) -> Any:
        """A fresh stock scheduler."""
        return self.scheduler_class(**self.scheduler_config)

    def model(self) -> Any:
        """A fresh model with the initial weights training starts from."""
        model = self.model_class(**self.model_config)
        if isinstance(model, DiTTransformer2DModel):
            _start_as_identity(model)
        return model


def _start_as_identity(model: DiTTransformer2DModel) -> None:
    """adaLN-Zero (Peebles and Xie, 2023, section 3.2): every block starts as the identity, the output as zero."""
    zero = [block.norm1.linear for block in model.transformer_blocks] + [model.proj_out_1, model.proj_out_2]
    for layer in zero:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0  # labels are dropped for the whole model at once instead


def _columns(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def _noised(
    alphas_cumprod: torch.Tensor, images: torch.Tensor, noise: torch.Tensor, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    timestep = (uniform * NUM_TRAIN_TIMESTEPS).long().clamp_(max=NUM_TRAIN_TIMESTEPS - 1)
    at_timestep = alphas_cumprod.to(images.device)[timestep]
    alpha, sigma = _columns(at_timestep.sqrt()), _columns((1 - at_timestep).sqrt())
    return timestep, alpha, sigma, alpha * images + sigma * noise


def epsilon_objective(images: torch.Tensor, noise: torch.Tensor, uniform: torch.Tensor) -> TrainingPair:
    """Predict ε from ``x_t = alpha_t x_0 + sigma_t ε`` (Ho et al., 2020, equation 14), linear betas."""
    timestep, _, _, sample = _noised(_LINEAR, images, noise, uniform)
    return TrainingPair(sample=sample, timestep=timestep, target=noise)


def v_objective(images: torch.Tensor, noise: torch.Tensor, uniform: torch.Tensor) -> TrainingPair:
    """Predict ``v = alpha_t ε - sigma_t x_0`` (Salimans and Ho, 2022, section 4), cosine betas."""
    timestep, alpha, sigma, sample = _noised(_COSINE, images, noise, uniform)
    target = alpha * noise - sigma * images
    return TrainingPair(sample=sample, timestep=timestep, target=target)


def flow_objective(images: torch.Tensor, noise: torch.Tensor, uniform: torch.Tensor) -> TrainingPair:
    """Predict ``v = ε - x_0`` from ``x = (1 - sigma) x_0 + sigma ε`` (Lipman et al., 2023).

    Sigma is logit-normal (Esser et al., 2024, equation 19, with location 0), a little wider than theirs, so that
    both ends of the path are still seen.
    """
    level = torch.sigmoid(LOGIT_SCALE * torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)))
    sigma = _columns(level)
    sample = (1 - sigma) * images + sigma * noise
    return TrainingPair(
        sample=sample,
        timestep=NUM_TRAIN_TIMESTEPS * level,
        target=noise - images,
    )


_DIT: Mapping[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 24,
    "in_channels": 1,
    "out_channels": 1,
    "num_layers": 6,
    "sample_size": 28,
    "patch_size": 4,
    "num_embeds_ada_norm": NUM_CLASSES,
}

_UNET: Mapping[str, Any] = {
    "sample_size": 28,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 32,
    "norm_num_groups": 8,
    "num_class_embeds": NUM_CLASSES + 1,
}

# The plain sampler of the probability flow: no clipping, whole range of timesteps, last step to x_0 itself.
_DDIM: Mapping[str, Any] = {
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}
_DDIM_LINEAR: Mapping[str, Any] = {
    **_DDIM,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}
_DDIM_COSINE: Mapping[str, Any] = {
    **_DDIM,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}
_LINEAR: torch.Tensor = DDIMScheduler(**_DDIM_LINEAR).alphas_cumprod
_COSINE: torch.Tensor = DDIMScheduler(**_DDIM_COSINE).alphas_cumprod

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="dit-epsilon",
            model_class=DiTTransformer2DModel,
            model_config=_DIT,
            scheduler_class=DDIMScheduler,
            scheduler_config=_DDIM_LINEAR,
            objective=epsilon_objective,
            learning_rate=2e-3,
        ),
        Recipe(
            name="dit-flow",
            model_class=DiTTransformer2DModel,
            model_config=_DIT,
            scheduler_class=FlowMatchEulerDiscreteScheduler,
            scheduler_config={"num_train_timesteps": NUM_TRAIN_TIMESTEPS, "shift": 1.0},
            objective=flow_objective,
            learning_rate=2e-3,
        ),
        Recipe(
            name="unet-v",
            model_class=UNet2DModel,
            model_config=_UNET,
            scheduler_class=DDIMScheduler,
            scheduler_config=_DDIM_COSINE,
            objective=v_objective,
            learning_rate=2e-3,
        ),
    )
}
