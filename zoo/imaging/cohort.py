"""The images of a cohort: BIDS folders and TSV manifests."""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from zoo.config import DataConfig
from zoo.errors import DataError, did_you_mean
from zoo.imaging.bids import BidsName, bids_name, different_spaces, disagreement

_IMAGE_SUFFIXES = (".nii.gz", ".nii")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SUBJECT = re.compile(r"sub-[A-Za-z0-9+.]+")
_SESSION = re.compile(r"[A-Za-z0-9+.]+")
_NOT_KNOWN = ("", "n/a")
_NO_CONTRAST = ("mask", "roi", "dseg", "probseg", "defacemask")
"""BIDS suffixes of maps and masks; none of them is a contrast."""

ROLES = ("lesion-mask", "tissue", "white-matter", "lesion-free")
"""Roles of the maps that the zoo itself uses; a scan may have further masks (`is_role`)."""


def is_role(name: str) -> bool:
    """Return whether a name is that of a map and not of a contrast: one of `ROLES`, or a mask such as brain-mask."""
    return name in ROLES or name.endswith("-mask")


def _contrasts(names: Iterable[str]) -> list[str]:
    return [name for name in names if not is_role(name)]


def as_number(text: str) -> float | None:
    """Return a cell of a table as a finite number, or ``None`` for other text, such as ``58_1``."""
    if not _NUMBER.fullmatch(text.strip()):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Scan:
    """The images of one subject at one session.

    Attributes:
        id: ``"sub-07"`` or ``"sub-07_ses-1"``.
        subject: ``"sub-07"``; splits never cut through a subject.
        images: Path by contrast, e.g. ``{"T1w": …, "FLAIR": …}``.
        maps: Path by role: ``lesion-mask``, ``tissue`` (dseg), ``white-matter``, ``lesion-free`` (the twin of the
            T1w without lesions, where the truth is known), and masks of regions, for example ``brain-mask``. All
            belong to one image: the T1w, where there is one, or the contrast of `of_contrast`.
        covariates: Columns of participants.tsv and sessions.tsv, as text.
        files: All files by contrast and role, in a BIDS folder; ``images`` and ``maps`` are chosen from them.
        unpaired: Why none of the files of a role is used, by role.
    """

    id: str
    subject: str
    images: dict[str, Path] = field(default_factory=dict)
    maps: dict[str, Path] = field(default_factory=dict)
    covariates: dict[str, str] = field(default_factory=dict)
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict, repr=False)
    unpaired: Mapping[str, str] = field(default_factory=dict, repr=False)

    def lacks(self, needs: Iterable[str], labels: Iterable[str] = (), lesion_labels: Iterable[str] = ()) -> list[str]:
        """Return the needs and labels that this scan does not have.

        Args:
            needs: Contrasts and roles.
            labels: Columns of the subject's table that need a value.
            lesion_labels: Columns that each row of the table beside the lesion mask needs.

        Raises:
            DataError: The table beside the lesion mask cannot be read.
        """
        absent = [need for need in needs if need not in self.images and need not in self.maps]
        absent += [f"label {name}" for name in labels if self.covariates.get(name, "").lower() in _NOT_KNOWN]
        wanted = list(lesion_labels) if "lesion-mask" in self.maps else []
        rows = lesion_table(self.maps["lesion-mask"]).values() if wanted else []
        known = [name for name in wanted if rows and all(row.get(name, "").lower() not in _NOT_KNOWN for row in rows)]
        return absent + [f"lesion label {name}" for name in wanted if name not in known]

    def of_contrast(self, contrast: str) -> Scan:
        """Return the scan with the masks and segmentations of another of its images."""
        if not self.files or contrast not in self.images:
            return self
        maps, unpaired = _paired(self.images[contrast], self.files)
        return replace(self, maps=maps, unpaired=unpaired)


@dataclass(frozen=True)
class Cohort:
    """Scans found in one place.

    Attributes:
        root: The BIDS folder or the manifest.
        scans: Sorted by id.
        notes: Sentences on images that were left out or chosen.
    """

    root: Path
    scans: tuple[Scan, ...]
    notes: tuple[str, ...] = ()

    def with_all(self, needs: Sequence[str], labels: Sequence[str] = (), lesion_labels: Sequence[str] = ()) -> Cohort:
        """Keep the scans that have all of ``needs`` and labels; say in ``notes`` what the others lack.

        Masks and segmentations are those of the first contrast among ``needs``.

        Args:
            needs: Contrasts and roles.
            labels, lesion_labels: Columns, see `Scan.lacks`.

        Raises:
            DataError: No scan has them all; the message says what is found, and which subjects lack which labels.
        """
        contrast = next(iter(_contrasts(needs)), "")
        scans = [scan.of_contrast(contrast) for scan in self.scans]
        absent = {scan.id: scan.lacks(needs, labels, lesion_labels) for scan in scans}
        kept = tuple(scan for scan in scans if not absent[scan.id])
        without = [scan for scan in scans if absent[scan.id]]
        lacking = [_lack(scan, absent[scan.id]) for scan in without]
        said = {f"{scan.id}: {why}" for scan in without for why in scan.unpaired.values()}
        notes = [note for note in self.notes if note not in said]
        if not kept:
            found = sorted({name for scan in self.scans for name in (*scan.images, *scan.maps)})
            reasons = [note for note in (*lacking, *notes) if "not used" in note or "label" in note][:3]
            wanted = [*needs, *(f"label {name}" for name in labels), *(f"lesion label {n}" for n in lesion_labels)]
            raise DataError(
                f"None of the {len(self.scans)} scans in {self.root} has {', '.join(wanted)}; found: "
                f"{', '.join(found) or 'nothing'}. {' '.join(f'{reason}.' for reason in reasons)}"
                f"{' ' if reasons else ''}See: zoo data check {self.root}"
            )
        return Cohort(self.root, kept, (*notes, *lacking))

    def fit_for(self, data: DataConfig, needs: Iterable[str] = ()) -> Cohort:
        """Keep the scans that training can use, see `with_all`.

        Args:
            data: Its channels, regions and labels are needed.
            needs: Of a method; its roles are needed, too. Its contrasts are replaced by those of ``data``.

        Raises:
            DataError: No scan has all of them.
        """
        roles = [need for need in needs if is_role(need)]
        wanted = dict.fromkeys((*data.images, *roles, *data.regions))
        return self.with_all(tuple(wanted), data.labels, data.lesion_labels)

    def subset(self, subjects: Iterable[str]) -> Cohort:
        """Keep the scans of ``subjects``."""
        wanted = set(subjects)
        return Cohort(self.root, tuple(scan for scan in self.scans if scan.subject in wanted), self.notes)

    def named(self, subjects: Sequence[str]) -> Cohort:
        """Keep the scans of ``subjects``, all of which must be there; all scans where none is named.

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


def _lack(scan: Scan, lacking: Sequence[str]) -> str:
    why = [scan.unpaired[role] for role in lacking if role in scan.unpaired]
    return f"{scan.id} has no {', '.join(lacking)}" + (f": {'; '.join(why)}" if why else "")


@dataclass(frozen=True)
class Split:
    """The subjects for training, validation and test; no subject is in two."""

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
        DataError: A named subject does not exist or is named for both, or no subject is left to train on.
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

    A manifest has one scan per line: ``participant_id``, optionally ``session_id``, a column for each contrast
    (``T1w``, ``FLAIR`` …) and role (``lesion-mask``, ``tissue``, ``white-matter``, ``lesion-free``) with paths
    relative to the manifest, and any further columns as covariates. A column that ends in ``-mask`` holds masks of a
    region (``brain-mask``). In a BIDS folder those are named by label or are a brain mask: ``label-thalamus_mask``
    is ``thalamus-mask``, and ``desc-brain_mask`` is ``brain-mask``.

    Raises:
        DataError: The path is missing, is neither, or holds no scan; a manifest names a missing file; an id
            occurs twice or does not follow BIDS; a table cannot be read.
    """
    if path.is_dir():
        return _read_bids(path)
    if path.suffix == ".tsv" and path.is_file():
        return _read_manifest(path)
    if not path.exists():
        raise DataError(f"There is no {path}; give a BIDS folder or a .tsv manifest (zoo data phantom makes a cohort).")
    raise DataError(f"{path} is neither a BIDS folder nor a .tsv manifest.")


# --- Tables. ---


def _read_tsv(path: Path, key: str, notes: list[str]) -> list[dict[str, str]]:
    """Return the rows of a table; ``key`` is the column that each row needs, in upper or lower case."""
    if not path.is_file():
        raise DataError(f"{path} is no file; a table of tab-separated columns is wanted, or none at all.")
    try:
        raw = path.read_bytes()
        rows = list(csv.DictReader(io.StringIO(_decode(raw, path, notes), newline=""), delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from None
    table: list[dict[str, str]] = []
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise DataError(f"{path} line {number} has more columns than the header.")
        named: dict[str, str] = {}
        for column, cell in row.items():
            name = column.strip()
            name = name.lower() if name.lower() in ("participant_id", "session_id") else name
            if name in named:
                raise DataError(f"{path} has two columns {name!r}; rename or remove one of them.")
            named[name] = (cell or "").strip()
        if not named.get(key):
            raise DataError(f"{path} line {number} has no {key} (columns are separated by tabs).")
        table.append(named)
    return table


def _decode(raw: bytes, path: Path, notes: list[str]) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        notes.append(f"{path.name} is not UTF-8; it is read as Latin-1")
        return raw.decode("latin-1")


def lesion_table(mask: Path) -> dict[int, dict[str, str]]:
    """Read the table beside a lesion mask, with the labels of each numbered lesion.

    The table is named like the mask and follows the convention of BIDS for labels of a segmentation: the column
    ``index`` is the value of a lesion's voxels in the mask, for example 3 for all voxels of the third lesion; all
    further columns are labels. ``sub-07_label-lesion_mask.tsv`` belongs to ``sub-07_label-lesion_mask.nii.gz``.

    Returns:
        Labels by index; empty where there is no table.

    Raises:
        DataError: The table cannot be read, an index is no whole number above 0, or occurs twice.
    """
    table = mask.with_name(f"{mask.name.removesuffix('.gz').removesuffix('.nii')}.tsv")
    rows: dict[int, dict[str, str]] = {}
    for row in _read_tsv(table, "index", []) if table.exists() or table.is_symlink() else ():
        text = row.pop("index")
        if not text.isdecimal() or not 0 < int(text) < 2**16:
            raise DataError(f"{table} has the index {text!r}; an index is the value of a lesion in the mask, from 1.")
        if int(text) in rows:
            raise DataError(f"{table} has two rows for index {text}; keep one.")
        rows[int(text)] = row
    return rows


def _subject_name(text: str) -> str:
    return text if text.startswith("sub-") else f"sub-{text}"


def _session_name(text: str) -> str:
    session = text.removeprefix("ses-")
    return "" if session.lower() in _NOT_KNOWN else session


def _participants(table: Path, notes: list[str]) -> dict[tuple[str, str], dict[str, str]]:
    """Return the columns of participants.tsv by subject and session; the session is empty if not given."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    if not (table.exists() or table.is_symlink()):
        return found
    for row in _read_tsv(table, "participant_id", notes):
        subject, session = _subject_name(row.pop("participant_id")), _session_name(row.pop("session_id", ""))
        if (subject, session) in found:
            raise DataError(
                f"{table} has two rows for {subject}{f' ses-{session}' if session else ''}. Keep one, or tell them "
                "apart by a column session_id."
            )
        found[subject, session] = row
    return found


def _sessions(root: Path, subject: str, notes: list[str]) -> dict[str, dict[str, str]]:
    """Return the columns of a subject's sessions.tsv by session, without the date."""
    table = root / subject / f"{subject}_sessions.tsv"
    found: dict[str, dict[str, str]] = {}
    if not (table.exists() or table.is_symlink()):
        return found
    for row in _read_tsv(table, "session_id", notes):
        session = _session_name(row.pop("session_id"))
        if session in found:
            raise DataError(f"{table} has two rows for ses-{session}; keep one.")
        row.pop("acq_time", None)  # the date of an examination is no covariate
        found[session] = row
    return found


def _covariates(
    subject: str,
    session: str,
    participants: Mapping[tuple[str, str], Mapping[str, str]],
    sessions: Mapping[str, Mapping[str, str]],
    table: Path,
) -> dict[str, str]:
    """Merge the columns of the subject and of the session; the session overrides."""
    rows = [participants.get((subject, "")), participants.get((subject, session)), sessions.get(session)]
    several = [key for key in participants if key[0] == subject and key[1]]
    if not session and several:
        if len(several) > 1:
            raise DataError(
                f"{table} has {len(several)} rows for {subject}, one per session, but its images tell no session; keep "
                "one row, or name the images by session (ses-…)."
            )
        rows.append(participants[several[0]])
    merged: dict[str, str] = {}
    for row in rows:
        for name, cell in (row or {}).items():
            if name not in merged or cell.lower() not in _NOT_KNOWN:
                merged[name] = cell
    return merged


# --- Manifests. ---


def _read_manifest(path: Path) -> Cohort:
    scans: dict[str, Scan] = {}
    notes: list[str] = []
    for row in _read_tsv(path, "participant_id", notes):
        subject, session = _subject_name(row.pop("participant_id")), _session_name(row.pop("session_id", ""))
        if not _SUBJECT.fullmatch(subject) or (session and not _SESSION.fullmatch(session)):
            wrong = f"session_id {session!r}" if _SUBJECT.fullmatch(subject) else f"participant_id {subject!r}"
            raise DataError(
                f"{path} has the {wrong}; ids are letters, digits, + and . alone, such as sub-07 and ses-1."
            )
        scan_id = subject + (f"_ses-{session}" if session else "")
        if scan_id in scans:
            raise DataError(f"{path} has two lines for {scan_id}; keep one, or tell them apart by a column session_id.")
        images: dict[str, Path] = {}
        maps: dict[str, Path] = {}
        covariates: dict[str, str] = {}
        for column, value in row.items():
            if not is_role(column) and not value.endswith(_IMAGE_SUFFIXES):
                covariates[column] = value
            elif value and value != "n/a":
                (maps if is_role(column) else images)[column] = _named_file(path, value, column, subject)
        reference = images.get(_reference(images))
        apart = {role: different_spaces(reference, file) for role, file in maps.items() if reference}
        unpaired = {role: f"{maps[role].name} is not used: {why}" for role, why in apart.items() if why}
        maps = {role: file for role, file in maps.items() if role not in unpaired}
        notes += [f"{scan_id}: {why}" for why in unpaired.values()]
        scans[scan_id] = Scan(scan_id, subject, images, maps, covariates, unpaired=unpaired)
    if not scans:
        raise DataError(f"{path} has no lines.")
    return Cohort(path, tuple(scans[key] for key in sorted(scans)), tuple(notes))


def _named_file(manifest: Path, value: str, column: str, subject: str) -> Path:
    """Return a file of a manifest; accents may be composed in one of the names and decomposed in the other."""
    for form in (value, unicodedata.normalize("NFC", value), unicodedata.normalize("NFD", value)):
        if (target := manifest.parent / form).is_file():
            return target
    raise DataError(f"{manifest} names {value} as {column} of {subject}, but there is no such file.")


# --- BIDS folders. ---

_Files = dict[str, list[Path]]


def _read_bids(root: Path) -> Cohort:
    notes: list[str] = []
    found = _find_files(root, notes)
    if not found:
        raise DataError(
            f"{root} holds no scan: no sub-*/anat/*.nii.gz was found. Give the folder that has the sub-* folders."
            + "".join(f" {note}." for note in notes)
        )
    _share_among_sessions(found, notes)
    table = root / "participants.tsv"
    participants = _participants(table, notes)
    # A mask of a region alone makes no scan.
    found = {key: files for key, files in found.items() if _contrasts(files) or set(files) & set(ROLES)}
    with_images = {subject for (subject, _), files in found.items() if _contrasts(files)}
    scans: list[Scan] = []
    sessions: dict[str, dict[str, str]] = {}
    known = ""
    for (subject, session), files in sorted(found.items()):
        if subject != known:
            known, sessions = subject, _sessions(root, subject, notes)
        scan_id = subject + (f"_ses-{session}" if session else "")
        covariates = _covariates(subject, session, participants, sessions, table)
        scans.append(_choose(scan_id, subject, files, covariates, notes))
        if not scans[-1].images and subject in with_images:
            notes.append(f"{scan_id} has {', '.join(scans[-1].maps)} but no image of that session")
    absent = sorted({subject for subject, _ in participants} - {scan.subject for scan in scans})
    notes += [f"{subject} is in participants.tsv but has no image" for subject in absent]
    return Cohort(root, tuple(scans), tuple(notes))


def _find_files(root: Path, notes: list[str]) -> dict[tuple[str, str], _Files]:
    """Return the files that can be used, by subject and session, then by contrast or role."""
    found: dict[tuple[str, str], _Files] = defaultdict(lambda: defaultdict(list))
    lookalikes: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for folder in (root, *sorted((root / "derivatives").glob("*/"))):
        # Only the depth that BIDS has: a run folder or a copy inside the dataset is not read.
        for pattern in ("sub-*/anat/*.nii*", "sub-*/ses-*/anat/*.nii*"):
            for file in sorted(folder.glob(pattern)):
                if not file.name.endswith(_IMAGE_SUFFIXES):
                    continue
                name = bids_name(file)
                key = _what_it_is(name, derivative=folder is not root or _is_derivative(root))
                if key is None:
                    if "lesion" in file.name.lower() and name.suffix in _NO_CONTRAST:
                        kind = "_".join([*(f"desc-{v}" for k, v in name.entities.items() if k == "desc"), name.suffix])
                        lookalikes[kind] += 1
                        examples.setdefault(kind, file.name)
                    continue
                subject, session = name.entities.get("sub", ""), name.entities.get("ses", "")
                if file.relative_to(folder).parts[:-2] != (f"sub-{subject}", *([f"ses-{session}"] if session else [])):
                    where = file.relative_to(root)
                    notes.append(f"{where} is not used: its name has another subject or session than its folder")
                    continue
                found[f"sub-{subject}", session][key].append(file)
    notes += [
        f"{examples[kind]}{f' (and {count - 1} more)' if count > 1 else ''} looks like a lesion mask and is not used; "
        "lesion masks are named sub-…_label-lesion_mask.nii.gz"
        for kind, count in lookalikes.items()
    ]
    return found


def _is_derivative(root: Path) -> bool:
    return root.parent.name == "derivatives"


def _what_it_is(name: BidsName, *, derivative: bool) -> str | None:
    """Return the contrast or role of a BIDS image, ``None`` for images that the zoo does not use."""
    if name.suffix == "mask":
        label = name.entities.get("label", "").lower()
        if not label and name.entities.get("desc", "").lower() == "brain":
            label = "brain"
        if not label or ("lesion" in label and label != "lesion"):
            return None
        return "white-matter" if label == "wm" else f"{label}-mask"
    if name.suffix == "dseg":
        lesions = any("lesion" in name.entities.get(key, "").lower() for key in ("desc", "label"))
        return None if lesions else "tissue"
    if name.suffix in _NO_CONTRAST:
        return None
    if derivative:
        return "lesion-free" if name.entities.get("desc") == "lesionfree" and name.suffix == "T1w" else None
    # An image after contrast agent is a contrast of its own; so is each echo.
    told = [f"{key}-{name.entities[key]}" for key in ("ce", "echo") if key in name.entities]
    return "_".join([*told, name.suffix])


def _share_among_sessions(found: dict[tuple[str, str], _Files], notes: list[str]) -> None:
    """Give masks without a session in their names to the sessions whose images lie in the same space."""
    for subject in sorted({subject for subject, session in found if not session}):
        shared = found[subject, ""]
        sessions = [
            session for name, session in found if name == subject and session and _contrasts(found[name, session])
        ]
        if _contrasts(shared) or not sessions:
            continue
        for role, files in shared.items():
            for file in files:
                if not bids_name(file).space and len(sessions) > 1:
                    notes.append(
                        f"{file.name} is not used: its name has no session, and {subject} has images in "
                        f"{', '.join(f'ses-{session}' for session in sorted(sessions))}. Name it by its session, or "
                        "images and mask by their common space (space-…)"
                    )
                    continue
                for session in sessions:
                    found[subject, session][role].append(file)
        del found[subject, ""]


def _choose(scan_id: str, subject: str, files: _Files, covariates: dict[str, str], notes: list[str]) -> Scan:
    images: dict[str, Path] = {}
    for contrast in _contrasts(files):
        candidates = files[contrast] = sorted(files[contrast], key=_plainest)
        # Prefer the image on which a mask was drawn over a plain name.
        drawn_on = [image for image in candidates if any(_exact(image, mask) for mask in files.get("lesion-mask", ()))]
        images[contrast] = next(iter(drawn_on), candidates[0])
        if len(candidates) > 1:
            why = ", since the lesion mask is of it" if drawn_on and drawn_on[0] != candidates[0] else ""
            notes.append(f"{scan_id} has {len(candidates)} images for {contrast}; {images[contrast].name} is used{why}")
    if not images:
        maps = {role: sorted(masks, key=_plainest)[0] for role, masks in files.items()}
        return Scan(scan_id, subject, {}, maps, covariates)
    maps, unpaired = _paired(images[_reference(images)], files)
    notes += [f"{scan_id}: {why}" for why in unpaired.values()]
    for role, file in maps.items():
        fitting = [other for other in files[role] if disagreement(images[_reference(images)], other) is None]
        if len(fitting) > 1:
            notes.append(f"{scan_id} has {len(fitting)} images for {role}; {file.name} is used")
    return Scan(scan_id, subject, images, maps, covariates, files, unpaired)


def _reference(images: Iterable[str]) -> str:
    """Return the contrast whose masks are used by default."""
    return "T1w" if "T1w" in images else min(images, default="")


def _plainest(file: Path) -> tuple[int, str]:
    """Order files by how plain their names are: without acquisition, run or space entities first."""
    return len(bids_name(file).entities), file.name


def _exact(image: Path, mask: Path) -> bool:
    return disagreement(image, mask) is None and bids_name(image).acquisition == bids_name(mask).acquisition


def _paired(image: Path, files: Mapping[str, Sequence[Path]]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the file of each role that belongs to ``image``, and for the other roles the reason, with both names."""
    rivals = next((files[key] for key in _contrasts(files) if image in files[key]), [image])
    maps: dict[str, Path] = {}
    unpaired: dict[str, str] = {}
    for role in (*ROLES, *sorted(key for key in files if is_role(key) and key not in ROLES)):
        if not files.get(role):
            continue
        reasons = []
        for file in sorted(files[role], key=lambda file: (not _exact(image, file), _plainest(file))):
            why = disagreement(image, file)
            others = [other for other in rivals if other != image and disagreement(other, file) is None]
            if why is None and others and not _exact(image, file):
                better = [other for other in others if _exact(other, file)] or [image, *others]
                why = f"it may be of {' or '.join(other.name for other in better)}; name it like its image"
            if why is None:
                maps[role] = file
                break
            reasons.append(f"{file.name} is not used with {image.name}: {why}")
        else:
            unpaired[role] = "; ".join(reasons)
    return maps, unpaired
