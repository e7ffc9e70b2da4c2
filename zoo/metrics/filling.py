"""Quality of a filled image: seams, stripes, wrong tissue, volumes, cortical thickness."""

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
"""Bins of a lesion's volume, mm³: from the first number up to, but not including, the second."""

_SHELL = 3
_FITTED_VOXELS = 50_000


def seam_score(image: np.ndarray, mask: np.ndarray) -> float:
    """Return how much the image changes across the border of the mask, relative to its surroundings.

    The ratio of two mean absolute differences of face neighbours: of those across the border of the mask, and of those
    in a shell of 3 voxels around it. 1 is a border as rough as its surroundings; a visible seam is above 1.

    Args:
        image: ``[i, j, k]``, any units.
        mask: bool ``[i, j, k]``, the filled voxels.

    Returns:
        The ratio; nan if the shell is empty or constant.

    Raises:
        DataError: The mask is empty, or of another shape.
    """
    shell = _shell(image, mask)
    across_border, in_shell = [], []
    for axis in range(3):
        change = np.abs(np.diff(image.astype(np.float64), axis=axis))
        across_border.append(change[np.diff(mask, axis=axis)])  # the difference of two bools is "not equal"
        in_shell.append(change[_pairs(shell, axis)])
    return _ratio(_mean(across_border), _mean(in_shell))


def stripe_score(image: np.ndarray, mask: np.ndarray, axis: int = 2) -> float:
    """Return how much more the filled voxels vary between slices than within slices, relative to the surroundings.

    Unevenness is the mean squared difference of neighbours along ``axis``, divided by that of neighbours along the two
    other axes. The score is the unevenness of the mask divided by that of a shell of 3 voxels around it. 1 is as even
    as the surroundings; slices that were filled independently of each other score above 1.

    Args:
        image: ``[i, j, k]``, any units.
        mask: bool ``[i, j, k]``, the filled voxels.
        axis: Axis across the slices.

    Returns:
        The ratio; nan if the mask has no neighbours within slices or between them (a mask of one slice), or if a
        divisor is 0.

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
    """Return the voxels outside the mask and at most 3 face steps away from it."""
    if image.shape != mask.shape:
        raise DataError(f"The mask is {list(mask.shape)} for an image {list(image.shape)}.")
    if not mask.any():
        raise DataError("The mask is empty, so no filled voxels can be scored.")
    return ndimage.binary_dilation(mask, iterations=_SHELL) & ~mask


def _pairs(mask: np.ndarray, axis: int) -> np.ndarray:
    """Return where `numpy.diff` along ``axis`` subtracts two voxels that are both in the mask."""
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
    raise DataError(f"The volume of a lesion must be 0 mm³ or more and finite, got {volume_mm3:g}.")


def lesion_volumes(mask: np.ndarray, voxel_mm3: float) -> np.ndarray:
    """Return at each voxel the volume in mm³ of its lesion, float32 ``[i, j, k]``, 0 outside.

    Args:
        mask: bool ``[i, j, k]``, whole lesions, not cut. Voxels that share a corner are connected.
        voxel_mm3: Volume of a voxel.
    """
    lesions, _ = ndimage.label(mask, np.ones((3, 3, 3), bool))
    volumes = np.bincount(lesions.ravel()) * voxel_mm3
    volumes[0] = 0
    return volumes.astype(np.float32)[lesions]


def lesions_by_size(mask: np.ndarray, volume_mm3: np.ndarray) -> dict[str, np.ndarray]:
    """Split a mask by the volume of the lesions.

    Args:
        mask: bool ``[i, j, k]``, whole lesions or parts of them.
        volume_mm3: ``[i, j, k]``, the volume of the whole lesion at each voxel, from `lesion_volumes`.

    Returns:
        Bool masks ``[i, j, k]`` by label of `SIZE_BINS_MM3`, smallest first, without empty ones.
    """
    parts = {label: mask & (volume_mm3 >= low) & (volume_mm3 < high) for label, (low, high) in SIZE_BINS_MM3.items()}
    return {label: part for label, part in parts.items() if part.any()}


def tissue_classes(t1w: np.ndarray, brain_mask: np.ndarray, fitted_to: np.ndarray | None = None) -> np.ndarray:
    """Classify fluid, grey and white matter by intensity alone.

    The classifier is a mixture of three normal distributions: the darkest is fluid, the brightest white matter. It is
    fitted to at most 50,000 voxels, always the same. It uses neither position nor a bias field and misclassifies some
    healthy tissue, so use it only to compare images of one brain.

    Args:
        t1w: ``[i, j, k]``, any units, white matter brightest.
        brain_mask: bool ``[i, j, k]``, the voxels to classify.
        fitted_to: bool ``[i, j, k]``, the voxels to fit the mixture to; default: the brain.

    Returns:
        uint8 ``[i, j, k]``: `FLUID`, `GREY`, `WHITE`, or 0 outside the brain.

    Raises:
        DataError: Values are not finite, or there are fewer than three intensities to fit.
    """
    from sklearn.mixture import GaussianMixture

    known = t1w[brain_mask if fitted_to is None else fitted_to].astype(np.float64)
    values = t1w[brain_mask].astype(np.float64)
    if not (np.isfinite(known).all() and np.isfinite(values).all()):
        raise DataError("The image holds NaN or infinite values, so its tissue cannot be classified.")
    if len(known) > _FITTED_VOXELS:
        known = np.random.default_rng(0).choice(known, _FITTED_VOXELS, replace=False)
    if len(np.unique(known)) < 3:
        raise DataError("The brain has fewer than three intensities, so its tissue cannot be classified.")
    # The default tolerance stops early on purpose: the converged fit is slow and calls uncertain voxels grey matter.
    mixture = GaussianMixture(3, random_state=0).fit(known[:, None])
    means = mixture.means_.ravel()
    # Far from all means the widest class wins: without the clip, the brightest voxels would be called fluid.
    nearest = mixture.predict(np.clip(values, means.min(), means.max())[:, None])
    classes = np.zeros(t1w.shape, np.uint8)
    classes[brain_mask] = FLUID + np.argsort(np.argsort(means))[nearest]
    return classes


def grey_matter_leak(
    filled_t1w: np.ndarray, white_matter_mask: np.ndarray, filled_mask: np.ndarray, tissue: np.ndarray | None = None
) -> float:
    """Return the share of filled white matter that is classified as grey matter or fluid.

    `tissue_classes` is fitted to the brain outside the mask, so all fillings of an image share the same classes.

    Args:
        filled_t1w: ``[i, j, k]``, any units, white matter brightest.
        white_matter_mask: bool ``[i, j, k]``, the true white matter.
        filled_mask: bool ``[i, j, k]``, the filled voxels.
        tissue: Labels ``[i, j, k]``, 0 outside the brain; default: the brain is all voxels above the minimum, as after
            skull stripping.

    Returns:
        Share in [0, 1], 0 is best; nan if no white matter was filled.

    Raises:
        DataError: There are too few intensities outside the mask to fit.
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
        classes: Result of `tissue_classes`, ``[i, j, k]``. To compare images that differ in few voxels, fit the classes
            to the voxels that they share: two fits differ by more than the volume of small lesions.
        voxel_mm3: Volume of a voxel.
    """
    named = {"fluid": FLUID, "grey": GREY, "white": WHITE}
    return {name: float((classes == label).sum() * voxel_mm3 / 1000) for name, label in named.items()}


def mean_cortical_thickness(grey_mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Return the mean thickness of a sheet of grey matter in mm: four times the mean depth of its voxels.

    In a plate, depth rises from 0 at both faces to half the thickness in the middle, on average a quarter of the
    thickness. The estimate is simple: thick parts count more than thin ones, touching walls of a sulcus count as one
    sheet, a lesion classified as grey matter counts, and sheets of one voxel are overestimated. Use it to compare
    segmentations of one brain; it does not replace a surface reconstruction.

    Args:
        grey_mask: bool ``[i, j, k]``.
        spacing_mm: Voxel size along (i, j, k).

    Returns:
        mm; nan for an empty mask.
    """
    if not grey_mask.any():
        return float("nan")
    padded = np.pad(grey_mask, 1)  # beyond the image there is no grey matter
    depth = ndimage.distance_transform_edt(padded, sampling=tuple(spacing_mm))[padded]
    # The distance transform measures to the centre of the nearest voxel outside; the face is half a voxel nearer.
    return float(4 * (depth - min(spacing_mm) / 2).mean())
