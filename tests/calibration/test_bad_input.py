"""What a calibration refuses, before any model call or before a scheduler changes, and what it warns of."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers import ABCacheScheduler, Calibration, calibrate
from ab_schedulers.calibration import Trajectories
from ab_schedulers.calibration.checks import check_inputs, warn_of_distillation

VP = {"clip_sample": False, "timestep_spacing": "trailing"}


class Refusing:
    """A model that must not be called."""

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was called")


def fit(config: Any, noise: Any, calls: Any = 4, **options: Any) -> Calibration:
    return calibrate(Refusing(), calls, inputs=noise, config=config, progress=False, **options)


@pytest.mark.parametrize("calls", [[], "8", [1], [101], [True], [4.0], None, [-3], [8, "x"]])
def test_numbers_of_calls_that_are_none_are_refused(calls: Any) -> None:
    with pytest.raises(ValueError, match="num_model_calls"):
        fit(DDIMScheduler(**VP).config, torch.randn(4, 3), calls)


@pytest.mark.parametrize("steps", [4, 0, -50, 1001, 50.0, True, "50"])
def test_base_steps_that_are_none_or_too_few_are_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match=r"`num_base_steps` must be None or a whole number from 5"):
        fit(DDIMScheduler(**VP).config, torch.randn(4, 3), num_base_steps=steps)


@pytest.mark.parametrize(
    ("noise", "complaint"),
    [
        (torch.zeros(0, 3), "must be the noise"),
        (torch.zeros(3), "must be the noise"),
        ([1.0, 2.0], "must be the noise"),
        (torch.full((4, 3), torch.nan), "not finite"),
        (torch.zeros(1, 3), "at least two trajectories"),
    ],
    ids=["none", "no batch", "a list", "not finite", "one"],
)
def test_trajectories_that_cannot_be_used_are_refused_before_any_call(noise: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        fit(DDIMScheduler(**VP).config, noise)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True).config, "draws fresh noise"),
        (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++").config, "draws fresh noise"),
        (DDIMScheduler(clip_sample=True).config, "clip_sample=True"),
        (DPMSolverMultistepScheduler(thresholding=True).config, "thresholding=True"),
    ],
    ids=["stochastic flow", "sde", "clipping", "thresholding"],
)
def test_samplers_that_fitted_rows_cannot_express_are_refused(config: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        fit(config, torch.randn(4, 3))


def test_a_function_needs_a_config_and_a_pipeline_none() -> None:
    with pytest.raises(TypeError, match="config"):
        calibrate(Refusing(), [4], inputs=torch.randn(4, 3), progress=False)

    class Pipe:
        scheduler = DDIMScheduler(**VP)

    with pytest.raises(TypeError, match="config"):
        calibrate(Pipe(), [4], inputs=[{}], config=Pipe.scheduler.config, progress=False)


@pytest.mark.parametrize(
    "inputs",
    [None, [], "a boat", ["a boat"], [{"eta": 0.5}], [{"num_inference_steps": 8}], [{"strength": 0.5}]],
)
def test_inputs_of_a_pipeline_that_cannot_be_run_are_refused(inputs: Any) -> None:
    with pytest.raises(ValueError, match="`inputs`"):
        check_inputs(inputs)


def test_models_distilled_to_few_steps_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ab_schedulers"):
        warn_of_distillation(["stabilityai/stable-diffusion-xl-base-1.0", ""])
        assert not caplog.records
        warn_of_distillation(["stabilityai/sdxl-turbo"])
    assert "distilled" in caplog.text


# -- trajectories -----------------------------------------------------------------------------------------------------


def trajectories(**changes: Any) -> Trajectories:
    levels = torch.linspace(1, 0, 9).tolist()
    known: dict[str, Any] = {
        "states": torch.zeros(2, 9, 3),
        "alphas": tuple(1 - level for level in levels),
        "sigmas": tuple(levels),
        "source": "a test",
    }
    return Trajectories(**{**known, **changes})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"states": torch.zeros(0, 9, 3)}, "at least one"),
        ({"states": torch.zeros(2, 9)}, "trajectories, nodes, values"),
        ({"states": torch.zeros(2, 8, 3)}, "as many alphas and sigmas"),
        ({"states": torch.zeros(2, 9, 3).index_fill(0, torch.tensor([1]), torch.inf)}, r"trajectories \[1\] .*finite"),
    ],
)
def test_malformed_trajectories_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        trajectories(**changes)


def test_cubic_states_are_interpolated_exactly_between_and_at_nodes() -> None:
    levels = torch.linspace(1, 0, 9, dtype=torch.float64)
    states = torch.stack([levels**3, 2 - levels**2, levels], dim=1)[None].float()
    known = trajectories(states=states)
    wanted = [1.0, 0.97, 0.5, 0.31, 0.02, 0.0]
    found = known.at([1 - level for level in wanted], wanted)
    for place, level in enumerate(wanted):
        assert found[0, place].tolist() == pytest.approx([level**3, 2 - level**2, level], abs=1e-6)


def test_trajectories_survive_a_file(tmp_path: Path) -> None:
    known = trajectories(states=torch.randn(2, 9, 3))
    known.save(tmp_path / "t.safetensors")
    again = Trajectories.load(tmp_path / "t.safetensors")
    assert torch.equal(again.states, known.states)
    assert (again.alphas, again.sigmas, again.source) == (known.alphas, known.sigmas, known.source)


def test_files_that_hold_no_trajectories_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="record them"):
        Trajectories.load(tmp_path / "none")
    (tmp_path / "text").write_text("hello", encoding="utf-8")
    save_file({"states": torch.zeros(2, 9, 3)}, str(tmp_path / "foreign"))
    for name in ("text", "foreign"):
        with pytest.raises(ValueError, match="holds no trajectories"):
            Trajectories.load(tmp_path / name)


# -- calibrations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["{", "[]", '{"entries": {}}', '{"format": "other", "entries": {}, "report": {}}'])
def test_files_that_hold_no_calibration_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="calibrat"):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(FileNotFoundError, match="calibrate first"):
        Calibration.load(tmp_path / "none.json")


def test_a_corrupted_entry_is_refused_when_the_file_is_read(tmp_path: Path, mixture: Any, noise: Any) -> None:
    found = mixture_fit(mixture, noise)
    found.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    content["entries"]["3"]["rows"][1]["history"] = ["x"]
    (tmp_path / "c.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"calibrations\['3'\]\['rows'\]\[1\]"):
        Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    "config",
    [
        DDIMScheduler(prediction_type="v_prediction", **VP).config,
        DPMSolverMultistepScheduler(timestep_spacing="trailing").config,
        FlowMatchEulerDiscreteScheduler().config,
    ],
    ids=["prediction", "base", "flow"],
)
def test_a_calibration_of_another_prediction_or_base_is_refused(config: Any, mixture: Any, noise: Any) -> None:
    found = mixture_fit(mixture, noise)
    with pytest.raises(ValueError, match=r"was fitted with (prediction|scheduler)"):
        found.scheduler(config)
    with pytest.raises(ValueError, match=r"was fitted with (prediction|scheduler)"):
        ABCacheScheduler.from_config(config, calibrations=found.entries)


def mixture_fit(mixture: Any, noise: Any) -> Calibration:
    function = mixture("vp")
    config = function.subject.scheduler.config
    return calibrate(function, [3], inputs=noise(16), config=config, progress=False, max_model_calls=138)
