"""One safe file is a model: ``model.safetensors``, whose header's ``zoo`` entry is the manifest.

The manifest names a registered method, never a module to import, and nothing here unpickles.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from zoo.config import MethodConfig, validate
from zoo.descriptors import Exporter, Method, Part, resolve
from zoo.errors import ArtifactError, ConfigError, DataError, MissingExtraError
from zoo.models.run import FORMAT, Run
from zoo.models.runtime import TORCH, Runtime
from zoo.registry import registry
from zoo.system.files import refuse_newer, replacing, sha256

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MODEL_FILE = "model.safetensors"
_UNSAFE = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")


class Artifact:
    """A model: which method, which settings, which weights.

    Attributes:
        path: The ``model.safetensors`` file; ``None`` for a method without training.
        manifest: What its header says.
        method: The registered method.
        config: The settings it was trained with.
    """

    def __init__(self, path: Path | None, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = dict(manifest)
        self.method: Method = registry().method_of(manifest)
        if manifest["method_version"] != self.method.version:
            raise ArtifactError(
                f"{path} was trained with version {manifest['method_version']} of {self.method.name!r}; version "
                f"{self.method.version} is installed and its weights do not fit. Install mri-zoo "
                f"{manifest.get('plugin_version', '')} or train again."
            )
        where = f"{path or self.method.name}"
        self.config: MethodConfig = validate(resolve(self.method.config), manifest["config"], what=where)

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Open a run folder, a checkpoint folder, a model file, or a method without training; see `zoo.load`."""
        methods = registry().methods
        if str(path) in methods and not methods[str(path)].trainable and not Path(path).exists():
            method = methods[str(path)]
            return cls(None, make_manifest(method, resolve(method.config)(), trained_on=[]))
        file = _model_file(Path(path))
        manifest = read_manifest(file)
        if "stage" in manifest:
            raise ArtifactError(
                f"{file} holds only stage {manifest['stage']!r} of a {manifest['method']!r} model; name the run folder "
                "above its stages, once all of them are done."
            )
        return cls(file, manifest)

    @functools.cached_property
    def sha256(self) -> str | None:
        """Hash of the model file, written into the sidecar of all its outputs; ``None`` where there is no file."""
        return sha256(self.path) if self.path else None

    @property
    def folder(self) -> Path:
        """Where exports and measurements go: the run, or a folder named after a method without training."""
        return self.path.parent if self.path else Path("runs") / self.method.name

    def build(self, device: torch.device | str = "cpu") -> nn.Module:
        """Return the trained model, in evaluation mode.

        Raises:
            ArtifactError: The file's tensors are not the model's.
        """
        from safetensors.torch import load_file

        model: nn.Module = resolve(self.method.build)(self.config)
        try:
            weights = load_file(self.path or "")
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{self.path} cannot be read: {error}.") from None
        own = model.state_dict()
        wrong = [f"no {name}" for name in own if name not in weights]
        wrong += [f"unknown {name}" for name in weights if name not in own]
        wrong += [
            f"{name} is {list(weights[name].shape)}, not {list(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ]
        if wrong:
            raise ArtifactError(f"{self.path} does not hold this model's tensors: {'; '.join(wrong[:5])}.")
        model.load_state_dict(weights)
        return model.eval().to(device)

    def contrasts_of(self, images: Tensor) -> Tensor:
        """Return images of a network's channels with one channel per contrast, ``[N, contrasts, *spatial]``.

        Raises:
            DataError: Their channels cannot be shared out among the contrasts.
        """
        count = len(self.config.data.contrasts)
        if images.shape[1] % count:
            raise DataError(f"Images of {images.shape[1]} channels do not fit the model's {count} contrasts.")
        return images.reshape(len(images), count, -1, *images.shape[2:]).mean(2)

    def part_specs(self) -> dict[str, Part]:
        """Return the declared parts by name; a method without training has none."""
        return resolve(self.method.parts)(self.config) if self.method.trainable else {}

    def parts(self, runtime: Runtime = TORCH) -> dict[str, Callable[..., Tensor]]:
        """Return each part as a plain callable; inputs and outputs are float32 in every precision.

        Args:
            runtime: What runs the parts; torch in float32 on the CPU unless another is given.

        Raises:
            UnknownNameError: There is no such backend.
            MissingExtraError: The backend cannot run here; the message says what to install.
            ConfigError: The backend does not run in that precision, or on that device.
            ArtifactError: The model has not been exported for the backend, or has changed since.
        """
        exporter = registry().exporters[runtime.backend]
        check_precision(exporter, runtime.precision)
        if runtime.device.partition(":")[0] not in exporter.devices:
            raise ConfigError(
                f"Backend {runtime.backend!r} runs on {' and '.join(exporter.devices)}, not on {runtime.device!r}."
            )
        missing = resolve(exporter.available)()
        if missing:
            raise MissingExtraError(missing)
        load = resolve(exporter.load)
        return {name: load(self.folder, name, runtime.device, runtime.precision) for name in self.part_specs()}


def check_precision(exporter: Exporter, precision: str) -> None:
    """Refuse a precision that a backend does not run in.

    Raises:
        ConfigError: With those it does.
    """
    if precision not in exporter.precisions:
        raise ConfigError(
            f"Backend {exporter.name!r} does not run in {precision!r}; it runs in {', '.join(exporter.precisions)}."
        )


def _model_file(path: Path) -> Path:
    if path.suffix in _UNSAFE:
        raise ArtifactError(
            f"{path.name} may hold code that runs when it is opened; the zoo reads model.safetensors only."
        )
    if path.is_dir():
        if (path / MODEL_FILE).is_file():
            return path / MODEL_FILE
        if (path / "run.json").is_file():
            raise ArtifactError(_why_no_model(Run.open(path)))
        models = (file for file in path.glob(f"**/{MODEL_FILE}") if not {"checkpoints", "stages"} & set(file.parts))
        runs = sorted(str(file.parent) for file in models)
        near = f" Models near by: {', '.join(runs[-3:])}." if runs else " zoo train NAME makes one."
        raise ArtifactError(f"{path} is not a run folder: it has no {MODEL_FILE}.{near}")
    if not path.exists():
        kind = (
            "method; to run a trained model name its run folder, e.g. runs/" if str(path) in registry().methods else ""
        )
        if kind:
            raise ArtifactError(f"{str(path)!r} is a {kind}{path}/…")
        raise ArtifactError(
            f"There is no model {path}; name a run folder or a {MODEL_FILE} (zoo train NAME makes one)."
        )
    if not path.is_file():
        raise ArtifactError(f"{path} is a pipe, socket or device; name a run folder or a {MODEL_FILE}.")
    return path


def _why_no_model(run: Run) -> str:
    """Return why a run folder has no model, and how to get one."""
    if "folds" in run.record:
        return f"{run.folder} holds {run.record['folds']} folds, each a run of its own; name one: {run.folder}/folds/0"
    resume = f"Run the same command to resume: zoo train {run.record['method']} --out {run.folder} …"
    missing = [stage for stage in run.stages() if stage.status != "finished"]
    if not missing:
        return f"The run {run.folder} has no model yet. {resume}"
    return f"The run {run.folder} has no model yet: stage {missing[0].name!r} is {missing[0].status}. {resume}"


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of a model file, without torch.

    Raises:
        ArtifactError: The file is damaged, is not the zoo's, or is newer than this version knows.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = (file.metadata() or {}).get("zoo")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file: {error}.") from None
    if header is None:
        raise ArtifactError(f"{path} was not written by the zoo: its header has no 'zoo' entry.")
    try:
        manifest = json.loads(header)
        format_number = int(manifest["format"])
        if not isinstance(manifest["method"], str) or not isinstance(manifest["config"], dict):
            raise TypeError("method and config are of the wrong kind")
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} has a damaged manifest: {error}.") from None
    refuse_newer(path, format_number, FORMAT)
    return manifest


def write_model(path: Path, model: nn.Module, manifest: Mapping[str, Any], *, module: str = "") -> None:
    """Write a model and its manifest as one file, whole or not at all.

    Args:
        path: The file.
        model: Its weights and buffers are written.
        manifest: What the header says.
        module: Path of ``model`` inside the whole model, where it is one module of it; its tensors get their names
            there.
    """
    from safetensors.torch import save_file

    prefix = f"{module}." if module else ""
    tensors = {prefix + name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"zoo": json.dumps(manifest, sort_keys=True)})
        temporary.chmod(0o644)  # safetensors makes files that only their owner reads; runs are shared


def make_manifest(method: Method, config: MethodConfig, **about: Any) -> dict[str, Any]:
    """Return the manifest of a model of ``method``; ``about`` adds what only its run knows."""
    origin = registry().methods.origins[method.name]
    parts: dict[str, Part] = resolve(method.parts)(config) if method.trainable else {}
    return {
        "format": FORMAT,
        "method": method.name,
        "method_version": method.version,
        "plugin": origin.distribution,
        "plugin_version": origin.version,
        "licence": method.licence,
        "intended_use": "Research on MRI. Not a medical device.",
        "config": config.model_dump(mode="json"),
        "parts": {name: part.to_json() for name, part in parts.items()},
        **about,
    }
