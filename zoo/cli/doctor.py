"""``zoo doctor``"""

from __future__ import annotations

import shutil
import sys
from importlib import metadata, util
from pathlib import Path

import click

from zoo.cli.output import show_json, table
from zoo.descriptors import resolve
from zoo.files import cache_folder
from zoo.registry import registry

_PACKAGES = {
    "torch": "torch",
    "lightning-fabric": "lightning_fabric",
    "nibabel": "nibabel",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
}


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what this machine has and what is missing.

    \b
    zoo doctor
    zoo doctor --json
    """
    import torch

    rows: list[tuple[str, bool, str]] = [
        ("python", sys.version_info >= (3, 11), sys.version.split()[0]),
        ("cpu threads", True, str(torch.get_num_threads())),
        ("gpu", True, torch.cuda.get_device_name() if torch.cuda.is_available() else "none; the CPU is used"),
    ]
    for distribution, module in _PACKAGES.items():
        found = util.find_spec(module) is not None
        rows.append((distribution, True, metadata.version(distribution) if found else "not installed (optional)"))
    for exporter in registry().exporters:
        missing = resolve(exporter.available)()
        rows.append((f"backend {exporter.name}", not missing, missing or "ready"))
    for plugin in registry().broken:
        rows.append((f"plugin {plugin.origin.plugin}", False, plugin.reason))
    cache = cache_folder()
    free = shutil.disk_usage(_existing(cache)).free / 2**30
    rows.append(("cache", free > 1, f"{cache}, {free:.1f} GiB free"))
    rows.append(("LPIPS weights", True, _lpips_weights()))
    if as_json:
        show_json([{"check": name, "ok": good, "found": found} for name, good, found in rows])
    else:
        table("", ["check", "", "found"], [[name, "ok" if good else "PROBLEM", found] for name, good, found in rows])
    if not all(good for _, good, _ in rows):
        sys.exit(1)


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _lpips_weights() -> str:
    from zoo.errors import ZooError
    from zoo.metrics.lpips import find_alexnet

    try:
        return str(find_alexnet(None))
    except ZooError as error:
        return f"none (optional): {error}"
