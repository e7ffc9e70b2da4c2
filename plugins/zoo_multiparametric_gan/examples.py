"""Training examples: patches at lesions and where there is none, cut from the packed volumes when they are read."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from zoo.errors import DataError, did_you_mean
from zoo.imaging.cache import PackedCohort, PackedScan
from zoo.randomness import EXAMPLE, seed_for
from zoo_multiparametric_gan.config import NO_FINDINGS, GANConfig

_FOREGROUND = -0.9
_TOUCHING = np.ones((3, 3, 3))
"""Voxels that touch at a corner belong to one lesion, where no table numbers the lesions."""


class Patches:
    """All patches of a cohort, each once: what generated ones are compared with.

    An example is ``image`` float32 ``[C, *size]`` in [-1, 1] and ``label`` int64 ``[]``, the index of its class.

    - A lesion gives one patch per axial slice that it touches, at its centre of mass in that slice [choice]; in 3D one
      patch, at its centre of mass.
    - Patches without findings: ``patches.healthy`` random centres per scan inside ``patches.inside``, with no lesion in
      a neighbourhood of ``patches.clear`` pixels. They may overlap.
    - A window that would leave the image is shifted back into it [choice].

    Args:
        config: Settings.
        cohort: Packed scans; a scan without lesions gives only patches without findings.

    Attributes:
        places: By class: int ``[N, 4]``, number of the scan and first voxel (k, i, j) of each patch.

    Raises:
        DataError: A scan is smaller than a patch, or a lesion has no class or an unknown one.

    Source: paper, section 3. It does not say in which slices a lesion is taken; its 1,149 patches of 478 benign lesions
    suggest all.
    """

    def __init__(self, config: GANConfig, cohort: PackedCohort) -> None:
        self.config = config
        self.scans = cohort.scans
        found: list[list[np.ndarray]] = [[] for _ in config.class_names]
        for number, scan in enumerate(self.scans):
            _check_size(scan, config)
            for label, centres in enumerate(_centres(scan, config)):
                starts = _starts(centres, scan, config)
                found[label].append(np.column_stack([np.full(len(starts), number), starts]))
        self.places = [np.concatenate(some) if some else np.empty((0, 4), np.int64) for some in found]

    def __len__(self) -> int:
        return sum(map(len, self.places))

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return example ``index``; ``rng`` is not used."""
        label, row = self._place(index)
        number, *first = self.places[label][row]
        return {"image": self._cut(self.scans[number], first), "label": np.array(label)}

    def _place(self, index: int) -> tuple[int, int]:
        """Return the class of example ``index`` and its row among the places of the class."""
        for label, places in enumerate(self.places):
            if index < len(places):
                return label, index
            index -= len(places)
        raise IndexError(index)

    def _cut(self, scan: PackedScan, first: Sequence[int]) -> np.ndarray:
        k, i, j = first
        height, width, *depth = self.config.size
        across = (slice(None), slice(i, i + height), slice(j, j + width))
        if not depth:
            return np.asarray(scan.images[(k, *across)], np.float32)
        return np.moveaxis(np.asarray(scan.images[(slice(k, k + depth[0]), *across)], np.float32), 0, 3)


class PatchExamples(Patches):
    """The same patches for training, with equal numbers of each class.

    One pass has as many examples of each class as the largest class has patches; patches of the others come in turn,
    again and again. A class without any patch is left out: a few validation subjects may lack one.

    The paper does not say how it deals with 350 healthy patches for each benign one; equal numbers are ours [choice].
    """

    def __init__(self, config: GANConfig, cohort: PackedCohort) -> None:
        super().__init__(config, cohort)
        self.present = [label for label, places in enumerate(self.places) if len(places)]
        self.largest = max(map(len, self.places))

    def __len__(self) -> int:
        return len(self.present) * self.largest

    def _place(self, index: int) -> tuple[int, int]:
        # Class by class, so that examples at equal distances, which validation takes, are of all classes.
        number, row = divmod(index, self.largest)
        label = self.present[number]
        return label, row % len(self.places[label])

    @property
    def unfit(self) -> str:
        """Why a model cannot be trained on these examples; empty where it can."""
        absent = [name for label, name in enumerate(self.config.class_names) if label not in self.present]
        if not absent:
            return ""
        name = absent[0]
        if name == NO_FINDINGS:
            return (
                f"No place of the {len(self.scans)} training scans is without a lesion in a neighbourhood of "
                f"{self.config.patches.clear} pixels; set a lower patches.clear."
            )
        return (
            f"None of the {len(self.scans)} training scans has a lesion of the class {name!r}. Add subjects with one, "
            f"or name the classes that there are: --set patches.classes=…"
        )


def _check_size(scan: PackedScan, config: GANConfig) -> None:
    slices, rows, columns = scan.shape
    shape = (rows, columns, slices)[: len(config.size)]
    if any(have < want for have, want in zip(shape, config.size, strict=True)):
        raise DataError(
            f"{scan.id} has {' x '.join(map(str, shape))} voxels, less than a patch of "
            f"{' x '.join(map(str, config.size))}; set a smaller size or a finer data.spacing_mm."
        )


def _centres(scan: PackedScan, config: GANConfig) -> Iterator[np.ndarray]:
    """Yield the centres (k, i, j) of the patches of each class, ``[N, 3]``."""
    by_class: list[list[np.ndarray]] = [[] for _ in config.patches.classes]
    for number, voxels in _lesions(scan):
        label = _class_of(number, scan, config)
        slices = [voxels[voxels[:, 0] == k] for k in np.unique(voxels[:, 0])] if len(config.size) == 2 else [voxels]
        by_class[label] += [some.mean(axis=0) for some in slices]
    for centres in by_class:
        yield np.reshape(centres, (-1, 3))
    yield _healthy(scan, config)


def _lesions(scan: PackedScan) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each lesion and its voxels (k, i, j), ``[N, 3]``.

    Numbers are those of the table beside the mask; without one connected lesions are numbered from 1.
    """
    numbers = scan.lesion_numbers
    if not scan.lesion_labels:
        numbers, _ = ndimage.label(scan.lesion_mask, _TOUCHING)
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        if box is not None:
            yield number, np.argwhere(numbers[box] == number) + [side.start for side in box]


def _class_of(number: int, scan: PackedScan, config: GANConfig) -> int:
    """Return the index of a lesion's class.

    Raises:
        DataError: It has none, or an unknown one.
    """
    column, classes = config.patches.label, config.patches.classes
    if column is None:
        return 0
    value = scan.lesion_labels.get(number, {}).get(column) or scan.covariates.get(column, "")
    if value in ("", "n/a"):
        raise DataError(
            f"{scan.id}: the class of lesion {number} is not known. Give it in the column {column!r} of the table "
            "beside the lesion mask or of participants.tsv, or name another column: --set patches.label=…"
        )
    if value not in classes:
        raise DataError(
            f"{scan.id}: lesion {number} has the {column} {value!r}, which is none of patches.classes "
            f"{', '.join(classes)}.{did_you_mean(value, classes)}"
        )
    return classes.index(value)


def _healthy(scan: PackedScan, config: GANConfig) -> np.ndarray:
    """Return random voxels (k, i, j) far from lesions, ``[N, 3]``; always the same of a scan."""
    patches = config.patches
    allowed = scan.images[:, 0] > _FOREGROUND if patches.inside is None else scan.regions[patches.inside]
    if scan.lesion_mask.any():
        across = (1, patches.clear, patches.clear) if len(config.size) == 2 else patches.clear
        allowed = allowed & ~ndimage.maximum_filter(scan.lesion_mask, across, mode="constant")
    free = np.flatnonzero(allowed)
    rng = np.random.default_rng(seed_for(config.seed, EXAMPLE, zlib.crc32(scan.id.encode())))
    chosen = rng.choice(free, min(patches.healthy, len(free)), replace=False) if len(free) else free
    return np.column_stack(np.unravel_index(np.sort(chosen), scan.shape))


def _starts(centres: np.ndarray, scan: PackedScan, config: GANConfig) -> np.ndarray:
    """Return the first voxel (k, i, j) of the windows around centres, inside the image, ``[N, 3]``."""
    rows, columns, *depth = config.size
    window = np.array([depth[0] if depth else 1, rows, columns])
    nearest = np.floor(centres + 0.5).astype(np.int64)
    return np.clip(nearest - window // 2, 0, np.array(scan.shape) - window)
