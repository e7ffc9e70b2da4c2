"""Sampling files: how generated images get from a sampler to NIfTI.

Every file says that it is synthetic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.imaging.preprocessing import output_intensity
from zoo.models.artifact import Artifact
from zoo.models.runtime import TORCH, Runtime
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.system.files import replacing, write_text
from zoo.tasks.provenance import provenance, read_object

_SHOWN = 64
"""Samples on the sheet."""
_DESCRIPTION = "Generated image of no real person. Research use only, not for diagnosis."


@dataclass(frozen=True)
class SampleReport:
    """What sampling wrote.

    Attributes:
        images: One NIfTI per sample and contrast, sample by sample.
        sheet: PNG of the first samples.
    """

    images: tuple[Path, ...]
    sheet: Path


def sample_files(
    artifact: Artifact,
    folder: Path,
    *,
    count: int,
    first: int = 0,
    options: Mapping[str, object],
    runtime: Runtime = TORCH,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> SampleReport:
    """Generate samples ``first`` to ``first + count - 1`` of a seed.

    Sample k depends on the seed and on k alone: in a batch, on another backend or on another device it is the same, up
    to rounding.

    Args:
        artifact: The trained model.
        folder: Gets ``sample-0007_T1w.nii.gz`` and its ``.json`` for each sample and contrast, and ``samples.png``.
            A contrast with a fixed range (``data.scales``) is in its unit; others are in [0, 1], where 0 is the
            background and 1 the maximum of the method's scaling.
        count: Samples.
        first: Number of the first one.
        options: Of the method's sampling options.
        runtime: What runs the networks.
        command: Words of the command, recorded in the sidecars without folders.
        progress: Called with (samples done, samples in all).

    Raises:
        UnknownNameError: The method cannot sample.
        DataError: A sample has values that are not finite and is not written, or the folder has samples of another
            model.
        ArtifactError: The disk is full or the folder cannot be written.
    """
    task = artifact.method.task("sample")
    checked = validate(resolve(task.options), options, what=f"zoo sample with {artifact.method.name}")
    run, parts = resolve(task.run), artifact.parts(runtime)
    sidecar = provenance(artifact, runtime, checked, description=_DESCRIPTION, command=command)
    _check_folder(folder, artifact)
    numbers = range(first, first + count)
    written: list[Path] = []
    shown: list[np.ndarray] = []
    for start in range(0, count, checked.batch_size):
        some = numbers[start : start + checked.batch_size]
        samples = run(parts, artifact.config, [seed_for(checked.seed, number) for number in some], checked)
        images, spacing = samples.images.numpy(), samples.spacing_mm
        for number, image in zip(some, images, strict=True):
            about = {**sidecar, "Sample": number, "SpacingKnown": spacing is not None}
            written += _write(folder, number, image, artifact, spacing or (1.0, 1.0, 1.0), about)
            if len(shown) < _SHOWN:
                shown.append(image)
        if progress:
            progress(len(some) + start, count)
    sheet = folder / "samples.png"
    _draw(sheet, np.stack(shown), artifact.config.data.contrasts)
    return SampleReport(tuple(written), sheet)


def _check_folder(folder: Path, artifact: Artifact) -> None:
    """Refuse a folder with samples of another model, which would stand beside the new ones.

    Raises:
        DataError: Names such a sample.
    """
    for file in sorted(folder.glob("sample-*.json")):
        made_by = read_object(file).get("ModelSHA256")
        if made_by != artifact.sha256:
            raise DataError(
                f"{folder} holds samples of another model, such as {file.name}; choose another --out, or remove them."
            )


def _write(
    folder: Path,
    number: int,
    image: np.ndarray,
    artifact: Artifact,
    spacing_mm: tuple[float, float, float],
    sidecar: Mapping[str, object],
) -> list[Path]:
    """Write the contrasts ``[C, i, j(, k)]`` of one sample, each with its sidecar; return the images."""
    affine = np.diag([*spacing_mm, 1.0])
    paths = []
    for contrast, values in zip(artifact.config.data.contrasts, image, strict=True):
        path = folder / f"sample-{number:04d}_{contrast}.nii.gz"
        volume = values if values.ndim == 3 else values[:, :, None]
        intensity, unit = output_intensity(contrast, artifact.config.data)
        with replacing(path) as temporary:
            nibabel.save(nibabel.Nifti1Image(intensity.decode(volume), affine), temporary)
        about = {**sidecar, "Units": unit}
        write_text(path.with_name(path.name.replace(".nii.gz", ".json")), json.dumps(about, indent=2) + "\n")
        paths.append(path)
    return paths


def _draw(path: Path, images: np.ndarray, contrasts: Sequence[str]) -> None:
    """Draw images ``[N, C, i, j(, k)]`` on a sheet: one row per sample where there are several contrasts."""
    from zoo.report.figures import sheet, upright

    planes = upright(images, 2 if images.ndim == 4 else 3)
    several = len(contrasts) > 1
    columns = len(contrasts) if several else math.ceil(math.sqrt(len(planes)))
    with replacing(path) as temporary:
        sheet(planes.reshape(-1, *planes.shape[2:]), temporary, titles=contrasts if several else None, columns=columns)
