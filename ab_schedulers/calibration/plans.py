"""Which base steps to call: the plan of the reference, and a family of plans to search."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator

from ab_schedulers.schedulers.grids import NoiseGrid

# Widths and numbers of the reference's windows, in thousandths of the base grid: dense at both ends, where model
# outputs change fastest.
_REFERENCE_WINDOWS = ((1, 4), (3, 4), (6, 4), (10, 85), (5, 10), (3, 12), (2, 8), (1, 8))
_LAMBDA_RANGE = (-5.0, 4.6)  # sigma / alpha from 150 to 0.01

Shape = tuple[float, float]
"""Share of log-SNR in the density of the calls, and the exponent that draws them to the noisy end."""

_GRID: tuple[Shape, ...] = tuple((share, power) for power in (1.0, 1.25) for share in (0.0, 0.35, 0.7, 1.0))


def reference_steps(num_base_steps: int) -> tuple[int, ...]:
    """Base steps at which the reference calls the model: at most 135, dense at both ends."""
    positions, place = [], 0
    for width, count in _REFERENCE_WINDOWS:
        for _ in range(count):
            positions.append(place)
            place += width
    return tuple(sorted({position * num_base_steps // place for position in positions}))


def shaped_steps(nodes: NoiseGrid, num_calls: int, shape: Shape) -> tuple[int, ...]:
    """``num_calls`` base steps at equal parts of a mixed measure of base steps and log-SNR.

    ``c(i) = (1 - w) i/N + w Λ(i)`` with Λ the log-SNR, clipped and scaled to rise from 0 to 1; call ``j`` stands where
    ``c`` reaches ``(j/n)^p``, for the shape ``(w, p)``.
    """
    share, power = shape
    low, high = _LAMBDA_RANGE
    measure = []
    for i, angle in enumerate(nodes.angles[:-1]):
        log_ratio = -math.log(math.tan(min(max(angle, 1e-9), math.pi / 2 - 1e-9)))
        part = (min(max(log_ratio, low), high) - low) / (high - low)
        measure.append((1 - share) * i / nodes.count + share * part)
    first = measure[0]
    steps: list[int] = []
    for j in range(num_calls):
        wanted = first + (1 - first) * (j / num_calls) ** power
        place = bisect_left(measure, wanted)
        least = steps[-1] + 1 if steps else 0
        steps.append(min(max(place, least), nodes.count - num_calls + j))
    return tuple(steps)


def search_shapes(error: Callable[[Shape], float], allowed: Callable[[], bool]) -> Shape:
    """The shape with the smallest ``error``: a small grid, then half a step around the best.

    Args:
        error: Error of a shape; asked once for each.
        allowed: Whether the budget bears one more question.
    """
    known: dict[Shape, float] = {}
    for shape in _GRID:
        if known and not allowed():
            break
        known[shape] = error(shape)
    for shape in _neighbours(min(known, key=lambda shape: known[shape])):
        if shape not in known and allowed():
            known[shape] = error(shape)
    return min(known, key=lambda shape: known[shape])


def _neighbours(shape: Shape) -> Iterator[Shape]:
    share, power = shape
    for other in ((share + 0.15, power), (share - 0.15, power), (share, power + 0.125), (share, power - 0.125)):
        if 0 <= other[0] <= 1 and 0.6 <= other[1] <= 2:
            yield other


MOST_SHAPES = len(_GRID) + 4
"""How many shapes `search_shapes` asks for at most."""
