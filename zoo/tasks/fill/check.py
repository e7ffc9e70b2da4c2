"""What the contract kit tests of the verb ``fill``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.models.artifact import Artifact


def check_fill(artifact: Artifact, cohort: Path, folder: Path) -> None:
    """Filling keeps the grid, keeps every voxel outside the mask, changes the inside, and repeats itself."""
    import nibabel

    from zoo.tasks.fill.patient import FillSettings, PatientFiles, fill_files

    image = cohort / "sub-001/anat/sub-001_T1w.nii.gz"
    mask = next(cohort.glob("derivatives/lesions/sub-*/anat/*_mask.nii.gz"))
    subject = mask.name.split("_")[0]
    image = cohort / subject / "anat" / f"{subject}_T1w.nii.gz"
    written = [folder / "first.nii.gz", folder / "second.nii.gz"]
    for out in written:
        settings = FillSettings(options={"seed": 9}, dilate=0)
        report = fill_files(artifact, PatientFiles([image], mask), [out], settings)
    before, after = nibabel.load(image), nibabel.load(written[0])
    hole = np.asarray(nibabel.load(mask).dataobj) > 0
    old, new = np.asarray(before.dataobj), np.asarray(after.dataobj)
    assert np.array_equal(before.affine, after.affine)
    assert old.dtype == new.dtype
    assert np.array_equal(old[~hole], new[~hole])
    assert (old[hole] != new[hole]).any()
    assert report.changed_outside == 0
    assert report.changed_inside == int((old != new).sum())
    assert written[0].read_bytes() == written[1].read_bytes()
    assert report.sidecar["Synthetic"] is True
