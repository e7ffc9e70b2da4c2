"""A BIDS-derivatives folder: its description, the places in it, and the names of its images."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import ArtifactError, DataError
from zoo.imaging.cohort import Cohort, Scan
from zoo.system.files import write_text

BIDS_VERSION = "1.9.0"


def start_derivatives(
    folder: Path, cohort: Cohort, *, name: str, version: str, description: str, ignored: Sequence[str] = ()
) -> None:
    """Check that a cohort's results can go to a folder, and describe the folder as a derivatives dataset.

    Args:
        folder: Where the results go.
        cohort: The scans that the results are made from.
        name: Of the dataset.
        version: Of the plugin that makes the results.
        description: What made them, and what in them is synthetic.
        ignored: Patterns of files that BIDS does not know.

    Raises:
        DataError: Two scans have one id, or the folder lies inside the cohort but outside its derivatives.
        ArtifactError: The folder holds another dataset or cannot be written, or the disk is full.
    """
    repeated = [name for name, count in Counter(scan.id for scan in cohort.scans).items() if count > 1]
    if repeated:
        raise DataError(f"{cohort.root} has {repeated[0]} more than once; each scan needs an id of its own.")
    root, place = (Path(os.path.realpath(path)) for path in (cohort.root, folder))
    if place.is_relative_to(root) and not place.is_relative_to(root / "derivatives"):
        raise DataError(f"--out {folder} lies inside {cohort.root}; write to {cohort.root}/derivatives or outside.")
    file = folder / "dataset_description.json"
    if file.is_file():
        if _made_by(file) != "mri-zoo":
            raise ArtifactError(
                f"{folder} is another dataset, or its {file.name} is broken: it does not name mri-zoo. Choose another "
                "--out, or remove that file if the dataset is this program's."
            )
        return
    content = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "mri-zoo", "Version": version, "Description": description}],
    }
    write_text(file, json.dumps(content, indent=2) + "\n")
    if ignored:
        write_text(folder / ".bidsignore", "".join(f"{pattern}\n" for pattern in ignored))


def _made_by(description: Path) -> str | None:
    """Return the program that a dataset_description.json names first."""
    try:
        return json.loads(description.read_text(encoding="utf-8"))["GeneratedBy"][0]["Name"]
    except (OSError, ValueError, RecursionError, KeyError, IndexError, TypeError):
        return None


def scan_folder(folder: Path, scan: Scan) -> Path:
    """Return where a scan's images go in a derivatives folder: ``sub-1/ses-2/anat``."""
    return folder.joinpath(*scan.id.split("_"), "anat")


def check_inside(place: Path, folder: Path, scan: Scan) -> None:
    """Refuse a place that an odd id or a link puts outside the folder.

    Raises:
        DataError: The place lies outside.
    """
    if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)):
        raise DataError(f"The results of {scan.id!r} would lie at {place}, outside {folder}; correct the id.")


def derived_name(name: str, description: str) -> str:
    """Return the BIDS name of a derived image: ``sub-1_T1w.nii.gz`` gives ``sub-1_desc-filled_T1w.nii.gz``.

    Args:
        name: Of the image it is made from.
        description: Value of the entity ``desc``, here ``filled``.
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    extension = name[len(stem) :].lower()
    entities, underscore, suffix = stem.rpartition("_")
    return f"{entities}{underscore}desc-{description}_{suffix}{extension}"
