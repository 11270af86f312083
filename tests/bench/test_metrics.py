"""Metrics agree with closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ab_schedulers.bench.metrics import (
    class_accuracy,
    feature_statistics,
    frechet_distance,
    paired_difference,
    rmse,
)


def _covariance(size: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((size, size))
    return factor @ factor.T / size


def test_frechet_distance_of_equal_gaussians_is_zero() -> None:
    mean, covariance = np.arange(5.0), _covariance(5, 0)
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0.0, abs=1e-12)


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift() -> None:
    covariance, shift = _covariance(4, 1), np.array([1.0, -2.0, 0.0, 0.5])
    assert frechet_distance(np.zeros(4), covariance, shift, covariance) == pytest.approx(5.25)


def test_frechet_distance_of_commuting_covariances_is_the_sum_over_standard_deviations() -> None:
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 0.25, 1.0])
    expected = float(np.square(np.sqrt(a) - np.sqrt(b)).sum())
    assert frechet_distance(np.zeros(3), np.diag(a), np.zeros(3), np.diag(b)) == pytest.approx(expected)


def test_frechet_distance_in_two_dimensions_matches_the_determinant_formula() -> None:
    a, b = _covariance(2, 2), _covariance(2, 3)
    product = a @ b
    trace_of_root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    expected = np.trace(a) + np.trace(b) - 2 * trace_of_root
    assert frechet_distance(np.zeros(2), a, np.zeros(2), b) == pytest.approx(expected)


def test_frechet_distance_is_symmetric_and_accepts_singular_covariances() -> None:
    a, b = _covariance(6, 4), np.outer(np.ones(6), np.ones(6))
    first, second = np.zeros(6), np.linspace(0, 1, 6)
    assert frechet_distance(first, a, second, b) == pytest.approx(frechet_distance(second, b, first, a))


def test_frechet_distance_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"received \(3,\), \(3, 3\), \(2,\), \(2, 2\)"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(2), np.eye(2))


def test_feature_statistics_are_mean_and_unbiased_covariance() -> None:
    features = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    mean, covariance = feature_statistics(features)
    np.testing.assert_allclose(mean, [2.0, 2.0])
    np.testing.assert_allclose(covariance, [[4.0, 3.0], [3.0, 3.0]])


def test_feature_statistics_refuse_a_single_sample() -> None:
    with pytest.raises(ValueError, match="at least two samples"):
        feature_statistics(torch.zeros(1, 4))


def test_rmse_is_the_root_of_the_mean_square() -> None:
    assert rmse(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0])) == pytest.approx(math.sqrt(12.5))
    with pytest.raises(ValueError, match="one shape"):
        rmse(torch.zeros(2), torch.zeros(3))


def test_class_accuracy_counts_the_largest_logit() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 4.0], [1.0, 0.0]])
    assert class_accuracy(logits, torch.tensor([0, 1, 0, 0])) == 0.75


def test_paired_difference_cancels_what_the_pairs_share() -> None:
    result = paired_difference([11.0, 21.0, 33.0], [10.0, 20.0, 30.0])
    assert result.mean == pytest.approx(5 / 3)
    assert result.standard_error == pytest.approx(math.sqrt(4 / 3 / 3))
    assert paired_difference([2.0], [1.0]).standard_error == math.inf
    with pytest.raises(ValueError, match="received 1 and 2"):
        paired_difference([1.0], [1.0, 2.0])
