"""A distance between sets of images by a small fixed set of features, which needs no pretrained network.

It tells a generator's checkpoints apart on any machine, in 2D and 3D and for any number of channels. It is not the
Fréchet Inception distance and its values cannot be compared with that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import DataError

_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
_OCTAVES = 3
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
_FOREGROUND = -0.9


def radiomic_features(images: Tensor) -> Tensor:
    """Return what a radiologist's ruler would find in each image, float64 ``[B, F]``.

    For each channel: the share of foreground; the mean, the spread and five quantiles of its intensities; its centre
    and its spread along each axis, in shares of the side; the difference between the left half and the mirrored right
    half; the logarithm of the energy in each of three octaves of detail and of what is left.

    Args:
        images: ``[B, C, *spatial]`` in [-1, 1], two or three spatial axes, the first from left to right.
    """
    dims = images.dim() - 2
    count = len(images)
    columns: list[Tensor] = []
    for channel in images.double().clamp(-1, 1).split(1, dim=1):
        pixels = channel.flatten(1)
        inside = (pixels > _FOREGROUND).double()
        voxels = inside.sum(1).clamp(min=1)
        mean = (pixels * inside).sum(1) / voxels
        spread = ((pixels - mean[:, None]).square() * inside).sum(1) / voxels
        columns += [inside.mean(1), mean, spread.sqrt()]
        ordered = pixels.sort(dim=1).values
        columns += [ordered[:, int(share * (ordered.shape[1] - 1))] for share in _SHARES]
        weights = channel[:, 0] + 1 + 1e-6
        for axis in range(dims):
            others = [other + 1 for other in range(dims) if other != axis]
            along = weights.sum(others)
            along = along / along.sum(1, keepdim=True)
            place = torch.linspace(0, 1, along.shape[1], dtype=along.dtype, device=along.device)
            centre = (along * place).sum(1)
            columns += [centre, ((place - centre[:, None]).square() * along).sum(1).sqrt()]
        columns.append((channel - channel.flip(2)).abs().flatten(1).mean(1))
        rest = channel
        for _ in range(_OCTAVES):
            coarse = _POOL[dims](rest, 2)
            shape = [2 * side for side in coarse.shape[2:]]
            detail = rest[(..., *[slice(side) for side in shape])] - F.interpolate(coarse, shape)
            columns.append(torch.log(detail.square().flatten(1).mean(1) + 1e-8))
            rest = coarse
        columns.append(torch.log(rest.var(dim=list(range(2, dims + 2)), correction=0)[:, 0] + 1e-8))
    return torch.stack(columns, dim=1).reshape(count, -1)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared Fréchet distance between the Gaussians fitted to two sets of features.

    Args:
        first, second: ``[N, F]`` and ``[M, F]``.

    Raises:
        DataError: A set has fewer than two rows.

    Source: Heusel et al. 2017, equation 6: ``|m1 - m2|² + trace(C1 + C2 - 2 (C1 C2)^½)``.
    """
    if min(len(first), len(second)) < 2:
        raise DataError(f"A distance between sets of {len(first)} and {len(second)} images needs two in each.")
    first, second = first.double(), second.double()
    between = (first.mean(0) - second.mean(0)).square().sum()
    one, other = torch.cov(first.T), torch.cov(second.T)
    values, vectors = torch.linalg.eigh(one)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return float((between + one.trace() + other.trace() - 2 * shared).clamp(min=0))


def radiomic_distance(real: Tensor, generated: Tensor) -> float:
    """Return `frechet_distance` of `radiomic_features`, each feature in units of its spread among ``real`` images.

    Args:
        real, generated: ``[N, C, *spatial]`` and ``[M, C, *spatial]`` in [-1, 1].
    """
    features = radiomic_features(real)
    # A feature that hardly varies among few real images must not outweigh all the others.
    scale = features.std(0, correction=0).clamp(min=0.01)
    return frechet_distance(features / scale, radiomic_features(generated) / scale)
