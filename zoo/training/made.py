"""What a stage makes for later stages: memory-mapped arrays, made batch by batch and resumed after a stop.

stages/NAME/
  making/000000012/error.npy      a batch, written whole or not at all; gone when all are made
  made/made.json  error.npy       all items, [N, ...]
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from zoo.descriptors import Stage
from zoo.errors import ConfigError
from zoo.models.run import MADE_FILE, Run
from zoo.progress import Progress
from zoo.randomness import MAKE, Randomness, seed_for
from zoo.system.files import replacing
from zoo.training.loop import Stop
from zoo.training.protocol import Maker


class Made(Mapping[str, np.ndarray]):
    """What one stage made, by name: memory-mapped arrays ``[N, ...]``, in the order of the maker's indices.

    Args:
        stage: The stage's folder.

    Attributes:
        subjects: Whose each item is; ``None`` for an item of no subject.
    """

    def __init__(self, stage: Path) -> None:
        description = json.loads((stage / MADE_FILE).read_text(encoding="utf-8"))
        self.subjects: tuple[str | None, ...] = tuple(description["subjects"])
        self._arrays = {name: np.load(stage / "made" / f"{name}.npy", mmap_mode="r") for name in description["names"]}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def of(self, subject: str) -> np.ndarray:
        """Return the indices of a subject's items, in order."""
        return np.array([index for index, name in enumerate(self.subjects) if name == subject], dtype=int)


def is_made(stage: Path) -> bool:
    """Tell whether all items of a stage's folder are made."""
    return (stage / MADE_FILE).is_file()


def made_by(run: Run, stages: Sequence[Stage]) -> dict[str, Made]:
    """Return what the stages of a run made, by the stage's name."""
    return {stage.name: Made(run.folder / "stages" / stage.name) for stage in stages if stage.make}


@dataclass(frozen=True)
class Making:
    """How a stage's items are made.

    Attributes:
        where: The stage and its plugin, for messages.
        folder: The stage's folder.
        makers: Returns the maker with the model of a fold, or with that of all training subjects for ``None``.
        shares: Subjects that each fold leaves out.
        batch_size: Items per call.
        seed: Of the stage.
    """

    where: str
    folder: Path
    makers: Callable[[int | None], Maker]
    shares: Sequence[Sequence[str]]
    batch_size: int
    seed: int

    def check(self, device: torch.device) -> None:
        """Make one item and store nothing, so that a mistake shows before the training.

        Raises:
            ConfigError: The maker returns what cannot be stored, or makes nothing.
        """
        maker = self.makers(None)
        if not len(maker):
            raise ConfigError(f"{self.where} makes nothing: its length is 0.")
        maker.subject(0)
        self._make(maker, [0], device)

    def make(self, fabric: Fabric, stop: Stop, progress: Progress) -> str:
        """Make all items that are not made yet; the first process works, the others wait.

        Returns:
            Why it stopped, or an empty text when all are made.

        Raises:
            ConfigError: The maker returns what cannot be stored.
        """
        first = fabric.is_global_zero
        subjects, batches = self._plan() if first else ([], [])
        count = fabric.broadcast(len(batches))
        makers = functools.lru_cache(maxsize=1)(self.makers)  # one model at a time
        for number in range(count):
            piece = self._piece(number)
            if first and not piece.is_dir():
                fold, indices = batches[number]
                maker = makers(fold)
                self._write(piece, self._like_the_first(self._make(maker, indices, fabric.device)))
            if first:
                progress(number + 1, count)
            reason = stop.reason(fabric)
            if reason:
                return reason
        if first:
            self._join(subjects, batches)
        fabric.barrier()
        return ""

    def _plan(self) -> tuple[list[str | None], list[tuple[int | None, list[int]]]]:
        """Return whose each item is, which indices are made together, and by the model of which fold."""
        maker = self.makers(None)
        subjects = [maker.subject(index) for index in range(len(maker))]
        fold_of = {subject: fold for fold, share in enumerate(self.shares) for subject in share}
        by_fold: dict[int | None, list[int]] = {None: []}
        for index, subject in enumerate(subjects):
            by_fold.setdefault(fold_of.get(subject) if subject is not None else None, []).append(index)
        batches = [
            (fold, indices[start : start + self.batch_size])
            for fold, indices in by_fold.items()
            for start in range(0, len(indices), self.batch_size)
        ]
        return subjects, batches

    def _make(self, maker: Maker, indices: list[int], device: torch.device) -> dict[str, np.ndarray]:
        random = Randomness([seed_for(self.seed, MAKE, index) for index in indices], device)
        with torch.inference_mode():
            items = maker.make(indices, random)
        if not isinstance(items, Mapping) or not items:
            raise ConfigError(f"{self.where} makes {items!r}; a maker returns tensors by name.")
        for name, value in items.items():
            if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != len(indices):
                found = list(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise ConfigError(f"{self.where}: {name!r} is {found} for {len(indices)} items; it must be [B, ...].")
        return {name: value.cpu().contiguous().numpy() for name, value in items.items()}

    def _piece(self, number: int) -> Path:
        return self.folder / "making" / f"{number:09d}"

    @staticmethod
    def _write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
        with replacing(folder) as temporary:
            temporary.mkdir()
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)

    def _like_the_first(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return a batch's arrays, or refuse them where they do not fit the first batch's."""
        files = self._piece(0).glob("*.npy")
        first = {file.stem: np.load(file, mmap_mode="r") for file in files}
        kinds = [{name: f"{one.dtype} {one.shape[1:]}" for name, one in each.items()} for each in (first, arrays)]
        if first and kinds[0] != kinds[1]:
            raise ConfigError(
                f"{self.where} makes {kinds[1]} in one batch, but {kinds[0]} in the first; make all alike."
            )
        return arrays

    def _join(self, subjects: Sequence[str | None], batches: Sequence[tuple[int | None, list[int]]]) -> None:
        """Put the batches together in the order of the indices."""
        names = sorted(file.stem for file in self._piece(0).glob("*.npy"))
        with replacing(self.folder / "made") as temporary:
            temporary.mkdir()
            for name in names:
                rows = [np.load(self._piece(number) / f"{name}.npy", mmap_mode="r") for number in range(len(batches))]
                whole = np.lib.format.open_memmap(
                    temporary / f"{name}.npy",
                    mode="w+",
                    dtype=rows[0].dtype,
                    shape=(len(subjects), *rows[0].shape[1:]),
                )
                for (_, indices), part in zip(batches, rows, strict=True):
                    whole[indices] = part
                whole.flush()
            description = {"names": names, "subjects": list(subjects)}
            (temporary / Path(MADE_FILE).name).write_text(json.dumps(description), encoding="utf-8")
        shutil.rmtree(self.folder / "making", ignore_errors=True)
