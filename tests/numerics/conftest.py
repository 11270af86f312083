"""Exact flows laid out for a base sampler, and the orders that are observed on them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch

from ab_schedulers.bench.exact_flows import ExactFlow, GaussianFlow, LinearFlow, LogisticFlow, PredictionType
from ab_schedulers.bench.mixtures import MixtureFlow, random_mixture
from ab_schedulers.numerics import BaseGrid, BaseStep, Row, ddim_step, dpmsolver_step, fold, quantity_map

PREDICTIONS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "sample": "sample",
    "velocity": "flow_prediction",
}


def random_smooth_map(seed: int) -> Callable[[float], float]:
    """A rising map of [0, 1] onto itself whose derivative stays between 0.3 and 1.7."""
    dice = random.Random(seed)
    amplitudes = [dice.uniform(-1, 1) for _ in range(3)]
    slope = sum(math.pi * (j + 1) * abs(a) for j, a in enumerate(amplitudes))
    return lambda s: s + 0.7 / slope * sum(a * math.sin(math.pi * (j + 1) * s) for j, a in enumerate(amplitudes))


MAPS: dict[str, Callable[[float], float]] = {
    "uniform": lambda s: s,
    "quadratic": lambda s: s * s,
    "geometric": lambda s: (8.0**s - 1) / 7,
    "random-smooth-1": random_smooth_map(1),
    "random-smooth-2": random_smooth_map(2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An exact flow, the path it is sampled on, and the quantity that is cached.

    The grid runs in sigma on the ``"flow"`` path and in lambda on the ``"vp"`` path (``alpha^2 + sigma^2 = 1``).
    """

    flow: ExactFlow
    path: Literal["flow", "vp"]
    start: float
    stop: float
    quantity: str
    spread: float = 1.0

    def scales(self, value: float) -> tuple[float, float]:
        """``(alpha, sigma)``."""
        if self.path == "flow":
            return 1 - value, value
        return 1 / math.sqrt(1 + math.exp(-2 * value)), 1 / math.sqrt(1 + math.exp(2 * value))

    def first_sample(self) -> torch.Tensor:
        """States that keep a logistic flow inside (0, 1) at ``spread`` 1; normal noise for a mixture."""
        if isinstance(self.flow, MixtureFlow):
            noise = torch.randn(6, self.flow.dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            return sum(self.scales(self.start)) * noise
        states = torch.tensor([0.15, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
        return sum(self.scales(self.start)) * (self.spread * states - (self.spread - 1) / 2)


_GAUSSIAN, _MIXTURE = GaussianFlow(std=0.6), random_mixture(dimension=3, components=3, separation=0.6, std=0.7)
# Bases of one output, from pure noise to clean data where they can.
SUBJECTS = {
    "linear": Subject(flow=LinearFlow(rate=3.0), path="flow", start=1.0, stop=0.0, quantity="velocity"),
    "logistic": Subject(flow=LogisticFlow(), path="flow", start=1.0, stop=0.0, quantity="velocity"),
    "gaussian": Subject(flow=_GAUSSIAN, path="flow", start=1.0, stop=0.0, quantity="velocity", spread=3.0),
    "gaussian-x0": Subject(flow=_GAUSSIAN, path="vp", start=-2.0, stop=2.0, quantity="sample", spread=3.0),
    "gaussian-epsilon": Subject(flow=_GAUSSIAN, path="vp", start=-2.0, stop=2.0, quantity="epsilon", spread=3.0),
    "mixture": Subject(flow=_MIXTURE, path="flow", start=1.0, stop=0.0, quantity="velocity"),
    # What DPM-Solver++ can walk: no infinite log-SNR.
    "linear-inside": Subject(flow=LinearFlow(), path="flow", start=0.9, stop=0.1, quantity="sample"),
    "logistic-inside": Subject(flow=LogisticFlow(rate=2.0), path="flow", start=0.9, stop=0.1, quantity="sample"),
    "gaussian-inside": Subject(flow=_GAUSSIAN, path="vp", start=-1.5, stop=1.5, quantity="sample", spread=3.0),
    "mixture-inside": Subject(flow=_MIXTURE, path="vp", start=-1.5, stop=1.5, quantity="sample"),
}


@dataclass(frozen=True, kw_only=True)
class Course:
    """A base sampler laid out on a subject, with the scales ``(alpha, sigma)`` of all ends of its steps."""

    subject: Subject
    grid: BaseGrid
    scales: list[tuple[float, float]]

    @classmethod
    def lay_out(cls, name: str, map_name: str, count: int, *, solver_order: int = 0, variable: str = "value") -> Course:
        """DDIM (``solver_order`` 0; flow Euler on a flow path) or DPM-Solver++ of order 1 to 3, in ``count`` steps.

        ``variable``, in which outputs are interpolated, is ``"index"``, ``"lambda"`` or the ``"value"`` of the grid.
        """
        subject = SUBJECTS[name]
        run = subject.stop - subject.start
        values = [subject.start + run * MAPS[map_name](i / count) for i in range(count + 1)]
        scales = [subject.scales(value) for value in values]
        lambdas = [math.log(alpha / sigma) for alpha, sigma in scales] if solver_order else []
        if solver_order:
            steps = [multistep(scales, lambdas, i, min(solver_order, i + 1)) for i in range(count)]
        else:
            flow = subject.path == "flow"
            steps = [
                ddim_step(quantity_map(subject.quantity, *scales[i], flow=flow), *scales[i + 1]) for i in range(count)
            ]
        nodes = {"index": [float(i) for i in range(count)], "value": values[:-1], "lambda": lambdas[:-1]}[variable]
        return cls(subject=subject, grid=BaseGrid(steps=tuple(steps), nodes=tuple(nodes)), scales=scales)

    def divided(self, parts: int) -> Course:
        """Flow Euler with every step cut into even parts in sigma, in which its outputs are interpolated."""
        ends = [sigma for _, sigma in self.scales]
        sigmas = [a + (b - a) * part / parts for a, b in pairwise(ends) for part in range(parts)] + ends[-1:]
        steps = [BaseStep(sample=1.0, outputs=(b - a,)) for a, b in pairwise(sigmas)]
        scales = [self.subject.scales(sigma) for sigma in sigmas]
        return replace(self, grid=BaseGrid(steps=tuple(steps), nodes=tuple(sigmas[:-1])), scales=scales)

    def with_exact_curvature(self) -> Course:
        """The course of DPM-Solver++ 3M with twice the published weight of ``D_2`` in its steps of order three."""
        lambdas = [math.log(alpha / sigma) for alpha, sigma in self.scales]
        steps = [
            add_curvature(step, self.scales[i + 1][0], lambdas[i + 1 : i - 3 if i > 2 else None : -1])
            if len(step.outputs) == 3
            else step
            for i, step in enumerate(self.grid.steps)
        ]
        return replace(self, grid=replace(self.grid, steps=tuple(steps)))

    def rows(self, calls: Sequence[int], order: int, corrector: int | None = None) -> tuple[Row, ...]:
        """Folded rows of the calls."""
        return fold(self.grid, calls, order=order, corrector=corrector)

    def walk(self, calls: Sequence[int], rows: Sequence[Row], given: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """What each call hands on; the first calls may be ``given`` their samples instead."""
        return self._walk(calls, [(row.sample, row.history) for row in rows], given)

    def base(self, given: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """The uncached run at all nodes, by its own steps."""
        steps = [(step.sample, step.outputs) for step in self.grid.steps]
        return [self.subject.first_sample(), *self._walk(range(len(steps)), steps, given)]

    def _walk(self, calls: Sequence[int], maps: Sequence[Any], given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        x, history, handed = self.subject.first_sample(), [], []
        prediction = PREDICTIONS[self.subject.quantity]
        for call, (i, (of_sample, of_outputs)) in enumerate(zip(calls, maps, strict=True)):
            x = given[call] if call < len(given) else x
            history = [self.subject.flow.model_output(x, *self.scales[i], prediction), *history[:7]]
            x = of_sample * x
            for weight, output in zip(of_outputs, history, strict=False):
                x = x.add(output, alpha=weight)
            handed.append(x)
        return handed

    def exact(self, places: Sequence[int]) -> list[torch.Tensor]:
        """The flow itself at rising base nodes."""
        x, here, samples = self.subject.first_sample(), 0, []
        for place in places:
            x, here = self.subject.flow.solve(x, self.scales[here], self.scales[place]), place
            samples.append(x)
        return samples


def multistep(scales: Sequence[tuple[float, float]], lambdas: Sequence[float], i: int, order: int) -> BaseStep:
    """Step ``i`` of DPM-Solver++."""
    (alpha, sigma), (alpha_next, sigma_next) = scales[i], scales[i + 1]
    known = [lambdas[i + 1], *(lambdas[i - lag] for lag in range(order))]
    return dpmsolver_step((alpha, alpha_next), (sigma, sigma_next), known, order=order)


def add_curvature(step: BaseStep, alpha_next: float, lambdas: Sequence[float]) -> BaseStep:
    """Add ``-alpha' ((e^-h - 1 + h) / h^2 - 1/2) D_2`` with ``D_2 = h^2 x_0[lambda, lambda_-1, lambda_-2]``."""
    h = lambdas[0] - lambdas[1]
    weight = -alpha_next * ((math.expm1(-h) + h) - h * h / 2)
    divided = [weight / math.prod(node - other for other in lambdas[1:] if other != node) for node in lambdas[1:]]
    return replace(step, outputs=tuple(b + d for b, d in zip(step.outputs, divided, strict=True)))


def watched(num_calls: int) -> range:
    """The calls whose ends are compared: eight or more of the second half, the last one included."""
    return range(num_calls - 1, num_calls // 2, -max(1, num_calls // 16))[::-1]


def root_mean_square(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    """Over all states and points: at one point errors of either sign cancel, and slopes there mean little."""
    return float((torch.stack(list(ours)) - torch.stack(list(theirs))).square().mean().sqrt())


def observe_orders(size: int, errors: Callable[[int], Sequence[float]], *, floor: float = 2e-14) -> list[float]:
    """Binary logarithms of what doubling ``size`` divides each error by; errors near rounding (``floor``) will not do.

    Two sizes suffice, since nothing here is random; what matters is that both are large enough for the leading term.
    """
    coarse, fine = errors(size), errors(2 * size)
    assert min(fine) > floor, f"the errors {fine} have reached rounding"
    return [math.log2(a / b) for a, b in zip(coarse, fine, strict=True)]


@pytest.fixture(scope="session")
def lay_out() -> Callable[..., Course]:
    return Course.lay_out


@pytest.fixture(scope="session")
def watched_calls() -> Callable[[int], range]:
    return watched


@pytest.fixture(scope="session")
def distance() -> Callable[..., float]:
    return root_mean_square


@pytest.fixture(scope="session")
def observed_orders() -> Callable[..., list[float]]:
    return observe_orders
