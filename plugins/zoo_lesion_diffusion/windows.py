"""Windows: which parts of a volume the network must see to fill a mask."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo_lesion_diffusion.baselines import biharmonic_fill
from zoo_lesion_diffusion.config import FillingConfig


@dataclass(frozen=True)
class Window:
    """One place of the network, and what it is responsible for.

    Attributes:
        origin: First voxel (k, i, j); may lie outside the volume, which is padded there.
        core: In-plane bounds (first i, stop i, first j, stop j) of the mask voxels taken from this window.
    """

    origin: tuple[int, int, int]
    core: tuple[int, int, int, int]

    def from_slice(self, first: int) -> Window:
        """Return the same window, its first slice ``first``."""
        return replace(self, origin=(first, *self.origin[1:]))


def cover(mask: np.ndarray, size: tuple[int, int], slab: int) -> list[Window]:
    """Place windows so that each mask voxel lies in the core of at least one, with context round it.

    A slice that fits into the window whole is seen whole. Otherwise a window's core is its inner half, so a
    lesion has a quarter of the window's side as context; lesions larger than that are shared among windows.
    Slabs overlap by half where more than one is needed, and stay inside the volume.

    Args:
        mask: bool ``[K, I, J]``, slices first.
        size: Window (H, W), voxels.
        slab: Slices a window, 1 for 2D; at most K.
    """
    windows: list[Window] = []
    for first in _slab_starts(np.flatnonzero(mask.any(axis=(1, 2))), mask.shape[0], slab):
        left = np.asarray(mask[first : first + slab].any(axis=0))
        if left.shape[0] <= size[0] and left.shape[1] <= size[1]:
            corner = [(extent - side) // 2 for extent, side in zip(left.shape, size, strict=True)]
            windows.append(Window((first, *corner), (0, left.shape[0], 0, left.shape[1])))
            continue
        reach = (max(size[0] // 2, 1), max(size[1] // 2, 1))
        while left.any():
            rows = np.flatnonzero(left.any(axis=1))
            top = rows[0]
            band = left[top : top + reach[0]]
            columns = np.flatnonzero(band.any(axis=0))
            start = columns[0]
            inside = left[top : top + reach[0], start : start + reach[1]]
            # The core shrinks to the voxels in it, so that they sit in the middle of the window.
            height = int(np.flatnonzero(inside.any(axis=1))[-1]) + 1
            width = int(np.flatnonzero(inside.any(axis=0))[-1]) + 1
            core = (int(top), int(top) + height, int(start), int(start) + width)
            origin = (core[0] + height // 2 - size[0] // 2, core[2] + width // 2 - size[1] // 2)
            windows.append(Window((first, *origin), core))
            left[core[0] : core[1], core[2] : core[3]] = False
    return windows


def _slab_starts(slices: np.ndarray, depth: int, slab: int) -> list[int]:
    if slab == 1:
        return [int(index) for index in slices]
    starts: list[int] = []
    covered = -1
    for index in slices:
        if index > covered:
            start = int(np.clip(index - slab // 4, 0, depth - slab))
            starts.append(start)
            # The last quarter of a slab belongs to the next one as well, unless the volume ends there.
            covered = start + slab - 1 - (slab // 4 if start + slab < depth else 0)
    return starts


def crop(volume: np.ndarray, window: Window, size: tuple[int, int], slab: int, outside: float) -> np.ndarray:
    """Cut a window of ``slab`` slices out of ``[..., K, I, J]``; what lies beyond the volume is ``outside``."""
    result = np.full((*volume.shape[:-3], slab, *size), outside, volume.dtype)
    source: list[Any] = [...]
    target: list[Any] = [...]
    for start, length, extent in zip(window.origin, (slab, *size), volume.shape[-3:], strict=True):
        low, high = max(start, 0), min(start + length, extent)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    result[tuple(target)] = volume[tuple(source)]
    return result


def context(image: np.ndarray, mask: np.ndarray, config: FillingConfig) -> np.ndarray:
    """Return what the network knows of an image ``[C, K, I, J]`` with holes where ``mask`` ``[K, I, J]`` is true.

    The holes hold a biharmonic fill where the model diffuses the difference to it, else zeros.
    """
    if config.diffusion.residual_scale:
        return biharmonic_fill(image, mask)
    return np.where(mask, np.float32(0), image)


def slices_to_channels(slices: np.ndarray) -> np.ndarray:
    """Return ``[..., C, S, H, W]`` as ``[..., S·C, H, W]``, the channels of a slice together."""
    swapped = slices.swapaxes(-4, -3)
    return swapped.reshape(*swapped.shape[:-4], -1, *swapped.shape[-2:])
