"""Moves of the calls along the base grid, for the joint refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ab_schedulers.schedulers.grids import NoiseGrid

from .least_squares import row_changes, shifted
from .walks import Walk, theory_walk

_SHARE = 8  # a move is one part in so many of the narrower window beside the call
_REACH = 2.0  # moves


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A call that stands ``steps`` base steps later."""

    call: int
    steps: int


def possible_moves(walk: Walk) -> list[Move]:
    """One move for every call but the first, of an eighth of the narrower window beside it and at least one step."""
    gaps = [after - before for before, after in pairwise([*walk.steps, walk.nodes.count])]
    moves = []
    for call, (left, right) in enumerate(pairwise(gaps), start=1):
        steps = max(1, min(left, right) // _SHARE)
        if steps < right:
            moves.append(Move(call=call, steps=steps))
    return moves


def with_moves(walk: Walk, moves: Sequence[Move], lengths: Sequence[float]) -> Walk:
    """The walk with every call moved ``lengths`` times, at most two times either way, see `at_places`.

    Calls stay in order, and the first stays where it is.
    """
    steps = list(walk.steps)
    for move, length in zip(moves, lengths, strict=True):
        steps[move.call] += round(max(-_REACH, min(_REACH, length)) * move.steps)
    for call in range(1, len(steps)):
        last = walk.nodes.count - len(steps) + call
        steps[call] = min(max(steps[call], steps[call - 1] + 1), last)
    return at_places(walk, walk.nodes, steps)


def at_places(walk: Walk, nodes: NoiseGrid, steps: Sequence[int]) -> Walk:
    """The walk with its calls at other base steps, on its own grid or another, its rows changed as those of theory are.

    A row keeps what a fit has added to the row of theory; only the latter, which belongs to the places, is exchanged.
    """
    here = theory_walk(walk.nodes, walk.steps, walk.quantity).rows
    there = theory_walk(nodes, steps, walk.quantity).rows
    depth = max(len(row.history) for row in (*here, *there))
    changes = row_changes(there, here, depth)
    rows = [shifted(row, changes[call, : 1 + min(depth, call + 1)]) for call, row in enumerate(walk.rows)]
    return replace(walk, nodes=nodes, steps=tuple(steps), rows=tuple(rows))
