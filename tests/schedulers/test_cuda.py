"""On a CUDA device: no synchronisation per step, the same results as on the CPU, and the check for finite values."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from ab_schedulers import (
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
)

pytestmark = pytest.mark.gpu

KINDS: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "ddim": (ABCacheDDIMScheduler, {"clip_sample": False, "timestep_spacing": "trailing"}, {}),
    "ddim, clipped": (ABCacheDDIMScheduler, {"timestep_spacing": "trailing"}, {}),
    "ddim, eta": (ABCacheDDIMScheduler, {"clip_sample": False, "timestep_spacing": "trailing"}, {"eta": 1.0}),
    "dpmsolver": (ABCacheDPMSolverMultistepScheduler, {}, {}),
    "dpmsolver, velocity": (
        ABCacheDPMSolverMultistepScheduler,
        {"prediction_type": "v_prediction", "cache_quantity": "velocity", "solver_order": 3},
        {},
    ),
    "dpmsolver, sde": (ABCacheDPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, {}),
    "flow": (ABCacheFlowMatchEulerScheduler, {"shift": 2.0}, {}),
    "flow, corrected": (ABCacheFlowMatchEulerScheduler, {"shift": 2.0, "cache_corrector": 3}, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
CALLS = 8


class NoWaiting:
    """Any synchronisation between host and device raises inside."""

    def __enter__(self) -> None:
        self.before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():  # torch says once that this mode is a prototype
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode(self.before)


def on_device(kind: str) -> tuple[Any, dict[str, Any]]:
    ours, options, step = KINDS[kind]
    scheduler = ours(**options)
    scheduler.set_timesteps(CALLS, device="cuda")
    scheduler.set_begin_index(0)  # as pipelines do, so that no timestep has to be looked up
    if "eta" in kind or "sde" in kind:
        step = {**step, "generator": torch.Generator("cuda").manual_seed(0)}
    return scheduler, step


def outputs(start: Any, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The model's answers, the same on both devices."""
    return [start(dtype, seed=seed) for seed in range(1, CALLS + 1)]


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_step_but_the_last_waits_for_the_device(kind: str, dtype: torch.dtype, start: Any) -> None:
    scheduler, step = on_device(kind)
    answers = [output.cuda() for output in outputs(start, dtype)]
    sample, timesteps = start(dtype).cuda(), list(scheduler.timesteps)
    torch.cuda.synchronize()
    with NoWaiting():
        for output, timestep in zip(answers[:-1], timesteps[:-1], strict=True):
            sample = scheduler.step(output, timestep, sample, **step).prev_sample
    sample = scheduler.step(answers[-1], timesteps[-1], sample, **step).prev_sample
    assert sample.device.type == "cuda" and sample.dtype == dtype and sample.isfinite().all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "eta" not in kind and "sde" not in kind])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_on_the_device_is_the_run_on_the_cpu(kind: str, dtype: torch.dtype, start: Any) -> None:
    ends = []
    for device in ("cpu", "cuda"):
        scheduler, _ = on_device(kind)
        scheduler.set_timesteps(CALLS, device=device)
        sample = start(dtype).to(device)
        for output, timestep in zip(outputs(start, dtype), scheduler.timesteps, strict=True):
            sample = scheduler.step(output.to(device), timestep, sample).prev_sample
        ends.append(sample.cpu())
        assert all(held.device.type == device for held in scheduler.history)
    assert torch.allclose(*ends, rtol=0, atol=float(1e2 * torch.finfo(dtype).eps * ends[0].abs().max()))


@every_kind
@pytest.mark.parametrize("bad_call", [0, 3, CALLS - 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_told_after_the_last_call(
    kind: str, bad_call: int, value: float, start: Any
) -> None:
    scheduler, step = on_device(kind)
    sample = start(torch.float32).cuda()
    for call, (output, timestep) in enumerate(zip(outputs(start), scheduler.timesteps, strict=True)):
        if call == bad_call:
            output.view(-1)[5] = value
        if call == CALLS - 1:
            with pytest.raises(ValueError, match=f"call {bad_call} "):
                scheduler.step(output.cuda(), timestep, sample, **step)
        else:
            sample = scheduler.step(output.cuda(), timestep, sample, **step).prev_sample
    scheduler.set_timesteps(CALLS, device="cuda")
    sample = start(torch.float32).cuda()
    for output, timestep in zip(outputs(start), scheduler.timesteps, strict=True):
        sample = scheduler.step(output.cuda(), timestep, sample, **step).prev_sample
    assert sample.isfinite().all()


@every_kind
def test_a_timestep_of_another_call_is_refused_without_waiting(kind: str, start: Any) -> None:
    scheduler, step = on_device(kind)
    sample, answers, timesteps = start(torch.float32).cuda(), [o.cuda() for o in outputs(start)], scheduler.timesteps
    sample = scheduler.step(answers[0], timesteps[0], sample, **step).prev_sample
    torch.cuda.synchronize()
    with NoWaiting(), pytest.raises(ValueError, match="`timestep`"):
        scheduler.step(answers[1], timesteps[3], sample, **step)
    with NoWaiting():
        sample = scheduler.step(answers[1], timesteps[1], sample, **step).prev_sample
    assert sample.isfinite().all()


@every_kind
def test_no_more_memory_is_held_than_the_row_depth(kind: str, start: Any) -> None:
    scheduler, step = on_device(kind)
    depth = max(len(row.history) + len(row.base_history) for row in scheduler.rows)
    sample = start(torch.float32, (1, 16, 128, 128)).cuda()
    size = sample.numel() * sample.element_size()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for timestep in scheduler.timesteps[:-1]:
        output = 0.1 * sample
        sample = scheduler.step(output, timestep, sample, **step).prev_sample
        del output
        held = torch.cuda.memory_allocated() - before  # the sample of the caller has only been replaced
        assert held <= depth * size + 2**20
