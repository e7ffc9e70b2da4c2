"""Shared by the tests of DCGAN and WGAN: settings, and a small cohort of breast-like studies with known lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from zoo.config import resolve_config
from zoo.imaging.cache import PackedCohort, pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.registry import registry
from zoo_multiparametric_gan.config import GANConfig

SHAPE = (40, 36, 20)
"""Voxels of each study along (i, j, k)."""
SPACING_MM = 4.0
BREAST = (slice(4, 36), slice(4, 32), slice(2, 18))
"""Where the breast mask is, along (i, j, k)."""

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First and past-the-last voxel along each axis."""


def config_of(method: str, preset: str, *assignments: str) -> Any:
    """Return the settings of a preset with ``assignments``."""
    return resolve_config(registry().methods[method], preset=preset, assignments=assignments)


def tiny_config(*assignments: str) -> GANConfig:
    """Return the settings of the preset ``tiny`` of ``dcgan`` with ``assignments``."""
    config = config_of("dcgan", "tiny", *assignments)
    assert isinstance(config, GANConfig)
    return config


def write_study(root: Path, subject: str, lesions: Sequence[tuple[Box, str]], *, breast: bool = True) -> None:
    """Write the images of a subject, and its lesions as a numbered mask with a table of their pathology.

    An empty pathology leaves the table out.
    """
    rng = np.random.default_rng(len(subject) + sum(map(ord, subject)))
    numbers = np.zeros(SHAPE, np.uint8)
    for number, (box, _) in enumerate(lesions, start=1):
        numbers[tuple(slice(*side) for side in box)] = number
    before = rng.uniform(200, 400, SHAPE)
    images = {"T2w": rng.uniform(100, 500, SHAPE), "T1w": before}
    images |= {f"ce-post{k}_T1w": before + 50 * k + 300 * (numbers > 0) for k in range(1, 5)}
    for contrast, image in images.items():
        _write(root / subject / "anat" / f"{subject}_{contrast}.nii.gz", image.astype(np.int16))
    derivatives = root / "derivatives"
    if lesions:
        mask = derivatives / "lesions" / subject / "anat" / f"{subject}_label-lesion_mask.nii.gz"
        _write(mask, numbers)
        rows = [f"{number}\t{pathology}" for number, (_, pathology) in enumerate(lesions, start=1) if pathology]
        if rows:
            table = mask.with_name(f"{subject}_label-lesion_mask.tsv")
            table.write_text("\n".join(["index\tpathology", *rows]) + "\n", encoding="utf-8")
    if breast:
        region = np.zeros(SHAPE, np.uint8)
        region[BREAST] = 1
        _write(derivatives / "regions" / subject / "anat" / f"{subject}_label-breast_mask.nii.gz", region)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image, np.diag([SPACING_MM] * 3 + [1.0])), path)


def packed(root: Path, config: GANConfig) -> PackedCohort:
    """Return the packed scans of a cohort."""
    return pack_cohort(read_cohort(root).fit_for(config.data), config.data)


BENIGN: Box = ((14, 18), (12, 15), (6, 9))
MALIGNANT: Box = ((24, 29), (20, 26), (12, 13))
CORNER: Box = ((0, 3), (33, 36), (0, 1))

COHORT: Mapping[str, Sequence[tuple[Box, str]]] = {
    "sub-01": [(BENIGN, "benign"), (MALIGNANT, "malignant")],
    "sub-02": [(CORNER, "malignant")],
    "sub-03": [],
    "sub-04": [(BENIGN, "benign"), (MALIGNANT, "malignant")],
    "sub-05": [(MALIGNANT, "malignant")],
}


@pytest.fixture(scope="session")
def breasts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five studies: four benign and malignant lesions, one subject without any."""
    root = tmp_path_factory.mktemp("breasts") / "cohort"
    for subject, lesions in COHORT.items():
        write_study(root, subject, lesions)
    return root
