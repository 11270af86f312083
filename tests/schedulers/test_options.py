"""What a run tells about itself, resets, calibrations, noise scaling, and what it keeps in memory."""

from __future__ import annotations

import copy
import gc
import logging
import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers import (
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
    CachePlan,
)

TRAILING = {"timestep_spacing": "trailing", "clip_sample": False}
KINDS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "ddim": (ABCacheDDIMScheduler, DDIMScheduler, TRAILING),
    "dpmsolver": (ABCacheDPMSolverMultistepScheduler, DPMSolverMultistepScheduler, {}),
    "dpmsolver, velocity": (
        ABCacheDPMSolverMultistepScheduler,
        DPMSolverMultistepScheduler,
        {"prediction_type": "v_prediction", "cache_quantity": "model_output", "solver_order": 3},
    ),
    "flow": (ABCacheFlowMatchEulerScheduler, FlowMatchEulerDiscreteScheduler, {"shift": 2.0}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
CACHE = {"cache_interval": 3, "cache_order": 3, "cache_variable": "index", "cache_corrector": None}
Build = Callable[..., Any]


@pytest.fixture
def build() -> Build:
    """A scheduler of a kind with a grid, its cache options stated."""

    def scheduler(kind: str, calls: int = 8, **options: Any) -> Any:
        ours, _, config = KINDS[kind]
        built = ours(**{**CACHE, **config, **options})
        built.set_timesteps(calls)
        return built

    return scheduler


def stock_of(scheduler: Any, kind: str) -> Any:
    """Stock on the base grid of ours."""
    _, base, config = KINDS[kind]
    stock = base(**{k: v for k, v in config.items() if not k.startswith("cache_")})
    stock.set_timesteps(scheduler.plan.num_base_steps)
    return stock


# -- reading --------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize(("options", "base_steps"), [({}, 24), ({"warmup_calls": 2}, 20), ({"num_base_steps": 21}, 21)])
def test_the_plan_walks_the_warm_up_and_then_an_interval_per_call(
    build: Build, kind: str, options: Any, base_steps: int
) -> None:
    scheduler = build(kind, **options)
    plan = scheduler.plan
    assert isinstance(plan, CachePlan)
    assert plan.num_base_steps == base_steps == len(scheduler.base_timesteps)
    assert plan.num_calls == 8 == len(scheduler.timesteps) == len(scheduler.rows)
    lengths = [len(window) for window in plan.windows]
    warmup = options.get("warmup_calls", 0)
    assert lengths[:warmup] == [1] * warmup
    assert max(lengths[warmup:]) - min(lengths[warmup:]) <= 1
    assert sum(lengths) == base_steps


@every_kind
def test_before_any_grid_there_is_nothing_to_read(kind: str) -> None:
    ours, _, config = KINDS[kind]
    scheduler = ours(**config)
    assert scheduler.plan is None and scheduler.base_timesteps is None
    assert scheduler.rows == scheduler.history == scheduler.error_estimates == ()


@every_kind
def test_what_is_read_cannot_be_set(build: Build, kind: str) -> None:
    scheduler = build(kind)
    for name in ("plan", "base_timesteps", "rows", "history", "error_estimates", "step_index", "begin_index"):
        with pytest.raises(AttributeError):
            setattr(scheduler, name, None)


@every_kind
@pytest.mark.parametrize("corrector", [None, 2])
def test_the_table_has_a_line_per_call_with_its_row(
    build: Build, denoiser: Any, start: Any, kind: str, corrector: int | None
) -> None:
    scheduler = build(kind, cache_corrector=corrector)
    sample = start()
    for timestep in scheduler.timesteps[:5]:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    table = scheduler.describe()
    title, header, *lines = table.splitlines()
    assert type(scheduler).__name__ in title
    assert "8 model calls walk 24 base steps" in title and "theory rows" in title and "index" in title
    depth = max(len(row.history) + len(row.base_history) for row in scheduler.rows)
    assert f"row depth {depth}" in title
    assert header.split()[:5] == ["call", "timestep", "steps", "order", "corr."]
    assert len(lines) == 8
    for call, (line, row) in enumerate(zip(lines, scheduler.rows, strict=True)):
        numbers, _, weights = line.partition("|")
        columns = numbers.split()
        assert columns[0] == str(call)
        assert float(columns[1]) == pytest.approx(float(scheduler.timesteps[call]), abs=0.01)
        assert columns[2:4] == ["3", str(row.order)]
        assert columns[4] == (str(row.corrector) if row.corrector else "-")
        held = (*row.history, *row.base_history)
        assert float(columns[5]) == pytest.approx(sum(map(abs, held)), abs=1e-4)
        estimate = scheduler.error_estimates[call] if call < 5 else None
        assert columns[6] == ("-" if estimate is None else f"{estimate:.2e}")
        assert float(columns[7]) == pytest.approx(row.sample, abs=1e-5)
        assert [float(w) for w in weights.split()] == pytest.approx(list(held), abs=1e-5)


@every_kind
def test_the_history_holds_the_newest_output_first(build: Build, denoiser: Any, start: Any, kind: str) -> None:
    scheduler = build(kind, cache_quantity="model_output" if kind != "flow" else "velocity")
    sample, outputs = start(), []
    for timestep in scheduler.timesteps:
        output = denoiser(sample, timestep)
        sample = scheduler.step(output, timestep, sample).prev_sample
        outputs.insert(0, output)
        assert len(scheduler.history) >= 1
        for held, given in zip(scheduler.history, outputs, strict=False):
            assert torch.allclose(held, given, rtol=1e-12, atol=1e-12)


# -- error estimates ------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("order", [2, 3])
def test_an_estimate_is_the_difference_that_one_order_less_makes_to_the_window(
    build: Build, slow_walk: Any, denoiser: Any, start: Any, kind: str, order: int
) -> None:
    """Exact here, where the sample has no more than 1024 entries: each window walked twice by the slow walk."""
    scheduler = build(kind, cache_order=order)
    sample = start()
    walk = slow_walk(scheduler=scheduler, stock=stock_of(scheduler, kind))
    expected: list[float | None] = []
    known: list[Any] = []
    for call, (timestep, window) in enumerate(zip(scheduler.timesteps, scheduler.plan.windows, strict=True)):
        quantity, output, _ = walk._observe(denoiser, sample, window.start)
        known.insert(0, (window.start, quantity, output))
        ends = [walk._walk(sample, window, known, min(k, call + 1), hold=False, first=0) for k in (order, order - 1)]
        expected.append(None if call + 1 < order else float((ends[0] - ends[1]).square().mean().sqrt()))
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    estimates = scheduler.error_estimates
    assert [e is None for e in estimates] == [e is None for e in expected]
    assert [e or 0 for e in estimates] == pytest.approx([e or 0 for e in expected], rel=1e-8, abs=1e-13)
    assert sum(bool(e) for e in estimates) >= 4


@every_kind
def test_estimates_of_large_samples_come_from_an_excerpt_and_agree(
    build: Build, denoiser: Any, start: Any, kind: str
) -> None:
    """An excerpt of a sample that repeats itself sees what the small sample sees."""
    small, large = build(kind), build(kind)
    for scheduler, copies in ((small, 1), (large, 64)):
        sample = start(torch.float64, (1, 1, 32)).repeat(1, copies, 1)
        for timestep in scheduler.timesteps:
            output = denoiser(sample[:, :1], timestep).repeat(1, copies, 1)
            sample = scheduler.step(output, timestep, sample).prev_sample
    pairs = [(a, b) for a, b in zip(small.error_estimates, large.error_estimates, strict=True) if a is not None]
    assert len(pairs) >= 5
    assert all(0.5 <= b / a <= 2 for a, b in pairs if a > 1e-12)


@every_kind
def test_there_is_no_estimate_at_order_one(build: Build, run: Any, denoiser: Any, start: Any, kind: str) -> None:
    scheduler = build(kind, cache_order=1)
    run(scheduler, denoiser, start())
    assert scheduler.error_estimates == (None,) * 8


@every_kind
def test_reading_estimates_and_the_table_changes_nothing(
    build: Build, run: Any, denoiser: Any, start: Any, kind: str
) -> None:
    expected = run(build(kind), denoiser, start())
    scheduler, sample = build(kind), start()
    for timestep in scheduler.timesteps:
        scheduler.describe(), scheduler.error_estimates, scheduler.history, scheduler.rows
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    assert torch.equal(sample, expected[-1])


# -- reset_history --------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("corrector", [None, 3])
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_reset_in_mid_run_equals_a_fresh_run_from_there(
    build: Build, run: Any, denoiser: Any, start: Any, kind: str, corrector: int | None, at: int
) -> None:
    scheduler, fresh, sample = build(kind, cache_corrector=corrector), build(kind, cache_corrector=corrector), start()
    for timestep in scheduler.timesteps[:at]:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    expected = run(fresh, denoiser, sample, begin=at)
    scheduler.reset_history()
    assert scheduler.history == () and scheduler.error_estimates == ()
    for timestep in scheduler.timesteps[at:]:
        sample = scheduler.step(denoiser(sample, timestep), timestep, sample).prev_sample
    assert torch.equal(sample, expected[-1])
    assert scheduler.describe() == fresh.describe()


@every_kind
def test_a_reset_before_the_first_step_or_after_the_last_does_nothing(
    build: Build, run: Any, denoiser: Any, start: Any, kind: str
) -> None:
    expected = run(build(kind), denoiser, start())
    scheduler = build(kind)
    scheduler.reset_history()
    assert torch.equal(run(scheduler, denoiser, start())[-1], expected[-1])
    scheduler.reset_history()
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(start(), scheduler.timesteps[-1], start())


# -- calibrations ---------------------------------------------------------------------------------------------------


def calibration(scheduler: Any, quantity: str, rows: Any = None, **changes: Any) -> dict[str, Any]:
    """An entry that says what the scheduler does by itself, or other rows."""
    calls = list(scheduler.plan.compute_steps)
    if isinstance(scheduler, DDIMScheduler):
        cumprod = scheduler.alphas_cumprod[scheduler.base_timesteps[calls]].tolist()
        sigmas = [*(math.sqrt(1 - a) for a in cumprod), 0.0]
    elif isinstance(scheduler, DPMSolverMultistepScheduler):
        sigmas = [s / math.sqrt(1 + s * s) for s in scheduler.sigmas.tolist()]
    else:
        sigmas = scheduler.sigmas.tolist()
    return {
        "num_base_steps": scheduler.plan.num_base_steps,
        "compute_steps": calls,
        "cache_quantity": quantity,
        "timesteps": scheduler.timesteps.tolist(),
        "sigmas": sigmas,
        "rows": rows or [{"sample": row.sample, "history": list(row.history)} for row in scheduler.rows],
        **changes,
    }


@pytest.mark.parametrize("kind", ["ddim", "dpmsolver", "flow"])
@pytest.mark.parametrize("corrector", [None, 3])
def test_calibrated_rows_that_equal_theory_rows_reproduce_the_theory_run(
    build: Build, run: Any, denoiser: Any, start: Any, kind: str, corrector: int | None
) -> None:
    theory = build(kind, cache_corrector=corrector, cache_quantity="sample", warmup_calls=1)
    entry = calibration(theory, "sample")
    # other options in the config: the calibration overrides plan, order and corrector for its number of calls
    calibrated = build(kind, calibrations={"8": entry}, cache_order=1, cache_interval=2)
    assert calibrated.plan == theory.plan
    ends = [run(each, denoiser, start(), seed=1)[-1] for each in (theory, calibrated)]
    assert torch.equal(*ends)
    assert "calibrated rows" in calibrated.describe() and "theory rows" in theory.describe()
    assert calibrated.error_estimates == (None,) * 8
    calibrated.set_timesteps(5)
    assert "theory rows" in calibrated.describe() and calibrated.plan == CachePlan.uniform(
        num_calls=5, cache_interval=2
    )


@pytest.mark.parametrize("kind", ["ddim", "dpmsolver", "flow"])
def test_calibrated_rows_are_applied_as_they_stand(build: Build, denoiser: Any, start: Any, kind: str) -> None:
    theory = build(kind, 3)
    rows = [
        {"sample": 0.5, "history": [0.3]},
        {"sample": 0.6, "history": [0.2, 0.1]},
        {"sample": 0.7, "history": [0.4]},
    ]
    scheduler = build(kind, 3, calibrations={"3": calibration(theory, "sample", rows)})
    sample, cleans = start(), []
    for timestep, level, row in zip(scheduler.timesteps, calibration(theory, "sample")["sigmas"], rows, strict=False):
        output = denoiser(sample, timestep)
        clean = sample - level * output if kind == "flow" else (sample - level * output) / math.sqrt(1 - level * level)
        cleans.insert(0, clean)
        expected = row["sample"] * sample + sum(b * c for b, c in zip(row["history"], cleans, strict=False))
        sample = scheduler.step(output, timestep, sample).prev_sample
        assert torch.allclose(sample, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["ddim", "dpmsolver", "flow"])
@pytest.mark.parametrize("part", ["timesteps", "sigmas", "num_base_steps"])
def test_a_calibration_of_another_grid_warns_once_and_leaves_the_theory_run(
    build: Build, run: Any, denoiser: Any, start: Any, caplog: pytest.LogCaptureFixture, kind: str, part: str
) -> None:
    theory = build(kind)
    entry = calibration(theory, "sample")
    entry[part] = entry[part] + 1 if part == "num_base_steps" else [1.001 * v for v in entry[part]]
    expected = run(theory, denoiser, start())
    with caplog.at_level(logging.WARNING, logger="ab_schedulers"):
        scheduler = build(kind, calibrations={"8": entry})
        scheduler.set_timesteps(8)
    records = [r for r in caplog.records if "calibration" in r.getMessage()]
    assert len(records) == 1
    assert "theory rows" in scheduler.describe() and scheduler.plan == theory.plan
    assert torch.equal(run(scheduler, denoiser, start())[-1], expected[-1])


@pytest.mark.parametrize("kind", ["ddim", "dpmsolver", "flow"])
def test_a_start_in_the_middle_and_fresh_noise_use_theory_rows(
    build: Build, run: Any, denoiser: Any, start: Any, kind: str
) -> None:
    theory = build(kind)
    rows = [{"sample": 0.5, "history": [0.3]}] * 8
    scheduler = build(kind, calibrations={"8": calibration(theory, "sample", rows)})
    assert "calibrated rows" in scheduler.describe()
    ends = [run(each, denoiser, start(), begin=3)[-1] for each in (scheduler, theory)]
    assert torch.equal(*ends)
    assert "theory rows" in scheduler.describe()
    if kind == "ddim":
        scheduler.set_timesteps(8)
        theory.set_timesteps(8)
        ends = [run(each, denoiser, start(), eta=1.0, seed=2)[-1] for each in (scheduler, theory)]
        assert torch.equal(*ends)


# -- noise scaling --------------------------------------------------------------------------------------------------

SCALINGS: list[tuple[Mapping[str, Any], Callable[[float], float]]] = [
    ({"value": 0.98}, lambda t: 0.98),
    (
        {"high": 0.98, "low": 0.96, "threshold": 0.4},
        lambda t: (
            0.98 + 0.02 * math.exp(-5 * (1 - t) / 0.6) if t >= 0.4 else 0.96 + 0.02 * math.exp(5 * (t - 0.4) / 0.6)
        ),
    ),
    (
        {"t": [0.2, 0.5, 0.9], "values": [0.96, 0.99, 1.01]},
        lambda t: (
            0.96 if t <= 0.2 else 1.01 if t >= 0.9 else 0.96 + (t - 0.2) * 0.1 if t <= 0.5 else 0.99 + (t - 0.5) * 0.05
        ),
    ),
    ({"t": [0.5], "values": [0.97]}, lambda t: 0.97),
]


@every_kind
@pytest.mark.parametrize(("scaling", "factor"), SCALINGS, ids=[str(list(s)) for s, _ in SCALINGS])
def test_noise_scaling_multiplies_the_predicted_noise_of_every_call(
    build: Build, run: Any, denoiser: Any, start: Any, difference: Any, kind: str, scaling: Any, factor: Any
) -> None:
    """The same as a model whose predicted noise is scaled by hand."""
    ours, _, config = KINDS[kind]
    scaled, plain = (ours(**{**CACHE, **config, "noise_scaling": s}) for s in (scaling, None))
    for each in (scaled, plain):  # sigma = 1 holds no clean sample behind a scaled noise
        each.set_timesteps(**({"sigmas": [0.96, 0.8, 0.6, 0.4, 0.2]} if kind == "flow" else {"num_inference_steps": 8}))
    levels = dict(zip(plain.timesteps.tolist(), calibration(plain, "sample")["sigmas"], strict=False))

    def model(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        output, sigma, b = denoiser(sample, timestep), levels[timestep.item()], factor(float(timestep) / 1000)
        if kind == "flow":
            noise = b * (sample + (1 - sigma) * output)
            return noise - (sample - sigma * noise) / (1 - sigma)
        alpha = math.sqrt(1 - sigma * sigma)
        if plain.config.prediction_type == "epsilon":
            return b * output
        noise = b * (sigma * sample + alpha * output)
        return alpha * noise - sigma * (sample - sigma * noise) / alpha

    ran = run(scaled, denoiser, start())
    untouched = copy.deepcopy(plain)
    assert difference(ran, run(plain, model, start())) <= 1e-5
    assert difference(ran, run(untouched, denoiser, start())) > 1e-4


def test_noise_scaling_by_one_changes_nothing(build: Build, run: Any, denoiser: Any, start: Any) -> None:
    for kind in KINDS:
        ends = [run(build(kind, noise_scaling=s), denoiser, start())[-1] for s in (None, {"value": 1.0})]
        assert torch.equal(*ends)


# -- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dpmsolver", "flow"])
def test_a_number_of_calls_that_looks_like_steps_is_pointed_out_once_per_scheduler(
    build: Build, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    with caplog.at_level(logging.WARNING, logger="ab_schedulers"):
        scheduler = build(kind, 39)
        build(kind, 50, cache_interval=1)
        assert not caplog.records
        for calls in (40, 50, 60):
            scheduler.set_timesteps(calls)
    (record,) = caplog.records
    assert "40 calls now walk 120 base steps" in record.getMessage()
    assert "num_inference_steps=13" in record.getMessage()


# -- memory ---------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("options", [{}, {"cache_order": 1}, {"cache_order": 4, "cache_corrector": 3}], ids=str)
def test_no_more_latents_are_kept_than_the_row_depth(
    build: Build, denoiser: Any, start: Any, kind: str, options: Any
) -> None:
    """Counted as living tensors of the sample's size, besides the sample of the caller."""
    scheduler = build(kind, **options)
    depth = max(len(row.history) + len(row.base_history) for row in scheduler.rows)
    shape = (1, 3, 37, 31)
    sample = start(torch.float32, shape)
    gc.collect()
    for timestep in scheduler.timesteps:
        output = denoiser(sample, timestep)
        sample = scheduler.step(output, timestep, sample).prev_sample
        del output
        assert living_latents(sample) <= depth
        assert len(scheduler.history) <= depth


def living_latents(sample: torch.Tensor) -> int:
    """Storages of the shape of `sample` that something still holds, besides its own."""
    gc.collect()
    storages = {
        o.untyped_storage().data_ptr() for o in gc.get_objects() if type(o) is torch.Tensor and o.shape == sample.shape
    }
    return len(storages - {sample.untyped_storage().data_ptr()})


@every_kind
def test_the_sample_of_the_caller_is_not_kept(build: Build, denoiser: Any, start: Any, kind: str) -> None:
    scheduler, sample = build(kind), start(torch.float32)
    output = denoiser(sample, 500.0)
    watched = [weakref.ref(sample), weakref.ref(output)]
    scheduler.step(output, scheduler.timesteps[0], sample)
    del sample, output
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


@every_kind
def test_the_last_step_keeps_the_history_short(build: Build, run: Any, denoiser: Any, start: Any, kind: str) -> None:
    scheduler = build(kind, cache_order=4)
    run(scheduler, denoiser, start())
    assert len(scheduler.history) <= 1
