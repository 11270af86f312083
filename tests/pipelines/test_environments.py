"""What users do to a pipeline: half precision, adapters, compilation, saving, offloading, modular blocks."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import (
    BY_NAME,
    CALLS,
    Case,
    cached,
    components_of,
    counterpart,
    difference,
    named,
    own_components,
    placed,
    rounding,
    sample,
)

VERSION = tuple(int(number) for number in diffusers.__version__.split(".")[:2])
HALF = [torch.float16, torch.bfloat16]


# -- half precision ------------------------------------------------------------------------------------------------


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors of call arguments in `dtype`."""
    if isinstance(value, list):
        return [cast(item, dtype) for item in value]
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@pytest.mark.slow
@named(
    "StableDiffusionPipeline-ddim",
    "StableDiffusionXLPipeline-karras",
    "StableDiffusion3Pipeline",
    "FluxPipeline-distilled",
    "QwenImagePipeline",
    "PixArtSigmaPipeline",
    "WanPipeline-2.1",
    "CogVideoXPipeline",
    "LTXPipeline",
)
@pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])
def test_half_precision_costs_no_more_accuracy_than_with_the_stock_scheduler(case: Case, dtype: torch.dtype) -> None:
    errors = []
    for scheduler in (counterpart(case), cached(case)):
        exact = sample(case.build(copy.deepcopy(scheduler)), case)
        pipe = own_components(case.build(scheduler)).to(dtype)
        arguments = {key: cast(value, dtype) for key, value in case.arguments((0,), case.sizes[0]).items()}
        rounded = sample(pipe, case, **{key: arguments[key] for key in arguments if "embeds" in key})
        assert rounded.isfinite().all()
        errors.append((difference(rounded, exact), rounded.dtype))
    (stock_error, stock_dtype), (error, own_dtype) = errors
    assert own_dtype == stock_dtype
    assert error < 3 * stock_error + torch.finfo(dtype).eps


# -- adapters --------------------------------------------------------------------------------------------------------


@named("StableDiffusionPipeline-ddim", "FluxPipeline-distilled", "WanPipeline-2.1")
def test_an_adapter_changes_the_result_and_its_removal_restores_it(case: Case) -> None:
    peft = pytest.importorskip("peft")
    targets = ["to_q", "to_v"]
    pipe = own_components(case.build(cached(case)))
    before = sample(pipe, case)
    denoiser = getattr(pipe, case.denoisers[0])
    denoiser.add_adapter(peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted = sample(pipe, case)
    assert difference(adapted, before) > 1e-4
    assert torch.equal(sample(pipe, case), adapted)
    pipe.scheduler = cached(case, cache_interval=1)
    same = sample(pipe, case)
    pipe.scheduler = counterpart(case)
    assert difference(same, sample(pipe, case)) < rounding(case)
    denoiser.delete_adapters("default")
    pipe.scheduler = cached(case)
    assert torch.equal(sample(pipe, case), before)


# -- compilation -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dynamo's and inductor's own
@named("StableDiffusionPipeline-ddim", "FluxPipeline-distilled", "WanPipeline-2.1")
def test_a_compiled_denoiser_breaks_and_recompiles_as_often_as_with_the_stock_scheduler(case: Case) -> None:
    from torch._dynamo.testing import CompileCounter
    from torch._dynamo.utils import counters

    counted = []
    for scheduler in (counterpart(case), cached(case)):
        torch._dynamo.reset()
        counters.clear()
        backend = CompileCounter()
        pipe = own_components(case.build(scheduler))
        name = case.denoisers[0]
        setattr(pipe, name, torch.compile(getattr(pipe, name), backend=backend))
        sample(pipe, case)
        sample(pipe, case, num_inference_steps=6)
        counted.append((backend.frame_count, sum(counters["graph_break"].values())))
    assert counted[0] == counted[1]
    assert counted[0][0] > 0


# -- saving -----------------------------------------------------------------------------------------------------------

RELOAD = """
import sys
{first}
import torch
from diffusers import DiTPipeline
pipe = DiTPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
torch.set_num_threads(1)
generator = [torch.Generator().manual_seed(1000)]
result = pipe([0], generator=generator, output_type="np", num_inference_steps=4, return_dict=False)[0]
torch.save(torch.from_numpy(result), sys.argv[2])
"""


@pytest.mark.slow
def test_a_saved_pipeline_gives_the_same_result_in_a_new_process(tmp_path: Path) -> None:
    case = BY_NAME["DiTPipeline"]
    pipe = case.build(cached(case, cache_interval=2, warmup_calls=1))
    expected = sample(pipe, case)
    pipe.save_pretrained(tmp_path / "fast")
    result = tmp_path / "result.pt"

    def run(first: str) -> Any:
        script = RELOAD.format(first=first)
        arguments = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "fast"), str(result)]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=300)

    done = run("import ab_schedulers")
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(result), expected)
    result.unlink()
    forgotten = run("")
    if VERSION >= (0, 38):  # from then on diffusers imports nothing that a saved pipeline names
        assert forgotten.returncode != 0
        assert "ab_schedulers" in forgotten.stderr and "has not been imported" in forgotten.stderr
        assert not result.exists()
    else:
        assert torch.equal(torch.load(result), expected)


@named("StableDiffusionXLPipeline-karras", "StableDiffusion3Pipeline", "CogVideoXPipeline")
def test_the_scheduler_alone_is_loaded_from_the_folder_of_a_pipeline(case: Case, tmp_path: Path) -> None:
    pipe = case.build(cached(case, cache_interval=2))
    expected = sample(pipe, case)
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe.scheduler).from_pretrained(tmp_path, subfolder="scheduler")
    assert torch.equal(sample(case.build(loaded), case), expected)


# -- offloading -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["StableDiffusionPipeline-ddim", "FluxPipeline-distilled", "WanPipeline-2.2"])
def test_model_offload_on_cuda_changes_nothing(name: str) -> None:
    pytest.importorskip("accelerate")
    case = replace(BY_NAME[name], device="cuda")
    expected = sample(case.build(cached(case)), case)
    offloaded = own_components(BY_NAME[name].build(cached(case)))
    offloaded.enable_model_cpu_offload()
    assert torch.equal(sample(offloaded, case).cpu(), expected.cpu())
    assert torch.equal(sample(offloaded, case).cpu(), expected.cpu())


# -- modular pipelines -----------------------------------------------------------------------------------------------


BLOCKS = {
    "StableDiffusion3Pipeline": ("stable_diffusion_3", "StableDiffusion3T2ICoreDenoiseStep"),
    "FluxPipeline-distilled": ("flux", "FluxCoreDenoiseStep"),
    "Flux2Pipeline": ("flux2", "Flux2CoreDenoiseStep"),
    "QwenImagePipeline": ("qwenimage", "QwenImageCoreDenoiseStep"),
    "ZImagePipeline": ("z_image", "ZImageCoreDenoiseStep"),
    "LTXPipeline": ("ltx", "LTXCoreDenoiseStep"),
}


@named(*BLOCKS)
@pytest.mark.filterwarnings("ignore:.*[Mm]odular:UserWarning", "ignore:Unexpected input:UserWarning")
def test_denoising_blocks_of_a_modular_pipeline_take_our_scheduler(case: Case) -> None:
    module, name = BLOCKS[case.name]
    blocks = pytest.importorskip(f"diffusers.modular_pipelines.{module}.modular_blocks_{module}")
    if not hasattr(blocks, name):
        pytest.skip(f"this diffusers has no {name}")

    def run(scheduler: Any) -> torch.Tensor:
        pipe = getattr(blocks, name)().init_pipeline()
        pipe.update_components(transformer=components_of(case)["transformer"], scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        arguments = {key: placed(value, case.device) for key, value in case.arguments((0,), case.sizes[0]).items()}
        del arguments["output_type"]
        return pipe(**arguments, num_inference_steps=CALLS, output="latents")

    stock = run(counterpart(case))
    ours = cached(case)
    assert difference(run(cached(case, cache_interval=1)), stock) < rounding(case)
    assert difference(run(ours), stock) > 1e-3
    assert len(ours.timesteps) == len(ours.error_estimates) == CALLS
