"""The fused linear combination that a step costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A tensor up to a factor, ``factor * tensor``: the factor joins the weights of a row and costs no pass."""

    factor: float
    tensor: torch.Tensor

    def value(self) -> torch.Tensor:
        """The product; the tensor itself where the factor is 1."""
        return self.tensor if self.factor == 1 else self.tensor * self.factor


def weighted_sum(
    weight: float, first: torch.Tensor, terms: Iterable[tuple[float, torch.Tensor]], *, overwrite: bool = False
) -> torch.Tensor:
    """``weight * first + sum_j w_j tensor_j`` in the dtype of ``first`` (float32 or better).

    The result is a new tensor, or ``first`` itself where the caller lets it be overwritten.
    """
    total = first.mul_(weight) if overwrite else first * weight
    for term_weight, tensor in terms:
        total.add_(tensor, alpha=term_weight)
    return total


def linear(
    of_sample: float, sample: torch.Tensor, of_output: float, output: torch.Tensor, out: torch.Tensor | None = None
) -> Scaled:
    """``of_sample * sample + of_output * output``, owned; one pass, the larger weight becomes the factor.

    In float64 two passes, since there the rounding of the weights' quotient would show. ``out`` is written to where it
    can hold the result: memory that is fresh costs as much as the sum.
    """
    if of_sample == 0:
        return Scaled(factor=of_output, tensor=output.clone())
    if sample.dtype == torch.float64:
        return Scaled(factor=1.0, tensor=(sample * of_sample).add_(output, alpha=of_output))
    out = out if _can_hold(out, sample, output) else None
    if abs(of_sample) < abs(of_output):
        return Scaled(factor=of_output, tensor=torch.add(output, sample, alpha=of_sample / of_output, out=out))
    return Scaled(factor=of_sample, tensor=torch.add(sample, output, alpha=of_output / of_sample, out=out))


def _can_hold(out: torch.Tensor | None, sample: torch.Tensor, output: torch.Tensor) -> bool:
    if out is None or (torch.is_grad_enabled() and (out.requires_grad or sample.requires_grad or output.requires_grad)):
        return False
    return (
        out.shape == sample.shape
        and out.device == output.device
        and out.dtype == torch.promote_types(sample.dtype, output.dtype)
        and out.is_inference() == torch.is_inference_mode_enabled()
    )
