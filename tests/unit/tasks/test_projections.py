"""Projections are one file that comes back as it was, or is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.errors import ArtifactError
from zoo.tasks.projections import Projections


def _row(number: int) -> dict[str, Any]:
    return {
        "subject": f"sub-{number:02d}",
        "scan": f"sub-{number:02d}",
        "slice": 10 + number,
        "position": 0.5,
        "covariates": {"age": 31.5, "group": "MS"},
        "losses": {"ssim": 0.9},
    }


@pytest.fixture
def projections() -> Projections:
    torch.manual_seed(0)
    return Projections(
        codes=torch.randn(3, 4, 8),
        noise=tuple(torch.randn(3, 1, side, side + 1) for side in (4, 8)),
        image=torch.rand(3, 2, 8, 9) * 2 - 1,
        reconstruction=torch.rand(3, 2, 8, 9) * 2 - 1,
        rows=tuple(_row(number) for number in range(3)),
        method="stylegan2-ada",
        model_sha256="ab" * 32,
        options={"iterations": 5},
    )


def test_what_is_written_is_read_again(projections: Projections, tmp_path: Path) -> None:
    projections.write(tmp_path / "projections.safetensors")
    for path in (tmp_path, tmp_path / "projections.safetensors"):
        read = Projections.read(path)
        assert len(read) == 3
        assert (read.rows, read.method, read.model_sha256, read.options) == (
            projections.rows, projections.method, projections.model_sha256, projections.options,
        )  # fmt: skip
        assert torch.equal(read.codes, projections.codes)
        assert torch.equal(read.image, projections.image)
        assert torch.equal(read.reconstruction, projections.reconstruction)
        assert all(torch.equal(one, other) for one, other in zip(read.noise, projections.noise, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["projections.safetensors"]


def test_more_than_ten_noise_maps_keep_their_order(projections: Projections, tmp_path: Path) -> None:
    many = replace(projections, noise=tuple(torch.full((3, 1, 4, 4), float(number)) for number in range(12)))
    many.write(tmp_path / "many.safetensors")
    assert [float(planes[0, 0, 0, 0]) for planes in Projections.read(tmp_path / "many.safetensors").noise] == list(
        range(12)
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codes": torch.zeros(2, 4, 8)}, r"codes is \[2, 4, 8\] for 3 rows"),
        ({"codes": torch.zeros(3)}, r"codes are \[3\], not"),
        ({"codes": torch.full((3, 4, 8), torch.nan)}, "codes holds NaN"),
        ({"image": torch.zeros(3, 2, 8, 9, dtype=torch.float16)}, "image is float16, not float32"),
        ({"reconstruction": torch.zeros(3, 1, 8, 9)}, r"reconstruction \[3, 1, 8, 9\]"),
        ({"noise": (torch.zeros(3, 2, 4, 4),)}, r"noise_0 is \[3, 2, 4, 4\]"),
        ({"rows": (_row(0), _row(1), {**_row(2), "position": "low"})}, "row 2 has no proper position"),
        ({"model_sha256": None}, "model_sha256 are text"),
    ],
)
def test_what_does_not_fit_together_is_refused(projections: Projections, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        replace(projections, **changes)


def test_damaged_foreign_and_newer_files_are_refused(projections: Projections, tmp_path: Path) -> None:
    whole, file = tmp_path / "whole.safetensors", tmp_path / "other.safetensors"
    projections.write(whole)
    tensors = load_file(whole)
    about = {"format": 1, "method": "m", "model_sha256": "s", "rows": [_row(0)] * 3, "options": {}}

    with pytest.raises(ArtifactError, match="zoo project RUN"):
        Projections.read(tmp_path / "nothing")
    file.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        Projections.read(file)
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match="does not hold projections"):
        Projections.read(file)
    for header in ("[]", "3", "no", json.dumps({"method": "stylegan2-ada"})):
        save_file(tensors, file, metadata={"zoo": header})
        with pytest.raises(ArtifactError, match="does not hold projections"):
            Projections.read(file)
    save_file(tensors, file, metadata={"zoo": json.dumps({**about, "format": 2})})
    with pytest.raises(ArtifactError, match="has format 2"):
        Projections.read(file)
    save_file(tensors, file, metadata={"zoo": json.dumps({**about, "rows": 3})})
    with pytest.raises(ArtifactError, match="is damaged"):
        Projections.read(file)
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != "w"}, file, metadata={"zoo": json.dumps(about)}
    )
    with pytest.raises(ArtifactError, match="it has no 'w'"):
        Projections.read(file)
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != "noise_0"},
        file,
        metadata={"zoo": json.dumps(about)},
    )
    with pytest.raises(ArtifactError, match="its noise maps are noise_1"):
        Projections.read(file)
