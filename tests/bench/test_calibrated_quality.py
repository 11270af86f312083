"""Fréchet distances of `bench calibration` are paired by set, and measured once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ab_schedulers.bench import calibrated_quality
from ab_schedulers.bench.calibrated_quality import Cell, paired_quality
from ab_schedulers.bench.methods import DEFAULTS, Contender, base, cached
from ab_schedulers.models import load


def test_every_cell_is_compared_with_its_own_first_side_and_nothing_is_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("dit-flow")
    stock = model.scheduler

    def cell(calls: int) -> Cell:
        first, *rest = base(stock, calls), cached(stock, DEFAULTS, calls, 10), base(stock, calls)
        twin = Contender(label="twin", scheduler=rest[1].scheduler, num_inference_steps=calls)
        return Cell(model=model, sides=[first, rest[0], twin], converged=base(stock, 6))

    measured = []
    plain = calibrated_quality.measure

    def counting(task: object, **options: object) -> object:
        measured.append(task)
        return plain(task, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrated_quality, "measure", counting)
    text = paired_quality([cell(2), cell(3)], sets=2, samples=40, out=tmp_path)
    assert len(measured) == 2 * 3 * 2 + 2  # both cells share the converged samples
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if "dit-flow" in line]
    assert [row[2] for row in rows] == ["2", "2", "2", "6", "3", "3", "3", "6"] and {row[3] for row in rows} == {"2"}
    for first, ours, twin, converged in (rows[:4], rows[4:]):
        assert converged[1].endswith("6 calls") and converged[9] == "" and converged[4:5] == rows[3][4:5]
        assert twin[9] == first[9] != "" and float(twin[9]) > 0
        assert first[5] == "" and float(twin[5]) == 0 and twin[4] == first[4]
        assert float(ours[5]) == pytest.approx(float(ours[4]) - float(first[4]), abs=2e-3) and float(ours[5]) != 0
    assert rows[0][4] != rows[4][4]
    assert float(rows[4][9]) < float(rows[0][9])  # 3 steps come nearer to 6 than 2 do
    assert paired_quality([cell(2), cell(3)], sets=2, samples=40, out=tmp_path) == text
    assert len(measured) == 2 * 3 * 2 + 2
    kept = json.loads((tmp_path / "calibration_quality.json").read_text(encoding="utf-8"))
    assert len(kept["scores"]) == 14 and kept["settings"] == {"samples": 40}
    with pytest.raises(ValueError, match="samples"):
        paired_quality([cell(2)], sets=2, samples=60, out=tmp_path)
