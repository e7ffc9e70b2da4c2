"""Whether two images are of one scan and in one space, by what their names and headers say of themselves."""

from __future__ import annotations

import re

from zoo.imaging.volume import Volume

_ENTITY = re.compile(r"(?:^|_)(sub|ses|acq|run|space)-([A-Za-z0-9+.]+)")
_SUBJECT = {"sub": "subject", "ses": "session"}
_SCAN = {**_SUBJECT, "acq": "acquisition", "run": "run"}
_CONTRASTS = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "PDT2", "inplaneT1", "inplaneT2", "UNIT1", "MP2RAGE")
_NATIVE = ("orig", "individual", "native", "scanner", "subject", "anat")
_CODES = {1: "the scanner's", 3: "Talairach", 4: "MNI", 5: "a template's"}
"""Codes of sform and qform that name a space; 2, "aligned", is what nibabel writes where it knows nothing."""


def contradictions(image: Volume, other: Volume, *, contrasts: bool = False) -> list[str]:
    """Return in sentences what tells that two files of one grid do not belong together; none where nothing does.

    Subject, session, acquisition and run of BIDS names must not differ where both have them. Spaces must not: a name
    with ``sub-`` and without ``space-`` is in the subject's own space, ``space-T1w`` in that of the T1w, and any other
    ``space-`` is a template. A name without ``sub-`` says nothing. Where not both have ``space-``, the codes of the
    headers' coordinates count, too.

    Args:
        image: The image.
        other: A mask for it, or another contrast.
        contrasts: ``other`` is another contrast, whose acquisition and run are its own.
    """
    pair = f"{other.path.name} and {image.path.name}"
    one, two = (dict(_ENTITY.findall(_stem(volume))) for volume in (other, image))
    found = [
        f"{pair} name different {meaning}s ({key}-{one[key]} and {key}-{two[key]})"
        for key, meaning in (_SUBJECT if contrasts else _SCAN).items()
        if key in one and key in two and one[key] != two[key]
    ]
    first, second = _template(one), _template(two)
    if first is not None and second is not None and not _may_be_one(first, second):
        return [*found, f"{pair} name different spaces ({_say(one)} and {_say(two)})"]
    if "space" in one or "space" in two:
        own = _own_contrast(one, _stem(other)), _own_contrast(two, _stem(image))
        if all(own) and own[0] != own[1]:
            return [*found, f"{pair} name different spaces (that of the {own[0]} and that of the {own[1]})"]
    codes = other.space_code, image.space_code
    if not ("space" in one and "space" in two) and all(code in _CODES for code in codes) and codes[0] != codes[1]:
        told = " and ".join(f"{_CODES[code]} (code {code})" for code in codes)
        found.append(f"{pair} lie in different spaces by the sform or qform codes of their headers: {told}")
    return found


def _may_be_one(first: str, second: str) -> bool:
    """Compare two templates; ``mni152`` may be any that begins like it."""
    if not first or not second:
        return first == second
    return first.startswith(second) or second.startswith(first)


def unsettled(image: Volume, other: Volume) -> str:
    """Return a sentence where one name has a template's space and the other says nothing, else an empty text."""
    one, two = (_template(dict(_ENTITY.findall(_stem(volume)))) for volume in (other, image))
    for named, silent, volume, beside in ((one, two, other, image), (two, one, image, other)):
        if named and silent is None:
            return f"{volume.path.name} names the space of a template, {beside.path.name} does not"
    return ""


def _stem(volume: Volume) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", volume.path.name, flags=re.IGNORECASE)


def _template(entities: dict[str, str]) -> str | None:
    """Return the template of a name in lower case, an empty text for the subject's own space, ``None`` for unknown."""
    space = entities.get("space")
    if space is None:
        return "" if "sub" in entities else None
    return "" if space in _CONTRASTS or space.lower() in _NATIVE else space.lower()


def _own_contrast(entities: dict[str, str], stem: str) -> str:
    """Return the contrast whose space a file is in, an empty text where that is not said."""
    space, suffix = entities.get("space", ""), stem.rpartition("_")[2]
    return space if space in _CONTRASTS else suffix if not space and suffix in _CONTRASTS else ""


def _say(entities: dict[str, str]) -> str:
    return f"space-{entities['space']}" if "space" in entities else "none, which means the subject's own"
