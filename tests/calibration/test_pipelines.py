"""Calibration of whole pipelines, as black boxes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from tiny_pipelines import CASES, Case

from ab_schedulers import ABCacheScheduler, Calibration, calibrate
from ab_schedulers.calibration import record

CALLS = 3


def case_of(pipeline: str) -> Case:
    return next(case for case in CASES if case.pipeline == pipeline and case.mode == "text" and case.available())


def runs(case: Case, *groups: list[int]) -> list[dict[str, Any]]:
    return [case.arguments(seeds, case.sizes[0]) for seeds in groups]


def latents(pipe: Any, case: Case, size: int, calls: int = CALLS) -> torch.Tensor:
    found = []

    def see(pipeline: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        found.append(kept["latents"])
        return {}

    pipe(**case.arguments([50], size), num_inference_steps=calls, callback_on_step_end=see)
    return found[-1]


@pytest.fixture(scope="module")
def flux() -> tuple[Case, Any, Calibration]:
    case = case_of("FluxPipeline")
    pipe = case.build()
    own = pipe.scheduler
    found = calibrate(pipe, [CALLS], inputs=runs(case, [0, 1, 2], [3, 4, 5, 6, 7]), progress=False)
    assert pipe.scheduler is own
    return case, pipe, found


@pytest.mark.slow
def test_a_pipeline_of_several_runs_is_calibrated_on_its_own_shifted_grid(flux: tuple[Case, Any, Calibration]) -> None:
    _, _, found = flux
    errors = found.report["errors"][str(CALLS)]
    assert errors["held_back"] == min(each["held_back"] for each in errors["candidates"])
    assert errors["held_back"] < errors["candidates"][0]["held_back"]
    assert found.report["trajectories"] == 8 and found.report["model"] == "FluxPipeline"


@pytest.mark.slow
def test_the_calibrated_pipeline_says_so_and_another_resolution_falls_back_with_one_warning(
    flux: tuple[Case, Any, Calibration], caplog: pytest.LogCaptureFixture
) -> None:
    case, _, found = flux
    pipe = case.build()
    pipe.scheduler = found.scheduler(pipe.scheduler.config)
    latents(pipe, case, case.sizes[0])
    assert "calibrated rows" in pipe.scheduler.describe()
    with caplog.at_level(logging.WARNING, logger="ab_schedulers"):
        for _ in range(2):
            other = latents(pipe, case, case.sizes[1])
    assert "theory rows" in pipe.scheduler.describe()
    assert sum("another grid" in line.getMessage() for line in caplog.records) == 1
    plain = case.build(ABCacheScheduler.from_config(case.scheduler().config))
    assert torch.equal(other, latents(plain, case, case.sizes[1]))


@pytest.mark.slow
def test_a_saved_pipeline_carries_its_calibration(flux: tuple[Case, Any, Calibration], tmp_path: Any) -> None:
    case, _, found = flux
    scheduler = found.scheduler(case.scheduler().config)
    scheduler.save_pretrained(tmp_path)
    again = type(scheduler).from_pretrained(tmp_path)
    first, second = (latents(case.build(each), case, case.sizes[0]) for each in (scheduler, again))
    assert torch.equal(first, second)
    assert "calibrated rows" in again.describe()


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["DiTPipeline", "SanaPipeline"])
def test_one_run_of_several_samples_is_calibrated_on_every_base(pipeline: str) -> None:
    case = case_of(pipeline)
    pipe = case.build()
    options = {"inputs": runs(case, [0, 1, 2, 3]), "progress": False}
    known = record(pipe, **options)
    found = calibrate(pipe, [CALLS], trajectories=known, max_model_calls=40, **options)
    scheduler = found.scheduler(pipe.scheduler.config)
    pipe.scheduler = scheduler
    pipe(**case.arguments([9], case.sizes[0]), num_inference_steps=CALLS)
    assert "calibrated rows" in scheduler.describe()
    assert found.report["model_calls"] <= 40


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["DiTPipeline", "SanaPipeline", "FluxPipeline"])
def test_a_calibration_to_the_pipelines_own_steps_comes_nearer_to_them(pipeline: str) -> None:
    case = case_of(pipeline)
    pipe = case.build()
    stock, steps = pipe.scheduler, 3 * CALLS
    groups = [[0, 1, 2], [3, 4, 5, 6, 7]] if pipeline == "FluxPipeline" else [[0, 1, 2, 3, 4, 5, 6, 7]]
    options = {"inputs": runs(case, *groups), "num_base_steps": steps, "progress": False}
    known = record(pipe, **options)
    assert known.states.shape[1] == steps + 1 and pipe.scheduler is stock
    found = calibrate(pipe, [CALLS], trajectories=known, **options)
    errors = found.report["errors"][str(CALLS)]
    assert errors["held_back"] <= min(each["held_back"] for each in errors["candidates"] if each["start"])
    pipe.scheduler = found.scheduler(stock.config)
    pipe(**case.arguments([9], case.sizes[0]), num_inference_steps=CALLS)
    assert "calibrated rows" in pipe.scheduler.describe() and pipe.scheduler.plan.num_base_steps == steps


def test_a_failing_pipeline_gets_its_scheduler_back() -> None:
    case = case_of("FluxPipeline")
    pipe = case.build()
    own = pipe.scheduler
    pipe.transformer = None
    with pytest.raises(AttributeError):
        record(pipe, inputs=runs(case, [0, 1]), progress=False)
    assert pipe.scheduler is own


def test_a_pipeline_that_starts_in_the_middle_is_refused() -> None:
    case = next(case for case in CASES if case.pipeline == "StableDiffusionImg2ImgPipeline")
    arguments = {key: value for key, value in case.arguments([0, 1], case.sizes[0]).items() if key != "strength"}
    for steps in (None, 10):
        with pytest.raises(ValueError, match="in the middle"):
            record(case.build(), inputs=[arguments], num_base_steps=steps, progress=False)
