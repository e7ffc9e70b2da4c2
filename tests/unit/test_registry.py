"""Plugins are found, kept apart when broken, and resolved by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from tests.conftest import ROOT
from zoo.errors import ConfigError, UnknownNameError
from zoo.hookspecs import hookimpl
from zoo.registry import Registry, registry


class _Plugin:
    def __init__(self, **hooks: object) -> None:
        for name, items in hooks.items():
            setattr(self, name, hookimpl(lambda items=items: items))


class _Point:
    """An entry point whose plugin is at hand."""

    dist = None

    def __init__(self, name: str, plugin: object) -> None:
        self.name = name
        self.plugin = plugin

    def load(self) -> object:
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


def _registry(*points: _Point, strict: bool = False) -> Registry:
    return Registry(points, strict=strict)  # type: ignore[arg-type]


def test_built_in_plugins_load_whole() -> None:
    assert not registry().broken
    assert "lesion-filling" in registry().methods
    assert "phantom" in registry().datasets
    assert "torch" in registry().exporters


def test_broken_plugin_is_recorded_and_named_in_errors() -> None:
    evaluator = next(iter(registry().evaluators))
    found = _registry(_Point("bad", ImportError("no module x")), _Point("good", _Plugin(zoo_evaluators=[evaluator])))
    assert [(plugin.origin.plugin, plugin.reason) for plugin in found.broken] == [("bad", "ImportError: no module x")]
    assert evaluator.name in found.evaluators
    with pytest.raises(UnknownNameError, match=r"failed to load: bad \(see zoo list --broken\)"):
        found.methods["anything"]


def test_strict_registry_raises() -> None:
    with pytest.raises(ImportError):
        _registry(_Point("bad", ImportError("no")), strict=True)


def test_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(
        UnknownNameError, match=r"No method is called 'lesion-fillin'. Did you mean 'lesion-filling' or"
    ):
        registry().methods["lesion-fillin"]


def test_misspelt_hook_is_an_error() -> None:
    found = _registry(_Point("typo", _Plugin(zoo_metods=[])))
    assert "zoo_metods" in found.broken[0].reason


def test_later_of_two_equal_names_is_refused_and_both_are_named() -> None:
    evaluator = next(iter(registry().evaluators))
    found = _registry(
        _Point("a", _Plugin(zoo_evaluators=[evaluator])), _Point("b", _Plugin(zoo_evaluators=[evaluator]))
    )
    assert found.broken[0].origin.plugin == "b"
    assert "already provided" in found.broken[0].reason


def test_hook_that_returns_something_else_is_refused() -> None:
    found = _registry(_Point("odd", _Plugin(zoo_methods=["not a method"])))
    assert "returned str, not Method" in found.broken[0].reason


def test_descriptors_refuse_what_cannot_be_right() -> None:
    from zoo import Evaluator

    with pytest.raises(ConfigError, match="not kebab-case"):
        Evaluator(name="Not Kebab", summary="", evaluate="a:b", options="a:b")


def test_every_hook_is_documented() -> None:
    from zoo import hookspecs

    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in dir(hookspecs):
        if name.startswith("zoo_"):
            assert f"`{name}`" in reference, name


def test_entry_points_are_ordinary_ones() -> None:
    from importlib.metadata import entry_points

    points = entry_points(group="zoo")
    assert all(isinstance(point, EntryPoint) for point in points)
    assert {"lesion-diffusion", "phantom", "torch"} <= {point.name for point in points}
