"""What the contract kit tests of the verb ``sample``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.imaging.preprocessing import output_intensity
from zoo.models.artifact import Artifact


def check_sample(artifact: Artifact, cohort: Path, folder: Path) -> None:
    """A sample is the same alone and in a batch, another seed or class makes another one, and files say what they are.

    Values lie in the range of their contrast, also where that is signed or in a physical unit.
    """
    from zoo.tasks.sample.files import sample_files

    together = sample_files(artifact, folder / "together", count=3, options={"seed": 4, "batch_size": 3})
    alone = sample_files(artifact, folder / "alone", count=1, first=2, options={"seed": 4, "batch_size": 1})
    other = sample_files(artifact, folder / "other", count=1, first=2, options={"seed": 5})
    contrasts, classes = artifact.config.data.contrasts, artifact.config.class_names
    last = together.images[2 * len(contrasts) :]
    assert len(together.images) == 3 * len(contrasts)
    assert [path.name for path in alone.images] == [path.name for path in last]
    for contrast, whole, single, changed in zip(contrasts, last, alone.images, other.images, strict=True):
        values, repeated, different = (_voxels(path) for path in (whole, single, changed))
        intensity, _ = output_intensity(contrast, artifact.config.data)
        rounding = 1e-5 * (intensity.high - intensity.low)
        assert np.isfinite(values).all()
        assert values.min() >= intensity.low - rounding
        assert values.max() <= intensity.high + rounding
        assert np.abs(values - repeated).max() < rounding
        assert not np.array_equal(values, different)
    for about in _sidecars(together.images):
        assert about["Synthetic"] is True
        assert (about.get("Class") in classes) if classes else ("Class" not in about)
    assert together.sheet.stat().st_size > 0
    asked = [
        sample_files(artifact, folder / f"class-{name}", count=1, options={"seed": 4, "label": name}).images
        for name in classes
    ]
    for name, images in zip(classes, asked, strict=True):
        assert all(about["Class"] == name for about in _sidecars(images))
    for images in asked[1:]:
        assert any(not np.array_equal(_voxels(path), _voxels(one)) for path, one in zip(images, asked[0], strict=True))


def _voxels(path: Path) -> np.ndarray:
    import nibabel

    values: np.ndarray = nibabel.load(path).get_fdata()
    return values


def _sidecars(images: Sequence[Path]) -> list[dict[str, object]]:
    return [json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text()) for path in images]
