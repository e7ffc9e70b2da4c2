"""Patient files for any verb: read and checked against each other, brought to the model's grid, and brought back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.config import DataConfig
from zoo.errors import DataError
from zoo.imaging.geometry import Grid, model_grid, to_grid, to_native
from zoo.imaging.preprocessing import Intensity, scale_intensity
from zoo.imaging.spaces import contradictions, unsettled
from zoo.imaging.volume import MAX_VOXELS, Volume, check_field_of_view, check_same_grid, mask_of, read_volume

# --- Reading, and refusing what does not belong together. ---


def read_images(paths: Sequence[Path]) -> tuple[Volume, ...]:
    """Read the images of one patient, one per contrast.

    Raises:
        DataError: An image cannot be used, cannot show a head, or lies on another grid than the first.
    """
    volumes = tuple(read_volume(path) for path in paths)
    first = volumes[0]
    for volume in volumes:
        check_field_of_view(volume)
        if volume.data.shape != first.data.shape or not np.allclose(volume.affine, first.affine, atol=1e-3):
            raise DataError(
                f"{volume.path.name} and {first.path.name} lie on different grids; resample one onto the other."
            )
    return volumes


@dataclass(frozen=True)
class MaskFile:
    """A mask that was read for some images.

    Attributes:
        voxels: bool ``[i, j, k]`` on their grid.
        doubts: Why it may belong to another scan or space, by names and headers.
        warnings: What the user should know about it.
    """

    voxels: np.ndarray
    doubts: tuple[str, ...]
    warnings: tuple[str, ...]


def read_mask(
    path: Path, images: Sequence[Volume], labels: Sequence[int] = (), segmentation_labels: Sequence[int] = ()
) -> MaskFile:
    """Read a mask of images that lie on one grid.

    Args:
        path: The mask.
        images: One per contrast.
        labels: Values that are the mask, where the file holds several.
        segmentation_labels: Labels of the mask, where the file is a segmentation, which may lie on another grid.

    Raises:
        DataError: The file is no mask, or lies on another grid.
    """
    first, volume = images[0], read_volume(path)
    if segmentation_labels:
        volume = _labelled(volume, first, segmentation_labels)
    check_same_grid(volume, first)
    # A mask drawn on one of the contrasts is right for all.
    doubts = min((contradictions(image, volume) for image in images), key=len)
    voxels, note = mask_of(volume, labels)
    return MaskFile(voxels, tuple(doubts), tuple(text for text in (note, unsettled(first, volume)) if text))


def _labelled(segmentation: Volume, image: Volume, labels: Sequence[int]) -> Volume:
    """Return where a segmentation has certain labels, as a mask on the image's grid."""
    grid = Grid(image.shape, image.affine)
    on_grid = to_grid(segmentation.data[0], segmentation.affine, grid, order=0).round()
    mask = np.isin(on_grid, labels).astype(np.float32)[None]
    return replace(segmentation, data=mask, affine=image.affine)


def check_belonging(images: Sequence[Volume], masks: Sequence[MaskFile], *, same_space: bool) -> list[str]:
    """Refuse files that do not belong together by their names and headers.

    Args:
        images: One per contrast.
        masks: Masks of these images.
        same_space: Take them as belonging together all the same.

    Returns:
        A warning for each contradiction that ``same_space`` overrides.

    Raises:
        DataError: There are contradictions and ``same_space`` is false.
    """
    doubts = [doubt for image in images[1:] for doubt in contradictions(images[0], image, contrasts=True)]
    doubts += [doubt for mask in masks for doubt in mask.doubts]
    if doubts and not same_space:
        raise DataError(f"{'; '.join(doubts)}. Give the files that belong together; if these do: --same-space.")
    return [f"--same-space was given, although {doubt}" for doubt in doubts]


# --- To the model's grid and back. ---


def grid_for(image: Volume, data: DataConfig) -> Grid:
    """Return the grid on which a model sees an image.

    Raises:
        DataError: The image would have more than `MAX_VOXELS` voxels on it.
    """
    grid = model_grid(image.shape, image.affine, data.spacing_mm, data.matrix)
    voxels = math.prod(grid.shape)
    if voxels > MAX_VOXELS:
        size = " × ".join(f"{side:g}" for side in grid.spacing_mm)
        raise DataError(
            f"{image.path.name} would have {voxels:,} voxels on the model's grid of {size} mm; more than "
            f"{MAX_VOXELS:,} are refused. Crop the image to the head."
        )
    return grid


@dataclass(frozen=True)
class ModelImage:
    """One patient's image on the model's grid, in the network's units, with the way back.

    Attributes:
        tensor: float32 ``[C, i, j, k]`` in [-1, 1], one channel per contrast.
        channels: The same in the files' units, one ``[i, j, k]`` per contrast.
        intensities: How each contrast was scaled.
        grid: The model's grid.
        native: The images' own grid.
    """

    tensor: Tensor
    channels: tuple[np.ndarray, ...]
    intensities: tuple[Intensity, ...]
    grid: Grid
    native: Grid

    @classmethod
    def encode(cls, volumes: Sequence[Volume], frame: int, grid: Grid, data: DataConfig) -> ModelImage:
        """Bring one volume of each contrast to the model's grid and units.

        Args:
            volumes: One per contrast, on one grid.
            frame: Which volume of a 4D image.
            grid: Of `grid_for`.
            data: Settings of the model's images.

        Raises:
            DataError: A volume is empty or has negative intensities, or a channel is made of other images.
        """
        if set(data.inputs) != set(data.contrasts):
            raise DataError(
                f"The model's channels {', '.join(data.contrasts)} are made of {', '.join(data.inputs)}; a result of "
                "such a channel cannot be written onto an image."
            )
        channels = tuple(to_grid(volume.data[frame], volume.affine, grid) for volume in volumes)
        given = dict(zip(data.contrasts, channels, strict=True))
        intensities = tuple(scale_intensity(contrast, given, grid.spacing_mm, data)[1] for contrast in data.contrasts)
        encoded = [scale.encode(values) for scale, values in zip(intensities, channels, strict=True)]
        native = Grid(volumes[0].shape, volumes[0].affine)
        return cls(torch.from_numpy(np.stack(encoded)), channels, intensities, grid, native)

    def decode(self, result: Tensor, changed: np.ndarray) -> Iterator[np.ndarray]:
        """Yield each contrast of a network's image on the images' own grid, ``[i, j, k]`` in the files' units.

        Args:
            result: ``[C, i, j, k]`` in [-1, 1] on the model's grid.
            changed: bool ``[i, j, k]`` on the model's grid; elsewhere the files' own values are taken. They were
                clamped for the network, and interpolation at the border needs them unclamped.
        """
        for values, scale, known in zip(result, self.intensities, self.channels, strict=True):
            whole = np.where(changed, scale.decode(values.numpy()), known)
            yield to_native(whole, self.grid, self.native.shape, self.native.affine)
