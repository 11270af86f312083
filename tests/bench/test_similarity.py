"""The similarity of adjacent outputs is measured where its formula is exact, and the command prints both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ab_schedulers.bench.mixtures import MixtureFlow
from ab_schedulers.bench.similarity import Curve, curve, spectrum
from ab_schedulers.bench.subjects import mixture_subject
from ab_schedulers.cli import main

ROOT = Path(__file__).parents[2]


def gaussian(std: float) -> MixtureFlow:
    """A mixture of one component in four dimensions, away from the origin."""
    return MixtureFlow(
        means=torch.full((1, 4), 0.5, dtype=torch.float64),
        stds=torch.tensor([std], dtype=torch.float64),
        weights=torch.ones(1, dtype=torch.float64),
    )


@pytest.mark.parametrize("kind", ["vp", "flow"])
@pytest.mark.parametrize("std", [0.4, 1.0, 2.5])
def test_on_gaussian_data_the_measured_curve_is_the_formula(kind: str, std: float) -> None:
    """Up to the spread of 1000 trajectories and the width of a step, but for the last ones, where V varies within."""
    subject = mixture_subject(kind, gaussian(std))
    found = curve(subject, steps=100, trajectories=1000, spectrum_samples=20_000)
    assert found.speed[:85] == pytest.approx(found.speed_formula[:85], rel=0.1)
    assert found.similarity[:85] == pytest.approx(found.similarity_formula[:85], abs=0.02)


def test_the_spectrum_is_that_of_the_data() -> None:
    variances, square_mean = spectrum(mixture_subject("flow", gaussian(0.7)), 40_000)
    assert variances.tolist() == pytest.approx([0.49] * 4, rel=0.05)
    assert square_mean == pytest.approx(4 * 0.25, rel=0.03)


def test_a_curve_is_a_u_if_both_ends_exceed_the_middle() -> None:
    def shaped(speed: list[float]) -> bool:
        places = tuple(1 - i / len(speed) for i in range(len(speed)))
        values = tuple(speed)
        return Curve(
            places=places, speed=values, speed_formula=values, similarity=values, similarity_formula=values
        ).is_u_shaped()[0]

    assert shaped([3.0, 2.0, 1.0, 2.0, 3.0])
    assert not shaped([1.0, 2.0, 3.0, 4.0, 5.0])
    assert not shaped([1.0, 2.0, 3.0, 2.0, 1.0])


def test_the_command_prints_both_curves_and_writes_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = [
        "--steps",
        "12",
        "--trajectories",
        "8",
        "--spectrum-samples",
        "100",
        "--json",
        str(tmp_path / "c.json"),
    ]
    assert main(["bench", "similarity", "--subjects", "mixture-flow", *arguments]) == 0
    written = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert written.pop("settings") == {"steps": 12, "trajectories": 8, "spectrum_samples": 100}
    assert list(written) == ["mixture-flow"]
    assert {len(series) for series in written["mixture-flow"].values()} == {11}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mixture-flow: 12 calls, 8 trajectories; correlation")
    assert lines[2].split() == ["r", "similarity", "formula", "|du/dr|", "formula"]
    assert len(lines) == 4 + 11
    assert main(["bench", "similarity", "--subjects", "sd3"]) == 2
    assert "--subjects knows dit-epsilon" in capsys.readouterr().err
    assert main(["bench", "similarity", "--json", str(tmp_path / "gone" / "c.json")]) == 2
    assert "does not exist; make it" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_the_committed_curves_of_the_mixtures_are_those_of_the_code(kind: str) -> None:
    committed = json.loads((ROOT / "theory" / "measured_similarity.json").read_text(encoding="utf-8"))
    found = curve(mixture_subject(kind), **committed["settings"])
    for series, values in committed[f"mixture-{kind}"].items():
        assert values == pytest.approx(getattr(found, series), rel=0.01), f"run bench similarity --json again: {series}"


@pytest.mark.slow
def test_the_outputs_of_a_bundled_model_change_most_at_both_ends() -> None:
    from ab_schedulers.models import load

    found = curve(load("dit-flow"), steps=20, trajectories=4, spectrum_samples=20)
    assert found.is_u_shaped()[0]
