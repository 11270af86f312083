"""Building a table by votes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ab_schedulers import EBCacheConfig, apply_eb_cache, build_eb_table, remove_cache
from ab_schedulers.caching.voting import STAGE_BOUNDARY, Ballot, majority

Loop = Callable[..., torch.Tensor]


def test_no_tolerance_computes_all_and_leaves_the_model_as_it_was(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    model = family.build()
    bare = run_loop(family, model)
    table = build_eb_table(
        model, lambda i: run_loop(family, model, seed=i), num_inference_steps=10, samples=2, delta=0.0
    )
    assert (table.attention, table.mlp) == ("C" * 10, "C" * 10)
    assert not any(hasattr(module, "_diffusers_hook") for module in model.modules())
    assert torch.equal(run_loop(family, model), bare)


def test_any_tolerance_reuses_all_but_the_first_step(families: Any, run_loop: Loop) -> None:
    family = families["pixart"]
    model = family.build()
    table = build_eb_table(
        model, lambda i: run_loop(family, model, seed=i), num_inference_steps=10, samples=1, delta=1e9, tilt=0.0
    )
    assert table.attention == table.mlp == table.cross_attention == "C" + "R" * 9


@pytest.mark.parametrize("guidance", ["none", "batched", "separate"])
def test_each_stage_skips_its_own_candidate(families: Any, run_loop: Loop, guidance: str) -> None:
    """Where only one kind is reused, it is the MLP early and attention late; the table's runs are walked by it."""
    family = families["dit"]
    model = family.build()
    table = build_eb_table(
        model,
        lambda i: run_loop(family, model, seed=i, guidance=guidance),
        num_inference_steps=10,
        samples=2,
        delta=0.3,
        tilt=0.0,
    )
    for step, (attention, mlp) in enumerate(zip(table.attention, table.mlp, strict=True)):
        early = (950 - 100 * step) / 1000 > STAGE_BOUNDARY
        assert attention == "C" or mlp == "R" or not early
        assert mlp == "C" or attention == "R" or early
    assert 0 < table.computed("mlp") + table.computed("attention") < 20
    apply_eb_cache(model, EBCacheConfig(table=table))
    run_loop(family, model, guidance=guidance)


def test_a_target_speedup_is_reached_with_provenance(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    model = family.build()
    table = build_eb_table(
        model,
        lambda i: run_loop(family, model, seed=i),
        num_inference_steps=10,
        samples=1,
        target_speedup=1.1,
        tilt=0.0,
        action="E",
    )
    noted = dict(table.provenance)
    assert noted["ideal_speedup"] >= 1.1 and noted["model"] == "DiTTransformer2DModel" and noted["delta"] > 0
    assert set(table.attention + table.mlp) <= {"C", "E"}
    shares = noted["time_shares"]
    saved = sum(shares[k] * (1 - table.computed(k) / 10) for k in shares)
    assert noted["ideal_speedup"] == pytest.approx(1 / (1 - saved), rel=0.02)


def test_the_majority_decides_and_a_tie_computes() -> None:
    assert majority({"both": 3, "candidate": 2, "none": 2}) == "both"
    assert majority({"both": 2, "candidate": 2, "none": 1}) == "candidate"
    assert majority({"both": 2, "candidate": 0, "none": 2}) == "none"


def test_votes_of_several_runs_add_up() -> None:
    ballot = Ballot()
    ballot.cast(1, {"both": 3, "none": 1})
    ballot.cast(1, {"none": 3})
    assert majority(ballot.votes[1]) == "none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of"),
        ({"delta": 0.1, "target_speedup": 2.0}, "exactly one of"),
        ({"target_speedup": 1.0}, "must exceed 1"),
        ({"delta": -0.1}, "must not be negative"),
        ({"delta": 0.1, "tilt": 2.0}, "`tilt` must lie"),
        ({"delta": 0.1, "action": "C"}, "`action` must be one of"),
        ({"delta": 0.1, "samples": 0}, "`samples` at least 1"),
        ({"delta": 0.1, "num_inference_steps": 12}, "had 10 steps"),
        ({"target_speedup": 100.0}, "the largest found is"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_hook(
    families: Any, run_loop: Loop, options: dict[str, Any], message: str
) -> None:
    family = families["dit"]
    model = family.build()
    with pytest.raises(ValueError, match=message):
        build_eb_table(model, lambda i: run_loop(family, model), **{"num_inference_steps": 10, "samples": 1, **options})
    assert not any(hasattr(module, "_diffusers_hook") for module in model.modules())


def test_a_pipeline_is_served_through_its_transformer(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    pipe = type("Pipe", (), {"transformer": family.build()})()
    table = build_eb_table(
        pipe, lambda i: run_loop(family, pipe.transformer), num_inference_steps=10, samples=1, delta=0.1
    )
    apply_eb_cache(pipe.transformer, EBCacheConfig(table=table))
    remove_cache(pipe.transformer)
