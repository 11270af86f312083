"""The matrix on a device other than the CPU: nothing mixes, and the host waits no more often in a longer run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_pipelines import BY_NAME, CASES, Case, cached, difference, own_components, sample
from tiny_pipelines.second_device import DEVICE, OnDevice, second_device, there

CALLS = 6


def on_second_device(case: Case, scheduler: Any, **arguments: Any) -> tuple[torch.Tensor, list[str]]:
    """What a run on the second device returns, on the CPU, and which of our functions read values from it."""
    with second_device() as reads:
        pipe = there(case).build(scheduler)
        reads.by.clear()
        result = sample(pipe, there(case), num_inference_steps=CALLS, **arguments)
        asked = [function for function in reads.by if function]
        return result.values if isinstance(result, OnDevice) else result, asked


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.available()])
def test_a_run_on_a_second_device_is_that_on_the_cpu_and_waits_at_its_ends_alone(case: Case) -> None:
    result, asked = on_second_device(case, cached(case))
    assert difference(result, sample(case.build(cached(case)), case, num_inference_steps=CALLS)) < 2e-5
    assert len(asked) <= 4 < CALLS
    assert set(asked) <= {"_first_index", "_check_finite", "abruptness"}


NOISE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "eta": ("StableDiffusionPipeline-ddim", {}, {"eta": 1.0}),
    "clipping": ("StableDiffusionPipeline-ddim", {"clip_sample": True}, {}),
    "thresholding": ("StableDiffusionPipeline-ddim", {"thresholding": True}, {}),
    "SDE": ("StableDiffusionXLPipeline-karras", {"algorithm_type": "sde-dpmsolver++"}, {}),
    "stochastic sampling": ("StableDiffusion3Pipeline", {"stochastic_sampling": True}, {}),
    "noise scaling": ("StableDiffusionXLPipeline-karras", {"noise_scaling": {"value": 0.98}}, {}),
    "noise ratio": ("FluxPipeline-distilled", {"cache_placement": "noise_ratio"}, {}),
}


@pytest.mark.parametrize("name", NOISE)
def test_options_that_bring_tensors_of_their_own_bring_them_to_the_device(name: str) -> None:
    entry, options, arguments = NOISE[name]
    case = BY_NAME[entry]
    torch.manual_seed(0)  # SD3 hands no generator to the scheduler
    result, asked = on_second_device(case, cached(case, **options), **arguments)
    torch.manual_seed(0)
    expected = sample(case.build(cached(case, **options)), case, num_inference_steps=CALLS, **arguments)
    assert difference(result, expected) < 1e-4  # thresholding divides by a quantile, which enlarges rounding
    assert len(asked) <= 4


@pytest.mark.parametrize("name", ["StableDiffusionPipeline-ddim", "FluxPipeline-distilled", "WanPipeline-2.2"])
def test_model_offload_moves_the_models_and_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    # Every device has a module in torch, which diffusers asks to free its memory.
    monkeypatch.setattr(torch, DEVICE.type, SimpleNamespace(empty_cache=lambda: None), raising=False)
    case = BY_NAME[name]
    resident, _ = on_second_device(case, cached(case))
    with second_device():
        pipe = own_components(case.build(cached(case)))
        pipe.enable_model_cpu_offload(device=DEVICE.type)
        denoiser = getattr(pipe, case.denoisers[0])
        seen: list[str] = []
        denoiser.register_forward_hook(lambda *_: seen.append(next(denoiser.parameters()).device.type))
        results = [sample(pipe, there(case), num_inference_steps=CALLS).values for _ in range(2)]
        after = next(denoiser.parameters()).device.type
    assert set(seen) == {DEVICE.type}
    assert after == "cpu"
    assert torch.equal(results[0], resident)
    assert torch.equal(results[1], resident)


def test_the_second_device_refuses_to_mix_and_counts_what_is_read() -> None:
    with second_device() as reads:
        tensor = torch.arange(3.0).to(DEVICE)
        with pytest.raises(RuntimeError, match="mixes tensors"):
            tensor + torch.ones(3)
        with pytest.raises(RuntimeError, match="generator of the CPU"):
            torch.randn(3, device=DEVICE, generator=torch.Generator())
        with pytest.raises(RuntimeError, match="indices on meta"):
            torch.ones(3)[tensor.long()]
        assert (tensor * torch.tensor(2.0)).values.tolist() == [0, 2, 4]
        assert reads.by == []
        assert tensor[1].item() == 1.0
        assert tensor.tolist() == [0, 1, 2]
        assert reads.by == ["", ""]
