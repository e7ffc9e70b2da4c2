"""Volumes by windows: cut overlapping windows out of a volume, run a function on batches of them, blend the results.

Volumes are ``[C, K, I, J]`` with three spatial axes. A 2D window is one voxel thick along the first axis, a slab
(pseudo-3D) is a few voxels thick and blended along it, and a 3D patch is small along all axes. So a task on slices puts
the slice axis first::

    volume = image.permute(0, 3, 1, 2).numpy()  # [C, i, j, k] to [C, k, i, j]
    windows = tile(volume.shape[1:], (16, 256, 256))  # or cover(mask, ...), for the voxels of a mask alone

    def run(batch, report):
        slabs = torch.from_numpy(crops(volume, batch, outside=-1))  # [B, C, 16, 256, 256]
        return network(slabs).cpu().numpy()

    result = run_windows(run, windows, volume.shape[1:], channels=1, batch_size=4)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from types import EllipsisType

import numpy as np

from zoo.errors import DataError
from zoo.progress import Progress

Triple = tuple[int, int, int]
Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and stop voxel along each axis."""


@dataclass(frozen=True)
class Window:
    """One box of a volume, and the part of it whose result is used.

    Attributes:
        start: First voxel along each axis; may lie outside the volume, which is padded there.
        size: Voxels along each axis.
        core: Bounds, in voxels of the volume, of the part of the window whose result is used; ``None``: all of it.
    """

    start: Triple
    size: Triple
    core: Bounds | None = None

    def extended(self, slices: int) -> Window:
        """Return the window with ``slices`` more voxels on either side of the first axis, and the same core."""
        start = (self.start[0] - slices, *self.start[1:])
        return Window(start, (self.size[0] + 2 * slices, *self.size[1:]), self.core)

    def used(self, shape: Sequence[int]) -> Bounds:
        """Return the bounds of the core inside a volume of ``shape``."""
        whole = ((start, start + size) for start, size in zip(self.start, self.size, strict=True))
        bounds = zip(self.core or whole, shape, strict=True)
        first, second, third = ((max(low, 0), min(high, extent)) for (low, high), extent in bounds)
        return first, second, third


WindowFunction = Callable[[Sequence[Window], Progress], np.ndarray]
"""Called with a batch of windows and a function to report steps to; returns ``[B, channels, *size]``."""


def tile(shape: Sequence[int], size: Triple, overlap: float = 0.5) -> list[Window]:
    """Place windows so that they cover a whole volume.

    Along an axis that fits into the window, the one window is centred. Along other axes windows stay inside the volume,
    at even distances, and neighbours share at least ``overlap`` of their voxels, as far as the size allows.

    Args:
        shape: Spatial shape of the volume, (K, I, J).
        size: Shape of a window, voxels; (1, H, W) for slices.
        overlap: Smallest share of a window's side that it has in common with the next, in [0, 1).

    Raises:
        DataError: A size below 1, or an overlap out of range.
    """
    _check_size(size)
    if not 0 <= overlap < 1:
        raise DataError(f"Windows overlap by a share of their side in [0, 1), got {overlap:g}; 0.5 is usual.")
    first, second, third = (_even_starts(extent, side, overlap) for extent, side in zip(shape, size, strict=True))
    return [Window(start, size) for start in product(first, second, third)]


def _even_starts(extent: int, side: int, overlap: float) -> list[int]:
    if extent <= side:
        return [(extent - side) // 2]
    stride = max(math.floor(side * (1 - overlap)), 1)
    count = math.ceil((extent - side) / stride) + 1
    return [(extent - side) * number // (count - 1) for number in range(count)]


def cover(mask: np.ndarray, size: Triple) -> list[Window]:
    """Place windows so that each voxel of a mask lies in the core of at least one, with context around it.

    Axes on which the volume fits into the window are seen whole. Otherwise a core is the inner half of the window in
    the plane of the second and third axis, so a lesion has a quarter of the window's side as context; a larger lesion
    is shared among windows. Slabs (several voxels along the first axis) overlap by a quarter where more than one is
    needed, and stay inside the volume.

    Args:
        mask: bool ``[K, I, J]``.
        size: Shape of a window, voxels; (1, H, W) for slices.

    Returns:
        Windows with cores that may overlap; none for an empty mask.

    Raises:
        DataError: A size below 1.
    """
    _check_size(size)
    slab, plane = size[0], size[1:]
    windows: list[Window] = []
    for first in _slab_starts(np.flatnonzero(mask.any(axis=(1, 2))), mask.shape[0], slab):
        left = np.asarray(mask[max(first, 0) : first + slab].any(axis=0))  # still to be covered
        if left.shape[0] <= plane[0] and left.shape[1] <= plane[1]:
            rows, columns = ((extent - side) // 2 for extent, side in zip(left.shape, plane, strict=True))
            windows.append(Window((first, rows, columns), size))
            continue
        reach = (max(plane[0] // 2, 1), max(plane[1] // 2, 1))
        while left.any():
            top = int(np.flatnonzero(left.any(axis=1))[0])
            start = int(np.flatnonzero(left[top : top + reach[0]].any(axis=0))[0])
            inside = left[top : top + reach[0], start : start + reach[1]]
            # The core shrinks to the voxels in it, so that they lie in the middle of the window.
            height = int(np.flatnonzero(inside.any(axis=1))[-1]) + 1
            width = int(np.flatnonzero(inside.any(axis=0))[-1]) + 1
            corner = (first, top + height // 2 - plane[0] // 2, start + width // 2 - plane[1] // 2)
            core = ((first, first + slab), (top, top + height), (start, start + width))
            windows.append(Window(corner, size, core))
            left[top : top + height, start : start + width] = False
    return windows


def _slab_starts(slices: np.ndarray, depth: int, slab: int) -> list[int]:
    if slab == 1:
        return [int(index) for index in slices]
    if depth <= slab:
        return [(depth - slab) // 2] if len(slices) else []
    starts: list[int] = []
    covered = -1
    for index in slices:
        if index > covered:
            start = int(np.clip(index - slab // 4, 0, depth - slab))
            starts.append(start)
            # The last quarter of a slab belongs to the next one as well, unless the volume ends there.
            covered = start + slab - 1 - (slab // 4 if start + slab < depth else 0)
    return starts


def crop(volume: np.ndarray, window: Window, outside: float) -> np.ndarray:
    """Cut a window out of a volume ``[..., K, I, J]``; what lies beyond the volume is ``outside``."""
    return crops(volume, [window], outside)[0]


def crops(volume: np.ndarray, windows: Sequence[Window], outside: float) -> np.ndarray:
    """Cut windows of one size out of a volume ``[..., K, I, J]``: ``[B, ..., *size]``, see `crop`."""
    results = np.full((len(windows), *volume.shape[:-3], *windows[0].size), outside, volume.dtype)
    for window, result in zip(windows, results, strict=True):
        ends = zip(window.start, window.size, volume.shape[-3:], strict=True)
        source: list[EllipsisType | slice] = [...]
        target: list[EllipsisType | slice] = [...]
        for start, size, extent in ends:
            low, high = max(start, 0), min(start + size, extent)
            source.append(slice(low, high))
            target.append(slice(low - start, high - start))
        result[tuple(target)] = volume[tuple(source)]
    return results


def run_windows(
    function: WindowFunction,
    windows: Sequence[Window],
    shape: Sequence[int],
    *,
    channels: int,
    batch_size: int,
    blend: tuple[bool, bool, bool] = (True, True, True),
    accumulator: type[np.floating] = np.float64,
    progress: Progress | None = None,
) -> np.ndarray:
    """Run a function on batches of windows and blend what it returns into one volume.

    A voxel in the cores of several windows is the weighted mean of their results. The batch size changes nothing if the
    function treats each window of a batch alone. With a float64 accumulator, a function that returns its float32 input
    gives back exactly the volume.

    Args:
        function: Called with a batch of windows and a function that takes (steps done, steps in all) of this batch, to
            be called after each step; if it is never called, a batch counts as one step. Returns
            ``[B, channels, *size]``.
        windows: From `tile` or `cover`, all of one size.
        shape: Spatial shape of the volume, (K, I, J).
        channels: Channels that the function returns.
        batch_size: Windows per call, at least 1.
        blend: Axes along which the weight of a window falls linearly from its middle to its ends, which hides the seams
            of overlapping windows; along other axes all voxels have the same weight.
        accumulator: Type of the sums; float32 halves their memory and rounds overlaps to seven digits.
        progress: Called with (steps done, steps in all).

    Returns:
        float32 ``[channels, *shape]``; 0 where no core lies.

    Raises:
        DataError: A batch size below 1, windows of several sizes, or the function returns another shape.
    """
    if batch_size < 1:
        raise DataError(f"A batch has at least one window, got batch_size={batch_size}.")
    if len(sizes := {window.size for window in windows}) > 1:
        raise DataError(f"Windows that are run together must have one size, got {', '.join(map(str, sorted(sizes)))}.")
    total = np.zeros((channels, *shape), accumulator)
    weight = np.zeros(tuple(shape), accumulator)
    batches = math.ceil(len(windows) / batch_size)
    for number in range(batches):
        batch = windows[number * batch_size : (number + 1) * batch_size]
        reported = False

        def report(done: int, of: int, before: int = number) -> None:
            nonlocal reported
            reported = True
            if progress:
                progress(before * of + done, batches * of)

        results = function(batch, report)
        if not reported:
            report(1, 1)
        expected = (len(batch), channels, *batch[0].size)
        if results.shape != expected:
            raise DataError(f"A function of windows must return {list(expected)}, and returned {list(results.shape)}.")
        ramp = _weights(batch[0].size, blend).astype(accumulator)
        for window, result in zip(batch, results, strict=True):
            used = window.used(shape)
            here = tuple(slice(low, high) for low, high in used)
            inside = tuple(
                slice(low - start, high - start) for (low, high), start in zip(used, window.start, strict=True)
            )
            total[:, *here] += ramp[inside] * result[:, *inside]
            weight[here] += ramp[inside]
        del results, result  # else they stay in memory while the next batch is computed
    total /= np.maximum(weight, np.finfo(np.float32).tiny, out=weight)
    return total.astype(np.float32, copy=False)


def _weights(size: Triple, blend: tuple[bool, bool, bool]) -> np.ndarray:
    """Return the weight of each voxel of a window, float32 ``[*size]`` in (0, 1]."""
    ramps = [
        1 - np.abs(np.linspace(-1, 1, side + 2)[1:-1]).astype(np.float32) if falls else np.ones(side, np.float32)
        for side, falls in zip(size, blend, strict=True)
    ]
    return ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]


@dataclass(frozen=True)
class WindowMemory:
    """Memory of `run_windows`, bytes, without what the function itself needs.

    Attributes:
        volume: The volume that windows are cut out of, float32.
        accumulator: Sums and weights, and the volume that is returned.
        batch: The windows of one batch and their results, float32.
    """

    volume: int
    accumulator: int
    batch: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.volume + self.accumulator + self.batch

    def __str__(self) -> str:
        """Return the parts as text, MiB."""
        parts = (("volume", self.volume), ("accumulator", self.accumulator), ("one batch", self.batch))
        return ", ".join(f"{name} {count / 2**20:.1f} MiB" for name, count in parts)


def window_memory(
    shape: Sequence[int],
    size: Triple,
    *,
    channels: tuple[int, int],
    batch_size: int,
    accumulator: type[np.floating] = np.float64,
) -> WindowMemory:
    """Return what `run_windows` will need in memory, before anything is allocated.

    Args:
        shape: Spatial shape of the volume.
        size: Shape of a window.
        channels: Of the volume, and of what the function returns.
        batch_size: Windows per call.
        accumulator: As for `run_windows`.
    """
    voxels, single = math.prod(shape), np.dtype(np.float32).itemsize
    wide = np.dtype(accumulator).itemsize
    returned = 0 if wide == single else channels[1] * voxels * single  # float32 sums become the result in place
    return WindowMemory(
        volume=channels[0] * voxels * single,
        accumulator=(channels[1] + 1) * voxels * wide + returned,
        batch=batch_size * sum(channels) * math.prod(size) * single,
    )


def _check_size(size: Sequence[int]) -> None:
    if min(size) < 1:
        raise DataError(f"A window has at least one voxel along each axis, got {tuple(size)}.")
