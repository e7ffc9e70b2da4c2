"""``zoo doctor``"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click

from zoo.cli.options import json_option
from zoo.cli.output import show_json, table
from zoo.descriptors import resolve
from zoo.registry import registry
from zoo.system import machine
from zoo.system.files import cache_folder

Check = tuple[str, bool, str]

_PACKAGES = ("lightning-fabric", "nibabel", "onnx", "onnxscript", "antspyx")


@click.command(name="doctor")
@click.option("--runs", type=click.Path(path_type=Path), default="runs", show_default=True, help="Folder of runs.")
@json_option
def command(runs: Path, as_json: bool) -> None:
    """Show what this machine has and what is missing, without names of people, machines or folders.

    \b
    zoo doctor
    zoo doctor --json
    """
    rows = [*_machine(), *_software(), *_folders(runs)]
    if as_json:
        show_json([{"check": name, "ok": good, "found": found} for name, good, found in rows])
    else:
        table("", ["check", "", "found"], [[name, "ok" if good else "PROBLEM", found] for name, good, found in rows])
    if not all(good for _, good, _ in rows):
        sys.exit(1)


def _machine() -> Iterator[Check]:
    import torch

    cpu = machine.cpu()
    yield "python", sys.version_info >= (3, 11), sys.version.split()[0]
    yield "cpu", True, f"{cpu['model']}, {cpu['cores']} cores, {torch.get_num_threads()} threads of torch"
    yield "cpu instructions", True, _instructions(cpu["flags"])
    yield "memory", True, f"{machine.available_memory() / 2**30:.1f} GiB free"
    yield "torch", True, torch.__version__
    yield "cuda", True, torch.version.cuda or "this torch was built without CUDA; the CPU is used"
    found = [
        f"{gpu['name']}, compute capability {gpu['capability']}, {gpu['memory_gib']} GiB" for gpu in machine.gpus()
    ]
    yield "gpu", True, "; ".join(found) or "none; the CPU is used"


def _instructions(flags: list[str]) -> str:
    """Return the instruction sets that a CPU has, and those of its family that it lacks."""
    if not flags:
        return "unknown"
    names = machine.INSTRUCTIONS
    x86 = "asimd" not in flags
    lacking = [name for flag, name in names.items() if flag not in flags and (name not in ("NEON", "Arm bf16")) == x86]
    return ", ".join(names[flag] for flag in flags) + (f"; not: {', '.join(lacking)}" if lacking else "")


def _software() -> Iterator[Check]:
    for name in _PACKAGES:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "not installed (optional)"
        yield name, True, found
    for exporter in registry().exporters:
        missing = resolve(exporter.available)()
        version = machine.version_of(exporter.name) or registry().exporters.origins[exporter.name].version
        ready = f"{version}, {', '.join(exporter.precisions)}"
        yield f"backend {exporter.name}", True, f"not here: {machine.without_folders(missing)}" if missing else ready
        if exporter.uses and not missing:
            yield f"{exporter.name} uses", True, resolve(exporter.uses)()
    for plugin in registry().broken:
        yield f"plugin {plugin.origin.plugin}", False, machine.without_folders(plugin.reason)


def _folders(runs: Path) -> Iterator[Check]:
    cache = cache_folder()
    for name, folder in (("runs", runs), ("cache", cache)):
        place = _existing(folder.absolute())
        writable = os.access(place, os.W_OK | os.X_OK) and place.is_dir()
        free = shutil.disk_usage(place).free / 2**30
        held = f"{_size(folder) / 1e9:.2f} GB, " if folder.exists() else "not made yet, "
        yield name, writable and free > 1, f"{held}{'writable' if writable else 'not writable'}, {free:.1f} GiB free"
    for folder in sorted(entry for entry in cache.glob("*") if entry.is_dir()):
        yield f"cache of {folder.name}", True, f"{_size(folder) / 1e9:.2f} GB"
    yield "LPIPS weights", True, _lpips_weights()


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _lpips_weights() -> str:
    from zoo.errors import ZooError
    from zoo.metrics.lpips import find_alexnet

    try:
        return find_alexnet(None).name
    except ZooError:
        return "none (optional): zoo evaluate --lpips-weights FILE takes AlexNet's"
