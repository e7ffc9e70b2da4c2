"""Names of BIDS files, and whether two files are of the same scan and space."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ENTITY = re.compile(r"(?P<key>[a-zA-Z0-9]+)-(?P<value>[a-zA-Z0-9+.]+)")
_OF_THE_MAP = ("sub", "ses", "space", "label", "desc", "seg", "atlas", "hemi", "scale", "den", "res")
"""Entities that say what a mask is, of which subject and where; all others say which image it was drawn on."""

_NATIVE = ("", "orig", "native", "individual", "subject", "scanner", "anat")
"""Values of ``space`` that mean the image's own space, as does a name without ``space``."""

_CONTRASTS = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "PDT2", "inplaneT1", "inplaneT2", "UNIT1", "MP2RAGE")
"""Values of ``space`` that mean the own space of the subject's image with that suffix."""


@dataclass(frozen=True)
class BidsName:
    """The parts of a file name such as ``sub-07_run-2_label-lesion_mask.nii.gz``.

    Attributes:
        entities: Values by key, here ``sub``, ``run`` and ``label``.
        suffix: The last part, here ``mask``.
    """

    entities: Mapping[str, str]
    suffix: str

    @property
    def space(self) -> str:
        """The value of ``space``; empty for the image's own space."""
        space = self.entities.get("space", "")
        return "" if space.lower() in _NATIVE else space

    @property
    def template(self) -> str | None:
        """The template in lower case, empty for the subject's own space, ``None`` where the name does not say it."""
        if "space" not in self.entities:
            return "" if "sub" in self.entities else None
        return "" if self.space in _CONTRASTS else self.space.lower()

    @property
    def own_contrast(self) -> str:
        """The contrast of the subject in whose space the file lies; empty where the name does not say it."""
        if self.space in _CONTRASTS:
            return self.space
        return self.suffix if "space" not in self.entities and self.suffix in _CONTRASTS else ""

    @property
    def acquisition(self) -> dict[str, str]:
        """The entities that say which of several images it is: run, acq, rec, ce, echo …"""
        return {key: value for key, value in self.entities.items() if key not in _OF_THE_MAP}


def bids_name(path: Path) -> BidsName:
    """Read a file name; one that does not follow BIDS has no entities."""
    parts = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE).split("_")
    matches = [match for part in parts if (match := _ENTITY.fullmatch(part))]
    suffix = "" if _ENTITY.fullmatch(parts[-1]) else parts[-1]
    return BidsName({match["key"]: match["value"] for match in matches}, suffix)


def different_spaces(image: Path, other: Path) -> str | None:
    """Return how two names disagree about their space, ``None`` where they do not.

    A name with ``sub-`` and without ``space-`` is in the subject's own space, ``space-T1w`` in that of the T1w, and any
    other ``space-`` is a template; ``mni152`` may be any template that begins with it. A name without both says
    nothing and agrees with every other.
    """
    one, two = bids_name(other), bids_name(image)
    pair = f"{other.name} and {image.name} name different spaces"
    if one.template is not None and two.template is not None and not _may_be_one(one.template, two.template):
        return f"{pair} ({_in_words(one)} and {_in_words(two)})"
    told = "space" in one.entities or "space" in two.entities
    if told and one.own_contrast and two.own_contrast and one.own_contrast != two.own_contrast:
        return f"{pair} (that of the {one.own_contrast} and that of the {two.own_contrast})"
    return None


def _may_be_one(first: str, second: str) -> bool:
    if not first or not second:
        return first == second
    return first.startswith(second) or second.startswith(first)


def _in_words(name: BidsName) -> str:
    return f"space-{name.entities['space']}" if "space" in name.entities else "none, which means the subject's own"


def disagreement(image: Path, mask: Path) -> str | None:
    """Return why a mask is not of an image, by session, space and acquisition; ``None`` where its name may be.

    What the mask's name says must stand in the image's name; what it leaves out is left open.
    """
    first, second = bids_name(image), bids_name(mask)
    if "sub" not in first.entities or "sub" not in second.entities:
        return None
    for key, value in second.entities.items():
        if key in ("sub", "ses") and first.entities.get(key, "") != value:
            return f"{mask.name} is of {key}-{value}, {image.name} is not"
    apart = different_spaces(image, mask)
    if apart:
        return apart
    for key, value in second.acquisition.items():
        if first.acquisition.get(key) != value:
            return f"{mask.name} is of {key}-{value}, {image.name} is not"
    return None
