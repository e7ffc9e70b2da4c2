"""Diversity of a set of images: how alike pairs of them are."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import DataError

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SIGMA = 1.5
_SIDES = (11, 22, 44, 99, 176)
"""Smallest side for each number of scales: the window of 11 fits the coarsest, and torchmetrics accepts it."""
_BATCH = 64


def scales_of(size: tuple[int, ...]) -> int:
    """Return the number of scales, 1 to 5, that the window fits in images of a size.

    Raises:
        DataError: The window does not fit the image itself.
    """
    count = sum(min(size) >= side for side in _SIDES)
    if not count:
        raise DataError(
            f"Images of {' x '.join(map(str, size))} are too small for MS-SSIM; each side needs {_SIDES[0]} voxels."
        )
    return count


def pair_ms_ssim(images: Tensor, pairs: Tensor) -> Tensor:
    """Return the multi-scale structural similarity of pairs of images, float ``[P]``; 1 is equal.

    The mean over random pairs tells how diverse a set is: the lower, the more. The window is a Gaussian of 1.5 voxels,
    11 wide. Of the five published scales the first `scales_of` are used, their weights divided by their sum: 3 at
    64 x 64, 2 at 32 x 32 x 32. Channels are averaged. Negative contrast terms count as 0.

    Args:
        images: ``[N, C, *spatial]`` in [-1, 1], two or three spatial axes.
        pairs: int ``[P, 2]``, indices of images.

    Raises:
        DataError: Images are too small.

    Source: Wang et al. 2003, section 3, by torchmetrics; as a measure of diversity, Odena et al. 2017, section 4.2.
    Departure: fewer scales for small images.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    weights = _WEIGHTS[: scales_of(tuple(images.shape[2:]))]
    shares = tuple(weight / sum(weights) for weight in weights)
    grey = (images.float().clamp(-1, 1) + 1) / 2  # the luminance term expects intensities from 0 on
    found = [
        multiscale_structural_similarity_index_measure(
            grey[some[:, 0]],
            grey[some[:, 1]],
            sigma=_SIGMA,
            kernel_size=_SIDES[0],
            data_range=1.0,
            betas=shares,
            reduction="none",
            normalize="relu",
        ).reshape(len(some))
        for some in pairs.split(_BATCH)
        if len(some)
    ]
    return torch.cat([torch.zeros(0), *found])
