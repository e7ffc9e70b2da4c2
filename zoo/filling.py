"""Filling files: how a patient's images get to a filler and back to their own grid.

Every voxel outside the mask keeps its stored bits.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
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
from zoo.files import replacing, sha256, write_text
from zoo.imaging.geometry import model_grid, to_grid, to_native
from zoo.imaging.masks import choose_lesions, dilate_within, estimate_white_matter, number_lesions
from zoo.imaging.preprocessing import fit_intensity
from zoo.imaging.volume import Volume, count_changes, read_mask, read_volume, write_filled, write_map
from zoo.sampling import seed_for
from zoo.tasks import Progress

_DARK_WHITE_MATTER = ("T2w", "FLAIR", "PDw", "T2starw")
"""BIDS suffixes of contrasts whose white matter is not the brightest tissue."""


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
    select: Sequence[int] = (),
    keep: Sequence[int] = (),
    samples: int = 1,
    backend: str = "torch",
    precision: str = "fp32",
    device: str = "cpu",
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> FillReport:
    """Fill the lesions of one patient.

    Args:
        artifact: The trained model.
        images: One NIfTI a contrast, in the order of the model's contrasts, on one grid.
        lesions: Mask on the same grid.
        outputs: Where each filled image goes, with a ``.json`` and a ``.png`` beside it, and for several samples
            their standard deviation as ``-sd.nii.gz``, in the image's units.
        options: Of the method's filling options.
        dilate: Voxels the mask grows into white matter.
        white_matter: Mask of white matter on the same grid; without it, white matter is estimated from the T1w.
        select, keep: Numbers of the lesions to fill, or to leave as they are (`number_lesions`); neither fills all.
        samples: Draws that are averaged.
        backend, precision, device: What runs the network, in which arithmetic, and where.
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
    every_lesion = read_mask(lesions, like=volumes[0])
    if samples > 1:
        checked.check_spread(artifact.config)
    mask = _chosen(every_lesion, volumes[0].affine, select, keep)
    drawn = int(mask.sum())
    first = volumes[0].data[0]
    if not drawn:
        warnings.append("the lesion mask is empty; the image is returned unchanged")
    elif mask[first > first.mean()].mean() > 0.5:
        raise DataError(
            f"The lesion mask covers {mask.mean():.0%} of the image and most of the head; nothing would be left to "
            "fill from. Is it a brain mask, or inverted?"
        )
    tissue = read_mask(white_matter, like=volumes[0]) if white_matter is not None else None
    if drawn and dilate:
        if tissue is None:
            tissue = _estimated_white_matter(images[0], contrasts[0], first, every_lesion)
            warnings.append("no --wm was given; the dilation uses white matter estimated from the image")
        mask = dilate_within(mask, tissue & (mask | ~every_lesion), dilate)

    filled = [volume.data for volume in volumes]
    spread: list[np.ndarray] = []
    if drawn:
        run = partial(resolve(task.run), artifact.parts(backend, device, precision), artifact.config)
        filled, spread = _fill_volumes(run, artifact.config, volumes, mask, tissue, checked, samples, progress)
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
        "InputSHA256": {path.name: sha256(path) for path in (*images, lesions, white_matter) if path},
        "Seed": checked.seed,
        "Samples": samples,
        "LesionsSelected": list(select),
        "LesionsKept": list(keep),
        "Options": checked.model_dump(mode="json"),
        "Backend": backend,
        "Precision": precision,
        "Dilation": dilate,
        "Command": _without_folders(command),
        "LesionVoxels": drawn,
        "MaskVoxels": int(mask.sum()),
        "VoxelsChangedInsideMask": inside,
        "VoxelsChangedOutsideMask": outside,
        "Warnings": warnings,
    }
    if samples > 1:
        for volume, deviation, output in zip(volumes, spread, outputs, strict=True):
            write_map(_beside(output, "-sd.nii.gz"), volume, deviation)
    for volume, values, output in zip(volumes, filled, outputs, strict=True):
        if drawn:
            _draw(_beside(output, ".png"), volume, values, mask)
        write_text(sidecar_of(output), json.dumps(sidecar, indent=2) + "\n")
    return FillReport(tuple(outputs), int(mask.sum()), inside, outside, tuple(warnings), sidecar)


def _estimated_white_matter(path: Path, contrast: str, image: np.ndarray, lesion_mask: np.ndarray) -> np.ndarray:
    # The name is all that tells what a method without training is given.
    named = path.name.split(".")[0].rpartition("_")[2]
    other = contrast if contrast != "T1w" else named if named in _DARK_WHITE_MATTER else ""
    if other:
        raise DataError(
            f"Dilation needs white matter, which can be estimated from a T1w but not from {other}; give --wm FILE or "
            "--dilate 0."
        )
    return estimate_white_matter(image, lesion_mask)


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


def sidecar_of(output: Path) -> Path:
    """Return the JSON file beside a filled image; it is written last."""
    return _beside(output, ".json")


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(output.name.removesuffix(".gz").removesuffix(".nii") + ending)


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
    tissue = None
    if white_matter is not None:
        tissue = torch.from_numpy(to_grid(white_matter.astype(np.float32), affine, grid, order=0) > 0.5)
    # A model voxel that a lesion only touches is filled, too: no rim of the lesion stays.
    model_mask = to_grid(mask.astype(np.float32), affine, grid, order=1) > 1e-3
    filled = [volume.data.copy() for volume in volumes]
    spread = [np.zeros_like(volume.data) for volume in volumes]
    frames = len(volumes[0].data)
    for frame in range(frames):
        channels = [to_grid(volume.data[frame], volume.affine, grid) for volume in volumes]
        data = config.data
        intensities = [
            fit_intensity(values, grid.spacing_mm, data.scaling, data.percentile, data.noise_floor)
            for values in channels
        ]
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


def _draw(path: Path, volume: Volume, filled: np.ndarray, mask: np.ndarray) -> None:
    from zoo.report.figures import before_after

    grid = model_grid(volume.shape, volume.affine, min(volume.spacing_mm))
    before, after = (to_grid(values[0], volume.affine, grid) for values in (volume.data, filled))
    outline = to_grid(mask.astype(np.float32), volume.affine, grid, order=0) > 0.5
    with replacing(path) as temporary:
        before_after(temporary, before, after, outline, grid.spacing_mm, "Lesions filled (synthetic tissue)")
