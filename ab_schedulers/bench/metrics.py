"""Errors, distances and accuracies that the tables print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]


def rmse(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root mean square difference of two tensors of one shape, over all their entries.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"rmse compares tensors of one shape; received {tuple(a.shape)} and {tuple(b.shape)}")
    return float((a.double() - b.double()).square().mean().sqrt())


def feature_statistics(features: Any) -> tuple[FloatArray, FloatArray]:
    """Mean (features,) and unbiased covariance (features, features) of `features` (samples, features), in float64.

    Raises:
        ValueError: not a matrix, or fewer than two samples.
    """
    matrix = np.asarray(features, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] < 2:
        raise ValueError(f"features must be (samples, features) with at least two samples; received {matrix.shape}")
    return matrix.mean(axis=0), np.cov(matrix, rowvar=False).reshape(matrix.shape[1], matrix.shape[1])


def frechet_distance(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians; on Inception's features it is known as FID.

    `|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a^{1/2} cov_b cov_a^{1/2})^{1/2})`
    (Dowson and Landau 1982, equation 4; Heusel et al. 2017, arXiv 1706.08500). The symmetric form of the root
    needs only eigen-decompositions of symmetric matrices: rank-deficient covariances are fine, nothing is complex.

    Args:
        mean_a: (features,).
        cov_a: (features, features), symmetric and positive semi-definite.
        mean_b: (features,).
        cov_b: (features, features), symmetric and positive semi-definite.

    Raises:
        ValueError: the shapes do not fit together.
    """
    first, second = np.asarray(mean_a, dtype=np.float64), np.asarray(mean_b, dtype=np.float64)
    left, right = np.asarray(cov_a, dtype=np.float64), np.asarray(cov_b, dtype=np.float64)
    size = first.shape[0] if first.ndim == 1 else -1
    if second.shape != (size,) or left.shape != (size, size) or right.shape != (size, size):
        shapes = ", ".join(str(array.shape) for array in (first, left, second, right))
        raise ValueError(f"expected (n,), (n, n), (n,), (n, n); received {shapes}")
    root = _square_root(left)
    inner = root @ right @ root
    eigenvalues = np.linalg.eigvalsh(0.5 * (inner + inner.T))
    trace_of_root = float(np.sqrt(np.clip(eigenvalues, 0.0, None)).sum())
    squared = float(np.square(first - second).sum() + np.trace(left) + np.trace(right)) - 2.0 * trace_of_root
    return max(squared, 0.0)


def _square_root(matrix: FloatArray) -> FloatArray:
    eigenvalues, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    root: FloatArray = (vectors * np.sqrt(np.clip(eigenvalues, 0.0, None))) @ vectors.T
    return root


def class_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of rows of `logits` (samples, classes) whose largest entry is the label."""
    return float((logits.argmax(dim=1) == labels).double().mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Mean of paired differences and its standard error."""

    mean: float
    standard_error: float
    count: int


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Mean of `a_i - b_i` and its standard error `s / sqrt(n)`, `s` with `n - 1` in the denominator.

    Raises:
        ValueError: the lengths differ, or there are no pairs. One pair gives an infinite standard error.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"paired_difference needs two equally long, non-empty series; received {len(a)} and {len(b)}")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    if count == 1:
        return PairedDifference(mean=mean, standard_error=math.inf, count=1)
    variance = sum((d - mean) ** 2 for d in differences) / (count - 1)
    return PairedDifference(mean=mean, standard_error=math.sqrt(variance / count), count=count)
