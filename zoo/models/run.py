"""The run folder: all that a training leaves, and what it needs to resume.

runs/NAME/2026-01-31T10-20-30/
  run.json  metrics.jsonl  checkpoints/000004096/  model.safetensors  golden.safetensors
  README.md  report.html  samples/  evaluations/  exports/  benchmarks/
  stages/STAGE/  the same for each stage of a method that has several, and made/ for what later stages read
  folds/0/       the same for each fold of ``zoo train --folds``
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from zoo.config import differences
from zoo.errors import ArtifactError, ConfigError
from zoo.system.files import explain_write_error, locked, refuse_newer, replacing, write_text

FORMAT = 1
"""Version of the manifest and the run folder; a higher one is refused."""

MADE_FILE = "made/made.json"
"""Below a stage's folder, once all that later stages read is made."""


@dataclass(frozen=True)
class StageStatus:
    """Where a stage of a run stands.

    Attributes:
        name: Of the stage.
        status: ``"waiting"``, ``"training"``, ``"stopped"``, ``"making"`` (what later stages read) or ``"finished"``;
            a stage is finished when its folds are and all is made.
        images_seen: Images it was trained on.
    """

    name: str
    status: str
    images_seen: int


class Run:
    """One run folder.

    Attributes:
        folder: Where it is.
        record: Content of ``run.json``: format, status, method, config, split, data fingerprint, environment.
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder = folder
        self.record = record

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run folder.

        Raises:
            ArtifactError: There is no run, it is damaged, or newer than this version knows.
        """
        file = folder / "run.json"
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            format_number = int(record["format"])
        except FileNotFoundError:
            raise ArtifactError(f"{folder} is not a run folder: it has no run.json.") from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ArtifactError(f"{file} is damaged: {error}.") from None
        refuse_newer(file, format_number, FORMAT)
        return cls(folder, record)

    @classmethod
    def create(cls, folder: Path, record: Mapping[str, Any]) -> Run:
        """Make a run folder.

        Raises:
            ArtifactError: The folder holds something else, or cannot be written.
        """
        if folder.exists() and (not folder.is_dir() or any(entry.name != ".lock" for entry in folder.iterdir())):
            raise ArtifactError(f"{folder} is there already and is not a run; choose another --out.")
        run = cls(folder, {"format": FORMAT, "status": "new", **record, "environment": environment()})
        run.save()
        return run

    def save(self, **changes: Any) -> None:
        """Write ``run.json`` with ``changes``."""
        self.record.update(changes)
        write_text(self.folder / "run.json", json.dumps(self.record, indent=2) + "\n")

    def check_same(self, record: Mapping[str, Any]) -> None:
        """Refuse to resume with different settings or data.

        Raises:
            ConfigError: Names each difference, and the version that started the run where it is another one.
        """
        from zoo import __version__

        changed = differences(self.record["config"], record["config"])
        changed += [
            f"{key}: {self.record.get(key)} → {record.get(key)}"
            for key in ("method", "method_version", "data_fingerprint", "split", "stages", "folds", "from")
            if self.record.get(key) != record.get(key)
        ]
        if changed:
            started_by = self.record["environment"]["zoo"]
            install = f" and version (pip install mri-zoo=={started_by})" if started_by != __version__ else ""
            raise ConfigError(
                f"{self.folder} was started by mri-zoo {started_by} with different settings or data "
                f"({'; '.join(changed)}). Resume it with its own settings{install}, or start another run with another "
                "--out."
            )

    def stages(self) -> list[StageStatus]:
        """Return where each stage stands, in order; empty for a method of one training."""
        return [
            self._stage(about["name"], about["folds"], makes=about["makes"]) for about in self.record.get("stages", ())
        ]

    def _stage(self, name: str, folds: int, *, makes: bool) -> StageStatus:
        folder = self.folder / "stages" / name
        if not (folder / "run.json").is_file():
            return StageStatus(name, "waiting", 0)
        record = Run.open(folder).record
        parts = [folder, *(folder / "folds" / str(fold) for fold in range(folds))]
        statuses = [Run.open(part).record["status"] for part in parts if (part / "run.json").is_file()]
        if len(statuses) < len(parts) or set(statuses) != {"finished"}:
            status = "stopped" if "stopped" in statuses else "training"
        elif makes and not (folder / MADE_FILE).is_file():
            status = "making"
        else:
            status = "finished"
        return StageStatus(name, status, record.get("images_seen", 0))

    def checkpoints(self) -> list[Path]:
        """Return the whole checkpoints, oldest first."""
        folder = self.folder / "checkpoints"
        return sorted(entry for entry in folder.glob("[0-9]*") if entry.is_dir()) if folder.is_dir() else []

    def checkpoint(self, images_seen: int) -> Path:
        """Return the folder of the checkpoint after ``images_seen`` images, whether it is there or not."""
        return self.folder / "checkpoints" / f"{images_seen:09d}"

    @contextmanager
    def new_checkpoint(self, images_seen: int) -> Iterator[Path]:
        """Yield an empty folder that becomes checkpoint ``images_seen`` when the block ends well."""
        with replacing(self.checkpoint(images_seen)) as temporary:
            temporary.mkdir()
            yield temporary

    def drop_checkpoints(self, keep: int, best: int | None) -> None:
        """Remove all but the newest ``keep`` checkpoints and the one at ``best`` images."""
        for folder in self.checkpoints()[:-keep]:
            if int(folder.name) != best:
                shutil.rmtree(folder)

    def remove_leftovers(self) -> None:
        """Remove what a killed training had half written; the caller holds the lock."""
        for pattern in (".part-*", "checkpoints/.part-*", "samples/.part-*", "stages/**/.part-*"):
            for path in list(self.folder.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``.

        Raises:
            ArtifactError: The disk is full or the folder cannot be written.
        """
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise explain_write_error(error, path) or error from error

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``; a last line cut short by a kill is left out."""
        path = self.folder / "metrics.jsonl"
        lines: list[dict[str, Any]] = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
        return lines

    def forget_after(self, images_seen: int) -> None:
        """Drop the lines of ``metrics.jsonl`` past a checkpoint; the steps behind them are done again."""
        kept = [json.dumps(line) for line in self.metrics() if line["images"] <= images_seen]
        write_text(self.folder / "metrics.jsonl", "".join(f"{line}\n" for line in kept))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes off this folder; the system frees the lock when the process ends, however it ends.

        Raises:
            ArtifactError: Another process trains here, or the folder cannot be written.
        """
        busy = f"Another process is training in {self.folder}; wait for it, or choose another --out."
        with locked(self.folder, busy):
            yield


def newest_run(method: str, runs: Path) -> Run | None:
    """Return the newest run of ``method`` below ``runs``, by its name's date."""
    folders = sorted(file.parent for file in (runs / method).glob("*/run.json"))
    return Run.open(folders[-1]) if folders else None


def new_run_folder(method: str, runs: Path) -> Path:
    """Return ``runs/METHOD/2026-01-31T10-20-30``, with a number behind it where that is taken."""
    stem = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(runs / method / name for name in names if not (runs / method / name).exists())


def environment() -> dict[str, str]:
    """Return versions and machine, without names of users, hosts or folders."""
    import torch

    from zoo import __version__

    found = {
        "zoo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
    return found
