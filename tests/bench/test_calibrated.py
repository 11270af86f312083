"""`bench calibration` compares on noises and classes that the fit has not seen, and fits nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ab_schedulers.bench import calibrated as calibrated_module
from ab_schedulers.bench.calibrated import calibration, calibration_inputs
from ab_schedulers.bench.processes import written_paths
from ab_schedulers.bench.subjects import ExactSubject, mixture_subject


class _Smooth:
    """An exact flow dressed as a bundled model of four classes."""

    model, num_classes = None, 4

    def __init__(self, name: str) -> None:
        self.exact: ExactSubject = mixture_subject("flow")
        self.name, self.scheduler, self.sample_shape = name, self.exact.scheduler, self.exact.sample_shape
        self.labels: set[int] = set()

    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.labels.update(labels.tolist())
        return self.exact.predict(sample, timestep)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bench on a cheap model, in a folder of its own, and the models that it sampled."""
    monkeypatch.setattr("ab_schedulers.bench.references.FLOW_STEPS", 60)
    models: list[_Smooth] = []

    def load(name: str) -> _Smooth:
        models.append(_Smooth(name))
        return models[-1]

    monkeypatch.setattr(calibrated_module, "load", load)

    def run() -> list[list[str]]:
        calibration(models=["smooth"], calls=[4, 5], trajectories=20, sets=2, samples=6, search_samples=4, out=tmp_path)
        lines = (tmp_path / "calibration.md").read_text(encoding="utf-8").splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    return run, models


def test_the_table_holds_both_sides_and_their_ratio_and_a_second_run_fits_nothing(
    measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = measured
    _, _, *rows, reference = run()
    assert [row[:2] for row in rows] == [["smooth", "4"], ["smooth", "5"]]
    for row in rows:
        stock, fitted = float(row[3].split()[0]), float(row[5].split()[0])
        assert float(row[6]) == pytest.approx(fitted / stock, abs=0.02)
        assert fitted < stock
    assert reference[1] == "reference"
    smallest = min(float(row[5].split()[0]) for row in rows)
    assert float(reference[2].split()[-1]) < smallest
    label, distance, *_ = reference[5].split()
    assert label == "target"
    assert float(distance) < smallest

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(calibrated_module, "calibrate", refuse)
    assert run()[2:] == [*rows, reference]


def test_times_that_another_process_measured_are_shown(measured: Any, tmp_path: Path) -> None:
    run, _ = measured
    run()
    times = tmp_path / "calibrations" / "seconds.json"
    for path in list(json.loads(times.read_text(encoding="utf-8"))):
        beside = times.with_name("seconds.process1.json")
        known = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
        beside.write_text(json.dumps({**known, path: 123.0}), encoding="utf-8")
    times.unlink()
    assert len(written_paths(times)) == 1
    assert [row[7] for row in run()[2:-1]] == ["123", "123"]


def test_fit_and_test_share_no_class(measured: Any) -> None:
    run, models = measured
    run()
    fitted, _ = calibration_inputs(_Smooth("smooth"), 6, 0)
    assert set(fitted.labels.tolist()) == {0, 2}
    assert models[0].labels == {0, 1, 2, 3}


def test_an_exact_mixture_is_fitted_in_double_precision_and_a_model_in_its_own() -> None:
    _, exact = calibration_inputs(mixture_subject("sd"), 4, 0)
    _, plain = calibration_inputs(_Smooth("smooth"), 4, 0)
    assert (
        exact.dtype == torch.float64
        and plain.dtype == torch.float32
        and torch.equal(exact, calibration_inputs(mixture_subject("flow"), 4, 0)[1])
    )


def test_a_mixture_on_stable_diffusions_betas_is_calibrated_and_compared(tmp_path: Path) -> None:
    options: dict[str, Any] = {"calls": [5], "trajectories": 24, "sets": 2, "samples": 6, "search_samples": 4}
    calibration(models=[], mixtures=["sd"], out=tmp_path, **options)
    row = (tmp_path / "calibration.md").read_text(encoding="utf-8").splitlines()[2].split("|")
    assert row[1].strip(" `") == "mixture-sd" and float(row[7]) < 0.5
    with pytest.raises(ValueError, match="knows vp, sd, flow; received edm"):
        calibration(models=[], mixtures=["edm"], out=tmp_path, **options)
    with pytest.raises(ValueError, match="pictures"):
        calibration(models=[], mixtures=["sd"], out=tmp_path, frechet_samples=100, **options)
