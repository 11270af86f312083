"""AB-Cache inside the model: equal to the bare model where nothing is skipped, fresh in every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

from ab_schedulers import (
    ABCacheConfig,
    ABCacheScheduler,
    EBCacheConfig,
    EBTable,
    apply_ab_cache,
    apply_eb_cache,
    remove_cache,
)
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.caching.ab_config import QUANTITIES
from ab_schedulers.models import load

Loop = Callable[..., torch.Tensor]
Model = torch.nn.Module
GUIDANCES = ("none", "batched", "separate")


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_interval_one_is_the_bare_model(family: Any, model: Model, run_loop: Loop, guidance: str) -> None:
    bare = run_loop(family, model, guidance=guidance)
    cache = apply_ab_cache(model, ABCacheConfig(interval=1))
    assert torch.equal(run_loop(family, model, guidance=guidance), bare)
    assert "nothing was skipped" in cache.summary()


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_every_run_equals_a_fresh_one(family: Any, model: Model, run_loop: Loop, guidance: str) -> None:
    """A second run, a run after failures inside and outside the model, after another shape, another prompt."""
    cache = apply_ab_cache(model, ABCacheConfig(interval=3))
    fresh = run_loop(family, model, guidance=guidance)
    skipped = sum(not record.computed for record in cache.records)
    assert skipped == 6 * (2 if guidance == "separate" else 1)
    assert torch.equal(run_loop(family, model, guidance=guidance), fresh)
    for calls in (1, 2, 5):
        with pytest.raises(RuntimeError, match="outside"):
            run_loop(family, model, guidance=guidance, seed=5, fail_after=calls)
        assert torch.equal(run_loop(family, model, guidance=guidance), fresh)
    run_loop(family, model, guidance=guidance, batch=3)
    assert torch.equal(run_loop(family, model, guidance=guidance), fresh)
    block = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))[0]
    calls = iter(range(100))
    handle = block.register_forward_pre_hook(lambda *_: _fail() if next(calls) == 3 else None)
    with pytest.raises(RuntimeError, match="inside"):
        run_loop(family, model, guidance=guidance, seed=5)
    handle.remove()
    assert torch.equal(run_loop(family, model, guidance=guidance), fresh)
    assert sum(not record.computed for record in cache.records) == skipped


def _fail() -> None:
    raise RuntimeError("inside the model")


def test_the_samples_of_a_batch_do_not_see_each_other(family: Any, model: Model, run_loop: Loop) -> None:
    apply_ab_cache(model, ABCacheConfig(interval=3))
    many = run_loop(family, model, batch=3)
    torch.testing.assert_close(run_loop(family, model, batch=1), many[:1], atol=1e-5, rtol=1e-5)


def test_skipped_steps_are_the_polynomial_through_the_computed_outputs(families: Any, run_loop: Loop) -> None:
    """Against a walk that replaces the model and predicts by itself: order 3, every other step from the second on."""
    family = families["dit"]
    model = family.build()
    apply_ab_cache(model, ABCacheConfig(interval=2, order=3, warmup_steps=2))
    cached = run_loop(family, model)
    remove_cache(model)
    known: list[tuple[int, torch.Tensor]] = []

    def walk(**call: Any) -> tuple[torch.Tensor]:
        step = walk.step = walk.step + 1  # type: ignore[attr-defined]
        if step < 2 or (step - 2) % 2 == 0:
            known.insert(0, (step, model(**call)[0]))
            return (known[0][1],)
        (x0, f0), (x1, f1), (x2, f2) = known[:3]
        slope = (f0 - f1) / (x0 - x1)
        bend = (slope - (f1 - f2) / (x1 - x2)) / (x0 - x2)
        return (f0 + (step - x0) * slope + (step - x0) * (step - x1) * bend,)

    walk.step = -1  # type: ignore[attr-defined]
    torch.testing.assert_close(cached, run_loop(family, walk), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variable", ["timestep", "lambda"])
def test_the_variable_changes_the_nodes(families: Any, run_loop: Loop, variable: str) -> None:
    family = families["dit"]
    model, timesteps = family.build(), [900, 850, 700, 650, 300, 250, 20, 10]
    results = []
    for choice in ("index", variable):
        apply_ab_cache(model, ABCacheConfig(interval=2, variable=choice), scheduler=diffusers.DDIMScheduler())
        results.append(run_loop(family, model, timesteps=timesteps))
        remove_cache(model)
    assert not torch.allclose(*results, atol=1e-3)


def test_explicit_steps_and_end_steps_are_honoured(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    model = family.build()
    cache = apply_ab_cache(model, ABCacheConfig(compute_steps=[0, 1, 5]))
    run_loop(family, model)
    assert "CC...C...." in cache.summary()
    remove_cache(model)
    cache = apply_ab_cache(model, ABCacheConfig(interval=4, warmup_steps=1, end_steps=2, num_inference_steps=10))
    run_loop(family, model)
    assert "CC...C..CC" in cache.summary()


def test_a_threshold_decides_by_the_embedded_estimate_for_all_calls_of_a_step() -> None:
    bundled = load("dit-flow")
    results, computed = [], []
    for threshold in (1e-9, 0.05, 0.3):
        cache = apply_ab_cache(bundled.model, ABCacheConfig(threshold=threshold, interval=5))
        results.append(_guided(bundled))
        computed.append(sum(record.computed for record in cache.records))
        for first, second in zip(cache.records[::2], cache.records[1::2], strict=True):
            assert first.step == second.step and first.computed == second.computed
            assert first.estimate is None or first.computed == (first.estimate > threshold)
        remove_cache(bundled.model)
    bare = _guided(bundled)
    errors = [float((result - bare).norm()) for result in results]
    assert computed[0] == 40 > computed[1] > computed[2]
    assert errors[0] == 0 < errors[1] < errors[2]


def _guided(bundled: Any) -> torch.Tensor:
    """Twenty steps with guidance in two calls."""
    bundled.scheduler.set_timesteps(20)
    x = _noise(0)
    for t in bundled.scheduler.timesteps:
        empty, full = (bundled.predict(x, t, torch.tensor([label])) for label in (10, 3))
        x = bundled.scheduler.step(empty + 1.5 * (full - empty), t, x).prev_sample
    return x


def test_a_threshold_computes_at_least_every_interval(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    model = family.build()
    cache = apply_ab_cache(model, ABCacheConfig(threshold=1e6, interval=3))
    run_loop(family, model)
    assert "CCCC..C..C" in cache.summary()


@pytest.mark.parametrize(
    ("name", "quantity"),
    [("dit-epsilon", "signal"), ("dit-epsilon", "sample"), ("unet-v", "signal"), ("unet-v", "sample")],
)
def test_a_skipped_step_sees_fresh_noise(name: str, quantity: str) -> None:
    """Frozen quantity: the answer at a skipped step implies the same one for the new noisy sample."""
    bundled = load(name)
    apply_ab_cache(bundled.model, ABCacheConfig(interval=2, order=1, quantity=quantity), scheduler=bundled.scheduler)
    labels, kind = torch.tensor([3]), bundled.scheduler.config.prediction_type
    implied = []
    for t, seed in ((200, 0), (180, 1)):
        a = float(bundled.scheduler.alphas_cumprod[t]) ** 0.5
        s = (1 - a * a) ** 0.5
        x = a * torch.linspace(-1, 1, 784).reshape(1, 1, 28, 28) + s * _noise(seed) * 0.5
        output = bundled.predict(x, torch.tensor(t), labels)
        clean = (x - s * output) / a if kind == "epsilon" else a * x - s * output
        implied.append(a * clean if quantity == "signal" else clean)
    torch.testing.assert_close(implied[0], implied[1], atol=1e-4, rtol=1e-4)


def test_the_default_quantity_follows_from_the_prediction() -> None:
    quantities = {}
    for name in ("dit-epsilon", "dit-flow", "unet-v"):
        bundled = load(name)
        for threshold in (None, 0.1):
            config = ABCacheConfig(threshold=threshold)
            quantities[name, threshold] = apply_ab_cache(bundled.model, config, scheduler=bundled.scheduler).quantity
            remove_cache(bundled.model)
    assert [key for key, quantity in quantities.items() if quantity == "signal"] == [("dit-epsilon", None)]
    assert set(quantities.values()) == {"signal", "sample"}
    assert apply_ab_cache(bundled.model).quantity == "model_output"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit-epsilon", "dit-flow", "unet-v"])
def test_the_default_quantity_is_about_as_near_to_the_uncached_run_as_the_best(name: str) -> None:
    bundled = load(name)
    noise, labels = seeded_noise(bundled, 4, 0)

    def run() -> torch.Tensor:
        return sample(bundled, bundled.scheduler, 50, noise, labels).images

    bare, errors = run(), {}
    for quantity in (None, *QUANTITIES):
        apply_ab_cache(bundled.model, ABCacheConfig(interval=3, quantity=quantity), scheduler=bundled.scheduler)
        errors[quantity] = rmse(run(), bare)
        remove_cache(bundled.model)
    assert 0 < errors[None] < 1.3 * min(errors.values()) < max(errors.values())


def _noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def test_the_learned_variance_passes_through_a_cached_clean_sample(families: Any, run_loop: Loop) -> None:
    family = families["pixart"]
    model = family.build()
    apply_ab_cache(model, ABCacheConfig(interval=2), scheduler=diffusers.DDPMScheduler())
    assert torch.isfinite(run_loop(family, model)).all()


def test_scheduler_units_do_not_matter(families: Any, run_loop: Loop) -> None:
    """Flux is given t / 1000, so sigma is the timestep itself."""
    family = families["flux"]
    model = family.build()
    cache = apply_ab_cache(model, scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    run_loop(family, model)
    assert cache._unit == 1000.0


def test_a_unet_is_cached_whole_and_output_classes_are_kept() -> None:
    bundled = load("unet-v")
    cache = apply_ab_cache(bundled.model, ABCacheConfig(interval=3))
    x, labels = _noise(0), torch.tensor([3])
    outputs = [bundled.model(x, t, class_labels=labels) for t in (900, 880, 860)]
    assert {type(output) for output in outputs} == {diffusers.models.unets.unet_2d.UNet2DOutput}
    assert [record.computed for record in cache.records] == [True, True, False]
    torch.testing.assert_close(outputs[2].sample, 2 * outputs[1].sample - outputs[0].sample, atol=1e-5, rtol=1e-5)


def test_what_the_pipeline_does_to_an_output_does_not_reach_the_cache(families: Any) -> None:
    family = families["dit"]
    model = family.build()
    apply_ab_cache(model, ABCacheConfig(interval=3, order=1))
    x = torch.randn(2, *family.sample, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = []
        for t in (900, 880, 860):
            output = model(x, torch.tensor(t).expand(2), return_dict=False, **family.prompt(0, 2))[0]
            outputs.append(output.clone())
            output.zero_()
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_diffusers_contexts_and_resets_reach_the_cache(families: Any, run_loop: Loop) -> None:
    family = families["wan"]
    model = family.build()
    cache = apply_ab_cache(model, ABCacheConfig(interval=2, order=1))
    x = torch.randn(1, *family.sample, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in (900, 800):
            for name in ("cond", "uncond"):
                with model.cache_context(name):  # the same conditioning in both
                    model(x, torch.tensor(t).expand(1), return_dict=False, **family.prompt(0, 1))
    assert [record.computed for record in cache.records] == [True, True, False, False]
    model._reset_stateful_cache()
    model(x, torch.tensor(700).expand(1), return_dict=False, **family.prompt(0, 1))
    assert [record.step for record in cache.records] == [0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"interval": 0}, ValueError, "`interval` must be an integer at least 1"),
        ({"interval": 2.0}, TypeError, "`interval`"),
        ({"order": 9}, ValueError, "`order`"),
        ({"warmup_steps": -1}, ValueError, "`warmup_steps`"),
        ({"threshold": 0.0}, ValueError, "`threshold` must be positive"),
        ({"threshold": float("nan")}, ValueError, "`threshold` must be positive"),
        ({"threshold": "0.1"}, TypeError, "`threshold` must be a positive number"),
        ({"threshold": 0.1, "compute_steps": [0, 3]}, ValueError, "exclude each other"),
        ({"compute_steps": [1, 2]}, ValueError, "must start with 0"),
        ({"compute_steps": []}, ValueError, "must start with 0"),
        ({"compute_steps": "012"}, TypeError, "`compute_steps` must be a list"),
        ({"compute_steps": [0, 1.5]}, TypeError, "integer"),
        ({"compute_steps": [0, 60], "num_inference_steps": 50}, ValueError, "below `num_base_steps`=50"),
        ({"end_steps": 2}, ValueError, "needs `num_inference_steps`"),
        ({"variable": "sigma"}, ValueError, "`variable`"),
        ({"quantity": "epsilon"}, ValueError, "`quantity`"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ABCacheConfig(**options)


def test_what_cannot_be_cached_is_refused_before_a_hook_is_placed(families: Any) -> None:
    model = families["dit"].build()
    with pytest.raises(TypeError, match="torch module"):
        apply_ab_cache("transformer")
    with pytest.raises(TypeError, match="must be an ABCacheConfig"):
        apply_ab_cache(model, {"interval": 3})
    with pytest.raises(ValueError, match="expected one of"):
        apply_ab_cache(torch.nn.Linear(2, 2))
    for quantity in ("sample", "signal"):
        with pytest.raises(ValueError, match="pass scheduler"):
            apply_ab_cache(model, ABCacheConfig(quantity=quantity))
    ancestral = diffusers.EulerAncestralDiscreteScheduler()
    with pytest.raises(ValueError, match="draws fresh noise"):
        apply_ab_cache(model, ABCacheConfig(quantity="model_output"), scheduler=ancestral)
    with pytest.raises(ValueError, match="tells no noise levels"):
        apply_ab_cache(model, scheduler=diffusers.EDMEulerScheduler())
    assert not any(hasattr(module, "_diffusers_hook") for module in model.modules())
    with pytest.raises(ValueError, match="carries no cache"):
        remove_cache(model)


def test_a_second_cache_over_the_first_is_refused(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    model = family.build()
    apply_ab_cache(model, ABCacheConfig(interval=2))
    before = run_loop(family, model)
    with pytest.raises(ValueError, match="remove_cache"):
        apply_ab_cache(model, ABCacheConfig(interval=3))
    assert torch.equal(run_loop(family, model), before)
    remove_cache(model)
    apply_taylorseer_cache(model, TaylorSeerCacheConfig(cache_identifiers=[r"transformer_blocks\.\d+\.ff"]))
    with pytest.raises(ValueError, match="another cache"):
        apply_ab_cache(model)


def test_samples_at_different_timesteps_are_refused(families: Any) -> None:
    family = families["dit"]
    model = family.build()
    apply_ab_cache(model)
    with pytest.raises(ValueError, match="one timestep"):
        model(torch.randn(2, *family.sample), torch.tensor([1, 2]), **family.prompt(0, 2))


def test_offloading_hooks_are_refused_at_both_ends(families: Any) -> None:
    """accelerate restores the forward it found, so its hooks must lie outside ours."""
    model = families["dit"].build()
    model.transformer_blocks[0]._hf_hook = object()
    with pytest.raises(ValueError, match="then enable offloading"):
        apply_ab_cache(model)
    del model.transformer_blocks[0]._hf_hook
    apply_ab_cache(model)
    model._hf_hook = object()
    with pytest.raises(ValueError, match="remove the cache"):
        remove_cache(model)


def test_a_compiled_model_is_cached_outside_the_compiled_code(families: Any, run_loop: Loop) -> None:
    """One graph serves all computed steps, and the result is that of the plain model."""
    family = families["dit"]
    model = family.build()
    apply_ab_cache(model, ABCacheConfig(interval=3))
    expected = run_loop(family, model)
    remove_cache(model)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    cache = apply_ab_cache(compiled, ABCacheConfig(interval=3))
    torch.testing.assert_close(run_loop(family, compiled), expected)
    assert len(graphs) == 1 and sum(record.computed for record in cache.records) == 4
    remove_cache(compiled)
    torch._dynamo.reset()


def test_compiling_in_place_is_refused(families: Any) -> None:
    model = families["dit"].build()
    model.compile(backend="eager")
    with pytest.raises(ValueError, match="pass the result"):
        apply_ab_cache(model)
    with pytest.raises(ValueError, match="use apply_ab_cache"):
        apply_eb_cache(model, EBCacheConfig(table=[0, 2]))


def test_both_caches_work_under_a_cached_scheduler() -> None:
    """The scheduler calls the model at its nodes, and the cache inside the model answers some of those calls."""
    bundled = load("dit-flow")
    scheduler = ABCacheScheduler.from_config(bundled.scheduler.config, cache_interval=2)

    def sampled() -> torch.Tensor:
        scheduler.set_timesteps(10, sigmas=torch.linspace(1, 0.1, 10).tolist())
        x = _noise(0)
        for t in scheduler.timesteps:
            x = scheduler.step(bundled.predict(x, t, torch.tensor([3])), t, x).prev_sample
        return x

    bare = sampled()
    cache = apply_ab_cache(bundled.model, ABCacheConfig(interval=2), scheduler=scheduler)
    assert 0 < float((sampled() - bare).square().mean().sqrt()) < 0.2
    assert sum(record.computed for record in cache.records) == 6
    remove_cache(bundled.model)
    apply_eb_cache(bundled.model, EBCacheConfig(table=EBTable.uniform(10, 2)))
    assert 0 < float((sampled() - bare).square().mean().sqrt()) < 0.2
