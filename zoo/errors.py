"""What the zoo raises.

A message says what is wrong with the value in it, what would be right, and the command that helps.
The command line prints it without a traceback and exits 1 (``--debug`` shows the traceback).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZooError(Exception):
    """Base of every error that a user can cause and correct."""


class UnknownNameError(ZooError):
    """A name that no plugin, preset or setting has."""


class UnknownCommandError(UnknownNameError):
    """A command that neither the host nor a verb has; the command line exits 2, as for other wrong usage."""


class DuplicateNameError(ZooError):
    """Two plugins that claim one name."""


class PluginError(ZooError):
    """Code of a plugin that cannot be loaded; the message names the plugin and what its code raised."""


class ConfigError(ZooError):
    """A setting that is unknown, out of range or at odds with another."""


class DataError(ZooError):
    """An image, mask, table or folder that cannot be used as it is."""


class ArtifactError(ZooError):
    """A run folder, checkpoint or model file that is damaged, newer than known, or not written by the zoo."""


class UnwritableError(ArtifactError):
    """A place that a result cannot be written to."""


class MissingExtraError(ZooError):
    """An optional package that is not installed."""


class ExportError(ZooError):
    """A part that does not compile for a backend; the message names the failing node."""


class InvalidGraphError(ExportError):
    """An exported file that breaks the rules of its format."""


class SignatureError(ExportError):
    """A graph whose inputs and outputs are not the declared ones: names, types, sizes, dynamic axes."""


class UnsupportedOperatorError(ExportError):
    """An operator that an exported part may not hold, or that a backend does not have."""


class ProfileError(ExportError):
    """A batch or size outside what an engine was built for, or a profile that cannot be built."""


class TypeMismatchError(ExportError):
    """Tensors of two types where a backend takes one."""


class NoGpuError(ExportError):
    """A backend or device that needs a GPU, where there is none."""


class OutOfMemoryError(ExportError):
    """A build or a run that does not fit into memory."""


class ProviderError(ExportError):
    """A runtime that would run on another device than the one asked for."""


class ParityError(ZooError):
    """An exported part whose numbers are not the model's."""


class TaskGateError(ParityError):
    """An exported model whose results, whole images, are not the model's."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the names of ``known`` close to ``name``, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(item) for item in close)}?" if close else ""
