"""What the makers of synthetic cohorts share: BIDS files whose bytes depend only on the content, and smooth fields."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy import ndimage

from zoo.errors import DataError
from zoo.system.files import replacing


@contextmanager
def new_cohort(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` when the block ends well; see `replacing`.

    Raises:
        DataError: Something is there already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already; name another folder, or remove it first.")
    with replacing(folder) as temporary:
        temporary.mkdir()
        yield temporary


def describe(folder: Path, name: str, kind: str, maker: str, about: Mapping[str, Any]) -> None:
    """Write the ``dataset_description.json`` of a BIDS folder.

    Args:
        folder: Made where it is not there.
        name: Of the dataset.
        kind: ``"raw"`` or ``"derivative"``.
        maker: Name of what makes it.
        about: Parameters that it is made with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {"Name": maker, "Parameters": dict(about)}
    write_json(
        folder / "dataset_description.json",
        {"Name": name, "BIDSVersion": "1.10.0", "DatasetType": kind, "GeneratedBy": [made], "Synthetic": True},
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sidecar."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_image(path: Path, image: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI whose bytes depend only on the image, without a time stamp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = nibabel.Nifti1Image(image, affine)
    content.header.set_xyzt_units("mm")
    with path.open("wb") as plain, gzip.GzipFile("", "wb", compresslevel=1, fileobj=plain, mtime=0) as packed:
        packed.write(content.to_bytes())


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Return smooth noise of mean 0 and standard deviation 1; ``sigma`` in voxels."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma, mode="wrap")
    return field / max(float(field.std()), 1e-6)
