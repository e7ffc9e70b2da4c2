"""Training examples: windows of healthy tissue, and the masks of their holes."""

from __future__ import annotations

import numpy as np

from zoo.errors import DataError
from zoo.imaging.cache import PackedCohort, PackedScan
from zoo.imaging.masks import LaidLesions, circle
from zoo.imaging.windows import Window, crop
from zoo_lesion_diffusion.baselines import HEAD
from zoo_lesion_diffusion.conditions import context, slices_to_channels
from zoo_lesion_diffusion.config import AugmentationConfig, DenoiserConfig, FillingConfig, PriorConfig

_CIRCLE_TRIES = 100


class FillingExamples:
    """Slices (or slabs) with white matter, each with a newly drawn mask.

    An example has ``image``, float32 ``[C, H, W]`` in [-1, 1]; ``context``, float32 ``[S·C, H, W]``, made by
    `conditions.context` from the slice and its neighbours, S together; and ``lesion_mask``, float32 ``[S, H, W]`` of
    zeros and ones. For slabs the shapes are ``[C, D, H, W]``, ``[C, D, H, W]`` and ``[1, D, H, W]``. Every mask has a
    voxel on the slices that are filled.

    With ``masks="circles"`` every slice with white matter is an example. With ``"lesions"`` every slice is an example
    on which at least one of the masks placed on the subject has a lesion of ``lesions.min_voxels``; all such slices are
    drawn equally often, and so are the masks that fit a slice. ``"mixture"`` tosses a coin per example: one half are
    circles on any slice, one half are lesions, drawn as with ``"lesions"``. A lesion example never becomes a circle.

    Args:
        config: Settings.
        cohort: Packed scans.

    Raises:
        DataError: The settings want lesion masks and the cohort has none, or none that is large enough on any slice; or
            a scan has fewer slices than a slab.

    Source: Uhr 2024, section 3.3. Departures, all settings: a window smaller than the slice is centred on the lesion or
    on white matter; patients may be trained on, with their own lesions visible and never filled, so a model can fill
    single lesions and leave others; brightness and mirroring.
    """

    def __init__(self, config: FillingConfig, cohort: PackedCohort) -> None:
        self.config = config
        pairs = list(zip(cohort.scans, cohort.lesions, strict=True))
        if not config.lesions.in_context:
            pairs = [pair for pair in pairs if not pair[0].lesion_mask.any()]
        self.scans = [scan for scan, _ in pairs]
        self.lesions = [tuple(_without_own(laid, scan) for laid in lesions) for scan, lesions in pairs]
        starts = [(number, int(first)) for number, scan in enumerate(self.scans) for first in _usable(scan, config)]
        self.choices = {start: fitting for start in starts if (fitting := self._fitting(*start))}
        self.with_lesions = [] if config.masks == "circles" else list(self.choices)
        if config.masks != "circles" and pairs and not self.with_lesions:
            raise DataError(self._why_no_lesions())
        self.starts = self.with_lesions if config.masks == "lesions" else starts

    def __len__(self) -> int:
        return len(self.starts)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return example ``index``; a lesion example on a slice without lesions moves to a slice that has some."""
        config = self.config
        number, first = start = self.starts[index]
        wants_lesions = self._wants_lesions(rng)
        if wants_lesions and start not in self.choices:
            number, first = self.with_lesions[rng.integers(len(self.with_lesions))]
        scan = self.scans[number]
        lesions = self._some_lesions(number, first, rng) if wants_lesions else None
        window = _window(scan, first, config, rng, lesions)
        seen = window.extended(config.neighbours)
        own = crop(scan.lesion_mask, seen, False)
        mask = self._circles(own, rng) if lesions is None else crop(lesions.as_mask(scan.shape), seen, False)
        image = crop(np.moveaxis(scan.images, 1, 0), seen, -1).astype(np.float32)
        image = _brighten(image, config.augmentation, rng)
        if config.augmentation.mirror and rng.random() < 0.5:
            image, mask = image[..., ::-1, :].copy(), mask[..., ::-1, :].copy()
        known, holes = context(image, mask, config), mask.astype(np.float32)
        if config.network == "2d":
            return {
                "image": image[:, config.neighbours],
                "context": slices_to_channels(known),
                "lesion_mask": holes,
            }
        return {"image": image, "context": known, "lesion_mask": holes[None]}

    def _wants_lesions(self, rng: np.random.Generator) -> bool:
        return self.config.masks == "lesions" or (self.config.masks == "mixture" and rng.random() < 0.5)

    def _fitting(self, number: int, first: int) -> list[int]:
        """Return the placed masks that have a large enough lesion on a slice."""
        return [choice for choice, laid in enumerate(self.lesions[number]) if len(self._large(laid, first))]

    def _large(self, laid: LaidLesions, first: int) -> np.ndarray:
        labels, counts = np.unique(laid.between(first, first + 1).labels, return_counts=True)
        return labels[counts >= self.config.lesions.min_voxels]

    def _some_lesions(self, number: int, first: int, rng: np.random.Generator) -> LaidLesions:
        """Draw a random subset of the connected lesions of one placed mask that fits the slice.

        As in the thesis, a lesion must be large enough on the slab's first slice, and the subset is never all lesions
        unless there is only one.
        """
        near = self.config.neighbours
        laid = self.lesions[number][rng.choice(self.choices[number, first])]
        large = self._large(laid, first)
        count = int(rng.integers(1, max(len(large), 2)))
        return laid.between(first - near, first + self.config.slab + near).only(rng.permutation(large)[:count])

    def _circles(self, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw one disc per slice, with a common centre and one radius per slice (thesis: 30 px, 3 to 50 px of 256).

        Discs leave out the patient's own lesions. They are drawn again until some voxel is left on the slices that are
        filled.

        Args:
            own: The patient's own lesions, bool ``[S, H, W]``.
            rng: Source of the discs.
        """
        config = self.config
        size, side = config.size, max(config.size)
        for _ in range(_CIRCLE_TRIES):
            centre = np.array(size) / 2 + rng.normal(0, config.circles.centre_sd * side, 2)
            radii = rng.uniform(*config.circles.radius, config.seen_slices) * side
            discs = np.stack([circle(size, (centre[0], centre[1]), radius) for radius in radii]) & ~own
            if discs[config.neighbours :][: config.slab].any():
                return discs
        raise DataError(
            f"{_CIRCLE_TRIES} circles in a row were outside the window or in a patient's own lesions; use a smaller "
            f"circles.centre_sd (now {config.circles.centre_sd:g}) or larger circles.radius "
            f"(now {config.circles.radius[0]:g} to {config.circles.radius[1]:g})."
        )

    def _why_no_lesions(self) -> str:
        masks, smallest = self.config.masks, self.config.lesions.min_voxels
        if not any(self.lesions):
            return (
                f"masks={masks!r} needs lesion masks, and the cohort has none. Name a cohort that has some with "
                "--set data.lesion_masks=DIR, or use --set masks=circles."
            )
        return (
            f"masks={masks!r} needs lesions of {smallest} voxels or more on a slice, and no lesion mask placed on "
            f"{', '.join(scan.id for scan in self.scans)} has one there. Use --set lesions.min_voxels=N below "
            f"{smallest}, other lesion masks (--set data.lesion_masks=DIR), or --set masks=circles."
        )


def _without_own(laid: LaidLesions, scan: PackedScan) -> LaidLesions:
    """Return placed lesions without the voxels of the scan's own lesions, which are never filled in training."""
    kept = ~scan.lesion_mask[tuple(laid.voxels.T)]
    return LaidLesions(laid.voxels[kept], laid.labels[kept])


class PriorExamples:
    """Slices (or slabs) with white matter and without lesions.

    An example has ``image``, float32 ``[C, H, W]`` in [-1, 1], for slabs ``[C, D, H, W]``.

    Args:
        config: Settings.
        cohort: Packed scans. Only the cohort's lesion masks say where lesions are.

    Raises:
        DataError: A scan has fewer slices than a slab.

    Source: Uhr 2024, section 3.2 "Unconditional Lesion Filling". Departures, all settings: windows, brightness and
    mirroring as in `FillingExamples`; patients may be trained on, on their slices without lesions.
    """

    def __init__(self, config: PriorConfig, cohort: PackedCohort) -> None:
        self.config = config
        self.scans = [scan for scan in cohort.scans if config.patients or not scan.lesion_mask.any()]
        self.starts = [
            (number, int(first))
            for number, scan in enumerate(self.scans)
            for first in _usable(scan, config)
            if not scan.lesion_mask[first : first + config.slab].any()
        ]

    def __len__(self) -> int:
        return len(self.starts)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return example ``index``."""
        config = self.config
        number, first = self.starts[index]
        scan = self.scans[number]
        window = _window(scan, first, config, rng)
        image = crop(np.moveaxis(scan.images, 1, 0), window, -1).astype(np.float32)
        image = _brighten(image, config.augmentation, rng)
        if config.augmentation.mirror and rng.random() < 0.5:
            image = image[..., ::-1, :].copy()
        return {"image": image[:, 0] if config.network == "2d" else image}


def _usable(scan: PackedScan, config: DenoiserConfig) -> np.ndarray:
    """Return the first slices of the slabs with white matter, or with any tissue if white matter is not known."""
    slices, slab = scan.shape[0], config.slab
    if slices < slab:
        raise DataError(f"{scan.id} has {slices} slices, fewer than slab={slab}; use a smaller slab or network=2d.")
    held = np.asarray(scan.white_matter.any(axis=(1, 2)))
    if not held.any():
        held = (scan.images[:, 0] > HEAD).mean(axis=(1, 2)) > 0.05
    return np.flatnonzero(held[: slices - slab + 1])


def _window(
    scan: PackedScan,
    first: int,
    config: DenoiserConfig,
    rng: np.random.Generator,
    lesions: LaidLesions | None = None,
) -> Window:
    """Centre the window on a lesion, else on white matter; centre it on the slice if the slice fits into it."""
    _, rows, columns = scan.shape
    height, width = config.size
    size = (config.slab, height, width)
    if rows <= height and columns <= width:
        return Window((first, (rows - height) // 2, (columns - width) // 2), size)
    if lesions is not None:
        filled = lesions.between(first, first + config.slab).voxels
        _, row, column = filled[rng.integers(len(filled))]
    else:
        tissue = scan.white_matter[first]
        places = np.argwhere(tissue if tissue.any() else scan.images[first, 0] > HEAD)
        row, column = places[rng.integers(len(places))]
    jitter = rng.integers((-height // 8, -width // 8), (height // 8 + 1, width // 8 + 1))
    return Window((first, int(row - height // 2 + jitter[0]), int(column - width // 2 + jitter[1])), size)


def _brighten(image: np.ndarray, augmentation: AugmentationConfig, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < augmentation.brightness_probability:
        factor = rng.uniform(1 - augmentation.brightness, 1 + augmentation.brightness)
        image = np.clip((image + 1) * factor - 1, -1, 1, dtype=np.float32)
    return image
