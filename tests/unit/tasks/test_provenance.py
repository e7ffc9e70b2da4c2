"""What every output says of how it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo
from zoo.models.runtime import Runtime
from zoo.tasks.fill.protocol import FillOptions
from zoo.tasks.provenance import provenance, read_sidecar


def test_an_output_says_that_it_is_synthetic_and_names_no_folder() -> None:
    said = provenance(
        zoo.load("neighbour-filling"), Runtime("openvino", "bf16"), FillOptions(seed=4), description="A test.",
        command=["zoo", "fill", "/home/somebody/run", "--out=x", "a b"],
    )  # fmt: skip
    assert said == {
        "Synthetic": True,
        "Description": "A test.",
        "Method": "neighbour-filling",
        "ModelSHA256": None,
        "Options": {"seed": 4},
        "Backend": "openvino",
        "Precision": "bf16",
        "Command": "zoo fill run --out=x 'a b'",
    }


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        (json.dumps({"Synthetic": True, "Method": "x"}), True),
        (json.dumps({"Synthetic": 1, "Method": "x"}), False),
        (json.dumps({"Synthetic": True}), False),
        ("[]", False),
        ("{", False),
    ],
)
def test_a_sidecar_of_this_program_is_known(tmp_path: Path, text: str, ours: bool) -> None:
    file = tmp_path / "image.json"
    file.write_text(text)
    assert (read_sidecar(file) is not None) == ours
    assert read_sidecar(tmp_path / "none.json") is None
