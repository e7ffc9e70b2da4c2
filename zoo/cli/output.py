"""Output of commands: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


@functools.cache
def notes() -> Console:
    """Return the console on stderr; rich is imported when it is first used."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def show_json(data: Any) -> None:
    """Print data as JSON."""
    click.echo(json.dumps(data, indent=2))


def note(text: str) -> None:
    """Print a line for the user on stderr, without markup."""
    notes().print(text, markup=False)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print rows under their columns; on a terminal the last column is wrapped to the remaining width."""
    if title:
        click.echo(title)
    widths = [max(len(line[index]) for line in [columns, *rows]) for index in range(len(columns))]
    indent = sum(width + 2 for width in widths[:-1])
    room = max(shutil.get_terminal_size().columns - indent, 20) if sys.stdout.isatty() else 10_000
    for line in [columns, *rows]:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(line[:-1], widths[:-1], strict=True))
        wrapped = textwrap.wrap(line[-1], room) or [""]
        click.echo(f"\n{' ' * indent}".join([start + wrapped[0], *wrapped[1:]]).rstrip())


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``report(done, total)`` that drives a bar with the rate and the time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.3g}/s" if task.speed else "")

    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(),
        TimeRemainingColumn(),
        console=notes(), transient=True, disable=not notes().is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report
