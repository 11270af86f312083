"""Whether the model's output jumped in the course of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

# Steady runs of the bundled models stay below 1.3, see `ab-schedulers bench jumps`.
ABRUPT = 2.0


def abruptness(outputs: Sequence[torch.Tensor], nodes: Sequence[float]) -> list[float]:
    r"""How isolated the change at every call is: ``v_i / max(v_{i-1}, v_{i+1})``.

    ``v_i = \|f_i - f_{i-1}\| / |s_i - s_{i-1}|`` is the speed at which the output ``f`` changes in the variable ``s``.
    A smooth output changes its speed gradually; one that jumps is fast at one call alone.

    Args:
        outputs: Outputs of successive calls, oldest first, or excerpts of them (values,).
        nodes: The interpolation variable at each of them.

    Returns:
        A ratio per output; zero for the first two and the last, which lack a neighbour to compare with.
    """
    ratios = [0.0] * len(outputs)
    if len(outputs) < 4:
        return ratios
    stacked = torch.stack(list(outputs)).to(torch.promote_types(outputs[0].dtype, torch.float32))
    changes = stacked.diff(dim=0).square().mean(dim=1).sqrt().tolist()
    speeds = [change / abs(now - before) for change, (before, now) in zip(changes, pairwise(nodes), strict=True)]
    for i in range(1, len(speeds) - 1):
        neighbours = max(speeds[i - 1], speeds[i + 1])
        ratios[i + 1] = speeds[i] / neighbours if neighbours > 0 else math.inf if speeds[i] > 0 else 0.0
    return ratios


def abrupt_call(outputs: Sequence[torch.Tensor], nodes: Sequence[float]) -> int | None:
    """The index of the output that jumped most, or None if none did by more than a factor of two.

    Args:
        outputs: As in `abruptness`.
        nodes: As in `abruptness`.
    """
    ratios = abruptness(outputs, nodes)
    place = max(range(len(ratios)), key=ratios.__getitem__, default=None)
    return place if place is not None and ratios[place] > ABRUPT else None
