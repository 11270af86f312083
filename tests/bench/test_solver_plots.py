"""The diagrams show the fronts that the numbers have."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ab_schedulers.bench.solver_pictures import picture_rows
from ab_schedulers.bench.solver_plots import milliseconds, pareto_front, write_diagrams
from ab_schedulers.bench.solver_results import OWN, STOCK, Entry

_points = st.lists(st.tuples(st.floats(1, 9), st.floats(1, 9)), min_size=1)


def _entry(group: str, solver: str, calls: int, error: float) -> Entry:
    return Entry(
        subject="s",
        group=group,
        solver=solver,
        setting="a",
        calls=calls,
        fingerprint="",
        model_calls=calls,
        errors=(error, error),
        scheduler_ms=0.5,
        model_ms=2.0,
    )


@given(points=_points)
def test_no_point_undercuts_the_front_and_every_front_point_is_one_of_them(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert set(front) <= set(points)
    for cost, error in points:
        assert any(c <= cost and e <= error for c, e in front)
    for a in front:
        assert not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in front)


def test_time_counts_model_and_scheduler() -> None:
    assert milliseconds(_entry(STOCK, "one", 4, 0.1), 3.0) == 4 * 3.5


def test_diagrams_are_written(tmp_path: Path) -> None:
    entries = [_entry(group, group, calls, 1 / calls) for group in (STOCK, OWN) for calls in (5, 10)]
    refused = Entry(subject="s", group=STOCK, solver="none", setting="a", calls=5, fingerprint="", refused="why")
    write_diagrams(tmp_path / "s.png", [*entries, refused], entries, 4)
    assert (tmp_path / "s.png").stat().st_size > 10_000


def test_rows_of_pictures_are_the_best_of_each_side_at_every_number_of_calls() -> None:
    entries = [
        _entry(STOCK, "poor", 5, 0.3),
        _entry(STOCK, "good", 5, 0.2),
        _entry(STOCK, "poor", 8, 0.1),
        _entry(OWN, "DDIM, defaults", 5, 0.4),
        _entry(OWN, "DPM++, defaults", 5, 0.1),
        _entry(OWN, "placed calls", 8, 0.05),
    ]
    named = [(label, {calls: entry.solver for calls, entry in row.items()}) for label, row in picture_rows(entries)]
    assert named == [
        ("best stock", {5: "good", 8: "poor"}),
        ("our defaults", {5: "DPM++, defaults"}),
        ("placed calls", {8: "placed calls"}),
    ]
