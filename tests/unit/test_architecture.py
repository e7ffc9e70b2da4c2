"""The floors of the house: who may import whom, and what must start fast."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zoo.cli import COMMANDS

SOURCE_ROOTS = ("plugins", "exporters", "benchmarks")
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
    *(f"{plugin}.{module}" for plugin in PLUGINS for module in ("plugin", "config")),
]


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


FLOORS = (
    ("zoo.cli", "zoo.__main__", "zoo.tasks.*.command"),
    ("zoo_bench",),
    ("zoo.testing", "zoo.tasks.*.check", "zoo_*"),
    ("zoo.exporting",),
    ("zoo.tasks", "zoo.evaluation", "zoo.training"),
    ("zoo.runner",),
    ("zoo.report",),
    ("zoo.imaging",),
    ("zoo.models",),
    ("zoo.nn", "zoo.metrics", "zoo.registry"),
    ("zoo", "zoo.config", "zoo.presets", "zoo.hookspecs", "zoo.descriptors", "zoo.randomness"),
    ("zoo.system",),
    ("zoo.progress", "zoo.errors"),
)
"""The house from the top; an import only runs down.

A verb's command belongs to the command line, and its check to the contract kit.
"""


def _module(file: Path) -> str:
    """Return the module's name; a package is named by its folder."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] in SOURCE_ROOTS else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules() -> dict[str, Path]:
    """Return the modules that a wheel installs, by name."""
    folders = [ROOT / "zoo", *(ROOT / root for root in ("plugins", "exporters")), ROOT / "benchmarks" / "zoo_bench"]
    return {_module(file): file for folder in folders for file in sorted(folder.rglob("*.py"))}


def _floor(module: str) -> int:
    """Return the number of a module's floor: that of its longest matching entry."""
    found = -1, -1
    for number, names in enumerate(FLOORS):
        for name in names:
            pattern = name.replace(".", r"\.").replace("*", r"\w+") + r"(\..*)?" * (name != "zoo")
            if re.fullmatch(pattern, module):
                found = max(found, (len(name), number))
    assert found[1] >= 0, f"{module} stands on no floor"
    return found[1]


def _own_imports(name: str, modules: dict[str, Path]) -> Iterator[str]:
    """Yield which of ``modules`` a module imports, wherever in its text it does so, and not only for types."""
    tree = ast.parse(modules[name].read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else str(node.module)


def _room(module: str) -> str:
    """Return the room that is closed to its neighbours, a verb, plugin or exporter; else an empty string."""
    parts = module.split(".")
    if parts[0] != "zoo":
        return parts[0]
    verb = parts[:2] == ["zoo", "tasks"] and len(parts) > 2 and (ROOT / "zoo" / "tasks" / parts[2]).is_dir()
    return parts[2] if verb else ""


def test_an_import_only_runs_down() -> None:
    modules = _modules()
    upwards = [
        f"{name} imports {other}"
        for name in modules
        for other in _own_imports(name, modules)
        if _floor(other) < _floor(name) and not (name == "zoo" and other == "zoo.models.artifact")
    ]
    assert not upwards


def test_no_import_goes_sideways_between_verbs_plugins_or_exporters() -> None:
    modules = _modules()
    sideways = [
        f"{name} imports {other}"
        for name in modules
        for other in _own_imports(name, modules)
        if _room(name) and _room(other) and _room(name) != _room(other) and _floor(name) == _floor(other)
    ]
    assert not sideways


def test_imports_make_no_circle() -> None:
    modules = _modules()
    # A package's own file only passes names on, so it stands apart from what it holds.
    graph = {
        name: {other for other in _own_imports(name, modules) if other != name and modules[other].name != "__init__.py"}
        for name in modules
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
    code = (
        "import sys\nfrom zoo.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as stop: assert not stop.code\n"
        "sys.exit(', '.join({'torch', 'numpy', 'nibabel', 'rich'} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_examples(command: str, zoo_command) -> None:
    code, out, _ = zoo_command(command, "--help")
    assert code == 0
    examples = [line for line in out.splitlines() if line.strip().startswith(f"zoo {command}")]
    assert len(examples) >= 2
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").count(f"`zoo {command}")
