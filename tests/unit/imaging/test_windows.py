"""Volumes by windows: what is covered, what comes back, and what it needs in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import DataError
from zoo.imaging.windows import Triple, Window, WindowFunction, cover, crop, crops, run_windows, tile, window_memory
from zoo.progress import Progress

LAYOUTS: dict[str, Triple] = {"2D": (1, 12, 9), "slab": (4, 12, 9), "3D": (6, 5, 8), "larger": (16, 40, 40)}
SHAPES: dict[str, Triple] = {"cube": (12, 12, 12), "anisotropic": (7, 40, 23), "one slice": (1, 30, 11)}


def _volume(shape: Sequence[int], channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (channels, *shape)).astype(np.float32)


def _identity(volume: np.ndarray) -> WindowFunction:
    return lambda windows, report: crops(volume, windows, -1)


@pytest.mark.parametrize("size", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_function_that_returns_its_input_gives_the_volume_back(shape: Triple, size: Triple) -> None:
    volume = _volume(shape, channels=2)
    back = run_windows(_identity(volume), tile(shape, size), shape, channels=2, batch_size=3)
    assert back.dtype == np.float32
    assert np.array_equal(back, volume)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    overlap=st.floats(0, 0.9),
    batch_size=st.integers(1, 7),
)
def test_any_size_gives_the_volume_back(shape: Triple, size: Triple, overlap: float, batch_size: int) -> None:
    volume = _volume(shape)
    back = run_windows(_identity(volume), tile(shape, size, overlap), shape, channels=1, batch_size=batch_size)
    assert np.array_equal(back, volume)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    density=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_a_cover_of_a_mask_gives_every_masked_voxel_back(
    shape: Triple, size: Triple, density: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < density
    volume = _volume(shape)
    windows = cover(mask, size)
    back = run_windows(_identity(volume), windows, shape, channels=1, batch_size=4)
    assert np.array_equal(back[:, mask], volume[:, mask])
    for window in windows:  # a core never reaches beyond what the network has seen
        inside = zip(window.used(shape), window.start, window.size, strict=True)
        assert all(start <= low < high <= start + side for (low, high), start, side in inside)
    assert bool(windows) == bool(mask.any())


@pytest.mark.parametrize(("size", "slab"), [((16, 16), 1), ((16, 24), 4), ((64, 64), 1), ((64, 64), 4)])
def test_slabs_of_a_cover_stay_inside_the_volume(size: tuple[int, int], slab: int) -> None:
    mask = np.random.default_rng(0).random((11, 40, 50)) < 0.02
    mask[3:6, 5:30, 10:40] = True  # larger than a window's core
    mask[0, 0, 0] = mask[10, 39, 49] = True  # corners
    windows = cover(mask, (slab, *size))
    assert all(0 <= window.start[0] <= 11 - slab for window in windows)


def test_a_lesion_has_a_quarter_of_the_window_around_it() -> None:
    mask = np.zeros((3, 100, 100), bool)
    mask[1, 40:44, 50:56] = True
    (window,) = cover(mask, (1, 32, 48))
    assert window == Window((1, 26, 29), (1, 32, 48), ((1, 2), (40, 44), (50, 56)))


@pytest.mark.parametrize("size", LAYOUTS.values(), ids=LAYOUTS)
def test_windows_of_a_whole_volume_overlap_as_asked(size: Triple) -> None:
    starts = [sorted({window.start[axis] for window in tile((20, 45, 31), size, overlap=0.5)}) for axis in range(3)]
    for axis, (places, side, extent) in enumerate(zip(starts, size, (20, 45, 31), strict=True)):
        assert max(np.diff(places), default=0) <= max(side // 2, 1), axis
        if extent > side:
            assert (places[0], places[-1]) == (0, extent - side), axis
        else:
            assert places == [(extent - side) // 2], axis


def test_a_batch_changes_nothing() -> None:
    volume = _volume((9, 20, 20))
    windows = tile(volume.shape[1:], (4, 8, 8))

    def halved(batch: Sequence[Window], report: Progress) -> np.ndarray:
        return np.tanh(crops(volume, batch, -1)) * np.arange(8, dtype=np.float32)  # differs where windows overlap

    results = [
        run_windows(halved, windows, volume.shape[1:], channels=1, batch_size=size) for size in (1, 5, len(windows))
    ]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_neighbours_blend_without_a_seam() -> None:
    shape, size = (1, 1, 100), (1, 1, 40)
    windows = tile(shape, size, overlap=0.5)

    def own_level(batch: Sequence[Window], report: Progress) -> np.ndarray:
        return np.stack([np.full((1, *size), window.start[2] / 20, np.float32) for window in batch])

    sharp, smooth = (
        run_windows(own_level, windows, shape, channels=1, batch_size=2, blend=(True, True, blend))[0, 0, 0]
        for blend in (False, True)
    )
    assert np.abs(np.diff(sharp)).max() == 1
    assert np.abs(np.diff(smooth)).max() < 0.1
    assert (np.diff(smooth) >= 0).all()


def test_a_function_may_return_other_channels() -> None:
    volume = _volume((6, 10, 10))

    def three(batch: Sequence[Window], report: Progress) -> np.ndarray:
        return np.concatenate([crops(volume, batch, 0) * factor for factor in (1, 2, 4)], axis=1)

    result = run_windows(three, tile((6, 10, 10), (4, 4, 4)), (6, 10, 10), channels=3, batch_size=8)
    assert np.array_equal(result, np.concatenate([volume, 2 * volume, 4 * volume]))


def test_voxels_that_no_window_covers_are_zero() -> None:
    volume = _volume((2, 30, 30)) + 2
    mask = np.zeros((2, 30, 30), bool)
    mask[1, 3:5, 7] = True
    result = run_windows(_identity(volume), cover(mask, (1, 8, 8)), mask.shape, channels=1, batch_size=1)
    assert np.array_equal(result[0] != 0, mask)
    assert not run_windows(_identity(volume), [], mask.shape, channels=1, batch_size=1).any()


def test_a_window_is_padded_beyond_the_volume() -> None:
    volume = np.arange(2 * 4 * 5).reshape(2, 4, 5)
    cut = crop(volume, Window((1, -2, -1), (1, 8, 8)), -7)
    assert cut.shape == (1, 8, 8)
    assert (cut == -7).sum() == 64 - 20
    assert np.array_equal(cut[0, 2:6, 1:6], volume[1])


def test_a_window_extended_by_slices_keeps_its_core() -> None:
    window = Window((3, 0, 0), (1, 8, 8), ((3, 4), (2, 5), (2, 5)))
    assert window.extended(2) == Window((1, 0, 0), (5, 8, 8), window.core)


@pytest.mark.parametrize(("steps", "expected"), [(0, [(1, 3), (2, 3), (3, 3)]), (2, [(n, 6) for n in range(1, 7)])])
def test_progress_counts_the_steps_of_every_batch(steps: int, expected: list[tuple[int, int]]) -> None:
    volume = _volume((5, 4, 4))
    seen: list[tuple[int, int]] = []

    def function(batch: Sequence[Window], report: Progress) -> np.ndarray:
        for step in range(steps):
            report(step + 1, steps)
        return crops(volume, batch, 0)

    run_windows(
        function, tile((5, 4, 4), (1, 4, 4)), (5, 4, 4), channels=1, batch_size=2,
        progress=lambda *done: seen.append(done),
    )  # fmt: skip
    assert seen == expected


@pytest.mark.parametrize("accumulator", [np.float32, np.float64])
def test_memory_is_what_was_estimated(accumulator: type[np.floating]) -> None:
    shape, size, batch_size = (40, 90, 80), (8, 32, 32), 4
    volume = _volume(shape, channels=2)
    memory = window_memory(shape, size, channels=(2, 3), batch_size=batch_size, accumulator=accumulator)

    def function(batch: Sequence[Window], report: Progress) -> np.ndarray:
        return np.repeat(crops(volume, batch, 0)[:, :1], 3, axis=1)

    windows = tile(shape, size)
    tracemalloc.start()
    run_windows(function, windows, shape, channels=3, batch_size=batch_size, accumulator=accumulator)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert memory.volume == volume.nbytes
    assert memory.total == memory.volume + memory.accumulator + memory.batch
    assert 0.8 < peak / (memory.accumulator + memory.batch) < 1.1
    assert str(memory).startswith("volume 2.2 MiB, accumulator ")


def test_float32_sums_differ_by_rounding_alone() -> None:
    volume = _volume((9, 20, 20))
    back = run_windows(
        _identity(volume), tile((9, 20, 20), (4, 8, 8)), (9, 20, 20), channels=1, batch_size=4, accumulator=np.float32
    )
    assert np.allclose(back, volume, atol=1e-6)


def test_wrong_input_is_refused() -> None:
    volume = _volume((2, 8, 8))
    windows = tile((2, 8, 8), (1, 8, 8))
    with pytest.raises(DataError, match=r"in \[0, 1\), got 1"):
        tile((2, 8, 8), (1, 8, 8), overlap=1)
    with pytest.raises(DataError, match=r"at least one voxel along each axis, got \(0, 8, 8\)"):
        tile((2, 8, 8), (0, 8, 8))
    with pytest.raises(DataError, match=r"at least one voxel along each axis, got \(1, -8, 8\)"):
        cover(np.ones((2, 8, 8), bool), (1, -8, 8))
    with pytest.raises(DataError, match="at least one window, got batch_size=0"):
        run_windows(_identity(volume), windows, (2, 8, 8), channels=1, batch_size=0)
    with pytest.raises(DataError, match=r"must have one size, got \(1, 8, 8\), \(2, 8, 8\)"):
        run_windows(_identity(volume), [*windows, Window((0, 0, 0), (2, 8, 8))], (2, 8, 8), channels=1, batch_size=1)
    with pytest.raises(DataError, match=r"must return \[2, 3, 1, 8, 8\], and returned \[2, 1, 1, 8, 8\]"):
        run_windows(_identity(volume), windows, (2, 8, 8), channels=3, batch_size=2)
