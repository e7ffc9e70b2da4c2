"""Seams, stripes, sizes, tissues and thickness with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.errors import DataError
from zoo.metrics.filling import (
    FLUID,
    GREY,
    SIZE_BINS_MM3,
    WHITE,
    grey_matter_leak,
    lesion_volumes,
    lesions_by_size,
    mean_cortical_thickness,
    seam_score,
    size_bin,
    stripe_score,
    tissue_classes,
    tissue_volumes,
)


def _box(shape: tuple[int, int, int] = (24, 24, 24)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[8:16, 8:16, 8:16] = True
    return mask


def test_seam_of_a_step_on_a_ramp() -> None:
    mask = _box()
    ramp = np.indices(mask.shape).sum(0).astype(float)  # neighbours differ by 1 everywhere
    assert seam_score(ramp, mask) == pytest.approx(1)
    # A step of 4 makes half of the faces 5 and the other half 3.
    assert seam_score(ramp + 4 * mask, mask) == pytest.approx(4)
    noise = np.random.default_rng(0).normal(size=mask.shape)
    assert seam_score(noise, mask) == pytest.approx(1, abs=0.1)


def test_stripes_of_slices_filled_alone() -> None:
    mask = _box()
    rng = np.random.default_rng(0)
    noise = rng.normal(size=mask.shape)
    assert stripe_score(noise, mask) == pytest.approx(1, abs=0.2)
    # An offset a slice of variance 3 adds to the variance 1 across slices, and nothing within them.
    offsets = np.sqrt(3) * np.where(np.arange(24) % 2, 1, -1)
    striped = noise + mask * offsets
    assert stripe_score(striped, mask) == pytest.approx((2 + 12) / 2, rel=0.2)
    turned = np.moveaxis(striped, 2, 0)
    assert stripe_score(turned, np.moveaxis(mask, 2, 0), axis=0) == pytest.approx(stripe_score(striped, mask))


def test_nothing_to_compare_is_nan_or_refused() -> None:
    noise = np.random.default_rng(0).normal(size=(24, 24, 24))
    one_slice = _box() & (np.arange(24) == 10)
    assert np.isnan(stripe_score(noise, one_slice))
    assert np.isfinite(seam_score(noise, one_slice))
    flat = np.zeros((24, 24, 24))
    everything = np.ones((24, 24, 24), bool)
    for score in (seam_score, stripe_score):
        assert np.isnan(score(flat, _box()))
        assert np.isnan(score(noise, everything))
        with pytest.raises(DataError, match="mask is empty"):
            score(noise, ~everything)
        with pytest.raises(DataError, match=r"mask is \[3, 3, 3\]"):
            score(noise, np.ones((3, 3, 3), bool))


def test_size_bins() -> None:
    assert [size_bin(volume) for volume in (1, 20, 99.9, 100, 500)] == [
        "<20 mm3",
        "20-100 mm3",
        "20-100 mm3",
        "100-500 mm3",
        ">500 mm3",
    ]
    for wrong in (-1.0, float("nan")):
        with pytest.raises(DataError, match="must be 0 mm³ or more"):
            size_bin(wrong)


def test_lesions_that_touch_by_a_corner_are_one() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[1:3, 1:3, 1:3] = True
    mask[3, 3, 3] = True
    mask[10:15, 10:15, 10:15] = True
    volumes = lesion_volumes(mask, 2.0)
    assert (volumes[1, 1, 1], volumes[3, 3, 3], volumes[12, 12, 12], volumes[0, 0, 0]) == (18, 18, 250, 0)
    by_size = lesions_by_size(mask, volumes)
    assert {label: int(lesions.sum()) for label, lesions in by_size.items()} == {"<20 mm3": 9, "100-500 mm3": 125}
    assert set(by_size) <= set(SIZE_BINS_MM3)
    assert lesions_by_size(np.zeros_like(mask), volumes) == {}


def test_a_piece_counts_by_the_whole_lesions_size() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[10:15, 10:15, 10:15] = True
    slab = mask & (np.arange(20) == 14)  # 25 mm³ are left of 125
    assert list(lesions_by_size(slab, lesion_volumes(mask, 1.0))) == ["100-500 mm3"]


def _brain() -> tuple[np.ndarray, np.ndarray]:
    """Return a T1w in [-1, 1] and its labels: fluid, grey and white slabs with noise."""
    tissue = np.zeros((30, 30, 30), np.uint8)
    tissue[2:8], tissue[8:16], tissue[16:28] = FLUID, GREY, WHITE
    means = np.array([-1, -0.6, 0.1, 0.7])
    noise = np.random.default_rng(0).normal(0, 0.05, tissue.shape)
    return np.where(tissue, means[tissue] + noise, -1), tissue


def test_tissues_of_a_brain_without_lesions() -> None:
    t1w, tissue = _brain()
    t1w[20, 20, 20] = 5  # a vessel is brighter than all and still no fluid
    classes = tissue_classes(t1w, tissue > 0)
    assert (classes == tissue).mean() > 0.999
    assert classes[20, 20, 20] == WHITE
    volumes = tissue_volumes(classes, voxel_mm3=8.0)
    expected = {"fluid": 6, "grey": 8, "white": 12}
    assert volumes == pytest.approx({name: slabs * 900 * 8 / 1000 for name, slabs in expected.items()}, rel=0.01)
    # With the same fit, only what is filled differently can change the volumes.
    hole = np.zeros(tissue.shape, bool)
    hole[20:24, 10:20, 10:20] = True
    lesions = np.where(hole, 0.1, t1w)
    shared = (tissue > 0) & ~hole
    before, after = (tissue_volumes(tissue_classes(image, tissue > 0, shared), 8.0) for image in (t1w, lesions))
    assert after["white"] == pytest.approx(before["white"] - hole.sum() * 8 / 1000, abs=0.02)
    assert after["grey"] == pytest.approx(before["grey"] + hole.sum() * 8 / 1000, abs=0.02)
    with pytest.raises(DataError, match="fewer than three intensities"):
        tissue_classes(np.ones((5, 5, 5)), np.ones((5, 5, 5), bool))
    t1w[20, 20, 20] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        tissue_classes(t1w, tissue > 0)


def test_leak_is_the_share_of_white_matter_filled_dark() -> None:
    t1w, tissue = _brain()
    filled_mask = np.zeros(tissue.shape, bool)
    filled_mask[14:22, 10:20, 10:20] = True  # 2 slabs of grey matter, which does not count, and 6 of white
    filled = t1w.copy()
    filled[14:16, 10:20, 10:20] = -0.6
    filled[16:17, 10:20, 10:20] = 0.1
    filled[17:19, 10:20, 10:20] = -0.6
    white_matter = tissue == WHITE
    assert grey_matter_leak(filled, white_matter, filled_mask, tissue) == pytest.approx(3 / 6)
    assert grey_matter_leak(filled, white_matter, filled_mask) == pytest.approx(3 / 6)
    assert grey_matter_leak(t1w, white_matter, filled_mask, tissue) == pytest.approx(0, abs=0.01)
    assert np.isnan(grey_matter_leak(t1w, white_matter, tissue == GREY, tissue))


@pytest.mark.parametrize("thickness", [2, 2.5, 3, 4.5, 6])
@pytest.mark.parametrize("spacing", [1.0, 0.8])
def test_thickness_of_a_shell(thickness: float, spacing: float) -> None:
    side = int(64 / spacing)
    radius = np.sqrt(((np.indices((side,) * 3) - side / 2 + 0.3) ** 2).sum(0)) * spacing
    shell = (radius < 28) & (radius >= 28 - thickness)
    assert mean_cortical_thickness(shell, (spacing,) * 3) == pytest.approx(thickness, rel=0.15)


def test_thickness_of_plates() -> None:
    plate = np.zeros((30, 30, 30), bool)
    plate[:, :, 10:14] = True
    wide = np.zeros((200, 200, 10), bool)
    wide[:, :, 3:7] = True
    assert mean_cortical_thickness(wide, (1, 1, 1)) == pytest.approx(4, rel=0.05)
    assert mean_cortical_thickness(plate, (2, 2, 2)) == pytest.approx(2 * mean_cortical_thickness(plate, (1, 1, 1)))
    assert np.isnan(mean_cortical_thickness(np.zeros((3, 3, 3), bool), (1, 1, 1)))
