"""The head: found under skull, padding and noise; and what filling makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

import zoo
from zoo.errors import DataError
from zoo.imaging.head import find_head, outside_head
from zoo.imaging.phantom import PhantomSubject, make_subject
from zoo.models.artifact import Artifact
from zoo.tasks.fill.patient import FillSettings, PatientFiles, fill_files

SPACING = (4.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def subject() -> PhantomSubject:
    return make_subject(4, seed=1, spacing_mm=4, group="MS")


@pytest.fixture(scope="module")
def biharmonic() -> Artifact:
    return zoo.load("biharmonic-filling")


def _save(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def _fill(artifact: Artifact, folder: Path, image: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the filled image; the result and its sidecar stay in the folder."""
    folder.mkdir()
    t1w = _save(folder / "t1w.nii.gz", image, affine)
    lesions = _save(folder / "mask.nii.gz", mask.astype(np.uint8), affine)
    fill_files(artifact, PatientFiles([t1w], lesions), [folder / "filled.nii.gz"], FillSettings(dilate=0))
    return np.asarray(nibabel.load(folder / "filled.nii.gz").dataobj)


@pytest.mark.parametrize("contrast", ["T1w", "T2w", "FLAIR"])
def test_the_head_is_the_brain_where_nothing_else_is(subject: PhantomSubject, contrast: str) -> None:
    head = find_head(subject.images[contrast], SPACING)
    found = np.zeros(subject.tissue.shape, bool)
    found[head.window] = head.refined(head.inside)
    brain = ndimage.binary_fill_holes(subject.tissue > 0)
    assert found[brain].mean() > 0.93  # fluid at the surface is as dark as air
    assert np.mean(ndimage.binary_dilation(brain, iterations=3)[found]) == 1


def test_the_core_is_deep(subject: PhantomSubject) -> None:
    head = find_head(subject.images["T1w"], SPACING)
    core = np.zeros(subject.tissue.shape, bool)
    core[head.window] = head.refined(head.core())
    depth = ndimage.distance_transform_edt(ndimage.binary_fill_holes(subject.tissue > 0), SPACING)
    assert core.sum() > 100
    assert depth[core].min() > 12


def test_nothing_is_no_head() -> None:
    with pytest.raises(DataError, match="The image is empty: its maximum is 0"):
        find_head(np.zeros((5, 5, 5)), SPACING)


def test_lesions_of_the_head_are_inside_and_air_is_not(subject: PhantomSubject) -> None:
    image = subject.images["T1w"].astype(np.float32)
    assert not outside_head(subject.lesion_mask, image, SPACING).any()
    hole = image.copy()
    hole[subject.lesion_mask] = 0  # an old lesion, as dark as air
    assert not outside_head(subject.lesion_mask, hole, SPACING).any()
    air = ndimage.distance_transform_edt(image == 0) > 2
    assert outside_head(air, image, SPACING)[air].all()
    assert outside_head(air, image + 5, SPACING)[air].all()


@pytest.mark.parametrize("method", ["biharmonic-filling", "neighbour-filling"])
def test_air_is_left_as_it_is_and_said(subject: PhantomSubject, method: str, tmp_path: Path) -> None:
    image = subject.images["T1w"]
    mask = subject.lesion_mask.copy()
    mask[:3, :3, 20:24] = True
    filled = _fill(zoo.load(method), tmp_path / "case", image, mask, subject.affine)
    assert (filled[:3, :3, 20:24] == 0).all()
    assert (filled != image)[subject.lesion_mask].any()
    sidecar = json.loads((tmp_path / "case" / "filled.json").read_text())
    assert any(
        f"36 of the {mask.sum()} voxels of the lesion mask lie in the air" in text for text in sidecar["Warnings"]
    )
    assert sidecar["VoxelsDrawn"] == mask.sum()


def test_padding_changes_no_filled_voxel(subject: PhantomSubject, biharmonic: Artifact, tmp_path: Path) -> None:
    image, mask = subject.images["T1w"], subject.lesion_mask
    shift = np.eye(4)
    shift[:3, 3] = -40
    once = _fill(biharmonic, tmp_path / "once", image, mask, subject.affine)[mask]
    wide = _fill(biharmonic, tmp_path / "wide", np.pad(image, 40), np.pad(mask, 40), subject.affine @ shift)
    assert np.mean(wide[40:-40, 40:-40, 40:-40][mask] != once) <= 0.001


def test_a_few_bright_voxels_change_no_fill(subject: PhantomSubject, biharmonic: Artifact, tmp_path: Path) -> None:
    image, mask = subject.images["T1w"], subject.lesion_mask
    once = _fill(biharmonic, tmp_path / "once", image, mask, subject.affine)[mask]
    far = np.argwhere((image > 0) & (ndimage.distance_transform_edt(~mask) > 8))
    bright = image.astype(np.float32)
    bright[tuple(np.random.default_rng(0).choice(far, 10, replace=False).T)] = 1e6
    again = _fill(biharmonic, tmp_path / "bright", bright, mask, subject.affine)[mask]
    assert np.abs(again - once).max() <= 0.02 * image.max()


def test_a_lesion_in_the_outermost_slice_does_not_go_dark(
    subject: PhantomSubject, biharmonic: Artifact, tmp_path: Path
) -> None:
    first = int(np.argmax(subject.lesion_mask.sum(axis=(0, 1))))
    affine = subject.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (0, 0, first)
    image, mask, truth = (
        part[:, :, first:] for part in (subject.images["T1w"], subject.lesion_mask, subject.lesion_free)
    )
    filled = _fill(biharmonic, tmp_path / "case", image, mask, affine)
    outermost = mask[:, :, 0]
    assert outermost.any()
    assert filled[:, :, 0][outermost].mean() == pytest.approx(truth[:, :, 0][outermost].mean(), rel=0.15)
