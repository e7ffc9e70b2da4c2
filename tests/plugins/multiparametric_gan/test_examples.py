"""The patches of DCGAN and WGAN: where they are cut, of which class they are, and how often each is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.plugins.multiparametric_gan.conftest import (
    BENIGN,
    BREAST,
    COHORT,
    CORNER,
    MALIGNANT,
    SHAPE,
    Box,
    packed,
    tiny_config,
    write_study,
)
from zoo.errors import DataError
from zoo.imaging.cache import PackedCohort
from zoo_multiparametric_gan.config import GANConfig
from zoo_multiparametric_gan.examples import Patches, PatchExamples

BENIGN_CLASS, MALIGNANT_CLASS, NO_FINDINGS_CLASS = range(3)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def config() -> GANConfig:
    """Slices of 16 x 16 pixels."""
    return tiny_config()


@pytest.fixture(scope="module")
def cohort(breasts: Path, config: GANConfig) -> PackedCohort:
    """The packed studies."""
    return packed(breasts, config)


@pytest.fixture(scope="module")
def patches(cohort: PackedCohort, config: GANConfig) -> Patches:
    """All patches of the studies."""
    return Patches(config, cohort)


def _only(root: Path, lesions: list[tuple[Box, str]], *assignments: str) -> Patches:
    """Return the patches of one study."""
    write_study(root, "sub-01", lesions)
    config = tiny_config(*assignments)
    return Patches(config, packed(root, config))


# --- Places. ---


def test_a_lesion_gives_a_patch_at_its_centre_in_each_slice(patches: Patches) -> None:
    first = patches.places[BENIGN_CLASS]
    own = first[first[:, 0] == 0, 1:]
    # Of the benign lesion the voxels 14 ... 17 and 12 ... 14 have the centre (15.5, 13), nearest 16 and 13.
    assert own.tolist() == [[k, 16 - 8, 13 - 8] for k in range(*BENIGN[2])]


def test_a_lesion_gives_one_patch_in_3d(breasts: Path) -> None:
    config = tiny_config("size=16,16,8")
    patches = Patches(config, packed(breasts, config))
    first = patches.places[BENIGN_CLASS]
    assert first[first[:, 0] == 0, 1:].tolist() == [[7 - 4, 16 - 8, 13 - 8]]
    assert len(patches.places[MALIGNANT_CLASS]) == 4


def test_a_window_is_shifted_back_into_the_image(patches: Patches, cohort: PackedCohort) -> None:
    malignant = patches.places[MALIGNANT_CLASS]
    (place,) = malignant[malignant[:, 0] == 1, 1:]
    assert place.tolist() == [CORNER[2][0], 0, SHAPE[1] - 16]


def test_an_example_is_a_window_of_the_packed_images(patches: Patches, cohort: PackedCohort) -> None:
    example = patches.example(0, RNG)
    k = BENIGN[2][0]
    assert example["image"].dtype == np.float32
    assert np.array_equal(example["image"], cohort.scans[0].images[k, :, 8:24, 5:21].astype(np.float32))


def test_a_volume_has_its_slices_last(breasts: Path) -> None:
    config = tiny_config("size=16,16,8")
    scans = packed(breasts, config)
    image = Patches(config, scans).example(0, RNG)["image"]
    expected = scans.scans[0].images[3:11, :, 8:24, 5:21].astype(np.float32)
    assert image.shape == (7, 16, 16, 8)
    assert np.array_equal(image[..., 2], expected[2])


def test_the_last_channel_is_half_the_difference_on_the_scale_of_the_series(patches: Patches) -> None:
    image = patches.example(0, RNG)["image"]
    within = image[2] < 1  # the brightest voxels are clamped
    assert np.allclose(image[6, within], (image[2] - image[1])[within] / 2, atol=2e-3)


def test_healthy_centres_lie_inside_the_breast_and_far_from_lesions(patches: Patches, cohort: PackedCohort) -> None:
    half = patches.config.patches.clear // 2
    breast = np.zeros(SHAPE, bool)
    breast[BREAST] = True
    # A window at the border has been shifted, so its centre is not known.
    whole = [place for place in patches.places[NO_FINDINGS_CLASS] if 0 < place[2] < 24 and 0 < place[3] < 20]
    assert len(whole) > 20
    for number, k, i, j in whole:
        assert breast[i + 8, j + 8, k]
        assert not cohort.scans[number].lesion_mask[k, i + 8 - half : i + 8 + half, j + 8 - half : j + 8 + half].any()


def test_a_scan_gives_as_many_healthy_patches_as_asked_for(patches: Patches) -> None:
    numbers, counts = np.unique(patches.places[NO_FINDINGS_CLASS][:, 0], return_counts=True)
    assert numbers.tolist() == list(range(len(COHORT)))
    assert set(counts.tolist()) == {patches.config.patches.healthy}


def test_healthy_patches_of_a_scan_do_not_depend_on_other_scans(cohort: PackedCohort, patches: Patches) -> None:
    alone = Patches(patches.config, cohort.subset(["sub-04"]))
    healthy = patches.places[NO_FINDINGS_CLASS]
    assert np.array_equal(alone.places[NO_FINDINGS_CLASS][:, 1:], healthy[healthy[:, 0] == 3, 1:])


def test_without_a_mask_healthy_centres_lie_in_the_foreground(tmp_path: Path) -> None:
    patches = _only(tmp_path, [], "patches.inside=none", "data.contrasts=T2w,T1w")
    scan = patches.scans[0]
    centres = [(k, i, j) for _, k, i, j in patches.places[NO_FINDINGS_CLASS] if 0 < i < 24 and 0 < j < 20]
    assert len(centres) > 3
    assert all(scan.images[k, 0, i + 8, j + 8] > -0.9 for k, i, j in centres)


# --- Classes. ---


def test_each_patch_occurs_once_with_its_class(patches: Patches) -> None:
    labels = [int(patches.example(index, RNG)["label"]) for index in range(len(patches))]
    # Two benign lesions of three slices; four malignant ones of one.
    assert np.bincount(labels).tolist() == [6, 4, 5 * patches.config.patches.healthy]


def test_training_sees_equal_numbers_of_each_class_and_members_in_turn(cohort: PackedCohort, config: GANConfig) -> None:
    examples = PatchExamples(config, cohort)
    seen = [examples.example(index, RNG) for index in range(len(examples))]
    labels = np.array([int(example["label"]) for example in seen])
    assert len(set(np.bincount(labels).tolist())) == 1
    benign = [example["image"] for example in seen if example["label"] == BENIGN_CLASS]
    assert np.array_equal(benign[0], benign[6])
    assert not np.array_equal(benign[0], benign[1])
    assert not np.array_equal(benign[0], benign[3])


def test_a_class_that_is_absent_is_left_out_and_named(cohort: PackedCohort, config: GANConfig) -> None:
    examples = PatchExamples(config, cohort.subset(["sub-05"]))
    assert {int(examples.example(index, RNG)["label"]) for index in range(len(examples))} == {1, 2}
    assert "None of the 1 training scans has a lesion of the class 'benign'" in examples.unfit
    assert PatchExamples(config, cohort).unfit == ""


def test_no_room_for_healthy_patches_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, "sub-01", [(((8, 32), (8, 28), (1, 19)), "benign"), (CORNER, "malignant")])
    config = tiny_config("patches.clear=40")
    examples = PatchExamples(config, packed(tmp_path, config))
    assert "set a lower patches.clear" in examples.unfit


def test_the_class_may_be_a_column_of_the_subject(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tmalignant\n", encoding="utf-8")
    patches = _only(tmp_path, [(BENIGN, ""), (MALIGNANT, "")], "patches.label=group")
    # Without a table the connected lesions are told apart.
    assert [len(places) for places in patches.places[:2]] == [0, 4]


def test_without_a_column_all_lesions_are_of_one_class(tmp_path: Path) -> None:
    lesions = [(BENIGN, ""), (MALIGNANT, "")]
    patches = _only(tmp_path, lesions, "patches.label=none", "patches.classes=lesion")
    assert patches.config.class_names == ("lesion", "no-findings")
    assert [len(places) for places in patches.places] == [4, 24]


# --- What is refused. ---


def test_an_unknown_class_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sub-01: lesion 2 has the pathology 'malignent'.*Did you mean 'malignant'"):
        _only(tmp_path, [(BENIGN, "benign"), (MALIGNANT, "malignent")])


def test_a_lesion_without_a_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the class of lesion 1 is not known.*--set patches.label="):
        _only(tmp_path, [(BENIGN, "")])


def test_a_scan_smaller_than_a_patch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sub-01 has 40 x 36 voxels, less than a patch of 48 x 16"):
        _only(tmp_path, [], "size=48,16")


def test_a_cohort_without_the_mask_is_refused(tmp_path: Path) -> None:
    write_study(tmp_path, "sub-01", [(BENIGN, "benign")], breast=False)
    with pytest.raises(DataError, match="breast-mask"):
        packed(tmp_path, tiny_config())
