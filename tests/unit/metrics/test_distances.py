"""Distances between sets of features: known answers, and the values of other implementations."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from zoo.errors import DataError
from zoo.metrics import distances
from zoo.metrics.distances import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    nearest_distances,
    nearest_neighbour_correct,
    precision_recall,
)


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


# --- torchmetrics on the same features. ---


class _Projection(torch.nn.Module):
    """Features of 8-bit images, as torchmetrics takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 12
        weights = torch.randn(3 * 8 * 8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.register_buffer("weights", weights / 100)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).to(self.weights.dtype) @ self.weights


def _bytes(count: int, seed: int, high: int = 255) -> torch.Tensor:
    return torch.randint(0, high, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("count", [8, 40])  # fewer images than features, and more
def test_the_frechet_distance_is_that_of_torchmetrics(count: int) -> None:
    image = pytest.importorskip("torchmetrics.image.fid")
    network, real, generated = _Projection(), _bytes(count, 2), _bytes(count + 5, 3, 230)
    metric = image.FrechetInceptionDistance(feature=network).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    assert frechet_distance(network(real), network(generated)) == pytest.approx(float(metric.compute()), rel=1e-4)


def test_the_kernel_distance_is_that_of_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.image.kid")
    network, real, generated = _Projection(), _bytes(30, 2), _bytes(30, 3, 230)
    metric = image.KernelInceptionDistance(feature=network, subsets=1, subset_size=30)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    expected = float(metric.compute()[0])
    assert kernel_distance(network(real), network(generated)) == pytest.approx(expected, rel=1e-4)


def test_the_kernel_distance_by_blocks_is_that_of_all_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _features(30, 1), _features(20, 2)
    whole = kernel_distance(first, second)
    monkeypatch.setattr(distances, "_BLOCK_ROWS", 7)
    assert kernel_distance(first, second) == pytest.approx(whole, rel=1e-9)


# --- Neighbours. ---


def _features(count: int, seed: int, size: int = 3) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _between(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    return np.linalg.norm(first.numpy()[:, None] - second.numpy()[None], axis=-1)


@pytest.mark.parametrize("groups", [None, np.arange(25) // 4])
def test_the_nearest_of_all_other_images_decides(groups: np.ndarray | None) -> None:
    real, generated = _features(25, 1), _features(31, 2) + 0.5
    correct = nearest_neighbour_correct(real, generated, groups)
    pool = torch.cat([real, generated])
    apart = _between(pool, pool)
    np.fill_diagonal(apart, np.inf)
    if groups is not None:
        apart[:25, :25][groups[:, None] == groups] = np.inf
    nearest_is_real = apart.argmin(1) < 25
    assert correct[0].tolist() == nearest_is_real[:25].tolist()
    assert correct[1].tolist() == (~nearest_is_real[25:]).tolist()


def test_one_nearest_neighbour_tells_what_happened() -> None:
    real, other = _features(300, 1, 5), _features(300, 2, 5)
    alike = [float(some.float().mean()) for some in nearest_neighbour_correct(real, other)]
    apart = [float(some.float().mean()) for some in nearest_neighbour_correct(real, other + 9)]
    copied = [float(some.float().mean()) for some in nearest_neighbour_correct(real, real)]
    assert alike == pytest.approx([0.5, 0.5], abs=0.1)
    assert apart == [1, 1]
    assert copied == [0, 0]


def test_images_of_one_subject_are_not_found_by_their_subject() -> None:
    subjects, each = 60, 5
    real = _features(subjects, 1, 4).repeat_interleave(each, 0) + 0.02 * _features(subjects * each, 2, 4)
    other = _features(subjects * each, 3, 4)
    groups = np.arange(subjects).repeat(each)
    assert nearest_neighbour_correct(real, other)[0].float().mean() > 0.95
    assert nearest_neighbour_correct(real, other, groups)[0].float().mean() < 0.5


def test_real_images_of_one_subject_have_no_neighbours() -> None:
    with pytest.raises(DataError, match="at least two subjects"):
        nearest_neighbour_correct(_features(4, 1), _features(4, 2), np.zeros(4, int))


def test_precision_recall_density_and_coverage_follow_their_definitions() -> None:
    real, generated, k = _features(30, 1), _features(40, 2) * 0.6, 3
    generated[:5] += 4
    own_real, own_generated, apart = _between(real, real), _between(generated, generated), _between(real, generated)
    real_reach, generated_reach = (np.sort(own, axis=1)[:, k] for own in (own_real, own_generated))  # 0 is itself
    inside = apart <= real_reach[:, None]
    precise, recalled = precision_recall(real, generated, k)
    density, covered = density_coverage(real, generated, k)
    assert precise.tolist() == inside.any(0).tolist()
    assert recalled.tolist() == (apart <= generated_reach).any(1).tolist()
    assert density.tolist() == pytest.approx(inside.sum(0) / k)
    assert covered.tolist() == inside.any(1).tolist()
    assert 0 < recalled.float().mean() < precise.float().mean() < 1  # a narrow generator


def test_equal_distributions_have_a_density_of_1() -> None:
    density, covered = density_coverage(_features(500, 1), _features(500, 2))
    assert float(density.mean()) == pytest.approx(1, abs=0.1)
    assert float(covered.float().mean()) == pytest.approx(1 - 1 / 2**5, abs=0.03)  # Naeem et al. 2020, equation 11


@pytest.mark.parametrize("measure", [precision_recall, density_coverage])
def test_fewer_images_than_neighbours_are_refused(measure) -> None:
    with pytest.raises(DataError, match="at least 6"):
        measure(_features(5, 1), _features(9, 2))


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, nearest_neighbour_correct, precision_recall])
def test_other_features_and_broken_ones_are_refused(measure) -> None:
    with pytest.raises(DataError, match="same features"):
        measure(_features(9, 1, 3), _features(9, 1, 4))
    with pytest.raises(DataError, match="NaN or infinite"):
        measure(_features(9, 1), _features(9, 1) * torch.nan)


def test_memory_is_that_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = (_features(2000, seed).float() for seed in (1, 2))  # 32 MB for all pairs in float64

    def peak(memory: int) -> tuple[float, list[torch.Tensor]]:
        monkeypatch.setattr(distances, "BLOCK_MEMORY_MIB", memory)
        tracemalloc.start()
        found = [*nearest_neighbour_correct(real, generated, np.arange(2000) // 10), *density_coverage(real, generated)]
        used = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        return used, found

    (small, some), (large, same) = peak(1), peak(100)
    assert small < 8
    assert large > 16
    assert all(torch.equal(one, other) for one, other in zip(some, same, strict=True))
