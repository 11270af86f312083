"""What `bench transfer` builds from calibrations made elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ab_schedulers.bench import transfer as transfer_module
from ab_schedulers.bench.subjects import mixture_subject
from ab_schedulers.bench.transfer import Guided, between, excess, fitted_walk, transfer, transplanted, with_excess
from ab_schedulers.calibration import Calibration
from ab_schedulers.calibration.walks import Walk, theory_walk
from ab_schedulers.schedulers.grids import NoiseGrid


def vp_nodes(count: int, bend: float = 1.0) -> NoiseGrid:
    angles = [math.pi / 2 * (1 - (i / count) ** bend) for i in range(count + 1)]
    return NoiseGrid(
        timesteps=tuple(float(count - i) for i in range(count)),
        alphas=tuple(math.cos(angle) for angle in angles),
        sigmas=tuple(math.sin(angle) for angle in angles),
        flow=False,
    )


def fitted(nodes: NoiseGrid, calls: int, more: float = 0.1) -> Walk:
    """Even calls with a tenth of an output more in every row."""
    steps = [i * nodes.count // calls for i in range(calls)]
    added = torch.zeros(calls, 7, dtype=torch.float64)
    added[:, 1] = more
    return with_excess(nodes, steps, added, "velocity")


def test_between_two_equal_fits_everything_stays_and_between_others_it_lies_in_the_middle() -> None:
    nodes = vp_nodes(600)
    for low, high, wanted in ((6, 10, 8), (5, 10, 6), (6, 8, 7)):
        found = between(fitted(nodes, low), fitted(nodes, high), nodes, wanted)
        assert list(found.steps) == [pytest.approx(i * 600 / wanted, abs=0.5) for i in range(wanted)]
        assert torch.allclose(excess(found)[:, 1], torch.full((wanted,), 0.1, dtype=torch.float64))
        assert float(excess(found)[:, [0, 2, 3, 4, 5, 6]].abs().max()) < 1e-9


def test_the_nearer_of_two_numbers_of_calls_weighs_more() -> None:
    nodes = vp_nodes(600)
    for wanted, more in ((7, 0.15), (8, 0.2), (9, 0.25)):
        found = between(fitted(nodes, 6), fitted(nodes, 10, more=0.3), nodes, wanted)
        assert torch.allclose(excess(found)[:, 1], torch.full((wanted,), more, dtype=torch.float64))


def test_rows_on_the_grid_of_another_model_stand_at_the_same_angles_with_the_same_excess() -> None:
    own, other = vp_nodes(600), vp_nodes(600, bend=1.5)
    walk = fitted(own, 6)
    found = transplanted(walk, other)
    assert found.steps != walk.steps
    for i, j in zip(walk.steps, found.steps, strict=True):
        assert own.angles[i] == pytest.approx(other.angles[j], abs=3e-3)
    assert torch.allclose(excess(found), excess(walk))
    assert transplanted(walk, own) == walk


def test_a_grid_too_coarse_for_the_angles_is_refused() -> None:
    with pytest.raises(ValueError, match="too coarse"):
        transplanted(fitted(vp_nodes(600), 12), vp_nodes(8))


def test_a_fitted_walk_is_read_back() -> None:
    nodes = vp_nodes(600)
    walk = fitted(nodes, 5)
    found = fitted_walk(Calibration(entries={"5": walk.entry()}, report={}), nodes, 5)
    assert found.steps == walk.steps and torch.allclose(excess(found), excess(walk))
    theory = theory_walk(nodes, walk.steps, "velocity")
    assert float(excess(theory).abs().max()) == 0


class _Classes:
    """A mixture dressed as a bundled model of four classes that shift its output."""

    model, num_classes = None, 4

    def __init__(self, name: str) -> None:
        self.exact = mixture_subject("flow")
        self.name, self.scheduler, self.sample_shape = name, self.exact.scheduler, self.exact.sample_shape

    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        shift = torch.where(labels < 4, 0.1 * (1.0 + labels), torch.zeros(())).to(sample.dtype)
        return self.exact.predict(sample, timestep) + shift[:, None]


def test_guidance_goes_from_the_output_without_a_class_through_that_with_it() -> None:
    model: Any = _Classes("smooth")
    sample = torch.randn(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    time, labels = torch.tensor(500.0), torch.tensor([0, 1, 3])
    plain, nothing = (model.predict(sample, time, each) for each in (labels, torch.full((3,), 4)))
    for scale in (0.0, 1.0, 3.0):
        guided = Guided(bundled=model, guidance=scale).predict(sample, time, labels)
        assert torch.allclose(guided, nothing + scale * (plain - nothing))


def test_every_side_is_compared_with_its_own_fit_and_with_placed_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ab_schedulers.bench.references.FLOW_STEPS", 60)
    monkeypatch.setattr(transfer_module, "load", _Classes)
    options: dict[str, Any] = {"models": ["one", "two"], "guidance": 2.0, "trajectories": 20, "sets": 2, "samples": 4}
    transfer(calls=5, out=tmp_path, **options)
    lines = (tmp_path / "transfer.md").read_text(encoding="utf-8").splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    shown = [row[1] for row in rows if row[0] == "one"]
    assert shown == [
        "itself, 20 trajectories",
        "itself, 16 trajectories",
        "guidance 2",
        "itself at 3 and 7 calls",
        "two",
        "placed calls, nothing fitted",
    ]
    own, placed = rows[0], rows[5]
    assert own[3] == "1.00" and placed[4] == "1.00" and float(own[4]) < 1
    twin = next(row for row in rows if row[1] == "two")
    assert twin[2] == own[2]  # the same model under another name
    assert {row[0] for row in rows} == {"one", "one, guidance 2", "two", "two, guidance 2"}
    with pytest.raises(ValueError, match="at least 5"):
        transfer(calls=4, out=tmp_path, **options)
