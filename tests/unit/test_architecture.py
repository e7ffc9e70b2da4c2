"""The floors of the house: which room may import which, and what must start fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.architecture import SOURCE_ROOTS, closed_room, floor, modules, own_imports
from tests.conftest import ROOT
from zoo.registry import COMMANDS, registry

PLUGINS = sorted(folder.name for folder in (ROOT / "plugins").iterdir() if folder.is_dir())
TORCH_FREE = [
    "zoo",
    "zoo.cli",
    "zoo.registry",
    "zoo.descriptors",
    "zoo.config",
    "zoo.errors",
    "zoo.hookspecs",
    "zoo.tasks",
    "zoo_onnx.plugin",
    "zoo_openvino.plugin",
    "zoo_tensorrt.plugin",
    "zoo_torch.plugin",
    "zoo.imaging.plugin",
    "zoo.tasks.plugin",
    *(f"{plugin}.{module}" for plugin in PLUGINS for module in ("plugin", "config")),
]


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_an_import_only_runs_down() -> None:
    found = modules()
    upwards = [
        f"{name} imports {other}"
        for name in found
        for other in own_imports(name, found)
        if floor(other) < floor(name) and not (name == "zoo" and other == "zoo.models.artifact")
    ]
    assert not upwards


def test_no_import_goes_sideways_between_verbs_plugins_or_exporters() -> None:
    found = modules()
    sideways = [
        f"{name} imports {other}"
        for name in found
        for other in own_imports(name, found)
        if closed_room(name)
        and closed_room(other)
        and closed_room(name) != closed_room(other)
        and floor(name) == floor(other)
    ]
    assert not sideways


def test_imports_make_no_circle() -> None:
    found = modules()
    # A package's own file only passes names on, so it stands apart from what it holds.
    graph = {
        name: {other for other in own_imports(name, found) if other != name and found[other].name != "__init__.py"}
        for name in found
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_the_host_imports_no_plugin_and_nobody_imports_a_source_root() -> None:
    for file in (ROOT / "zoo").rglob("*.py"):
        for name in _imports(file):
            assert name.split(".")[0] not in PLUGINS, f"{file} imports {name}"
    for folder in ("zoo", *SOURCE_ROOTS, "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in _imports(file):
                assert name.split(".")[0] not in SOURCE_ROOTS, f"{file} imports {name}"


def test_a_third_party_needs_no_more_than_what_is_promised() -> None:
    promised = {
        "zoo",
        "zoo.cli.options",
        "zoo.cli.output",
        "zoo.config",
        "zoo.errors",
        "zoo.evaluation",
        "zoo.imaging.windows",
        "zoo.nn.ema",
        "zoo.presets",
        "zoo.randomness",
        "zoo.tasks",
        "zoo.testing",
        "zoo.training",
    }
    for file in (ROOT / "tests" / "third_party").rglob("*.py"):
        used = {name for name in _imports(file) if name.split(".")[0] == "zoo"}
        assert used <= promised, f"{file} imports {used - promised}"


def test_nothing_unpickles() -> None:
    for folder in ("zoo", *SOURCE_ROOTS):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "pickle" not in {name.split(".")[0] for name in _imports(file)}, file
            assert "allow_pickle" not in text, file
            for line in text.splitlines():
                assert "torch.load(" not in line or "weights_only=True" in line, f"{file}: {line}"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_starts_fast_imports_no_torch(module: str) -> None:
    heavy = ("torch", "numpy", "nibabel", "scipy")
    code = f"import sys, {module}; sys.exit(', '.join(set({heavy!r}) & set(sys.modules)) or 0)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"], ["info", "lesion-filling"]])
def test_quick_commands_import_no_torch(arguments: list[str]) -> None:
    heavy = ["torch", "numpy", "nibabel", "rich", *(["pydantic"] if "info" not in arguments else [])]
    code = (
        "import sys\nfrom zoo.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as stop: assert not stop.code\n"
        f"sys.exit(', '.join(set({heavy!r}) & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("command", sorted([*COMMANDS, *registry().verbs.items]))
def test_every_command_has_help_with_examples(command: str, zoo_command) -> None:
    code, out, _ = zoo_command(command, "--help")
    assert code == 0
    examples = [line for line in out.splitlines() if line.strip().startswith(f"zoo {command}")]
    assert len(examples) >= 2
    assert (ROOT / "docs" / "reference" / "reference.md").read_text(encoding="utf-8").count(f"`zoo {command}")
