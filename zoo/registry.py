"""Finds plugins, keeps the broken ones apart, and resolves names.

Entry points of group ``zoo`` are loaded one by one. A plugin that cannot be loaded is recorded and shown by
``zoo list --broken``; it never takes a command down. ``ZOO_STRICT_PLUGINS=1`` raises instead.
``ZOO_PLUGINS=module,module`` loads plugins that are not installed, for their author; one that cannot be loaded raises.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Generic, TypeVar

import pluggy

from zoo import hookspecs
from zoo.descriptors import DISTRIBUTIONS, Dataset, Evaluator, Exporter, Method, Verb
from zoo.errors import DuplicateNameError, PluginError, UnknownNameError, ZooError, did_you_mean

Descriptor = TypeVar("Descriptor", Method, Evaluator, Exporter, Dataset, Verb)

HOST = "mri-zoo"
"""Distribution of the host and of the plugins that come with it."""

COMMANDS = {
    "list": "Methods, verbs, evaluators, runtimes and datasets that are installed.",
    "info": "What a method, a run or a model file is.",
    "data": "Make the phantom cohort, or check a cohort of your own.",
    "train": "Train a method on a cohort; run the same command to resume.",
    "evaluate": "Measure a trained model on subjects it has not seen, beside baselines.",
    "export": "Export a model to ONNX, OpenVINO or TensorRT, verified.",
    "reader-study": "Pages on which people tell generated images from real ones, and what their answers say.",
    "bench": "Measure latency, throughput, memory and fidelity of each runtime, side by side.",
    "demo": "Make a cohort, train on it, fill a patient and measure, in minutes.",
    "doctor": "What this machine has, and what is missing.",
}
"""The host's commands that are not verbs; no verb may have one of these names."""

_NOT_INSTALLED = "not installed"
"""Version of a plugin that `ZOO_PLUGINS` names."""


@dataclass(frozen=True)
class Origin:
    """Which plugin an item came from.

    Attributes:
        plugin: Name of its entry point.
        distribution, version: What is installed, as ``pip`` names it.
        module: The plugin's module.
    """

    plugin: str
    distribution: str
    version: str
    module: str = ""


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin, or a method of one, that cannot be used, and why."""

    origin: Origin
    reason: str


@dataclass
class Shelf(Generic[Descriptor]):
    """The items of one kind, by name.

    Attributes:
        kind: What an item is called in messages.
        items, origins: By name.
        broken: Plugins that failed to load, of all kinds.
        reserved: Names that no item may have, with who has them.
        refused: Why items that were brought cannot be used, by name.
    """

    kind: str
    items: dict[str, Descriptor] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)
    reserved: Mapping[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, item: Descriptor, origin: Origin) -> None:
        if item.name in self.reserved:
            raise DuplicateNameError(
                f"{self.kind} {item.name!r} of {origin.distribution} has the name of {self.reserved[item.name]}; "
                "rename the verb."
            )
        if item.name in self.items:
            first = self.origins[item.name]
            raise DuplicateNameError(
                f"{self.kind} {item.name!r} of {origin.distribution} is already provided by {first.distribution}; "
                "rename one or uninstall one of the two."
            )
        self.items[item.name] = item
        self.origins[item.name] = origin

    def refuse(self, name: str, reason: str) -> None:
        """Remove an item; who asks for it later gets the reason."""
        origin = self.origins.pop(name)
        del self.items[name]
        self.refused[name] = reason
        self.broken.append(BrokenPlugin(origin, reason))

    def __getitem__(self, name: str) -> Descriptor:
        """Return the item called ``name``.

        Raises:
            UnknownNameError: With near names, the known ones, and the plugins that failed to load.
        """
        if name in self.items:
            return self.items[name]
        if name in self.refused:
            raise UnknownNameError(self.refused[name])
        raise UnknownNameError(
            f"No {self.kind} is called {name!r}.{did_you_mean(name, self.items)} Known: "
            f"{', '.join(sorted(self.items)) or 'none'}.{self.failures()}"
        )

    def failures(self) -> str:
        """Return a sentence on the plugins that failed to load, which may have what is not found; empty if none did."""
        failed = ", ".join(plugin.origin.plugin for plugin in self.broken)
        return f" Plugins that failed to load: {failed} (see zoo list --broken)." if failed else ""

    def __iter__(self) -> Iterator[Descriptor]:
        return iter(self.items[name] for name in sorted(self.items))

    def __contains__(self, name: str) -> bool:
        return name in self.items


class Registry:
    """All that the installed plugins bring.

    Args:
        entry_points: Plugins to load; the installed ones of group ``zoo`` when read by `registry`.
        strict: Raise on the first plugin that fails instead of recording it.

    Raises:
        PluginError: A plugin failed, and ``strict`` is set or the plugin was named in ``ZOO_PLUGINS``.
    """

    def __init__(self, entry_points: Sequence[metadata.EntryPoint], *, strict: bool = False) -> None:
        self.broken: list[BrokenPlugin] = []
        self.methods: Shelf[Method] = Shelf("method", broken=self.broken)
        self.evaluators: Shelf[Evaluator] = Shelf("evaluator", broken=self.broken)
        self.exporters: Shelf[Exporter] = Shelf("exporter", broken=self.broken)
        self.datasets: Shelf[Dataset] = Shelf("dataset", broken=self.broken)
        commands = {name: f"the command 'zoo {name}' of {HOST}" for name in COMMANDS}
        self.verbs: Shelf[Verb] = Shelf("verb", broken=self.broken, reserved=commands)
        # The host's own plugins come first, so that a third party cannot take a built-in name.
        for entry_point in sorted(entry_points, key=lambda point: (_origin(point).distribution != HOST, point.name)):
            origin = _origin(entry_point)
            try:
                self._load(entry_point, origin)
            except Exception as error:
                reason = f"{'' if isinstance(error, ZooError) else f'{type(error).__name__}: '}{error}"
                if strict or origin.version == _NOT_INSTALLED:
                    whose = f"Plugin {origin.plugin!r} of {origin.distribution} ({origin.version})"
                    raise PluginError(f"{whose} cannot be loaded: {reason}") from error
                self.broken.append(BrokenPlugin(origin, reason))
        # A verb may be brought by a plugin that is loaded after the method, so methods are checked last.
        for method in list(self.methods):
            reason = self._unusable(method)
            if reason and (strict or self.methods.origins[method.name].version == _NOT_INSTALLED):
                raise PluginError(reason)
            if reason:
                self.methods.refuse(method.name, reason)

    def _load(self, entry_point: metadata.EntryPoint, origin: Origin) -> None:
        DISTRIBUTIONS.setdefault(origin.module.partition(".")[0], origin.distribution)
        manager = pluggy.PluginManager(hookspecs.GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(entry_point.load(), name=entry_point.name)
        manager.check_pending()  # a misspelt hook is an error, not a plugin that does nothing
        brought: list[tuple[Shelf[Any], type, Iterable[Any]]] = [
            (self.verbs, Verb, _flatten(manager.hook.zoo_verbs())),
            (self.methods, Method, _flatten(manager.hook.zoo_methods())),
            (self.evaluators, Evaluator, _flatten(manager.hook.zoo_evaluators())),
            (self.exporters, Exporter, _flatten(manager.hook.zoo_exporters())),
            (self.datasets, Dataset, _flatten(manager.hook.zoo_datasets())),
        ]
        for shelf, kind, items in brought:
            for item in items:
                if not isinstance(item, kind):
                    raise TypeError(f"hook for {shelf.kind}s returned {type(item).__name__}, not {kind.__name__}")
                shelf.add(item, origin)

    def _unusable(self, method: Method) -> str:
        """Return why a method's tasks do not fit the installed verbs; empty where they do."""
        whose = f"Method {method.name!r} of {self.methods.origins[method.name].distribution}"
        for verb, task in method.tasks.items():
            if verb not in self.verbs:
                known = [item.name for item in self.verbs]
                return (
                    f"{whose} cannot be used: it offers the verb {verb!r}, which no installed plugin brings."
                    f"{did_you_mean(verb, known)} Verbs: {', '.join(known) or 'none'}."
                )
            wanted = self.verbs[verb].task
            if not isinstance(task, wanted):
                return (
                    f"{whose} cannot be used: it describes its task {verb!r} by a {type(task).__name__}; that verb "
                    f"needs a {wanted.__module__}.{wanted.__name__}."
                )
        return ""

    def method_of(self, manifest: Mapping[str, Any]) -> Method:
        """Return the method that the manifest of a model names.

        Raises:
            UnknownNameError: It is not there. Where another plugin brought it, the message names its distribution and
                the command that installs it.
        """
        name, plugin, version = (str(manifest.get(key, "")) for key in ("method", "plugin", "plugin_version"))
        if name in self.methods or name in self.methods.refused or plugin in ("", HOST):
            return self.methods[name]
        made = f"The model was made by method {name!r} of the plugin {plugin} ({version})"
        if failed := [item.reason for item in self.broken if item.origin.distribution == plugin]:
            raise UnknownNameError(f"{made}, which cannot be loaded: {failed[0]} See zoo list --broken.")
        if version == _NOT_INSTALLED:
            raise UnknownNameError(f"{made}; its author loads it with ZOO_PLUGINS={shlex.quote(plugin)}.")
        try:
            state = f"of which {metadata.version(plugin)} is installed, without that method"
        except metadata.PackageNotFoundError:
            state = "which is not installed"
        raise UnknownNameError(f"{made}, {state}. Install it: pip install {shlex.quote(f'{plugin}=={version}')}")


def _flatten(results: Iterable[Iterable[Any]]) -> list[Any]:
    return [item for result in results for item in result]


def _origin(entry_point: metadata.EntryPoint) -> Origin:
    module = entry_point.value.partition(":")[0]
    distribution = entry_point.dist
    if distribution is None:
        return Origin(entry_point.name, module, _NOT_INSTALLED, module)
    return Origin(entry_point.name, distribution.name, distribution.version, module)


@functools.cache
def registry() -> Registry:
    """Return the registry of the installed plugins and those of ``ZOO_PLUGINS``; they are loaded once per process."""
    points = list(metadata.entry_points(group=hookspecs.GROUP))
    installed = {point.value for point in points}
    for module in filter(None, map(str.strip, os.environ.get("ZOO_PLUGINS", "").split(","))):
        if module not in installed:
            points.append(metadata.EntryPoint(module, module, hookspecs.GROUP))
    return Registry(points, strict=os.environ.get("ZOO_STRICT_PLUGINS") == "1")
