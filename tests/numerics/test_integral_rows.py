"""Rows between arbitrary nodes, in the limit of an infinitely fine base grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from mpmath import mp

from ab_schedulers.numerics import BaseGrid, BaseStep, ddim_step, fold, integral_rows, quantity_map
from ab_schedulers.numerics.integral_rows import _FEJER, window_weights

ANGLES = [1.45, 1.2, 0.9, 0.65, 0.35, 0.1, 0.0]


def scales(phi: float, flow: bool) -> tuple[float, float]:
    norm = math.sin(phi) + math.cos(phi) if flow else 1.0
    return math.cos(phi) / norm, math.sin(phi) / norm


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("quantity", ["sample", "epsilon", "velocity"])
@pytest.mark.parametrize(("start", "stop"), [(1.45, 0.9), (0.3, 0.02), (0.2, 0.0)])
def test_a_frozen_quantity_is_integrated_exactly(flow: bool, quantity: str, start: float, stop: float) -> None:
    (alpha, sigma), (alpha_next, sigma_next) = scales(start, flow), scales(stop, flow)
    a, (b,) = window_weights(start, stop, [start], quantity, flow)
    if quantity == "velocity" and not flow:
        assert (a, b) == (1.0, pytest.approx(stop - start))
        return
    step = ddim_step(quantity_map(quantity, alpha, sigma, flow=flow), alpha_next, sigma_next)
    assert a == pytest.approx(step.sample, rel=1e-9, abs=1e-12)
    assert b == pytest.approx(step.outputs[0], rel=1e-9)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_polynomial_in_the_angle_below_the_order_is_integrated_exactly(degree: int) -> None:
    nodes = [0.9, 1.2, 1.45]
    _, weights = window_weights(0.9, 0.5, nodes, "velocity", False)
    found = sum(weight * node**degree for weight, node in zip(weights, nodes, strict=True))
    assert found == pytest.approx((0.5 ** (degree + 1) - 0.9 ** (degree + 1)) / (degree + 1), rel=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_so_is_a_polynomial_in_another_variable(degree: int) -> None:
    nodes = [0.9, 1.2, 1.45]
    _, weights = window_weights(0.9, 0.5, nodes, "velocity", False, math.sin)
    found = sum(weight * math.sin(node) ** degree for weight, node in zip(weights, nodes, strict=True))
    integrals = [lambda phi: phi, lambda phi: -math.cos(phi), lambda phi: (phi - math.sin(phi) * math.cos(phi)) / 2]
    assert found == pytest.approx(integrals[degree](0.5) - integrals[degree](0.9), rel=1e-12)


@pytest.mark.parametrize("degree", range(32))
def test_fejers_rule_of_32_points_integrates_polynomials_below_degree_32(degree: int) -> None:
    found = math.fsum(weight * point**degree for point, weight in _FEJER)
    assert found == pytest.approx(0.0 if degree % 2 else 2 / (degree + 1), abs=1e-14)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("quantity", ["sample", "epsilon"])
@pytest.mark.parametrize(("start", "stop"), [(1.57, 0.9), (1.57, 0.001), (1.2, 0.001), (0.0011, 0.001)])
def test_windows_near_a_pole_are_integrated_to_eight_digits(
    quantity: str, flow: bool, start: float, stop: float
) -> None:
    nodes = [start, start + 0.2, start + 0.5]
    _, weights = window_weights(start, stop, nodes, quantity, flow)
    with mp.workdps(30):
        scale = [mp.sin, mp.cos][quantity == "epsilon"]
        scale_there = scale(stop) / (mp.sin(stop) + mp.cos(stop) if flow else 1)
        speed = {"sample": lambda phi: -1 / mp.sin(phi) ** 2, "epsilon": lambda phi: 1 / mp.cos(phi) ** 2}[quantity]
        for degree in range(3):
            exact = scale_there * mp.quad(lambda phi, d=degree: speed(phi) * (phi - start) ** d, _split(start, stop))
            found = math.fsum(w * (node - start) ** degree for w, node in zip(weights, nodes, strict=True))
            assert found == pytest.approx(float(exact), rel=1e-8)


def _split(start: float, stop: float) -> list[mp.mpf]:
    """Ends of panels that halve the distance to either pole, from ``start`` to ``stop``."""
    ends = {mp.pi / 2 - mp.mpf(2) ** -k for k in range(14)} | {mp.mpf(2) ** -k for k in range(14)}
    return [mp.mpf(start), *sorted((end for end in ends if stop < end < start), reverse=True), mp.mpf(stop)]


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("quantity", ["sample", "epsilon", "velocity"])
@pytest.mark.parametrize("corrector", [None, 3])
def test_the_rows_are_the_limit_of_folded_base_steps(flow: bool, quantity: str, corrector: int | None) -> None:
    angles = [*ANGLES[:-1], 0.02]
    exact = integral_rows(angles, quantity=quantity, flow=flow, order=2, corrector=corrector)
    misses = []
    for windows in (50, 100):
        fine = [start + (stop - start) * i / windows for start, stop in pairwise(angles) for i in range(windows)]
        grid = BaseGrid(steps=base_steps([*fine, angles[-1]], quantity, flow), nodes=tuple(fine))
        rows = fold(grid, list(range(0, len(fine), windows)), order=2, corrector=corrector, predictor="extrapolate")
        misses.append(
            max(
                abs(mine - theirs)
                for row, other in zip(exact, rows, strict=True)
                for mine, theirs in zip((row.sample, *row.history), (other.sample, *other.history), strict=False)
            )
        )
    assert misses[1] < 0.1
    assert misses[0] / misses[1] == pytest.approx(2, abs=0.2)  # the base is a method of order 1


def base_steps(angles: Sequence[float], quantity: str, flow: bool) -> tuple[BaseStep, ...]:
    return tuple(
        ddim_step(quantity_map(quantity, *scales(start, flow), flow=flow), *scales(stop, flow))
        for start, stop in pairwise(angles)
    )


def test_noise_cannot_be_cached_where_nothing_but_noise_is_left() -> None:
    rows = integral_rows([math.pi / 2, 0.7, 0.0], quantity="velocity", flow=True, order=2, corrector=3)
    assert all(math.isfinite(weight) for row in rows for weight in row.history)


@pytest.mark.parametrize(("order", "corrector", "slope"), [(1, None, 1), (2, None, 2), (2, 3, 3)])
def test_the_rows_have_their_order_on_an_exact_flow(order: int, corrector: int | None, slope: int) -> None:
    def error(calls: int) -> float:
        angles = [1.3 * (1 - i / calls) ** 1.3 + 0.1 for i in range(calls + 1)]
        x, outputs = 1.0, []
        for row, phi in zip(
            integral_rows(angles, quantity="velocity", flow=False, order=order, corrector=corrector),
            angles,
            strict=False,
        ):
            outputs.insert(0, math.cos(3 * phi) * x)  # dx/dφ = cos(3φ) x
            x = row.sample * x + sum(b * q for b, q in zip(row.history, outputs, strict=False))
        return abs(x - math.exp((math.sin(3 * angles[-1]) - math.sin(3 * angles[0])) / 3))

    assert math.log2(error(320) / error(640)) == pytest.approx(slope, abs=0.2)
