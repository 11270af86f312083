"""What diffusers demands of a scheduler: its common tests in our words, saving and loading, pipelines, dtypes."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UNet2DModel,
)
from diffusers.configuration_utils import ConfigMixin

import ab_schedulers
from ab_schedulers import (
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
    ABCacheScheduler,
)
from ab_schedulers.schedulers.sources import OWN, REFUSED, SERVED

# torch and diffusers themselves meet newer versions of NumPy with these.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

CLASSES: list[tuple[type, type]] = [
    (ABCacheDDIMScheduler, DDIMScheduler),
    (ABCacheDPMSolverMultistepScheduler, DPMSolverMultistepScheduler),
    (ABCacheFlowMatchEulerScheduler, FlowMatchEulerDiscreteScheduler),
]
ours = pytest.mark.parametrize("ours", [ours for ours, _ in CLASSES])
ours_and_stock = pytest.mark.parametrize(("ours", "stock"), CLASSES)
VARIED: list[tuple[type, dict[str, Any]]] = [
    (ABCacheDDIMScheduler, {}),
    (ABCacheDDIMScheduler, {"timestep_spacing": "trailing", "cache_interval": 2, "cache_order": 4}),
    (ABCacheDDIMScheduler, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "steps_offset": 1}),
    (ABCacheDDIMScheduler, {"cache_quantity": "velocity", "cache_corrector": 3, "num_base_steps": 77}),
    (ABCacheDPMSolverMultistepScheduler, {}),
    (ABCacheDPMSolverMultistepScheduler, {"use_karras_sigmas": True, "solver_order": 3, "cache_predictor": "hold"}),
    (ABCacheDPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", "beta_schedule": "scaled_linear"}),
    (
        ABCacheDPMSolverMultistepScheduler,
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "noise_scaling": {"value": 0.99}},
    ),
    (ABCacheFlowMatchEulerScheduler, {}),
    (ABCacheFlowMatchEulerScheduler, {"shift": 3.0, "cache_corrector": None, "warmup_calls": 2}),
    (ABCacheFlowMatchEulerScheduler, {"stochastic_sampling": True, "cache_quantity": "sample"}),
]
varied = pytest.mark.parametrize(("ours", "options"), VARIED)


def one_step(scheduler: Any, sample: torch.Tensor, place: int = 0, **kwargs: Any) -> Any:
    """A step as diffusers' common tests take it, the residual a tenth of the sample."""
    if "generator" in inspect.signature(scheduler.step).parameters:
        kwargs.setdefault("generator", torch.Generator().manual_seed(0))
    return scheduler.step(0.1 * sample, scheduler.timesteps[place], sample, **kwargs)


# -- the common tests -----------------------------------------------------------------------------------------------


@varied
def test_a_saved_and_loaded_scheduler_takes_the_same_step(ours: type, options: Any, tmp_path: Path, start: Any) -> None:
    scheduler = ours(**options)
    scheduler.save_config(tmp_path)
    loaded = ours.from_pretrained(tmp_path)
    results = []
    for each in (scheduler, loaded):
        each.set_timesteps(50)
        results.append(one_step(each, start()).prev_sample)
    assert torch.equal(*results)


@varied
def test_the_config_survives_saving_but_for_the_record_of_defaults(ours: type, options: Any, tmp_path: Path) -> None:
    scheduler = ours(**options)
    scheduler.save_pretrained(tmp_path)
    loaded = ours.from_pretrained(tmp_path)
    configs = [{k: v for k, v in each.config.items() if k[0] != "_"} for each in (scheduler, loaded)]
    assert json.dumps(configs[0], sort_keys=True) == json.dumps(configs[1], sort_keys=True)


@ours_and_stock
def test_every_compatible_class_is_built_from_our_config_and_carries_it_back(ours: type, stock: type) -> None:
    assert ours._compatibles == stock._compatibles
    scheduler = ours(num_train_timesteps=900, cache_interval=4, cache_order=3)
    for compatible in [*scheduler.compatibles, stock]:
        if hasattr(compatible, "_backends") or compatible.__name__ == "DPMSolverSDEScheduler":
            continue
        other = compatible.from_config(scheduler.config)
        assert other.config.num_train_timesteps == 900
        if compatible.__name__ in REFUSED:
            continue
        again = ABCacheScheduler.from_config(other.config)
        assert (again.config.num_train_timesteps, again.config.cache_interval, again.config.cache_order) == (900, 4, 3)
        if compatible is stock:
            configs = [{k: v for k, v in each.config.items() if k[0] != "_"} for each in (scheduler, again)]
            assert configs[0] == configs[1]


@ours
def test_two_steps_keep_the_shape(ours: type, start: Any) -> None:
    scheduler = ours()
    scheduler.set_timesteps(50)
    first = one_step(scheduler, start()).prev_sample
    second = one_step(scheduler, first, 1).prev_sample
    assert first.shape == second.shape == start().shape


@varied
def test_the_tuple_holds_what_the_output_object_holds_after_a_second_set_timesteps(
    ours: type, options: Any, start: Any
) -> None:
    scheduler = ours(**options)
    scheduler.set_timesteps(20)
    dictionary = one_step(scheduler, start())
    one_step(scheduler, start(), 1)
    scheduler.set_timesteps(20)
    row = one_step(scheduler, start(), return_dict=False)
    assert isinstance(row, tuple)
    assert len(row) == len(dictionary.to_tuple())
    assert all(torch.equal(a, b) for a, b in zip(row, dictionary.to_tuple(), strict=True))


@ours
def test_the_members_that_pipelines_read_are_there(ours: type, start: Any) -> None:
    scheduler = ours()
    assert scheduler.order == 1
    assert len(scheduler) == 1000
    assert callable(scheduler.step)
    assert scheduler.step_index is None and scheduler.begin_index is None
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(0)
    assert scheduler.begin_index == 0
    one_step(scheduler, start())
    assert scheduler.step_index == 1
    if ours is not ABCacheFlowMatchEulerScheduler:
        assert scheduler.init_noise_sigma == 1.0
        sample = start()
        assert scheduler.scale_model_input(sample, 0.0) is sample


@ours
def test_noise_is_added_at_call_nodes(ours: type, start: Any) -> None:
    scheduler = ours()
    scheduler.set_timesteps(50)
    timestep = scheduler.timesteps[5][None]
    sample, noise = start(seed=1)[:1], start(seed=2)[:1]
    if ours is ABCacheFlowMatchEulerScheduler:
        sigma = float(scheduler.sigmas[5])
        expected, noisy = (1 - sigma) * sample + sigma * noise, scheduler.scale_noise(sample, timestep, noise)
    else:
        alpha = float(scheduler.alphas_cumprod[timestep])
        expected, noisy = alpha**0.5 * sample + (1 - alpha) ** 0.5 * noise, scheduler.add_noise(sample, noise, timestep)
    assert torch.allclose(noisy, expected, rtol=0, atol=1e-6)


@ours_and_stock
def test_every_parameter_of_stock_is_restated_with_its_default_and_none_is_swallowed(ours: type, stock: type) -> None:
    mine, theirs = (inspect.signature(c.__init__).parameters for c in (ours, stock))
    assert not any(p.kind is p.VAR_KEYWORD for p in mine.values())
    assert {name: theirs[name].default for name in theirs} == {name: mine[name].default for name in theirs}
    for method in ("step", "set_timesteps"):
        mine, theirs = (inspect.signature(getattr(c, method)).parameters for c in (ours, stock))
        assert list(mine) == list(theirs)
        assert [p.default for p in mine.values()] == [p.default for p in theirs.values()]


@pytest.mark.parametrize("ours", [ABCacheDDIMScheduler, ABCacheDPMSolverMultistepScheduler])
def test_trained_betas_are_taken_as_an_array_and_saved(ours: type, tmp_path: Path) -> None:
    scheduler = ours(trained_betas=np.array([0.1, 0.3]))
    assert torch.allclose(scheduler.betas, torch.tensor([0.1, 0.3]))
    scheduler.save_pretrained(tmp_path)
    assert torch.equal(ours.from_pretrained(tmp_path).betas, scheduler.betas)


@ours
def test_config_values_are_read_through_config(ours: type) -> None:
    scheduler = ours(cache_interval=4)
    with pytest.warns(FutureWarning, match="cache_interval"):
        assert scheduler.cache_interval == 4
    with pytest.raises(AttributeError, match=f"'{ours.__name__}' object has no attribute 'nothing'"):
        _ = scheduler.nothing


# -- classes --------------------------------------------------------------------------------------------------------


@ours_and_stock
def test_each_class_is_ours_and_stocks_and_lives_in_the_package_itself(ours: type, stock: type) -> None:
    assert issubclass(ours, ABCacheScheduler) and issubclass(ours, stock)
    assert issubclass(ours, SchedulerMixin) and issubclass(ours, ConfigMixin)
    assert ours.__module__ == "ab_schedulers"
    assert getattr(ab_schedulers, ours.__name__) is ours
    assert ABCacheScheduler.__module__ == "ab_schedulers"


def test_the_abstract_base_is_not_built() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ABCacheScheduler()


@ours_and_stock
def test_from_config_picks_the_class_and_keeps_every_value(ours: type, stock: type) -> None:
    config = stock(num_train_timesteps=800).config
    picked = ABCacheScheduler.from_config(config, cache_interval=5)
    assert type(picked) is ours
    assert picked.config.num_train_timesteps == 800 and picked.config.cache_interval == 5
    assert type(ours.from_config(config)) is ours
    assert {key: picked.config[key] for key in config if key[0] != "_"} == {
        key: value for key, value in config.items() if key[0] != "_"
    }


@ours_and_stock
def test_a_class_refuses_the_config_of_another_and_names_the_way(ours: type, stock: type) -> None:
    for other, _ in CLASSES:
        if other is not ours:
            with pytest.raises(ValueError, match=r"ABCacheScheduler.from_config") as caught:
                other.from_config(stock().config)
            assert other.__name__ in str(caught.value) and ours.__name__ in str(caught.value)


@ours_and_stock
def test_an_unknown_override_is_a_type_error_unless_asked_back(ours: type, stock: type) -> None:
    with pytest.raises(TypeError, match="cache_ordre"):
        ABCacheScheduler.from_config(stock().config, cache_ordre=2)
    scheduler, unused = ABCacheScheduler.from_config(stock().config, return_unused_kwargs=True, cache_ordre=2)
    assert type(scheduler) is ours and unused == {"cache_ordre": 2}


STOCK = [
    name
    for name in SERVED
    if name not in OWN and not hasattr(getattr(diffusers, name), "_backends") and name != "DPMSolverSDEScheduler"
]
DIFFERENT = {"num_train_timesteps": 900, "beta_end": 0.015, "prediction_type": "v_prediction", "shift": 2.5}


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("changed", [False, True])
def test_switching_to_ours_and_back_restores_the_original(name: str, changed: bool) -> None:
    stock = getattr(diffusers, name)
    known = inspect.signature(stock.__init__).parameters
    original = stock(**{k: v for k, v in DIFFERENT.items() if k in known} if changed else {})
    cached = ABCacheScheduler.from_config(original.config, cache_interval=4)
    back = stock.from_config(cached.config)
    assert type(back) is stock
    unread = ["clip_sample"] if name.startswith("CogVideoX") else []  # these two classes have the key alone
    for key in known:
        if key not in ("self", "kwargs", *unread):
            assert back.config[key] == original.config[key], key
    again = ABCacheScheduler.from_config(back.config)
    assert type(again) is type(cached)
    kept = {k: v for k, v in cached.config.items() if k[0] != "_"}
    assert {k: again.config.get(k) for k in kept} == kept


# -- runs and copies ------------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda scheduler: pickle.loads(pickle.dumps(scheduler)),
}


@varied
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_taken_in_mid_run_goes_on_by_itself(
    ours: type, options: Any, how: str, denoiser: Any, start: Any
) -> None:
    scheduler = ours(**options)
    scheduler.set_timesteps(10)
    sample = start()
    for timestep in scheduler.timesteps[:5]:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    twin = COPIES[how](scheduler)
    ends = []
    for each in (scheduler, twin):
        end, generator = sample, torch.Generator().manual_seed(1)
        for timestep in each.timesteps[5:]:
            end = each.step(denoiser(end, timestep), timestep, end, generator=generator).prev_sample
        ends.append(end)
        assert len(each.error_estimates) == 10
    assert torch.equal(*ends)
    assert twin.config == scheduler.config
    assert twin.describe() == scheduler.describe()


@varied
def test_two_runs_are_bit_equal_on_one_scheduler_and_on_two(
    ours: type, options: Any, run: Any, denoiser: Any, start: Any
) -> None:
    scheduler, other = ours(**options), ours(**options)
    ends = []
    for each in (scheduler, scheduler, other):
        each.set_timesteps(10)
        ends.append(run(each, denoiser, start(), seed=3)[-1])
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


@varied
def test_set_timesteps_resets_everything(ours: type, options: Any, run: Any, denoiser: Any, start: Any) -> None:
    fresh, used = ours(**options), ours(**options)
    used.set_timesteps(7)
    used.set_begin_index(2)
    step = {"eta": 1.0} if ours is ABCacheDDIMScheduler and options.get("cache_quantity") is None else {}
    for timestep in used.timesteps[2:5]:
        used.step(denoiser(start(shape=(1, 2, 3, 5)), timestep), timestep, start(shape=(1, 2, 3, 5)), **step)
    for scheduler in (fresh, used):
        scheduler.set_timesteps(10)
        assert scheduler.step_index is None and scheduler.begin_index is None
        assert scheduler.history == () and scheduler.error_estimates == ()
    assert used.describe() == fresh.describe()
    assert torch.equal(*(run(each, denoiser, start(), seed=3)[-1] for each in (fresh, used)))


# -- dtypes and memory formats --------------------------------------------------------------------------------------


@varied
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float16, 4e-3), (torch.bfloat16, 3e-2), (torch.float32, 2e-6), (torch.float64, 0.0)]
)
def test_a_run_keeps_the_dtype_and_rounds_once_per_call(
    ours: type, options: Any, dtype: torch.dtype, bound: float, run: Any, denoiser: Any, start: Any, difference: Any
) -> None:
    scheduler = ours(**{**options, "clip_sample": False} if ours is ABCacheDDIMScheduler else options)
    scheduler.set_timesteps(10)
    sample = start(dtype)
    shared = [start(seed=seed).to(dtype) for seed in range(10)]  # the model's answers, so that no error feeds back
    results = []
    for kind in (dtype, torch.float64):
        scheduler.set_timesteps(10)
        answers = iter(shared)
        results.append(run(scheduler, lambda x, t, a=answers: next(a).to(x.dtype), sample.to(kind), seed=1))
    assert all(x.dtype == dtype for x in results[0])
    if "stochastic_sampling" in options or "sde" in str(options):
        assert results[0][-1].isfinite().all()
    assert difference([x.double() for x in results[0]], results[1]) <= bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@ours
def test_one_combination_in_half_precision_is_the_rounded_exact_one(ours: type, dtype: torch.dtype, start: Any) -> None:
    clip = {"clip_sample": False} if ours is ABCacheDDIMScheduler else {}
    scheduler, exact = ours(**clip), ours(**clip)
    for each in (scheduler, exact):
        each.set_timesteps(8)
    for place in range(4):  # the same inputs at every call: what differs is one rounding of the result
        sample, output = start(dtype, seed=place), start(dtype, seed=10 + place)
        rounded = scheduler.step(output, scheduler.timesteps[place], sample).prev_sample
        truth = exact.step(output.double(), exact.timesteps[place], sample.double()).prev_sample
        assert rounded.dtype == dtype
        error = (rounded.double() - truth).abs()
        assert (error <= torch.finfo(dtype).eps * truth.abs() + 1e-5 * truth.abs().max()).all()


@ours
@pytest.mark.parametrize(
    "shape", [(3,), (2, 5), (2, 7, 4), (1, 3, 4, 4), (1, 2, 3, 4, 5)], ids=["1d", "2d", "3d", "4d", "5d"]
)
def test_samples_of_every_rank_run(ours: type, shape: Any, run: Any, denoiser: Any, start: Any) -> None:
    scheduler = ours()
    scheduler.set_timesteps(6)
    assert run(scheduler, denoiser, start(shape=shape))[-1].shape == shape
    assert len([e for e in scheduler.error_estimates if e is not None]) >= 4


@ours
def test_memory_formats_do_not_matter(ours: type, run: Any, denoiser: Any, start: Any) -> None:
    scheduler = ours()
    ends = []
    for form in (
        lambda x: x,
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.stack([x, x], dim=-1)[..., 0],
    ):
        scheduler.set_timesteps(8)
        ends.append(run(scheduler, lambda x, t, f=form: f(denoiser(x, t)), form(start()))[-1])
    assert all(torch.allclose(end, ends[0], rtol=1e-13, atol=1e-13) for end in ends[1:])


@ours
@pytest.mark.parametrize("quantity", [None, "model_output", "sample", "velocity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_changed_in_place_after_a_step_do_not_reach_the_history(
    ours: type, quantity: str | None, dtype: torch.dtype, run: Any, denoiser: Any, start: Any
) -> None:
    options = {} if ours is ABCacheFlowMatchEulerScheduler else {"prediction_type": "v_prediction"}
    if ours is ABCacheDDIMScheduler:
        options["clip_sample"] = False  # then the clean sample that the step returns is the one that is cached
    scheduler = ours(cache_quantity=quantity, **options)
    scheduler.set_timesteps(8)
    expected = run(scheduler, denoiser, start(dtype))[-1]
    scheduler.set_timesteps(8)
    sample = start(dtype)
    for timestep in scheduler.timesteps:
        output, given = denoiser(sample, timestep), sample.clone()
        step = scheduler.step(output, timestep, given)
        sample = step.prev_sample.clone()
        for tensor in (output, given, *(x for x in step.to_tuple() if x is not None)):
            tensor.fill_(float("nan"))
    assert torch.equal(sample, expected)


@ours
def test_no_graph_is_kept_under_no_grad_and_gradients_flow_without(ours: type, denoiser: Any, start: Any) -> None:
    scheduler = ours()
    scheduler.set_timesteps(4)
    sample = start().requires_grad_()
    with torch.no_grad():
        assert not scheduler.step(denoiser(sample, 9.0), scheduler.timesteps[0], sample).prev_sample.requires_grad
    scheduler.set_timesteps(4)
    x = sample
    for timestep in scheduler.timesteps:
        x = scheduler.step(0.1 * x, timestep, x).prev_sample
    (gradient,) = torch.autograd.grad(x.sum(), sample)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


# -- pipelines ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_unet() -> Any:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )


# DDPMPipeline keeps the scheduler it is given; DDIMPipeline turns any into a stock DDIMScheduler when it is built.
def sampled(pipe: Any, calls: int = 6) -> Any:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(generator=generator, num_inference_steps=calls, output_type="np").images


def test_a_pipeline_saves_our_scheduler_and_loads_it(tiny_unet: Any, tmp_path: Path) -> None:
    # DDPMPipeline would turn the loaded scheduler into its own class; this one keeps what it is given
    pipe = DDPMPipeline(unet=tiny_unet, scheduler=DDIMScheduler(timestep_spacing="trailing"))
    pipe.scheduler = ABCacheScheduler.from_config(pipe.scheduler.config, cache_interval=4)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["ab_schedulers", "ABCacheDDIMScheduler"]
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is ABCacheDDIMScheduler and loaded.scheduler.config.cache_interval == 4
    np.testing.assert_allclose(sampled(loaded), sampled(pipe), rtol=0, atol=1e-5)


def test_a_pipeline_calls_the_model_as_often_as_asked(tiny_unet: Any) -> None:
    counts = []
    handle = tiny_unet.register_forward_hook(lambda *_: counts.append(1))
    for stock in (DDIMScheduler(timestep_spacing="trailing"), DDIMScheduler()):
        pipe = DDPMPipeline(unet=tiny_unet, scheduler=stock)
        pipe.scheduler = ABCacheScheduler.from_config(stock.config)
        counts.clear()
        assert np.isfinite(sampled(pipe, 7)).all()
        assert len(counts) == 7
    handle.remove()


IN_A_NEW_PROCESS = """
import sys, torch, ab_schedulers
from diffusers import DiffusionPipeline
from ab_schedulers import ABCacheScheduler
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
assert type(pipe.scheduler).__name__ == "ABCacheDDIMScheduler", type(pipe.scheduler)
assert pipe.scheduler.config.cache_interval == 4
again = type(pipe.scheduler).from_pretrained(sys.argv[1], subfolder="scheduler")
assert again.config.compute_steps == [0, 1, 4, 9] and again.config.calibrations is None
pipe.set_progress_bar_config(disable=True)
images = pipe(generator=torch.Generator().manual_seed(0), num_inference_steps=4, output_type="np").images
print(repr(float(images.astype("float64").sum())))
"""


@pytest.mark.slow
def test_a_saved_pipeline_loads_in_a_new_process_that_imports_the_package(tiny_unet: Any, tmp_path: Path) -> None:
    pipe = DDPMPipeline(unet=tiny_unet, scheduler=DDIMScheduler(timestep_spacing="trailing"))
    options = {"cache_interval": 4, "num_base_steps": 12, "compute_steps": [0, 1, 4, 9]}
    pipe.scheduler = ABCacheScheduler.from_config(pipe.scheduler.config, **options)
    pipe.save_pretrained(tmp_path)
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    expected = float(sampled(pipe, 4).astype("float64").sum())
    assert float(finished.stdout.strip().splitlines()[-1]) == pytest.approx(expected, rel=1e-6)


def start_of(scheduler: Any, calls: int, strength: float) -> tuple[torch.Tensor, int]:
    """Where the image-to-image pipelines of diffusers start (`get_timesteps`)."""
    begin = max(calls - min(int(calls * strength), calls), 0)
    timesteps = scheduler.timesteps[begin * scheduler.order :]
    scheduler.set_begin_index(begin * scheduler.order)
    return timesteps, calls - begin


@ours_and_stock
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("calls", [10, 17])
def test_image_to_image_makes_the_calls_that_strength_asks_for_from_the_level_it_asks_for(
    ours: type, stock: type, strength: float, calls: int, slow_walk: Any, denoiser: Any, start: Any
) -> None:
    scheduler, base = ours(), stock()
    scheduler.set_timesteps(calls)
    base.set_timesteps(scheduler.plan.num_base_steps)
    image, noise = start(seed=1), start(seed=2)
    timesteps, count = start_of(scheduler, calls, strength)
    latent = timesteps[:1].repeat(len(image))
    flow = ours is ABCacheFlowMatchEulerScheduler
    noisy = scheduler.scale_noise(image, latent, noise) if flow else scheduler.add_noise(image, noise, latent)
    sample, made = noisy, 0
    for timestep in timesteps:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
        made += 1
    assert made == count == len(scheduler.rows) == int(calls * strength)
    assert abs(float(timesteps[0]) / 1000 - strength) <= 1.5 / calls
    if not flow:  # the level of the image and of the first row are one
        alpha = float(scheduler.alphas_cumprod[timesteps[0]])
        assert torch.allclose(noisy, alpha**0.5 * image + (1 - alpha) ** 0.5 * noise, rtol=0, atol=1e-6)
    walked = slow_walk(scheduler=scheduler, stock=base)(denoiser, noisy, begin=calls - count)
    assert (sample - walked[-1]).abs().max() <= 1e-10 * walked[-1].abs().max()


@ours
def test_a_known_region_is_put_back_between_the_steps_at_the_level_of_the_next_call(
    ours: type, denoiser: Any, start: Any
) -> None:
    """Inpainting: noise added between two steps has the level of the call that comes."""
    scheduler = ours()
    scheduler.set_timesteps(10)
    image, noise, sample = start(seed=1), start(seed=2), start(seed=3)
    timesteps, _ = start_of(scheduler, 10, 0.8)
    for place, timestep in enumerate(timesteps[:-1]):
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
        following = timesteps[place + 1][None]
        if ours is ABCacheFlowMatchEulerScheduler:
            sigma = float(scheduler.sigmas[3 + place])
            known, expected = scheduler.scale_noise(image, following, noise), (1 - sigma) * image + sigma * noise
        else:
            alpha = float(scheduler.alphas_cumprod[int(following)])
            known = scheduler.add_noise(image, noise, following)
            expected = alpha**0.5 * image + (1 - alpha) ** 0.5 * noise
        assert torch.allclose(known, expected, rtol=0, atol=1e-6)
        sample[..., :2] = known[..., :2]
    assert scheduler.step(denoiser(sample, 1.0), timesteps[-1], sample).prev_sample.isfinite().all()
