"""Which images there are: BIDS folders and TSV manifests."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zoo.errors import DataError, did_you_mean

_ENTITY = re.compile(r"(?P<key>[a-zA-Z0-9]+)-(?P<value>[a-zA-Z0-9+.]+)")
_IMAGE_SUFFIXES = (".nii.gz", ".nii")
ROLES = ("lesion-mask", "tissue", "white-matter", "lesion-free")
"""What a scan may carry beside its contrasts."""


def as_number(text: str) -> float | None:
    """Return a cell of a table as a finite number, or ``None`` where it is something else."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Scan:
    """The images of one subject at one session.

    Attributes:
        id: ``"sub-07"`` or ``"sub-07_ses-1"``.
        subject: ``"sub-07"``; splits never cut through a subject.
        images: Path by contrast, e.g. ``{"T1w": …, "FLAIR": …}``.
        maps: Path by role: ``lesion-mask``, ``tissue`` (dseg), ``white-matter``, ``lesion-free`` (the twin of the
            T1w without lesions, where the truth is known).
        covariates: Columns of participants.tsv, as text.
    """

    id: str
    subject: str
    images: dict[str, Path] = field(default_factory=dict)
    maps: dict[str, Path] = field(default_factory=dict)
    covariates: dict[str, str] = field(default_factory=dict)

    def lacks(self, needs: Iterable[str]) -> list[str]:
        """Return which of ``needs`` (contrasts and roles) this scan does not have."""
        return [need for need in needs if need not in self.images and need not in self.maps]


@dataclass(frozen=True)
class Cohort:
    """Scans found in one place.

    Attributes:
        root: The BIDS folder or the manifest.
        scans: Sorted by id.
        notes: What was left out or chosen, in sentences.
    """

    root: Path
    scans: tuple[Scan, ...]
    notes: tuple[str, ...] = ()

    def with_all(self, needs: Sequence[str]) -> Cohort:
        """Keep the scans that have all of ``needs``; say in ``notes`` what the others lack.

        Raises:
            DataError: No scan has them all.
        """
        kept = tuple(scan for scan in self.scans if not scan.lacks(needs))
        lacking = [f"{scan.id} has no {', '.join(scan.lacks(needs))}" for scan in self.scans if scan.lacks(needs)]
        if not kept:
            found = sorted({name for scan in self.scans for name in (*scan.images, *scan.maps)})
            raise DataError(
                f"None of the {len(self.scans)} scans in {self.root} has {', '.join(needs)}; found: "
                f"{', '.join(found) or 'nothing'}. See: zoo data check {self.root}"
            )
        return Cohort(self.root, kept, self.notes + tuple(lacking))

    def subset(self, subjects: Iterable[str]) -> Cohort:
        """Keep the scans of ``subjects``."""
        wanted = set(subjects)
        return Cohort(self.root, tuple(scan for scan in self.scans if scan.subject in wanted), self.notes)

    def named(self, subjects: Sequence[str]) -> Cohort:
        """Keep the scans of ``subjects``, all of which must be there; everybody where nobody is named.

        Raises:
            DataError: One of them is not there.
        """
        unknown = [name for name in subjects if name not in self.subjects]
        if unknown:
            raise DataError(f"{self.root} has no subject {unknown[0]!r}.{did_you_mean(unknown[0], self.subjects)}")
        return self.subset(subjects) if subjects else self

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects in order, each once."""
        return tuple(dict.fromkeys(scan.subject for scan in self.scans))


@dataclass(frozen=True)
class Split:
    """Which subjects are for what; no subject is in two."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def to_json(self) -> dict[str, list[str]]:
        """Return the split as plain JSON data."""
        return {"train": list(self.train), "validation": list(self.validation), "test": list(self.test)}


def split_subjects(
    subjects: Sequence[str],
    *,
    validation: float,
    test: float,
    seed: int,
    validation_subjects: Sequence[str] = (),
    test_subjects: Sequence[str] = (),
) -> Split:
    """Split by subject.

    Args:
        subjects: Names, each once.
        validation, test: Shares in [0, 1); each gets at least one subject when its share is above 0 and three or
            more subjects are there.
        seed: The same seed and subjects give the same split.
        validation_subjects, test_subjects: Subjects kept by name; they replace the shares.

    Raises:
        DataError: A named subject does not exist or is named for both, or nobody is left to train on.
    """
    for kind, names in (("Validation", validation_subjects), ("Test", test_subjects)):
        unknown = [name for name in names if name not in subjects]
        if unknown:
            raise DataError(f"{kind} subject {unknown[0]!r} is not in the cohort.{did_you_mean(unknown[0], subjects)}")
    twice = sorted(set(validation_subjects) & set(test_subjects))
    if twice:
        raise DataError(f"{twice[0]!r} is named in data.validation_subjects and in data.test_subjects; choose one.")
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(subjects))]
    enough = len(order) >= 3
    free = [name for name in order if name not in set(validation_subjects)]
    tested = list(test_subjects) or free[: _share(test, len(order), enough)]
    rest = [name for name in order if name not in set(tested)]
    validated = list(validation_subjects) or rest[: _share(validation, len(order), enough and len(rest) > 1)]
    trained = [name for name in rest if name not in set(validated)]
    if not trained:
        raise DataError(
            f"Of {len(subjects)} subjects none is left to train on ({len(tested)} for testing, {len(validated)} for "
            "validation); add subjects or lower data.test and data.validation."
        )
    return Split(tuple(sorted(trained)), tuple(sorted(validated)), tuple(sorted(tested)))


def _share(share: float, count: int, at_least_one: bool) -> int:
    return max(round(share * count), 1) if share > 0 and at_least_one else 0


def read_cohort(path: Path) -> Cohort:
    """Read a BIDS folder (with its ``derivatives``) or a TSV manifest.

    A manifest has one scan a line: ``participant_id``, optionally ``session_id``, a column for each contrast
    (``T1w``, ``FLAIR`` …) and role (``lesion-mask``, ``tissue``, ``white-matter``, ``lesion-free``) with paths
    relative to the manifest, and any further columns as covariates.

    Raises:
        DataError: The path is missing, is neither, or holds no scan; a manifest names a file that is not there.
    """
    if path.is_dir():
        return _read_bids(path)
    if path.suffix == ".tsv" and path.is_file():
        return _read_manifest(path)
    if not path.exists():
        raise DataError(f"There is no {path}; give a BIDS folder or a .tsv manifest (zoo data phantom makes a cohort).")
    raise DataError(f"{path} is neither a BIDS folder nor a .tsv manifest.")


def _read_tsv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from None
    for number, row in enumerate(rows, start=2):
        if not (row.get("participant_id") or "").strip():
            raise DataError(f"{path} line {number} has no participant_id (columns are separated by tabs).")
        if None in row:
            raise DataError(f"{path} line {number} has more columns than the header.")
    return rows


def _read_manifest(path: Path) -> Cohort:
    scans: list[Scan] = []
    for row in _read_tsv(path):
        subject = _subject_name(row.pop("participant_id"))
        session = row.pop("session_id", "") or ""
        images: dict[str, Path] = {}
        maps: dict[str, Path] = {}
        covariates: dict[str, str] = {}
        for column, value in row.items():
            if column not in ROLES and not (value or "").endswith(_IMAGE_SUFFIXES):
                covariates[column] = value or ""
            elif value and value != "n/a":
                target = path.parent / value
                if not target.is_file():
                    raise DataError(f"{path} names {value} as {column} of {subject}, but there is no such file.")
                (maps if column in ROLES else images)[column] = target
        scan_id = subject + (f"_ses-{session.removeprefix('ses-')}" if session else "")
        scans.append(Scan(scan_id, subject, images, maps, covariates))
    if not scans:
        raise DataError(f"{path} has no lines.")
    return Cohort(path, tuple(sorted(scans, key=lambda scan: scan.id)))


def _subject_name(text: str) -> str:
    return text if text.startswith("sub-") else f"sub-{text}"


def _read_bids(root: Path) -> Cohort:
    found: dict[tuple[str, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for folder in (root, *sorted((root / "derivatives").glob("*/"))):
        # Only the depth that BIDS has: a run folder or a copy inside the dataset is not read.
        for pattern in ("sub-*/anat/*.nii*", "sub-*/ses-*/anat/*.nii*"):
            for file in sorted(folder.glob(pattern)):
                key = _what_it_is(file, derivative=folder is not root or _is_derivative(root))
                if key is not None:
                    entities = dict(_ENTITY.findall(file.name))
                    found[f"sub-{entities.get('sub', '')}", entities.get("ses", "")][key].append(file)
    if not found:
        raise DataError(
            f"{root} holds no scan: no sub-*/anat/*.nii.gz was found. Give the folder that has the sub-* folders."
        )
    table = root / "participants.tsv"
    rows = {_subject_name(row["participant_id"]): row for row in _read_tsv(table)} if table.is_file() else {}
    scans: list[Scan] = []
    notes: list[str] = []
    for (subject, session), files in sorted(found.items()):
        scan_id = subject + (f"_ses-{session}" if session else "")
        chosen: dict[str, Path] = {}
        for key, candidates in files.items():
            # The plainest name wins: without acquisition, run or space entities where there is one.
            candidates.sort(key=lambda file: (len(_ENTITY.findall(file.name)), file.name))
            chosen[key] = candidates[0]
            if len(candidates) > 1:
                notes.append(f"{scan_id} has {len(candidates)} images for {key}; {candidates[0].name} is used")
        covariates = {name: value or "" for name, value in rows.get(subject, {}).items() if name != "participant_id"}
        images = {key: file for key, file in chosen.items() if key not in ROLES}
        maps = {key: file for key, file in chosen.items() if key in ROLES}
        scans.append(Scan(scan_id, subject, images, maps, covariates))
    absent = sorted(set(rows) - {scan.subject for scan in scans})
    notes += [f"{subject} is in participants.tsv but has no image" for subject in absent]
    return Cohort(root, tuple(scans), tuple(notes))


def _is_derivative(root: Path) -> bool:
    return root.parent.name == "derivatives"


def _what_it_is(file: Path, *, derivative: bool) -> str | None:
    """Return the contrast or role of a BIDS image, ``None`` for what the zoo does not use."""
    stem = file.name.removesuffix(".gz").removesuffix(".nii")
    entities = dict(_ENTITY.findall(stem))
    suffix = stem.rpartition("_")[2]
    if suffix == "mask":
        label = entities.get("label", "").lower()
        return {"lesion": "lesion-mask", "wm": "white-matter"}.get(label)
    if suffix == "dseg":
        return "tissue"
    if derivative:
        return "lesion-free" if entities.get("desc") == "lesionfree" and suffix == "T1w" else None
    # An image after contrast agent is another contrast than the one without; so is each echo.
    told = [f"{key}-{entities[key]}" for key in ("ce", "echo") if key in entities]
    return "_".join([*told, suffix])
