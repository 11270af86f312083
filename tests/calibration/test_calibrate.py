"""Calibration of functions: what it finds, what it costs, how it is carried along."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from ab_schedulers import ABCacheScheduler, Calibration, calibrate
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.calibration import Trajectories, estimated_calls, record
from ab_schedulers.calibration.calibrate import _chosen
from ab_schedulers.calibration.refinement import Judge, Trial

CALLS = 6


@pytest.fixture(scope="module", params=["vp", "flow"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fit(function: Any, noise: torch.Tensor, calls: Any = CALLS, **options: Any) -> Calibration:
    config = function.subject.scheduler.config
    return calibrate(function, [calls], inputs=noise, config=config, progress=False, **options)


@pytest.mark.slow
def test_the_error_on_unseen_noise_is_at_most_half_of_the_uncalibrated_one(
    mixture: Any, noise: Any, walk: Any, kind: str
) -> None:
    function = mixture(kind)
    stock = function.subject.scheduler
    calibrated = fit(function, noise(48)).scheduler(stock.config)
    plain = ABCacheScheduler.from_config(stock.config)
    unseen = noise(200, seed=77)
    exact = function.subject.converged(unseen, 1000.0 if kind == "flow" else 999.0)
    errors = [rmse(walk(function, each, unseen, CALLS), exact) for each in (calibrated, plain)]
    assert "calibrated rows" in calibrated.describe() and "theory rows" in plain.describe()
    assert errors[0] < 0.5 * errors[1]


def test_no_start_beats_the_choice_on_the_trajectories_held_back_and_of_the_rest_it_is_the_best_on_all(
    mixture: Any, noise: Any, kind: str
) -> None:
    found = fit(mixture(kind), noise(16)).report["errors"][str(CALLS)]
    candidates = found["candidates"]
    assert {each["start"] for each in candidates} == {True, False}
    bound = min(each["held_back"] for each in candidates if each["start"])
    rest = [each for each in candidates if each["held_back"] <= bound]
    assert found["held_back"] <= bound
    assert found["all"] == min(each["all"] for each in rest)
    assert candidates[0]["label"] == "default options" and candidates[0]["start"]
    if kind == "vp":
        assert any(each["label"].startswith("stock UniPC") for each in candidates)


def test_a_fit_that_a_start_beats_on_the_trajectories_held_back_is_not_chosen_however_well_it_fits() -> None:
    def trial(label: str, fit_error: float, held_error: float) -> Any:
        walk = SimpleNamespace(label=label, entry=dict)
        error = (3 * fit_error + held_error) / 4
        return Trial(walk=walk, recording=None, fit_error=fit_error, held_error=held_error, error=error)

    start, overfitted, honest = trial("start", 0.5, 0.5), trial("overfitted", 0.0, 0.6), trial("honest", 0.45, 0.48)
    runs = SimpleNamespace(config=DDIMScheduler(clip_sample=False).config)
    assert overfitted.error < honest.error < start.error
    entry, _ = _chosen([(start, True), (overfitted, False), (honest, False)], runs)
    assert entry["found_as"] == "honest"
    entry, _ = _chosen([(start, True), (overfitted, False)], runs)
    assert entry["found_as"] == "start"


def test_one_trajectory_near_a_fork_does_not_choose_for_the_others() -> None:
    def trial(label: str, misses: list[float]) -> Trial:
        walk = SimpleNamespace(label=label, entry=dict)
        recording = SimpleNamespace(final=torch.tensor(misses)[:, None].expand(-1, 3))
        return judge.verdict(walk, recording)  # type: ignore[arg-type]

    fit = torch.arange(8) % 4 != 3
    judge = Judge(runs=None, final=torch.zeros(8, 3), fit=fit)  # type: ignore[arg-type]
    even, forked = trial("even", [0.2] * 8), trial("forked", [0.02] * 3 + [0.3] + [0.02] * 4)
    assert even.fit_error == pytest.approx(0.2) and even.error == pytest.approx(0.2)
    assert forked.held_error == pytest.approx(0.16) and forked.error == pytest.approx(0.055)
    assert root_mean_square(forked, ~fit) > root_mean_square(even, ~fit)
    entry, _ = _chosen([(even, True), (forked, False)], SimpleNamespace(config=DDIMScheduler(clip_sample=False).config))
    assert entry["found_as"] == "forked"


def root_mean_square(trial: Trial, chosen: torch.Tensor) -> float:
    return float(trial.recording.final[chosen].square().mean().sqrt())


def test_no_more_model_calls_are_made_than_estimated_and_reported(mixture: Any, noise: Any) -> None:
    function = mixture("flow")
    found = fit(function, noise(16))
    reference = record(function, inputs=noise(16), config=function.subject.scheduler.config, progress=False)
    assert found.report["model_calls"] + reference.states.shape[1] - 1 == function.calls
    assert found.report["model_calls"] <= 135 + estimated_calls(CALLS, restarts=True, passes=1)


def test_a_budget_is_kept_and_still_leaves_the_best_start(mixture: Any, noise: Any) -> None:
    function = mixture("vp")
    for budget in (135 + CALLS, 135 + 60):
        function.calls = 0
        found = fit(function, noise(16), max_model_calls=budget)
        assert function.calls <= budget and str(CALLS) in found.entries


def test_a_budget_below_one_reference_run_is_refused_before_any_call(mixture: Any, noise: Any) -> None:
    function = mixture("vp")
    with pytest.raises(ValueError, match=r"max_model_calls`=100 is too small.* take 141 model calls"):
        fit(function, noise(16), max_model_calls=100)
    assert function.calls == 0


def test_saved_trajectories_spare_the_reference_and_give_the_same_fit(mixture: Any, noise: Any, tmp_path: Any) -> None:
    function = mixture("vp")
    config = function.subject.scheduler.config
    record(function, inputs=noise(16), config=config, progress=False).save(tmp_path / "seen" / "t.safetensors")
    function.calls = 0
    again = fit(function, noise(16), trajectories=Trajectories.load(tmp_path / "seen" / "t.safetensors"))
    without = function.calls
    assert fit(function, noise(16)).entries == again.entries
    assert function.calls - without == without + 135


def test_trajectories_of_other_noise_are_refused(mixture: Any, noise: Any) -> None:
    function = mixture("vp")
    known = record(function, inputs=noise(16), config=function.subject.scheduler.config, progress=False)
    with pytest.raises(ValueError, match="start from other noise"):
        fit(function, noise(16, seed=6), trajectories=known)


def test_the_reference_is_close_to_the_exact_trajectories(mixture: Any, noise: Any, kind: str) -> None:
    function = mixture(kind)
    known = record(function, inputs=noise(32), config=function.subject.scheduler.config, progress=False)
    exact = function.subject.converged(noise(32), 1000.0 if kind == "flow" else 999.0)
    assert rmse(known.final, exact.float()) < 5e-3


def test_a_calibration_travels_with_the_scheduler(
    mixture: Any, noise: Any, walk: Any, kind: str, tmp_path: Any
) -> None:
    function = mixture(kind)
    found = fit(function, noise(16), calls=4)
    scheduler = found.scheduler(function.subject.scheduler.config)
    scheduler.save_pretrained(tmp_path)
    again = type(scheduler).from_pretrained(tmp_path)
    found.save(tmp_path / "calibration.json")
    loaded = Calibration.load(tmp_path / "calibration.json")
    assert loaded.entries == found.entries and loaded.report == found.report
    start = noise(3, seed=9)
    ends = [
        walk(function, each, start, 4)
        for each in (scheduler, again, loaded.scheduler(function.subject.scheduler.config))
    ]
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])
    assert "calibrated rows" in again.describe()


def test_calibrations_of_several_fits_are_kept_together(mixture: Any, noise: Any) -> None:
    function = mixture("vp")
    config = function.subject.scheduler.config
    first = fit(function, noise(8), calls=3, max_model_calls=138).scheduler(config)
    both = fit(function, noise(8), calls=4, max_model_calls=139).scheduler(first.config)
    assert set(both.config.calibrations) == {"3", "4"}


def test_the_report_says_how_it_was_found(mixture: Any, noise: Any) -> None:
    report = fit(mixture("vp"), noise(16), max_model_calls=141).report
    assert report["trajectories"] == 16 and report["held_back"] == 4 and report["model"] == "Counting"
    assert {"ab_schedulers", "diffusers", "torch", "python"} == set(report["versions"])


def test_few_trajectories_are_warned_of(mixture: Any, noise: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ab_schedulers"):
        fit(mixture("vp"), noise(4), max_model_calls=141)
    assert any("4 trajectories are few" in record.getMessage() for record in caplog.records)


def test_a_run_on_another_shift_falls_back_to_theory_rows_with_one_warning(
    mixture: Any, noise: Any, caplog: pytest.LogCaptureFixture
) -> None:
    function = mixture("flow")
    found = fit(function, noise(8), calls=4, max_model_calls=139)
    other = found.scheduler(function.subject.scheduler.config, shift=3.0)
    with caplog.at_level(logging.WARNING, logger="ab_schedulers"):
        other.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25])
        other.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25])
    assert "theory rows" in other.describe()
    assert sum("another grid" in record.getMessage() for record in caplog.records) == 1


def test_sigmas_that_are_not_the_pipelines_own_fall_back_to_theory_rows(mixture: Any, noise: Any) -> None:
    function = mixture("flow")
    scheduler = fit(function, noise(16), calls=4).scheduler(function.subject.scheduler.config)
    scheduler.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25])
    assert "calibrated rows" in scheduler.describe()
    scheduler.set_timesteps(sigmas=[1, 0.7, 0.4, 0.2])
    assert "theory rows" in scheduler.describe()
    assert scheduler.timesteps.tolist() == pytest.approx([1000, 700, 400, 200])


BASE_STEPS = 3 * CALLS


@pytest.mark.slow
@pytest.mark.parametrize("stock", ["ddim", "dpmsolver", "flow"])
def test_a_calibration_to_the_base_reproduces_it_twice_as_well_on_unseen_noise(
    mixture: Any, noise: Any, walk: Any, stock: str
) -> None:
    function = mixture("flow" if stock == "flow" else "vp")
    scheduler = function.subject.scheduler
    if stock == "dpmsolver":
        scheduler = DPMSolverMultistepScheduler.from_config(scheduler.config)
    options = {"inputs": noise(48), "config": scheduler.config, "progress": False}
    to_base = calibrate(function, [CALLS], num_base_steps=BASE_STEPS, **options).scheduler(scheduler.config)
    to_converged = calibrate(function, [CALLS], **options).scheduler(scheduler.config)
    plain = ABCacheScheduler.from_config(scheduler.config)
    unseen = noise(200, seed=77)
    target = walk(function, scheduler, unseen, BASE_STEPS)
    errors = [rmse(walk(function, each, unseen, CALLS), target) for each in (to_base, to_converged, plain)]
    assert to_base.plan.num_base_steps == BASE_STEPS and "calibrated rows" in to_base.describe()
    assert errors[0] < 0.5 * min(errors[1:])


def test_the_reference_of_base_steps_is_the_stock_run(mixture: Any, noise: Any, walk: Any, kind: str) -> None:
    function = mixture(kind)
    stock = function.subject.scheduler
    known = record(function, inputs=noise(5), config=stock.config, num_base_steps=10, progress=False)
    assert function.calls == 10 and known.states.shape == (5, 11, 16) and known.num_base_steps == 10
    torch.testing.assert_close(known.final, walk(function, stock, noise(5), 10).float(), rtol=0, atol=1e-5)


def test_saved_base_trajectories_say_what_they_are_and_serve_nothing_else(
    mixture: Any, noise: Any, tmp_path: Any
) -> None:
    function = mixture("vp")
    config = function.subject.scheduler.config
    record(function, inputs=noise(16), config=config, num_base_steps=12, progress=False).save(tmp_path / "t")
    known = Trajectories.load(tmp_path / "t")
    again = fit(function, noise(16), num_base_steps=12, trajectories=known)
    assert again.entries == fit(function, noise(16), num_base_steps=12).entries
    assert again.report["num_base_steps"] == 12 and again.entries[str(CALLS)]["num_base_steps"] == 12
    function.calls = 0
    with pytest.raises(ValueError, match=r"are of 12 base steps, expected trajectories converged"):
        fit(function, noise(16), trajectories=known)
    with pytest.raises(ValueError, match=r"are of 12 base steps, expected trajectories of 18 base steps"):
        fit(function, noise(16), num_base_steps=18, trajectories=known)
    assert function.calls == 0


@pytest.mark.parametrize("calls", [5, 7])
def test_windows_of_different_lengths_are_calibrated_on_the_grid_of_the_base(
    mixture: Any, noise: Any, walk: Any, kind: str, calls: int
) -> None:
    function = mixture(kind)
    found = fit(function, noise(16), calls=calls, num_base_steps=16, max_model_calls=16 + 40 * calls)
    scheduler = found.scheduler(function.subject.scheduler.config)
    stock = function.subject.scheduler
    walk(function, scheduler, noise(3), calls)
    walk(function, stock, noise(3), 16)
    assert "calibrated rows" in scheduler.describe() and scheduler.plan.num_base_steps == 16
    expected = [float(stock.timesteps[i]) for i in scheduler.plan.compute_steps]
    assert scheduler.timesteps.tolist() == pytest.approx(expected)
