"""What the name of a BIDS file says, and whether two files speak of the same scan and space."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ENTITY = re.compile(r"(?P<key>[a-zA-Z0-9]+)-(?P<value>[a-zA-Z0-9+.]+)")
_OF_THE_MAP = ("sub", "ses", "space", "label", "desc", "seg", "atlas", "hemi", "scale", "den", "res")
"""Entities that say what a mask is, whose and where; all others say which image it was drawn on."""

_NATIVE = ("", "orig", "native", "individual", "subject", "scanner")
"""Values of ``space`` that mean the image's own space, as no ``space`` does."""


@dataclass(frozen=True)
class BidsName:
    """The parts of a file name such as ``sub-07_run-2_label-lesion_mask.nii.gz``.

    Attributes:
        entities: Values by key, here ``sub``, ``run`` and ``label``; empty where the name is none of BIDS.
        suffix: The last part, here ``mask``.
    """

    entities: Mapping[str, str]
    suffix: str

    @property
    def space(self) -> str:
        """The space that the name tells; empty for the image's own."""
        space = self.entities.get("space", "")
        return "" if space.lower() in _NATIVE else space

    @property
    def acquisition(self) -> dict[str, str]:
        """The entities that say which of several images it is: run, acq, rec, ce, echo …"""
        return {key: value for key, value in self.entities.items() if key not in _OF_THE_MAP}


def bids_name(path: Path) -> BidsName:
    """Read a file name; without a ``sub-`` entity it tells nothing."""
    parts = path.name.removesuffix(".gz").removesuffix(".nii").split("_")
    matches = [match for part in parts if (match := _ENTITY.fullmatch(part))]
    suffix = "" if _ENTITY.fullmatch(parts[-1]) else parts[-1]
    if not matches or matches[0]["key"] != "sub":
        return BidsName({}, suffix)
    return BidsName({match["key"]: match["value"] for match in matches}, suffix)


def check_spaces(image: Path, mask: Path) -> str | None:
    """Return in what the names of an image and its mask disagree about their space, ``None`` where they do not.

    ``space-FLAIR`` is the own space of an image whose suffix is FLAIR. A name without a ``sub-`` entity says nothing,
    and agrees with every other.
    """
    first, second = bids_name(image), bids_name(mask)
    if not first.entities or not second.entities:
        return None
    if first.space == second.space or (not first.space and second.space == first.suffix):
        return None
    return (
        f"the names tell different spaces: {image.name} lies in {_told(first.space)}, {mask.name} in "
        f"{_told(second.space)}"
    )


def _told(space: str) -> str:
    return f"space-{space}" if space else "its own space (no space- in the name)"


def disagreement(image: Path, mask: Path) -> str | None:
    """Return why a mask is not of an image, by session, space and acquisition; ``None`` where its name may be.

    What the mask's name tells must stand in the image's name; what it leaves out is left open.
    """
    first, second = bids_name(image), bids_name(mask)
    if not first.entities or not second.entities:
        return None
    for key, value in second.entities.items():
        if key in ("sub", "ses") and first.entities.get(key, "") != value:
            return f"{mask.name} is of {key}-{value}, {image.name} is not"
    apart = check_spaces(image, mask)
    if apart:
        return apart
    for key, value in second.acquisition.items():
        if first.acquisition.get(key) != value:
            return f"{mask.name} is of {key}-{value}, {image.name} is not"
    return None
