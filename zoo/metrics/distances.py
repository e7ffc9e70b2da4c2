"""Distances between two sets of images, from their features ``[N, F]``."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import DataError


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared Fréchet distance between the Gaussians fitted to two sets of features.

    Args:
        first, second: Features, ``[N, F]`` and ``[M, F]``.

    Raises:
        DataError: A set has fewer than two rows.

    Source: Heusel et al. 2017, equation 6: ``|m1 - m2|² + trace(C1 + C2 - 2 (C1 C2)^½)``.
    """
    _check_two(first, second)
    first, second = first.double(), second.double()
    between = (first.mean(0) - second.mean(0)).square().sum()
    one, other = torch.cov(first.T), torch.cov(second.T)
    values, vectors = torch.linalg.eigh(one)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return float((between + one.trace() + other.trace() - 2 * shared).clamp(min=0))


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared maximum mean discrepancy between two sets of features; unbiased, so it may be negative.

    Args:
        first, second: ``[N, F]`` and ``[M, F]``.

    Raises:
        DataError: A set has fewer than two rows.

    Source: Bińkowski et al. 2018, section 4, kernel ``(x · y / F + 1)³``. Departure: one estimate from all pairs,
    not the mean over subsets; intervals come from a bootstrap.
    """
    _check_two(first, second)
    first, second = first.double(), second.double()

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def within(some: Tensor) -> Tensor:
        values = kernel(some, some)
        return (values.sum() - values.trace()) / (len(some) * (len(some) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def _check_two(first: Tensor, second: Tensor) -> None:
    if min(len(first), len(second)) < 2:
        raise DataError(f"A distance between sets of {len(first)} and {len(second)} images needs two in each.")


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
