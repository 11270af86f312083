"""EB-Cache: equal to the bare model where all is computed, by the table elsewhere, fresh in every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ab_schedulers import EBCacheConfig, EBTable, apply_ab_cache, apply_eb_cache
from ab_schedulers.caching import NAMED_TABLES, EBFamily, register_eb_family
from ab_schedulers.caching import families as registry

Loop = Callable[..., torch.Tensor]
Model = torch.nn.Module
MIXED = EBTable(attention="CCRRCRECRC", mlp="CCCRRCRECC", cross_attention="CRRRRCEECC")
MODULES = {  # (attention, cross-attention, MLP) of the tiny models
    "dit": (2, 0, 2),
    "pixart": (2, 2, 2),
    "sd3": (3, 0, 3),
    "flux": (3, 0, 4),
    "hunyuan_video": (2, 0, 3),
    "wan": (2, 2, 2),
    "qwen_image": (2, 0, 4),
    "cogvideox": (2, 0, 2),
    "ltx": (2, 2, 2),
}


@pytest.mark.parametrize("guidance", ["none", "batched", "separate"])
def test_a_table_that_computes_all_is_the_bare_model(family: Any, model: Model, run_loop: Loop, guidance: str) -> None:
    bare = run_loop(family, model, guidance=guidance)
    apply_eb_cache(model, EBCacheConfig(table=[0] * 10))
    assert torch.equal(run_loop(family, model, guidance=guidance), bare)


@pytest.mark.parametrize("guidance", ["batched", "separate"])
def test_every_run_equals_a_fresh_one(family: Any, model: Model, run_loop: Loop, guidance: str) -> None:
    bare = run_loop(family, model, guidance=guidance)
    apply_eb_cache(model, EBCacheConfig(table=MIXED))
    fresh = run_loop(family, model, guidance=guidance)
    assert torch.isfinite(fresh).all() and not torch.allclose(fresh, bare, atol=1e-4)
    assert torch.equal(run_loop(family, model, guidance=guidance), fresh)
    for calls in (1, 2, 5):
        with pytest.raises(RuntimeError, match="outside"):
            run_loop(family, model, guidance=guidance, seed=5, fail_after=calls)
        assert torch.equal(run_loop(family, model, guidance=guidance), fresh)
    run_loop(family, model, guidance=guidance, batch=3)
    assert torch.equal(run_loop(family, model, guidance=guidance), fresh)


def test_a_failure_in_a_step_that_computes_all_leaves_the_hooks_in_place(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    model = family.build()
    apply_eb_cache(model, EBCacheConfig(table=EBTable(attention="CCCRRRRRRR", mlp="CCCRRRRRRR")))
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    fresh = run_loop(family, model)
    handle = model.transformer_blocks[1].register_forward_pre_hook(lambda *_: _fail())
    with pytest.raises(RuntimeError, match="inside"):
        run_loop(family, model)
    handle.remove()
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert torch.equal(run_loop(family, model), fresh)


def _fail() -> None:
    raise RuntimeError("inside the model")


def test_what_others_put_around_a_module_later_runs_at_every_step(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    model = family.build()
    apply_eb_cache(model, EBCacheConfig(table=EBTable(attention="CCCRRRCCCC", mlp="C" * 10)))
    attention, calls = model.transformer_blocks[0].attn1, []
    hooked = attention.forward
    attention.forward = lambda *args, **kwargs: calls.append(1) or hooked(*args, **kwargs)
    run_loop(family, model)
    assert len(calls) == 10


def test_each_kind_finds_its_modules_and_no_others(families: Any) -> None:
    for name, family in families.items():
        model = family.build()
        found = [kind for kind, _ in _family_of(model).modules(model).values()]
        assert tuple(found.count(kind) for kind in ("attention", "cross_attention", "mlp")) == MODULES[name], name


def _family_of(model: Model) -> EBFamily:
    return registry.family_of(model)


@pytest.mark.parametrize("kind", ["attention", "cross_attention", "mlp"])
def test_each_kind_is_skipped_by_its_own_row(family: Any, model: Model, run_loop: Loop, kind: str) -> None:
    """Counts the calls of the real modules: the other kinds are computed at all ten steps."""
    counts: dict[str, int] = {}
    for of_kind, module in _family_of(model).modules(model).values():
        inner = module.forward

        def counted(*args: Any, _inner: Any = inner, _key: str = of_kind, **kwargs: Any) -> Any:
            counts[_key] = counts.get(_key, 0) + 1
            return _inner(*args, **kwargs)

        module.forward = counted
    rows = {"attention": "C" * 10, "cross_attention": "C" * 10, "mlp": "C" * 10, kind: "CRRCECRRRC"}
    apply_eb_cache(model, EBCacheConfig(table=EBTable(**rows)))
    run_loop(family, model)
    modules = [of_kind for of_kind, _ in _family_of(model).modules(model).values()]
    expected = {k: modules.count(k) * (4 if k == kind else 10) for k in set(modules)}
    assert counts == expected


def test_reused_and_extrapolated_outputs_are_those_of_the_computed_steps(families: Any) -> None:
    """One MLP's output at four steps: computed twice, then extrapolated, then reused, whatever its input is."""
    family = families["dit"]
    model = family.build()
    outputs: list[torch.Tensor] = []
    apply_eb_cache(model, EBCacheConfig(table=EBTable(attention="CCCC", mlp="CCER")))
    model.transformer_blocks[1].ff.register_forward_hook(lambda _, __, output: outputs.append(output.clone()))
    x = torch.randn(2, *family.sample, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in (900, 800, 500, 400):
            model(x, torch.tensor(t).expand(2), return_dict=False, **family.prompt(0, 2))
    assert not torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[2], 2 * outputs[1] - outputs[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(outputs[3], outputs[1])


def test_the_modulation_of_a_skipped_step_is_computed(families: Any) -> None:
    """With everything reused the output still follows the timestep, through gates and the last modulation."""
    family = families["dit"]
    model = family.build()
    apply_eb_cache(model, EBCacheConfig(table=[0, 2]))
    x = torch.randn(1, *family.sample, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (model(x, torch.tensor([t]), return_dict=False, **family.prompt(0, 1))[0] for t in (900, 100))
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_released_table_reads_as_published() -> None:
    table = NAMED_TABLES["dit-ddpm-50"]
    assert table.num_steps == 50
    assert table.attention == table.mlp
    assert (table.computed("attention"), table.attention.count("R")) == (34, 16)
    assert table.attention[:23] == "C" * 22 + "R" and table.attention[-6:] == "RRCRRC"


def test_a_uniform_table_computes_every_nth_step_and_the_end() -> None:
    assert EBTable.uniform(7, 3).mlp == "CRRCRRC"
    table = EBTable.uniform(8, 2, action="E", end_steps=3)
    assert table.attention == table.mlp == table.cross_attention == "CECECCCC"
    for interval, end_steps in ((0, 0), (2, 9), (2, -1)):
        with pytest.raises(ValueError, match="`interval` must be positive and `end_steps` between"):
            EBTable.uniform(8, interval, end_steps=end_steps)


def test_outputs_are_kept_only_where_a_later_step_needs_them() -> None:
    table = EBTable(attention="CCCRCCEC", mlp="CCCCCCCC")
    assert table.used_later("attention", 2) == (False, False, True, False, True, True, False, False)
    assert not any(table.used_later("mlp", 2))


def test_tables_survive_saving(tmp_path: Path) -> None:
    table = EBTable(attention="CRE", mlp="CCR", cross_attention="CRR", provenance={"samples": 8})
    table.save(tmp_path / "table.json")
    assert EBTable.load(tmp_path / "table.json") == table
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        EBTable.load(tmp_path / "broken.json")
    (tmp_path / "other.json").write_text('{"attention": "C"}')
    with pytest.raises(ValueError, match="holds no table"):
        EBTable.load(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ({"attention": "CR", "mlp": "CRR"}, ValueError, "one positive length"),
        ({"attention": "", "mlp": ""}, ValueError, "one positive length"),
        ({"attention": "RC", "mlp": "CC"}, ValueError, "must begin with C"),
        ({"attention": "CC", "mlp": "EC"}, ValueError, "`mlp` must begin with C"),
        ({"attention": "CX", "mlp": "CC"}, ValueError, "letters C, R and E"),
        ({"attention": [0, 1], "mlp": "CC"}, TypeError, "string of the letters"),
    ],
)
def test_wrong_rows_are_refused(rows: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EBTable(**rows)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"table": [0, 3]}, ValueError, "0, 1 and 2 alone"),
        ({"table": [0, True]}, ValueError, "0, 1 and 2 alone"),
        ({"table": []}, ValueError, "0, 1 and 2 alone"),
        ({"table": [2, 0]}, ValueError, "must begin with C"),
        ({"table": "dit-ddpm-250"}, ValueError, "must be one of"),
        ({"table": 50}, TypeError, "a name or a list of states"),
        ({"table": "dit-ddpm-50", "num_inference_steps": 30}, ValueError, "for runs of 50 steps"),
        ({"table": "dit-ddpm-50", "order": 0}, ValueError, "`order`"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EBCacheConfig(**options)


def test_what_cannot_be_cached_is_refused_before_a_hook_is_placed(families: Any, run_loop: Loop) -> None:
    config = EBCacheConfig(table=[0] * 10)
    unknown = torch.nn.Module()
    unknown.forward = lambda hidden_states, timestep: None
    with pytest.raises(ValueError, match=r"transformer_blocks\.d\+\.attn1"):
        apply_eb_cache(unknown, config)
    bare = type("DiTTransformer2DModel", (torch.nn.Module,), {"forward": lambda self, hidden_states, timestep: None})()
    with pytest.raises(ValueError, match="has no modules for attention"):
        apply_eb_cache(bare, config)
    model = families["pixart"].build()
    with pytest.raises(TypeError, match="must be an EBCacheConfig"):
        apply_eb_cache(model, "dit-ddpm-50")
    model.transformer_blocks[1].set_chunk_feed_forward(4, 1)
    with pytest.raises(ValueError, match="disable_forward_chunking"):
        apply_eb_cache(model, config)
    assert not any(hasattr(m, "_diffusers_hook") for m in [*model.modules(), unknown, bare])


def test_chunking_switched_on_later_is_noticed(families: Any, run_loop: Loop) -> None:
    family = families["pixart"]
    model = family.build()
    apply_eb_cache(model, EBCacheConfig(table=MIXED))
    model.transformer_blocks[1].set_chunk_feed_forward(4, 1)
    with pytest.raises(ValueError, match="called twice"):
        run_loop(family, model)


def test_a_run_longer_than_the_table_is_refused(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    model = family.build()
    apply_eb_cache(model, EBCacheConfig(table=[0, 2, 0]))
    with pytest.raises(ValueError, match="has 3 steps"):
        run_loop(family, model)


def test_a_second_cache_over_the_first_is_refused(families: Any, run_loop: Loop) -> None:
    family = families["dit"]
    model = family.build()
    apply_eb_cache(model, EBCacheConfig(table=MIXED))
    before = run_loop(family, model)
    for second in (lambda: apply_eb_cache(model, EBCacheConfig(table=[0] * 10)), lambda: apply_ab_cache(model)):
        with pytest.raises(ValueError, match="carries a cache of ab_schedulers already"):
            second()
    assert torch.equal(run_loop(family, model), before)


def test_others_can_register_a_family(families: Any, run_loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FAMILIES", {})
    family = families["dit"]
    model = family.build()
    with pytest.raises(ValueError, match="is no transformer known"):
        apply_eb_cache(model, EBCacheConfig(table=MIXED))
    register_eb_family(
        "DiTTransformer2DModel", EBFamily(attention=(r"transformer_blocks\.\d\.attn1",), mlp=(r".*\.ff",))
    )
    apply_eb_cache(model, EBCacheConfig(table=MIXED))
    with pytest.raises(TypeError, match="must be an EBFamily"):
        register_eb_family("DiTTransformer2DModel", {})
    with pytest.raises(ValueError, match="no regular expression"):
        EBFamily(attention=("(",), mlp=("ff",))
    with pytest.raises(ValueError, match="tuple of patterns"):
        EBFamily(attention="attn", mlp=("ff",))
