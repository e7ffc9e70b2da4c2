"""Finds plugins, keeps the broken ones apart, and resolves names.

Entry points of group ``zoo`` are loaded one by one. A plugin that cannot be imported is recorded and shown by
``zoo list --broken``; it never takes a command down. ``ZOO_STRICT_PLUGINS=1`` raises instead.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Generic, TypeVar

import pluggy

from zoo import hookspecs
from zoo.descriptors import Dataset, Evaluator, Exporter, Method
from zoo.errors import DuplicateNameError, UnknownNameError, ZooError, did_you_mean

Descriptor = TypeVar("Descriptor", Method, Evaluator, Exporter, Dataset)


@dataclass(frozen=True)
class Origin:
    """Which installed plugin an item came from."""

    plugin: str
    distribution: str
    version: str


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that could not be used, and why."""

    origin: Origin
    reason: str


@dataclass
class Shelf(Generic[Descriptor]):
    """The items of one kind, by name."""

    kind: str
    items: dict[str, Descriptor] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)

    def add(self, item: Descriptor, origin: Origin) -> None:
        if item.name in self.items:
            first = self.origins[item.name]
            raise DuplicateNameError(
                f"{self.kind} {item.name!r} of {origin.distribution} is already provided by {first.distribution}; "
                "rename one or uninstall one of the two."
            )
        self.items[item.name] = item
        self.origins[item.name] = origin

    def __getitem__(self, name: str) -> Descriptor:
        """Return the item called ``name``.

        Raises:
            UnknownNameError: With near names, the known ones, and the plugins that failed to load.
        """
        if name in self.items:
            return self.items[name]
        message = f"No {self.kind} is called {name!r}.{did_you_mean(name, self.items)}"
        message += f" Known: {', '.join(sorted(self.items)) or 'none'}."
        if self.broken:
            failed = ", ".join(plugin.origin.plugin for plugin in self.broken)
            message += f" Plugins that failed to load: {failed} (see zoo list --broken)."
        raise UnknownNameError(message)

    def __iter__(self) -> Iterator[Descriptor]:
        return iter(self.items[name] for name in sorted(self.items))

    def __contains__(self, name: str) -> bool:
        return name in self.items


class Registry:
    """All that the installed plugins bring.

    Args:
        entry_points: Plugins to load; the installed ones of group ``zoo`` when read by `registry`.
        strict: Raise on the first plugin that fails instead of recording it.
    """

    def __init__(self, entry_points: Sequence[metadata.EntryPoint], *, strict: bool = False) -> None:
        self.broken: list[BrokenPlugin] = []
        self.methods: Shelf[Method] = Shelf("method", broken=self.broken)
        self.evaluators: Shelf[Evaluator] = Shelf("evaluator", broken=self.broken)
        self.exporters: Shelf[Exporter] = Shelf("exporter", broken=self.broken)
        self.datasets: Shelf[Dataset] = Shelf("dataset", broken=self.broken)
        # The zoo's own plugins come first, so that a third party cannot take a built-in name.
        for entry_point in sorted(
            entry_points, key=lambda point: (_origin(point).distribution != "mri-zoo", point.name)
        ):
            origin = _origin(entry_point)
            try:
                self._load(entry_point, origin)
            except Exception as error:
                if strict:
                    raise
                kind = "" if isinstance(error, ZooError) else f"{type(error).__name__}: "
                self.broken.append(BrokenPlugin(origin, f"{kind}{error}"))

    def _load(self, entry_point: metadata.EntryPoint, origin: Origin) -> None:
        manager = pluggy.PluginManager(hookspecs.GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(entry_point.load(), name=entry_point.name)
        manager.check_pending()  # a misspelt hook is an error, not a plugin that does nothing
        brought: list[tuple[Shelf[Any], type, Iterable[Any]]] = [
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


def _flatten(results: Iterable[Iterable[Any]]) -> list[Any]:
    return [item for result in results for item in result]


def _origin(entry_point: metadata.EntryPoint) -> Origin:
    distribution = entry_point.dist
    if distribution is None:
        return Origin(entry_point.name, "unknown", "unknown")
    return Origin(entry_point.name, distribution.name, distribution.version)


@functools.cache
def registry() -> Registry:
    """Return the registry of the installed plugins; they are discovered once a process."""
    points = tuple(metadata.entry_points(group=hookspecs.GROUP))
    return Registry(points, strict=os.environ.get("ZOO_STRICT_PLUGINS") == "1")
