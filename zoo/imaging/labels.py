"""Which labels of a segmentation are white matter, grey matter and fluid.

A setting, a ``dseg.tsv`` or the name of a scheme says it; otherwise the intensities of the T1w decide.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from zoo.errors import DataError
from zoo.imaging.bids import bids_name
from zoo.imaging.cohort import Cohort, Scan
from zoo.imaging.geometry import Grid, to_grid
from zoo.imaging.volume import read_volume
from zoo.system.files import cache_folder, sha256, write_text

_SAMPLES = 5
"""Number of scans whose intensities are examined, spread over the cohort."""

_LEAST_SHARE = 0.02
"""Of the labelled voxels; smaller labels are not judged by intensity."""

_WHITE_MARGIN = 0.06
"""White matter's median lies above the next label's by this share of the way from the darkest label to it.

In 26 children, whose next label is deep grey matter, it was 0.12 to 0.22.
"""

_FLUID_MARGIN = 0.15
"""Fluid's median lies below the next label's by this share of the same way."""

_WHITE_SHARE = (0.15, 0.75)
"""White matter's share of the labelled voxels; in the same children it was 0.33 to 0.39."""

_MOST_LABELS = 12

_TISSUES = {
    "white matter": r"white|\bwm\b|corpus.callosum|\bcc-",
    "fluid": r"csf|cerebrospinal|ventricle|\bfluid|-vent\b",
    "grey matter": r"gr[ae]y|\bgm\b|cortex|\bctx|thalamus|caudate|putamen|pallidum|accumbens|amygdala|hippocampus",
}
"""Words in the names of labels, by tissue, tried in this order."""

_ABBREVIATIONS = {
    "WM": "white matter", "GM": "grey matter", "CGM": "grey matter", "SGM": "grey matter", "CSF": "fluid",
}  # fmt: skip
_COMMON = {1: "grey matter", 2: "white matter", 3: "fluid", 8: "grey matter", 9: "grey matter"}
"""BIDS' common table of labels (BIDS 1.10, "Imaging derivatives"), which the column ``mapping`` points to."""


class Region(NamedTuple):
    """One label on a T1w: number of voxels, their median intensity, and the share that touches unlabelled voxels."""

    voxels: int
    median: float
    rim: float


@dataclass(frozen=True)
class TissueLabels:
    """Labels of the three tissues.

    Attributes:
        white_matter, grey_matter, fluid: Labels; the latter two are empty if unknown.
        known_by: How it is known, in words.
    """

    white_matter: tuple[int, ...]
    grey_matter: tuple[int, ...]
    fluid: tuple[int, ...]
    known_by: str

    def __str__(self) -> str:
        named = (("white matter", self.white_matter), ("grey matter", self.grey_matter), ("fluid", self.fluid))
        return ", ".join(f"{name} {_list(labels)}" for name, labels in named) + f" (known by {self.known_by})"


def _list(labels: Sequence[int]) -> str:
    shown = ", ".join(str(label) for label in labels[:12])
    return shown + (f" and {len(labels) - 12} more" if len(labels) > 12 else "") if labels else "not known"


_FREESURFER_GREY = (3, 42, 8, 47, 10, 11, 12, 13, 17, 18, 26, 28, 49, 50, 51, 52, 53, 54, 58, 60)

SCHEMES = {
    "freesurfer": TissueLabels(
        (2, 41, 7, 46, *range(251, 256)), (*_FREESURFER_GREY, *range(1000, 1036), *range(2000, 2036)),
        (4, 43, 5, 44, 14, 15, 24), "the scheme of FreeSurfer, FastSurfer and SynthSeg",
    ),
    "fast": TissueLabels((3,), (2,), (1,), "the scheme of FSL FAST"),
    "bids": TissueLabels((2,), (1, 8, 9), (3,), "BIDS' common table"),
    "ants": TissueLabels((3,), (2, 4), (1,), "the scheme of ANTs' brain templates"),
}  # fmt: skip
"""Schemes by name; FreeSurfer's cortical parcels are those of the Desikan-Killiany atlas."""

SCHEMES |= {name: SCHEMES["freesurfer"] for name in ("fastsurfer", "synthseg")}


def find_labels(cohort: Cohort, setting: tuple[int, ...] | str = "find") -> dict[str, TissueLabels]:
    """Return the labels of each scan that has a segmentation and no mask of white matter, by the scan's id.

    Tried in this order: the setting; a ``dseg.tsv`` beside the segmentation or in a folder above it, as BIDS inherits
    it; a scheme named by the file (``aseg``, ``aparc``, ``synthseg``, ``pveseg``); FreeSurfer's labels 2, 3,
    41 and 42 together; the T1w, on which white matter is the brightest tissue and fluid the darkest.

    Args:
        cohort: Scans.
        setting: Labels of white matter, a name of `SCHEMES`, or ``"find"``.

    Raises:
        DataError: The labels cannot be determined.
    """
    found: dict[str, TissueLabels] = {}
    unknown: dict[Path, list[Scan]] = {}
    tables: dict[Path, TissueLabels] = {}
    for scan in _segmented(cohort):
        file = scan.maps["tissue"]
        if setting != "find":
            found[scan.id] = SCHEMES[setting] if isinstance(setting, str) else _by_setting(setting)
        elif (table := _table_of(file)) is not None:
            if table not in tables:
                tables[table] = read_table(table)
            found[scan.id] = tables[table]
        elif scheme := _named_scheme(file):
            found[scan.id] = SCHEMES[scheme]
        else:
            unknown.setdefault(_dataset(file), []).append(scan)
    for folder, scans in unknown.items():
        labels = _by_intensity(folder, scans)
        found |= {scan.id: labels for scan in scans}
    return found


def doubts(cohort: Cohort, labels: Mapping[str, TissueLabels]) -> list[str]:
    """Return how the intensities of the T1w contradict the labels, one sentence per way of knowing them.

    Args:
        cohort: Scans.
        labels: Of `find_labels`.
    """
    said: list[str] = []
    ways: dict[TissueLabels, list[Scan]] = {}
    for scan in _segmented(cohort):
        ways.setdefault(labels[scan.id], []).append(scan)
    for found, scans in ways.items():
        for scan in _spread([scan for scan in scans if "T1w" in scan.images]):
            doubt = contradiction(found, regions(scan))
            if doubt:
                said.append(f"{scan.id}: {doubt}, by {found.known_by}; check data.white_matter_labels")
                break
    return said


def _segmented(cohort: Cohort) -> list[Scan]:
    return [scan for scan in cohort.scans if "tissue" in scan.maps and "white-matter" not in scan.maps]


def _spread(scans: Sequence[Scan]) -> list[Scan]:
    places = np.unique(np.linspace(0, len(scans) - 1, min(_SAMPLES, len(scans))).round().astype(int))
    return [scans[place] for place in places]


def _by_setting(labels: tuple[int, ...]) -> TissueLabels:
    return TissueLabels(labels, (), (), "the setting data.white_matter_labels")


# --- Tables. ---


def _dataset(file: Path) -> Path:
    """Return the folder that holds the ``sub-*`` folders, or the file's own."""
    return next((folder.parent for folder in file.parents if folder.name.startswith("sub-")), file.parent)


def _table_of(file: Path) -> Path | None:
    """Return the table of a segmentation: the nearest with matching entities, and of those the most specific."""
    entities = bids_name(file).entities.items()
    top = _dataset(file)
    for folder in file.parents:
        tables = [
            (len(told), table)
            for table in sorted(folder.glob("*dseg.tsv"))
            if (told := _entities(table)) <= set(entities) and table.name.endswith(("_dseg.tsv", "dseg.tsv"))
        ]
        if tables:
            return max(tables, key=lambda item: item[0])[1]
        if folder == top:
            return None
    return None


def _entities(table: Path) -> set[tuple[str, str]]:
    pairs = [part.partition("-") for part in table.name.removesuffix(".tsv").split("_")[:-1]]
    return {(key, value) for key, _, value in pairs}


def read_table(table: Path) -> TissueLabels:
    """Read a table of labels: ``index``, ``name``, and optionally ``abbreviation`` and ``mapping``.

    Raises:
        DataError: It cannot be read, or names no white matter.

    Source: BIDS 1.10, "Imaging derivatives", section "Discrete segmentations".
    """
    tissues: dict[str, list[int]] = {"white matter": [], "grey matter": [], "fluid": []}
    try:
        rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig"), newline=""), delimiter="\t"))
        for row in rows:
            tissue = _tissue(row)
            if tissue:
                tissues[tissue].append(int(float(row["index"])))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{table} cannot be read as a table of labels with the columns index and name: {error}."
        ) from None
    if not tissues["white matter"]:
        raise DataError(
            f"{table} names no white matter among {len(rows)} labels. Name it there (abbreviation WM), or set "
            "data.white_matter_labels."
        )
    white, grey, fluid = (tuple(labels) for labels in tissues.values())
    return TissueLabels(white, grey, fluid, f"{table.name} in {table.parent.name}/")


def _tissue(row: Mapping[str, str]) -> str | None:
    mapping = (row.get("mapping") or "").strip()
    if mapping.isdigit() and int(mapping) in _COMMON:
        return _COMMON[int(mapping)]
    told = _ABBREVIATIONS.get((row.get("abbreviation") or "").strip().upper())
    name = (row.get("name") or "").strip().lower().replace("_", "-")
    if told or "hypointens" in name or "lesion" in name:
        return told
    return next((tissue for tissue, words in _TISSUES.items() if re.search(words, name)), None)


def _named_scheme(file: Path) -> str | None:
    name = file.name.lower()
    if any(word in name for word in ("aseg", "aparc", "wmparc", "synthseg", "fastsurfer")):
        return "freesurfer"
    return "fast" if "pveseg" in name or bids_name(file).entities.get("desc", "").lower() == "fast" else None


# --- Intensities. ---


def regions(scan: Scan) -> dict[int, Region]:
    """Return the intensities of the T1w of a scan in each label except 0; decoded once, then cached.

    Raises:
        DataError: One of the two images cannot be used.
    """
    t1w, tissue = scan.images["T1w"], scan.maps["tissue"]
    try:
        key = hashlib.sha256(f"{sha256(t1w)} {sha256(tissue)}".encode()).hexdigest()
    except OSError as error:
        raise DataError(f"{scan.id}: {error.filename} cannot be read ({error.strerror}).") from None
    file = cache_folder() / "labels" / key[:2] / f"{key}.json"
    if not file.is_file():
        image, labels = read_volume(t1w), read_volume(tissue)
        laid = to_grid(labels.data[0], labels.affine, Grid(image.shape, image.affine), order=0).round().astype(np.int64)
        rim = ndimage.binary_dilation(laid == 0)
        found = {}
        for label in np.unique(laid[laid != 0]):
            held = laid == label
            found[int(label)] = [int(held.sum()), float(np.median(image.data[0][held])), float(rim[held].mean())]
        write_text(file, json.dumps(found))
    return {int(label): Region(*numbers) for label, numbers in json.loads(file.read_text()).items()}


def contradiction(found: TissueLabels, seen: Mapping[int, Region]) -> str | None:
    """Return how labels contradict a T1w, ``None`` where they agree."""
    white = [label for label in found.white_matter if label in seen]
    if not white:
        return f"the segmentation has no label {_list(found.white_matter)} (white matter) but {_list(sorted(seen))}"
    voxels = sum(seen[label].voxels for label in white)
    level = sum(seen[label].voxels * seen[label].median for label in white) / voxels
    for label, region in sorted(_large(seen).items(), key=lambda item: -item[1].median):
        if label not in white and region.median > 1.02 * level:
            return (
                f"label {label} is brighter on the T1w (median {region.median:.4g}) than white matter, {_list(white)} "
                f"({level:.4g})"
            )
    return None


def _large(seen: Mapping[int, Region]) -> dict[int, Region]:
    total = sum(region.voxels for region in seen.values())
    return {label: region for label, region in seen.items() if region.voxels >= _LEAST_SHARE * total}


def _by_intensity(folder: Path, scans: Sequence[Scan]) -> TissueLabels:
    some = _spread([scan for scan in scans if "T1w" in scan.images])
    if not some:
        raise _unsure(folder, "and none of its scans has a T1w to find them by")
    guesses = [_guess(folder, scan, regions(scan)) for scan in some]
    white, fluid = ({getattr(guess, tissue) for guess in guesses} for tissue in ("white_matter", "fluid"))
    if len(white) > 1:
        raise _unsure(
            folder, f"and white matter is another label in another scan: {', '.join(map(str, sorted(white)))}"
        )
    grey = sorted({label for guess in guesses for label in guess.grey_matter})
    known = guesses[0].known_by if len(guesses) == 1 else f"{guesses[0].known_by} in each of {len(guesses)} scans"
    return TissueLabels(next(iter(white)), tuple(grey), next(iter(fluid)) if len(fluid) == 1 else (), known)


def _guess(folder: Path, scan: Scan, seen: Mapping[int, Region]) -> TissueLabels:
    """Return the labels by the T1w of one scan."""
    if {2, 3, 41, 42} <= set(seen):
        scheme = SCHEMES["freesurfer"]
        doubt = contradiction(scheme, seen)
        if doubt:
            raise _unsure(folder, f"and its numbers are FreeSurfer's, but in {scan.id} {doubt}")
        return replace(scheme, known_by=f"{scheme.known_by}, with which the T1w agrees")
    large = _large(seen)
    order = sorted(large, key=lambda label: large[label].median)
    if not 2 <= len(order) <= _MOST_LABELS:
        raise _unsure(folder, f"and {scan.id} has {len(seen)} labels")
    white, rest = large[order[-1]], [large[label] for label in order[:-1]]
    share = white.voxels / sum(region.voxels for region in large.values())
    way = white.median - rest[0].median
    why = ""
    if white.median - rest[-1].median < max(_WHITE_MARGIN * way, 0.03 * abs(white.median)):
        why = "no label is clearly the brightest"
    elif not _WHITE_SHARE[0] <= share <= _WHITE_SHARE[1]:
        why = f"the brightest label holds {share:.0%} of the voxels"
    elif white.rim > max(region.rim for region in rest):
        why = "the brightest label is the outermost, as the scalp is"
    if why:
        shown = ", ".join(f"{label}: {large[label].median:.4g}" for label in sorted(large))
        raise _unsure(folder, f"and by the T1w of {scan.id} {why} (medians {shown})")
    fluid = len(rest) > 1 and rest[1].median - rest[0].median >= _FLUID_MARGIN * way
    known = {order[-1], order[0]} if fluid else {order[-1]}
    grey = [label for label in seen if label not in known and rest[0].median <= seen[label].median < white.median]
    return TissueLabels(
        white_matter=(order[-1],),
        grey_matter=tuple(sorted(grey)),
        fluid=(order[0],) if fluid else (),
        known_by="the intensities of the T1w",
    )


def _unsure(folder: Path, why: str) -> DataError:
    return DataError(
        f"Which labels of the dseg images in {folder} are white matter is not known: there is no dseg.tsv, {why}. "
        "Write a dseg.tsv (index, name) beside them, or set data.white_matter_labels to the labels (2,41) or a scheme "
        f"({', '.join(SCHEMES)}); for zoo data transfer-masks: --wm-labels."
    )
