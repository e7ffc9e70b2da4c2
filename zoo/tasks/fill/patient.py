"""Filling one patient: from the images and masks to filled images on their own grid.

No voxel outside the mask changes, except the rim that dilation adds; all others keep their stored bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.imaging.geometry import to_grid
from zoo.imaging.head import outside_head
from zoo.imaging.masks import choose_lesions, dilate_within, number_lesions
from zoo.imaging.volume import Volume
from zoo.models.artifact import Artifact
from zoo.models.runtime import TORCH, Runtime
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.system.files import sha256
from zoo.tasks.files import ModelImage, check_belonging, grid_for, read_images, read_mask
from zoo.tasks.fill.protocol import FillOptions
from zoo.tasks.fill.results import Fill, FillMask, FillReport, write_results
from zoo.tasks.provenance import identity, provenance
from zoo.tasks.results import ResultFiles, check_results

SIDECAR_FORMAT = 2
"""Of the JSON beside a filled image. 1 (version 0.1.0) counted the voxels that dilation adds as part of the mask."""

_DESCRIPTION = "Lesions filled with generated healthy tissue. Research use only, not for diagnosis."


@dataclass(frozen=True)
class PatientFiles:
    """The files of one patient, and how they are to be read.

    Attributes:
        images: One NIfTI per contrast, in the order of the model's contrasts, on one grid.
        lesions: Lesion mask on the same grid.
        lesion_labels: Values of the mask that are lesions, where it has several.
        white_matter: Mask of white matter on the same grid, or a segmentation.
        white_matter_labels: Labels of white matter, where ``white_matter`` is a segmentation.
        same_space: Take the files as belonging together, even if their names or headers contradict it.
    """

    images: Sequence[Path]
    lesions: Path
    lesion_labels: Sequence[int] = ()
    white_matter: Path | None = None
    white_matter_labels: Sequence[int] = ()
    same_space: bool = False

    def by_role(self, contrasts: Sequence[str]) -> dict[str, Path]:
        """Return the files by contrast or role, in order."""
        files = dict(zip(contrasts, self.images, strict=True)) | {"lesion-mask": self.lesions}
        if self.white_matter is not None:
            files["tissue" if self.white_matter_labels else "white-matter"] = self.white_matter
        return files


@dataclass(frozen=True)
class FillSettings:
    """What decides a fill beside the model and the patient's files.

    Attributes:
        options: Of the method's filling options.
        dilate: Voxels by which the mask grows into white matter, where that is known; otherwise nothing is added.
        select, keep: Numbers of the lesions to fill, or to leave as they are (`number_lesions`); by default all are
            filled.
        samples: Draws that are averaged.
        runtime: What runs the network; its device does not decide the result.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    dilate: int = 1
    select: Sequence[int] = ()
    keep: Sequence[int] = ()
    samples: int = 1
    runtime: Runtime = TORCH


@dataclass(frozen=True)
class Case:
    """One patient's files, read and found to belong together.

    Attributes:
        volumes: One per contrast, on one grid.
        lesion_mask: All lesions of the mask, bool ``[i, j, k]``.
        outside_head: Voxels of the mask that lie in the air, bool ``[i, j, k]``; they are not filled.
        white_matter: As given or segmented, bool ``[i, j, k]``, or ``None``.
        warnings: What was found in them that the user should know.
    """

    volumes: tuple[Volume, ...]
    lesion_mask: np.ndarray
    outside_head: np.ndarray
    white_matter: np.ndarray | None
    warnings: tuple[str, ...]


def fill_files(
    artifact: Artifact,
    patient: PatientFiles,
    outputs: Sequence[Path],
    settings: FillSettings,
    *,
    overwrite: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> FillReport:
    """Fill the lesions of one patient.

    All files of a result appear together at the end, or none does.

    Args:
        artifact: The trained model.
        patient: The files.
        outputs: Where each filled image goes, with a ``.json`` and a ``.png`` beside it, and for several samples their
            standard deviation as ``-sd.nii.gz``, in the image's units.
        settings: What is filled, and how.
        overwrite: Replace files that this program did not make.
        command: Words of the command, recorded in the sidecar without folders.
        progress: Called with (network calls done, network calls in all).

    Raises:
        DataError: An image or mask cannot be used, they do not belong together, or a result would replace a file that
            this program did not make; then nothing is written.
        UnknownNameError: The method cannot fill.
    """
    options = fill_options(artifact, settings)
    contrasts = artifact.config.data.contrasts
    if len(patient.images) != len(contrasts) or len(outputs) != len(patient.images):
        raise DataError(
            f"This model fills {', '.join(contrasts)} together: give {len(contrasts)} --image and as many --out, "
            f"in that order; got {len(patient.images)} and {len(outputs)}."
        )
    results = [ResultFiles(output) for output in outputs]
    check_results(results, list(patient.by_role(contrasts).values()), overwrite=overwrite)
    if settings.samples > 1:
        options.check_spread(artifact.config)

    case = read_case(patient)
    mask, warning = choose_mask(case, settings)
    filled = fill_on_grid(artifact, case, mask.whole, options, settings, progress)
    sidecar = {
        "Format": SIDECAR_FORMAT,
        **provenance(artifact, settings.runtime, options, description=_DESCRIPTION, command=command),
        **settings_record(artifact, patient, settings, options),
        "Seed": options.seed,
        "Warnings": [*case.warnings, *warning],
    }
    return write_results(results, case.volumes, filled, mask, sidecar)


def fill_options(artifact: Artifact, settings: FillSettings) -> FillOptions:
    """Return the method's filling options, validated.

    Raises:
        UnknownNameError: The method cannot fill.
        ConfigError: An option is unknown or out of range.
    """
    task = artifact.method.task("fill")
    return validate(resolve(task.options), settings.options, what=f"zoo fill with {artifact.method.name}")


def settings_record(
    artifact: Artifact, patient: PatientFiles, settings: FillSettings, options: FillOptions
) -> dict[str, Any]:
    """Return all that decides a result, as the sidecar holds it; the same record means the same result.

    Args:
        artifact: The model.
        patient: The files; they are hashed.
        settings: What is filled, and how.
        options: Of `fill_options`.
    """
    files = patient.by_role(artifact.config.data.contrasts)
    return {
        **identity(artifact, settings.runtime, options),
        "Scaling": artifact.config.data.scaling,
        "Inputs": [{"Role": role, "File": path.name, "SHA256": sha256(path)} for role, path in files.items()],
        "Samples": settings.samples,
        "LesionLabels": list(patient.lesion_labels),
        "LesionsSelected": list(settings.select),
        "LesionsKept": list(settings.keep),
        "SameSpace": patient.same_space,
        "Dilation": settings.dilate,
        "WhiteMatter": "given" if "white-matter" in files else "segmentation" if "tissue" in files else "none",
        "WhiteMatterLabels": list(patient.white_matter_labels),
    }


def read_case(patient: PatientFiles) -> Case:
    """Read the images and masks of one patient, and refuse what does not belong together.

    Raises:
        DataError: A file cannot be used, cannot show a head, lies on another grid or in another space, or the lesion
            mask covers most of the head.
    """
    volumes = read_images(patient.images)
    lesions = read_mask(patient.lesions, volumes, patient.lesion_labels)
    masks = [lesions]
    if patient.white_matter is not None:
        masks.append(read_mask(patient.white_matter, volumes, (), patient.white_matter_labels))
    overridden = check_belonging(volumes, masks, same_space=patient.same_space)
    warnings = [warning for mask in masks for warning in mask.warnings]

    mask, image = lesions.voxels, volumes[0].data[0]
    if not mask.any():
        warnings.append("the lesion mask is empty; the image is returned unchanged")
    elif mask[image > image.mean()].mean() > 0.5:
        raise DataError(
            f"The lesion mask covers {mask.mean():.0%} of the image and most of the head; nothing would be left "
            "to fill from. Is it a brain mask, or inverted?"
        )
    if len(masks) == 2 and not masks[1].voxels.any():
        warnings.append("the white-matter mask is empty; dilation adds nothing")
    warnings += overridden
    air = outside_head(mask, image, volumes[0].spacing_mm)
    if air.any():
        warnings.append(
            f"{air.sum()} of the {mask.sum()} voxels of the lesion mask lie in the air outside the head and are "
            "left as they are; is it the mask of this image?"
        )
    return Case(volumes, mask, air, masks[1].voxels if len(masks) == 2 else None, tuple(warnings))


def choose_mask(case: Case, settings: FillSettings) -> tuple[FillMask, list[str]]:
    """Return the voxels to fill, and a warning if no rim can be added.

    Args:
        case: The patient.
        settings: Which lesions are filled, and how far the mask grows.

    Raises:
        DataError: Lesions are both selected and kept, or have a number that the mask does not have.
    """
    drawn = _chosen(case, settings)
    mask, tissue = drawn & ~case.outside_head, case.white_matter
    if not (mask.any() and settings.dilate):
        return FillMask(drawn, mask), []
    if tissue is None:
        return FillMask(drawn, mask), [
            "white matter is not known, so no rim is added around the lesions; give --wm FILE to add one, or "
            "--dilate 0 if none is wanted"
        ]
    # The rim may grow into a lesion that is filled, but not into one that is kept.
    return FillMask(drawn, dilate_within(mask, tissue & (drawn | ~case.lesion_mask), settings.dilate)), []


def _chosen(case: Case, settings: FillSettings) -> np.ndarray:
    """Return the lesions that are to be filled."""
    if not settings.select and not settings.keep:
        return case.lesion_mask
    if settings.select and settings.keep:
        raise DataError("Give either the lesions to fill (--select) or those to keep (--keep), not both.")
    numbered, lesions = number_lesions(case.lesion_mask, case.volumes[0].affine)
    if settings.keep:
        return case.lesion_mask & ~choose_lesions(numbered, lesions, settings.keep)
    return choose_lesions(numbered, lesions, settings.select)


def fill_on_grid(
    artifact: Artifact,
    case: Case,
    mask: np.ndarray,
    options: FillOptions,
    settings: FillSettings,
    progress: Progress | None,
) -> Fill:
    """Fill on the model's grid and bring the result back: the mean of the samples and their standard deviation.

    The volumes of a 4D image are filled one by one. An empty mask leaves the images as they are.

    Args:
        artifact: The model.
        case: The patient.
        mask: Voxels to fill, bool ``[i, j, k]`` on the images' own grid.
        options: Of the method.
        settings: How many samples, and what runs the network.
        progress: Called with (network calls done, network calls in all).

    Raises:
        DataError: The image would be too large on the model's grid, or its intensities cannot be scaled.
    """
    samples, volumes = settings.samples, case.volumes
    if not mask.any():
        return Fill([volume.data for volume in volumes], [])
    run = partial(resolve(artifact.method.task("fill").run), artifact.parts(settings.runtime), artifact.config)
    grid = grid_for(volumes[0], artifact.config.data)
    tissue = None
    if case.white_matter is not None:
        on_grid = to_grid(case.white_matter.astype(np.float32), volumes[0].affine, grid, order=0)
        tissue = torch.from_numpy(on_grid > 0.5)
    # Fill partly covered model voxels too, so no rim remains; on the image's own grid only the mask is written.
    model_mask = to_grid(mask.astype(np.float32), volumes[0].affine, grid, order=1) > 1e-3
    filled = [volume.data.copy() for volume in volumes]
    deviations = [np.zeros_like(volume.data) for volume in volumes] if samples > 1 else []
    frames = len(volumes[0].data)
    for frame in range(frames):
        image = ModelImage.encode(volumes, frame, grid, artifact.config.data)
        drawn = np.empty((samples, len(volumes), int(mask.sum())), np.float32)
        for number, seed in enumerate(sample_seeds(options.seed, samples)):
            result = run(
                image.tensor,
                torch.from_numpy(model_mask),
                options.model_copy(update={"seed": seed}),
                partial(_report, progress, frame * samples + number, frames * samples) if progress else None,
                white_matter=tissue,
            )
            for channel, values in enumerate(image.decode(result, model_mask)):
                drawn[number, channel] = values[mask]
        for channel in range(len(volumes)):
            filled[channel][frame][mask] = drawn[:, channel].mean(axis=0)
            if samples > 1:
                deviations[channel][frame][mask] = drawn[:, channel].std(axis=0, ddof=1)
    return Fill(filled, deviations)


def sample_seeds(seed: int, samples: int) -> list[int]:
    """Return the seed of each sample; the first is ``seed``, so one sample is the same alone and among several."""
    return [seed, *(seed_for(seed, number) for number in range(1, samples))]


def _report(progress: Progress, before: int, fills: int, done: int, total: int) -> None:
    progress(before * total + done, fills * total)
