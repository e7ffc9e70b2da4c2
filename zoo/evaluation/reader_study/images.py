"""The images of a reader study: found in folders, and drawn alike, whether real or generated."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from zoo.errors import DataError
from zoo.imaging.volume import check_same_grid, read_mask, read_volume

SYNTHETIC_MASK, LESION_MASK = "desc-synthetic_mask", "label-lesion_mask"
"""Names of masks beside the contrasts of an image: its synthetic lesion, and all its lesions."""

_AFTER = re.compile(r"ce-post(\d+)_T1w")
_BEFORE = "T1w"
_SUBTRACTION = "sub"
"""Channel that models of a dynamic series generate; the subtractions that are shown are computed from the series."""
_PERCENTILES = (0.1, 99.9)
_ENHANCEMENT = 0.1
"""Least white of subtractions, as a share of the range of the series: noise alone is not stretched over all greys."""


@dataclass(frozen=True)
class StudyImage:
    """An image that may be shown.

    Attributes:
        source: ``"real"`` or the name of a set of generated images.
        name: What its files start with, ``sample-0001``.
        contrasts: File of each contrast.
        masks: File of each mask, by `SYNTHETIC_MASK` and `LESION_MASK`.
        class_name: ``"Class"`` in the JSON beside the image; empty without one.
    """

    source: str
    name: str
    contrasts: Mapping[str, Path]
    masks: Mapping[str, Path]
    class_name: str

    def digest(self) -> str:
        """Return the SHA-256 of the voxels of the first contrast: images with the same one are the same image."""
        return hashlib.sha256(np.ascontiguousarray(read_volume(self._first).data).tobytes()).hexdigest()

    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the distances of slices, rows and columns as drawn."""
        volume = read_volume(self._first)
        axes = io_orientation(volume.affine)[:, 0].argsort()
        i, j, k = (volume.spacing_mm[axis] for axis in axes)
        return k, j, i

    def read(self) -> dict[str, np.ndarray]:
        """Return the values of each contrast, float32 ``[slices, rows, columns]``: front on top, left on the left.

        Raises:
            DataError: A file cannot be read, has several volumes, or another grid than the first contrast.
        """
        first = read_volume(self._first)
        volumes = {name: read_volume(path) for name, path in self.contrasts.items()}
        for volume in volumes.values():
            check_same_grid(volume, first)
        return {name: _as_drawn(volume.data[0], volume.affine) for name, volume in volumes.items()}

    def read_mask(self, name: str) -> np.ndarray:
        """Return a mask, bool ``[slices, rows, columns]``.

        Raises:
            DataError: The file is missing, cannot be read as a mask, or has another grid than the image.
        """
        if name not in self.masks:
            folder = self._first.parent
            raise DataError(
                f"{folder} lacks {self.name}_{name}.nii.gz, the place of the synthetic lesion in {self.name}."
            )
        image = read_volume(self._first)
        return _as_drawn(read_mask(self.masks[name], image), image.affine)

    @property
    def _first(self) -> Path:
        return next(iter(self.contrasts.values()))


def find_images(folder: Path, source: str, *, synthetic: bool, classes: bool) -> list[StudyImage]:
    """Find the images in a folder: ``NAME_CONTRAST.nii.gz``, where NAME has no underscore.

    Args:
        folder: As written by ``zoo sample`` or ``zoo data examples``, or any folder with such names.
        source: ``"real"`` or the name of the set.
        synthetic: Whether they are expected to be generated; the JSON beside an image may contradict.
        classes: Whether each image needs a class.

    Raises:
        DataError: There is no such folder or no image in it, a name has no contrast, an image lacks its class, or a
            JSON file says that the images are real where generated ones are expected, or the other way round.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    found: dict[str, dict[str, Path]] = {}
    for path in sorted([*folder.glob("[!.]*.nii.gz"), *folder.glob("[!.]*.nii")]):
        name, _, contrast = path.name.removesuffix(".gz").removesuffix(".nii").partition("_")
        if not name or not contrast:
            raise DataError(f"{path} names no contrast; images of a reader study are named NAME_CONTRAST.nii.gz.")
        found.setdefault(name, {})[contrast] = path
    images = []
    for name, files in found.items():
        contrasts = {contrast: path for contrast, path in files.items() if not contrast.endswith("_mask")}
        masks = {contrast: path for contrast, path in files.items() if contrast in (SYNTHETIC_MASK, LESION_MASK)}
        if contrasts:
            about = _sidecar(next(iter(contrasts.values())), synthetic=synthetic)
            class_name = about.get("Class") if classes else ""
            if not isinstance(class_name, str) or (classes and not class_name):
                raise DataError(
                    f'{folder / name}: the JSON beside the image has no "Class". Leave out --classes, or make the '
                    "images with a method that has classes (zoo sample, zoo data examples)."
                )
            images.append(StudyImage(source, name, contrasts, masks, class_name))
    if not images:
        raise DataError(f"{folder} holds no image; a reader study shows files that are named NAME_CONTRAST.nii.gz.")
    return images


def _sidecar(image: Path, *, synthetic: bool) -> dict[str, Any]:
    """Return what the JSON beside an image says; an empty dictionary where there is none.

    Raises:
        DataError: It is no JSON object, or says that a generated image is real, or vice versa.
    """
    path = image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    if not path.exists():
        return {}
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(about, dict):
        raise DataError(f"{path} holds no JSON object.")
    if about.get("Synthetic", synthetic) is not synthetic:
        kinds = ("generated", "real") if synthetic else ("real", "generated")
        raise DataError(
            f"{image.parent} is given as a folder of {kinds[0]} images, but {path.name} says that its image is "
            f"{kinds[1]}; correct --real and --fake."
        )
    return about


def _as_drawn(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn voxels ``[i, j, k]`` to ``[slices, rows, columns]``: from bottom to top, front to back, left to right."""
    upright = apply_orientation(values, io_orientation(affine))
    return np.ascontiguousarray(upright.transpose(2, 1, 0)[:, ::-1])


@dataclass(frozen=True)
class Panel:
    """One picture of a case.

    Attributes:
        title: What stands above it.
        group: Panels of a group share their scale and their window.
        contrast: What is shown.
        minus: Contrast that is subtracted; empty for none.
        place: Row and column, where the panels have an order of their own.
    """

    title: str
    group: str
    contrast: str
    minus: str = ""
    place: tuple[int, int] | None = None


def panels_of(contrasts: Sequence[str], *, narrow: bool = False) -> list[Panel]:
    """Return how the contrasts are laid out.

    A dynamic series (``T1w`` and ``ce-post1_T1w``, ``ce-post2_T1w`` …) is shown as in Figures 4 and 5 of Haarburger
    et al.: the series in the top row, the other contrasts right of it, and below each image after contrast agent its
    subtraction, after - before. A channel ``sub`` is left out then. Other contrasts are shown one by one.

    Args:
        contrasts: Names of the contrasts of an image.
        narrow: For half a page: the images after contrast agent have a row of their own.
    """
    after = sorted((name for name in contrasts if _AFTER.fullmatch(name)), key=lambda name: int(name[7:-4]))
    if _BEFORE not in contrasts or not after:
        return [Panel(name, name, name) for name in contrasts]
    others = [name for name in contrasts if name not in (_BEFORE, _SUBTRACTION, *after)]
    first_after = (1, 0) if narrow else (0, 1)
    series = [Panel("T1w before", "T1w", _BEFORE, place=(0, 0))]
    below = []
    for k, name in enumerate(after):
        row, column = first_after[0], first_after[1] + k
        series.append(Panel(f"after {k + 1}", "T1w", name, place=(row, column)))
        below.append(Panel(f"after {k + 1} − before", "subtraction", name, _BEFORE, place=(row + 1, column)))
    start = 1 if narrow else len(series)
    beside = [Panel(name, name, name, place=(0, start + k)) for k, name in enumerate(others)]
    return [*series, *beside, *below]


def draw(values: Mapping[str, np.ndarray], panels: Sequence[Panel]) -> np.ndarray:
    """Return grey values 0 to 255, uint8 ``[panels, slices, rows, columns]``.

    Real and generated images go the same way, so that neither units nor the number of grey levels tell them apart: the
    0.1st percentile of all panels of a group becomes 0, and the 99.9th becomes 255. Of subtractions 0 becomes a
    quarter of the grey scale.

    Args:
        values: By contrast, ``[slices, rows, columns]``.
        panels: Of `panels_of`.
    """
    shown = [values[panel.contrast] - (values[panel.minus] if panel.minus else 0) for panel in panels]
    grey = np.empty((len(panels), *shown[0].shape), np.uint8)
    ranges: dict[str, float] = {}
    for group in dict.fromkeys(panel.group for panel in panels):
        members = [index for index, panel in enumerate(panels) if panel.group == group]
        together = np.stack([shown[index] for index in members])
        if minus := panels[members[0]].minus:
            series = next(panel.group for panel in panels if panel.contrast == minus)
            white = max(np.percentile(np.abs(together), _PERCENTILES[1]), _ENHANCEMENT * ranges[series])
            black = -white / 3
        else:
            black, white = np.percentile(together, _PERCENTILES)
        ranges[group] = white - black
        grey[members] = np.clip(np.rint((together - black) / ((white - black) or 1.0) * 255), 0, 255)
    return grey
