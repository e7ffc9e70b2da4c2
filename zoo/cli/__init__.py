"""The command ``zoo``: the host's own commands, one file each, and one command per installed verb."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import Any

import click

from zoo.descriptors import resolve
from zoo.errors import PluginError, UnknownCommandError, ZooError, did_you_mean
from zoo.registry import COMMANDS, HOST, Origin, registry
from zoo.system.allocator import keep_freed_memory


class LazyGroup(click.Group):
    """Knows its commands by name and imports a command's file when it is called."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*COMMANDS, *(verb.name for verb in registry().verbs)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            return importlib.import_module(f"zoo.cli.{name.replace('-', '_')}").command
        verbs = registry().verbs
        if name not in verbs:
            known = self.list_commands(context)
            raise UnknownCommandError(
                f"There is no command {name!r}.{did_you_mean(name, known)} Commands: {', '.join(known)}."
                f"{verbs.failures()}"
            )
        command = resolve(verbs[name].command)
        if not isinstance(command, click.Command):
            raise PluginError(
                f"{verbs.origins[name].distribution} names {verbs[name].command!r} as the command of {name!r}, "
                f"but that is a {type(command).__name__}, not a click.Command."
            )
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        # Written from summaries: reading each command's own help would import them all.
        verbs = registry().verbs
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.section("Verbs, what trained models do"):
            ordered = sorted(verbs, key=lambda verb: (verbs.origins[verb.name].distribution != HOST, verb.name))
            formatter.write_dl([(verb.name, _summary(verb.summary, verbs.origins[verb.name])) for verb in ordered])


def _summary(text: str, origin: Origin) -> str:
    return text if origin.distribution == HOST else f"{text} ({origin.distribution})"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mri-zoo")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def group(debug: bool) -> None:
    """Generative models for MRI: train, use, export, measure.

    \b
    zoo list
    zoo train lesion-filling --data my-bids-folder
    zoo fill runs/lesion-filling/… --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz

    Research use only. Not a medical device.
    """
    keep_freed_memory()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of the zoo are one line and exit code 1, usage errors exit 2."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files need not be UTF-8
    try:
        result: Any = group.main(args=given, prog_name="zoo", standalone_mode=False, obj=given)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("zoo: stopped.", err=True)
        sys.exit(130)
    except ZooError as error:
        if debug:
            raise
        click.echo(f"zoo: {error}", err=True)
        sys.exit(2 if isinstance(error, UnknownCommandError) else 1)
    except (MemoryError, RuntimeError) as error:
        if debug or not _out_of_memory(error):
            raise
        click.echo(
            f"zoo: Not enough memory: {str(error).splitlines()[0] if str(error) else 'none is left'}. Use smaller "
            "images or settings, fewer --workers, or a machine with more.", err=True,
        )  # fmt: skip
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; torch raises a RuntimeError for it, known by its message alone."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
