"""`ab-schedulers coefficients` and `ab-schedulers plan`: exact weights as text, JSON, CSV or LaTeX, and plans."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from ab_schedulers.bench.tables import text_table
from ab_schedulers.numerics import CachePlan, adams_bashforth_weights, lagrange_weights, noise_gain

FORMATS = ("text", "json", "csv", "latex")


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

    def latex(self) -> str:
        """The same table as an `array` for math mode, with `text` as `amsmath` and MathJax define it."""
        header = [rf"\text{{{self.name}}}", *(f"f({_tex(node)})" for node in self.nodes), r"\text{noise gain}"]
        lines = [
            [rf"\text{{{label}}}", *(_tex(weight) for weight in weights), _tex(Fraction(noise_gain(weights)))]
            for label, weights in self.rows
        ]
        body = [" & ".join(line) + r" \\" for line in [header, *lines]]
        body[0] += r" \hline"
        columns = "l" + "r" * (len(self.nodes) + 1)
        return "\n".join([rf"\begin{{array}}{{{columns}}}", *body, r"\end{array}"])


def predictor_table(order: int, interval: int, nodes: Sequence[Fraction] | None = None) -> WeightTable:
    """Weights that predict the outputs of the skipped steps `1 … interval - 1` after a call at 0.

    The last two lines are the mean over the window, which is the folded row of a sampler whose step is linear in the
    output on a uniform grid, and its limit for ever finer base grids: the Adams-Bashforth weights.

    Args:
        order: number of outputs.
        interval: base steps per call.
        nodes: where the outputs are known, newest first, in any variable; `0, -interval, …` (step index) by default.

    Raises:
        ValueError: an order or interval below 1, a number of nodes that disagrees with the order, or nodes that repeat
            or do not fall.
    """
    _check_at_least_one("order", order)
    _check_at_least_one("interval", interval)
    uniform = tuple(Fraction(-j * interval) for j in range(order))
    chosen = uniform if nodes is None else tuple(nodes)
    if len(chosen) != order:
        raise ValueError(f"--nodes needs one node per output, {order} for --order {order}; received {len(chosen)}")
    if any(older >= newer for newer, older in pairwise(chosen)):
        given = ",".join(str(node) for node in chosen)
        raise ValueError(
            "--nodes must be pairwise different and fall, newest output first, such as 0,-3,-6; "
            f"received {given}. Sort them, and drop repeated ones"
        )
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
    *, order: int, interval: int, nodes: Sequence[Fraction] | None, corrector: int | None, style: str = "text"
) -> str:
    """Exact weights of the predictor and, if asked for, the corrector.

    Args:
        order: number of outputs that predict.
        interval: base steps per call.
        nodes: see `predictor_table`.
        corrector: number of outputs of the corrector; None for the predictor alone.
        style: `text`, an aligned table; `json`; `csv`, a line per weight; `latex`, an array for math mode.

    Raises:
        ValueError: an unknown style, or what `predictor_table` refuses.
    """
    if style not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}; received {style}")
    tables = [predictor_table(order, interval, nodes)]
    if corrector is not None:
        tables.append(corrector_table(corrector, interval))
    if style == "json":
        return json.dumps({table.name: table.as_json() for table in tables}, indent=2)
    if style == "csv":
        return _csv(tables)
    return "\n\n".join(table.latex() if style == "latex" else table.text() for table in tables)


def _csv(tables: Sequence[WeightTable]) -> str:
    """A line per weight: table, row, node of the output, weight; fractions as they are."""
    written = io.StringIO()
    lines = csv.writer(written, lineterminator="\n")
    lines.writerow(["table", "row", "node", "weight"])
    for table in tables:
        for label, weights in table.rows:
            lines.writerows(
                [table.name, label, node, weight] for node, weight in zip(table.nodes, weights, strict=True)
            )
    return written.getvalue().rstrip("\n")


def _tex(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    whole = value.denominator == 1
    return str(value) if whole else rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def uniform_plan(*, calls: int, interval: int, warmup: int, base_steps: int | None) -> str:
    """The raster of `CachePlan.uniform`.

    Raises:
        ValueError: what `CachePlan.uniform` refuses.
    """
    plan = CachePlan.uniform(num_calls=calls, cache_interval=interval, warmup_calls=warmup, num_base_steps=base_steps)
    return plan_raster(plan)


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
