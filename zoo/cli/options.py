"""Flags that several commands share; a verb of a third party uses them, too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from zoo.descriptors import PRECISIONS

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
set_option = click.option("--set", "assignments", multiple=True, metavar="K=V", help="Another option of the method.")
device_option = click.option("--device", help="cpu, cuda, cuda:1 …; default: a GPU where there is one.")
_backend_option = click.option("--backend", default="torch", show_default=True, help="Runtime; zoo list shows them.")
_precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True,
    help="What the networks compute in; zoo export makes the files for it.",
)  # fmt: skip


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--backend``, ``--precision`` and ``--device`` to a command, which gets them as one argument ``runtime``.

    It stands below ``click.command``, among the options::

        @click.command(name="harmonize")
        @click.argument("run", type=click.Path(path_type=Path))
        @runtime_options
        @json_option
        def command(run: Path, runtime: Runtime, as_json: bool) -> None:
            artifact = zoo.load(run)
            parts = artifact.parts(runtime)

    Without ``--device`` the runtime is on a GPU where there is one and the backend takes it.
    """

    @functools.wraps(command)
    def with_runtime(*arguments: Any, backend: str, precision: str, device: str | None, **options: Any) -> Any:
        from zoo.models.runtime import Runtime

        return command(*arguments, runtime=Runtime.choose(backend, precision, device), **options)

    return _backend_option(_precision_option(device_option(with_runtime)))


def given_options(assignments: Sequence[str], **flags: Any) -> dict[str, Any]:
    """Return a method's options as nested settings: the flags that were given, then the assignments of ``--set``.

    Args:
        assignments: ``"name=value"``; they override the flags.
        flags: By the option's name; ``None`` for a flag that was not given.

    Raises:
        ConfigError: An assignment is not of that form.
    """
    from zoo.config import merge, parse_assignment

    given = {name: value for name, value in flags.items() if value is not None}
    return merge(given, *(parse_assignment(text) for text in assignments))


def numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Read ``3,7``, the callback of an option that takes whole numbers.

    Raises:
        click.BadParameter: The text is something else.
    """
    try:
        return tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers; write it like 3,7.") from None
