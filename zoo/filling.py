"""Filling files: how a patient's images get to a filler and back to their own grid.

Every voxel outside the mask keeps its stored bits.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.artifact import Artifact
from zoo.config import MethodConfig, validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.files import replacing, write_text
from zoo.imaging.geometry import model_grid, to_grid, to_native
from zoo.imaging.masks import dilate_within, estimate_white_matter
from zoo.imaging.preprocessing import fit_intensity
from zoo.imaging.volume import Volume, count_changes, read_mask, read_volume, write_filled
from zoo.tasks import FillTask, Parts, Progress


@dataclass(frozen=True)
class FillReport:
    """What filling did.

    Attributes:
        outputs: Written images.
        mask_voxels: Voxels of the mask after dilation, on the native grid.
        changed_inside, changed_outside: Stored values that differ from the input's; outside is 0.
        warnings: What the user should know.
        sidecar: What stands in the JSON beside the image.
    """

    outputs: tuple[Path, ...]
    mask_voxels: int
    changed_inside: int
    changed_outside: int
    warnings: tuple[str, ...]
    sidecar: dict[str, Any] = field(default_factory=dict)


def fill_files(
    artifact: Artifact,
    images: Sequence[Path],
    lesions: Path,
    outputs: Sequence[Path],
    *,
    options: Mapping[str, Any],
    dilate: int = 1,
    white_matter: Path | None = None,
    backend: str = "torch",
    device: str = "cpu",
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> FillReport:
    """Fill the lesions of one patient.

    Args:
        artifact: The trained model.
        images: One NIfTI a contrast, in the order of the model's contrasts, on one grid.
        lesions: Mask on the same grid.
        outputs: Where each filled image goes, with a ``.json`` and a ``.png`` beside it.
        options: Of the method's filling options.
        dilate: Voxels the mask grows into white matter.
        white_matter: Mask of white matter on the same grid; without it, white matter is estimated from the T1w.
        backend, device: What runs the network, and where.
        command: Its words, recorded in the sidecar without folders.
        progress: Called with (network calls done, network calls in all).

    Raises:
        DataError: An image or mask cannot be used, or the grids differ; nothing is written then.
        UnknownNameError: The method cannot fill.
    """

    task = artifact.method.task("fill")
    checked = validate(resolve(task.options), options, what=f"zoo fill with {artifact.method.name}")
    contrasts = artifact.config.data.contrasts
    if len(images) != len(contrasts) or len(outputs) != len(images):
        raise DataError(
            f"This model fills {', '.join(contrasts)} together: give {len(contrasts)} --image and as many --out, "
            f"in that order; got {len(images)} and {len(outputs)}."
        )
    for output in outputs:
        _check_output(output, [*images, lesions])

    warnings: list[str] = []
    volumes = [read_volume(path) for path in images]
    for path, volume in zip(images[1:], volumes[1:], strict=True):
        if volume.data.shape != volumes[0].data.shape or not np.allclose(volume.affine, volumes[0].affine, atol=1e-3):
            raise DataError(f"{path.name} and {images[0].name} lie on different grids; resample one onto the other.")
    mask = read_mask(lesions, like=volumes[0])
    drawn = int(mask.sum())
    first = volumes[0].data[0]
    if not drawn:
        warnings.append("the lesion mask is empty; the image is returned unchanged")
    elif mask[first > first.mean()].mean() > 0.5:
        raise DataError(
            f"The lesion mask covers {mask.mean():.0%} of the image and most of the head; nothing would be left to "
            "fill from. Is it a brain mask, or inverted?"
        )
    elif dilate:
        if white_matter is not None:
            tissue = read_mask(white_matter, like=volumes[0])
        elif contrasts[0] == "T1w":
            tissue = estimate_white_matter(first, mask)
            warnings.append("no --wm was given; the dilation uses white matter estimated from the image")
        else:
            raise DataError(
                f"Dilation needs white matter, which can be estimated from a T1w but not from {contrasts[0]}; give "
                "--wm FILE or --dilate 0."
            )
        mask = dilate_within(mask, tissue, dilate)

    filled = [volume.data for volume in volumes]
    if drawn:
        run = resolve(task.run)
        parts = artifact.parts(backend, device)
        filled = _fill_volumes(run, parts, artifact.config, volumes, mask, checked, progress)
    counts: list[tuple[int, int]] = []
    for volume, values, output in zip(volumes, filled, outputs, strict=True):
        write_filled(output, volume, values, mask)
        counts.append(count_changes(volume, read_volume(output), mask))
    inside, outside = (sum(count[side] for count in counts) for side in (0, 1))
    sidecar = {
        "Synthetic": True,
        "Description": "Lesions filled with generated healthy tissue. Research use only, not for diagnosis.",
        "Method": artifact.method.name,
        "ModelSHA256": artifact.sha256,
        "Seed": checked.seed,
        "Options": checked.model_dump(mode="json"),
        "Backend": backend,
        "Dilation": dilate,
        "Command": _without_folders(command),
        "LesionVoxels": drawn,
        "MaskVoxels": int(mask.sum()),
        "VoxelsChangedInsideMask": inside,
        "VoxelsChangedOutsideMask": outside,
        "Warnings": warnings,
    }
    for volume, values, output in zip(volumes, filled, outputs, strict=True):
        stem = output.with_name(output.name.removesuffix(".gz").removesuffix(".nii"))
        write_text(Path(f"{stem}.json"), json.dumps(sidecar, indent=2) + "\n")
        if drawn:
            _draw(Path(f"{stem}.png"), volume, values, mask)
    return FillReport(tuple(outputs), int(mask.sum()), inside, outside, tuple(warnings), sidecar)


def _check_output(output: Path, inputs: Sequence[Path]) -> None:
    """Refuse to write onto an input, or into the dataset that an input belongs to, before anything is computed."""
    if not output.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"--out {output} must end in .nii.gz or .nii.")
    target = output.resolve()
    for source in (path.resolve() for path in inputs):
        if target == source:
            raise DataError(f"--out {output} is the input; write the result to another file.")
        root = next((folder for folder in source.parents if (folder / "dataset_description.json").is_file()), None)
        if root and target.is_relative_to(root) and not target.is_relative_to(root / "derivatives"):
            raise DataError(
                f"--out {output} lies inside the dataset of the input; write to {root}/derivatives or outside."
            )


def _without_folders(command: Sequence[str]) -> str:
    """Return a command with the names of files but not of folders, which may name people and places."""
    return shlex.join(Path(word).name if "/" in word else word for word in command)


def _fill_volumes(
    run: FillTask,
    parts: Parts,
    config: MethodConfig,
    volumes: Sequence[Volume],
    mask: np.ndarray,
    options: Any,
    progress: Progress | None,
) -> list[np.ndarray]:
    """Fill each time point on the model's grid and bring it back; volumes of a 4D image are filled one by one."""
    shape, affine = volumes[0].shape, volumes[0].affine
    grid = model_grid(shape, affine, config.data.spacing_mm)
    # A model voxel that a lesion only touches is filled, too: no rim of the lesion stays.
    model_mask = to_grid(mask.astype(np.float32), affine, grid, order=1) > 1e-3
    filled = [volume.data.copy() for volume in volumes]
    frames = len(volumes[0].data)
    for frame in range(frames):
        channels = [to_grid(volume.data[frame], volume.affine, grid) for volume in volumes]
        data = config.data
        intensities = [fit_intensity(values, data.scaling, data.percentile, data.noise_floor) for values in channels]
        encoded = [scale.encode(values) for scale, values in zip(intensities, channels, strict=True)]
        image = torch.from_numpy(np.stack(encoded))
        result = run(
            parts,
            config,
            image,
            torch.from_numpy(model_mask),
            options,
            partial(_report_frame, progress, frame, frames) if progress else None,
        )
        image[:, model_mask] = result[:, model_mask]
        for channel, scale in enumerate(intensities):
            values = scale.decode(image[channel].numpy())
            # Known voxels were clamped when they were scaled; interpolation at the rim must see the true ones.
            values = np.where(model_mask, values, channels[channel])
            native = to_native(values, grid, shape, affine)
            filled[channel][frame][mask] = native[mask]
    return filled


def _report_frame(progress: Progress, frame: int, frames: int, done: int, total: int) -> None:
    progress(frame * total + done, frames * total)


def _draw(path: Path, volume: Volume, filled: np.ndarray, mask: np.ndarray) -> None:
    from zoo.report.figures import before_after

    grid = model_grid(volume.shape, volume.affine, min(volume.spacing_mm))
    before, after = (to_grid(values[0], volume.affine, grid) for values in (volume.data, filled))
    outline = to_grid(mask.astype(np.float32), volume.affine, grid, order=0) > 0.5
    with replacing(path) as temporary:
        before_after(temporary, before, after, outline, grid.spacing_mm, "Lesions filled (synthetic tissue)")
