"""Training state on disk: safetensors for tensors, JSON for the rest, nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.errors import ArtifactError


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write nested training state as ``state.safetensors`` and ``state.json``.

    Raises:
        ArtifactError: The state holds something that is neither a tensor nor plain data; the message has its path.
    """
    tree, tensors = take_apart(state)
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(tree, encoding="utf-8")


def take_apart(state: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Return nested training state as JSON, and its tensors by their path.

    Raises:
        ArtifactError: The state holds what cannot be stored; the message has its path.
    """
    tensors: dict[str, Tensor] = {}
    return json.dumps(_take_apart(state, "", tensors)), tensors


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        ArtifactError: A file is missing or damaged.
    """
    try:
        tensors = load_file(folder / "state.safetensors")
        return _put_together(json.loads((folder / "state.json").read_text(encoding="utf-8")), tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"Checkpoint {folder} is damaged: {error}.") from None


def _take_apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if path in tensors:
            raise ArtifactError(f"Training state has two tensors at {path}; rename one of their keys.")
        # Some entries share memory (a scalar step per parameter); safetensors wants each on its own.
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int):
                raise ArtifactError(f"Training state at {path or '/'} has the key {key!r}; keys are text or numbers.")
        items = [[key, _take_apart(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        return {"items": items}
    if isinstance(value, list | tuple):
        return {"list": [_take_apart(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise ArtifactError(
        f"Training state at {path or '/'} is a {type(value).__name__}; a trainer's state_dict may hold tensors, "
        "numbers, text, lists and dictionaries."
    )


def _put_together(tree: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "items" in tree:
        return {key: _put_together(item, tensors) for key, item in tree["items"]}
    if "list" in tree:
        return [_put_together(item, tensors) for item in tree["list"]]
    return tree["value"]
