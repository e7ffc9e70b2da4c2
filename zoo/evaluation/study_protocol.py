"""A study protocol: which subjects and lesion masks are for training, which for choices, which for the test."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from zoo.config import Config, read_config_file, validate
from zoo.errors import DataError
from zoo.imaging.cohort import Cohort, read_cohort
from zoo.system.files import sha256

PartName = Literal["training", "tuning", "test"]


class Part(Config):
    """Subjects and lesion masks for one purpose; cohorts are folders in the folder given as ``--data``."""

    cohort: str = Field(description="BIDS folder or .tsv manifest")
    subjects: tuple[str, ...] = Field((), description="By name; none: all subjects of the cohort")
    lesion_masks: str | None = Field(None, description="Cohort whose lesion masks are placed on these subjects")
    lesion_mask_subjects: tuple[str, ...] = Field((), description="Patients whose masks are used; none: all")


class ProtocolFile(Config):
    """Content of a protocol's TOML file; no subject and no patient's masks are in two parts."""

    name: str = Field(min_length=1)
    training: Part
    tuning: Part
    test: Part

    @model_validator(mode="after")
    def _parts_are_apart(self) -> ProtocolFile:
        parts = {"training": self.training, "tuning": self.tuning, "test": self.test}
        for (first, one), (second, other) in combinations(parts.items(), 2):
            if one.cohort == other.cohort:
                _check_apart(f"[{first}] and [{second}]: subjects", one.subjects, other.subjects)
            if one.lesion_masks is not None and one.lesion_masks == other.lesion_masks:
                what = f"[{first}] and [{second}]: lesion_mask_subjects"
                _check_apart(what, one.lesion_mask_subjects, other.lesion_mask_subjects)
        return self


def _check_apart(what: str, one: tuple[str, ...], other: tuple[str, ...]) -> None:
    if not (one and other):
        raise ValueError(f"{what} of a common cohort must be named in both parts, so that none is in two")
    both = sorted(set(one) & set(other))
    if both:
        raise ValueError(f"{what} must be apart, and {both[0]!r} is in both")


@dataclass(frozen=True)
class Protocol:
    """A protocol read from its file.

    Attributes:
        content: Its content.
        sha256: Hash of the file, saved with every score.
        folder: Folder of its cohorts.
    """

    content: ProtocolFile
    sha256: str
    folder: Path

    @classmethod
    def read(cls, file: Path, folder: Path) -> Protocol:
        """Read a protocol.

        Args:
            file: TOML.
            folder: Folder of its cohorts (``--data``).

        Raises:
            ConfigError: The file is missing or is no protocol; the message says what is wrong.
        """
        content = validate(ProtocolFile, read_config_file(file), what=f"the protocol {file.name}")
        return cls(content, sha256(file), folder)

    def training_settings(self) -> dict[str, Any]:
        """Return the settings ``data.*`` of a training.

        If training and tuning share a cohort, the tuning subjects are the validation subjects, on which a checkpoint is
        chosen.
        """
        training, tuning = self.content.training, self.content.tuning
        validated = tuning.subjects if tuning.cohort == training.cohort else ()
        masks = self._lesion_masks(training)
        return {
            "data": {
                "subjects": (*training.subjects, *validated),
                "validation": 0.0,
                "validation_subjects": validated,
                "test": 0.0,
                "test_subjects": (),
                "lesion_masks": masks,
                "lesion_mask_subjects": training.lesion_mask_subjects,
            }
        }

    def cohort_path(self, part: PartName) -> Path:
        """Return the cohort of a part."""
        return self.folder / self._part(part).cohort

    def evaluation_options(self, part: PartName) -> dict[str, Any]:
        """Return the options of an evaluator for a part."""
        chosen = self._part(part)
        options = {
            "lesion_masks": self._lesion_masks(chosen),
            "lesion_mask_subjects": chosen.lesion_mask_subjects,
        }
        return {name: value for name, value in options.items() if value}

    def subjects(self, part: PartName) -> Cohort:
        """Return the scans of a part.

        Raises:
            DataError: There is no such cohort, or it lacks a named subject.
        """
        return read_cohort(self.cohort_path(part)).named(self._part(part).subjects)

    def about(self, part: PartName) -> dict[str, str]:
        """Return what is saved with scores: name, hash and part."""
        return {"name": self.content.name, "sha256": self.sha256, "part": part}

    def _part(self, part: PartName) -> Part:
        return {"training": self.content.training, "tuning": self.content.tuning, "test": self.content.test}[part]

    def _lesion_masks(self, part: Part) -> str | None:
        if part.lesion_masks is None:
            return None
        path = self.folder / part.lesion_masks
        if not path.exists():
            raise DataError(
                f"There is no {path}, whose lesion masks the protocol {self.content.name!r} uses; --data is the folder "
                "that holds the protocol's cohorts."
            )
        return str(path)
