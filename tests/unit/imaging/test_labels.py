"""Which labels are white matter: by setting, table, name and intensity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.conftest import ROOT
from zoo.cli.output import progress_bar
from zoo.config import LABEL_SCHEMES, DataConfig, resolve_config
from zoo.errors import DataError
from zoo.imaging.cache import pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.imaging.labels import SCHEMES, doubts, find_labels, read_table
from zoo.registry import registry
from zoo.training.plan import plan_training

CHILDREN = ROOT.parent / "shared" / "data" / "children-t1w"


@pytest.fixture
def relabelled(phantom: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a copy of the phantom with other labels, and without its table unless told otherwise."""

    def make(numbers: dict[int, int], table: str | None = None) -> Path:
        copy = Path(shutil.copytree(phantom, tmp_path / f"cohort{len(list(tmp_path.iterdir()))}"))
        (copy / "derivatives/tissue/dseg.tsv").unlink()
        if table:
            (copy / "derivatives/tissue/dseg.tsv").write_text(table)
        for file in copy.glob("derivatives/tissue/sub-*/anat/*_dseg.nii.gz"):
            image = nibabel.load(file)
            old = np.asarray(image.dataobj)
            new = np.zeros(old.shape, np.int16)
            for before, after in numbers.items():
                new[old == before] = after
            nibabel.save(nibabel.Nifti1Image(new, image.affine), file)
        return copy

    return make


BIDS = {1: 3, 2: 1, 3: 2, 4: 9}
"""The phantom's labels (1 CSF, 2 cortex, 3 white, 4 deep grey) in BIDS' common table."""


def test_phantom_is_read_by_its_table(phantom: Path) -> None:
    found = find_labels(read_cohort(phantom))
    assert len(found) == 5
    for labels in found.values():
        assert (labels.white_matter, labels.grey_matter, labels.fluid) == ((3,), (2, 4), (1,))
        assert "dseg.tsv" in labels.known_by
    assert not doubts(read_cohort(phantom), found)


@pytest.mark.parametrize(
    ("numbers", "white", "grey", "fluid"),
    [
        ({1: 1, 2: 2, 3: 3, 4: 4}, (3,), (2, 4), (1,)),
        (BIDS, (2,), (1, 9), (3,)),
        ({1: 1, 2: 2, 3: 3, 4: 2}, (3,), (2,), (1,)),  # FSL FAST
        ({2: 2, 3: 1, 4: 2}, (1,), (2,), ()),
    ],
)
def test_labels_are_found_by_intensity(
    relabelled: Callable[..., Path], numbers: dict[int, int], white: tuple, grey: tuple, fluid: tuple
) -> None:
    cohort = read_cohort(relabelled(numbers))
    found = find_labels(cohort)["sub-001"]
    assert (found.white_matter, found.grey_matter, found.fluid) == (white, grey, fluid)
    assert "intensities" in found.known_by
    packed = pack_cohort(cohort, DataConfig(spacing_mm=4.0))
    assert np.array_equal(packed.scans[0].white_matter, packed.scans[0].tissue == white[0])


def test_freesurfer_s_numbers_are_known_by_themselves(relabelled: Callable[..., Path], tmp_path: Path) -> None:
    cohort = read_cohort(relabelled({1: 4, 2: 3, 3: 2, 4: 10}))
    for scan in cohort.scans:  # a right half of its own
        image = nibabel.load(scan.maps["tissue"])
        labels = np.asarray(image.dataobj).copy()
        right = labels[labels.shape[0] // 2 :]
        for left, other in ((2, 41), (3, 42), (4, 43), (10, 49)):
            right[right == left] = other
        nibabel.save(nibabel.Nifti1Image(labels, image.affine), scan.maps["tissue"])
    found = find_labels(cohort)["sub-001"]
    assert {2, 41} <= set(found.white_matter)
    assert not {3, 42} & set(found.white_matter)
    assert "FreeSurfer" in found.known_by


def test_table_is_believed_and_inherited(relabelled: Callable[..., Path]) -> None:
    copy = relabelled(
        BIDS, "index\tname\tabbreviation\n1\tGray Matter\tGM\n2\tWhite Matter\tWM\n3\tCSF\tCSF\n9\tx\tSGM\n"
    )
    assert find_labels(read_cohort(copy))["sub-002"].white_matter == (2,)
    # The nearer table, and of one folder the one with more entities of the image's name.
    near = copy / "derivatives/tissue/sub-002/anat"
    (near / "sub-002_dseg.tsv").write_text("index\tname\n9\twhite matter\n")
    (near / "sub-003_dseg.tsv").write_text("index\tname\n8\twhite matter\n")
    found = find_labels(read_cohort(copy))
    assert found["sub-002"].white_matter == (9,)
    assert found["sub-003"].white_matter == (2,)
    said = doubts(read_cohort(copy), found)
    assert any("sub-002: label 2 is brighter" in text for text in said)


@pytest.mark.parametrize(
    ("rows", "white", "grey", "fluid"),
    [
        ("2\tLeft-Cerebral-White-Matter\n3\tLeft-Cerebral-Cortex\n4\tLeft-Lateral-Ventricle\n5\tLeft-Inf-Lat-Vent\n"
         "17\tLeft-Hippocampus\n77\tWM-hypointensities\n251\tCC_Posterior\n", (2, 251), (3, 17), (4, 5)),
        ("1\tWM\n2\tGM\n3\tCSF\n", (1,), (2,), (3,)),
        ("1\tcerebrospinal fluid\n2\tgrey matter\n3\twhite_matter\n0\tbackground\n", (3,), (2,), (1,)),
    ],
)  # fmt: skip
def test_names_of_labels(tmp_path: Path, rows: str, white: tuple, grey: tuple, fluid: tuple) -> None:
    (tmp_path / "dseg.tsv").write_text("index\tname\n" + rows)
    found = read_table(tmp_path / "dseg.tsv")
    assert (found.white_matter, found.grey_matter, found.fluid) == (white, grey, fluid)


def test_mapping_points_to_the_common_table(tmp_path: Path) -> None:
    (tmp_path / "dseg.tsv").write_text("index\tname\tmapping\n137\tpars opercularis\t1\n276\twhatever\t2\n3\tx\tn/a\n")
    found = read_table(tmp_path / "dseg.tsv")
    assert (found.white_matter, found.grey_matter, found.fluid) == ((276,), (137,), ())


@pytest.mark.parametrize("text", ["index\tname\n1\tthalamus\n", "index\tname\nx\twhite matter\n", "number\n2\n", ""])
def test_table_without_white_matter_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dseg.tsv").write_text(text)
    with pytest.raises(DataError, match=r"dseg\.tsv"):
        read_table(tmp_path / "dseg.tsv")


def test_unsure_labels_are_refused_with_the_setting(relabelled: Callable[..., Path]) -> None:
    everything = relabelled({1: 1, 2: 1, 3: 1, 4: 1})
    with pytest.raises(DataError, match=r"is not known: there is no dseg.tsv.*set data.white_matter_labels"):
        find_labels(read_cohort(everything))
    with pytest.raises(DataError, match=r"data.white_matter_labels"):
        pack_cohort(read_cohort(everything), DataConfig(spacing_mm=4.0))
    scalp = read_cohort(relabelled({1: 3, 2: 2, 3: 2, 4: 2}))  # a bright rim
    for scan in scalp.scans:
        image, labels = (nibabel.load(path) for path in (scan.images["T1w"], scan.maps["tissue"]))
        values = np.asarray(image.dataobj).copy()
        values[np.asarray(labels.dataobj) == 3] = 2000
        nibabel.save(nibabel.Nifti1Image(values, image.affine), scan.images["T1w"])
    with pytest.raises(DataError, match="outermost"):
        find_labels(scalp)


def test_scans_that_contradict_each_other_are_refused(relabelled: Callable[..., Path]) -> None:
    first, second = relabelled({1: 1, 2: 2, 3: 3, 4: 4}), relabelled(BIDS)
    for file in second.glob("derivatives/tissue/sub-001/anat/*"):
        shutil.copy(file, first / file.relative_to(second))
    with pytest.raises(DataError, match="another label in another scan"):
        find_labels(read_cohort(first))


def test_setting_is_believed_and_contradiction_is_said(relabelled: Callable[..., Path]) -> None:
    cohort = read_cohort(relabelled(BIDS))
    right, wrong = find_labels(cohort, (2,)), find_labels(cohort, (3,))
    assert not doubts(cohort, right)
    assert wrong["sub-001"].white_matter == (3,)
    assert "label 2 is brighter on the T1w" in " ".join(doubts(cohort, wrong))
    assert "has no label 7" in " ".join(doubts(cohort, find_labels(cohort, (7,))))
    assert find_labels(cohort, "bids")["sub-001"].white_matter == (2,)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((3,), (3,)),
        (3, (3,)),
        ("2,41", (2, 41)),
        (["2", "41"], (2, 41)),
        ("FreeSurfer", "freesurfer"),
        ("find", "find"),
    ],
)
def test_setting_names_labels_or_a_scheme(given: object, kept: object) -> None:
    settings = DataConfig(white_matter_labels=given)
    assert settings.white_matter_labels == kept
    assert DataConfig(**json.loads(settings.model_dump_json())) == settings


def test_unknown_scheme_is_refused(zoo_command, phantom: Path) -> None:
    assert set(SCHEMES) == set(LABEL_SCHEMES)
    arguments = ("train", "lesion-filling", "--data", phantom, "--dry-run", "--set")
    code, _, err = zoo_command(*arguments, "data.white_matter_labels=freesurfr")
    assert code == 1
    assert "Did you mean 'freesurfer'" in err
    with pytest.raises(ValueError, match="got"):
        DataConfig(white_matter_labels=())


def test_training_says_which_labels_it_takes(relabelled: Callable[..., Path], phantom: Path) -> None:
    method = registry().methods["lesion-filling"]

    def notes(data: Path, *settings: str) -> str:
        config = resolve_config(method, preset="tiny", assignments=settings)
        return " ".join(plan_training(method, config, data, progress_bar).cohort.notes)

    found = "tissue labels: white matter 2, grey matter 1, 9, fluid 3 (known by the intensities of the T1w"
    assert found in notes(relabelled(BIDS))
    assert "label 3 is brighter" in notes(phantom, "data.white_matter_labels=1")


@pytest.mark.skipif(not CHILDREN.is_dir(), reason="the children's images are not here")
def test_children_are_read_right() -> None:
    found = find_labels(read_cohort(CHILDREN))
    assert len(found) == 26
    for labels in found.values():
        assert (labels.white_matter, labels.grey_matter, labels.fluid) == ((3,), (2, 4), (1,))
