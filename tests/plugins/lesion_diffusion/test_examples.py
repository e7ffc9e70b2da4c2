"""What lesion filling trains on: windows of healthy tissue and the masks of their holes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.plugins.lesion_diffusion.filling import filling_config
from zoo.errors import DataError
from zoo.imaging.cache import PackedCohort
from zoo_lesion_diffusion.examples import FillingExamples


def _many(examples: FillingExamples, count: int) -> list[dict[str, np.ndarray]]:
    return [examples.example(n % len(examples), np.random.default_rng(n)) for n in range(count)]


def test_circles_are_drawn_as_in_the_thesis(packed: PackedCohort) -> None:
    examples = FillingExamples(filling_config("masks=circles", "size=[256, 256]"), packed)
    radii, centres = [], []
    for n in range(400):
        mask = examples._circles(np.zeros((3, 256, 256), bool), np.random.default_rng(n))[1]
        radii.append(math.sqrt(mask.sum() / math.pi))
        if mask.any():
            centres.append(np.argwhere(mask).mean(axis=0))
    assert 2.5 <= min(radii) <= 6
    assert 45 <= max(radii) <= 50.5
    assert np.mean(radii) == pytest.approx(26.5, abs=2)
    assert np.mean(centres, axis=0) == pytest.approx([127.5, 127.5], abs=5)
    assert np.std(centres, axis=0) == pytest.approx([30, 30], abs=4)


def test_slab_has_one_centre_and_one_radius_per_slice(packed: PackedCohort) -> None:
    examples = FillingExamples(
        filling_config("masks=circles", "network=pseudo-3d", "slab=4", "neighbours=0", "size=[64, 64]"), packed
    )
    mask = examples._circles(np.zeros((4, 64, 64), bool), np.random.default_rng(3))
    assert mask.shape == (4, 64, 64)
    assert len({int(plane.sum()) for plane in mask}) == 4
    middles = [np.argwhere(plane).mean(axis=0) for plane in mask]
    assert np.ptp(middles, axis=0).max() < 1.5


@pytest.mark.parametrize("masks", ["circles", "lesions"])
def test_own_lesions_stay_visible_and_are_never_filled(packed: PackedCohort, masks: str) -> None:
    whole = FillingExamples(filling_config(f"masks={masks}", "size=[64, 64]", "augmentation.mirror=false"), packed)
    patients = [n for n, (scan, _) in enumerate(whole.starts) if whole.scans[scan].lesion_mask.any()]
    assert patients
    for n in patients[:20]:
        number, first = whole.starts[n]
        scan = whole.scans[number]
        mask = whole.example(n, np.random.default_rng(n))["lesion_mask"][1] > 0
        rows, columns = scan.shape[1:]
        top, left = -((rows - 64) // 2), -((columns - 64) // 2)
        assert not (mask[top : top + rows, left : left + columns] & scan.lesion_mask[first]).any()


def test_patients_can_be_left_out(packed: PackedCohort) -> None:
    healthy = FillingExamples(filling_config("lesions.in_context=false"), packed)
    assert healthy.scans
    assert not any(scan.lesion_mask.any() for scan in healthy.scans)


def test_lesion_masks_are_subsets_of_placed_lesions(packed: PackedCohort) -> None:
    examples = FillingExamples(filling_config("masks=lesions", "lesions.min_voxels=2"), packed)
    for n in range(60):
        rng = np.random.default_rng(n)
        number, first = examples.starts[n % len(examples)]
        drawn = examples._some_lesions(number, first, rng)
        sources = [laid.between(first - 1, first + 2) for laid in examples.lesions[number]]
        matching = [laid for laid in sources if {*map(tuple, drawn.voxels)} <= {*map(tuple, laid.voxels)}]
        assert matching
        _, counts = np.unique(drawn.between(first, first + 1).labels, return_counts=True)
        assert counts.min() >= 2
        assert {*drawn.labels} == {*drawn.between(first, first + 1).labels}
        _, there = np.unique(matching[0].between(first, first + 1).labels, return_counts=True)
        large = int((there >= 2).sum())
        assert len(counts) < large or large == 1  # never all, unless there is one


def _sparse(packed: PackedCohort) -> PackedCohort:
    """Keep the placed lesions on one slice of each scan, like children who have lesions on few slices."""
    lesions = []
    for laid in packed.lesions:
        slices = np.concatenate([one.voxels[:, 0] for one in laid])
        busiest = int(np.bincount(slices).argmax())
        lesions.append(tuple(one.between(busiest, busiest + 1) for one in laid))
    return PackedCohort(packed.scans, tuple(lesions))


def _lesion_share(examples: FillingExamples, count: int) -> float:
    """Return the share of examples whose mask is made of lesions, not circles."""
    windows = []
    circles = examples._circles
    examples._circles = lambda *args: windows.append(1) or circles(*args)  # type: ignore[method-assign, assignment, func-returns-value]
    for example in _many(examples, count):
        assert example["lesion_mask"][1].any()  # the slice that is filled, never its neighbours alone
    return 1 - len(windows) / count


@pytest.mark.parametrize(("masks", "share"), [("circles", 0), ("lesions", 1), ("mixture", 0.5)])
@pytest.mark.parametrize("size", [16, 64])
def test_masks_are_of_the_kind_in_the_settings(packed: PackedCohort, masks: str, share: float, size: int) -> None:
    examples = FillingExamples(filling_config(f"masks={masks}", f"size=[{size}, {size}]"), _sparse(packed))
    # 500 tosses of a coin: three standard deviations are 0.067.
    assert _lesion_share(examples, 500) == pytest.approx(share, abs=0.067 if masks == "mixture" else 0)


def test_lesion_examples_are_slices_with_lesions(packed: PackedCohort) -> None:
    sparse = _sparse(packed)
    every = FillingExamples(filling_config("masks=mixture"), sparse)
    only = FillingExamples(filling_config("masks=lesions"), sparse)
    assert 0 < len(only) < len(every)
    assert set(only.starts) < set(every.starts)
    for n in range(len(only)):
        number, first = only.starts[n]
        assert any((laid.voxels[:, 0] == first).any() for laid in sparse.lesions[number])


def test_lesions_too_small_for_the_settings_are_refused_by_their_size(packed: PackedCohort) -> None:
    for masks in ("lesions", "mixture"):
        with pytest.raises(DataError, match="lesions of 100000 voxels or more"):
            FillingExamples(filling_config(f"masks={masks}", "lesions.min_voxels=100000"), packed)


def test_circles_outside_the_window_are_drawn_again(packed: PackedCohort) -> None:
    examples = FillingExamples(filling_config("masks=circles", "circles.centre_sd=1"), packed)
    assert all(example["lesion_mask"][1].any() for example in _many(examples, 40))


def test_circles_that_find_no_place_are_refused(packed: PackedCohort) -> None:
    examples = FillingExamples(filling_config("masks=circles"), packed)
    with pytest.raises(DataError, match="circles in a row"):
        examples._circles(np.ones((3, 32, 32), bool), np.random.default_rng(0))


def test_examples_are_windows_of_the_packed_image(packed: PackedCohort) -> None:
    examples = FillingExamples(
        filling_config("masks=circles", "augmentation.mirror=false", "augmentation.brightness_probability=0"), packed
    )
    for n, example in enumerate(_many(examples, 12)):
        image, known, mask = example["image"], example["context"], example["lesion_mask"]
        assert image.shape == (1, 32, 32)
        assert known.shape == mask.shape == (3, 32, 32)
        assert set(np.unique(mask)) <= {0, 1}
        assert np.array_equal(known[1][mask[1] == 0], image[0][mask[1] == 0])
        scan = examples.scans[examples.starts[n][0]]
        inside = image[image > -1]
        assert np.isin(inside, np.unique(scan.images[examples.starts[n][1]].astype(np.float32))).all()


def test_lesion_masks_are_needed_unless_masks_are_circles(packed: PackedCohort) -> None:
    bare = PackedCohort(packed.scans, tuple(() for _ in packed.scans))
    with pytest.raises(DataError, match="--set masks=circles"):
        FillingExamples(filling_config("masks=mixture"), bare)
    assert len(FillingExamples(filling_config("masks=circles"), bare)) > 0


def test_scans_thinner_than_a_slab_are_refused(packed: PackedCohort) -> None:
    with pytest.raises(DataError, match="fewer than slab=400"):
        FillingExamples(filling_config("network=pseudo-3d", "slab=400", "neighbours=0"), packed)
