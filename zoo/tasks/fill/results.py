"""The files of a fill: where they go, which of them may be replaced, and what is said of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.errors import DataError
from zoo.imaging.volume import made_by_zoo
from zoo.report import MARK
from zoo.system.files import LONGEST_NAME, sha256

PAGE_MARKER = "The voxels inside the masks are synthetic."
"""Stands at the end of every quality page."""


@dataclass(frozen=True)
class FillCounts:
    """Voxels of the image's own grid, three ways apart; a voxel has changed where any contrast or volume of it has.

    Attributes:
        drawn, drawn_changed: Of the lesions that were to be filled, as the user drew them.
        added, added_changed: Of the rim that dilation added to them.
        outside, outside_changed: All others; none of them changes.
    """

    drawn: int
    drawn_changed: int
    added: int
    added_changed: int
    outside: int
    outside_changed: int

    def __str__(self) -> str:
        return (
            f"Drawn: {self.drawn_changed} of {self.drawn} voxels changed. Added by dilation: {self.added_changed} of "
            f"{self.added} changed. Outside both: {self.outside_changed} of {self.outside} changed."
        )

    def __add__(self, other: FillCounts) -> FillCounts:
        return FillCounts(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    def to_sidecar(self) -> dict[str, int]:
        """Return the counts by their names in the JSON beside an image."""
        return {
            "VoxelsDrawn": self.drawn,
            "VoxelsDrawnChanged": self.drawn_changed,
            "VoxelsAdded": self.added,
            "VoxelsAddedChanged": self.added_changed,
            "VoxelsOutside": self.outside,
            "VoxelsOutsideChanged": self.outside_changed,
        }

    @classmethod
    def from_sidecar(cls, sidecar: dict[str, Any]) -> FillCounts:
        """Read what `to_sidecar` wrote."""
        names = cls(0, 0, 0, 0, 0, 0).to_sidecar()
        return cls(*(int(sidecar[name]) for name in names))


@dataclass(frozen=True)
class ResultFiles:
    """The filled image and what stands beside it.

    Attributes:
        image: ``.nii.gz`` or ``.nii``.
    """

    image: Path

    @property
    def sidecar(self) -> Path:
        """What was done, JSON."""
        return self._beside(".json")

    @property
    def picture(self) -> Path:
        """Before, after and difference, PNG."""
        return self._beside(".png")

    @property
    def deviation(self) -> Path:
        """Standard deviation of several samples."""
        return self._beside("-sd.nii.gz")

    def _beside(self, ending: str) -> Path:
        return self.image.with_name(self.image.name.removesuffix(".gz").removesuffix(".nii") + ending)

    def every(self) -> list[Path]:
        """Return every file that a fill may write."""
        return [self.image, self.sidecar, self.picture, self.deviation]

    def made_by_zoo(self, file: Path) -> bool:
        """Tell whether one of the files is this program's: by its own mark, or as the sidecar says."""
        sidecar = read_sidecar(self.sidecar)
        if file == self.sidecar:
            return sidecar is not None
        # Sidecars of format 1 list no files.
        return _marked(file) or (sidecar is not None and file.name in sidecar.get("OutputSHA256", [file.name]))

    def are_whole(self) -> bool:
        """Tell whether every file that the sidecar lists is there as it was written."""
        hashes = (read_sidecar(self.sidecar) or {}).get("OutputSHA256")
        if not isinstance(hashes, dict) or self.image.name not in hashes:
            return False
        files = [(self.image.with_name(name), digest) for name, digest in hashes.items()]
        return all(file.is_file() and sha256(file) == digest for file, digest in files)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one where there is none."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return what filling wrote about an image; ``None`` where there is no such file or it is another's."""
    stored = read_object(path)
    ours = stored.get("Synthetic") is True and isinstance(stored.get("Method"), str)
    return stored if ours else None


def _marked(file: Path) -> bool:
    if file.suffix == ".png":
        try:
            with file.open("rb") as picture:
                return MARK.encode() in picture.read(1024)
        except OSError:
            return False
    return made_by_zoo(file)


def check_results(results: Sequence[ResultFiles], inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse places that results must not be written to, before anything is computed.

    Args:
        results: One per contrast.
        inputs: Images and masks.
        overwrite: Files that this program did not make may be replaced; an input never is.

    Raises:
        DataError: A result would replace an input, another result or a file of somebody else, lies inside the dataset
            of an input but not in its derivatives, or has a name or folder that cannot be written.
    """
    sources = {os.path.realpath(path) for path in inputs}
    taken: set[str] = set()
    for files in results:
        if not files.image.name.endswith((".nii", ".nii.gz")):
            raise DataError(f"--out {files.image} must end in .nii.gz or .nii.")
        for file in files.every():
            place = os.path.realpath(file)
            if place in sources:
                raise DataError(f"--out {files.image} is the input, or {file.name} beside it is; name another file.")
            if place in taken:
                raise DataError(f"Two results would be written to {file}; give each image another --out.")
            taken.add(place)
            _check_place(file)
        _check_dataset(files.image, sources)
    if overwrite:
        return
    foreign = [file for files in results for file in files.every() if os.path.lexists(file)
               and not files.made_by_zoo(file)]  # fmt: skip
    if foreign:
        raise DataError(
            f"{', '.join(map(str, foreign))} {'is' if len(foreign) == 1 else 'are'} there already and not made by this "
            "program. Choose another --out, or replace with --overwrite."
        )


def check_page(page: Path, others: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse a place for the quality page, as `check_results` does for images.

    Raises:
        DataError: It is one of ``others``, a folder, or a file of somebody else.
    """
    if os.path.realpath(page) in {os.path.realpath(path) for path in others}:
        raise DataError(f"The quality page {page} is an input or result; name another file.")
    _check_place(page)
    if page.exists() and not overwrite and PAGE_MARKER.encode() not in page.read_bytes():
        raise DataError(f"{page} is there already and no quality page. Choose another place, or use --overwrite.")


def _check_place(file: Path) -> None:
    """Refuse a name or folder that cannot be written, and a pipe, which nobody could look into."""
    if len(os.fsencode(file.name)) > LONGEST_NAME or "\0" in str(file):
        raise DataError(f"{str(file)!r} cannot be the name of a file; choose a shorter, plain one.")
    if os.path.exists(file) and not os.path.isfile(file):
        kind = "folder" if os.path.isdir(file) else "pipe, socket or device"
        raise DataError(f"{file} is a {kind}; name another file.")
    above = next(folder for folder in file.absolute().parents if os.path.lexists(folder))
    if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
        raise DataError(f"{file} cannot be written: {above} is no folder or may not be written to.")


def dataset_of(path: Path) -> Path | None:
    """Return the BIDS dataset that a file lies in, ``None`` where it lies in none."""
    return next((folder for folder in path.parents if (folder / "dataset_description.json").is_file()), None)


def _check_dataset(output: Path, sources: Iterable[str]) -> None:
    target = Path(os.path.realpath(output))
    for source in map(Path, sources):
        root = dataset_of(source)
        if root and target.is_relative_to(root) and not target.is_relative_to(root / "derivatives"):
            raise DataError(
                f"--out {output} lies inside the dataset of the input; write to {root}/derivatives or outside."
            )
