"""Part 6, continued: what the start costs, and the slopes that runs show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import sympy as sp

from ab_schedulers import numerics

from .rendering import table
from .row_limits import euler_grid
from .statements import require, require_equal
from .truncation import part, prediction_constant


def degree_of_window(row: numerics.Row, grid: numerics.BaseGrid, plan: Sequence[int], call: int) -> float:
    """The lowest power of time that the row of a call does not treat as the base sampler does."""
    end = [*plan, len(grid.steps)][call + 1]
    for power in range(10):
        own = sum(grid.steps[i].outputs[0] * grid.nodes[i] ** power for i in range(plan[call], end))
        cached = sum(b * grid.nodes[plan[call - j]] ** power for j, b in enumerate(row.history))
        if own != cached:
            return power
    return math.inf


@part.proves(
    "What the start costs",
    functions=[numerics.fold],
    source="our derivation",
)
def the_start_caps_the_order() -> None:
    r"""Without warm-up the first window is plain reuse and caps the order at 2, at 3 with a corrector.

    Window $n = 1, 2, \dots$ knows $\min(n, k)$ outputs, so the first misses $C_1(T) H^2 f'$, the second
    $C_2(T) H^3 f''$, and so on. A corrector of two or more outputs leaves $O(H^3)$ of the first. With $k - 1$
    warm-up calls of one base step each, every window is exact below the power $k$.

    **Derivation.** These errors are made once each, so they enter the result as they are, while those of the other
    windows add up over the $1/H$ windows of a run: $H^2$ made once weighs as much as $H^3$ made always. During the
    warm-up nothing is predicted, hence nothing is missed. When the first long window begins $k$ outputs are known, at
    nodes that are closer together; interpolation keeps its degree on any nodes.

    **What it means.** Order three and four need a start. A few warm-up calls buy it, or a plan with short first
    windows; with few calls they are too dear, and a low order with a corrector is better. Checked on the running
    rows: orders 1 to 5, intervals 2 to 4.
    """
    for k in range(1, 6):
        for fine in (2, 3, 4):
            grid = euler_grid(fine, k + 2)
            plain = list(range(0, len(grid.steps), fine))
            rows = numerics.fold(grid, plain, order=k)
            found = [degree_of_window(row, grid, plain, call) for call, row in enumerate(rows)]
            require_equal(sp.Tuple(*found), sp.Tuple(*(min(call + 1, k) for call in range(k + 2))), f"start, order {k}")
            first = degree_defect(rows[0], grid, plain)
            require_equal(first, prediction_constant(1, fine), f"the first window, order {k}, interval {fine}")
            warm = [*range(k - 1), *range(k - 1, len(grid.steps), fine)]
            rows = numerics.fold(grid, warm, order=k)
            lowest = min(degree_of_window(row, grid, warm, call) for call, row in enumerate(rows))
            require(lowest == k, f"warm-up, order {k}, interval {fine}: degree {lowest}")


def degree_defect(row: numerics.Row, grid: numerics.BaseGrid, plan: Sequence[int]) -> Any:
    """What the first window misses of ``f = t``."""
    own = sum(grid.steps[i].outputs[0] * grid.nodes[i] for i in range(plan[1]))
    return own - row.history[0] * grid.nodes[0]


def field(state: float) -> float:
    """The flow ``dz/dt = -z^2`` of the runs below; ``z = 1/(1 + t)`` from one."""
    return -state * state


def run(steps: int, plan: Sequence[int], order: int, corrector: int | None = None) -> float:
    """The end at ``t = 1`` of a cached run of flow Euler."""
    grid = numerics.BaseGrid(
        steps=tuple(numerics.BaseStep(sample=1.0, outputs=(1.0 / steps,)) for _ in range(steps)),
        nodes=tuple(float(i) for i in range(steps)),
    )
    state, history = 1.0, []
    for row in numerics.fold(grid, plan, order=order, corrector=corrector):
        history.insert(0, field(state))
        state = row.sample * state + sum(b * f for b, f in zip(row.history, history, strict=False))
    return state


def slope(error: Callable[[int], float], coarse: int) -> float:
    """Observed order between ``coarse`` calls and twice as many."""
    return math.log2(error(coarse) / error(2 * coarse))


def uniform_plan(calls: int, interval: int, warmup: int) -> tuple[int, list[int]]:
    """Number of base steps and steps that call the model."""
    plan = numerics.CachePlan.uniform(num_calls=calls, cache_interval=interval, warmup_calls=warmup)
    return plan.num_base_steps, list(plan.compute_steps)


def run_error(order: int, comparison: str, calls: int) -> tuple[float, float]:
    """Length of a window, and the error of a run with three base steps a call in one kind of comparison."""
    warmup, corrector = (0, None) if comparison == "plain start" else (order - 1, None)
    if comparison == "corrector":
        warmup, corrector = order, order + 1
    steps, plan = uniform_plan(calls, 3, warmup)
    end = run(steps, plan, order, corrector)
    return 3 / steps, abs(end - (0.5 if comparison == "flow" else run(steps, range(steps), 1)))


def refined_error(order: int, calls: int) -> tuple[float, float]:
    """The same against the flow while the interval grows with the calls to the power ``k - 1``."""
    interval = calls ** (order - 1) // 16 ** (order - 1)
    steps, plan = uniform_plan(calls, interval, order - 1)
    return interval / steps, abs(run(steps, plan, order) - 0.5)


def observed(order: int, comparison: str, calls: int = 96) -> float:
    """Observed order of one kind of comparison at three base steps a call."""
    return slope(lambda count: run_error(order, comparison, count)[1], calls)


def refined(order: int) -> float:
    """Observed order against the flow while the interval grows."""
    return slope(lambda count: refined_error(order, count)[1], 96 // order)


def predicted(order: int, comparison: str) -> int:
    """The order that the statements of this page give."""
    return {"base": order, "plain start": min(order, 2), "flow": 1, "corrector": order + 1}[comparison]


def slopes_table() -> str:
    """Observed orders beside the predicted ones."""
    lines = []
    for k in (1, 2, 3, 4):
        line = [f"{observed(k, kind):.2f} ({predicted(k, kind)})" for kind in KINDS]
        lines.append([str(k), *line, f"{refined(k):.2f} ({k})" if k < 4 else "too fine a grid"])
    return table(["k", *KINDS.values(), r"to the flow, $T \propto H^{1-k}$"], lines)


KINDS = {
    "base": "to the base, with warm-up",
    "plain start": "to the base, without",
    "corrector": "to the base, warm-up and corrector k + 1",
    "flow": "to the flow",
}


@part.proves(
    "Observed orders",
    functions=[numerics.fold],
    source="our measurement; tests/numerics measures more flows, grids and bases",
    formulas=lambda: {"slopes": slopes_table()},
)
def runs_show_the_predicted_orders() -> None:
    r"""The slopes of runs on dz/dt = -z^2 agree with the predicted orders within 0.2.

    Between 96 and 192 calls at three base steps a call; predicted orders in brackets:

    <<slopes>>

    <<order_slopes>>

    **Derivation.** None: this is a measurement with the running rows, in floating point.

    **What it means.** The statements above describe runs in which the output depends on the state, not only integrals.
    The constant is right, too: where $f$ depends on time alone, the difference to the base is $\sum_n C_k(T) H^{k+1}
    f^{(k)}$ exactly, checked in fractions for $f = t^k$.
    """
    for k in (1, 2, 3, 4):
        for kind in KINDS:
            found = observed(k, kind)
            require(abs(found - predicted(k, kind)) < 0.2, f"order {k}, {KINDS[kind]}: {found:.2f}")
        if k < 4:
            require(abs(refined(k) - k) < 0.2, f"order {k} on ever finer grids: {refined(k):.2f}")
        for fine in (2, 3):
            windows = 8
            grid = euler_grid(fine, windows)
            plan = range(0, len(grid.steps), fine)
            rows = numerics.fold(grid, plan, order=k)
            total = sum(
                sum(b * grid.nodes[plan[call - j]] ** k for j, b in enumerate(row.history))
                for call, row in enumerate(rows)
                if call >= k - 1
            )
            own = sum(Fraction(1, fine) * node**k for node in grid.nodes[plan[k - 1] :])
            counted = len(rows) - (k - 1)
            expected = counted * prediction_constant(k, fine) * math.factorial(k)
            require_equal(own - total, expected, f"sum of the local errors, order {k}, interval {fine}")
