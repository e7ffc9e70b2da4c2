"""Flags that commands share."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from zoo.cli.options import given_options, json_option, numbers, runtime_options
from zoo.cli.output import show_json
from zoo.errors import UnknownNameError


@click.command(name="harmonize")
@click.argument("run")
@click.option("--only", callback=numbers)
@runtime_options
@json_option
def harmonize(run: str, only: tuple[int, ...], runtime: object, as_json: bool) -> None:
    """A verb of a third party."""
    show_json([run, only, str(runtime), as_json])


def test_a_third_partys_command_gets_its_runtime_as_one_argument() -> None:
    words = ["RUN", "--only", "3,7", "--backend", "openvino", "--precision", "bf16", "--device", "cpu", "--json"]
    said = CliRunner().invoke(harmonize, words, catch_exceptions=False)
    expected = "Runtime(backend='openvino', precision='bf16', device='cpu')"
    assert json.loads(said.stdout) == ["RUN", [3, 7], expected, True]
    assert "--backend" in CliRunner().invoke(harmonize, ["--help"]).stdout


def test_wrong_flags_are_refused() -> None:
    assert CliRunner().invoke(harmonize, ["RUN", "--precision", "int3"]).exit_code == 2
    assert CliRunner().invoke(harmonize, ["RUN", "--only", "x"]).exit_code == 2
    with pytest.raises(UnknownNameError):
        CliRunner().invoke(harmonize, ["RUN", "--backend", "tourch"], catch_exceptions=False)


def test_assignments_override_flags_and_absent_flags_leave_the_default() -> None:
    assert given_options(["steps=3", "network.width=8"], steps=2, seed=None) == {"steps": 3, "network": {"width": 8}}
