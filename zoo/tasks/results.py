"""The files of a result: where they may be written, and which of them this program may replace."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import DataError
from zoo.imaging.volume import made_by_zoo
from zoo.report import MARK
from zoo.system.files import LONGEST_NAME, sha256
from zoo.tasks.provenance import read_object, read_sidecar


@dataclass(frozen=True)
class ResultFiles:
    """An image that a verb makes, and the files beside it.

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
        """Return every file that a verb may write for the image."""
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
        DataError: A result would replace an input, another result or a file that this program did not make; lies inside
            the dataset of an input but outside its derivatives; or has a name or folder that cannot be written.
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
            check_place(file)
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


def check_place(file: Path) -> None:
    """Refuse a file that cannot be written.

    Raises:
        DataError: Its name is too long, its folder cannot be written to, or it is a folder, pipe, socket or device.
    """
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


def bids_fields(image: Path) -> dict[str, Any]:
    """Return the sidecar fields that BIDS asks of a derived image.

    Args:
        image: The image that the result was made from; the result lies on its grid.
    """
    root = dataset_of(image.absolute())
    source = image.absolute().relative_to(root).as_posix() if root else image.name
    known = read_object(ResultFiles(image).sidecar)
    fields: dict[str, Any] = {"Sources": [source]}
    if isinstance(known.get("SkullStripped"), bool):
        fields["SkullStripped"] = known["SkullStripped"]
    if "_space-" in image.name:
        # The result lies on the source's grid, whichever template that was brought to.
        fields["SpatialReference"] = known.get("SpatialReference", source)
    return fields
