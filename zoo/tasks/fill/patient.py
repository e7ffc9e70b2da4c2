"""Filling files: how a patient's images get to a filler and back to their own grid.

No voxel outside the mask changes, but for the rim that dilation adds; all others keep their stored bits.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.config import MethodConfig, validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.imaging.geometry import Grid, model_grid, to_grid, to_native
from zoo.imaging.head import outside_head
from zoo.imaging.masks import choose_lesions, dilate_within, number_lesions
from zoo.imaging.preprocessing import scale_intensity
from zoo.imaging.spaces import contradictions, unsettled
from zoo.imaging.volume import (
    MAX_VOXELS,
    Volume,
    changed_voxels,
    check_field_of_view,
    check_same_grid,
    mask_of,
    read_volume,
    write_filled,
    write_map,
)
from zoo.models.artifact import Artifact
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.system.files import replacing, sha256
from zoo.tasks.fill.results import FillCounts, ResultFiles, check_results, dataset_of, read_object

SIDECAR_FORMAT = 2
"""Of the JSON beside a filled image. 1 (version 0.1.0) counted the voxels that dilation adds as part of the mask."""


@dataclass(frozen=True)
class FillReport:
    """What filling did.

    Attributes:
        outputs: Written images.
        counts: Voxels drawn, added by dilation, and outside both, and how many of each have changed.
        warnings: What the user should know.
        sidecar: What stands in the JSON beside the first image.
        replaced: Earlier results among ``outputs`` that gave way.
    """

    outputs: tuple[Path, ...]
    counts: FillCounts
    warnings: tuple[str, ...]
    sidecar: dict[str, Any] = field(default_factory=dict)
    replaced: tuple[Path, ...] = ()

    @property
    def changed_inside(self) -> int:
        """Voxels changed of those that were drawn or added."""
        return self.counts.drawn_changed + self.counts.added_changed

    @property
    def changed_outside(self) -> int:
        """Voxels changed of all others: 0."""
        return self.counts.outside_changed


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
    images: Sequence[Path],
    lesions: Path,
    outputs: Sequence[Path],
    *,
    options: Mapping[str, Any],
    dilate: int = 1,
    white_matter: Path | None = None,
    white_matter_labels: Sequence[int] = (),
    lesion_labels: Sequence[int] = (),
    select: Sequence[int] = (),
    keep: Sequence[int] = (),
    samples: int = 1,
    same_space: bool = False,
    overwrite: bool = False,
    backend: str = "torch",
    precision: str = "fp32",
    device: str = "cpu",
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> FillReport:
    """Fill the lesions of one patient.

    All files of a result appear together at the end, or none does.

    Args:
        artifact: The trained model.
        images: One NIfTI a contrast, in the order of the model's contrasts, on one grid.
        lesions: Mask on the same grid.
        outputs: Where each filled image goes, with a ``.json`` and a ``.png`` beside it, and for several samples
            their standard deviation as ``-sd.nii.gz``, in the image's units.
        options: Of the method's filling options.
        dilate: Voxels the mask grows into white matter, where that is known; without it nothing is added.
        white_matter: Mask of white matter on the same grid, or a segmentation.
        white_matter_labels: Labels of white matter, where ``white_matter`` is a segmentation.
        lesion_labels: Values of the mask that are lesions, where it has several.
        select, keep: Numbers of the lesions to fill, or to leave as they are (`number_lesions`); neither fills all.
        samples: Draws that are averaged.
        same_space: Take the files as belonging together where their names or headers deny it.
        overwrite: Replace files that this program did not make.
        backend, precision, device: What runs the network, in which arithmetic, and where.
        command: Its words, recorded in the sidecar without folders.
        progress: Called with (network calls done, network calls in all).

    Raises:
        DataError: An image or mask cannot be used, they do not belong together, or a result would replace a file that
            is not this program's; nothing is written then.
        UnknownNameError: The method cannot fill.
    """
    task = artifact.method.task("fill")
    checked = validate(resolve(task.options), options, what=f"zoo fill with {artifact.method.name}")
    contrasts = artifact.config.data.contrasts
    if set(artifact.config.data.inputs) != set(contrasts):
        raise DataError(
            f"This model's channels {', '.join(contrasts)} are made of other images; only images can be filled."
        )
    if len(images) != len(contrasts) or len(outputs) != len(images):
        raise DataError(
            f"This model fills {', '.join(contrasts)} together: give {len(contrasts)} --image and as many --out, "
            f"in that order; got {len(images)} and {len(outputs)}."
        )
    inputs = dict(zip(contrasts, images, strict=True)) | {"lesion-mask": lesions}
    if white_matter is not None:
        inputs["tissue" if white_matter_labels else "white-matter"] = white_matter
    results = [ResultFiles(output) for output in outputs]
    check_results(results, list(inputs.values()), overwrite=overwrite)

    if samples > 1:
        checked.check_spread(artifact.config)
    case = read_case(
        images, lesions, white_matter, white_matter_labels=white_matter_labels, lesion_labels=lesion_labels,
        same_space=same_space,
    )  # fmt: skip
    warnings = list(case.warnings)
    drawn = _chosen(case.lesion_mask, case.volumes[0].affine, select, keep)
    mask, tissue = drawn & ~case.outside_head, case.white_matter
    if mask.any() and dilate:
        if tissue is None:
            warnings.append(
                "white matter is not known, so no rim is added around the lesions; give --wm FILE to add one, or "
                "--dilate 0 if none is wanted"
            )
        else:
            mask = dilate_within(mask, tissue & (drawn | ~case.lesion_mask), dilate)

    filled = [volume.data for volume in case.volumes]
    spread: list[np.ndarray] = []
    if mask.any():
        run = partial(resolve(task.run), artifact.parts(backend, device, precision), artifact.config)
        filled, spread = _fill_volumes(run, artifact.config, case.volumes, mask, tissue, checked, samples, progress)
    sidecar = {
        "Format": SIDECAR_FORMAT,
        "Synthetic": True,
        "Description": "Lesions filled with generated healthy tissue. Research use only, not for diagnosis.",
        **settings_record(
            artifact, inputs, options=checked.model_dump(mode="json"), dilate=dilate,
            white_matter_labels=white_matter_labels, lesion_labels=lesion_labels, select=select, keep=keep,
            samples=samples, same_space=same_space, backend=backend, precision=precision,
        ),
        "Seed": checked.seed,
        "Command": _without_folders(command),
        "Warnings": warnings,
    }  # fmt: skip
    return write_results(results, case.volumes, filled, spread if samples > 1 else [], drawn, mask, sidecar)


def settings_record(
    artifact: Artifact,
    inputs: Mapping[str, Path],
    *,
    options: Mapping[str, Any],
    dilate: int,
    samples: int,
    backend: str,
    precision: str,
    white_matter_labels: Sequence[int] = (),
    lesion_labels: Sequence[int] = (),
    select: Sequence[int] = (),
    keep: Sequence[int] = (),
    same_space: bool = False,
) -> dict[str, Any]:
    """Return all that decides a result, as it stands in the sidecar; the same record means the same result.

    Args:
        artifact: The model.
        inputs: Path by contrast or role, in order.
        options: All of the method's filling options.
        dilate, samples, backend, precision, white_matter_labels, lesion_labels, select, keep, same_space: As in
            `fill_files`.
    """
    return {
        "Method": artifact.method.name,
        "ModelSHA256": artifact.sha256,
        "Scaling": artifact.config.data.scaling,
        "Inputs": [{"Role": role, "File": path.name, "SHA256": sha256(path)} for role, path in inputs.items()],
        "Samples": samples,
        "LesionLabels": list(lesion_labels),
        "LesionsSelected": list(select),
        "LesionsKept": list(keep),
        "SameSpace": same_space,
        "Options": dict(options),
        "Backend": backend,
        "Precision": precision,
        "Dilation": dilate,
        "WhiteMatter": "given" if "white-matter" in inputs else "segmentation" if "tissue" in inputs else "none",
        "WhiteMatterLabels": list(white_matter_labels),
    }


def read_case(
    images: Sequence[Path],
    lesions: Path,
    white_matter: Path | None = None,
    *,
    white_matter_labels: Sequence[int] = (),
    lesion_labels: Sequence[int] = (),
    same_space: bool = False,
) -> Case:
    """Read the images and masks of one patient, and refuse what does not belong together.

    Args:
        images: One per contrast.
        lesions, white_matter, white_matter_labels, lesion_labels, same_space: As in `fill_files`.

    Raises:
        DataError: A file cannot be used, cannot show a head, lies on another grid or in another space, or the lesion
            mask covers most of the head.
    """
    volumes = tuple(read_volume(path) for path in images)
    first = volumes[0]
    doubts: list[str] = []
    warnings: list[str] = []
    for volume in volumes:
        check_field_of_view(volume)
        if volume.data.shape != first.data.shape or not np.allclose(volume.affine, first.affine, atol=1e-3):
            raise DataError(
                f"{volume.path.name} and {first.path.name} lie on different grids; resample one onto the other."
            )
    for volume in volumes[1:]:
        doubts += contradictions(first, volume, contrasts=True)
    masks: list[np.ndarray] = []
    for path, labels in ((lesions, lesion_labels), (white_matter, ())):
        if path is None:
            continue
        volume = read_volume(path)
        if path == white_matter and white_matter_labels:
            volume = _white_matter_of(volume, first, white_matter_labels)
        check_same_grid(volume, first)
        found = [contradictions(image, volume) for image in volumes]
        fewest = min(found, key=len)  # a mask drawn on one of the contrasts is right for all
        doubts += fewest
        mask, note = mask_of(volume, labels)
        masks.append(mask)
        warnings += [text for text in (note, unsettled(first, volume)) if text]
    if doubts and not same_space:
        raise DataError(f"{'; '.join(doubts)}. Give the files that belong together; if these do: --same-space.")
    lesion_mask = masks[0]
    image = first.data[0]
    if not lesion_mask.any():
        warnings.append("the lesion mask is empty; the image is returned unchanged")
    elif lesion_mask[image > image.mean()].mean() > 0.5:
        raise DataError(
            f"The lesion mask covers {lesion_mask.mean():.0%} of the image and most of the head; nothing would be left "
            "to fill from. Is it a brain mask, or inverted?"
        )
    if len(masks) == 2 and not masks[1].any():
        warnings.append("the white-matter mask is empty; dilation adds nothing")
    warnings += [f"--same-space was given, although {doubt}" for doubt in doubts]
    air = outside_head(lesion_mask, image, first.spacing_mm)
    if air.any():
        warnings.append(
            f"{air.sum()} of the {lesion_mask.sum()} voxels of the lesion mask lie in the air outside the head and are "
            "left as they are; is it the mask of this image?"
        )
    return Case(volumes, lesion_mask, air, masks[1] if len(masks) == 2 else None, tuple(warnings))


def _white_matter_of(segmentation: Volume, image: Volume, labels: Sequence[int]) -> Volume:
    """Return the white matter of a segmentation as a mask on the image's grid."""
    grid = Grid(image.shape, image.affine)
    on_grid = to_grid(segmentation.data[0], segmentation.affine, grid, order=0).round()
    mask = np.isin(on_grid, labels).astype(np.float32)[None]
    return replace(segmentation, data=mask, affine=image.affine)


def write_results(
    results: Sequence[ResultFiles],
    volumes: Sequence[Volume],
    filled: Sequence[np.ndarray],
    spread: Sequence[np.ndarray],
    drawn: np.ndarray,
    mask: np.ndarray,
    sidecar: Mapping[str, Any],
) -> FillReport:
    """Write all files of a fill together, the sidecars last.

    Args:
        results: One per contrast.
        volumes: The inputs.
        filled: New values in the inputs' units, each ``[C, i, j, k]``.
        spread: Standard deviation of several samples, in the same form; empty for one sample.
        drawn: The lesions to fill as the user drew them, bool ``[i, j, k]``.
        mask: These and what dilation added.
        sidecar: What is recorded beside the counts and the hashes of the files.

    Raises:
        ArtifactError: The disk is full or the folder cannot be written; no file is left behind or lost then.
    """
    earlier = [file for files in results for file in files.every() if os.path.lexists(file) and files.made_by_zoo(file)]
    replaced = tuple(files.image for files in results if os.path.lexists(files.image))
    changed = np.zeros(mask.shape, bool)
    written: list[dict[Path, Path]] = []
    with ExitStack() as stack:
        # What is entered first is renamed last: a sidecar without its image would claim a result that is not there.
        sidecars = [stack.enter_context(replacing(files.sidecar)) for files in results]
        for number, (files, volume, values) in enumerate(zip(results, volumes, filled, strict=True)):
            temporary = {files.image: stack.enter_context(replacing(files.image))}
            write_filled(temporary[files.image], volume, values, mask)
            changed |= changed_voxels(volume, read_volume(temporary[files.image]))
            if spread:
                temporary[files.deviation] = stack.enter_context(replacing(files.deviation))
                write_map(temporary[files.deviation], volume, spread[number])
            if drawn.any():
                temporary[files.picture] = stack.enter_context(replacing(files.picture))
                _draw(temporary[files.picture], volume, values, drawn, mask)
            written.append(temporary)
        counts = _count(changed, drawn, mask)
        sidecars_said = [
            {
                **sidecar,
                **counts.to_sidecar(),
                **_bids_fields(volume.path),
                "OutputSHA256": {file.name: sha256(place) for file, place in temporary.items()},
            }
            for volume, temporary in zip(volumes, written, strict=True)
        ]
        for place, said in zip(sidecars, sidecars_said, strict=True):
            place.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    new = {file for files, temporary in zip(results, written, strict=True) for file in (files.sidecar, *temporary)}
    for file in set(earlier) - new:
        file.unlink()  # the map or picture of an earlier fill, which would be taken for this one's
    return FillReport(
        tuple(files.image for files in results), counts, tuple(sidecar["Warnings"]), sidecars_said[0], replaced
    )


def _count(changed: np.ndarray, drawn: np.ndarray, mask: np.ndarray) -> FillCounts:
    added = mask & ~drawn
    return FillCounts(
        drawn=int(drawn.sum()),
        drawn_changed=int((changed & drawn).sum()),
        added=int(added.sum()),
        added_changed=int((changed & added).sum()),
        outside=int((~mask & ~drawn).sum()),
        outside_changed=int((changed & ~mask & ~drawn).sum()),
    )


def _bids_fields(image: Path) -> dict[str, Any]:
    """Return what BIDS wants to know of a derived image: the source by its name, and what is known of that."""
    root = dataset_of(image.absolute())
    source = image.absolute().relative_to(root).as_posix() if root else image.name
    known = read_object(ResultFiles(image).sidecar)
    fields: dict[str, Any] = {"Sources": [source]}
    if isinstance(known.get("SkullStripped"), bool):
        fields["SkullStripped"] = known["SkullStripped"]
    if "_space-" in image.name:
        # The result lies on the source's grid, whichever template that was brought to.
        fields["SpatialReference"] = known.get("SpatialReference", source)
    return fields


def _chosen(lesion_mask: np.ndarray, affine: np.ndarray, select: Sequence[int], keep: Sequence[int]) -> np.ndarray:
    """Return the lesions that are to be filled."""
    if not select and not keep:
        return lesion_mask
    if select and keep:
        raise DataError("Give either the lesions to fill (--select) or those to keep (--keep), not both.")
    numbered, lesions = number_lesions(lesion_mask, affine)
    if keep:
        return lesion_mask & ~choose_lesions(numbered, lesions, keep)
    return choose_lesions(numbered, lesions, select)


def _without_folders(command: Sequence[str]) -> str:
    """Return a command with the names of files but not of folders, which may name people and places."""
    return shlex.join(Path(word).name if "/" in word else word for word in command)


def _fill_volumes(
    run: Callable[..., torch.Tensor],
    config: MethodConfig,
    volumes: Sequence[Volume],
    mask: np.ndarray,
    white_matter: np.ndarray | None,
    options: Any,
    samples: int,
    progress: Progress | None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Fill on the model's grid and bring it back: the mean of the samples and their standard deviation a channel.

    Volumes of a 4D image are filled one by one.
    """
    shape, affine = volumes[0].shape, volumes[0].affine
    grid = model_grid(shape, affine, config.data.spacing_mm)
    if math.prod(grid.shape) > MAX_VOXELS:
        raise DataError(
            f"{volumes[0].path.name} would have {math.prod(grid.shape):,} voxels on the model's grid of "
            f"{'×'.join(f'{size:g}' for size in grid.spacing_mm)} mm; more than {MAX_VOXELS:,} are refused. Crop the image to the head."
        )
    tissue = None
    if white_matter is not None:
        tissue = torch.from_numpy(to_grid(white_matter.astype(np.float32), affine, grid, order=0) > 0.5)
    # A model voxel that a lesion only touches is computed, too, so no rim of the lesion stays; on the image's own grid
    # only the mask is written.
    model_mask = to_grid(mask.astype(np.float32), affine, grid, order=1) > 1e-3
    filled = [volume.data.copy() for volume in volumes]
    spread = [np.zeros_like(volume.data) for volume in volumes]
    frames = len(volumes[0].data)
    for frame in range(frames):
        channels = [to_grid(volume.data[frame], volume.affine, grid) for volume in volumes]
        given = dict(zip(config.data.contrasts, channels, strict=True))
        intensities = [scale_intensity(contrast, given, grid.spacing_mm, config.data)[1] for contrast in given]
        encoded = [scale.encode(values) for scale, values in zip(intensities, channels, strict=True)]
        image = torch.from_numpy(np.stack(encoded))
        drawn = np.empty((samples, len(volumes), int(mask.sum())), np.float32)
        for number, seed in enumerate(sample_seeds(options.seed, samples)):
            before = frame * samples + number
            result = run(
                image,
                torch.from_numpy(model_mask),
                options.model_copy(update={"seed": seed}),
                partial(_report, progress, before, frames * samples) if progress else None,
                white_matter=tissue,
            )
            for channel, scale in enumerate(intensities):
                # Known voxels were clamped when they were scaled; interpolation at the rim must see the true ones.
                values = np.where(model_mask, scale.decode(result[channel].numpy()), channels[channel])
                drawn[number, channel] = to_native(values, grid, shape, affine)[mask]
        for channel in range(len(volumes)):
            filled[channel][frame][mask] = drawn[:, channel].mean(axis=0)
            if samples > 1:
                spread[channel][frame][mask] = drawn[:, channel].std(axis=0, ddof=1)
    return filled, spread


def sample_seeds(seed: int, samples: int) -> list[int]:
    """Return the seed of each sample; the first is ``seed``, so that one sample is what it would be alone."""
    return [seed, *(seed_for(seed, number) for number in range(1, samples))]


def _report(progress: Progress, before: int, fills: int, done: int, total: int) -> None:
    progress(before * total + done, fills * total)


def _draw(path: Path, volume: Volume, filled: np.ndarray, drawn: np.ndarray, mask: np.ndarray) -> None:
    from zoo.report.figures import before_after, picture_grid

    grid = picture_grid(volume)
    before, after = (to_grid(values[0], volume.affine, grid) for values in (volume.data, filled))
    regions = [to_grid(part.astype(np.float32), volume.affine, grid, order=0) > 0.5 for part in (drawn, mask & ~drawn)]
    before_after(path, before, after, regions[0], grid.spacing_mm, "Lesions filled (synthetic tissue)", regions[1])
