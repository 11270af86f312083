"""Bad input raises before any work, says what to do, and leaves the scheduler as it was."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ab_schedulers import (
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
    ABCacheScheduler,
)

BUILD: dict[str, Callable[..., Any]] = {
    "ddim": lambda **o: ABCacheDDIMScheduler(**{"timestep_spacing": "trailing", "clip_sample": False, **o}),
    "ddim clipped": lambda **o: ABCacheDDIMScheduler(**{"timestep_spacing": "trailing", **o}),
    "dpmsolver": lambda **o: ABCacheDPMSolverMultistepScheduler(**o),
    "dpmsolver thresholded": lambda **o: ABCacheDPMSolverMultistepScheduler(**{"thresholding": True, **o}),
    "dpmsolver sde": lambda **o: ABCacheDPMSolverMultistepScheduler(**{"algorithm_type": "sde-dpmsolver++", **o}),
    "flow": lambda **o: ABCacheFlowMatchEulerScheduler(**{"shift": 2.0, **o}),
}
CLASSES = ["ddim", "dpmsolver", "flow"]
every_class = pytest.mark.parametrize("name", CLASSES)
every_kind = pytest.mark.parametrize("name", BUILD)


def check_message(error: BaseException, argument: str, received: object) -> None:
    """The message names the argument and what was received, what is expected, and ends with what to do."""
    message = str(error)
    assert argument in message
    assert str(received) in message
    assert re.search(
        r"must|expect|need|belong|hold|lie|rise|start|not supported|cannot|either|singular|infinite|of 8|no grid",
        message,
    )
    assert re.search(
        r"(pass|set|use|choose|call|drop|lower|raise|correct|sort|put|check|keep|change|calibrate|leave|loop)\b",
        message,
        re.IGNORECASE,
    )


@pytest.fixture
def ready() -> Callable[..., Any]:
    """A scheduler of a kind with a grid of eight calls."""

    def build(name: str, **options: Any) -> Any:
        scheduler = BUILD[name](**options)
        scheduler.set_timesteps(8)
        return scheduler

    return build


# -- options --------------------------------------------------------------------------------------------------------

BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str, object]] = [
    ({"cache_order": 0}, ValueError, "`cache_order`", 0),
    ({"cache_order": -1}, ValueError, "`cache_order`", -1),
    ({"cache_order": 9}, ValueError, "`cache_order`", 9),
    ({"cache_order": 2.0}, TypeError, "`cache_order`", 2.0),
    ({"cache_order": True}, TypeError, "`cache_order`", True),
    ({"cache_order": None}, TypeError, "`cache_order`", None),
    ({"cache_interval": 0}, ValueError, "`cache_interval`", 0),
    ({"cache_interval": -3}, ValueError, "`cache_interval`", -3),
    ({"cache_interval": 1.5}, TypeError, "`cache_interval`", 1.5),
    ({"cache_interval": "3"}, TypeError, "`cache_interval`", "'3'"),
    ({"cache_corrector": 0}, ValueError, "`cache_corrector`", 0),
    ({"cache_corrector": 9}, ValueError, "`cache_corrector`", 9),
    ({"warmup_calls": -1}, ValueError, "`warmup_calls`", -1),
    ({"warmup_calls": None}, TypeError, "`warmup_calls`", None),
    ({"num_base_steps": 0}, ValueError, "`num_base_steps`", 0),
    ({"num_base_steps": 20.0}, TypeError, "`num_base_steps`", 20.0),
    ({"cache_predictor": "taylor"}, ValueError, "`cache_predictor`", "'taylor'"),
    ({"cache_variable": "sigma"}, ValueError, "`cache_variable`", "'sigma'"),
    ({"cache_variable": None}, ValueError, "`cache_variable`", None),
    ({"cache_quantity": "x0"}, ValueError, "`cache_quantity`", "'x0'"),
    ({"compute_steps": [0, 4, 2], "num_base_steps": 9}, ValueError, "`compute_steps`", [0, 4, 2]),
    ({"compute_steps": [0, 2, 2], "num_base_steps": 9}, ValueError, "`compute_steps`", [0, 2, 2]),
    ({"compute_steps": [0, 2, 9], "num_base_steps": 9}, ValueError, "`compute_steps`", 9),
    ({"compute_steps": [0, -2], "num_base_steps": 9}, ValueError, "`compute_steps", -2),
    ({"compute_steps": [1, 2], "num_base_steps": 9}, ValueError, "`compute_steps`", [1, 2]),
    ({"compute_steps": [], "num_base_steps": 9}, ValueError, "`compute_steps`", []),
    ({"compute_steps": [0, 1.5], "num_base_steps": 9}, TypeError, "`compute_steps", 1.5),
    ({"compute_steps": 3, "num_base_steps": 9}, TypeError, "`compute_steps`", 3),
    ({"compute_steps": "012", "num_base_steps": 9}, TypeError, "`compute_steps`", "012"),
    ({"compute_steps": [0, 3]}, ValueError, "`num_base_steps`", None),
]
BAD_SCALINGS: list[tuple[Any, type[Exception], object]] = [
    (0.9, TypeError, 0.9),
    ([0.9], TypeError, [0.9]),
    ({}, ValueError, []),
    ({"b": 1.0}, ValueError, "b"),
    ({"value": 0}, ValueError, 0),
    ({"value": float("nan")}, ValueError, "nan"),
    ({"value": "high"}, ValueError, "'high'"),
    ({"value": True}, ValueError, True),
    ({"high": 0.9, "low": 0.8}, ValueError, "high"),
    ({"high": 0.9, "low": 0.8, "threshold": 1.0}, ValueError, 1.0),
    ({"high": 0.9, "low": -0.8, "threshold": 0.4}, ValueError, -0.8),
    ({"t": [0.0, 1.0], "values": [0.9]}, ValueError, "values"),
    ({"t": [], "values": []}, ValueError, "values"),
    ({"t": 0.5, "values": [0.9]}, ValueError, "values"),
    ({"t": [0.5, 0.2], "values": [0.9, 1.0]}, ValueError, [0.5, 0.2]),
    ({"t": [0.2, 0.2], "values": [0.9, 1.0]}, ValueError, [0.2, 0.2]),
    ({"t": [0.2, 1.2], "values": [0.9, 1.0]}, ValueError, [0.2, 1.2]),
    ({"t": ["a", "b"], "values": [0.9, 1.0]}, ValueError, "a"),
    ({"t": [0.2, float("nan")], "values": [0.9, 1.0]}, ValueError, "nan"),
]


@every_class
@pytest.mark.parametrize(("options", "error", "argument", "received"), BAD_OPTIONS, ids=lambda v: str(v)[:40])
def test_an_impossible_option_is_refused_at_construction(
    name: str, options: Any, error: type[Exception], argument: str, received: object
) -> None:
    with pytest.raises(error) as caught:
        BUILD[name](**options)
    check_message(caught.value, argument, received)
    with pytest.raises(error):
        ABCacheScheduler.from_config(BUILD[name]().config, **options)


@every_class
@pytest.mark.parametrize(("scaling", "error", "received"), BAD_SCALINGS, ids=lambda v: str(v)[:40])
def test_a_malformed_noise_scaling_is_refused_at_construction(
    name: str, scaling: Any, error: type[Exception], received: object
) -> None:
    with pytest.raises(error) as caught:
        BUILD[name](noise_scaling=scaling)
    check_message(caught.value, "`noise_scaling", received)


@every_class
def test_an_option_spoilt_after_construction_is_refused_by_set_timesteps(name: str) -> None:
    scheduler = BUILD[name]()
    scheduler.register_to_config(cache_order=0)
    with pytest.raises(ValueError, match="`cache_order`"):
        scheduler.set_timesteps(8)


@pytest.mark.parametrize(
    ("name", "options", "argument", "received"),
    [
        ("ddim", {"prediction_type": "noise"}, "prediction_type", "noise"),
        ("ddim", {"prediction_type": "flow_prediction"}, "prediction_type", "flow_prediction"),
        ("ddim", {"timestep_spacing": "even"}, "timestep_spacing", "even"),
        ("dpmsolver", {"prediction_type": "noise"}, "prediction_type", "noise"),
        ("dpmsolver", {"prediction_type": "flow_prediction"}, "prediction_type", "flow_prediction"),
        ("dpmsolver", {"prediction_type": "v_prediction", "use_flow_sigmas": True}, "prediction_type", "v_prediction"),
        ("dpmsolver", {"timestep_spacing": "even"}, "timestep_spacing", "even"),
        ("dpmsolver", {"final_sigmas_type": "one"}, "final_sigmas_type", "one"),
        ("dpmsolver", {"solver_order": 4}, "solver_order", 4),
        ("dpmsolver", {"solver_order": 0}, "solver_order", 0),
        ("dpmsolver", {"algorithm_type": "sde-dpmsolver++", "solver_order": 5}, "solver_order", 5),
        ("flow", {"invert_sigmas": True}, "invert_sigmas", True),
        ("flow", {"time_shift_type": "cubic"}, "time_shift_type", "cubic"),
        ("dpmsolver", {"time_shift_type": "cubic"}, "time_shift_type", "cubic"),
        ("dpmsolver", {"algorithm_type": "unipc"}, "algorithm_type", "unipc"),
        ("dpmsolver", {"solver_type": "euler"}, "solver_type", "euler"),
        ("dpmsolver", {"beta_schedule": "cosine"}, "beta_schedule", "cosine"),
        ("ddim", {"beta_schedule": "cosine"}, "beta_schedule", "cosine"),
        ("ddim", {"num_train_timesteps": 0}, "num_train_timesteps", 0),
        ("ddim", {"snr_shift_scale": 0.0}, "snr_shift_scale", 0.0),
        ("ddim", {"snr_shift_scale": -2.0}, "snr_shift_scale", -2.0),
        ("ddim", {"steps_offset": 100, "timestep_spacing": "leading"}, "steps_offset", 1043),
        ("ddim", {"trained_betas": [0.1] * 900}, "trained_betas", 899),
        ("flow", {"num_train_timesteps": -5}, "num_train_timesteps", -5),
        *(("flow", {"shift": shift}, "shift", shift) for shift in (0, -1.0, float("nan"), float("inf"), None, "3")),
        *(("dpmsolver", {"flow_shift": shift}, "flow_shift", shift) for shift in (0, -1.0, float("nan"), None)),
        *(("flow", {"shift_terminal": end}, "shift_terminal", end) for end in (1.0, -0.1, float("nan"))),
    ],
)
def test_an_unknown_value_of_a_stock_option_is_refused_before_the_first_step(
    name: str, options: Any, argument: str, received: object
) -> None:
    with pytest.raises(ValueError, match=argument) as caught:
        BUILD[name](**options).set_timesteps(8)
    check_message(caught.value, argument, received)


# -- set_timesteps --------------------------------------------------------------------------------------------------

BAD_COUNTS = [0, -1, 2.5, "8", True, [8]]


@every_class
@pytest.mark.parametrize("count", BAD_COUNTS, ids=repr)
def test_an_impossible_number_of_calls_is_refused(name: str, count: Any, ready: Any) -> None:
    scheduler = ready(name)
    with pytest.raises((ValueError, TypeError)) as caught:
        scheduler.set_timesteps(count)
    check_message(caught.value, "`num_inference_steps`", repr(count))


@every_class
def test_no_number_of_calls_at_all_is_refused(name: str) -> None:
    with pytest.raises((ValueError, TypeError), match="num_inference_steps"):
        BUILD[name]().set_timesteps(None)


@every_class
@pytest.mark.parametrize(
    ("options", "argument", "received"),
    [
        ({"compute_steps": [0, 1, 5], "num_base_steps": 9}, "`compute_steps`", 3),
        ({"num_base_steps": 7}, "`num_base_steps`", 7),
        ({"warmup_calls": 9}, "`warmup_calls`", 9),
        ({"warmup_calls": 8, "num_base_steps": 10}, "`num_base_steps`", 10),
    ],
    ids=str,
)
def test_calls_that_disagree_with_the_plan_are_refused(name: str, options: Any, argument: str, received: int) -> None:
    with pytest.raises(ValueError, match=argument) as caught:
        BUILD[name](**options).set_timesteps(8)
    check_message(caught.value, argument, received)


@pytest.mark.parametrize("name", ["ddim", "dpmsolver"])
@pytest.mark.parametrize("calls", [200, 180])
def test_a_leading_grid_that_misses_the_noisy_end_is_refused_and_the_remedy_named_works(name: str, calls: int) -> None:
    scheduler = BUILD[name](timestep_spacing="leading")
    with pytest.raises(ValueError, match="`num_base_steps`") as caught:
        scheduler.set_timesteps(calls)
    check_message(caught.value, "leading", calls * 3)
    remedy = re.search(r"`num_base_steps` to (\d+)", str(caught.value))
    assert remedy is not None
    cured = BUILD[name](timestep_spacing="leading", num_base_steps=int(remedy.group(1)))
    cured.set_timesteps(calls)
    assert cured.timesteps[0] > 800


@pytest.mark.parametrize("name", ["ddim", "dpmsolver"])
def test_more_base_steps_than_training_steps_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"400 model calls .* 1200 base steps") as caught:
        BUILD[name]().set_timesteps(400)
    check_message(caught.value, "`num_inference_steps`", 1000)


@pytest.mark.parametrize(
    ("name", "arguments", "argument"),
    [
        ("dpmsolver", {"timesteps": [100, 500, 900]}, "timesteps"),
        ("dpmsolver", {"timesteps": [900, 900, 100]}, "timesteps"),
        ("dpmsolver", {"timesteps": []}, "timesteps"),
        ("dpmsolver", {"timesteps": [900, 100], "num_inference_steps": 2}, "timesteps"),
        ("dpmsolver", {}, "timesteps"),
        *(("dpmsolver", {"timesteps": bad}, "timesteps") for bad in ([1000, 5], [9, -1], [9.5, 1], "987", 500, [None])),
        ("dpmsolver", {"timesteps": [900, float("nan"), 1]}, "timesteps"),
        ("flow", {"sigmas": [0.1, 0.5, 0.9]}, "sigmas"),
        ("flow", {"sigmas": [0.9, 0.9, 0.1]}, "sigmas"),
        ("flow", {"sigmas": []}, "sigmas"),
        ("flow", {"sigmas": [0.9, 0.4], "num_inference_steps": 3}, "sigmas"),
        ("flow", {"sigmas": [0.9, 0.4], "timesteps": [900.0]}, "timesteps"),
        ("flow", {"timesteps": [100.0, 900.0]}, "timesteps"),
        *(("flow", {"sigmas": bad}, "sigmas") for bad in ([1.2, 0.5], [0.5, -0.1], "abc", 0.5, [None], [[0.9, 0.4]])),
        ("flow", {"sigmas": [0.9, float("nan"), 0.1]}, "sigmas"),
        ("flow", {"sigmas": [float("inf"), 0.5]}, "sigmas"),
        ("flow", {}, "num_inference_steps"),
    ],
    ids=str,
)
def test_call_nodes_that_make_no_grid_are_refused_and_leave_the_previous_grid(
    name: str, arguments: Any, argument: str, ready: Any
) -> None:
    scheduler = ready(name)
    before = scheduler.timesteps.clone()
    with pytest.raises(ValueError, match=argument):
        scheduler.set_timesteps(**arguments)
    assert torch.equal(scheduler.timesteps, before)


def test_dynamic_shifting_without_mu_is_refused() -> None:
    with pytest.raises(ValueError, match="mu"):
        BUILD["flow"](use_dynamic_shifting=True).set_timesteps(8)


FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": True}


@pytest.mark.parametrize(
    ("name", "options", "mu"),
    [
        *(("flow", {"use_dynamic_shifting": True}, mu) for mu in (float("nan"), float("inf"), "high", [0.5, 0.6])),
        *(("flow", {"use_dynamic_shifting": True, "time_shift_type": "linear"}, mu) for mu in (0.0, -1.0)),
        *(("dpmsolver", FLOW_SIGMAS, mu) for mu in (float("nan"), -float("inf"), "high")),
    ],
    ids=str,
)
def test_a_mu_that_shifts_nowhere_is_refused(name: str, options: Any, mu: Any) -> None:
    scheduler = BUILD[name](**options)
    scheduler.set_timesteps(8, mu=0.5)
    before = scheduler.timesteps
    with pytest.raises(ValueError, match="`mu`") as caught:
        scheduler.set_timesteps(8, mu=mu)
    check_message(caught.value, "`mu`", repr(mu))
    assert torch.equal(scheduler.timesteps, before)


def test_a_shift_that_dpmsolver_does_not_know_is_refused_where_it_would_act() -> None:
    scheduler = BUILD["dpmsolver"](**FLOW_SIGMAS, time_shift_type="linear")
    with pytest.raises(ValueError, match="`time_shift_type`") as caught:
        scheduler.set_timesteps(8, mu=0.5)
    check_message(caught.value, "`time_shift_type`", "'linear'")


@pytest.mark.parametrize(
    "schedule", ["karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas", "flow_sigmas"]
)
def test_timesteps_beside_a_schedule_that_makes_its_own_are_refused(schedule: str) -> None:
    prediction = {"prediction_type": "flow_prediction"} if schedule == "flow_sigmas" else {}
    scheduler = BUILD["dpmsolver"](**{f"use_{schedule}": True}, **prediction)
    with pytest.raises(ValueError, match="`timesteps` cannot be given") as caught:
        scheduler.set_timesteps(timesteps=[900, 500, 100])
    check_message(caught.value, "`timesteps`", [900, 500, 100])


SINGULAR: list[tuple[str, dict[str, Any], str]] = [
    ("flow", {"cache_quantity": "epsilon"}, "cache_quantity"),
    ("flow", {"cache_variable": "lambda"}, "cache_variable"),
    ("ddim", {"rescale_betas_zero_snr": True, "cache_quantity": "epsilon"}, "cache_quantity"),
    ("ddim", {"rescale_betas_zero_snr": True, "cache_variable": "lambda"}, "cache_variable"),
]


@pytest.mark.parametrize(("name", "options", "argument"), SINGULAR, ids=str)
def test_an_explicit_choice_that_is_singular_on_the_grid_is_refused_by_set_timesteps(
    name: str, options: Any, argument: str
) -> None:
    prediction = {} if name == "flow" else {"prediction_type": "v_prediction"}
    shift = {"shift": 1.0} if name == "flow" else {}
    scheduler = BUILD[name](**prediction, **options, **shift)
    with pytest.raises(ValueError, match=argument) as caught:
        scheduler.set_timesteps(8)
    check_message(caught.value, argument, "alpha 0")


def test_predicting_the_noise_at_zero_terminal_snr_is_refused() -> None:
    with pytest.raises(ValueError, match="singular"):
        BUILD["ddim"](rescale_betas_zero_snr=True).set_timesteps(8)


@pytest.mark.parametrize("name", CLASSES)
def test_the_default_options_meet_no_singularity(name: str) -> None:
    zero_snr = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    for calls in (1, 2, 5, 17):
        BUILD[name](**({"shift": 1.0} if name == "flow" else zero_snr)).set_timesteps(calls)


@pytest.mark.parametrize("quantity", ["epsilon", "velocity", "model_output"])
def test_a_quantity_that_cannot_see_fresh_noise_is_refused(quantity: str, start: Any) -> None:
    for name, options in (("dpmsolver sde", {}), ("flow", {"stochastic_sampling": True})):
        with pytest.raises(ValueError, match="`cache_quantity`"):
            BUILD[name](cache_quantity=quantity, **options).set_timesteps(8)
    scheduler = BUILD["ddim"](cache_quantity=quantity)
    scheduler.set_timesteps(8)
    with pytest.raises(ValueError, match="`cache_quantity`"):
        scheduler.step(start(), scheduler.timesteps[0], start(), eta=1.0)


@every_class
@pytest.mark.parametrize("moment", ["before the first step", "in mid-run"])
def test_a_refused_set_timesteps_leaves_the_previous_run_bit_for_bit(
    name: str, moment: str, ready: Any, run: Any, denoiser: Any, start: Any
) -> None:
    untouched, scheduler = ready(name), ready(name)
    expected = run(untouched, denoiser, start())
    sample = start()
    calls = 3 if moment == "in mid-run" else 0
    timesteps = scheduler.timesteps
    for timestep in timesteps[:calls]:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    before = dict(scheduler.config)
    for count in (0, 2.5, 5000)[: 2 if name == "flow" else 3]:
        with pytest.raises((ValueError, TypeError)):
            scheduler.set_timesteps(count)
    scheduler.register_to_config(cache_quantity="epsilon", cache_variable="lambda", rescale_betas_zero_snr=True)
    if name == "flow":
        with pytest.raises(ValueError, match="cache_"):
            scheduler.set_timesteps(8)
    scheduler.register_to_config(**before)
    assert torch.equal(scheduler.timesteps, timesteps)
    assert scheduler.num_inference_steps == 8
    for timestep in timesteps[calls:]:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    assert torch.equal(sample, expected[-1])


# -- step -----------------------------------------------------------------------------------------------------------


@every_class
def test_a_step_before_set_timesteps_is_refused(name: str, start: Any) -> None:
    scheduler = BUILD[name]()
    with pytest.raises(ValueError, match="`set_timesteps`") as caught:
        scheduler.step(start(), torch.tensor(999.0), start())
    check_message(caught.value, "`set_timesteps`", "no grid")
    for call in (scheduler.describe, scheduler.reset_history):
        with pytest.raises(ValueError, match="`set_timesteps`"):
            call()


@every_kind
def test_a_step_past_the_end_is_refused_until_the_next_set_timesteps(
    name: str, ready: Any, run: Any, denoiser: Any, start: Any
) -> None:
    scheduler = ready(name)
    first = run(scheduler, denoiser, start(), seed=1)
    for timestep in (scheduler.timesteps[0], scheduler.timesteps[-1]):
        with pytest.raises(ValueError, match="`step`") as caught:
            scheduler.step(start(), timestep, start())
        check_message(caught.value, "`step`", 8)
    scheduler.set_timesteps(8)
    assert torch.equal(run(scheduler, denoiser, start(), seed=1)[-1], first[-1])


Spoil = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], dict[str, Any]]


def spoilt(**changes: Any) -> Spoil:
    """Arguments of a step, one of them replaced by a function of the right ones."""

    def arguments(scheduler: Any, output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> dict[str, Any]:
        given = {"model_output": output, "timestep": timestep, "sample": sample}
        return {**given, **{key: change(scheduler, given) for key, change in changes.items()}}

    return arguments


def with_value(key: str, value: float) -> Callable[[Any, dict[str, Any]], torch.Tensor]:
    def replace(_: Any, given: dict[str, Any]) -> torch.Tensor:
        changed = given[key].clone()
        changed.view(-1)[7] = value
        return changed

    return replace


BAD_STEPS: dict[str, tuple[Spoil, str]] = {
    **{
        f"{value} in {key}": (spoilt(**{key: with_value(key, value)}), f"`{key}`")
        for value in (float("nan"), float("inf"), -float("inf"))
        for key in ("sample", "model_output")
    },
    "fewer channels in the output": (spoilt(model_output=lambda _, g: g["model_output"][:, :1]), "`model_output`"),
    "a wider sample": (spoilt(sample=lambda _, g: g["sample"].repeat(1, 1, 1, 2)), "`sample`"),
    "an output that would broadcast": (spoilt(model_output=lambda _, g: g["model_output"][:1]), "`model_output`"),
}
LATE_STEPS: dict[str, tuple[Spoil, str]] = {
    "another shape of both": (
        spoilt(sample=lambda _, g: g["sample"][..., :2], model_output=lambda _, g: g["model_output"][..., :2]),
        "`sample`",
    ),
    "another batch size of both": (
        spoilt(sample=lambda _, g: g["sample"][:1], model_output=lambda _, g: g["model_output"][:1]),
        "`sample`",
    ),
    "the timestep of the call before": (spoilt(timestep=lambda s, g: s.timesteps[s.step_index - 1]), "`timestep`"),
    "the timestep of the call after": (spoilt(timestep=lambda s, g: s.timesteps[s.step_index + 1]), "`timestep`"),
    "the first timestep as a number": (spoilt(timestep=lambda s, g: float(s.timesteps[0])), "`timestep`"),
}


@every_kind
@pytest.mark.parametrize("at", [0, 3, 7])
@pytest.mark.parametrize("bad", BAD_STEPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_refused_step_leaves_the_run_bit_for_bit(
    name: str, at: int, bad: str, dtype: torch.dtype, ready: Any, denoiser: Any, start: Any
) -> None:
    refuse_and_go_on(ready, denoiser, start(dtype, (2, 3, 4, 4)), name, at, *BAD_STEPS[bad])


@every_kind
@pytest.mark.parametrize("at", [1, 5])
@pytest.mark.parametrize("bad", LATE_STEPS)
def test_a_step_that_does_not_belong_to_this_call_leaves_the_run_bit_for_bit(
    name: str, at: int, bad: str, ready: Any, denoiser: Any, start: Any
) -> None:
    refuse_and_go_on(ready, denoiser, start(torch.float32), name, at, *LATE_STEPS[bad])


def refuse_and_go_on(
    ready: Any, denoiser: Any, sample: torch.Tensor, name: str, at: int, spoil: Spoil, argument: str
) -> None:
    scheduler, untouched = ready(name), ready(name)
    expected = sample
    generators = [torch.Generator().manual_seed(9) for _ in range(2)]
    stochastic = name.endswith("sde")
    for call, timestep in enumerate(scheduler.timesteps):
        output = denoiser(sample, timestep)
        if call == at:
            with pytest.raises(ValueError, match=argument) as caught:
                scheduler.step(**spoil(scheduler, output, timestep, sample))
            assert re.search(r"expect|must|belong", str(caught.value))
        noise = [{"generator": g} if stochastic else {} for g in generators]
        sample = scheduler.step(output, timestep, sample, **noise[0]).prev_sample
        expected = untouched.step(denoiser(expected, timestep), timestep, expected, **noise[1]).prev_sample
    assert torch.equal(sample, expected)
    assert scheduler.error_estimates == untouched.error_estimates


@every_class
def test_a_result_that_leaves_the_range_of_float16_is_refused(name: str, ready: Any, run: Any) -> None:
    sample = torch.full((1, 2, 4, 4), 6e4, dtype=torch.float16)
    with pytest.raises(ValueError, match="not finite"):
        run(ready(name), lambda sample, timestep: -sample, sample)


HIDDEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dpmsolver", {"thresholding": True}, {}),
    ("dpmsolver", {"thresholding": True, "algorithm_type": "sde-dpmsolver++"}, {}),
    ("ddim", {"thresholding": True}, {}),
    ("ddim", {"clip_sample": True}, {}),
    ("ddim", {"clip_sample": True}, {"use_clipped_model_output": True}),
    ("ddim", {"thresholding": True}, {"use_clipped_model_output": True}),
    ("ddim", {"clip_sample": True}, {"use_clipped_model_output": True, "eta": 1.0}),
]


@pytest.mark.parametrize(("name", "options", "step"), HIDDEN, ids=str)
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_clipping_hides_no_value_that_is_not_finite(
    name: str, options: Any, step: Any, value: float, ready: Any, start: Any
) -> None:
    scheduler, sample = ready(name, **options), start(torch.float32, (1, 3, 32, 32))
    output = start(torch.float32, (1, 3, 32, 32), seed=1)
    output[0, 0, 0, 7] = value
    with pytest.raises(ValueError, match="`model_output`"):
        scheduler.step(output, scheduler.timesteps[0], sample, **step)


@pytest.mark.parametrize(
    "bad", [{"eta": 1.5}, {"eta": -0.1}, {"eta": float("nan")}, {"eta": 0.7, "use_clipped_model_output": True}]
)
def test_a_refused_step_with_other_settings_of_ddim_leaves_the_run_bit_for_bit(
    bad: Any, ready: Any, run: Any, denoiser: Any, start: Any
) -> None:
    scheduler, sample = ready("ddim clipped"), start()
    expected = run(ready("ddim clipped"), denoiser, sample)
    for call, timestep in enumerate(scheduler.timesteps):
        output = denoiser(sample, timestep)
        if call in (0, 3):
            with pytest.raises(ValueError, match=r"eta|sample"):
                scheduler.step(output, timestep, sample * float("nan"), **bad)
            assert scheduler.describe()
        sample = scheduler.step(output, timestep, sample).prev_sample
    assert torch.equal(sample, expected[-1])


def test_generator_and_noise_together_are_refused(ready: Any, start: Any) -> None:
    scheduler = ready("ddim")
    with pytest.raises(ValueError, match="`generator`") as caught:
        scheduler.step(
            start(), scheduler.timesteps[0], start(), eta=1.0, generator=torch.Generator(), variance_noise=start()
        )
    check_message(caught.value, "`variance_noise`", "both")


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4), (2, 2, 3, 4, 4), (5,)], ids=str)
@pytest.mark.parametrize("name", ["ddim", "dpmsolver sde"])
def test_noise_of_a_shape_that_does_not_fit_is_refused_and_leaves_the_run_bit_for_bit(
    name: str, shape: Any, ready: Any, denoiser: Any, start: Any
) -> None:
    scheduler, untouched, sample = ready(name), ready(name), start(shape=(2, 3, 4, 4))
    step = {"eta": 1.0} if name == "ddim" else {}
    expected = sample
    for call, timestep in enumerate(scheduler.timesteps):
        noise = start(shape=(1, 3, 4, 4), seed=call)  # broadcasts over the batch, as in diffusers
        output = denoiser(sample, timestep)
        if call in (0, 3):
            with pytest.raises(ValueError, match="`variance_noise`") as caught:
                scheduler.step(output, timestep, sample, variance_noise=start(shape=shape), **step)
            check_message(caught.value, "`variance_noise`", shape)
        sample = scheduler.step(output, timestep, sample, variance_noise=noise, **step).prev_sample
        whole = noise.expand(2, 3, 4, 4)
        output = denoiser(expected, timestep)
        expected = untouched.step(output, timestep, expected, variance_noise=whole, **step).prev_sample
    assert torch.equal(sample, expected)


@every_kind
def test_more_than_one_step_per_call_is_refused(name: str, ready: Any, denoiser: Any, start: Any) -> None:
    scheduler, sample = ready(name), start()
    for timestep in scheduler.timesteps[:3]:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    scheduler._step_index -= 1
    with pytest.raises(ValueError, match="more than one step") as caught:
        scheduler.step(denoiser(sample, scheduler.timesteps[2]), scheduler.timesteps[2], sample)
    check_message(caught.value, "`step`", 2)
    scheduler._step_index += 1
    for timestep in scheduler.timesteps[3:]:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    assert sample.isfinite().all()


@every_class
@pytest.mark.parametrize("index", [8, 50, -1])
def test_a_begin_index_outside_the_calls_is_refused(name: str, index: int, ready: Any, start: Any) -> None:
    scheduler = ready(name)
    scheduler.set_begin_index(index)
    with pytest.raises(ValueError, match=str(index)):
        scheduler.step(start(), scheduler.timesteps[0], start())


@pytest.mark.parametrize("timestep", [0, 1, 10, 49, 1234])
@pytest.mark.parametrize("name", ["ddim", "dpmsolver"])
def test_an_off_grid_first_timestep_follows_stocks_look_up(name: str, timestep: int, ready: Any, start: Any) -> None:
    scheduler, last = ready(name), ready(name)
    last.set_begin_index(7)
    expected = last.step(start(), last.timesteps[7], start()).prev_sample
    assert torch.equal(scheduler.step(start(), timestep, start()).prev_sample, expected)


def test_flow_matching_refuses_integers_and_tokens_of_different_time(ready: Any, start: Any) -> None:
    scheduler = ready("flow")
    for timestep in (0, 999, torch.tensor(3)):
        with pytest.raises(ValueError, match="`timestep`"):
            scheduler.step(start(), timestep, start())
    with pytest.raises(ValueError, match="`per_token_timesteps`"):
        scheduler.step(start(), scheduler.timesteps[0], start(), per_token_timesteps=torch.ones(2, 3))


# -- calibrations ---------------------------------------------------------------------------------------------------

ENTRY: dict[str, Any] = {
    "num_base_steps": 4,
    "compute_steps": [0, 2],
    "cache_quantity": "sample",
    "timesteps": [999, 499],
    "sigmas": [0.9, 0.5, 0.0],
    "rows": [{"sample": 0.4, "history": [0.6]}, {"sample": 0.1, "history": [1.2, -0.3]}],
}


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in ENTRY.items() if k != key}


MALFORMED: list[tuple[Any, str]] = [
    ([ENTRY], "`calibrations` must be a dict"),
    ("2", "`calibrations` must be a dict"),
    ({"two": ENTRY}, "'two'"),
    ({"0": ENTRY}, "'0'"),
    ({None: ENTRY}, "None"),
    ({"3": ENTRY}, "calibrations\\['3'\\]"),
    ({"2": [ENTRY]}, "calibrations\\['2'\\]"),
    ({"2": {}}, "lacks"),
    *(({"2": without(key)}, key) for key in ENTRY),
    ({"2": {**ENTRY, "compute_steps": [0, 0]}}, "compute_steps"),
    ({"2": {**ENTRY, "compute_steps": [1, 2]}}, "compute_steps"),
    ({"2": {**ENTRY, "compute_steps": None}}, "plan"),
    ({"2": {**ENTRY, "num_base_steps": 2}}, "num_base_steps"),
    ({"2": {**ENTRY, "num_base_steps": "4"}}, "num_base_steps"),
    ({"2": {**ENTRY, "cache_quantity": "x0"}}, "'x0'"),
    ({"2": {**ENTRY, "cache_quantity": ["sample"]}}, "cache_quantity"),
    ({"2": {**ENTRY, "timesteps": [999]}}, "timesteps"),
    ({"2": {**ENTRY, "timesteps": "99"}}, "timesteps"),
    ({"2": {**ENTRY, "sigmas": [0.9, 0.5]}}, "sigmas"),
    ({"2": {**ENTRY, "sigmas": [0.9, 0.5, float("nan")]}}, "sigmas"),
    ({"2": {**ENTRY, "sigmas": [0.9, 0.5, "0"]}}, "sigmas"),
    ({"2": {**ENTRY, "rows": ENTRY["rows"][:1]}}, "rows"),
    ({"2": {**ENTRY, "rows": None}}, "rows"),
    ({"2": {**ENTRY, "rows": [ENTRY["rows"][0], 3]}}, "rows"),
    ({"2": {**ENTRY, "rows": [ENTRY["rows"][0], {"sample": 1.0}]}}, "rows"),
    ({"2": {**ENTRY, "rows": [ENTRY["rows"][0], {**ENTRY["rows"][0], "bias": 1.0}]}}, "rows"),
    ({"2": {**ENTRY, "rows": [ENTRY["rows"][1], ENTRY["rows"][1]]}}, "history"),
    ({"2": {**ENTRY, "rows": [ENTRY["rows"][0], {"sample": float("inf"), "history": [1.0]}]}}, "sample"),
    ({"2": {**ENTRY, "rows": [ENTRY["rows"][0], {"sample": None, "history": [1.0]}]}}, "sample"),
    ({"2": {**ENTRY, "rows": [ENTRY["rows"][0], {"sample": 1.0, "history": []}]}}, "history"),
    ({"2": {**ENTRY, "rows": [ENTRY["rows"][0], {"sample": 1.0, "history": [True]}]}}, "history"),
    ({"2": {**ENTRY, "rows": [ENTRY["rows"][0], {"sample": 1.0, "history": ["1"]}]}}, "history"),
]


@pytest.mark.parametrize(("calibrations", "complaint"), MALFORMED, ids=lambda v: str(v)[:30])
def test_malformed_calibrations_are_refused_by_name(calibrations: Any, complaint: str) -> None:
    with pytest.raises((ValueError, TypeError), match=complaint) as caught:
        BUILD["ddim"](calibrations=calibrations)
    assert "calibrat" in str(caught.value)


@every_class
def test_well_formed_calibrations_are_taken_and_carry_what_else_they_hold(name: str) -> None:
    calibrations = {"2": {**ENTRY, "fitted_on": "eight seeds"}}
    scheduler = BUILD[name](calibrations=copy.deepcopy(calibrations))
    assert scheduler.config.calibrations == calibrations


# -- pretended accelerators -----------------------------------------------------------------------------------------


@pytest.fixture
def pretended_accelerator(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tensors that say they live elsewhere; every reading by the host is counted."""
    readings: list[str] = []

    class Elsewhere(torch.Tensor):
        @property
        def device(self) -> Any:  # type: ignore[override]
            return torch.device("xla")

        def __bool__(self) -> bool:
            readings.append("bool")
            return bool(self.as_subclass(torch.Tensor))

        def tolist(self) -> Any:
            readings.append("tolist")
            return self.as_subclass(torch.Tensor).tolist()

        def item(self) -> Any:
            readings.append("item")
            return self.as_subclass(torch.Tensor).item()

    monkeypatch.setattr(torch, "Elsewhere", Elsewhere, raising=False)
    return readings


@every_class
@pytest.mark.parametrize("bad_call", [None, 0, 3, 7])
def test_on_an_accelerator_values_that_are_not_finite_are_told_once_after_the_last_call(
    name: str, bad_call: int | None, ready: Any, denoiser: Any, start: Any, pretended_accelerator: list[str]
) -> None:
    elsewhere = torch.Elsewhere  # type: ignore[attr-defined]
    scheduler, sample = ready(name), start(torch.float32).as_subclass(elsewhere)
    timesteps = scheduler.timesteps
    for call, timestep in enumerate(timesteps):
        output = denoiser(sample.as_subclass(torch.Tensor), timestep).as_subclass(elsewhere)
        if call == bad_call:
            output = output * float("nan")
        if call == 7 and bad_call is not None:
            with pytest.raises(ValueError, match=f"call {bad_call} ") as caught:
                scheduler.step(output, timestep, sample)
            check_message(caught.value, "`model_output`", f"timestep {timesteps[bad_call].item()}")
        else:
            sample = scheduler.step(output, timestep, sample).prev_sample
        assert isinstance(sample, elsewhere)
        assert bool(pretended_accelerator) == (call == 7)
    scheduler.set_timesteps(8)
    assert scheduler.step(denoiser(start(), 999), timesteps[0], start()).prev_sample.isfinite().all()
