"""The longer measurements pair, resume, rank and solve as they say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from ab_schedulers.bench import quality as quality_module
from ab_schedulers.bench.defaults import Entry, defaults
from ab_schedulers.bench.defaults_tables import EQUAL_CALLS, report
from ab_schedulers.bench.environment import environment, fingerprint, read_json, write_json
from ab_schedulers.bench.jumps import Switch, jump_result
from ab_schedulers.bench.methods import DEFAULTS, HOLD, REUSE, base, cached, compared_methods
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.mixtures import ring_mixture
from ab_schedulers.bench.pipeline_overhead import overhead_ratios
from ab_schedulers.bench.quality import Score, summary
from ab_schedulers.bench.references import reference, reference_calls
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.speed import kept_latents, set_timesteps_overhead, spread, step_ratio
from ab_schedulers.bench.subjects import ExactSubject, mixture_subject


@dataclass
class _Network:
    """An exact subject dressed as a network, so that its reference is computed and not known."""

    exact: ExactSubject
    calls: int = 0

    def __post_init__(self) -> None:
        self.name, self.scheduler, self.sample_shape = "network", self.exact.scheduler, self.exact.sample_shape

    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.exact.predict(sample, timestep, labels)


@pytest.mark.parametrize(("kind", "bound"), [("vp", 5e-4), ("flow", 1e-4)])
def test_reference_is_converged_and_read_back(kind: str, bound: float, tmp_path: Path) -> None:
    network = _Network(mixture_subject(kind, ring_mixture(radius=0.5, std=0.4)))
    noise, labels = seeded_noise(network, 16, 0, torch.float64)
    ticks: list[int] = []
    found = reference(network, noise, labels, tmp_path, lambda: ticks.append(1))
    assert network.calls == len(ticks) == reference_calls(network)
    exact = reference(network.exact, noise, labels, tmp_path)
    assert rmse(found.images, exact.images) < bound
    assert found.halving_error < 5 * bound
    again = reference(network, noise, labels, tmp_path)
    assert len(ticks) == reference_calls(network)
    assert torch.equal(again.images, found.images)
    assert again.halving_error == found.halving_error


def test_cached_methods_make_the_calls_they_are_given_and_the_base_makes_them_all() -> None:
    subject = mixture_subject("vp", ring_mixture())
    noise, labels = seeded_noise(subject, 2, 0, torch.float64)
    for method in compared_methods():
        contender = cached(subject.scheduler, method, 4, 3)
        run = sample(subject, contender.scheduler, contender.num_inference_steps, noise, labels)
        assert run.model_calls == 4
        assert contender.scheduler.plan.num_base_steps == 12
    whole = base(subject.scheduler, 12)
    assert sample(subject, whole.scheduler, whole.num_inference_steps, noise, labels).model_calls == 12


def test_plain_reuse_holds_the_model_output_whatever_the_defaults_are() -> None:
    stock = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    for method, predictor in ((REUSE, "extrapolate"), (HOLD, "hold")):
        config = cached(stock, method, 4, 3).scheduler.config
        assert config.cache_predictor == predictor
        assert config.cache_quantity == "model_output"
        assert config.cache_corrector is None


def _scores(distances: dict[str, list[float]]) -> list[Score]:
    return [
        Score(model="m", method=method, seed=seed, fingerprint="f", model_calls=17, frechet=distance, accuracy=0.5)
        for method, of_method in distances.items()
        for seed, distance in enumerate(of_method)
    ]


def test_quality_summary_pairs_by_seed() -> None:
    rows = summary(_scores({"base, 51 steps": [10.0, 20.0], "defaults": [11.0, 21.0]}))
    assert rows[0] == ["m", "base, 51 steps", "17", "2", "15.000", "", "", "", "50.0 %"]
    assert rows[1] == ["m", "defaults", "17", "2", "16.000", "+1.000", "0.000", "+6.7 %", "50.0 %"]


def test_quality_resumes_and_measures_again_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = SimpleNamespace(
        name="m", model=torch.nn.Linear(1, 1), scheduler=DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    )
    measured: list[str] = []

    def measure(task: Any, **_: Any) -> tuple[Score, None]:
        measured.append(task.contender.label)
        score = Score(
            model="m",
            method=task.contender.label,
            seed=task.seed,
            fingerprint=task.fingerprint,
            model_calls=17,
            frechet=10.0,
            accuracy=1.0,
        )
        return score, None

    monkeypatch.setattr(quality_module, "load", lambda name: subject)
    monkeypatch.setattr(quality_module, "load_classifier", lambda: None)
    monkeypatch.setattr(quality_module, "measure", measure)
    options: dict[str, Any] = {"models": ["m"], "samples": 4, "out": tmp_path}
    quality_module.quality(seed_sets=1, **options)
    assert measured == ["base, 51 steps", DEFAULTS.label, REUSE.label]
    quality_module.quality(seed_sets=2, **options)
    assert len(measured) == 6
    quality_module.quality(seed_sets=2, **options)
    assert len(measured) == 6
    torch.nn.init.zeros_(subject.model.weight)
    quality_module.quality(seed_sets=2, **options)
    assert len(measured) == 12
    with pytest.raises(ValueError, match="choose another --out"):
        quality_module.quality(seed_sets=1, **{**options, "samples": 5})


def test_fingerprint_follows_weights_and_options() -> None:
    model = torch.nn.Linear(2, 2)
    before = fingerprint(model, {"cache_order": 2})
    assert fingerprint(model, {"cache_order": 2}) == before
    assert fingerprint(model, {"cache_order": 3}) != before
    torch.nn.init.zeros_(model.bias)
    assert fingerprint(model, {"cache_order": 2}) != before


def test_broken_result_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "quality.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"quality\.json is not JSON"):
        read_json(path)


def test_defaults_table_ranks_and_resumes(tmp_path: Path) -> None:
    first = defaults(subjects=["mixture-flow"], calls=[4], samples=1, out=tmp_path)
    assert "| base at equal calls |" in first
    assert "| defaults |" in first
    stored = json.loads((tmp_path / "defaults.json").read_text(encoding="utf-8"))
    refused = [entry for entry in stored["entries"] if entry["refused"]]
    assert refused
    assert all("lambda" in entry["label"] or "epsilon" in entry["label"] for entry in refused)
    assert defaults(subjects=["mixture-flow"], calls=[4], samples=1, out=tmp_path) == first


def _entry(label: str, calls: int, error: float | None) -> Entry:
    return Entry(
        subject="s", base="b", label=label, calls=calls, fingerprint="f", rmse_converged=error, rmse_base=error
    )


def test_ranking_divides_by_the_better_bar_and_counts_defeats() -> None:
    entries = [
        *(_entry(EQUAL_CALLS, calls, error) for calls, error in ((5, 0.4), (10, 0.1))),
        *(_entry("plain reuse", calls, error) for calls, error in ((5, 0.2), (10, 0.2))),
        *(_entry("x, index, order 2", calls, error) for calls, error in ((5, 0.3), (10, 0.05))),
        *(_entry("refused by one", calls, error) for calls, error in ((5, 0.1), (10, None))),
    ]
    notes = {"s": {"method": "exact", "halving_error": 0.0, "samples": 3}}
    text = report(entries, notes)
    assert "| x, index, order 2 | 0.866 | 0.866 | 1.500 | 1 |" in text
    assert "| refused by one | inf | inf | inf | 1 |" in text
    assert "| refused by one | 0.1000 | refused | refused |" in text


def test_spread_is_median_and_quartiles() -> None:
    result = spread("x", [1.0, 2.0, 3.0, 4.0, 5.0], "ms")
    assert (result.lower, result.median, result.upper) == (2.0, 3.0, 4.0)
    assert result.cells() == ["x", "3", "2 to 4", "ms"]


@pytest.mark.parametrize("name", ["DDIM", "DPM-Solver++", "flow Euler"])
def test_run_keeps_no_more_latents_than_its_row_depth(name: str) -> None:
    kept = kept_latents(name)
    depth = int(kept.measurement.rpartition(" ")[2].rstrip(")"))
    assert 1 <= kept.median <= depth


def test_speed_measurements_return_positive_ratios() -> None:
    assert step_ratio("DDIM", torch.float32, 2).median > 0
    assert set_timesteps_overhead("flow Euler", 2).unit == "ms"


def test_the_scheduler_is_timed_inside_a_real_pipeline() -> None:
    alone, spread_out = overhead_ratios(16, 4, 2)
    assert len(alone) == len(spread_out) == 2
    assert min(alone + spread_out) > 0


def test_a_run_whose_guidance_changes_is_more_abrupt_at_the_change_than_a_steady_run() -> None:
    result = jump_result("dit-epsilon", Switch(before=1.0, after=4.0, boundary=0.8), 12, 2)
    assert result.across > 0 and result.reset > 0
    assert result.at_switch > result.without_switch
    assert len(result.cells()) == 8


def test_a_fingerprint_sees_every_entry_of_a_tensor() -> None:
    tensor = torch.zeros(10_000)
    changed = tensor.clone()
    changed[5_000] = 1.0
    assert fingerprint(None, tensor) == fingerprint(None, tensor.clone()) != fingerprint(None, changed)


def test_results_name_the_versions_of_further_packages_and_of_those_that_are_missing() -> None:
    found = environment("pytest", "no-such-package")
    assert found["pytest"] == pytest.__version__
    assert found["no-such-package"] is None
