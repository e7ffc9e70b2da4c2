"""Registers the phantom as a dataset."""

from __future__ import annotations

from zoo import Dataset, hookimpl


@hookimpl
def zoo_datasets() -> list[Dataset]:
    """Return the phantom."""
    return [
        Dataset(
            name="phantom",
            summary="Synthetic brains with known lesions, tissues, age and atrophy, from the MNI152 templates.",
            open="zoo.imaging.phantom:open_phantom",
        )
    ]
