"""Similarity of images: inside a mask, outside it, and over the whole image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import DataError

MAX_PSNR = 100.0
"""Upper limit of PSNR, dB. An exact copy, such as a composite outside its mask, would have an infinite PSNR."""

FILLED_WINDOW = 3
"""Side of the windows of ``ssim_filled``, pixels: the smallest, because few lesions contain larger windows."""


def ssim_map(first: Tensor, second: Tensor, data_range: float = 2.0, window: int = 7) -> Tensor:
    """Return the structural similarity (SSIM) at each voxel, float64, of the shape of the images.

    Uniform window, K1 0.01 and K2 0.03, sample covariance, borders mirrored.

    Args:
        first, second: ``[B, C, H, W]`` or ``[B, C, D, H, W]``.
        data_range: Highest minus lowest possible value.
        window: Side of the window, odd, at most the shortest side.

    Raises:
        DataError: The shapes differ, or the images are smaller than the window.

    Source: Wang et al. 2004, with the choices and the values of scikit-image.
    """
    if first.shape != second.shape:
        raise DataError(f"Images of shapes {list(first.shape)} and {list(second.shape)} cannot be compared.")
    if min(first.shape[2:]) < window:
        raise DataError(
            f"SSIM with a window of {window} needs sides of at least {window}, got {list(first.shape[2:])}."
        )
    a, b = first.double(), second.double()
    count = window ** (a.dim() - 2)
    sample = count / (count - 1)
    mean_a, mean_b = _box(a, window), _box(b, window)
    var_a = sample * (_box(a * a, window) - mean_a**2)
    var_b = sample * (_box(b * b, window) - mean_b**2)
    covariance = sample * (_box(a * b, window) - mean_a * mean_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def _box(x: Tensor, window: int) -> Tensor:
    """Return the mean over a window around each voxel; the border is mirrored, including the edge voxel."""
    reach = window // 2
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        index = torch.arange(-reach, size + reach, device=x.device)
        index = torch.where(index < 0, -1 - index, index)
        index = torch.where(index >= size, 2 * size - 1 - index, index)
        padded = x.index_select(axis, index).movedim(axis, -1)
        lines = F.avg_pool1d(padded.reshape(-1, 1, padded.shape[-1]), window, stride=1)
        x = lines.reshape(*padded.shape[:-1], size).movedim(-1, axis)
    return x


def psnr(mse: Tensor, data_range: float = 2.0) -> Tensor:
    """Return the peak signal-to-noise ratio of mean squared errors, dB, at most `MAX_PSNR`; of the shape of ``mse``."""
    return (10 * torch.log10(data_range**2 / mse.clamp(min=1e-30))).clamp(max=MAX_PSNR)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values`` ``[B, C, …]`` where ``mask`` ``[B, 1, …]`` is true, ``[B]``."""
    weight = mask.to(values.dtype).expand_as(values).flatten(1)
    return (values.flatten(1) * weight).sum(1) / weight.sum(1)


def fully_inside(mask: Tensor, window: int) -> Tensor:
    """Return where the window around a pixel lies completely within the mask, bool, of the shape of ``mask``.

    Args:
        mask: bool ``[B, 1, H, W]``.
        window: Side of the window, odd.
    """
    reach = window // 2
    outside = F.pad((~mask).float(), (reach,) * 4, value=1.0)
    return F.max_pool2d(outside, window, stride=1) == 0


def inpainting_metrics(
    prediction: Tensor, truth: Tensor, mask: Tensor, parts: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Compare filled slices with the truth.

    Args:
        prediction, truth: ``[B, C, H, W]`` in [-1, 1].
        mask: bool ``[B, 1, H, W]``, the filled pixels.
        parts: Parts of the mask by name, each shaped like the mask, which are also measured separately.

    Returns:
        ``ssim``, ``psnr`` (dB, at most `MAX_PSNR`) and ``mse``, each with the suffixes ``_in``, ``_out``, ``_full`` and
        ``_NAME`` per part, ``[B]``; nan for slices without the part. Also ``ssim_filled`` and ``ssim_filled_NAME`` per
        part, ``[B]``; nan for slices where no window lies inside.

    ``ssim_in`` is the thesis'. Its windows of 7 × 7 also see the known pixels around the mask, which raises the score,
    most for small lesions. ``ssim_filled`` sees filled pixels only: it is the mean over all windows of 3 × 3 that lie
    completely within the mask. The same noise therefore scores the same for any size and surroundings of a lesion.

    Raises:
        DataError: A mask is empty or covers its slice.

    Source: Uhr 2024, table 3.3: per slice, data range 2, inside: the sum of the map over the mask divided by its area.
    """
    if mask.shape != (len(truth), 1, *truth.shape[2:]):
        raise DataError(
            f"The mask is {list(mask.shape)} for images {list(truth.shape)}; it needs their size and one channel."
        )
    filled = mask.flatten(1).double().mean(1)
    if bool(((filled == 0) | (filled == 1)).any()):
        raise DataError("The mask of a slice is empty or covers the slice; both inside and outside are needed.")
    similarity = ssim_map(prediction, truth)
    error = (prediction.double() - truth.double()).square()
    places = {"in": mask, "out": ~mask, "full": torch.ones_like(mask), **(parts or {})}
    measured: dict[str, Tensor] = {}
    for place, where in places.items():
        mse = masked_mean(error, where)
        measured[f"ssim_{place}"] = masked_mean(similarity, where)
        measured[f"psnr_{place}"] = psnr(mse)
        measured[f"mse_{place}"] = mse
    inner = ssim_map(prediction, truth, window=FILLED_WINDOW)
    measured["ssim_filled"] = masked_mean(inner, fully_inside(mask, FILLED_WINDOW))
    for name, part in (parts or {}).items():
        measured[f"ssim_filled_{name}"] = masked_mean(inner, fully_inside(part, FILLED_WINDOW))
    return measured
