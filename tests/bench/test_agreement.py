"""The agreement table compares whole runs, and would show a scheduler that walks another grid."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers.bench.agreement import Pair, agreement, amplified_rounding, largest_difference, pairs


@pytest.mark.parametrize("pair", pairs()[::5], ids=lambda pair: pair.label)
def test_difference_to_stock_is_a_few_times_what_one_rounding_of_the_noise_makes(pair: Pair) -> None:
    few = dataclasses.replace(pair, steps=20)
    assert largest_difference(few, torch.float32) < 1e-4
    assert 1e-8 < amplified_rounding(few) < 1e-4


def test_a_grid_that_stock_walks_otherwise_stands_out() -> None:
    """Stock DDIM leaves its own trailing grid unless the number of steps divides 1000."""
    stock = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    assert largest_difference(Pair(label="", kind="vp", stock=stock, steps=30), torch.float32) > 1e-3


def test_the_table_has_a_line_for_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Pair(label="flow", kind="flow", stock=FlowMatchEulerDiscreteScheduler(), steps=5)
    monkeypatch.setattr("ab_schedulers.bench.agreement.pairs", lambda: [flow])
    lines = agreement().splitlines()
    assert lines[2].startswith("flow") and len(lines[2].split()) == 5
