"""Which of our schedulers serves a diffusers config, with which values, and on which grid."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import ab_schedulers
from ab_schedulers.schedulers import sources
from ab_schedulers.schedulers.sources import (
    BASES,
    EXTRA_PARAMETERS,
    OWN,
    OWN_OPTIONS,
    REFUSED,
    SERVED,
    TRANSLATIONS,
    resolve_config,
)

# torch and diffusers themselves meet newer versions of NumPy with these.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

STOCK = [name for name in SERVED if name not in OWN and hasattr(diffusers, name)]
NEED_TORCHSDE = {
    "DPMSolverSDEScheduler": "diffusers.schedulers.scheduling_dpmsolver_sde",
    "CosineDPMSolverMultistepScheduler": "diffusers.schedulers.scheduling_cosine_dpmsolver_multistep",
}
REQUIRED: dict[str, dict[str, Any]] = {
    "AmusedScheduler": {"mask_token_id": 9},
    "VQDiffusionScheduler": {"num_vec_classes": 9},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
}
# Another value for every key of a served class, none of them refused.
CHANGED: dict[str, Any] = {
    "num_train_timesteps": 900,
    "beta_start": 0.0002,
    "beta_end": 0.018,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": False,
    "clip_sample_range": 1.0,
    "clip_sample": False,
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.9,
    "sample_max_value": 1.5,
    "snr_shift_scale": 2.0,
    "variance_type": "fixed_large",
    "skip_prk_steps": True,
    "use_karras_sigmas": True,
    "final_sigmas_type": "sigma_min",
    "lambda_min_clipped": -5.1,
    "solver_order": 3,
    "lower_order_final": False,
    "euler_at_final": True,
    "flow_shift": 3.0,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.4,
    "max_shift": 1.2,
    "base_image_seq_len": 128,
    "max_image_seq_len": 2048,
    "shift_terminal": None,
    "stochastic_sampling": True,
    "predict_x0": False,
    "disable_corrector": [0],
    "predictor_order": 3,
    "corrector_order": 3,
    "noise_sampler_seed": 7,
}
SIGMA_SCHEDULES = ("none", "karras", "exponential", "beta", "flow")
SPACINGS = ("linspace", "leading", "trailing")


@pytest.fixture(scope="module", autouse=True)
def _schedulers_that_need_torchsde() -> Any:
    """The two classes that draw noise from torchsde, importable without it: their grids and configs do not need it."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("torchsde") is None:
            patch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))
            for name, module in NEED_TORCHSDE.items():
                patch.setattr(diffusers, name, getattr(importlib.import_module(module), name))
        sources._defaults.cache_clear()
        yield
    sources._defaults.cache_clear()


def parameters(name: str) -> dict[str, Any]:
    """Parameters of a stock class and their defaults."""
    signature = inspect.signature(getattr(diffusers, name).__init__)
    return {p.name: p.default for p in list(signature.parameters.values())[1:] if p.kind is p.POSITIONAL_OR_KEYWORD}


def changed(name: str) -> dict[str, Any]:
    return {key: CHANGED[key] for key in parameters(name) if key in CHANGED}


def live(name: str, **options: Any) -> Any:
    """The config of a scheduler made in code, which does not name its class."""
    config = getattr(diffusers, name)(**{**REQUIRED.get(name, {}), **options}).config
    assert "_class_name" not in config
    return config


def loaded(config: Any, name: str) -> dict[str, Any]:
    """The same config as a JSON file holds it."""
    entries = {key: value for key, value in config.items() if key != "_use_default_values"}
    return json.loads(
        json.dumps({**entries, "_class_name": name}, sort_keys=True, default=lambda array: array.tolist())
    )


def own(config: Any, **options: Any) -> Any:
    """The live config of our scheduler for `config`."""
    return ab_schedulers.ABCacheScheduler.from_config(config, **options).config


def test_every_scheduler_of_diffusers_is_either_served_or_refused() -> None:
    exported = {
        name
        for name in {*dir(diffusers), *dir(diffusers.schedulers)}
        if name.endswith("Scheduler") and not name.startswith("Flax")
    }
    assert len(exported) > 35
    assert exported <= {*SERVED, *REFUSED}
    assert not {*SERVED} & {*REFUSED}


@pytest.mark.parametrize("options", ["defaults", "changed"])
@pytest.mark.parametrize("name", STOCK)
def test_a_live_config_resolves_as_the_one_that_names_its_class(name: str, options: str) -> None:
    config = live(name, **(changed(name) if options == "changed" else {}))
    found, named = resolve_config(config), resolve_config({**config, "_class_name": name})
    assert named.source == name
    assert parameters(found.source).keys() == parameters(name).keys()
    assert (found.target, found.values, found.carried) == (named.target, named.values, named.carried)


@pytest.mark.parametrize("name", [name for name in REFUSED if hasattr(diffusers, name)])
def test_a_live_config_of_a_refused_class_is_recognised_and_refused(name: str) -> None:
    if hasattr(getattr(diffusers, name), "_backends"):
        pytest.skip("diffusers exports the name alone")
    config = live(name)
    if name == "FlowMapEulerDiscreteScheduler":
        # Its two keys are those of FlowMatchHeun, so only the name tells; its pipelines pass `r_timestep` to `step`.
        assert resolve_config(config).source == "FlowMatchHeunDiscreteScheduler"
        config = {**config, "_class_name": name}
    twins = [
        other for other in REFUSED if hasattr(diffusers, other) and parameters(other).keys() == parameters(name).keys()
    ]
    with pytest.raises(ValueError, match=f"config of a ({'|'.join(twins)}) cannot be served"):
        resolve_config(config)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why_and_what_to_use(name: str) -> None:
    with pytest.raises(ValueError, match=name) as error:
        resolve_config({"_class_name": name})
    reason, alternative = str(error.value).split("cannot be served: ")[1].split("; ")
    assert len(reason) > 20
    assert alternative.startswith(("keep it", "use the config of"))


@pytest.mark.parametrize("options", ["defaults", "changed"])
@pytest.mark.parametrize("name", STOCK)
def test_live_and_loaded_configs_resolve_identically(name: str, options: str, tmp_path: Path) -> None:
    scheduler = getattr(diffusers, name)(**(changed(name) if options == "changed" else {}))
    from_code = resolve_config({**scheduler.config, "_class_name": name})
    scheduler.save_config(tmp_path)
    assert resolve_config(type(scheduler).load_config(tmp_path)) == from_code


@pytest.mark.parametrize("options", ["defaults", "changed"])
@pytest.mark.parametrize("name", STOCK)
def test_values_are_those_of_the_source_and_json(name: str, options: str) -> None:
    given = changed(name) if options == "changed" else {}
    values = resolve_config({**given, "_class_name": name}).values
    expected = {**parameters(name), **given, **SERVED[name].fixed}
    for key in parameters(BASES[SERVED[name].target]).keys() & expected.keys():
        assert values[key] == TRANSLATIONS.get(key, {}).get(expected[key], expected[key]), key
    assert json.loads(json.dumps(values)) == values
    assert parameters(BASES[SERVED[name].target]).keys() - values.keys() <= {*sources._SOLVER_KEYS}


@pytest.mark.parametrize("name", STOCK)
def test_a_config_without_the_newer_keys_gets_the_defaults_of_its_class(name: str) -> None:
    assert resolve_config({"_class_name": name}).values == resolve_config({**live(name), "_class_name": name}).values


@pytest.mark.parametrize("options", ["defaults", "changed"])
@pytest.mark.parametrize("name", STOCK)
def test_switching_to_our_class_and_back_restores_the_original(name: str, options: str) -> None:
    config = live(name, **(changed(name) if options == "changed" else {}))
    resolved = resolve_config({**config, "_class_name": name})
    assert resolved.values.keys() & resolved.carried.keys() <= {*TRANSLATIONS}
    back = getattr(diffusers, name).from_config(own({**config, "_class_name": name})).config
    # `clip_sample` of CogVideoX comes back as False: its schedulers never read it.
    expected = {**config, **SERVED[name].fixed}
    assert {key: back[key] for key in parameters(name)} == {key: expected[key] for key in parameters(name)}


@pytest.mark.parametrize("name", OWN)
def test_our_classes_have_exactly_the_parameters_known_here(name: str) -> None:
    signature = inspect.signature(getattr(ab_schedulers, name).__init__)
    known = {*parameters(BASES[OWN[name]]), *EXTRA_PARAMETERS[OWN[name]], *OWN_OPTIONS}
    assert {*signature.parameters} - {"self"} == known


def test_gaps_are_not_filled_with_the_defaults_of_the_target() -> None:
    def values(name: str, **given: Any) -> dict[str, Any]:
        return resolve_config({"_class_name": f"{name}Scheduler", **given}).values

    assert values("PNDM")["clip_sample"] is False
    assert values("CogVideoXDDIM")["clip_sample"] is False
    assert values("CogVideoXDPM")["snr_shift_scale"] == 3.0
    assert values("DDPM")["clip_sample"] is True
    assert values("PNDM")["set_alpha_to_one"] is False
    assert values("KDPM2Discrete")["beta_end"] == 0.012
    assert values("DPMSolverSinglestep")["lower_order_final"] is False
    for ends_at_sigma_min in ("DEISMultistep", "SASolver"):
        assert values(ends_at_sigma_min)["final_sigmas_type"] == "sigma_min"
        assert values(ends_at_sigma_min, use_flow_sigmas=True)["final_sigmas_type"] == "zero"
    for ends_at_zero in ("HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "EulerAncestralDiscrete", "DPMSolverSDE"):
        assert values(ends_at_zero)["final_sigmas_type"] == "zero"


@pytest.mark.parametrize(
    ("name", "key", "there", "here"),
    [
        ("UniPCMultistep", "solver_type", "bh2", "midpoint"),
        ("UniPCMultistep", "solver_type", "bh1", "midpoint"),
        ("DEISMultistep", "solver_type", "logrho", "midpoint"),
        ("DEISMultistep", "algorithm_type", "deis", "dpmsolver++"),
        ("SASolver", "algorithm_type", "data_prediction", "dpmsolver++"),
        ("SASolver", "algorithm_type", "noise_prediction", "dpmsolver++"),
        ("DPMSolverMultistep", "algorithm_type", "sde-dpmsolver++", "sde-dpmsolver++"),
        ("DPMSolverMultistep", "solver_type", "heun", "heun"),
    ],
)
def test_names_of_solvers_are_translated_and_carried(name: str, key: str, there: str, here: str) -> None:
    resolved = resolve_config({"_class_name": f"{name}Scheduler", key: there})
    assert resolved.values[key] == here
    assert resolved.carried == ({} if there == here else {key: there})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("EulerDiscrete", {"timestep_type": "continuous", "prediction_type": "v_prediction"}, "set 'discrete'"),
        ("EulerDiscrete", {"interpolation_type": "log_linear"}, "set 'linear'"),
        ("EulerDiscrete", {"sigma_min": 0.02, "use_karras_sigmas": True}, "leave both None"),
        ("UniPCMultistep", {"sigma_max": 80.0}, "leave both None"),
        ("UniPCMultistep", {"use_flow_sigmas": True, "use_karras_sigmas": True}, "set use_karras_sigmas"),
        ("DPMSolverMultistep", {"use_flow_sigmas": True, "use_beta_sigmas": True}, "use_beta_sigmas to False"),
        ("UniPCMultistep", {"use_flow_sigmas": True, "shift_terminal": 0.1}, "FlowMatchEulerDiscreteScheduler"),
        (
            "UniPCMultistep",
            {"use_flow_sigmas": True, "use_dynamic_shifting": True, "time_shift_type": "linear"},
            "FlowMatchEulerDiscreteScheduler",
        ),
        ("FlowMatchEulerDiscrete", {"invert_sigmas": True}, "keep the stock scheduler"),
        ("HeunDiscrete", {"beta_schedule": "exp"}, "trained_betas"),
        ("DDPM", {"beta_schedule": "sigmoid"}, "trained_betas"),
        ("DDPM", {"variance_type": "learned_range"}, "DPMSolverMultistepScheduler.from_config"),
        ("HeunDiscrete", {"clip_sample": True, "clip_sample_range": 2.0}, "clip_sample=False"),
    ],
)
def test_settings_that_no_target_expresses_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"config of a {name}Scheduler with .* cannot be served") as error:
        resolve_config({"_class_name": f"{name}Scheduler", **options})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FlowMatchEulerDiscrete", {"stochastic_sampling": True}),
        ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True, "time_shift_type": "linear"}),
        ("FlowMatchEulerDiscrete", {"use_karras_sigmas": True, "shift_terminal": 0.1}),
        ("DPMSolverMultistep", {"variance_type": "learned_range"}),
        ("DDPM", {"beta_schedule": "sigmoid", "trained_betas": [0.1, 0.2]}),
    ],
)
def test_settings_that_the_target_has_are_kept(name: str, options: dict[str, Any]) -> None:
    values = resolve_config({"_class_name": f"{name}Scheduler", **options}).values
    assert {key: values[key] for key in options} == options


def test_clipping_of_heun_becomes_thresholding_that_clips_alike() -> None:
    values = resolve_config({"_class_name": "HeunDiscreteScheduler", "clip_sample": True}).values
    x0 = 3 * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    clipped = diffusers.DPMSolverMultistepScheduler(**values)._threshold_sample(x0)
    assert values["thresholding"]
    assert torch.equal(clipped, x0.clamp(-1, 1))


@pytest.mark.parametrize("name", STOCK)
def test_our_own_config_resolves_to_itself(name: str) -> None:
    stock = {**live(name, **changed(name)), "_class_name": name}
    resolved = resolve_config(stock)
    config = own(stock, cache_interval=4, warmup_calls=2)
    ours = next(own_name for own_name, target in OWN.items() if target == resolved.target)
    for again in (resolve_config(config), resolve_config(loaded(config, ours))):
        assert (again.source, again.target, again.carried) == (ours, resolved.target, resolved.carried)
        assert resolved.values.items() <= again.values.items()
        assert (again.values["cache_interval"], again.values["warmup_calls"]) == (4, 2)
    assert resolve_config(own(config)).values == again.values


@pytest.mark.parametrize("name", STOCK)
def test_a_detour_through_the_stock_class_keeps_our_options_and_the_solver(name: str) -> None:
    stock = {**live(name, **changed(name)), "_class_name": name}
    resolved = resolve_config(stock)
    options = {"cache_interval": 4} | ({"solver_order": 1} if resolved.target == "dpmsolver" else {})
    back = getattr(diffusers, name).from_config(own(stock, **options)).config
    again = resolve_config({**back, "_class_name": name})
    assert again.source == name
    assert again.values == {**resolved.values, **options}
    found = resolve_config({key: value for key, value in back.items() if key != "_class_name"})
    assert (found.target, found.values, found.carried) == (again.target, again.values, again.carried)


def test_leftovers_of_other_classes_do_not_change_the_grid() -> None:
    before = diffusers.DPMSolverMultistepScheduler(use_lu_lambdas=True, thresholding=True, solver_order=3)
    resolved = resolve_config(diffusers.EulerDiscreteScheduler.from_config(before.config).config)
    assert resolved.source == "EulerDiscreteScheduler"
    assert (resolved.values["use_lu_lambdas"], resolved.values["thresholding"]) == (False, False)
    assert resolved.values["solver_order"] == 3
    assert not {"use_lu_lambdas", "thresholding"} & resolved.carried.keys()

    video = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=2.0)
    plain = resolve_config(diffusers.DDIMScheduler.from_config(video.config).config)
    assert plain.source == "DDIMScheduler"
    assert not {"snr_shift_scale"} & {*plain.values, *plain.carried}


def test_leftovers_of_a_refused_setting_do_not_refuse() -> None:
    before = diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    config = diffusers.DPMSolverMultistepScheduler.from_config(before.config).config
    resolved = resolve_config(config)
    assert resolved.source == "DPMSolverMultistepScheduler"
    assert resolved.carried["timestep_type"] == "continuous"


def test_arrays_become_lists() -> None:
    values = resolve_config(live("DDIMScheduler", trained_betas=np.array([0.1, 0.3]))).values
    assert values["trained_betas"] == [0.1, 0.3]
    values = resolve_config({"_class_name": "DDIMScheduler", "beta_start": np.float64(0.5)}).values
    assert type(values["beta_start"]) is float


@pytest.mark.parametrize("config", [None, 3, ["DDIMScheduler"]])
def test_what_is_no_config_is_a_type_error(config: Any) -> None:
    with pytest.raises(TypeError, match="must be the config of a diffusers scheduler"):
        resolve_config(config)


def test_a_scheduler_instead_of_its_config_is_told_what_to_pass() -> None:
    with pytest.raises(TypeError, match=r"pass `scheduler\.config`"):
        resolve_config(diffusers.DDIMScheduler())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config", [{}, {"flow_shift": 3.0}, {"foo": 1}, {"_class_name": "MyScheduler"}, {"_class_name": ["DDIMScheduler"]}]
)
def test_an_unknown_config_is_told_what_is_served(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="_class_name") as error:
        resolve_config(config)
    assert all(name in str(error.value) for name in STOCK)


@pytest.mark.parametrize("name", ["LMSDiscreteScheduler", "DPMSolverSDEScheduler"])
def test_classes_whose_packages_are_missing_are_known_by_their_stand_in(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = resolve_config({"_class_name": name})
    module = inspect.getsourcefile(getattr(diffusers, name))
    assert module is not None
    monkeypatch.setattr(diffusers, name, type(name, (), {"_backends": ["scipy"]}))
    sources._defaults.cache_clear()
    assert resolve_config({"_class_name": name}) == expected
    classes = [node for node in ast.parse(Path(module).read_text()).body if isinstance(node, ast.ClassDef)]
    init = next(n for c in classes if c.name == name for n in c.body if getattr(n, "name", "") == "__init__")
    assert isinstance(init, ast.FunctionDef)
    known = {arg.arg for arg in init.args.args} - {"self", "noise_sampler_seed"}
    assert sources._defaults(name).keys() == known
    sources._defaults.cache_clear()


# Grids. The classes below divide the training steps otherwise than DPM-Solver++ does, and take the range of karras,
# exponential and beta sigmas from the ends of that division instead of from the betas.
NODES_OF_THEIR_OWN = {
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
}
SAME_NODES = {("trailing", "none"), ("linspace", "karras"), ("linspace", "exponential"), ("linspace", "beta")}
OTHER_FLOW_SIGMAS = {
    "UniPCMultistepScheduler": "starts at 1 - 1e-6, DPM-Solver++ at .999",
    "DEISMultistepScheduler": "ends at its last sigma instead of zero",
    "SASolverScheduler": "ends at its last sigma instead of zero",
}


def grid_is_the_same(name: str, spacing: str, schedule: str) -> bool:
    if schedule == "flow" and name in OTHER_FLOW_SIGMAS:
        return False
    return name not in NODES_OF_THEIR_OWN or (spacing, schedule) in SAME_NODES


def distinct(values: torch.Tensor, order: int) -> torch.Tensor:
    """The grid of a second-order scheduler, which lists every inner node twice."""
    return torch.unique_consecutive(values) if order == 2 else values


@pytest.mark.parametrize("schedule", SIGMA_SCHEDULES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", [name for name in STOCK if SERVED[name].target == "dpmsolver"])
def test_the_sigmas_are_those_the_source_meant(name: str, spacing: str, schedule: str) -> None:
    known = parameters(name)
    asked = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": spacing}
    asked |= {} if schedule == "none" else {f"use_{schedule}_sigmas": True}
    asked |= {"prediction_type": "flow_prediction", "flow_shift": 3.0} if schedule == "flow" else {}
    if not asked.keys() <= known.keys() and not (
        spacing == "linspace" and asked.keys() - known <= {"timestep_spacing"}
    ):
        return  # the class has no such option
    source = getattr(diffusers, name)(**{key: value for key, value in asked.items() if key in known})
    target = diffusers.DPMSolverMultistepScheduler(**resolve_config(source.config).values)
    source.set_timesteps(20)
    target.set_timesteps(20)
    sigmas, expected = distinct(target.sigmas, source.order), distinct(source.sigmas, source.order)
    assert sigmas.shape == expected.shape
    assert grid_is_the_same(name, spacing, schedule) == torch.allclose(sigmas, expected, rtol=1e-5, atol=1e-7)
    if schedule == "flow":  # and where not the same, then but for the ends
        assert torch.allclose(sigmas[:-1], expected[:-1], atol=0.005)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", [name for name in STOCK if SERVED[name].target == "ddim"])
def test_the_timesteps_are_those_the_source_meant(name: str, spacing: str) -> None:
    options = {"timestep_spacing": spacing} | ({"skip_prk_steps": True} if name == "PNDMScheduler" else {})
    source = getattr(diffusers, name)(**options)
    values = resolve_config(source.config).values
    shift = values.pop("snr_shift_scale", None)
    target = diffusers.DDIMScheduler(**values)
    source.set_timesteps(20)
    target.set_timesteps(20)
    assert torch.equal(target.timesteps, torch.unique_consecutive(source.timesteps))
    alphas = target.alphas_cumprod
    alphas = alphas if shift is None else alphas / (shift + (1 - shift) * alphas)
    assert torch.allclose(alphas, source.alphas_cumprod.float(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", [name for name in STOCK if SERVED[name].target == "flow_match"])
def test_the_flow_sigmas_are_those_the_source_meant(name: str, shift: float) -> None:
    source = getattr(diffusers, name)(shift=shift)
    target = diffusers.FlowMatchEulerDiscreteScheduler(**resolve_config(source.config).values)
    source.set_timesteps(20)
    target.set_timesteps(20)
    assert torch.equal(distinct(source.sigmas, source.order), target.sigmas)
