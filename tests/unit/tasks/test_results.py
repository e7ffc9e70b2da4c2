"""Where results may be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.errors import DataError
from zoo.system.files import sha256
from zoo.tasks.results import ResultFiles, bids_fields, check_results


@pytest.mark.parametrize("names", [("a.nii.gz", "a.nii.gz"), ("a.nii", "a.nii.gz"), ("a.nii", "b/../a.nii")])
def test_two_results_in_one_place_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="Two results"):
        check_results([ResultFiles(tmp_path / name) for name in names], [], overwrite=True)


def test_a_result_is_whole_while_its_files_are_as_they_were_written(tmp_path: Path) -> None:
    files = ResultFiles(tmp_path / "a.nii.gz")
    for file in (files.image, files.picture):
        file.write_bytes(b"voxels")
    hashes = {file.name: sha256(file) for file in (files.image, files.picture)}
    files.sidecar.write_text(json.dumps({"Synthetic": True, "Method": "x", "OutputSHA256": hashes}))
    assert files.are_whole()
    files.picture.write_bytes(b"other")
    assert not files.are_whole()
    files.picture.unlink()
    assert not files.are_whole()


def test_a_derived_image_names_its_source_inside_the_dataset(tmp_path: Path) -> None:
    image = tmp_path / "sub-1/anat/sub-1_space-MNI_T1w.nii.gz"
    image.parent.mkdir(parents=True)
    assert bids_fields(image)["Sources"] == [image.name]
    (tmp_path / "dataset_description.json").write_text("{}")
    image.with_name("sub-1_space-MNI_T1w.json").write_text('{"SkullStripped": true, "SpatialReference": "there"}')
    source = "sub-1/anat/sub-1_space-MNI_T1w.nii.gz"
    assert bids_fields(image) == {"Sources": [source], "SkullStripped": True, "SpatialReference": "there"}
