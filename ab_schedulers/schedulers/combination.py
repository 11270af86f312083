"""The fused linear combination that a step costs."""

from __future__ import annotations

from collections.abc import Iterable

import torch


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


def linear(of_sample: float, sample: torch.Tensor, of_output: float, output: torch.Tensor) -> torch.Tensor:
    """``of_sample * sample + of_output * output``, owned; a plain copy of ``output`` where nothing is converted."""
    if of_sample == 0:
        return output.clone() if of_output == 1 else output.to(sample.dtype) * of_output
    return weighted_sum(of_sample, sample, [(of_output, output)])
