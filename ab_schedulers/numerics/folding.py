"""Fold a plan and a base sampler into one row per model call.

Every base step is linear in the sample and in the outputs, and every skipped output is a fixed combination of the
cached ones. So the steps of one window compose to scalars,

``prev_sample = a sample + Σ_j b_j history_j``,

which are computed here once for a whole run. The same walk, taken again over the last window with an interpolation
that contains the new output, gives the Adams-Moulton corrector; its difference to the predictor needs no sample and
joins the next row (PEC mode: predict, evaluate, correct).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from .base_steps import BaseStep
from .interpolation import Number, binomial_weights, lagrange_denominators, weights_from_denominators


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseGrid:
    """A base sampler laid out on its grid.

    Theory: docs/theory/04-folding.md.

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

    Theory: docs/theory/04-folding.md.

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


# A linear form: weights of the sample, of the cached quantities and (where they differ) of the base outputs, newest
# first, of the clip residual and of the window's noises: [sample, history..., base_history..., clip, noises...].
_Form: TypeAlias = list[Number]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Basis:
    """Where the sample, the outputs known at one call, the clip residual and the noises stand in a form."""

    grid: BaseGrid
    depth: int
    computed: Sequence[int]  # base nodes of the known outputs, newest first
    noises: int  # independent noises of the call's window

    @property
    def clip(self) -> int:
        """Place of the clip residual; the noises follow it."""
        return 1 + self.depth * (1 if self.grid.conversions is None else 2)

    def zero(self) -> _Form:
        """The empty form."""
        return [0] * (self.clip + 1 + self.noises)

    def unit(self, place: int) -> _Form:
        """The form of one entry."""
        form = self.zero()
        form[place] = 1
        return form

    def base_output(self, age: int) -> _Form:
        """The base output of the call ``age`` calls ago."""
        return self.unit(self._base_start + age)

    def history(self, weights: Sequence[Number]) -> _Form:
        """A combination of cached quantities."""
        return self._combination(1, weights)

    def base_outputs(self, weights: Sequence[Number]) -> _Form:
        """A combination of base outputs."""
        return self._combination(self._base_start, weights)

    def aged(self, form: _Form) -> _Form:
        """The same form once a newer output has joined the history; clip and noises are spent."""
        aged = self.zero()
        aged[0] = form[0]
        for start in range(1, self.clip, self.depth):
            aged[start + 1 : start + self.depth] = form[start : start + self.depth - 1]
        return aged

    @property
    def _base_start(self) -> int:
        return 1 if self.grid.conversions is None else 1 + self.depth

    def _combination(self, start: int, weights: Sequence[Number]) -> _Form:
        form = self.zero()
        form[start : start + len(weights)] = weights
        return form


def _add(form: _Form, scale: Number, other: _Form) -> _Form:
    return [u + scale * v for u, v in zip(form, other, strict=True)]


def fold(
    grid: BaseGrid,
    compute_steps: Sequence[int],
    *,
    order: int,
    corrector: int | None = None,
    predictor: str = "extrapolate",
) -> tuple[Row, ...]:
    """Rows of the calls at ``compute_steps``, starting with an empty history at the first of them.

    Derived in docs/theory/04-folding.md.

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
    stochastic = any(step.variance != 0 for step in grid.steps)
    rows = []
    predicted: _Form = []  # the last window before its correction
    for call, (start, end) in enumerate(zip(compute_steps, ends, strict=True)):
        computed = tuple(reversed(compute_steps[max(0, call + 1 - depth) : call + 1]))
        window = range(start, end)
        basis = _Basis(grid=grid, depth=depth, computed=computed, noises=len(window) if stochastic else 0)
        correction, correcting = basis.zero(), 0
        if corrector is not None and call > 0 and start - computed[1] > 1:
            correcting = min(corrector, call + 1)
            correction = _correction(basis, predicted, range(computed[1], start), correcting)
        used = min(order, call + 1)
        predicted = _walk(basis, window, used, predictor)
        total = _add(predicted, predicted[0], correction)
        known = min(depth, call + 1)
        rows.append(
            Row(
                sample=total[0],
                history=_trim(total[1 : 1 + known]),
                base_history=_trim(total[1 + depth : 1 + depth + known]) if grid.conversions is not None else (),
                clip=total[basis.clip],
                variance=sum(
                    weight * weight * grid.steps[i].variance
                    for i, weight in zip(window, total[basis.clip + 1 :], strict=False)
                ),
                order=used,
                corrector=correcting,
            )
        )
    return tuple(rows)


def _correction(basis: _Basis, predicted: _Form, window: range, used: int) -> _Form:
    """What the last window gains when it is integrated again with the newest output.

    Predictor and corrector share the weights of the sample, of the clip residual and of the noises, so the difference
    is one of outputs alone.
    """
    outputs = replace(basis, noises=0)
    corrected = _walk(outputs, window, used, "extrapolate", opened_by=1)
    correction = basis.zero()
    correction[1 : basis.clip] = _add(corrected, -1, outputs.aged(predicted))[1 : basis.clip]
    return correction


def _depth(grid: BaseGrid, order: int, corrector: int | None) -> int:
    """Largest number of outputs that a row can touch."""
    base_depth = max(len(step.outputs) for step in grid.steps)
    if corrector is None:
        return max(order, base_depth)
    return max(order + 1, corrector, base_depth + 1)


def _walk(basis: _Basis, window: range, used: int, predictor: str, opened_by: int = 0) -> _Form:
    """Compose the steps of ``window`` with outputs interpolated from the ``used`` newest.

    ``opened_by`` is the age of the call that opens the window: 0 for a prediction, 1 for the corrector, which also
    knows the call that follows.
    """
    grid = basis.grid
    nodes = [grid.nodes[i] for i in basis.computed[:used]]
    denominators = lagrange_denominators(nodes)
    held = binomial_weights(used) if predictor == "hold" else None
    x = basis.unit(0)
    recent: list[_Form] = []  # base outputs of this window, newest first
    for i in window:
        step = grid.steps[i]
        if i == window.start:
            recent.insert(0, basis.base_output(opened_by))
        else:
            weights = held or weights_from_denominators(nodes, denominators, grid.nodes[i])
            quantity = basis.history(weights)
            if grid.conversions is not None:
                of_sample, of_quantity = grid.conversions[i]
                quantity = _add([of_quantity * v for v in quantity], of_sample, x)
            recent.insert(0, quantity)
        x = [step.sample * v for v in x]
        if i == window.start:
            x[basis.clip] = step.clip
        if basis.noises:
            x[basis.clip + 1 + i - window.start] = 1
        for lag, weight in enumerate(step.outputs):
            output = recent[lag] if lag < len(recent) else _earlier_output(basis, i - lag, nodes, denominators)
            x = _add(x, weight, output)
        del recent[2:]
    return x


def _earlier_output(basis: _Basis, i: int, nodes: Sequence[Number], denominators: Sequence[Number]) -> _Form:
    """Base output at node ``i`` before the window: the computed one, else interpolated with the newest outputs."""
    if i in basis.computed:
        return basis.base_output(basis.computed.index(i))
    return basis.base_outputs(weights_from_denominators(nodes, denominators, basis.grid.nodes[i]))


def _trim(weights: Sequence[Number]) -> tuple[Number, ...]:
    """Drop the oldest weights that are exactly zero, keeping at least one."""
    end = len(weights)
    while end > 1 and weights[end - 1] == 0:
        end -= 1
    return tuple(weights[:end])
