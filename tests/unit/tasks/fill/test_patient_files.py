"""Files as people really have them: what belongs together, what may be replaced, and what is said when it does not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import zoo
from zoo.cli import main
from zoo.errors import DataError
from zoo.imaging.cohort import Cohort, Scan
from zoo.imaging.spaces import contradictions, unsettled
from zoo.imaging.volume import MAX_VOXELS, read_volume
from zoo.report.figures import picture_grid
from zoo.tasks.fill.cohort import fill_cohort
from zoo.tasks.fill.patient import FillSettings

Command = Callable[..., tuple[int, str, str]]
Fill = Callable[..., tuple[int, str, str]]
METHOD = "neighbour-filling"


def _write(path: Path, values: np.ndarray, spacing: float = 4.0, code: int = 1, unit: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([spacing, spacing, spacing, 1.0]))
    image.set_sform(image.affine, code)
    image.header["xyzt_units"] = unit
    nibabel.save(image, path)
    return path


def _head() -> np.ndarray:
    """Return a ball of three tissues in black air, 24 voxels per side."""
    rng = np.random.default_rng(0)
    distance = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    head = np.select([distance < 6, distance < 9, distance < 11], [900, 600, 300], 0)
    return np.where(head > 0, head + rng.integers(0, 30, head.shape), 0).astype(np.int16)


def _lesion() -> np.ndarray:
    mask = np.zeros((24, 24, 24), np.uint8)
    mask[10:13, 10:13, 10:13] = 1
    return mask


@pytest.fixture
def fill(zoo_command: Command, tmp_path: Path) -> Fill:
    """Write an image and a mask, and fill; by default the names say nothing."""

    def run(
        *options: object,
        image: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        names: tuple[str, str] = ("t1.nii.gz", "m.nii.gz"),
        out: str = "out/filled.nii.gz",
        codes: tuple[int, int] = (1, 1),
        **geometry: Any,
    ) -> tuple[int, str, str]:
        given = [_head() if image is None else image, _lesion() if mask is None else mask]
        paths = [
            _write(tmp_path / name, values, code=code, **geometry)
            for name, values, code in zip(names, given, codes, strict=True)
        ]
        return zoo_command(
            "fill", METHOD, "--image", paths[0], "--lesions", paths[1], "--out", tmp_path / out, *options
        )

    return run


def test_the_rim_is_counted_apart_and_drawn_in_another_colour(fill: Fill, tmp_path: Path) -> None:
    assert fill("--dilate", 0, out="plain.nii.gz")[0] == 0
    white_matter = _write(tmp_path / "wm.nii.gz", (_head() > 800).astype(np.uint8))
    assert fill("--dilate", 2, "--wm", white_matter, out="rim.nii.gz")[0] == 0
    plain, rim = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "rim"))
    assert (plain["VoxelsDrawn"], plain["VoxelsAdded"]) == (27, 0)
    assert rim["VoxelsDrawn"] == 27
    assert rim["VoxelsAdded"] > 27
    assert rim["VoxelsOutsideChanged"] == plain["VoxelsOutsideChanged"] == 0
    from PIL import Image

    for name, has_rim in (("plain", False), ("rim", True)):
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
        near = [(abs(picture - np.array(colour)).max(axis=2) < 25).any() for colour in ((255, 176, 0), (53, 208, 255))]
        assert near == [True, has_rim]


@pytest.mark.parametrize("name", ["filled.nii.gz", "filled.json", "filled.png", "filled-sd.nii.gz"])
def test_a_file_of_somebody_else_is_not_replaced(fill: Fill, tmp_path: Path, name: str) -> None:
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir()
    foreign.write_text('{"Modality": "MR"}')
    code, _, err = fill("--dilate", 0)
    assert code == 1
    assert f"{name} is there already and not made by this program" in err
    assert [file.name for file in foreign.parent.iterdir()] == [name]
    assert foreign.read_text() == '{"Modality": "MR"}'
    assert fill("--dilate", 0, "--overwrite")[0] == 0
    assert (tmp_path / "out/filled.png").is_file()


def test_own_results_are_replaced_and_nothing_stale_stays(fill: Fill, tmp_path: Path) -> None:
    assert "Wrote" in fill("--dilate", 0, "--samples", 2)[1]
    assert (tmp_path / "out/filled-sd.nii.gz").is_file()
    (tmp_path / "out/filled.nii.gz").write_bytes(b"cut")  # the sidecar tells whose it was
    assert "Replaced" in fill("--dilate", 0)[1]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["filled.json", "filled.nii.gz", "filled.png"]
    (tmp_path / "out/filled.json").unlink()  # image and picture carry a mark of their own
    assert fill("--dilate", 0)[0] == 0


def test_inputs_are_never_replaced(fill: Fill, zoo_command: Command, tmp_path: Path) -> None:
    assert "is the input" in fill("--overwrite", out="t1.nii.gz")[2]
    assert "is the input" in fill("--overwrite", names=("t1.nii.gz", "a-sd.nii.gz"), out="a.nii.gz")[2]
    before = (tmp_path / "t1.nii.gz").read_bytes()
    code, _, err = fill("--quality", tmp_path / "t1.nii.gz", "--overwrite")
    assert code == 1
    assert "is an input or result" in err
    assert (tmp_path / "t1.nii.gz").read_bytes() == before
    (tmp_path / "page.html").write_text("my notes")
    code, _, err = fill("--quality", tmp_path / "page.html")
    assert code == 1
    assert "is there already and no quality page" in err
    assert not (tmp_path / "out").exists()
    assert fill("--quality", tmp_path / "page.html", "--overwrite", "--dilate", 0)[0] == 0
    assert fill("--quality", tmp_path / "page.html", "--dilate", 0)[0] == 0  # its own page


def test_nothing_is_written_when_the_last_step_fails(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("zoo.report.figures.before_after", fail)
    code, _, err = fill("--dilate", 0)
    assert code == 1
    assert err.startswith("zoo: Not enough memory")
    assert not [file for file in (tmp_path / "out").glob("*")]


@pytest.mark.parametrize(
    ("image", "mask", "codes", "words"),
    [
        ("sub-1_T1w", "sub-1_label-lesion_mask", (1, 1), ""),
        ("sub-1_T1w", "sub-1_space-T1w_label-lesion_mask", (1, 2), ""),
        ("sub-1_T1w", "sub-1_space-orig_label-lesion_mask", (1, 1), ""),
        ("sub-1_space-MNI152_T1w", "sub-1_space-MNI152NLin6Asym_label-lesion_mask", (1, 4), ""),
        ("sub-1_space-T1w_FLAIR", "sub-1_label-lesion_mask", (1, 1), ""),
        ("t1", "sub-1_run-2_label-lesion_mask", (2, 4), ""),
        ("sub-1_run-2_T1w", "sub-1_label-lesion_mask", (0, 1), ""),
        ("sub-1_T1w", "sub-1_space-MNI152_label-lesion_mask", (1, 1), "name different spaces"),
        ("sub-1_space-MNI152_T1w", "sub-1_label-lesion_mask", (1, 1), "name different spaces"),
        ("sub-1_space-MNI152NLin6Asym_T1w", "sub-1_space-MNI152NLin2009cAsym_mask", (4, 4), "name different spaces"),
        ("sub-1_T1w", "sub-1_space-FLAIR_label-lesion_mask", (1, 1), "that of the FLAIR and that of the T1w"),
        ("t1", "mask", (1, 4), "MNI (code 4) and the scanner's (code 1)"),
        ("sub-1_T1w", "sub-1_label-lesion_mask", (4, 1), "the scanner's (code 1) and MNI (code 4)"),
        ("sub-1_run-1_T1w", "sub-1_run-2_label-lesion_mask", (1, 1), "different runs (run-2 and run-1)"),
        ("sub-1_acq-2d_T1w", "sub-1_acq-3d_label-lesion_mask", (1, 1), "different acquisitions"),
        ("sub-1_T1w", "sub-2_label-lesion_mask", (1, 1), "different subjects"),
        ("sub-1_ses-1_T1w", "sub-1_ses-2_label-lesion_mask", (1, 1), "different sessions"),
    ],
)
def test_what_names_and_headers_say_of_the_space(
    tmp_path: Path, image: str, mask: str, codes: tuple[int, int], words: str
) -> None:
    volumes = [
        read_volume(_write(tmp_path / f"{name}.nii", _lesion(), code=code))
        for name, code in zip((image, mask), codes, strict=True)
    ]
    found = contradictions(*volumes)
    assert words in "; ".join(found)
    assert bool(found) == bool(words)


def test_other_contrasts_have_runs_of_their_own(tmp_path: Path) -> None:
    one, two = (read_volume(_write(tmp_path / f"sub-1_{name}.nii", _lesion())) for name in ("run-1_T1w", "run-2_FLAIR"))
    assert contradictions(one, two)
    assert not contradictions(one, two, contrasts=True)
    silent = read_volume(_write(tmp_path / "t1.nii", _lesion()))
    template = read_volume(_write(tmp_path / "sub-1_space-MNI152_mask.nii", _lesion()))
    assert "names the space of a template, t1.nii does not" in unsettled(silent, template)
    assert not unsettled(one, two)


def test_another_space_is_refused_or_recorded(fill: Fill, tmp_path: Path) -> None:
    names = ("sub-1_T1w.nii.gz", "sub-1_space-MNI152_label-lesion_mask.nii.gz")
    code, _, err = fill("--dilate", 0, names=names)
    assert code == 1
    assert "--same-space" in err
    code, _, err = fill("--dilate", 0, "--same-space", names=names)
    assert code == 0
    assert "--same-space was given, although" in err
    sidecar = json.loads((tmp_path / "out/filled.json").read_text())
    assert sidecar["SameSpace"] is True
    assert "name different spaces" in sidecar["Warnings"][0]


def test_masks_of_other_values(fill: Fill, tmp_path: Path) -> None:
    code, _, err = fill("--dilate", 0, mask=_lesion() * np.float32(0.45))
    assert (code, "up to 0.45" in err) == (1, True)
    labels = _lesion()
    labels[11] *= 2
    assert fill("--dilate", 0, mask=labels)[0] == 1
    code, said, err = fill("--dilate", 0, "--lesion-labels", "2", "--quality", tmp_path / "q.html", mask=labels)
    assert code == 0, err
    assert "of 9 voxels changed" in said
    assert json.loads((tmp_path / "out/filled.json").read_text())["LesionLabels"] == [2]
    code, _, err = fill("--wm", _write(tmp_path / "dseg.nii.gz", labels))
    assert (code, "dseg.nii.gz holds the whole numbers 1, 2" in err) == (1, True)
    assert "mask is empty" in fill("--dilate", 0, mask=labels * 0)[2]


@pytest.mark.parametrize(
    ("shift", "words"),
    [((0, 0, 0), ""), ((-10, -10, -10), "27 of the 27 voxels"), ((11, 0, 0), "of the 27 voxels of the lesion mask")],
)
def test_a_mask_outside_the_head_is_told(fill: Fill, shift: tuple[int, ...], words: str) -> None:
    code, _, err = fill("--dilate", 0, mask=np.roll(_lesion(), shift, axis=(0, 1, 2)))
    assert code == 0
    assert words in err
    assert ("outside the head" in err) == bool(words)


@pytest.mark.parametrize(
    ("geometry", "code", "words"),
    [
        ({"spacing": 0.004, "unit": 1}, 0, "27 voxels changed"),
        ({"spacing": 4.0, "unit": 1}, 1, "voxels of 4e+03 × 4e+03 × 4e+03 mm (its header counts in metres)"),
        ({"spacing": 0.06}, 1, "shows 1.44 × 1.44 × 1.44 mm, which cannot be a head"),
    ],
)
def test_sizes_that_cannot_be_a_head(fill: Fill, geometry: dict[str, Any], code: int, words: str) -> None:
    result = fill("--dilate", 0, **geometry)
    assert result[0] == code
    assert words in result[1] + result[2]


def test_the_picture_of_thin_slices_is_bounded(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((400, 30, 20), np.uint8), np.diag([0.05, 15, 20, 1]))
    nibabel.save(image, tmp_path / "thin.nii")
    assert np.prod(picture_grid(read_volume(tmp_path / "thin.nii")).shape, dtype=float) < MAX_VOXELS / 5


def test_names_that_are_long_or_no_text(fill: Fill, tmp_path: Path) -> None:
    assert fill("--dilate", 0, out=f"{'x' * 244}.nii.gz")[0] == 0
    code, _, err = fill("--dilate", 0, out=f"{'x' * 250}.nii.gz")
    assert code == 1
    assert "cannot be the name of a file" in err
    odd = os.fsdecode(b"caf\xe9.nii.gz")
    code, said, err = fill("--dilate", 0, "--quality", tmp_path / "q.html", names=(odd, "m.nii.gz"), out=f"out/{odd}")
    assert code == 0, err
    assert "caf\\udce9" in said
    assert (tmp_path / "q.html").is_file()


def test_places_that_cannot_be_written_are_told_before_filling(fill: Fill, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = fill(out="file/filled.nii.gz")
    assert (code, "is no folder" in err) == (1, True)
    (tmp_path / "out/filled.png").mkdir(parents=True)
    code, _, err = fill("--overwrite")
    assert (code, "filled.png is a folder" in err) == (1, True)
    os.mkfifo(tmp_path / "piped.json")
    code, _, err = fill(out="piped.nii.gz")
    assert (code, "piped.json is a pipe" in err) == (1, True)


def test_memory_that_torch_lacks_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("zoo.cli.group.main", fail)
    with pytest.raises(SystemExit) as stop:
        main(["list"])
    assert stop.value.code == 1
    assert "Not enough memory" in capsys.readouterr().err


def test_a_pipe_is_no_model(zoo_command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    code, _, err = zoo_command("info", tmp_path / "model.safetensors")
    assert (code, "is a pipe, socket or device" in err) == (1, True)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Three subjects whose images and masks have the same names, in a manifest."""
    rows = ["participant_id\tT1w\tlesion-mask"]
    for number in range(3):
        _write(tmp_path / f"img{number}/001.nii.gz", _head() + np.int16(number))
        _write(tmp_path / f"msk{number}/001.nii.gz", _lesion())
        rows.append(f"{number}\timg{number}/001.nii.gz\tmsk{number}/001.nii.gz")
    (tmp_path / "all.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "all.tsv"


def _statuses(zoo_command: Command, cohort: Path, *options: object) -> list[str]:
    out = cohort.parent / "out"
    _, said, _ = zoo_command("fill", METHOD, "--data", cohort, "--out", out, "--dilate", 0, "--json", *options)
    return [scan["status"] for scan in json.loads(said)["scans"]]


def test_a_result_belongs_to_its_inputs_by_content(zoo_command: Command, cohort: Path) -> None:
    assert _statuses(zoo_command, cohort) == ["filled"] * 3
    assert _statuses(zoo_command, cohort) == ["there already"] * 3
    _write(cohort.parent / "img0/001.nii.gz", _head() + np.int16(99))  # another patient under the same name
    wider = _lesion()
    wider[13] = wider[12]
    _write(cohort.parent / "msk1/001.nii.gz", wider)
    assert _statuses(zoo_command, cohort) == ["filled", "filled", "there already"]
    filled = sorted((cohort.parent / "out").rglob("*desc-filled_001.nii.gz"))
    filled[0].write_bytes(filled[0].read_bytes()[:100])  # truncated since
    filled[1].with_name("desc-filled_001.json").unlink()  # image and picture carry a mark of their own
    assert _statuses(zoo_command, cohort) == ["filled", "filled", "there already"]
    filled[1].with_name("desc-filled_001.json").write_text("[1]")  # it does not say whose it is
    assert _statuses(zoo_command, cohort) == ["there already", "failed", "there already"]
    sidecar = json.loads(filled[2].with_name("desc-filled_001.json").read_text())
    assert [given["Role"] for given in sidecar["Inputs"]] == ["T1w", "lesion-mask"]


def test_totals_and_counts_of_a_cohort(zoo_command: Command, cohort: Path) -> None:
    out = cohort.parent / "out"
    code, said, _ = zoo_command("fill", METHOD, "--data", cohort, "--out", out, "--dilate", 0)
    assert code == 0
    assert "Drawn: 81 of 81 voxels changed. Added by dilation: 0 of 0 changed. Outside both: 0 of" in said
    code, said, _ = zoo_command("fill", METHOD, "--data", cohort, "--out", out, "--dilate", 0, "--json")
    scan = json.loads(said)["scans"][0]
    assert (scan["status"], scan["VoxelsDrawnChanged"], scan["VoxelsOutsideChanged"]) == ("there already", 27, 0)


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError(), RecursionError(), OSError("gone")])
def test_no_exception_of_one_scan_stops_the_others(
    zoo_command: Command, cohort: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from zoo.tasks.fill import cohort as derivatives

    honest = derivatives.fill_files

    def fill(artifact: Any, patient: Any, *arguments: Any, **more: Any) -> Any:
        if "img0" in str(patient.images[0]):
            raise error
        return honest(artifact, patient, *arguments, **more)

    monkeypatch.setattr(derivatives, "fill_files", fill)
    assert _statuses(zoo_command, cohort) == ["failed", "filled", "filled"]
    assert (cohort.parent / "out/quality.html").is_file()


def test_a_pipe_or_a_content_not_fetched_fails_its_scan_alone(cohort: Path) -> None:
    os.mkfifo(cohort.parent / "pipe.nii")
    (cohort.parent / "annexed.nii").symlink_to(".git/annex/objects/aa/bb/SHA256E-s9--0a.nii")
    maps = {"lesion-mask": cohort.parent / "msk0/001.nii.gz"}
    images = ("pipe.nii", "annexed.nii", "img0/001.nii.gz")
    scans = [Scan(f"sub-{n}", f"sub-{n}", {"T1w": cohort.parent / name}, maps) for n, name in enumerate(images)]
    done = fill_cohort(zoo.load(METHOD), Cohort(cohort, tuple(scans)), cohort.parent / "out", FillSettings(dilate=0))
    assert [scan.status for scan in done] == ["failed", "failed", "filled"]
    assert "is a pipe" in done[0].note
    assert "git annex get" in done[1].note


def test_a_foreign_file_fails_its_scan_alone(zoo_command: Command, cohort: Path) -> None:
    foreign = cohort.parent / "out/sub-0/anat/desc-filled_001.png"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    assert _statuses(zoo_command, cohort) == ["failed", "filled", "filled"]
    assert foreign.read_text() == "mine"
    assert _statuses(zoo_command, cohort, "--overwrite") == ["filled", "there already", "there already"]


@pytest.mark.parametrize("identity", ["sub-x_{}/evil", "sub-x/../../evil", "sub-x_../../evil"])
def test_nothing_is_written_outside_the_folder(cohort: Path, identity: str) -> None:
    name = identity.format(cohort.parent)
    images, maps = {"T1w": cohort.parent / "img0/001.nii.gz"}, {"lesion-mask": cohort.parent / "msk0/001.nii.gz"}
    before = sorted(cohort.parent.rglob("*"))
    scans = (Scan(name, "sub-x", images, maps),)
    (done,) = fill_cohort(zoo.load(METHOD), Cohort(cohort, scans), cohort.parent / "results" / "out", FillSettings())
    assert done.status == "failed"
    assert "outside" in done.note
    after = [path for path in sorted(cohort.parent.rglob("*")) if "results" not in path.parts]
    assert after == before
    with pytest.raises(DataError, match="more than once"):
        fill_cohort(zoo.load(METHOD), Cohort(cohort, scans * 2), cohort.parent / "out", FillSettings())


def test_a_link_out_of_the_folder_is_not_followed(zoo_command: Command, cohort: Path) -> None:
    (cohort.parent / "elsewhere").mkdir()
    (cohort.parent / "out").mkdir()
    (cohort.parent / "out/sub-0").symlink_to(cohort.parent / "elsewhere")
    assert _statuses(zoo_command, cohort) == ["failed", "filled", "filled"]
    assert not list((cohort.parent / "elsewhere").iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"GeneratedBy": "mri-zoo"}', '{"GeneratedBy": []}', "[" * 100_000])
def test_a_broken_description_is_told(zoo_command: Command, cohort: Path, text: str) -> None:
    (cohort.parent / "out").mkdir()
    (cohort.parent / "out/dataset_description.json").write_text(text)
    code, _, err = zoo_command("fill", METHOD, "--data", cohort, "--out", cohort.parent / "out")
    assert code == 1
    assert "is another dataset, or its dataset_description.json is broken" in err


def test_a_cohort_is_not_filled_into_its_own_folder(zoo_command: Command, phantom: Path, tmp_path: Path) -> None:
    shutil.copytree(phantom, tmp_path / "data")
    (tmp_path / "data/dataset_description.json").unlink(missing_ok=True)
    before = sorted((tmp_path / "data").rglob("*"))
    for out in ("data", "data/results"):
        code, _, err = zoo_command("fill", METHOD, "--data", tmp_path / "data", "--out", tmp_path / out)
        assert code == 1
        assert "write to" in err
    assert sorted((tmp_path / "data").rglob("*")) == before
