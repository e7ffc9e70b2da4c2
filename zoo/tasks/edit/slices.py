"""The slice that stands for an image, and what is measured on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from zoo.metrics.bpf import parenchymal_fraction
from zoo.metrics.profiles import ventricle_share

Tissue = Callable[[np.ndarray], np.ndarray]
"""An image from 0 to 1 to the class of each voxel, one of `zoo.metrics.bpf.TISSUE`."""

QUANTITIES: Mapping[str, tuple[Callable[[np.ndarray], float], str]] = {
    "BPF": (parenchymal_fraction, "bpf.png"),
    "ventricles, share of the head": (ventricle_share, "ventricles.png"),
}
"""What is measured of a slice's tissue, and the file of its curve."""


def slice_of(image: np.ndarray) -> np.ndarray:
    """Return the first contrast of ``[C, i, j(, k)]``, of a volume its middle slice, ``[i, j]``."""
    return image[0] if image.ndim == 3 else image[0, :, :, image.shape[3] // 2]


def signal(plane: np.ndarray) -> np.ndarray:
    """Return intensities in [-1, 1] from 0 to 1; 0 is no signal."""
    return (plane + 1) / 2


def measure_slices(versions: np.ndarray, tissue: Tissue) -> dict[str, np.ndarray]:
    """Return each quantity of versions ``[A, i, j]`` of a slice, ``[A]``."""
    classes = [tissue(signal(version)) for version in versions]
    return {name: np.array([measured(some) for some in classes]) for name, (measured, _) in QUANTITIES.items()}
