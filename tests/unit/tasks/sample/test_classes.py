"""Classes: asked for by name, written beside each image, shown on the sheet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tests.toy.classes as classes
import zoo
from tests.toy import registered
from tests.toy.config import ClassesConfig
from zoo.tasks.sample.check import check_sample
from zoo.testing import ClassicContract

Command = Callable[..., tuple[int, str, str]]
METHOD = "toy-classes"


@pytest.fixture(scope="module", autouse=True)
def _toy() -> Iterator[None]:
    with registered():
        yield


class TestClasses(ClassicContract):
    method = METHOD


def _classes(folder: Path) -> list[str]:
    files = sorted(folder.glob("sample-*_T1w.json"))
    return [json.loads(file.read_text())["Class"] for file in files]


def test_a_class_is_asked_for_by_name(zoo_command: Command, tmp_path: Path) -> None:
    assert zoo_command("sample", METHOD, "-n", 8, "--out", tmp_path / "any")[0] == 0
    assert set(_classes(tmp_path / "any")) == {"dark", "bright"}
    assert zoo_command("sample", METHOD, "-n", 3, "--class", "bright", "--out", tmp_path / "bright")[0] == 0
    assert _classes(tmp_path / "bright") == ["bright"] * 3


def test_a_class_that_there_is_not_is_refused(
    zoo_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(label: str) -> str:
        code, _, err = zoo_command("sample", METHOD, "--class", label, "--out", tmp_path / "none")
        assert code == 1
        return err

    assert "has no class 'brigth'. Did you mean 'bright'? Classes: dark, bright." in error("brigth")
    assert "has no class 'red'. Classes: dark, bright." in error("red")
    monkeypatch.setattr(ClassesConfig, "class_names", ())
    assert "has no classes, so no class 'red' can be asked for; leave out --class." in error("red")
    assert not (tmp_path / "none").exists()


def test_the_check_finds_a_sampler_that_ignores_its_class(
    monkeypatch: pytest.MonkeyPatch, phantom: Path, tmp_path: Path
) -> None:
    honest = classes.sample
    check_sample(zoo.load(METHOD), phantom, tmp_path / "honest")
    monkeypatch.setattr(
        classes, "sample", lambda *given: honest(*given[:3], given[3].model_copy(update={"label": None}))
    )
    with pytest.raises(AssertionError):
        check_sample(zoo.load(METHOD), phantom, tmp_path / "wrong")


def test_the_sheet_has_a_title_for_each_row_of_several_contrasts(zoo_command: Command, tmp_path: Path) -> None:
    from matplotlib.image import imread

    assert zoo_command("sample", METHOD, "-n", 2, "--out", tmp_path)[0] == 0
    height, width = imread(tmp_path / "samples.png").shape[:2]
    assert width - height > 20  # two rows and two columns: beside the tiles there are titles
