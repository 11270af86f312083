"""Part 4: a window of skipped steps is one row, what rows keep, and what they become on fine grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ab_schedulers import numerics

from .statements import Part, rational_functions, require, require_all_equal, require_equal

part = Part(
    number=4,
    slug="folding",
    title="Folding: one row per call",
    opening=r"""
Between two model calls a cached sampler takes several base steps with predicted outputs. All of them are
linear, so they compose to one row of scalars, $x' = a\,x + \sum_j b_j f_j$, computed before the run starts.
This page proves that the row is the walk, that it keeps what the base step is exact on, and that on a fine base
grid it becomes an Adams-Bashforth step, plain or exponential. The corrector of the window before joins the row
at no cost.
""",
)


def step_by_step(
    grid: numerics.BaseGrid,
    window: range,
    nodes: Sequence[Any],
    outputs: Sequence[Any],
    x: Any,
    *,
    computed: dict[int, Any],
) -> Any:
    """Walk a window of the base grid literally, one base step after the other.

    ``nodes`` and ``outputs`` are those that predict; ``computed`` holds outputs known at base nodes.
    """

    def output(i: int) -> Any:
        if i in computed:
            return computed[i]
        weights = numerics.lagrange_weights(nodes, grid.nodes[i])
        return sum(w * f for w, f in zip(weights, outputs, strict=True))

    for i in window:
        step = grid.steps[i]
        x = step.sample * x + sum(b * output(i - lag) for lag, b in enumerate(step.outputs))
    return x


def symbolic_grid(count: int, depth: int = 1) -> tuple[numerics.BaseGrid, list[Any]]:
    """A base grid of free scalars and nodes, and four further indeterminates: the sample and three outputs."""
    names = [f"A{i}" for i in range(count)] + [f"n{i}" for i in range(count)]
    names += [f"B{i}_{lag}" for i in range(count) for lag in range(depth)] + ["x", "f0", "f1", "f2"]
    symbols = dict(zip(names, rational_functions(" ".join(names)), strict=True))
    steps = tuple(
        numerics.BaseStep(
            sample=symbols[f"A{i}"],
            outputs=tuple(symbols[f"B{i}_{lag}"] for lag in range(depth if i else 1)),
        )
        for i in range(count)
    )
    grid = numerics.BaseGrid(steps=steps, nodes=tuple(symbols[f"n{i}"] for i in range(count)))
    return grid, [symbols[name] for name in ("x", "f0", "f1", "f2")]


def apply_row(row: numerics.Row, x: Any, outputs: Sequence[Any]) -> Any:
    """The row on a sample and outputs, newest first."""
    return row.sample * x + sum(b * f for b, f in zip(row.history, outputs, strict=False))


@part.proves("A window is one row", functions=[numerics.fold], source="our derivation")
def a_window_is_one_row() -> None:
    r"""The row of a call gives exactly what walking its window step by step with predicted outputs gives.

    With base steps $x_{i+1} = A_i x_i + B_i f_i$, a window from node $p$ to node $q$ and the Lagrange weights
    $\ell_j(i)$ of the cached outputs at node $i$,

    $$
    a = \prod_{i=p}^{q-1} A_i, \qquad b_j = \sum_{i=p}^{q-1} \Bigl(\prod_{l=i+1}^{q-1} A_l\Bigr) B_i\, \ell_j(i) .
    $$

    **Derivation.** Insert $f_i = \sum_j \ell_j(i) f_j$ and compose. At the computed node itself $\ell_j(p) = 1$
    for the new output and zero for the others. Steps that use earlier outputs (DPM-Solver++) insert those in
    the same way.

    <<skip_raster>>

    **What it means.** Skipped steps cost nothing: a call does the same work whether its window holds one step or ten.
    Checked for free $A_i$, $B_i$ and nodes: windows of two and three steps, one to three outputs, bases of one and of
    two outputs.
    """
    for depth, calls, count in ((1, (0, 2), 5), (1, (0, 1, 2), 4), (2, (0, 2), 4)):
        grid, (x, *outputs) = symbolic_grid(count, depth)
        rows = numerics.fold(grid, calls, order=len(calls))
        ends = (*calls[1:], count)
        for call, row in enumerate(rows):
            known = list(reversed(calls[: call + 1]))
            values = list(reversed(outputs[: call + 1]))
            window = range(calls[call], ends[call])
            walked = step_by_step(
                grid,
                window,
                [grid.nodes[i] for i in known],
                values,
                x,
                computed=dict(zip(known, values, strict=True)),
            )
            require_equal(apply_row(row, x, values), walked, f"row of call {call}, plan {calls}")
            if depth == 1:
                require_equal(row.sample, math.prod(grid.steps[i].sample for i in window), f"a of call {call}")


@part.proves(
    "Order 1 is the base sampler with fewer steps",
    functions=[numerics.fold, numerics.ddim_step],
    source="our derivation",
)
def plain_reuse_is_the_base_on_the_call_grid() -> None:
    r"""With one cached output, the folded row of DDIM or flow Euler is a single base step over the whole window.

    $$
    a = \frac{\alpha_q}{\alpha_p}, \qquad \sum_j b_j = \sigma_q - \frac{\alpha_q \sigma_p}{\alpha_p}
    $$

    for every order; for order 1 there is only the one $b$.

    **Derivation.** The base step is exact for a frozen output ([part 3](03-base-steps.md)), so frozen outputs are
    carried from node $p$ to node $q$ exactly, in however many steps. Lagrange weights sum to one, so constants are
    reproduced at every order.

    **What it means.** Plain reuse of DDIM on 51 steps with 17 calls *is* DDIM with 17 steps on the same nodes.
    A cache earns something only from order 2 on. Checked for free $\alpha_i, \sigma_i$, windows of three steps,
    orders 1 to 3.
    """
    names = [f"{name}{i}" for name in ("a", "s", "n") for i in range(6)]
    *symbols, an, sn = rational_functions(" ".join([*names, "an", "sn"]))
    alphas, sigmas, nodes = [*symbols[:6], an], [*symbols[6:12], sn], symbols[12:]
    for quantity in ("epsilon", "sample"):
        grid = numerics.BaseGrid(
            steps=tuple(
                numerics.ddim_step(numerics.quantity_map(quantity, alphas[i], sigmas[i]), alphas[i + 1], sigmas[i + 1])
                for i in range(6)
            ),
            nodes=tuple(nodes),
        )
        for order in (1, 2, 3):
            calls = {1: (0, 3), 2: (0, 3), 3: (0, 1, 3)}[order]
            row, start = numerics.fold(grid, calls, order=order)[-1], calls[-1]
            one = numerics.ddim_step(numerics.quantity_map(quantity, alphas[start], sigmas[start]), an, sn)
            require_equal(row.sample, one.sample, f"a, {quantity}, order {order}")
            require_equal(sum(row.history), one.outputs[0], f"sum of b, {quantity}, order {order}")
            if order == 1:
                require_all_equal(row.history, one.outputs, f"order 1, {quantity}")


@part.proves(
    "The corrector joins the next row",
    functions=[numerics.fold],
    source="predict, evaluate, correct without a second evaluation: Hairer, Norsett and Wanner I, section III.1",
)
def the_corrector_joins_the_next_row() -> None:
    r"""The rows with a corrector give the same samples as predicting, evaluating and walking the window again.

    When the output of a new call is known, the window before it is walked once more from the same sample with weights
    that interpolate the new output as well, and the next window starts from that corrected sample:

    $$
    x^P_{n+1} = a\,x^C_n + \sum_j b_j f_j, \quad x^C_{n+1} = a\,x^C_n + \sum_j b'_j f_j, \quad
    x^P_{n+2} = a'\Bigl(x^P_{n+1} + \sum_j (b'_j - b_j) f_j\Bigr) + \dots
    $$

    **Derivation.** Predictor and corrector share $a\,x^C_n$, so the correction is a combination of outputs alone. The
    row applies it to the sample it is given, one output deeper, and no corrected sample is ever stored.

    **What it means.** An Adams-Moulton corrector costs neither a model call nor memory for a second sample.
    Checked for free steps and nodes over three calls with windows of two steps: predictor 2 with corrector 2
    and 3.
    """
    grid, (x, *outputs) = symbolic_grid(6)
    calls = (0, 2, 4)
    for corrector in (2, 3):
        rows = numerics.fold(grid, calls, order=2, corrector=corrector)
        corrected = by_rows = x
        for call, row in enumerate(rows):
            known, values = list(reversed(calls[: call + 1])), list(reversed(outputs[: call + 1]))
            nodes = [grid.nodes[i] for i in known]
            computed = dict(zip(known, values, strict=True))
            if call:
                used = min(corrector, call + 1)
                window = range(calls[call - 1], calls[call])
                corrected = step_by_step(grid, window, nodes[:used], values[:used], corrected, computed=computed)
            used = min(2, call + 1)
            window = range(calls[call], (*calls[1:], 6)[call])
            predicted = step_by_step(grid, window, nodes[:used], values[:used], corrected, computed=computed)
            by_rows = apply_row(row, by_rows, values)
            require_equal(by_rows, predicted, f"sample after call {call}, corrector {corrector}")
    require(any(row.corrector for row in rows), "the rows correct something")
