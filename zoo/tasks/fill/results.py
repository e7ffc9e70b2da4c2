"""What a fill writes: images, sidecars and pictures, all of them together, and how many voxels changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataError
from zoo.imaging.geometry import to_grid
from zoo.imaging.volume import Volume, changed_voxels, read_volume, write_filled, write_map
from zoo.system.files import replacing, sha256
from zoo.tasks.results import ResultFiles, bids_fields, check_place

PAGE_MARKER = "The voxels inside the masks are synthetic."
"""Stands at the end of every quality page."""


@dataclass(frozen=True)
class FillMask:
    """The voxels to fill, on the image's own grid.

    Attributes:
        drawn: The lesions to fill as the user drew them, bool ``[i, j, k]``.
        whole: These without voxels outside the head, and the rim that dilation added, bool ``[i, j, k]``.
    """

    drawn: np.ndarray
    whole: np.ndarray

    @property
    def added(self) -> np.ndarray:
        """The rim that dilation added."""
        return self.whole & ~self.drawn


@dataclass(frozen=True)
class FillCounts:
    """Voxels of the image's own grid in three classes; a voxel has changed if any contrast or volume of it has.

    Attributes:
        drawn, drawn_changed: In the lesions to fill, as the user drew them.
        added, added_changed: In the rim that dilation added to them.
        outside, outside_changed: All others; none of them changes.
    """

    drawn: int
    drawn_changed: int
    added: int
    added_changed: int
    outside: int
    outside_changed: int

    def __str__(self) -> str:
        return (
            f"Drawn: {self.drawn_changed} of {self.drawn} voxels changed. Added by dilation: {self.added_changed} of "
            f"{self.added} changed. Outside both: {self.outside_changed} of {self.outside} changed."
        )

    def __add__(self, other: FillCounts) -> FillCounts:
        return FillCounts(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    def to_sidecar(self) -> dict[str, int]:
        """Return the counts by their names in the JSON beside an image."""
        return {
            "VoxelsDrawn": self.drawn,
            "VoxelsDrawnChanged": self.drawn_changed,
            "VoxelsAdded": self.added,
            "VoxelsAddedChanged": self.added_changed,
            "VoxelsOutside": self.outside,
            "VoxelsOutsideChanged": self.outside_changed,
        }

    @classmethod
    def from_sidecar(cls, sidecar: dict[str, Any]) -> FillCounts:
        """Read what `to_sidecar` wrote."""
        names = cls(0, 0, 0, 0, 0, 0).to_sidecar()
        return cls(*(int(sidecar[name]) for name in names))

    @classmethod
    def of(cls, changed: np.ndarray, mask: FillMask) -> FillCounts:
        """Count the voxels of each class, and those that are true in ``changed``, bool ``[i, j, k]``."""
        added, outside = mask.added, ~mask.whole & ~mask.drawn
        return cls(
            drawn=int(mask.drawn.sum()),
            drawn_changed=int((changed & mask.drawn).sum()),
            added=int(added.sum()),
            added_changed=int((changed & added).sum()),
            outside=int(outside.sum()),
            outside_changed=int((changed & outside).sum()),
        )


@dataclass(frozen=True)
class FillReport:
    """What filling did.

    Attributes:
        outputs: Written images.
        counts: Voxels drawn, added by dilation, and outside both, and how many of each have changed.
        warnings: What the user should know.
        sidecar: Content of the JSON beside the first image.
        replaced: Earlier results among ``outputs`` that were replaced.
    """

    outputs: tuple[Path, ...]
    counts: FillCounts
    warnings: tuple[str, ...]
    sidecar: dict[str, Any] = field(default_factory=dict)
    replaced: tuple[Path, ...] = ()

    @property
    def changed_inside(self) -> int:
        """Changed voxels among those drawn or added."""
        return self.counts.drawn_changed + self.counts.added_changed

    @property
    def changed_outside(self) -> int:
        """Changed voxels among all others: 0."""
        return self.counts.outside_changed


@dataclass(frozen=True)
class Fill:
    """Filled images on their own grid.

    Attributes:
        volumes: New values in the inputs' units, one ``[C, i, j, k]`` per contrast; C counts the volumes of a 4D image.
        deviations: Standard deviation over several samples, in the same form; empty for one sample.
    """

    volumes: list[np.ndarray]
    deviations: list[np.ndarray] = field(default_factory=list)


def write_results(
    results: Sequence[ResultFiles],
    inputs: Sequence[Volume],
    filled: Fill,
    mask: FillMask,
    sidecar: Mapping[str, Any],
) -> FillReport:
    """Write all files of a fill together, the sidecars last.

    Args:
        results: One per contrast.
        inputs: The images that were filled, one per contrast.
        filled: The new images.
        mask: What was filled.
        sidecar: What is recorded beside the counts and the hashes of the files.

    Raises:
        ArtifactError: The disk is full or the folder cannot be written; then no file is left behind or lost.
    """
    earlier = [file for files in results for file in files.every() if os.path.lexists(file) and files.made_by_zoo(file)]
    replaced = tuple(files.image for files in results if os.path.lexists(files.image))
    changed = np.zeros(mask.whole.shape, bool)
    written: list[dict[Path, Path]] = []
    with ExitStack() as stack:
        # What is entered first is renamed last: a sidecar without its image would claim a result that is not there.
        sidecars = [stack.enter_context(replacing(files.sidecar)) for files in results]
        for number, (files, volume, values) in enumerate(zip(results, inputs, filled.volumes, strict=True)):
            temporary = {files.image: stack.enter_context(replacing(files.image))}
            write_filled(temporary[files.image], volume, values, mask.whole)
            changed |= changed_voxels(volume, read_volume(temporary[files.image]))
            if filled.deviations:
                temporary[files.deviation] = stack.enter_context(replacing(files.deviation))
                write_map(temporary[files.deviation], volume, filled.deviations[number])
            if mask.drawn.any():
                temporary[files.picture] = stack.enter_context(replacing(files.picture))
                _draw(temporary[files.picture], volume, values, mask)
            written.append(temporary)
        counts = FillCounts.of(changed, mask)
        contents = [
            {
                **sidecar,
                **counts.to_sidecar(),
                **bids_fields(volume.path),
                "OutputSHA256": {file.name: sha256(place) for file, place in temporary.items()},
            }
            for volume, temporary in zip(inputs, written, strict=True)
        ]
        for place, content in zip(sidecars, contents, strict=True):
            place.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    new = {file for files, temporary in zip(results, written, strict=True) for file in (files.sidecar, *temporary)}
    for file in set(earlier) - new:
        file.unlink()  # the map or picture of an earlier fill, which would be taken for this one's
    return FillReport(
        tuple(files.image for files in results), counts, tuple(sidecar["Warnings"]), contents[0], replaced
    )


def _draw(path: Path, volume: Volume, filled: np.ndarray, mask: FillMask) -> None:
    from zoo.report.figures import before_after, picture_grid

    grid = picture_grid(volume)
    before, after = (to_grid(values[0], volume.affine, grid) for values in (volume.data, filled))
    regions = [
        to_grid(part.astype(np.float32), volume.affine, grid, order=0) > 0.5 for part in (mask.drawn, mask.added)
    ]
    before_after(path, before, after, regions[0], grid.spacing_mm, "Lesions filled (synthetic tissue)", regions[1])


def check_page(page: Path, others: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse a place for the quality page, as `check_results` does for images.

    Raises:
        DataError: It is one of ``others``, a folder, or a file that this program did not make.
    """
    if os.path.realpath(page) in {os.path.realpath(path) for path in others}:
        raise DataError(f"The quality page {page} is an input or result; name another file.")
    check_place(page)
    if page.exists() and not overwrite and PAGE_MARKER.encode() not in page.read_bytes():
        raise DataError(f"{page} is there already and no quality page. Choose another place, or use --overwrite.")
