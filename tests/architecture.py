"""The floors of the house, and which room imports which; as a script, the picture of it.

uv run python -m tests.architecture docs/images/imports.png
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

SOURCE_ROOTS = ("plugins", "exporters", "benchmarks")
"""Folders whose folders are import packages; they are not packages themselves."""

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


def module_name(file: Path) -> str:
    """Return the module's name; a package is named by its folder."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] in SOURCE_ROOTS else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    """Return the modules that a wheel installs, by name."""
    folders = [ROOT / "zoo", *(ROOT / root for root in ("plugins", "exporters")), ROOT / "benchmarks" / "zoo_bench"]
    return {module_name(file): file for folder in folders for file in sorted(folder.rglob("*.py"))}


def floor(module: str) -> int:
    """Return the number of a module's floor: that of its longest matching entry."""
    found = -1, -1
    for number, names in enumerate(FLOORS):
        for name in names:
            pattern = name.replace(".", r"\.").replace("*", r"\w+") + r"(\..*)?" * (name != "zoo")
            if re.fullmatch(pattern, module):
                found = max(found, (len(name), number))
    assert found[1] >= 0, f"{module} stands on no floor"
    return found[1]


def own_imports(name: str, modules: dict[str, Path]) -> Iterator[str]:
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


def closed_room(module: str) -> str:
    """Return the room that is closed to its neighbours, a verb, plugin or exporter; else an empty string."""
    parts = module.split(".")
    if parts[0] != "zoo":
        return parts[0]
    verb = parts[:2] == ["zoo", "tasks"] and len(parts) > 2 and (ROOT / "zoo" / "tasks" / parts[2]).is_dir()
    return parts[2] if verb else ""


_DOOR = ("config", "descriptors", "hookspecs", "presets", "randomness")
_USED_BY_ALL = ("errors", "progress", "door")


def _drawn_as(module: str) -> str:
    """Return the box of the picture that a module belongs to: a room of the host, a plugin, or a single file."""
    parts = module.split(".")
    if parts[0] != "zoo":
        return parts[0]
    if re.fullmatch(r"zoo\.tasks\.\w+\.command|zoo\.__main__", module):
        return "cli"
    if re.fullmatch(r"zoo\.tasks\.\w+\.check", module):
        return "testing"
    return parts[1] if parts[1:] and parts[1] not in _DOOR else "door"


def draw(path: Path) -> None:
    """Draw the boxes of each floor, and a line from each box to those that it imports, as wide as imports are many.

    Lines to the door, to errors and to progress are left out: every box has them.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    found = modules()
    lines = Counter(
        (_drawn_as(name), _drawn_as(other))
        for name in found
        for other in own_imports(name, found)
        if _drawn_as(name) != _drawn_as(other) and _drawn_as(other) not in _USED_BY_ALL
    )
    boxes: dict[int, list[str]] = {}
    sizes = Counter(_drawn_as(name) for name in found)
    for name in found:
        row = boxes.setdefault(floor(name), [])
        if _drawn_as(name) not in row:
            row.append(_drawn_as(name))
    # Floors of few boxes stand left or right of the middle in turn, so that no line runs behind a box.
    shift = {level: (-0.13, 0.0, 0.13)[level % 3] if len(row) < 4 else 0 for level, row in boxes.items()}
    place = {
        box: ((number + 0.5) / len(row) + shift[level], -level)
        for level, row in boxes.items()
        for number, box in enumerate(row)
    }
    figure = Figure(figsize=(19, 10), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for (above, below), count in lines.items():
        (x, y), (to_x, to_y) = place[above], place[below]
        axes.plot(
            [x, to_x], [y - 0.17, to_y + 0.17], color="#4477aa", alpha=0.35, linewidth=0.5 + 0.18 * count, zorder=1
        )
    for box, (x, y) in place.items():
        width = 0.012 + 0.0042 * len(box)
        axes.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - 0.17), width, 0.34, boxstyle="round,pad=0,rounding_size=0.01", mutation_aspect=10,
                facecolor="#f2efe6", edgecolor="#333333", zorder=2,
            )
        )  # fmt: skip
        axes.text(x, y + 0.03, box, ha="center", va="center", fontsize=9, zorder=3)
        axes.text(x, y - 0.11, f"{sizes[box]} files" if sizes[box] > 1 else "1 file", ha="center", va="center",
                  fontsize=6.5, color="#666666", zorder=3)  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-max(boxes) - 0.4, 0.4))
    axes.axis("off")
    figure.savefig(path)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
