"""The measurements of caching: their pure parts exactly, the commands at the smallest size."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ab_schedulers.bench import ablation
from ab_schedulers.bench.ablation import Arm, ArmScore, summary
from ab_schedulers.bench.exposure import snr_decibels
from ab_schedulers.caching import EBTable
from ab_schedulers.cli import main


def test_the_ratio_of_signal_to_noise_is_that_of_the_forward_process() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(8, 1, 100, 100, generator=generator) for _ in range(2))
    for alpha in (0.9, 0.5, 0.2):
        sigma = math.sqrt(1 - alpha**2)
        measured = snr_decibels(alpha * clean + sigma * noise, clean)
        assert measured == pytest.approx(20 * math.log10(alpha / sigma), abs=0.4)
        assert snr_decibels(7 * (alpha * clean + sigma * noise), 3 * clean) == pytest.approx(measured)


def _score(arm: str, seed: int, frechet: float, seconds: float) -> ArmScore:
    return ArmScore(sampler="ddpm", arm=arm, seed=seed, frechet=frechet, accuracy=0.5, seconds=[seconds, seconds])


def test_differences_and_speedups_are_paired() -> None:
    arms = [Arm(label="baseline"), Arm(label="cached", table=EBTable(attention="CR", mlp="CC"))]
    scores = [
        _score("baseline", 1, 4.0, 2.0),
        _score("cached", 1, 3.0, 1.0),
        _score("baseline", 2, 6.0, 4.0),
        _score("cached", 2, 5.5, 2.0),
    ]
    baseline, cached = summary("ddpm", arms, scores)
    assert baseline == ["ddpm", "baseline", "50", "50", "2", "5.000", "", "", "", "50.0 %", "1.00", "1.00 to 1.00"]
    assert cached[2:9] == ["1", "2", "2", "4.250", "-0.750", "0.250", "-15.0 %"]
    assert cached[-2:] == ["2.00", "2.00 to 2.00"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like Fashion-MNIST's with 40 grey images, four of each class."""
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 255, (40, 28, 28), dtype=np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", (np.arange(40) % 10).astype(np.uint8))):
        header = b"\x00\x00\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return folder


@pytest.mark.slow
def test_exposure_writes_curves_and_a_picture(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--samples", "2", "--steps", "4", "--data", str(data), "--out", str(tmp_path)]
    assert main(["bench", "exposure", "--models", "dit-flow", *arguments]) == 0
    assert "constant 0.99" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "exposure.json").read_text())["results"]
    assert set(result["arms"]) == {"uncached", "cached", "cached + scaling"}
    assert len(result["forward"]["snr"]) == 4 and result["arms"]["uncached"] != result["arms"]["cached"]
    assert (tmp_path / "exposure.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_ablation_resumes_and_refuses_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps in the place of fifty, and arms that need no calibration."""
    monkeypatch.setattr(ablation, "STEPS", 2)
    table = EBTable.uniform(2, 2)
    arms = [Arm(label="baseline"), Arm(label="cached", table=table, noise_scaling={"value": 0.99})]
    monkeypatch.setattr(ablation, "prepare", lambda *_: arms)
    command = ["bench", "ablation", "--samplers", "ddpm", "--batch", "2", "--out", str(tmp_path)]
    assert main([*command, "--samples", "4", "--seed-sets", "1"]) == 0
    first = json.loads((tmp_path / "ablation_ddpm_chosen.json").read_text())
    monkeypatch.setattr(ablation, "prepare", None)
    assert main([*command, "--samples", "4", "--seed-sets", "2"]) == 0
    second = json.loads((tmp_path / "ablation_ddpm_chosen.json").read_text())
    assert second["scores"][:2] == first["scores"] and len(second["scores"]) == 4
    assert main([*command, "--samples", "6"]) == 2
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_adaptive_compares_at_equal_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ab_schedulers.bench.adaptive._STEPS", 8)
    arguments = ["--samples", "1", "--sets", "2", "--repeats", "2", "--out", str(tmp_path)]
    assert main(["bench", "adaptive", "--models", "dit-flow", *arguments]) == 0
    content = json.loads((tmp_path / "adaptive.json").read_text())
    methods = {entry["method"]: entry for entry in content["errors"]}
    assert methods["AB-Cache"]["calls"] == methods["plain reuse"]["calls"] < 8
    assert methods["AB-Cache"]["error"] == methods["AB-Cache, sample"]["error"]
    assert methods["AB-Cache"]["error"] != methods["plain reuse"]["error"] > 0
    assert len(content["costs"]) == 6
