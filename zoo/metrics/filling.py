"""How a filled image looks and what it is good for: seams, stripes, wrong tissue, volumes, thickness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from zoo.errors import DataError

FLUID, GREY, WHITE = 1, 2, 3
"""Classes of `tissue_classes`; 0 is outside the brain."""

SIZE_BINS_MM3 = {
    "<20 mm3": (0.0, 20.0),
    "20-100 mm3": (20.0, 100.0),
    "100-500 mm3": (100.0, 500.0),
    ">500 mm3": (500.0, float("inf")),
}
"""Volume of a lesion, mm³: from the first number to just below the second."""

_SHELL = 3
_FITTED_VOXELS = 50_000


def seam_score(image: np.ndarray, mask: np.ndarray) -> float:
    """Return how much the image jumps at the border of what was filled, compared with its surroundings.

    The mean absolute difference of face neighbours of which one is in the mask, by that of face neighbours in a shell
    of 3 voxels round the mask. 1 is a border as rough as its surroundings; a visible seam is above.

    Args:
        image: ``[i, j, k]``, any units.
        mask: bool ``[i, j, k]``, what was filled.

    Returns:
        The ratio; nan where there are no surroundings or they are flat.

    Raises:
        DataError: The mask is empty, or of another shape.
    """
    shell = _shell(image, mask)
    border, around = [], []
    for axis in range(3):
        change = np.abs(np.diff(image.astype(np.float64), axis=axis))
        border.append(change[np.diff(mask, axis=axis)])  # the difference of two bools: they are not the same
        around.append(change[_pairs(shell, axis)])
    return _ratio(_mean(border), _mean(around))


def stripe_score(image: np.ndarray, mask: np.ndarray, axis: int = 2) -> float:
    """Return how much more what was filled changes from slice to slice than within slices.

    The mean squared difference of neighbours along ``axis`` by that of neighbours along the two other axes, all in the
    mask; this by the same ratio in a shell of 3 voxels round the mask. 1 is as even as the surroundings; slices that
    were filled without knowing of each other are above.

    Args:
        image: ``[i, j, k]``, any units.
        mask: bool ``[i, j, k]``, what was filled.
        axis: Across the slices.

    Returns:
        The ratio; nan where the mask has no neighbours along the slices or across them (a mask of one slice), or
        where one of the differences that it is divided by is 0.

    Raises:
        DataError: The mask is empty, or of another shape.
    """
    shell = _shell(image, mask)
    squares = [np.diff(image.astype(np.float64), axis=direction) ** 2 for direction in range(3)]

    def unevenness(where: np.ndarray) -> float:
        within = [squares[other][_pairs(where, other)] for other in range(3) if other != axis]
        return _ratio(_mean([squares[axis][_pairs(where, axis)]]), _mean(within))

    return _ratio(unevenness(mask), unevenness(shell))


def _shell(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the voxels that are outside the mask and at most 3 steps through faces away from it."""
    if image.shape != mask.shape:
        raise DataError(f"The mask is {list(mask.shape)} for an image {list(image.shape)}.")
    if not mask.any():
        raise DataError("The mask is empty; nothing was filled that could be seen.")
    return ndimage.binary_dilation(mask, iterations=_SHELL) & ~mask


def _pairs(mask: np.ndarray, axis: int) -> np.ndarray:
    """Return where `numpy.diff` along ``axis`` takes the difference of two voxels of the mask."""
    moved = np.moveaxis(mask, axis, 0)
    return np.moveaxis(moved[1:] & moved[:-1], 0, axis)


def _mean(parts: list[np.ndarray]) -> float:
    values = np.concatenate(parts)
    return float(values.mean()) if len(values) else float("nan")


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")


def size_bin(volume_mm3: float) -> str:
    """Return the label in `SIZE_BINS_MM3` of a lesion's volume in mm³.

    Raises:
        DataError: The volume is below 0 or not a finite number.
    """
    for label, (low, high) in SIZE_BINS_MM3.items():
        if low <= volume_mm3 < high:
            return label
    raise DataError(f"A lesion's volume is 0 mm³ or more, got {volume_mm3:g}.")


def lesion_volumes(mask: np.ndarray, voxel_mm3: float) -> np.ndarray:
    """Return at each voxel the volume in mm³ of the lesion that it belongs to, float32 ``[i, j, k]``, 0 outside.

    Args:
        mask: bool ``[i, j, k]``, whole lesions: before anything cuts them. Voxels that touch by a corner are connected.
        voxel_mm3: Volume of a voxel.
    """
    lesions, _ = ndimage.label(mask, np.ones((3, 3, 3), bool))
    volumes = np.bincount(lesions.ravel()) * voxel_mm3
    volumes[0] = 0
    return volumes.astype(np.float32)[lesions]


def lesions_by_size(mask: np.ndarray, volume_mm3: np.ndarray) -> dict[str, np.ndarray]:
    """Split a mask by the volume of the whole lesions that its voxels belong to.

    Args:
        mask: bool ``[i, j, k]``, perhaps cut to a slab or to white matter.
        volume_mm3: ``[i, j, k]``: the whole lesion's volume at each voxel, as of `lesion_volumes`.

    Returns:
        A bool mask ``[i, j, k]`` by label of `SIZE_BINS_MM3`, smallest first, without the sizes that do not occur.
    """
    parts = {label: mask & (volume_mm3 >= low) & (volume_mm3 < high) for label, (low, high) in SIZE_BINS_MM3.items()}
    return {label: part for label, part in parts.items() if part.any()}


def tissue_classes(t1w: np.ndarray, brain_mask: np.ndarray, fitted_to: np.ndarray | None = None) -> np.ndarray:
    """Tell fluid, grey and white matter apart by their intensity alone.

    A mixture of three normal distributions, the darkest being fluid and the brightest white matter. At most 50,000
    voxels, always the same, are fitted. It knows neither place nor bias field, so that of healthy tissue some is
    mistaken, too: what it is for is to compare images of one brain.

    Args:
        t1w: ``[i, j, k]``, any units, white matter brightest.
        brain_mask: bool ``[i, j, k]``, what is classified.
        fitted_to: bool ``[i, j, k]``, what the mixture is fitted to; default: the brain.

    Returns:
        uint8 ``[i, j, k]``: `FLUID`, `GREY`, `WHITE`, or 0 outside the brain.

    Raises:
        DataError: There are fewer than three intensities to fit to.
    """
    from sklearn.mixture import GaussianMixture

    known = t1w[brain_mask if fitted_to is None else fitted_to].astype(np.float64)
    values = t1w[brain_mask].astype(np.float64)
    if not (np.isfinite(known).all() and np.isfinite(values).all()):
        raise DataError("The image has values that are no numbers; its tissues cannot be told apart.")
    if len(known) > _FITTED_VOXELS:
        known = np.random.default_rng(0).choice(known, _FITTED_VOXELS, replace=False)
    if len(np.unique(known)) < 3:
        raise DataError("The brain has fewer than three intensities; its tissues cannot be told apart.")
    # The default tolerance ends the fit early. Run to its end, it is slow and calls all that is uncertain grey matter.
    mixture = GaussianMixture(3, random_state=0).fit(known[:, None])
    means = mixture.means_.ravel()
    # Far from all means the widest class wins, whichever it is; the brightest voxels would be called fluid.
    nearest = mixture.predict(np.clip(values, means.min(), means.max())[:, None])
    classes = np.zeros(t1w.shape, np.uint8)
    classes[brain_mask] = FLUID + np.argsort(np.argsort(means))[nearest]
    return classes


def grey_matter_leak(
    filled_t1w: np.ndarray, white_matter_mask: np.ndarray, filled_mask: np.ndarray, tissue: np.ndarray | None = None
) -> float:
    """Return the share of filled white matter that looks like grey matter or fluid.

    `tissue_classes` is fitted to the brain outside the mask, so that all fillings of an image are judged alike.

    Args:
        filled_t1w: ``[i, j, k]``, any units, white matter brightest.
        white_matter_mask: bool ``[i, j, k]``, the truth.
        filled_mask: bool ``[i, j, k]``, what was filled.
        tissue: Labels ``[i, j, k]``, 0 outside the brain; default: the brain is what is brighter than the image's
            darkest value, as after skull stripping.

    Returns:
        In [0, 1], 0 is best; nan where no white matter was filled.

    Raises:
        DataError: Outside the mask are too few intensities to fit to.
    """
    judged = white_matter_mask & filled_mask
    if not judged.any():
        return float("nan")
    brain = filled_t1w > filled_t1w.min() if tissue is None else tissue > 0
    classes = tissue_classes(filled_t1w, judged, fitted_to=brain & ~filled_mask)
    return float((classes[judged] != WHITE).mean())


def tissue_volumes(classes: np.ndarray, voxel_mm3: float) -> dict[str, float]:
    """Return the volumes of ``fluid``, ``grey`` and ``white`` matter in ml.

    Args:
        classes: `tissue_classes`, ``[i, j, k]``. Images that differ in few voxels are compared with classes fitted to
            what they share: two fits differ by more than a few millilitres of lesions do.
        voxel_mm3: Volume of a voxel.
    """
    named = {"fluid": FLUID, "grey": GREY, "white": WHITE}
    return {name: float((classes == label).sum() * voxel_mm3 / 1000) for name, label in named.items()}


def mean_cortical_thickness(grey_mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Return the mean thickness of a sheet of grey matter in mm: four times the mean depth of its voxels.

    In a plate the depth rises from 0 at both faces to half the thickness in the middle, a quarter of it on average.
    This is simple: thick places count more than thin ones, walls of a sulcus that touch count as one sheet, and
    every voxel of the mask counts, so that a lesion taken for grey matter does, too. Sheets of one voxel are
    overestimated. It compares segmentations of one brain; it does not replace a surface.

    Args:
        grey_mask: bool ``[i, j, k]``.
        spacing_mm: Voxel size along (i, j, k).

    Returns:
        mm; nan for an empty mask.
    """
    if not grey_mask.any():
        return float("nan")
    padded = np.pad(grey_mask, 1)  # what lies beyond the image is not grey matter
    depth = ndimage.distance_transform_edt(padded, sampling=tuple(spacing_mm))[padded]
    # Depth is measured to the middle of the nearest voxel outside; the face is half a voxel nearer.
    return float(4 * (depth - min(spacing_mm) / 2).mean())
