"""The numbers that are drawn obey the statements beside which they stand."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sympy")

from ab_schedulers.theory.amplification import stability_limit
from ab_schedulers.theory.plots import series
from ab_schedulers.theory.row_limits import euler_row

REGIONS = [(k, t) for k in range(1, 5) for t in (1, 2, 3, 6)]


def growth(row: list[Any], z: complex) -> float:
    """Largest growth factor of a step on `f = mu z` with a window of length one."""
    polynomial = np.zeros(len(row) + 1, dtype=complex)
    polynomial[:2] = 1, -1
    polynomial[1:] -= z * np.array([float(b) for b in row])
    return float(np.abs(np.roots(polynomial)).max())


@pytest.mark.parametrize(("order", "interval"), REGIONS)
def test_a_region_ends_where_the_proven_real_interval_does(order: int, interval: int) -> None:
    row = euler_row(order, interval)
    found = series.region(row)
    assert min(found["real"]) == pytest.approx(float(stability_limit(row)), rel=1e-3)
    assert found["imaginary"][-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("order", "interval"), REGIONS)
def test_runs_decay_inside_a_region_and_grow_outside(order: int, interval: int) -> None:
    row = euler_row(order, interval)
    found = series.region(row)
    inside = min(found["real"]) / 2
    for real, imaginary in zip(found["real"], found["imaginary"], strict=True):
        if abs(complex(real, imaginary)) < 0.05:
            continue  # by the origin every boundary is the imaginary axis to high order
        from_centre = complex(real, imaginary) - inside
        assert growth(row, inside + 0.95 * from_centre) < 1
        assert growth(row, inside + 1.05 * from_centre) > 1


@pytest.mark.parametrize("line", [*series.order_comparisons().values(), *series.order_slopes()["corrector"].values()])
def test_a_triangle_has_the_slope_of_its_line(line: dict[str, Any]) -> None:
    widths, errors = line["window"][-2:], line["error"][-2:]
    slope = math.log(errors[0] / errors[1]) / math.log(widths[0] / widths[1])
    assert abs(slope - line["predicted_order"]) < 0.2


def test_no_drawn_bound_is_below_its_error() -> None:
    for line in series.bound().values():
        assert all(limit > error for limit, error in zip(line["bound"], line["error"], strict=True))


def test_a_drawn_gain_rises_to_its_limit_and_stays_below() -> None:
    numbers = series.noise_gain()
    for order, gain in numbers["gain"].items():
        assert gain == sorted(gain)
        assert gain[-1] <= numbers["limit"][order] == 2 ** int(order) - 1


def test_every_drawn_plan_has_as_many_calls() -> None:
    plans = series.skip_raster()
    assert {len(plan["calls"]) for plan in plans.values()} == {series.RASTER_CALLS}
    calls = plans["placed"]["calls"]
    windows = [later - earlier for earlier, later in zip(calls, [*calls[1:], plans["placed"]["steps"]], strict=True)]
    middle = len(windows) // 2
    assert max(windows[:3]) < max(windows[middle - 1 : middle + 2]) > max(windows[-3:])


def test_the_drawn_outputs_of_the_models_change_more_at_both_ends_than_in_the_middle() -> None:
    numbers = series.similarity()
    assert numbers["settings"] == {"steps": 50, "trajectories": 64, "spectrum_samples": 1000}
    models = {name: curve for name, curve in numbers["curves"].items() if not name.startswith("mixture")}
    assert len(models) == 3
    for name, curve in models.items():
        changes = curve["measured"]
        middle = min(changes)
        assert changes[0] > 1.5 * middle and changes[-1] > 1.5 * middle, name


def test_numbers_are_rounded_to_what_a_picture_shows() -> None:
    assert series.rounded([Fraction(1, 3), 2**0.5 * 1e-7]) == [0.3333, 1.414e-07]
    assert json.dumps(series.noise_gain())
