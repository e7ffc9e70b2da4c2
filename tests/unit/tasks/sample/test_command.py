"""What ``zoo sample`` refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Command = Callable[..., tuple[int, str, str]]


def test_a_method_that_cannot_sample_is_refused(trained: Path, tmp_path: Path, zoo_command: Command) -> None:
    code, _, err = zoo_command("sample", trained, "--out", tmp_path / "none")
    assert (code, "cannot sample; it offers fill" in err) == (1, True)
    assert not (tmp_path / "none").exists()


def test_a_missing_model_is_refused(tmp_path: Path, zoo_command: Command) -> None:
    code, _, err = zoo_command("sample", tmp_path / "nothing", "--out", tmp_path / "none")
    assert (code, "There is no model" in err) == (1, True)
