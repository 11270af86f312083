"""The fused linear combination that a step costs."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def weighted_sum(
    weight: float, first: torch.Tensor, terms: Iterable[tuple[float, torch.Tensor]], dtype: torch.dtype
) -> torch.Tensor:
    """``weight * first + sum_j w_j tensor_j`` in a new tensor of ``dtype`` (float32 or better)."""
    total = first * weight if first.dtype == dtype else first.to(dtype).mul_(weight)
    for term_weight, tensor in terms:
        total.add_(tensor, alpha=term_weight)
    return total


def linear(of_sample: float, sample: torch.Tensor, of_output: float, output: torch.Tensor) -> torch.Tensor:
    """``of_sample * sample + of_output * output`` in float32 or better; a plain copy where nothing is converted."""
    dtype = torch.promote_types(sample.dtype, torch.float32)
    if of_sample == 0:
        return output.clone() if of_output == 1 else weighted_sum(of_output, output, (), dtype)
    return weighted_sum(of_sample, sample, [(of_output, output)], dtype)
