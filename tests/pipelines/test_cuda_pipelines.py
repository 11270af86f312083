"""On a CUDA device: the whole matrix, and architectures of full size from random weights."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import CASES, Case, cached, counterpart, difference, sample

from ab_schedulers import ABCacheScheduler

pytestmark = pytest.mark.gpu


def on_device(value: Any, device: str) -> Any:
    """Tensors of call arguments on `device`."""
    if isinstance(value, list):
        return [on_device(item, device) for item in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.available()])
def test_the_matrix_on_the_device(case: Case) -> None:
    def run(scheduler: Any) -> torch.Tensor:
        pipe = case.build(scheduler)
        for name, module in pipe.components.items():
            if isinstance(module, torch.nn.Module):
                setattr(pipe, name, copy.deepcopy(module))
        pipe.to("cuda")
        arguments = {key: on_device(value, "cuda") for key, value in case.arguments((0,), case.sizes[0]).items()}
        results = [sample(pipe, case, **{**arguments, **case_generators(case)}) for _ in range(2)]
        assert torch.equal(*results)
        return results[0].cpu()

    stock = run(counterpart(case))
    assert difference(run(cached(case, cache_interval=1)), stock) < 1e-3
    assert run(cached(case)).isfinite().all()


def case_generators(case: Case) -> dict[str, Any]:
    """New generators on the CPU, as every call needs them."""
    return {"generator": case.arguments((0,), case.sizes[0])["generator"]}


@dataclass(frozen=True, kw_only=True)
class FullSize:
    """A released architecture with random weights in bfloat16.

    Args:
        pipeline: Name of the class in diffusers.
        denoiser: Component and class of the model.
        config: Its config; the defaults of the class where empty.
        scheduler: Makes the stock scheduler.
        text: Shapes of the embeddings that the pipeline is given.
        arguments: Further call arguments.
        missing: Components left out.
        steps: Steps of the stock run.
    """

    pipeline: str
    denoiser: tuple[str, str]
    config: dict[str, Any]
    scheduler: Callable[[], Any]
    text: dict[str, tuple[int, ...]]
    arguments: dict[str, Any]
    missing: tuple[str, ...]
    steps: int

    def build(self, device: str) -> Any:
        """The pipeline on `device`, with the stock scheduler."""
        name, model_class = self.denoiser
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(device):
                model = getattr(diffusers, model_class)(**self.config).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(dtype)
        parts = {name: model, "scheduler": self.scheduler(), **dict.fromkeys(self.missing)}
        pipe = getattr(diffusers, self.pipeline)(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe: Any, steps: int, device: str) -> torch.Tensor:
        """Latents after `steps` calls."""
        generator = torch.Generator(device).manual_seed(0)
        text = {key: torch.randn(shape, device=device, dtype=torch.bfloat16) for key, shape in self.text.items()}
        masks = {key: value[..., 0].bool() | True for key, value in text.items() if key.endswith("mask")}
        output = pipe(
            **{**text, **masks, **self.arguments},
            num_inference_steps=steps,
            generator=generator,
            output_type="latent",
        )
        return output[0]


_ENCODERS = ("vae", "text_encoder", "tokenizer")
FULL = {
    "SDXL": FullSize(
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
        scheduler=lambda: diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
        text={
            "prompt_embeds": (1, 77, 2048),
            "negative_prompt_embeds": (1, 77, 2048),
            "pooled_prompt_embeds": (1, 1280),
            "negative_pooled_prompt_embeds": (1, 1280),
        },
        arguments={"height": 1024, "width": 1024},
        missing=(*_ENCODERS, "text_encoder_2", "tokenizer_2"),
        steps=50,
    ),
    "SD3": FullSize(
        pipeline="StableDiffusion3Pipeline",
        denoiser=("transformer", "SD3Transformer2DModel"),
        config={"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192},
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text={
            "prompt_embeds": (1, 333, 4096),
            "negative_prompt_embeds": (1, 333, 4096),
            "pooled_prompt_embeds": (1, 2048),
            "negative_pooled_prompt_embeds": (1, 2048),
        },
        arguments={"height": 1024, "width": 1024},
        missing=(*_ENCODERS, "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
        steps=28,
    ),
    "FLUX.1-dev": FullSize(
        pipeline="FluxPipeline",
        denoiser=("transformer", "FluxTransformer2DModel"),
        config={"guidance_embeds": True},
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        text={"prompt_embeds": (1, 512, 4096), "pooled_prompt_embeds": (1, 768)},
        arguments={"height": 1024, "width": 1024},
        missing=(*_ENCODERS, "text_encoder_2", "tokenizer_2"),
        steps=50,
    ),
    "HunyuanVideo": FullSize(
        pipeline="HunyuanVideoPipeline",
        denoiser=("transformer", "HunyuanVideoTransformer3DModel"),
        config={},
        scheduler=lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text={
            "prompt_embeds": (1, 256, 4096),
            "pooled_prompt_embeds": (1, 768),
            "prompt_attention_mask": (1, 256, 1),
        },
        arguments={"height": 320, "width": 512, "num_frames": 61},
        missing=(*_ENCODERS, "text_encoder_2", "tokenizer_2"),
        steps=50,
    ),
    "Wan 2.1 14B": FullSize(
        pipeline="WanPipeline",
        denoiser=("transformer", "WanTransformer3DModel"),
        config={},
        scheduler=lambda: diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        text={"prompt_embeds": (1, 512, 4096), "negative_prompt_embeds": (1, 512, 4096)},
        arguments={"height": 480, "width": 832, "num_frames": 17},
        missing=_ENCODERS,
        steps=50,
    ),
}


@pytest.fixture
def _memory_returned() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()


@pytest.mark.slow
@pytest.mark.usefixtures("_memory_returned")
@pytest.mark.parametrize("name", FULL)
def test_latency_follows_the_calls_at_full_size(name: str, record_property: Any) -> None:
    """Measures and prints; what it asserts is that the run is whole and finite."""
    full = FULL[name]
    try:
        pipe = full.build("cuda")
    except torch.OutOfMemoryError:
        pytest.skip(f"{name} does not fit into {torch.cuda.get_device_name()}")
    stock = pipe.scheduler
    device = torch.cuda.get_device_name()
    full.run(pipe, 2, "cuda")
    for label, scheduler, steps in (
        ("stock", stock, full.steps),
        ("cached", ABCacheScheduler.from_config(stock.config), -(-full.steps // 3)),
        ("cached", ABCacheScheduler.from_config(stock.config), -(-full.steps // 5)),
    ):
        pipe.scheduler = scheduler
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        started = time.perf_counter()
        latents = full.run(pipe, steps, "cuda")
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() / 2**30
        line = f"{name} on {device}: {label}, {steps} calls, {seconds:.2f} s, peak {peak:.2f} GiB"
        record_property(f"{label}-{steps}", line)
        print(line)
        assert latents.isfinite().all()
        if label == "cached":
            assert len(scheduler.error_estimates) == steps
