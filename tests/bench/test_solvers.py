"""The comparison of solvers resumes, finds the best of each side, and says why a method has no result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ab_schedulers.bench import trials as trials_module
from ab_schedulers.bench.competitors import Competitor, competitors, placed_competitor
from ab_schedulers.bench.methods import Contender
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.mixtures import ring_mixture
from ab_schedulers.bench.sampling import start_grid
from ab_schedulers.bench.solver_results import OWN, STOCK, STOCK_PLACED, Entry, Results, best, finalists
from ab_schedulers.bench.solver_tables import by_solver, refusals, summary
from ab_schedulers.bench.solvers import measure, run_solvers, solvers
from ab_schedulers.bench.subjects import mixture_subject
from ab_schedulers.bench.trials import prepare
from ab_schedulers.cli import main
from ab_schedulers.models import load


def _entry(group: str, solver: str, *errors: float, calls: int = 5, setting: str = "a", refused: str = "") -> Entry:
    return Entry(
        subject="s",
        group=group,
        solver=solver,
        setting=setting,
        calls=calls,
        fingerprint="",
        model_calls=calls,
        errors=errors,
        refused=refused,
    )


def test_the_best_is_the_smallest_finite_mean_of_its_own_side() -> None:
    entries = [
        _entry(STOCK, "first", 0.2, 0.4),
        _entry(STOCK, "broken", float("nan"), 0.1),
        _entry(STOCK, "second", 0.1, 0.3),
        _entry(STOCK, "refused", refused="why"),
        _entry(OWN, "ours", 0.05, 0.15),
    ]
    found = best(entries, STOCK, 2)[("s", 5)]
    assert [entry.solver for entry in found] == ["second", "first"]
    assert [entry.solver for entry in best(entries, OWN)[("s", 5)]] == ["ours"]


def test_a_stock_solver_at_our_places_is_measured_in_full_and_is_never_the_best_stock_setting() -> None:
    entries = [_entry(STOCK, "peer", 0.3), _entry(STOCK_PLACED, "peer", 0.1), _entry(OWN, "ours", 0.2)]
    assert {group for group, *_ in finalists(entries)} == {STOCK, STOCK_PLACED, OWN}
    assert "| 5 | peer, a | 0.3000" in summary(entries)
    assert "| peer (stock, our places) | 0.1000 (a) |" in by_solver(entries)


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        ("vp", {"Euler", "Heun", "DPM++ 2M", "DPM++ 3M", "DPM++ 2S", "DPM++ 3S"}),
        ("flow", {"flow Euler", *(f"UniPC {order}{kind}" for order in (2, 3) for kind in ("", " bh1", " ε"))}),
    ],
)
def test_stock_solvers_stand_where_our_calls_do_if_they_take_places(kind: str, taken: set[str]) -> None:
    subject = mixture_subject(kind)
    ours = placed_competitor(subject.scheduler).make(6).scheduler
    start_grid(ours, 6)
    places = ours.timesteps.double()
    found: dict[str, Any] = {}
    for one in competitors(subject.scheduler):
        if one.group != STOCK_PLACED:
            continue
        if one.solver not in taken:
            with pytest.raises(ValueError, match=r"takes no (timesteps|sigmas)"):
                one.make(6)
            continue
        contender = one.make(6)
        start_grid(contender.scheduler, contender.num_inference_steps, **contender.grid)
        found[one.solver] = contender.scheduler.timesteps.double()
    assert set(found) == taken
    for solver in taken - {"Heun"}:  # which calls twice a step
        assert float((found[solver] - places).abs().max()) < 1.01, solver  # UniPC cuts to whole numbers


def test_finalists_are_the_best_few_and_all_of_ours() -> None:
    entries = [
        *[_entry(STOCK, "good", 0.1 + 0.01 * i, setting=str(i)) for i in range(5)],
        _entry(STOCK, "poor", 0.9, setting="a"),
        _entry(OWN, "ours", 0.7, setting="a"),
        _entry(OWN, "ours", 0.6, setting="b"),
    ]
    found = {(solver, setting) for _, _, solver, setting in finalists(entries, 2)}
    assert found == {("good", "0"), ("good", "1"), ("ours", "a"), ("ours", "b")}


def test_summary_gives_mean_spread_and_the_ratio_of_the_errors() -> None:
    table = summary([_entry(STOCK, "peer", 0.1, 0.3), _entry(OWN, "ours", 0.1, 0.1)])
    assert "| 5 | peer, a | 0.2000 ± 0.1414 | ours, a | 0.1000 ± 0.0000 | 0.50 (0.33 to 1.00) |" in table


def test_a_solver_stands_at_its_best_setting_per_number_of_calls_and_shows_calls_it_did_not_make() -> None:
    entries = [
        _entry(STOCK, "peer", 0.2, setting="a"),
        _entry(STOCK, "peer", 0.1, setting="b"),
        _entry(STOCK, "peer", 0.3, setting="a", calls=8),
        _entry(STOCK, "peer", 0.4, setting="b", calls=8),
    ]
    fewer = [replace(entry, model_calls=entry.calls - 1) for entry in entries]
    assert "| peer (stock) | 0.1000 (b) | 0.3000 (a) |" in by_solver(entries)
    assert "| peer (stock) | 0.1000 (b) [4 calls] | 0.3000 (a) [7 calls] |" in by_solver(fewer)


def test_refusals_are_listed_once_with_their_settings() -> None:
    entries = [_entry(STOCK, "peer", setting=setting, refused="no such thing") for setting in ("b", "a", "b")]
    assert "| peer | a, b | no such thing |" in refusals(entries)
    assert refusals([_entry(STOCK, "peer", 0.1)]) == ""


def test_a_second_run_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = mixture_subject("flow", ring_mixture(radius=0.5, std=0.4))
    runs: list[Any] = []

    def counted(*arguments: Any, **grid: Any) -> Any:
        runs.append(arguments)
        return sample_once(*arguments, **grid)

    sample_once = trials_module.sample
    monkeypatch.setattr(trials_module, "sample", counted)
    search, first = run_solvers(subject, [4], 2, 3, 2, Results.read(tmp_path / "solvers.json"))
    everyone = len(competitors(subject.scheduler))
    assert len(search) == everyone
    made = [entry for entry in search if not entry.refused.startswith("ValueError: `set_timesteps` takes no")]
    assert len(runs) == len(made) + len(first)
    runs.clear()
    _, again = run_solvers(subject, [4], 2, 3, 2, Results.read(tmp_path / "solvers.json"))
    assert again == first
    assert {type(run[1]).__name__ for run in runs} == {"UniPCMultistepScheduler"}  # the refused ones try again
    runs.clear()
    run_solvers(subject, [4], 2, 4, 2, Results.read(tmp_path / "solvers.json"))
    assert len(first) <= len(runs) < everyone


def test_errors_are_taken_per_seed_set_against_the_exact_trajectories(tmp_path: Path) -> None:
    trial, note = prepare(mixture_subject("vp", ring_mixture()), 2, 3, tmp_path)
    shifted = trial.converged.clone()
    shifted[:3] += 0.5
    assert trial.errors(shifted) == pytest.approx((0.5, 0.0))
    assert rmse(trial.noise[:3], trial.noise[3:]) > 0.1
    assert (note["method"], note["halving_error"]) == ("DOP853", 0.0)


@pytest.mark.slow
def test_only_odd_classes_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ab_schedulers.bench.references.FLOW_STEPS", 2)
    trial, _ = prepare(load("dit-flow"), 1, 6, tmp_path)
    assert trial.labels.tolist() == [1, 3, 5, 7, 9, 1]


def test_a_method_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    trial, _ = prepare(mixture_subject("vp", ring_mixture()), 1, 2, tmp_path)

    def make(calls: int) -> Contender:
        raise ValueError(f"not with {calls} calls")

    entry = measure(trial, Competitor(group=OWN, solver="ours", setting="a", make=make), 5, {})
    assert entry.refused == "ValueError: not with 5 calls"
    assert entry.error == float("inf")


def test_ours_compete_at_the_same_calls(tmp_path: Path) -> None:
    for kind in ("vp", "flow"):
        subject = mixture_subject(kind, ring_mixture(radius=0.5, std=0.4))
        trial, _ = prepare(subject, 1, 4, tmp_path)
        ours = [competitor for competitor in competitors(subject.scheduler) if competitor.group == OWN]
        assert ours
        for competitor in ours:
            assert measure(trial, competitor, 5, {}).model_calls == 5


def test_command_writes_tables_and_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "solvers", "--subjects", "mixture-flow", "--calls", "4", "6", "--seed-sets", "2"]
    arguments += ["--search-samples", "2"]
    assert main([*arguments, "--samples", "4", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "mean ± standard deviation over 2 seed sets of 4 trajectories" in printed
    assert "flow_prediction must be one of" in printed
    assert (tmp_path / "solvers.md").read_text(encoding="utf-8") in printed
    assert Results.read(tmp_path / "solvers.json").references["mixture-flow"]["sets"] == 2
    assert (tmp_path / "solvers_mixture-flow.png").exists()
    assert not (tmp_path / "solvers_mixture-flow_grid.png").exists()  # its samples are no pictures


def test_unknown_subject_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--subjects knows dit-epsilon, .*; received nothing"):
        solvers(subjects=["nothing"], calls=[5], sets=1, samples=1, search_samples=1, out=tmp_path)
