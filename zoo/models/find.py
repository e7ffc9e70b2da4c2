"""Finds the model that a run folder, a file or a method's name means."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.config import MethodConfig, resolve_config
from zoo.descriptors import Method, resolve
from zoo.errors import (
    ArtifactError,
    ConfigError,
)
from zoo.models.artifact import (
    MODEL_FILE,
    Artifact,
    make_manifest,
    read_manifest,
    write_model,
)
from zoo.models.run import Run
from zoo.registry import registry
from zoo.system.files import replacing, sha256

if TYPE_CHECKING:
    from torch import nn


def find_artifact(target: str | Path, preset: str | None = None, runs: Path = Path("runs")) -> Artifact:
    """Return the model that a run folder, a model file, or the name of a method stands for.

    A name stands for the newest finished run of the method. With ``preset``, or where there is no such run, it stands
    for that preset (the default one, if none is named) with seeded random weights, good for measuring speed and nothing
    else: they are written once to ``runs/NAME/untrained-PRESET`` and their manifest says ``"untrained": true``.

    Raises:
        UnknownNameError: No such method, run, file or preset.
        ConfigError: A preset was given with a run, or the method has no network.
        ArtifactError: The run or file cannot be used.
    """
    methods, path = registry().methods, Path(target)
    if str(target) not in methods and (path.exists() or len(path.parts) > 1 or path.suffix):
        if preset is not None:
            raise ConfigError(f"{target} is a trained model with settings of its own; leave --preset {preset} out.")
        return Artifact.open(path)
    method = methods[str(target)]
    if not method.trainable:
        raise ConfigError(f"Method {method.name!r} has no network, so there is nothing to export or to measure.")
    if preset is None:
        folders = sorted(file.parent for file in (runs / method.name).glob("*/run.json"))
        finished = [folder for folder in folders if Run.open(folder).record.get("status") == "finished"]
        models = [folder for folder in finished if (folder / MODEL_FILE).is_file()]
        if models:
            return Artifact.open(models[-1])
    return _untrained(method, preset, runs)


def _untrained(method: Method, preset: str | None, runs: Path) -> Artifact:
    config = resolve_config(method, preset=preset)
    # The default preset may have a name: the one that changes nothing.
    name = preset or next((name for name, settings in method.presets.items() if not settings), "default")
    file = runs / method.name / f"untrained-{name}" / MODEL_FILE
    manifest = make_manifest(method, config, untrained=True)
    if not file.is_file() or read_manifest(file) != json.loads(json.dumps(manifest)):
        write_model(file, _seeded(method, config), manifest)
    return Artifact.open(file)


def _seeded(method: Method, config: MethodConfig) -> nn.Module:
    """Return the untrained model that the settings' seed gives."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return resolve(method.build)(config)


def untrained(artifact: Artifact) -> bool:
    """Return whether the weights are random numbers."""
    return bool(artifact.manifest.get("untrained"))


def copied(artifact: Artifact, folder: Path) -> Artifact:
    """Return the model as ``folder/model.safetensors``, which is used like a run folder; it is copied there once.

    Raises:
        ArtifactError: Another model is there.
    """
    file = folder / MODEL_FILE
    if file.exists() and sha256(file) != artifact.sha256:
        raise ArtifactError(f"{file} is another model; choose another --out.")
    if not file.exists() and artifact.path is not None:
        with replacing(file) as temporary:
            shutil.copyfile(artifact.path, temporary)
    return Artifact.open(folder)


def resized(artifact: Artifact, size: Sequence[int]) -> Artifact:
    """Return the model for images of another size: the same weights with other settings (`MethodConfig.sized`).

    It is written to ``size-128x128`` beside the model, and is used like a run folder of its own. An untrained model
    is made anew.

    Args:
        artifact: The model.
        size: One side for all axes, or one per axis.

    Raises:
        ConfigError: The method has no such setting, the size does not fit, or the weights belong to one size.
    """
    config = artifact.config.sized(size)
    if resolve(artifact.method.parts)(config) == artifact.part_specs():
        return artifact
    manifest = make_manifest(artifact.method, config)
    manifest = {**artifact.manifest, "config": manifest["config"], "parts": manifest["parts"], "of": artifact.sha256}
    file = artifact.folder / f"size-{'x'.join(map(str, size))}" / MODEL_FILE
    if not file.is_file() or read_manifest(file) != json.loads(json.dumps(manifest)):
        model = _seeded(artifact.method, config)
        if not untrained(artifact):
            trained = artifact.build().state_dict()
            own = model.state_dict()
            if unfit := [name for name in own if own[name].shape != trained[name].shape]:
                raise ConfigError(f"The weights belong to one size ({unfit[0]}); train again for another.")
            model.load_state_dict(trained)
        write_model(file, model, manifest)
    return Artifact.open(file)
