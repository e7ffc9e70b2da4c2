"""What the evaluator ``inpainting`` fills: healthy tissue under lesion masks and circles, and patients with a twin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from zoo.evaluation.unseen import unlaid
from zoo.imaging.cache import PackedCohort, PackedScan, pack_cohort
from zoo.imaging.cohort import Cohort, Scan, read_cohort
from zoo.imaging.geometry import Grid, to_grid
from zoo.imaging.masks import LaidLesions
from zoo.imaging.volume import read_volume
from zoo.metrics.filling import lesion_volumes
from zoo.models.artifact import Artifact
from zoo_lesion_diffusion.baselines import HEAD, sharp_slices
from zoo_lesion_diffusion.config import InpaintingOptions

SLAB = 16
"""Slices of a slab of circles, as seen by the thesis' pseudo-3D networks."""


@dataclass(frozen=True)
class Case:
    """One image with a hole whose content is known.

    Attributes:
        condition: ``"lesions"``, ``"circles"`` or ``"twin"``.
        image: What is filled, ``[C, i, j, k]`` in [-1, 1].
        truth: What a perfect filler returns, ``[C, i, j, k]`` in [-1, 1].
        mask: bool ``[i, j, k]``.
        volume_mm3: Volume of the whole lesion at each voxel, ``[i, j, k]``; ``None`` if lesions are not sorted by size.
        faded_slices: Number of slices left out of the mask because they hold no truth.
    """

    condition: str
    image: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    volume_mm3: np.ndarray | None = None
    faded_slices: int = 0


def place_masks(artifact: Artifact, cohort: Cohort, options: InpaintingOptions) -> tuple[Cohort | None, PackedCohort]:
    """Place the lesion masks of patients on a cohort.

    Masks that training has placed on its own subjects are left out, unless no other mask falls on a subject.

    Returns:
        The scans whose lesion masks (never images) are used, or ``None``, and the cohort with these masks.
    """
    where = options.lesion_masks or artifact.config.data.lesion_masks
    found = read_cohort(Path(where) if where else cohort.root).named(options.lesion_mask_subjects)
    own = found.root == cohort.root
    fresh = unlaid(artifact, found)
    for bank in (fresh, found) if len(fresh.scans) < len(found.scans) else (found,):
        packed = pack_cohort(cohort, artifact.config.data, mask_bank=bank, own_bank=own)
        if any(packed.lesions):
            return bank, packed
    return None, packed


def cases_of(
    scan: PackedScan,
    lesions: tuple[LaidLesions, ...],
    sources: Sequence[Scan],
    contrasts: Sequence[str],
    options: InpaintingOptions,
    number: int,
) -> Iterator[Case]:
    """Yield the cases of a scan.

    Args:
        scan: The scan.
        lesions: Lesion masks placed on it.
        sources: The scan of each mask.
        contrasts: The scan's channels, in order.
        options: Masks and seed.
        number: Place of the scan in its cohort; decides, with the seed, what is drawn.
    """
    rng = np.random.default_rng([options.seed, number])
    image = np.ascontiguousarray(np.transpose(scan.images, (1, 2, 3, 0)).astype(np.float32))
    own_lesions = np.moveaxis(scan.lesion_mask, 0, 2)
    sharp = sharp_slices(image[0])
    usable = [index for index, placed in enumerate(lesions) if len(placed.voxels)]
    for index in rng.permutation(usable)[: options.masks_per_subject]:
        mask = np.moveaxis(lesions[index].as_mask(scan.shape), 0, 2) & ~own_lesions
        faded = int((mask.any(axis=(0, 1)) & ~sharp).sum())
        volume_mm3 = whole_lesions(sources[index].maps["lesion-mask"], scan.grid)
        yield Case("lesions", image, image, mask & sharp, volume_mm3, faded)
    yield Case("circles", image, image, circles(scan, sharp, options, number) & ~own_lesions)
    if scan.lesion_free is not None and own_lesions.any():
        truth = image.copy()
        truth[contrasts.index("T1w")] = np.moveaxis(scan.lesion_free, 0, 2)
        yield Case("twin", image, truth, own_lesions)


def whole_lesions(path: Path, grid: Grid) -> np.ndarray:
    """Return the volume of the whole lesion at each voxel of a grid, mm³, ``[i, j, k]``."""
    volumes, affine = _lesion_volumes(path)
    return to_grid(volumes, affine, grid, order=0)


@lru_cache(maxsize=64)
def _lesion_volumes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return `lesion_volumes` of a mask file, cropped to its lesions, and the affine of the crop."""
    volume = read_volume(path)
    volumes = lesion_volumes(volume.data[0] > 0.5, float(np.prod(voxel_sizes(volume.affine))))
    box = next(iter(ndimage.find_objects((volumes > 0).astype(np.uint8))), (slice(0, 1),) * 3)
    corner = volume.affine.copy()
    corner[:3, 3] = apply_affine(volume.affine, [side.start for side in box])
    return volumes[box].copy(), corner


def circles(scan: PackedScan, sharp: np.ndarray, options: InpaintingOptions, number: int) -> np.ndarray:
    """Draw one disc on each slice of some slabs, restricted to the head, bool ``[i, j, k]``.

    Discs are drawn in millimetres and depend on the seed, the scan and its grid alone.
    """
    rng = np.random.default_rng([options.seed, number, 1])
    slices, rows, columns = scan.shape
    head = np.asarray(scan.images[:, 0]) > HEAD
    tissue = scan.white_matter.any(axis=(1, 2)) if scan.white_matter.any() else head.any(axis=(1, 2))
    held = np.flatnonzero(tissue & sharp)
    bounds = np.linspace(0, len(held), options.circle_slabs + 2).astype(int)[1:-1]
    spacing = np.array(scan.grid.spacing_mm[:2])
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1) * spacing  # mm
    mask = np.zeros((slices, rows, columns), bool)
    for middle in held[bounds] if len(held) else ():
        centre = np.argwhere(head[middle]).mean(axis=0) * spacing + rng.normal(0, options.circle_centre_sd_mm, 2)
        for index in range(max(middle - SLAB // 2, 0), min(middle + SLAB // 2, slices)):
            radius = rng.uniform(*options.circle_radius_mm)
            disc = ((places - centre) ** 2).sum(axis=-1) < radius**2
            mask[index] |= disc & head[index] & sharp[index]
    return np.moveaxis(mask, 0, 2)
