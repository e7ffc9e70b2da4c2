"""Samples refuse what a sampler must not return."""

from __future__ import annotations

import pytest
import torch

from zoo.errors import DataError
from zoo.tasks import Samples

IMAGES = torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES[0]}, r"have shape \[1, 8, 8\]; it must be \[N, C, i, j\]"),
        ({"images": IMAGES.double()}, r"torch.float64 on cpu; return them as images.float\(\).cpu\(\)"),
        ({"channels": ("T1w", "FLAIR")}, r"1 channels but 2 names for them: T1w, FLAIR"),
        ({"labels": ("old",)}, r"2 samples but 1 labels"),
        ({"images": IMAGES / 0}, r"NaN or infinite"),
        ({"images": IMAGES + 1.5}, r"reach from 1.5 to 1.5; clamp them to \[-1, 1\]"),
    ],
)
def test_samples_that_are_wrong_are_refused(changes: dict[str, object], message: str) -> None:
    fields = {"images": IMAGES, "channels": ("T1w",), "spacing_mm": None, **changes}
    with pytest.raises(DataError, match=message):
        Samples(**fields)  # type: ignore[arg-type]


def test_samples_of_slices_and_volumes_are_taken() -> None:
    for images in (IMAGES, IMAGES[..., None]):
        assert Samples(images=images, channels=("T1w",), spacing_mm=(1, 1, 1), labels=("old", "young")).images is images
