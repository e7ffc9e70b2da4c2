"""Transfer of patients' lesion masks to healthy subjects, where training knows the tissue under the mask."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy import ndimage

from zoo.errors import DataError, MissingExtraError
from zoo.imaging.cohort import Cohort, Scan
from zoo.imaging.geometry import Grid, to_grid
from zoo.imaging.labels import TissueLabels, find_labels
from zoo.imaging.volume import Volume, read_mask, read_volume
from zoo.system.files import replacing

PATIENT = "patient"
"""Column of participants.tsv with the patient whose lesions are in a mask."""

LAID_ON = "laid_on"
"""Column of participants.tsv with the subject that a mask was made for; the mask is used only on this subject."""


def patient_of(scan: Scan) -> str:
    """Return the patient whose lesions are in a scan's mask: its subject, except for transferred masks."""
    return scan.covariates.get(PATIENT, scan.subject)


@dataclass(frozen=True)
class Transferred:
    """One mask on one subject.

    Attributes:
        patient, laid_on: The patient with the lesions, and the subject that has the mask.
        lesions, volume_mm3: Number and volume of the lesions within white matter.
    """

    patient: str
    laid_on: str
    lesions: int
    volume_mm3: float


def transfer_masks(
    patients: Cohort,
    healthy: Cohort,
    folder: Path,
    *,
    nonlinear: bool = False,
    white_matter_labels: tuple[int, ...] | str = "find",
    progress: Callable[[int, int], None] | None = None,
) -> list[Transferred]:
    """Transfer the lesions of each patient to each healthy subject, cut to white matter, and write the masks.

    The folder serves as ``data.lesion_masks``: one subject per pair, ``sub-07on31``, with a mask on the healthy
    subject's own grid. Pairs without lesions in white matter are not written.

    Args:
        patients: Scans with a lesion mask; a nonlinear transfer needs their T1w as well.
        healthy: Scans with a T1w and a white-matter mask or tissue labels.
        folder: Destination; complete, or not created.
        nonlinear: Register each patient's T1w to each subject's (ANTs SyN); else world coordinates must agree already.
        white_matter_labels: Of tissue labels, the name of a scheme, or ``"find"`` (`zoo.imaging.labels.find_labels`).
        progress: Called with (pairs done, pairs in all).

    Raises:
        DataError: The folder exists, a scan lacks what is needed, the labels of white matter are not known, or no
            lesion falls into white matter.
        MissingExtraError: A nonlinear transfer without antspyx.

    Source: Uhr 2024, section 3.3 "Mask Generation".
    """
    if folder.exists():
        raise DataError(f"{folder} is there already; name another folder, or remove it first.")
    sick = patients.with_all(["lesion-mask", *(["T1w"] if nonlinear else [])]).scans
    healthy = healthy.with_all(["T1w"])
    well, labels = healthy.scans, find_labels(healthy, white_matter_labels)
    ants = _ants() if nonlinear else None
    done: list[Transferred] = []
    with replacing(folder) as temporary:
        for number, scan in enumerate(well):
            volume = read_volume(scan.images["T1w"])
            white_matter = _white_matter(scan, volume, labels)
            for index, patient in enumerate(sick):
                laid = _warp(ants, patient, scan) if ants else _by_world(patient, volume)
                mask = laid & white_matter
                if mask.any():
                    done.append(_write(temporary, patient, scan, volume, mask))
                if progress:
                    progress(number * len(sick) + index + 1, len(well) * len(sick))
        if not done:
            raise DataError(
                f"No lesion of {patients.root} falls into white matter of {healthy.root}: their world coordinates do "
                "not agree, or the labels of white matter are wrong (zoo data check shows them). Register them: "
                "zoo data transfer-masks … --nonlinear"
            )
        _describe(temporary, done, nonlinear)
    return done


def _ants() -> Any:
    try:
        import ants
    except ImportError:
        raise MissingExtraError("A nonlinear transfer needs antspyx: pip install 'mri-zoo[registration]'") from None
    return ants


def _white_matter(scan: Scan, volume: Volume, labels: Mapping[str, TissueLabels]) -> np.ndarray:
    if "white-matter" in scan.maps:
        return read_mask(scan.maps["white-matter"], like=volume)
    if "tissue" not in scan.maps:
        raise DataError(f"{scan.id} has neither a label-WM_mask nor a dseg; lesions are cut to white matter.")
    tissue = read_volume(scan.maps["tissue"])
    laid = to_grid(tissue.data[0], tissue.affine, Grid(volume.shape, volume.affine), order=0).round()
    return np.isin(laid, labels[scan.id].white_matter)


def _by_world(patient: Scan, volume: Volume) -> np.ndarray:
    mask = read_volume(patient.maps["lesion-mask"])
    drawn = (mask.data[0] > 0.5).astype(np.float32)
    return to_grid(drawn, mask.affine, Grid(volume.shape, volume.affine), order=0) > 0.5


def _warp(ants: Any, patient: Scan, scan: Scan) -> np.ndarray:
    fixed, moving = (ants.image_read(str(images["T1w"])) for images in (scan.images, patient.images))
    transforms = ants.registration(fixed, moving, type_of_transform="SyN")["fwdtransforms"]
    mask = ants.image_read(str(patient.maps["lesion-mask"]))
    warped = ants.apply_transforms(fixed, mask, transforms, interpolator="nearestNeighbor")
    return np.asarray(warped.numpy() > 0.5)


def _write(folder: Path, patient: Scan, scan: Scan, volume: Volume, mask: np.ndarray) -> Transferred:
    name = _pair(patient.subject, scan.subject)
    file = folder / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
    file.parent.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), volume.affine), file)
    _, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return Transferred(patient.subject, scan.subject, count, float(mask.sum() * np.prod(volume.spacing_mm)))


def _pair(patient: str, healthy: str) -> str:
    return f"{patient}on{healthy.removeprefix('sub-')}"


def _describe(folder: Path, done: Sequence[Transferred], nonlinear: bool) -> None:
    rows = [f"participant_id\t{PATIENT}\t{LAID_ON}\tlesions\tlesion_volume_mm3"]
    rows += [
        f"{_pair(row.patient, row.laid_on)}\t{row.patient}\t{row.laid_on}\t{row.lesions}\t{row.volume_mm3:.0f}"
        for row in done
    ]
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    how = "registered by ANTs SyN" if nonlinear else "by common world coordinates"
    description = {
        "Name": f"Lesion masks laid on other subjects {how}, cut to white matter",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "mri-zoo"}],
        "Synthetic": True,
    }
    (folder / "dataset_description.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
