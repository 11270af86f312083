"""Adaptive decisions under torch.distributed, in two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

_RANK = Path(__file__).parent / "adaptive_rank.py"


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_ranks_with_different_samples_compute_the_same_steps(tmp_path: Path) -> None:
    """Alone they would not; together both go by the larger of their estimates."""
    ranks = [
        subprocess.Popen([sys.executable, _RANK, str(rank), tmp_path / "meeting"], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = (json.loads(rank.communicate(timeout=300)[0].splitlines()[-1]) for rank in ranks)
    steps = {when: [[computed for computed, _ in seen[when]] for seen in (first, second)] for when in first}
    assert steps["alone"][0] != steps["alone"][1]
    assert steps["together"][0] == steps["together"][1]
    assert first["together"] == second["together"]
    assert not all(steps["together"][0])
