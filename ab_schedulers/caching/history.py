"""The last computed outputs of one stream, and their polynomial."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ab_schedulers.numerics import embedded_weights, lagrange_weights
from ab_schedulers.schedulers.combination import weighted_sum


@dataclass(slots=True, kw_only=True)
class OutputHistory:
    """Outputs at their nodes, newest first, at most ``order`` of them.

    The history owns its tensors: what it is given is copied, and what it returns may be written to.

    Args:
        order: Number of outputs that are kept.
    """

    order: int
    nodes: list[float] = field(default_factory=list)
    outputs: list[tuple[torch.Tensor, ...]] = field(default_factory=list)

    def record(self, node: float, tensors: tuple[torch.Tensor, ...]) -> None:
        """Put new outputs in front; outputs of another shape than the ones before start anew."""
        if self.outputs and [t.shape for t in self.outputs[0]] != [t.shape for t in tensors]:
            self.nodes, self.outputs = [], []
        owned = tuple(tensor.detach().clone() for tensor in tensors)
        self.nodes = [node, *self.nodes][: self.order]
        self.outputs = [owned, *self.outputs][: self.order]

    def predict(self, point: float, order: int | None = None) -> tuple[torch.Tensor, ...]:
        """Values at ``point`` of the polynomial through the newest ``order`` outputs (all, where None)."""
        nodes = self.nodes[:order]
        return self._combine(lagrange_weights(nodes, point))

    def embedded_difference(self, point: float) -> torch.Tensor:
        """Prediction from all outputs minus that from one fewer, of the first tensor, in float32 or better."""
        weights = embedded_weights(self.nodes, point)
        return _weighted([outputs[0] for outputs in self.outputs], weights)

    def _combine(self, weights: tuple[float, ...]) -> tuple[torch.Tensor, ...]:
        if len(weights) == 1:
            return tuple(tensor.clone() for tensor in self.outputs[0])
        columns = zip(*self.outputs[: len(weights)], strict=True)
        return tuple(_weighted(column, weights).to(column[0].dtype) for column in columns)


def _weighted(tensors: tuple[torch.Tensor, ...] | list[torch.Tensor], weights: tuple[float, ...]) -> torch.Tensor:
    first = tensors[0]
    precise = first.to(torch.promote_types(first.dtype, torch.float32))
    terms = zip(weights[1:], tensors[1:], strict=True)
    return weighted_sum(weights[0], precise, terms, overwrite=precise is not first)
