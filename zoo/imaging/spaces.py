"""Whether two images are of one scan and in one space, by their names and the codes of their headers."""

from __future__ import annotations

from zoo.imaging.bids import bids_name, different_spaces
from zoo.imaging.volume import Header, Volume

_SUBJECT = {"sub": "subject", "ses": "session"}
_SCAN = {**_SUBJECT, "acq": "acquisition", "run": "run"}
_CODES = {1: "the scanner's", 3: "Talairach", 4: "MNI", 5: "a template's"}
"""Codes of sform and qform that name a space; 2, "aligned", is what nibabel writes where it knows nothing."""


def contradictions(image: Volume, other: Volume, *, contrasts: bool = False) -> list[str]:
    """Return in sentences why two files of one grid do not belong together; none where nothing contradicts.

    Subject, session, acquisition and run of BIDS names must not differ where both have them, and spaces must not
    (`different_spaces`, `different_codes`).

    Args:
        image: The image.
        other: A mask for it, or another contrast.
        contrasts: ``other`` is another contrast, whose acquisition and run are its own.
    """
    one, two = bids_name(other.path).entities, bids_name(image.path).entities
    found = [
        f"{other.path.name} and {image.path.name} name different {meaning}s ({key}-{one[key]} and {key}-{two[key]})"
        for key, meaning in (_SUBJECT if contrasts else _SCAN).items()
        if key in one and key in two and one[key] != two[key]
    ]
    apart = different_spaces(image.path, other.path) or different_codes(image, other)
    return [*found, apart] if apart else found


def different_codes(image: Volume | Header, other: Volume | Header) -> str | None:
    """Return how the codes of two headers disagree about their space, ``None`` where they do not.

    The codes do not count where both names have ``space-``.
    """
    codes = other.space_code, image.space_code
    named = all("space" in bids_name(file.path).entities for file in (image, other))
    if named or codes[0] == codes[1] or not all(code in _CODES for code in codes):
        return None
    told = " and ".join(f"{_CODES[code]} (code {code})" for code in codes)
    return (
        f"{other.path.name} and {image.path.name} lie in different spaces by the sform or qform codes of their "
        f"headers: {told}"
    )


def unsettled(image: Volume, other: Volume) -> str:
    """Return a sentence where one name has a template's space and the other says nothing, else an empty text."""
    one, two = bids_name(other.path).template, bids_name(image.path).template
    for named, silent, volume, beside in ((one, two, other, image), (two, one, image, other)):
        if named and silent is None:
            return f"{volume.path.name} names the space of a template, {beside.path.name} does not"
    return ""
