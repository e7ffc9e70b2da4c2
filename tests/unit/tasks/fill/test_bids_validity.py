"""The phantom is BIDS by the judgement of the official validator, which runs without the network."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest


def bids_errors(folder: Path) -> list[str]:
    """Return the validator's errors; it may read files but neither write nor reach the network."""
    deno = pytest.importorskip("deno", reason="the BIDS validator is not installed")
    package = importlib.util.find_spec("bids_validator_deno")
    if package is None or package.origin is None:
        pytest.skip("the BIDS validator is not installed")
    script = Path(package.origin).with_name("bids-validator.js")
    command = [deno.find_deno_bin(), "run", "--no-prompt", "--allow-read", "--allow-env", script, folder, "--json"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        found = json.loads(said[said.index("{") :])["issues"]["issues"]
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the BIDS validator cannot run here: {error}")
    return [f"{issue['code']} {issue.get('location')}" for issue in found if issue["severity"] == "error"]


@pytest.mark.parametrize("part", ["", "derivatives/tissue", "derivatives/lesions", "derivatives/truth"])
def test_phantom_is_valid(phantom: Path, part: str) -> None:
    assert bids_errors(phantom / part) == []


def test_validator_finds_what_is_wrong(phantom: Path, tmp_path: Path) -> None:

    copy = Path(shutil.copytree(phantom / "derivatives/truth", tmp_path / "truth"))
    for sidecar in copy.glob("sub-*/anat/*.json"):
        sidecar.unlink()
    assert any("SkullStripped" in error or "SIDECAR" in error for error in bids_errors(copy))


def test_filled_cohort_is_valid(zoo_command, phantom: Path, tmp_path: Path) -> None:
    code, _, err = zoo_command("fill", "biharmonic-2d3d-filling", "--data", phantom, "--out", tmp_path / "filled")
    assert code == 0, err
    assert bids_errors(tmp_path / "filled") == []
