"""Moves of the calls along the base grid."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ab_schedulers.calibration.function_runs import FunctionRuns
from ab_schedulers.calibration.least_squares import row_changes
from ab_schedulers.calibration.moves import Move, possible_moves, with_moves
from ab_schedulers.calibration.walks import Walk, theory_walk
from ab_schedulers.numerics import Row
from ab_schedulers.schedulers.grids import NoiseGrid


def flow_walk(steps: list[int], count: int = 100) -> Walk:
    sigmas = [1 - i / count for i in range(count + 1)]
    nodes = NoiseGrid(
        timesteps=tuple(1000 * sigma for sigma in sigmas[:-1]),
        alphas=tuple(1 - sigma for sigma in sigmas),
        sigmas=tuple(sigmas),
        flow=True,
    )
    return theory_walk(nodes, steps, "velocity")


plans = st.sets(st.integers(1, 99), min_size=1, max_size=12).map(lambda places: flow_walk([0, *sorted(places)]))


@given(walk=plans, data=st.data())
def test_moved_calls_keep_their_order_and_the_rows_of_theory_become_those_at_the_new_places(
    walk: Walk, data: st.DataObject
) -> None:
    moves = possible_moves(walk)
    lengths = [data.draw(st.floats(-5, 5)) for _ in moves]
    found = with_moves(walk, moves, lengths)
    assert found.steps[0] == 0 and found.steps[-1] < 100 and all(a < b for a, b in pairwise(found.steps))
    theory = theory_walk(walk.nodes, found.steps, walk.quantity)
    assert float(row_changes(found.rows, theory.rows, 6).abs().max()) < 1e-9


@given(walk=plans)
def test_a_single_move_goes_an_eighth_of_the_narrower_window_and_leaves_all_calls_in_place_but_one(walk: Walk) -> None:
    for move in possible_moves(walk):
        found = with_moves(walk, [move], [1.0])
        assert [a - b for a, b in zip(found.steps, walk.steps, strict=True) if a != b] == [move.steps]
        ends = [*walk.steps, 100]
        narrower = min(ends[move.call] - ends[move.call - 1], ends[move.call + 1] - ends[move.call])
        assert move.steps == max(1, narrower // 8)
        assert found.rows[: move.call - 1] == walk.rows[: move.call - 1]


def test_no_call_moves_further_than_two_moves() -> None:
    walk = flow_walk([0, 32, 64])
    assert with_moves(walk, [Move(call=1, steps=4)], [1e6]).steps == (0, 40, 64)
    assert with_moves(walk, [Move(call=1, steps=4)], [-1e6]).steps == (0, 24, 64)


def test_what_a_fit_added_to_a_row_moves_along() -> None:
    walk = flow_walk([0, 32, 64])
    fitted = Walk(
        label="fitted",
        nodes=walk.nodes,
        steps=walk.steps,
        quantity=walk.quantity,
        rows=tuple(
            Row(sample=row.sample + 0.25, history=(row.history[0] - 0.5, *row.history[1:]), order=row.order)
            for row in walk.rows
        ),
    )
    found = with_moves(fitted, possible_moves(fitted), [1.0, -1.0])
    assert found.steps == (0, 36, 60)
    added = row_changes(found.rows, flow_walk([0, 36, 60]).rows, 3)
    assert torch.allclose(added, torch.tensor([[0.25, -0.5, 0, 0]] * 3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_the_end_of_a_moved_walk_from_the_middle_is_that_of_its_own_run(mixture: Any, noise: Any, kind: str) -> None:
    function = mixture(kind)
    runs = FunctionRuns(function, noise(6), function.subject.scheduler.config, 64, lambda: None)
    nodes = runs.base_nodes(5)
    walk = theory_walk(nodes, nodes.placed(5).compute_steps, "velocity")
    everything = torch.ones(6, dtype=torch.bool)
    moves = possible_moves(walk)
    moved = [with_moves(walk, [move], [1.0]) for move in moves]
    ends = runs.ends(walk, [(move.call - 1, other) for move, other in zip(moves, moved, strict=True)], everything)
    assert len(moves) == 4
    for end, other in zip(ends, moved, strict=True):
        assert torch.allclose(end, runs.run(other).final, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(end, runs.run(walk).final, rtol=1e-5, atol=1e-6)
