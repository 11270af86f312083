r"""Fold a plan and a base sampler into one row per model call.

Every base step is linear in the sample and in the outputs, and every skipped output is a fixed combination of the
cached ones. So the steps of one window compose to scalars,

``prev_sample = a sample + \sum_j b_j history_j``,

which are computed here once for a whole run. The same walk, taken again over the last window with an interpolation
that contains the new output, gives the Adams-Moulton corrector; its difference to the predictor needs no sample and
joins the next row (PEC mode: predict, evaluate, correct).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .base_steps import BaseStep
from .interpolation import Number, binomial_weights, lagrange_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseGrid:
    """A base sampler laid out on its grid.

    Args:
        steps: One linear step per base node.
        nodes: The interpolation variable at the base nodes (step index, timestep or lambda).
        conversions: Scalars ``(u, w)`` per node with *base output* ``= u x + w q`` where the cached quantity ``q`` is
            not the one in which ``steps`` are written; ``None`` where it is. Then a second history, of base outputs,
            is kept, because a multistep base needs those of earlier nodes.
    """

    steps: tuple[BaseStep, ...]
    nodes: tuple[Number, ...]
    conversions: tuple[tuple[Number, Number], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The folded window of one call: ``a x + sum_j b_j q_j + sum_j d_j m_j + clip r + sqrt(variance) z``.

    Args:
        sample: ``a``, weight of the sample at the call.
        history: ``b_j``, weights of the cached quantity, newest (this call's) first.
        base_history: ``d_j``, weights of the base outputs, newest first; empty unless the grid has conversions.
        clip: Weight of the residual ``r`` that clipping adds to this call's clean sample.
        variance: Variance of the fresh noise of the whole window.
        order: Number of outputs that predict the skipped ones.
        corrector: Number of outputs in the corrector of the window before; 0 where there is none.
    """

    sample: Number
    history: tuple[Number, ...]
    base_history: tuple[Number, ...] = ()
    clip: Number = 0
    variance: Number = 0
    order: int
    corrector: int = 0


@dataclass(slots=True)
class _Form:
    """A linear form in the sample, the cached quantities and the base outputs, both newest first."""

    sample: Number
    history: list[Number]
    base_history: list[Number]

    @classmethod
    def zero(cls, depth: int) -> _Form:
        return cls(0, [0] * depth, [0] * depth)

    def add(self, other: _Form, scale: Number) -> None:
        self.sample += scale * other.sample
        for j, value in enumerate(other.history):
            self.history[j] += scale * value
        for j, value in enumerate(other.base_history):
            self.base_history[j] += scale * value

    def scaled(self, scale: Number) -> _Form:
        return _Form(scale * self.sample, [scale * b for b in self.history], [scale * d for d in self.base_history])

    def minus(self, other: _Form) -> _Form:
        difference = self.scaled(1)
        difference.add(other, -1)
        return difference

    def aged(self) -> _Form:
        """The same form once a newer output has joined the history."""
        return _Form(self.sample, [0, *self.history[:-1]], [0, *self.base_history[:-1]])


def fold(
    grid: BaseGrid,
    compute_steps: Sequence[int],
    *,
    order: int,
    corrector: int | None = None,
    predictor: str = "extrapolate",
) -> tuple[Row, ...]:
    """Rows of the calls at ``compute_steps``, starting with an empty history at the first of them.

    Args:
        grid: The base sampler on its grid; it is walked from ``compute_steps[0]`` to its end.
        compute_steps: Rising indices of the base nodes that call the model.
        order: Number ``k`` of cached outputs that predict the skipped ones (fewer while the history fills).
        corrector: Number of outputs, the new one included, that correct the last window; ``None`` for no corrector.
        predictor: ``"extrapolate"`` evaluates the polynomial through the last outputs at each skipped node, of degree
            of exactness ``k - 1`` on any grid; ``"hold"`` answers a whole window with the binomial weights.

    Returns:
        One row per call.
    """
    depth = min(len(compute_steps), _depth(grid, order, corrector))
    ends = [*compute_steps[1:], len(grid.steps)]
    rows = []
    pending = None  # the last window as predicted, to be compared with its correction
    for call, (start, end) in enumerate(zip(compute_steps, ends, strict=True)):
        computed = tuple(reversed(compute_steps[max(0, call + 1 - depth) : call + 1]))
        used = min(order, call + 1)
        correction, correcting = _Form.zero(depth), 0
        if pending is not None and corrector is not None and start - computed[1] > 1:
            correcting = min(corrector, call + 1)
            again = _walk(grid, range(computed[1], start), computed, correcting, depth, "extrapolate", newest=1)
            correction = again.minus(pending.aged())
            correction.sample = 0
        window = range(start, end)
        pending = _walk(grid, window, computed, used, depth, predictor)
        total = pending.scaled(1)
        total.add(correction, pending.sample)
        reach = min(depth, call + 1)
        rows.append(
            Row(
                sample=total.sample,
                history=_trim(total.history[:reach]),
                base_history=_trim(total.base_history[:reach]) if grid.conversions is not None else (),
                clip=_clip_weight(grid, window),
                variance=_variance(grid, window),
                order=used,
                corrector=correcting,
            )
        )
    return tuple(rows)


def _depth(grid: BaseGrid, order: int, corrector: int | None) -> int:
    """Largest number of outputs that a row can touch."""
    base_depth = max(len(step.outputs) for step in grid.steps)
    if corrector is None:
        return max(order, base_depth)
    return max(order + 1, corrector, base_depth + 1)


def _walk(
    grid: BaseGrid,
    window: range,
    computed: Sequence[int],
    used: int,
    depth: int,
    predictor: str,
    newest: int = 0,
) -> _Form:
    """Compose the steps of ``window`` with outputs interpolated from the first ``used`` of ``computed``.

    ``newest`` is the place in ``computed`` (newest first) of the call that opens the window: 0 for a prediction, 1 for
    the corrector, which also knows the call that follows.
    """
    nodes = [grid.nodes[i] for i in computed[:used]]
    held = binomial_weights(used) if predictor == "hold" else None
    x = _Form.zero(depth)
    x.sample = 1
    recent: list[_Form] = []  # base outputs of this window, newest first
    for i in window:
        step = grid.steps[i]
        q = _Form.zero(depth)
        if i == window.start:
            q.history[newest] = 1
        else:
            weights = held if held is not None else lagrange_weights(nodes, grid.nodes[i])
            q.history[: len(weights)] = weights
        recent.insert(0, _base_output(grid, i, q, x, newest if i == window.start else None))
        x = x.scaled(step.sample)
        for lag, weight in enumerate(step.outputs):
            if lag < len(recent):
                x.add(recent[lag], weight)
            else:
                x.add(_earlier_output(grid, i - lag, computed, used, depth), weight)
        del recent[2:]
    return x


def _base_output(grid: BaseGrid, i: int, q: _Form, x: _Form, computed_at: int | None) -> _Form:
    """The base sampler's output at node ``i`` from the cached quantity ``q`` and the sample ``x`` there."""
    if grid.conversions is None:
        return q
    if computed_at is not None:
        output = _Form.zero(len(q.history))
        output.base_history[computed_at] = 1
        return output
    of_sample, of_quantity = grid.conversions[i]
    output = q.scaled(of_quantity)
    output.add(x, of_sample)
    return output


def _earlier_output(grid: BaseGrid, i: int, computed: Sequence[int], used: int, depth: int) -> _Form:
    """Base output at node ``i`` before the window: the computed one, else interpolated with the newest outputs."""
    output = _Form.zero(depth)
    target = output.history if grid.conversions is None else output.base_history
    if i in computed:
        target[computed.index(i)] = 1
    else:
        target[:used] = lagrange_weights([grid.nodes[m] for m in computed[:used]], grid.nodes[i])
    return output


def _clip_weight(grid: BaseGrid, window: range) -> Number:
    """Weight at the end of the window of a residual added to the clean sample of its first step."""
    weight = grid.steps[window.start].clip
    for i in window[1:]:
        weight = grid.steps[i].sample * weight
    return weight


def _variance(grid: BaseGrid, window: range) -> Number:
    """Variance at the end of the window of the independent noises of its steps."""
    variance: Number = 0
    for i in window:
        step = grid.steps[i]
        variance = step.sample * step.sample * variance + step.variance
    return variance


def _trim(weights: Sequence[Number]) -> tuple[Number, ...]:
    """Drop the oldest weights that are exactly zero, keeping at least one."""
    end = len(weights)
    while end > 1 and weights[end - 1] == 0:
        end -= 1
    return tuple(weights[:end])
