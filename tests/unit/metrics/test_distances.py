"""Distances between sets of features: known answers, and the values of other implementations."""

from __future__ import annotations

import pytest
import torch

from zoo.errors import DataError
from zoo.metrics.distances import frechet_distance, kernel_distance, nearest_distances


def test_the_distance_between_gaussians_is_known() -> None:
    # Rows with mean (3, 0) and covariance diag(4, 1), against mean 0 and the identity: 9 + (2 - 1)².
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.double) * (3 / 4) ** 0.5
    moved = corners * torch.tensor([2.0, 1.0]) + torch.tensor([3.0, 0.0])
    assert frechet_distance(corners, moved) == pytest.approx(10)
    assert frechet_distance(moved, moved) == pytest.approx(0, abs=1e-9)


def test_correlated_features_agree_with_the_general_formula() -> None:
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(0)
    first = torch.randn(50, 4, generator=generator, dtype=torch.double)
    first = first @ torch.randn(4, 4, generator=generator, dtype=torch.double)
    second = torch.randn(60, 4, generator=generator, dtype=torch.double) + 1
    one, other = torch.cov(first.T), torch.cov(second.T)
    product = torch.as_tensor(sqrtm((one @ other).numpy()).real)
    expected = (first.mean(0) - second.mean(0)).square().sum() + (one + other - 2 * product).trace()
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-6)


def test_one_image_has_no_distribution() -> None:
    with pytest.raises(DataError, match="Sets of 1 and 5"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))


def test_the_distances_agree_with_torchmetrics() -> None:
    kid, fid = pytest.importorskip("torchmetrics.image.kid"), pytest.importorskip("torchmetrics.image.fid")
    random = torch.Generator().manual_seed(6)
    first, second = (torch.randn(40, 5, generator=random, dtype=torch.float64) + shift for shift in (0, 0.4))
    assert kernel_distance(first, second) == pytest.approx(float(kid.poly_mmd(first, second)), rel=1e-9)
    parts = [value for some in (first, second) for value in (some.mean(0), torch.cov(some.T))]
    assert frechet_distance(first, second) == pytest.approx(float(fid._compute_fid(*parts)), rel=1e-6)
    assert kernel_distance(first[:20], first[20:]) < 0.2 * kernel_distance(first, second + 1)


def test_the_nearest_image_may_not_be_ones_own() -> None:
    features = torch.tensor([[0.0], [1.0], [5.0]])
    own = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    assert nearest_distances(features, features).tolist() == [0, 0, 0]
    assert nearest_distances(features, features, not_of=own).tolist() == [5, 4, 4]


def test_images_of_one_subject_have_no_nearest_image_of_another() -> None:
    features = torch.zeros(3, 1)
    with pytest.raises(DataError, match="at least two subjects"):
        nearest_distances(features, features, not_of=torch.ones(3, 3, dtype=torch.bool))
