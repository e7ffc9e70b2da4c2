"""Reports: one self-contained HTML file that needs no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from zoo.system.files import write_text


@dataclass(frozen=True)
class Section:
    """A part of a report; an empty field is not shown.

    Attributes:
        heading, text: Plain text; line breaks are kept and markup is escaped.
        table: Rows with the same keys.
        figures: Pairs of PNG bytes and a caption.
    """

    heading: str
    text: str = ""
    table: Sequence[Mapping[str, Any]] = ()
    figures: Sequence[tuple[bytes, str]] = ()


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write a report as one file, whole or not at all.

    Raises:
        ArtifactError: The disk is full or the folder cannot be written.
    """
    environment = Environment(loader=PackageLoader("zoo.report", ""), autoescape=True, trim_blocks=True)
    environment.filters["data_uri"] = data_uri
    environment.tests["figure"] = _is_figure
    shown = [section for section in sections if section.text or section.table or section.figures]
    write_text(path, environment.get_template("report.html.jinja").render(title=title, sections=shown))


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _is_figure(value: Any) -> bool:
    """Return whether a cell starts with a number and is therefore aligned to the right."""
    text = str(value).strip()
    return isinstance(value, int | float) or (text[:1].isdigit() and "," not in text.split(" ")[0])
