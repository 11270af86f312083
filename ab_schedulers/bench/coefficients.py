"""`ab-schedulers coefficients` and `ab-schedulers plan`: exact weights and plans as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ab_schedulers.bench.tables import text_table
from ab_schedulers.numerics import CachePlan, adams_bashforth_weights, lagrange_weights, noise_gain


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightTable:
    """Exact weights of the cached outputs at the points of one window.

    Attributes:
        name: `predictor` or `corrector`.
        nodes: where outputs are known, newest first.
        rows: label and weights of every line.
    """

    name: str
    nodes: tuple[Fraction, ...]
    rows: tuple[tuple[str, tuple[Fraction, ...]], ...]

    def text(self) -> str:
        """Aligned table with the sum of absolute weights, the gain of errors in the outputs."""
        headers = [self.name, *[f"f({node})" for node in self.nodes], "noise gain"]
        lines = [
            [label, *[str(weight) for weight in weights], str(noise_gain(weights))] for label, weights in self.rows
        ]
        return text_table(headers, lines)

    def as_json(self) -> dict[str, object]:
        """The same numbers; fractions as strings, so that nothing is rounded."""
        return {
            "nodes": [str(node) for node in self.nodes],
            "weights": {label: [str(weight) for weight in weights] for label, weights in self.rows},
        }


def predictor_table(order: int, interval: int, nodes: Sequence[Fraction] | None = None) -> WeightTable:
    """Weights that predict the outputs of the skipped steps `1 … interval - 1` after a call at 0.

    The last two lines are the mean over the window, which is the folded row of a sampler whose step is linear in the
    output on a uniform grid, and its limit for ever finer base grids: the Adams-Bashforth weights.

    Args:
        order: number of outputs.
        interval: base steps per call.
        nodes: where the outputs are known, newest first, in any variable; `0, -interval, …` (step index) by default.

    Raises:
        ValueError: an order or interval below 1, or a number of nodes that disagrees with the order.
    """
    _check_at_least_one("order", order)
    _check_at_least_one("interval", interval)
    uniform = tuple(Fraction(-j * interval) for j in range(order))
    chosen = uniform if nodes is None else tuple(nodes)
    if len(chosen) != order:
        raise ValueError(f"--nodes needs one node per output, {order} for --order {order}; received {len(chosen)}")
    rows = _window_rows(chosen, interval)
    if chosen == uniform:
        limit = tuple(Fraction(weight) for weight in adams_bashforth_weights(order))
        rows.append(("Adams-Bashforth", limit))
    return WeightTable(name="predictor", nodes=chosen, rows=tuple(rows))


def corrector_table(order: int, interval: int) -> WeightTable:
    """Weights that interpolate the window again once the output at its end, node `interval`, is known.

    Raises:
        ValueError: an order or interval below 1.
    """
    _check_at_least_one("corrector", order)
    _check_at_least_one("interval", interval)
    nodes = tuple(Fraction(interval - j * interval) for j in range(order))
    return WeightTable(name="corrector", nodes=nodes, rows=tuple(_window_rows(nodes, interval)))


def coefficients(
    *, order: int, interval: int, nodes: Sequence[Fraction] | None, corrector: int | None, as_json: bool
) -> str:
    """Exact weights of the predictor and, if asked for, the corrector, as text or JSON."""
    tables = [predictor_table(order, interval, nodes)]
    if corrector is not None:
        tables.append(corrector_table(corrector, interval))
    if as_json:
        return json.dumps({table.name: table.as_json() for table in tables}, indent=2)
    return "\n\n".join(table.text() for table in tables)


def plan_raster(plan: CachePlan, width: int = 60) -> str:
    """`#` for every base step that calls the model, `.` for every skipped one, `width` steps a line."""
    called = set(plan.compute_steps)
    marks = "".join("#" if step in called else "." for step in range(plan.num_base_steps))
    lines = [f"{start:>5}  {marks[start : start + width]}" for start in range(0, plan.num_base_steps, width)]
    summary = f"{plan.num_calls} model calls walk {plan.num_base_steps} base steps (# call, . skipped)"
    return "\n".join([summary, *lines])


def _window_rows(nodes: tuple[Fraction, ...], interval: int) -> list[tuple[str, tuple[Fraction, ...]]]:
    per_step = [lagrange_weights(nodes, Fraction(step)) for step in range(interval)]
    mean = tuple(sum(column, Fraction(0)) / interval for column in zip(*per_step, strict=True))
    rows = [(f"step {step}", tuple(per_step[step])) for step in range(1, interval)]
    return [*rows, ("window mean", mean)]


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"--{name} must be at least 1; received {value}")
