"""The command ``zoo``: one file per command, imported when it is called."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import Any

import click

from zoo.descriptors import VERBS
from zoo.errors import UnknownNameError, ZooError, did_you_mean
from zoo.system.allocator import keep_freed_memory

COMMANDS = {
    "list": "Methods, evaluators, runtimes and datasets that are installed.",
    "info": "What a method, a run or a model file is.",
    "data": "Make the phantom cohort, or check a cohort of your own.",
    "train": "Train a method on a cohort; the same command goes on where it stopped.",
    "evaluate": "Measure a trained model on subjects it has not seen, beside baselines.",
    "export": "Export a model to ONNX, OpenVINO or TensorRT, verified.",
    "fill": "Fill the lesions of a patient.",
    "bench": "Measure latency, throughput, memory and fidelity of each runtime, side by side.",
    "sample": "Generate images.",
    "project": "Find the codes from which a generator makes given images.",
    "edit": "Find directions in latent space, walk projected images along them, and measure what moves.",
    "demo": "Make a cohort, train on it, fill a patient and measure, in minutes.",
    "doctor": "What this machine has, and what is missing.",
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports a command's file when it is called."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            raise UnknownNameError(
                f"There is no command {name!r}.{did_you_mean(name, COMMANDS)} Commands: {', '.join(COMMANDS)}."
            )
        folder = f"zoo.tasks.{name}.command" if name in VERBS else f"zoo.cli.{name}"
        return importlib.import_module(folder).command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        # The list is written from the table: reading each command's own help would import them all.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


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
        kind = 2 if isinstance(error, UnknownNameError) and str(error).startswith("There is no command") else 1
        click.echo(f"zoo: {error}", err=True)
        sys.exit(kind)
    except (MemoryError, RuntimeError) as error:
        if debug or not _for_want_of_memory(error):
            raise
        click.echo(
            f"zoo: Not enough memory: {str(error).splitlines()[0] if str(error) else 'none is left'}. Use smaller "
            "images or settings, fewer --workers, or a machine with more.", err=True,
        )  # fmt: skip
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _for_want_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; torch says so by a RuntimeError of its own words."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
