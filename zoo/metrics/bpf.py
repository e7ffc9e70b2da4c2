"""Brain parenchymal fraction of an image by clustering its intensities, as Güllmar et al. measure atrophy."""

from __future__ import annotations

import numpy as np

from zoo.errors import DataError

BACKGROUND, FLUID, GREY, WHITE = range(4)
"""Classes by rising mean intensity, which is their order on T1-weighted images alone."""

_RESTARTS = 10


def fit_centres(image: np.ndarray) -> np.ndarray:
    """Return the four centres of k-means on the intensities of an image, rising, float64 ``[4]``.

    Args:
        image: ``[*spatial]``, T1-weighted, any units.

    Raises:
        DataError: The image has values that are not finite, or fewer than four different ones.

    Source: Güllmar et al., section 2.6, k = 4. Departure: there, it is not said how clusters are named; here they go
    by their mean.
    """
    from sklearn.cluster import KMeans

    values = np.asarray(image, np.float64).reshape(-1, 1)
    if not np.isfinite(values).all():
        raise DataError("An image to be clustered holds NaN or infinite values.")
    different = len(np.unique(values))
    if different < 4:
        raise DataError(f"An image of {different} different intensities cannot be divided into four tissues.")
    found = KMeans(n_clusters=4, n_init=_RESTARTS, random_state=0).fit(values)
    return np.sort(found.cluster_centers_[:, 0])


def classify(image: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the nearest of four rising centres for each voxel, uint8 of the image's shape."""
    borders = (centres[1:] + centres[:-1]) / 2
    return np.searchsorted(borders, image).astype(np.uint8)


def parenchymal_fraction(classes: np.ndarray) -> float:
    """Return (grey + white) / (grey + white + fluid) in [0, 1]; nan where there is none of them.

    Args:
        classes: Of `classify`.

    Source: Güllmar et al., equation 5. All fluid of the image counts, within the brain and round it.
    """
    fluid, tissue = int((classes == FLUID).sum()), int((classes >= GREY).sum())
    return tissue / (tissue + fluid) if tissue + fluid else float("nan")


def bpf_along(images: np.ndarray, baseline: int) -> np.ndarray:
    """Return the fraction of each of several versions of one image, float64 ``[A]``.

    Args:
        images: ``[A, *spatial]``, versions of one image.
        baseline: Which of them the centres are fitted on; fitted on each, clusters would change their meaning as
            intensities move.

    Raises:
        DataError: The baseline cannot be clustered.
    """
    centres = fit_centres(images[baseline])
    return np.array([parenchymal_fraction(classify(image, centres)) for image in images])
