"""What the contract kit tests of the verb ``sample``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from zoo.models.artifact import Artifact


def check_sample(artifact: Artifact, cohort: Path, folder: Path) -> None:
    """A sample is the same alone and in a batch, another seed makes another one, and files say what they are."""
    import nibabel

    from zoo.tasks.sample.files import sample_files

    together = sample_files(artifact, folder / "together", count=3, options={"seed": 4, "batch_size": 3})
    alone = sample_files(artifact, folder / "alone", count=1, first=2, options={"seed": 4, "batch_size": 1})
    other = sample_files(artifact, folder / "other", count=1, first=2, options={"seed": 5})
    contrasts = len(artifact.config.data.contrasts)
    assert len(together.images) == 3 * contrasts
    assert [path.name for path in alone.images] == [path.name for path in together.images[2 * contrasts :]]
    for whole, single, changed in zip(together.images[2 * contrasts :], alone.images, other.images, strict=True):
        values, repeated, different = (nibabel.load(path).get_fdata() for path in (whole, single, changed))
        assert np.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= 1
        assert np.abs(values - repeated).max() < 1e-5
        assert not np.array_equal(values, different)
    for path in together.images:
        assert json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())["Synthetic"] is True
    assert together.sheet.stat().st_size > 0
