"""Images that come one by one, generated or real: how they get to NIfTI, with JSON beside each and a sheet of all.

Generated and real images are written alike, so that other tools can compare the files of both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from zoo.config import DataConfig
from zoo.errors import ConfigError, DataError, UnknownNameError, did_you_mean
from zoo.imaging.preprocessing import output_intensity
from zoo.models.artifact import Artifact
from zoo.system.files import replacing, write_text
from zoo.tasks.provenance import read_object

SHOWN = 64
"""Images on a sheet."""


@dataclass(frozen=True)
class ImageFiles:
    """What was written.

    Attributes:
        images: One NIfTI per image and contrast, image by image.
        sheet: PNG of the first images.
    """

    images: tuple[Path, ...]
    sheet: Path


_KINDS = {"sample": "samples", "real": "real images"}


def check_folder(folder: Path, kind: str, sidecar: Mapping[str, object]) -> None:
    """Refuse a folder with images that must not stand beside the new ones.

    Args:
        folder: Where they go.
        kind: Begin of their names: ``"sample"`` or ``"real"``.
        sidecar: What their sidecars say; a folder holds only samples of one model, and only real images of one choice.

    Raises:
        DataError: Names such an image.
    """
    for other, what in _KINDS.items():
        # Other images are refused at the first, so one sidecar speaks for all of its kind.
        file = min(folder.glob(f"{other}-*.json"), default=None)
        if file is None:
            continue
        if other != kind:
            raise DataError(f"{folder} holds {what}, such as {file.name}; {_KINDS[kind]} need a folder of their own.")
        keys, of = (
            (("ModelSHA256",), "another model")
            if kind == "sample"
            else (("ModelSHA256", "DataFingerprint", "Options"), "another model, cohort, class or seed")
        )
        stored = read_object(file)
        if any(stored.get(key) != sidecar[key] for key in keys):
            raise DataError(
                f"{folder} holds {what} of {of}, such as {file.name}; choose another --out, or remove them."
            )


def check_class(artifact: Artifact, label: str) -> None:
    """Refuse a class that a method does not have.

    Raises:
        ConfigError: The method has no classes.
        UnknownNameError: It has others, which are named.
    """
    name, classes = artifact.method.name, artifact.config.class_names
    if not classes:
        raise ConfigError(f"Method {name!r} has no classes, so no class {label!r} can be asked for; leave out --class.")
    if label not in classes:
        raise UnknownNameError(
            f"Method {name!r} has no class {label!r}.{did_you_mean(label, classes)} Classes: {', '.join(classes)}."
        )


def write_image(
    folder: Path,
    stem: str,
    image: np.ndarray,
    spacing_mm: tuple[float, float, float] | None,
    data: DataConfig,
    sidecar: Mapping[str, object],
) -> list[Path]:
    """Write each contrast of an image as NIfTI with a JSON beside it, and return the images' paths.

    A contrast with a fixed range (``data.scales``) is in its unit, any other in [0, 1] or, signed, in [-1, 1]. Axes are
    RAS with the origin in the first voxel; the header says nothing of a scanner or a person.

    Args:
        folder: Gets ``STEM_T1w.nii.gz`` and ``STEM_T1w.json``.
        stem: Begin of the names: ``"sample-0007"``.
        image: ``[C, i, j]`` or ``[C, i, j, k]`` in [-1, 1], one channel per contrast.
        spacing_mm: Voxel size along (i, j, k); ``None`` where it is not known, then 1 mm is written.
        data: The model's contrasts and their scales.
        sidecar: What the JSON says beside unit and spacing.
    """
    affine = np.diag([*(spacing_mm or (1.0, 1.0, 1.0)), 1.0])
    paths = []
    for contrast, values in zip(data.contrasts, image, strict=True):
        path = folder / f"{stem}_{contrast}.nii.gz"
        volume = values if values.ndim == 3 else values[:, :, None]
        intensity, unit = output_intensity(contrast, data)
        with replacing(path) as temporary:
            nibabel.save(nibabel.Nifti1Image(intensity.decode(volume), affine), temporary)
        about = {**sidecar, "SpacingKnown": spacing_mm is not None, "Units": unit}
        write_text(path.with_name(path.name.replace(".nii.gz", ".json")), json.dumps(about, indent=2) + "\n")
        paths.append(path)
    return paths


def draw_sheet(path: Path, images: np.ndarray, contrasts: Sequence[str], classes: Sequence[str] | None = None) -> None:
    """Draw images ``[N, C, i, j(, k)]`` in [-1, 1] on a sheet.

    With several contrasts each image has a row, titled by its class, of ``classes`` one per image.
    """
    from zoo.report.figures import sheet, upright

    planes = upright(images, 2 if images.ndim == 4 else 3)
    several = len(contrasts) > 1
    columns = len(contrasts) if several else math.ceil(math.sqrt(len(planes)))
    with replacing(path) as temporary:
        sheet(
            planes.reshape(-1, *planes.shape[2:]),
            temporary,
            titles=contrasts if several else None,
            rows=classes if several else None,
            columns=columns,
        )
