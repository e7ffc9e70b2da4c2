"""A training that starts from the stages of another run (``zoo train --stage NAME --from RUN``)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.config import differences
from zoo.descriptors import Method, Stage
from zoo.errors import ArtifactError, ConfigError, UnknownNameError, did_you_mean
from zoo.models.run import Run
from zoo.system.files import replacing


def check_source(source: Run, name: str, method: Method, record: Mapping[str, Any], stages: Sequence[Stage]) -> None:
    """Check that a new training can start from the stages before ``name`` of another run.

    Args:
        source: The other run.
        name: The first stage that is trained anew.
        method, record, stages: Of the new run.

    Raises:
        UnknownNameError: The method has no such stage.
        ConfigError: It is the first one, or the earlier stages have other settings or data.
        ArtifactError: The earlier stages are not done.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        known = ", ".join(names) or "none; it is trained at once"
        raise UnknownNameError(
            f"Method {method.name!r} has no stage {name!r}.{did_you_mean(name, names)} Stages: {known}."
        )
    number = names.index(name)
    if number == 0:
        raise ConfigError(
            f"Stage {name!r} is the first one, so it starts from no other run; leave --stage and --from out."
        )
    earlier = {_group(stage) for stage in stages[:number] if stage.trainer or stage.make}
    own = {_group(stage) for stage in stages[number:]} - earlier
    changed = [
        line
        for line in differences(source.record["config"], record["config"])
        if not any(line.startswith(f"{group}.") for group in own)
    ]
    changed += [
        f"{key}: {source.record.get(key)} → {record.get(key)}"
        for key in ("method", "method_version", "data_fingerprint", "split")
        if source.record.get(key) != record.get(key)
    ]
    if changed:
        free = ", ".join(f"{group}.*" for group in sorted(own)) or "no setting"
        raise ConfigError(
            f"The stages before {name!r} in {source.folder} were trained with different settings "
            f"({'; '.join(changed)}). Of the settings only these may differ: {free}. Train all stages anew without "
            "--stage and --from."
        )
    unfinished = [stage for stage in source.stages()[:number] if stage.status != "finished"]
    if unfinished:
        raise ArtifactError(
            f"Stage {unfinished[0].name!r} of {source.folder} is {unfinished[0].status}, so no run can start from it. "
            f"Run the same command to finish it: zoo train {method.name} --out {source.folder} …"
        )


def _group(stage: Stage) -> str:
    """Return where the settings of a stage stand: ``autoencoder`` for ``autoencoder.training``."""
    return stage.training.rpartition(".")[0] or stage.training


def take_over(run: Run) -> None:
    """Copy the stages that a run's record says it starts from; large files are linked, and the source stays as it is.

    Raises:
        ArtifactError: The source is gone.
    """
    source = Path(run.record["from"]["run"])
    names = [about["name"] for about in run.record["stages"]]
    for name in names[: names.index(run.record["from"]["stage"])]:
        folder = run.folder / "stages" / name
        if (folder / "run.json").is_file():
            continue
        if not (source / "stages" / name / "run.json").is_file():
            raise ArtifactError(f"{run.folder} starts from stage {name!r} of {source}, which is no longer there.")
        with replacing(folder) as temporary:
            shutil.copytree(
                source / "stages" / name,
                temporary,
                ignore=shutil.ignore_patterns("checkpoints", "making", ".part-*", ".lock"),
                copy_function=_link_or_copy,
            )


def _link_or_copy(source: str, target: str) -> None:
    """Link a file that is only ever replaced as a whole; copy any other, and any on another disk."""
    if Path(source).suffix in (".safetensors", ".npy"):
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
