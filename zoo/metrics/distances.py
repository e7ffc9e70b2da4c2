"""Distances between two sets of images, from their features ``[N, F]``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.metrics import pairwise_distances_chunked
from torch import Tensor

from zoo.errors import DataError

BLOCK_MEMORY_MIB = 128
"""Memory of one block of distances."""
_BLOCK_ROWS = 1024


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared Fréchet distance between the Gaussians fitted to two sets of features.

    Args:
        first, second: Features, ``[N, F]`` and ``[M, F]``.

    Raises:
        DataError: A set has fewer than two rows, or the sets have different features.

    Source: Heusel et al. 2017, equation 6: ``|m1 - m2|² + trace(C1 + C2 - 2 (C1 C2)^½)``.
    """
    _check_two(first, second)
    first, second = first.double(), second.double()
    between = (first.mean(0) - second.mean(0)).square().sum()
    one, other = _covariance_factor(first), _covariance_factor(second)
    # C1 = AᵀA and C2 = BᵀB: the roots of the eigenvalues of C1 C2 are the singular values of ABᵀ.
    shared = torch.linalg.svdvals(one @ other.T).sum()
    return float((between + one.square().sum() + other.square().sum() - 2 * shared).clamp(min=0))


def _covariance_factor(features: Tensor) -> Tensor:
    """Return A with covariance AᵀA, of as few rows as possible."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R if len(centred) > centred.shape[1] else centred


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared maximum mean discrepancy between two sets of features; unbiased, so it may be negative.

    Args:
        first, second: ``[N, F]`` and ``[M, F]``.

    Raises:
        DataError: A set has fewer than two rows, or the sets have different features.

    Source: Bińkowski et al. 2018, section 4, kernel ``(x · y / F + 1)³``. Departure: one estimate from all pairs,
    not the mean over subsets.
    """
    _check_two(first, second)
    first, second = first.double(), second.double()

    def total(one: Tensor, other: Tensor) -> Tensor:
        rows = one.split(_BLOCK_ROWS)
        return torch.stack([(((some @ other.T) / one.shape[1] + 1) ** 3).sum() for some in rows]).sum()

    def within(some: Tensor) -> Tensor:
        itself = ((some.square().sum(1) / some.shape[1] + 1) ** 3).sum()
        return (total(some, some) - itself) / (len(some) * (len(some) - 1))

    return float(within(first) + within(second) - 2 * total(first, second) / (len(first) * len(second)))


def _check_two(first: Tensor, second: Tensor, fewest: int = 2) -> None:
    for features in (first, second):
        if features.dim() != 2 or features.shape[1] != first.shape[1]:
            raise DataError(
                f"Sets of images are compared by the same features [N, F]; got {list(first.shape)} and "
                f"{list(second.shape)}."
            )
        if not features.isfinite().all():
            raise DataError("Features hold NaN or infinite values; the sets cannot be compared.")
    if min(len(first), len(second)) < fewest:
        raise DataError(
            f"Sets of {len(first)} and {len(second)} images are too small to compare; each needs at least {fewest}."
        )


def nearest_neighbour_correct(
    real: Tensor, generated: Tensor, real_groups: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """Return for each image whether its nearest neighbour among all others is of its own set, bool ``[N]``, ``[M]``.

    The means are the leave-one-out accuracies of a 1-nearest-neighbour classifier on real and on generated images. Of
    equal distributions and equal numbers both are 0.5; memorised or collapsed images move them apart. An image that is
    equally far from both sets counts as incorrect.

    Args:
        real: ``[N, F]``, at least two.
        generated: ``[M, F]``, at least two.
        real_groups: int ``[N]``, the subject of each real image: real images of the same subject are no neighbours of
            each other, since they would be told from generated ones by their subject.

    Raises:
        DataError: A set is too small, or the real images are of a single group.

    Source: Lopez-Paz and Oquab 2017; Xu et al. 2018, section 2. Departure: groups.
    """
    _check_two(real, generated)
    first, second = real.numpy(force=True), generated.numpy(force=True)
    real_own = _nearest_of_others(first, np.arange(len(first)) if real_groups is None else np.asarray(real_groups))
    generated_own = _nearest_of_others(second, np.arange(len(second)))
    real_other, generated_other = np.full(len(first), np.inf), np.full(len(second), np.inf)
    for rows, distances in _blocks(first, second):
        real_other[rows] = distances.min(1)
        np.minimum(generated_other, distances.min(0), out=generated_other)
    return torch.from_numpy(real_own < real_other), torch.from_numpy(generated_own < generated_other)


def precision_recall(real: Tensor, generated: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Return which generated images lie among the real ones, bool ``[M]``, and which real ones among those, ``[N]``.

    An image lies among a set if it is no further from one of its images than that image's k-th nearest neighbour in
    the set. The means are precision and recall.

    Args:
        real, generated: ``[N, F]`` and ``[M, F]``, each of more than k images.

    Raises:
        DataError: A set is too small, or the sets have different features.

    Source: Kynkäänniemi et al. 2019, section 2, equations 1 to 3. They use k = 3.
    """
    _check_two(real, generated, k + 1)
    first, second = real.numpy(force=True), generated.numpy(force=True)
    real_reach, generated_reach = _kth_nearest(first, k), _kth_nearest(second, k)
    precise, recalled = np.zeros(len(second), bool), np.zeros(len(first), bool)
    for rows, distances in _blocks(first, second):
        precise |= (distances <= real_reach[rows, None]).any(0)
        recalled[rows] = (distances <= generated_reach).any(1)
    return torch.from_numpy(precise), torch.from_numpy(recalled)


def density_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Return how densely real images surround each generated one, ``[M]``, and which real ones are covered, ``[N]``.

    A real image's neighbourhood reaches to its k-th nearest real neighbour. The density of a generated image is the
    number of neighbourhoods that hold it, divided by k; a real image is covered if its neighbourhood holds a generated
    one. The means are density, which may exceed 1, and coverage.

    Args:
        real: ``[N, F]``, more than k images.
        generated: ``[M, F]``, more than k images.

    Raises:
        DataError: A set is too small, or the sets have different features.

    Source: Naeem et al. 2020, section 3, equations for density and coverage.
    """
    _check_two(real, generated, k + 1)
    first, second = real.numpy(force=True), generated.numpy(force=True)
    reach = _kth_nearest(first, k)
    holding, covered = np.zeros(len(second)), np.zeros(len(first), bool)
    for rows, distances in _blocks(first, second):
        inside = distances <= reach[rows, None]
        holding += inside.sum(0)
        covered[rows] = inside.any(1)
    return torch.from_numpy(holding / k), torch.from_numpy(covered)


def _blocks(first: np.ndarray, second: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of ``first`` and their distances to all of ``second`` or of ``first`` itself, in little memory."""
    start = 0
    for distances in pairwise_distances_chunked(first, second, working_memory=BLOCK_MEMORY_MIB):
        yield slice(start, start + len(distances)), distances
        start += len(distances)


def _nearest_of_others(features: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the distance of each row to the nearest one of another group, ``[N]``."""
    if len(np.unique(groups)) < 2:
        raise DataError("Images of a single subject have no neighbours of another; at least two subjects are needed.")
    nearest = np.empty(len(features))
    for rows, distances in _blocks(features):
        distances[groups[rows, None] == groups] = np.inf
        nearest[rows] = distances.min(1)
    return nearest


def _kth_nearest(features: np.ndarray, k: int) -> np.ndarray:
    """Return the distance of each row to its k-th nearest other row, ``[N]``."""
    reach = np.empty(len(features))
    for rows, distances in _blocks(features):
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf
        reach[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return reach


def nearest_distances(images: Tensor, real: Tensor, *, not_of: Tensor | None = None) -> Tensor:
    """Return the distance of each image to the nearest real one, float64 ``[N]``.

    Args:
        images: ``[N, F]`` features.
        real: ``[M, F]`` features in the same units.
        not_of: bool ``[N, M]``, real images to ignore per image, such as those of the same subject.

    Raises:
        DataError: An image has no real image to compare with.
    """
    distances = torch.cdist(images.double(), real.double())
    if not_of is not None:
        distances = distances.masked_fill(not_of, torch.inf)
    nearest = distances.min(dim=1).values
    if nearest.isinf().any():
        raise DataError("A distance to the nearest image of another subject needs at least two subjects.")
    return nearest
