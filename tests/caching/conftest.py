"""Tiny transformers of every family with random weights, and a plain sampling loop over them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch

_HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
_SMALL = {**_HEADS, "in_channels": 4, "out_channels": 4, "num_layers": 2}
_TEXT = 5


def _text(width: int) -> Callable[[torch.Generator, int], dict[str, torch.Tensor]]:
    return lambda g, batch: {"encoder_hidden_states": torch.randn(batch, _TEXT, width, generator=g)}


def _masked(
    text: Callable[[torch.Generator, int], dict[str, torch.Tensor]], name: str = "encoder_attention_mask"
) -> Callable[[torch.Generator, int], dict[str, Any]]:
    """The conditioning with a mask that hides nothing."""
    return lambda g, batch: {**text(g, batch), name: torch.ones(batch, _TEXT, dtype=torch.long)}


def _pooled(width: int) -> Callable[[torch.Generator, int], dict[str, torch.Tensor]]:
    return lambda g, batch: {**_text(width)(g, batch), "pooled_projections": torch.randn(batch, width, generator=g)}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A transformer class, its small config, the shape of one sample, and its further arguments."""

    cls: str
    config: dict[str, Any]
    sample: tuple[int, ...]
    conditioning: Callable[[torch.Generator, int], dict[str, Any]]
    fixed: dict[str, Any]
    unit: float = 1.0

    def build(self) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(diffusers, self.cls)(**self.config)
            for parameter in model.parameters():  # zero-initialised layers would hide the blocks
                torch.nn.init.normal_(parameter, std=0.2)
        return model.eval().requires_grad_(False)

    def prompt(self, seed: int, batch: int) -> dict[str, Any]:
        """Of a seed; a smaller batch holds the first of a larger one."""
        return {k: v[:batch] for k, v in self.conditioning(torch.Generator().manual_seed(seed), 4).items()}


_ROPE = {"axes_dims_rope": [2, 2, 4]}
FAMILIES = {
    "dit": Family(
        cls="DiTTransformer2DModel",
        config={**_HEADS, "in_channels": 4, "num_layers": 2, "sample_size": 8, "num_embeds_ada_norm": 10},
        sample=(4, 8, 8),
        conditioning=lambda g, batch: {"class_labels": torch.randint(10, (batch,), generator=g)},
        fixed={},
    ),
    "pixart": Family(
        cls="PixArtTransformer2DModel",
        config={
            **_HEADS,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "sample_size": 8,
            "cross_attention_dim": 16,
            "caption_channels": 12,
            "use_additional_conditions": False,
        },
        sample=(4, 8, 8),
        conditioning=_text(12),
        fixed={"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
    ),
    "sd3": Family(
        cls="SD3Transformer2DModel",
        config={
            **_SMALL,
            "sample_size": 8,
            "joint_attention_dim": 12,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 12,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),
        },
        sample=(4, 8, 8),
        conditioning=_pooled(12),
        fixed={},
    ),
    "flux": Family(
        cls="FluxTransformer2DModel",
        config={
            **_HEADS,
            **_ROPE,
            "in_channels": 4,
            "num_layers": 1,
            "num_single_layers": 2,
            "joint_attention_dim": 12,
            "pooled_projection_dim": 12,
        },
        sample=(16, 4),
        conditioning=_pooled(12),
        fixed={"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(_TEXT, 3)},
        unit=1000.0,
    ),
    "hunyuan_video": Family(
        cls="HunyuanVideoTransformer3DModel",
        config={
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "text_embed_dim": 12,
            "pooled_projection_dim": 12,
            "rope_axes_dim": (2, 2, 4),
            "guidance_embeds": False,
        },
        sample=(4, 2, 4, 4),
        conditioning=_masked(_pooled(12)),
        fixed={},
    ),
    "wan": Family(
        cls="WanTransformer3DModel",
        config={
            **_SMALL,
            "text_dim": 12,
            "freq_dim": 16,
            "ffn_dim": 24,
            "rope_max_seq_len": 16,
        },
        sample=(4, 2, 4, 4),
        conditioning=_text(12),
        fixed={},
    ),
    "qwen_image": Family(
        cls="QwenImageTransformer2DModel",
        config={
            **_SMALL,
            "axes_dims_rope": (2, 2, 4),
            "patch_size": 1,
            "joint_attention_dim": 12,
        },
        sample=(16, 4),
        conditioning=lambda g, batch: {
            **_masked(_text(12), "encoder_hidden_states_mask")(g, batch),
            "img_shapes": [[(1, 4, 4)]] * batch,
        },
        fixed={},
        unit=1000.0,
    ),
    "cogvideox": Family(
        cls="CogVideoXTransformer3DModel",
        config={
            **_SMALL,
            "time_embed_dim": 8,
            "text_embed_dim": 12,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 5,
            "max_text_seq_length": _TEXT,
        },
        sample=(2, 4, 8, 8),
        conditioning=_text(12),
        fixed={},
    ),
    "ltx": Family(
        cls="LTXVideoTransformer3DModel",
        config={
            **_SMALL,
            "cross_attention_dim": 16,
            "caption_channels": 12,
        },
        sample=(32, 4),
        conditioning=_masked(_text(12)),
        fixed={"num_frames": 2, "height": 4, "width": 4},
    ),
}
"""Transformers by family; `unit` divides the timestep where pipelines hand over t / 1000."""

_TIMESTEPS = tuple(range(950, 0, -100))


@torch.no_grad()
def denoise(
    family: Family,
    model: torch.nn.Module,
    *,
    seed: int = 0,
    batch: int = 2,
    guidance: str = "none",
    timesteps: Sequence[int] = _TIMESTEPS,
    fail_after: int | None = None,
    noise: float = 0.0,
) -> torch.Tensor:
    """A flow-like Euler loop; `guidance` is "none", "batched" or "separate"; raises after call `fail_after`."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(4, *family.sample, generator=generator)[:batch]
    prompt, empty = family.prompt(seed + 1, batch), family.prompt(99, batch)
    calls = 0

    def call(x: torch.Tensor, t: int, given: dict[str, Any]) -> torch.Tensor:
        nonlocal calls
        time = torch.tensor(t / family.unit).expand(len(x))
        output = model(hidden_states=x, timestep=time, return_dict=False, **given, **family.fixed)[0]
        calls += 1
        if calls == fail_after:
            raise RuntimeError("the loop failed outside the model")
        return output

    for i, t in enumerate(timesteps):
        if guidance == "batched":
            both = {k: _join(empty[k], prompt[k]) for k in prompt}
            out_empty, out = call(torch.cat([sample, sample]), t, both).chunk(2)
            out = out_empty + 2 * (out - out_empty)
        elif guidance == "separate":
            out_empty = call(sample, t, empty)
            out = out_empty + 2 * (call(sample, t, prompt) - out_empty)
        else:
            out = call(sample, t, prompt)
        if out.shape != sample.shape:  # learned variance
            out = out[:, : sample.shape[1]]
        end = timesteps[i + 1] if i + 1 < len(timesteps) else 0
        sample = sample + (end - t) / 1000 * torch.tanh(out)
        if noise:
            sample = sample + noise * torch.randn(sample.shape, generator=generator)
    return sample


def _join(a: Any, b: Any) -> Any:
    return torch.cat([a, b]) if isinstance(a, torch.Tensor) else a + b


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


_BUILT: dict[str, torch.nn.Module] = {}


@pytest.fixture
def model(family: Family) -> torch.nn.Module:
    """The family's bare model."""
    if family.cls not in _BUILT:
        _BUILT[family.cls] = family.build()
    return copy.deepcopy(_BUILT[family.cls])


@pytest.fixture(scope="session")
def families() -> dict[str, Family]:
    return FAMILIES


@pytest.fixture(scope="session")
def run_loop() -> Callable[..., torch.Tensor]:
    return denoise
