"""What holds for both caches alike: guidance in one call or two, offloading, and a model that is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ab_schedulers import ABCacheConfig, EBCacheConfig, EBTable, apply_ab_cache, apply_eb_cache, remove_cache

Loop = Callable[..., torch.Tensor]
STEPS = 10
PLACE: dict[str, Callable[..., Any]] = {
    "AB-Cache": lambda model, **scheduler: apply_ab_cache(model, ABCacheConfig(interval=3), **scheduler),
    "EB-Cache": lambda model, **scheduler: apply_eb_cache(
        model, EBCacheConfig(table=EBTable.uniform(STEPS, 3, action="E")), **scheduler
    ),
}


def attributes(model: torch.nn.Module) -> dict[str, set[str]]:
    """Names of everything that an instance of a module carries."""
    return {name: set(vars(module)) for name, module in model.named_modules()}


def hooks_of(model: torch.nn.Module) -> set[str]:
    registries = [module._diffusers_hook for module in model.modules() if hasattr(module, "_diffusers_hook")]
    return {hook for registry in registries for hook in registry.hooks}


@pytest.mark.parametrize("cache", PLACE)
def test_guidance_in_one_batch_equals_guidance_in_two_calls(
    family: Any, model: torch.nn.Module, run_loop: Loop, cache: str
) -> None:
    PLACE[cache](model)
    one, two = (run_loop(family, model, guidance=guidance) for guidance in ("batched", "separate"))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cache", PLACE)
def test_removing_leaves_no_trace(family: Any, model: torch.nn.Module, run_loop: Loop, cache: str) -> None:
    bare = run_loop(family, model)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    PLACE[cache](model)
    run_loop(family, model)
    remove_cache(model)
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert torch.equal(run_loop(family, model), bare)


@pytest.mark.parametrize("first", ["cache", "offload"])
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
@pytest.mark.parametrize("cache", PLACE)
def test_group_offloading_changes_nothing_in_either_order(
    families: Any, run_loop: Loop, cache: str, kind: str, first: str
) -> None:
    family = families["flux"]
    model = family.build()
    bare = run_loop(family, model)
    PLACE[cache](model)
    expected = run_loop(family, model)
    model = family.build()
    actions = [
        lambda: PLACE[cache](model),
        lambda: model.enable_group_offload(
            torch.device("cpu"),
            offload_type=kind,
            num_blocks_per_group=1 if kind == "block_level" else None,
        ),
    ]
    for action in actions if first == "cache" else actions[::-1]:
        action()
    for _ in range(2):
        assert torch.equal(run_loop(family, model), expected)
    remove_cache(model)
    assert torch.equal(run_loop(family, model), bare)
    hooks = hooks_of(model)
    assert hooks and not any(hook.startswith("ab_schedulers") for hook in hooks)


@pytest.mark.parametrize("cache", PLACE)
def test_model_offload_moves_a_cached_model_and_gives_it_back(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a second device that computes on the CPU and does not mix with it."""
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers", reason="pipelines of diffusers import transformers")
    from tiny_pipelines import BY_NAME, counterpart, own_components, sample
    from tiny_pipelines.second_device import DEVICE, second_device, there

    monkeypatch.setattr(torch, DEVICE.type, SimpleNamespace(empty_cache=lambda: None), raising=False)
    case = BY_NAME["FluxPipeline-distilled"]
    pipe = own_components(case.build(counterpart(case)))
    vars(pipe.transformer).pop("_diffusers_hook", None)  # an empty registry, where a pipeline has run it before
    before = attributes(pipe.transformer)
    bare = sample(pipe, case, num_inference_steps=STEPS)
    PLACE[cache](pipe.transformer, scheduler=pipe.scheduler)
    resident = sample(pipe, case, num_inference_steps=STEPS)
    with second_device():
        pipe.enable_model_cpu_offload(device=DEVICE.type)
        offloaded = [sample(pipe, there(case), num_inference_steps=STEPS).values for _ in range(2)]
    assert all(torch.equal(result, offloaded[0]) for result in offloaded)
    torch.testing.assert_close(offloaded[0], resident, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(resident, bare, atol=1e-4)
    with pytest.raises(ValueError, match="remove_all_hooks"):
        remove_cache(pipe.transformer)
    pipe.remove_all_hooks()
    remove_cache(pipe.transformer)
    assert attributes(pipe.transformer) == before
    assert torch.equal(sample(pipe, case, num_inference_steps=STEPS), bare)
