"""The phantom, packed for training."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.config import DataConfig
from zoo.imaging.cache import PackedCohort, pack_cohort
from zoo.imaging.cohort import read_cohort


@pytest.fixture(scope="package")
def packed(phantom: Path) -> PackedCohort:
    cohort = read_cohort(phantom)
    return pack_cohort(cohort, DataConfig(spacing_mm=4.0), mask_bank=cohort, own_bank=True)
