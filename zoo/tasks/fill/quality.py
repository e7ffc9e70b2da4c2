"""The quality page of filled images: before, after and difference, seams and stripes, the worst first."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib import colormaps
from matplotlib.image import imsave
from scipy import ndimage

from zoo.imaging.geometry import model_grid, to_grid
from zoo.imaging.masks import Lesion, number_lesions
from zoo.imaging.volume import Volume, read_mask, read_volume
from zoo.metrics.filling import seam_score, stripe_score
from zoo.report.figures import picture_grid, upright
from zoo.report.html import data_uri
from zoo.system.files import write_text
from zoo.tasks.fill.results import PAGE_MARKER, FillCounts

COLUMNS = ("scan", "lesions", "filled, mm³", "voxels drawn", "added", "changed outside", "seam", "worst lesion's seam",
           "stripes")  # fmt: skip
_LESIONS_SHOWN = 6
_WINDOW_MM = 48.0
_COLOURS = {"drawn": (255, 176, 0), "added": (53, 208, 255)}


@dataclass(frozen=True)
class FilledImage:
    """One image before and after filling.

    Attributes:
        name: How the page calls it.
        before, after: NIfTI of one grid.
        lesions: The lesion mask on that grid.
        lesion_labels: Values of the mask that are lesions, where it has several.
        counts: Voxels drawn, added and outside, as filling counted them.
    """

    name: str
    before: Path
    after: Path
    lesions: Path
    lesion_labels: Sequence[int] = ()
    counts: FillCounts | None = None


@dataclass(frozen=True)
class _View:
    """Four pictures of one place, PNG."""

    caption: str
    outlined: bytes
    before: bytes
    after: bytes
    difference: bytes


@dataclass(frozen=True)
class Quality:
    """What the page says of one image.

    Attributes:
        name: Of the image.
        lesions: Number of lesions.
        filled_mm3: Filled volume.
        seam, stripes: `seam_score` and `stripe_score` of all filled voxels; NaN where undefined.
        worst_seam: The highest seam of a single lesion.
        counts: Voxels drawn, added and outside, as filling counted them.
        note: Why the image could not be judged.
    """

    name: str
    lesions: int
    filled_mm3: float
    seam: float
    worst_seam: float
    stripes: float
    counts: FillCounts | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """Return the values of `COLUMNS`."""
        ratios = [f"{value:.2f}" for value in (self.seam, self.worst_seam, self.stripes)]
        voxels = (self.counts.drawn, self.counts.added, self.counts.outside_changed) if self.counts else ("", "", "")
        return [self.name, str(self.lesions), f"{self.filled_mm3:.0f}", *map(str, voxels), *ratios]


def write_quality_page(
    path: Path, title: str, images: Sequence[FilledImage], progress: Callable[[int, int], None] | None = None
) -> list[Quality]:
    """Write one HTML file that shows where filling can be seen; it needs no other file and needs no network.

    Args:
        path: HTML file.
        title: Over the page.
        images: What was filled; images in which nothing changed are left out.
        progress: Called with (images done, images in all).

    Returns:
        What the page says of each image, worst seam first; one that cannot be judged is last, with the reason.

    Raises:
        ArtifactError: The disk is full or the folder cannot be written.
    """
    judged: list[tuple[Quality, list[_View]]] = []
    for number, image in enumerate(images, start=1):
        try:
            found = _judge(image)
        except Exception as error:  # one bad image must not cost the others their page
            reason = str(error) or type(error).__name__
            found = Quality(image.name, 0, 0.0, np.nan, np.nan, np.nan, image.counts, reason), []
        if found:
            judged.append(found)
        if progress:
            progress(number, len(images))
    judged.sort(key=lambda pair: (bool(pair[0].note), -np.nan_to_num(pair[0].seam)))
    limit = _outlier_limit([quality.seam for quality, _ in judged])
    rows = [
        {
            "name": quality.name,
            "cells": quality.cells()[1:],
            "outlier": quality.seam > limit,
            "views": views,
            "note": quality.note,
        }
        for quality, views in judged
    ]
    environment = Environment(loader=PackageLoader("zoo.tasks.fill", ""), autoescape=True, trim_blocks=True)
    environment.filters["data_uri"] = data_uri
    page = environment.get_template("quality.html.jinja").render(
        title=title, columns=COLUMNS, rows=rows, marker=PAGE_MARKER,
        colours={name: f"rgb{colour}" for name, colour in _COLOURS.items()},
    )  # fmt: skip
    write_text(path, page.encode("utf-8", "backslashreplace").decode())  # names of files need not be UTF-8
    return [quality for quality, _ in judged]


def _outlier_limit(seams: Sequence[float]) -> float:
    """Return three robust standard deviations above the median; with fewer than four images nothing is an outlier."""
    known = np.array([seam for seam in seams if np.isfinite(seam)])
    if len(known) < 4:
        return float("inf")
    return float(np.median(known) + 3 * 1.4826 * np.median(np.abs(known - np.median(known))))


def _judge(image: FilledImage) -> tuple[Quality, list[_View]] | None:
    """Score one image on its own voxels in RAS order, and draw the fullest slice and the worst lesions."""
    before, after = read_volume(image.before), read_volume(image.after)
    changed = before.data[0] != after.data[0]
    drawn = read_mask(image.lesions, before, image.lesion_labels)
    # Lesions that were left as they are by choice are not judged.
    pieces, _ = ndimage.label(drawn, np.ones((3, 3, 3)))
    drawn &= np.isin(pieces, np.unique(pieces[changed]))
    mask = drawn | changed
    if not mask.any():
        return None
    grid = model_grid(before.shape, before.affine, None)
    filled = to_grid(after.data[0], before.affine, grid)
    hole = to_grid(mask.astype(np.float32), before.affine, grid, order=0) > 0.5
    numbered, lesions = number_lesions(hole, grid.affine)
    seams = {}
    for lesion, box in zip(lesions, ndimage.find_objects(numbered), strict=True):
        around = tuple(slice(max(side.start - 4, 0), side.stop + 4) for side in box)
        seams[lesion.number] = seam_score(filled[around], numbered[around] == lesion.number)
    worst = sorted(lesions, key=lambda lesion: -np.nan_to_num(seams[lesion.number]))
    quality = Quality(
        name=image.name,
        lesions=len(lesions),
        filled_mm3=sum(lesion.volume_mm3 for lesion in lesions),
        seam=seam_score(filled, hole),
        worst_seam=seams[worst[0].number],
        stripes=stripe_score(filled, hole),
        counts=image.counts,
    )
    return quality, _views(before, after, drawn, mask, worst[:_LESIONS_SHOWN], seams)


def _views(
    before: Volume,
    after: Volume,
    drawn: np.ndarray,
    mask: np.ndarray,
    lesions: Sequence[Lesion],
    seams: dict[int, float],
) -> list[_View]:
    """Draw axial slices of isotropic voxels: the one with most of the mask, and a window around each lesion."""
    grid = picture_grid(before)
    old, new = (to_grid(volume.data[0], before.affine, grid) for volume in (before, after))
    hole, core = (to_grid(part.astype(np.float32), before.affine, grid, order=0) > 0.5 for part in (mask, drawn))
    head = old > 0.1 * np.percentile(old, 99.5)
    scale = float(np.percentile(old, 1)), float(np.percentile(old[head], 99.8) if head.any() else 1)
    largest = float(np.percentile(np.abs(new - old)[hole], 99)) or 1.0
    world_to_voxel = np.linalg.inv(grid.affine)
    reach = round(_WINDOW_MM / 2 / grid.spacing_mm[0])

    def view(caption: str, index: int, rows: slice, columns: slice) -> _View:
        planes = [upright(volume[rows, columns, index]) for volume in (old, new, hole, core)]
        grey = [_grey(plane, *scale) for plane in planes[:2]]
        outlined = grey[0].copy()
        if (planes[2] & ~planes[3]).any():
            outlined[ndimage.binary_dilation(planes[2]) & ~planes[2]] = _COLOURS["added"]
        outlined[ndimage.binary_dilation(planes[3]) & ~planes[3]] = _COLOURS["drawn"]
        change = colormaps["RdBu_r"](0.5 + (planes[1] - planes[0]) / largest / 2)[..., :3]
        return _View(caption, _png(outlined), _png(grey[0]), _png(grey[1]), _png((change * 255).astype(np.uint8)))

    held = np.argwhere(head.any(axis=2) | hole.any(axis=2))
    low, high = held.min(axis=0), held.max(axis=0) + 1
    fullest = int(hole.sum(axis=(0, 1)).argmax())
    views = [view("The slice with most lesion", fullest, slice(low[0], high[0]), slice(low[1], high[1]))]
    for lesion in lesions:
        i, j, k = np.rint(world_to_voxel[:3, :3] @ lesion.centre_mm + world_to_voxel[:3, 3]).astype(int)
        place = " ".join(f"{value:.0f}" for value in lesion.centre_mm)
        caption = f"{lesion.volume_mm3:.0f} mm³ at {place} mm, seam {seams[lesion.number]:.2f}"
        slices = [slice(max(centre - reach, 0), max(centre + reach, 1)) for centre in (i, j)]
        views.append(view(caption, int(np.clip(k, 0, old.shape[2] - 1)), *slices))
    return views


def _grey(plane: np.ndarray, dark: float, bright: float) -> np.ndarray:
    shade = np.clip((plane - dark) / (bright - dark), 0, 1) * 255
    return np.repeat(shade.astype(np.uint8)[..., None], 3, axis=2)


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    imsave(stream, np.ascontiguousarray(picture), format="png")
    return stream.getvalue()
