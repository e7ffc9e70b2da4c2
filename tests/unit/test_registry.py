"""Plugins are found, kept apart when broken, and resolved by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import save_file

import zoo
from tests.conftest import ROOT
from zoo.descriptors import Citation, Method, Task, Verb, resolve
from zoo.errors import ConfigError, PluginError, UnknownNameError
from zoo.hookspecs import hookimpl
from zoo.registry import Registry, registry

VERB = Verb(name="harmonize", summary="Make a scan look like those of another scanner.", command="a:b")


def _method(name: str, verb: str) -> Method:
    return Method(
        name=name, summary="", version=1, citation=Citation(authors="", title="", venue="", year=2026),
        licence="MIT", needs=(), config="a:b", tasks={verb: Task(run="a:b", options="a:b")},
    )  # fmt: skip


class _Plugin:
    def __init__(self, **hooks: object) -> None:
        for name, items in hooks.items():
            setattr(self, name, hookimpl(lambda items=items: items))


class _Point:
    """The entry point of an installed plugin that is at hand."""

    def __init__(self, name: str, plugin: object) -> None:
        self.name = name
        self.value = f"zoo_{name}.plugin"
        self.dist = SimpleNamespace(name=f"zoo-{name}", version="1.0")
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


def test_strict_registry_raises_and_names_the_plugin() -> None:
    with pytest.raises(PluginError, match=r"'bad' of zoo-bad \(1.0\) cannot be loaded: ImportError: no"):
        _registry(_Point("bad", ImportError("no")), strict=True)


def test_a_hook_that_raises_is_recorded_with_its_plugin() -> None:
    class Raising:
        @hookimpl
        def zoo_methods(self) -> list[Method]:
            raise RuntimeError("disk on fire")

    found = _registry(_Point("bad", Raising()), _Point("good", _Plugin(zoo_verbs=[VERB])))
    assert [(each.origin.distribution, each.reason) for each in found.broken] == [
        ("zoo-bad", "RuntimeError: disk on fire")
    ]
    assert "harmonize" in found.verbs


# --- Verbs. ---


def test_the_hosts_verbs_come_by_the_same_road() -> None:
    assert {"fill", "sample", "project", "edit"} <= set(registry().verbs.items)
    assert registry().verbs.origins["fill"].module == "zoo.tasks.plugin"


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_method_may_be_loaded_before_its_verb(names: tuple[str, str]) -> None:
    plugins = {"a": _Plugin(zoo_methods=[_method("mine", "harmonize")]), "b": _Plugin(zoo_verbs=[VERB])}
    first, second = names
    found = _registry(_Point("x", plugins[first]), _Point("y", plugins[second]))
    assert not found.broken
    assert "mine" in found.methods


def test_a_method_with_an_unknown_verb_is_refused_and_others_stay() -> None:
    methods = [_method("wrong", "harmonise"), _method("right", "harmonize")]
    found = _registry(_Point("a", _Plugin(zoo_methods=methods)), _Point("b", _Plugin(zoo_verbs=[VERB])))
    assert "right" in found.methods
    assert "wrong" not in found.methods
    assert found.broken[0].origin.distribution == "zoo-a"
    reason = (
        r"Method 'wrong' of zoo-a cannot be used: it offers the verb 'harmonise', which no installed plugin brings. "
        r"Did you mean 'harmonize'\? Verbs: harmonize\."
    )
    assert re.fullmatch(reason, found.broken[0].reason)
    with pytest.raises(UnknownNameError, match=reason):
        found.methods["wrong"]
    with pytest.raises(PluginError, match="'harmonise'"):
        _registry(_Point("a", _Plugin(zoo_methods=methods[:1])), strict=True)


def test_a_task_must_be_described_as_its_verb_asks() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Special(Task):
        more: str = ""

    found = _registry(
        _Point("a", _Plugin(zoo_methods=[_method("mine", "harmonize")])),
        _Point("b", _Plugin(zoo_verbs=[replace(VERB, task=Special)])),
    )
    assert re.search(r"describes its task 'harmonize' by a Task; that verb needs a .*Special", found.broken[0].reason)


def test_a_verb_cannot_hide_a_command_of_the_host() -> None:
    found = _registry(_Point("evil", _Plugin(zoo_verbs=[replace(VERB, name="train")])))
    assert found.broken[0].reason == (
        "verb 'train' of zoo-evil has the name of the command 'zoo train' of mri-zoo; rename the verb."
    )
    assert "train" not in found.verbs


# --- Plugins that are not there, and those of their author. ---


def test_a_missing_plugin_is_named_with_the_line_that_installs_it() -> None:
    manifest = {"method": "mine", "plugin": "zoo-harmonize", "plugin_version": "0.3.0"}
    with pytest.raises(
        UnknownNameError, match=r"'mine' of the plugin zoo-harmonize \(0.3.0\), which is not installed.* "
        r"pip install zoo-harmonize==0.3.0$",
    ):  # fmt: skip
        registry().method_of(manifest)
    with pytest.raises(UnknownNameError, match=r"pluggy \(0.1\), of which .* is installed, without that method"):
        registry().method_of({**manifest, "plugin": "pluggy", "plugin_version": "0.1"})


def test_a_model_whose_plugin_is_missing_cannot_be_opened(tmp_path: Path) -> None:
    manifest = {
        "format": 1, "method": "mine", "method_version": 1, "plugin": "zoo-harmonize", "plugin_version": "0.3.0",
        "config": {},
    }  # fmt: skip
    save_file({}, tmp_path / "model.safetensors", metadata={"zoo": json.dumps(manifest)})
    with pytest.raises(UnknownNameError, match=r"pip install zoo-harmonize==0\.3\.0"):
        zoo.load(tmp_path)


def test_a_model_of_a_broken_plugin_tells_why_it_is_broken() -> None:
    found = _registry(_Point("bad", ImportError("no module x")))
    with pytest.raises(UnknownNameError, match=r"zoo-bad.*cannot be loaded: ImportError: no module x"):
        found.method_of({"method": "mine", "plugin": "zoo-bad", "plugin_version": "1.0"})


def test_a_target_that_does_not_exist_names_its_distribution() -> None:
    _registry(_Point("target", _Plugin()))
    with pytest.raises(PluginError, match=r"'zoo_target.nothing:x' of zoo-target cannot be imported: Mod"):
        resolve("zoo_target.nothing:x")
    with pytest.raises(PluginError, match=r"'zoo.errors' of mri-zoo has no attribute.* Did you mean 'DataError'"):
        resolve("zoo.errors:DataEror")


def test_plugins_of_an_author_are_loaded_without_being_installed(tmp_path: Path) -> None:
    (tmp_path / "zoo_mine.py").write_text(
        "from zoo import Verb, hookimpl\n@hookimpl\ndef zoo_verbs():\n"
        "    return [Verb(name='harmonize', summary='Mine.', command='zoo_mine:nothing')]\n"
    )
    shown = _zoo(tmp_path, "zoo_mine", "--help")
    assert re.search(r"harmonize +Mine. \(zoo_mine\)", shown.stdout)
    near = _zoo(tmp_path, "zoo_mine", "harmonise")
    assert near.returncode == 2
    assert "Did you mean 'harmonize'" in near.stderr
    used = _zoo(tmp_path, "zoo_mine", "harmonize")
    assert used.returncode == 1
    assert "but the module 'zoo_mine' of zoo_mine has no attribute 'nothing'" in used.stderr
    wrong = _zoo(tmp_path, "zoo_mine,zoo_nowhere", "list")
    assert wrong.returncode == 1
    assert "Plugin 'zoo_nowhere' of zoo_nowhere (not installed) cannot be loaded: ModuleNotFoundError" in wrong.stderr


def _zoo(folder: Path, plugins: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ZOO_PLUGINS": plugins, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "zoo", *words], env=environment, capture_output=True, text=True, check=False
    )


# --- Descriptors. ---


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

    reference = (ROOT / "docs" / "reference" / "reference.md").read_text(encoding="utf-8")
    for name in dir(hookspecs):
        if name.startswith("zoo_"):
            assert f"`{name}`" in reference, name


def test_entry_points_are_ordinary_ones() -> None:
    from importlib.metadata import entry_points

    points = entry_points(group="zoo")
    assert all(isinstance(point, EntryPoint) for point in points)
    assert {"lesion-diffusion", "phantom", "torch"} <= {point.name for point in points}
