"""The commands, as they are typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.toy import registered
from zoo.models.run import Run


def test_list_shows_what_is_installed(zoo_command) -> None:
    code, out, _ = zoo_command("list")
    assert code == 0
    assert all(name in out for name in ("lesion-filling", "inpainting", "torch", "phantom", "mri-zoo"))
    code, out, _ = zoo_command("list", "--json")
    listing = json.loads(out)
    assert [item["name"] for item in listing["methods"]] == [
        "biharmonic-2d3d-filling",
        "biharmonic-filling",
        "dcgan",
        "lesion-filling",
        "lesion-prior",
        "neighbour-filling",
        "stylegan2-ada",
        "wgan",
    ]
    assert {"edit", "fill", "project", "sample"} <= {item["name"] for item in listing["verbs"]}
    assert zoo_command("list", "--broken")[1].strip() == "No plugin failed to load."


def test_info_of_a_method_a_run_and_a_file(zoo_command, trained: Path) -> None:
    code, out, _ = zoo_command("info", "lesion-filling")
    assert code == 0
    assert re.search(r"training.images +42000 +> 0 +Images seen", out)
    assert "Uhr 2024" in out
    assert "3D conditional mixture" in out
    assert re.search(r"zoo fill +Fill the lesions of a patient.", out)
    assert "Options of zoo fill" in out
    about = json.loads(zoo_command("info", "lesion-filling", "--json")[1])
    assert {"seed", "steps", "solver"} <= {row["setting"] for row in about["options"]["fill"]}
    assert about["tasks"] == ["fill"]
    assert about["verbs"] == {"fill": "Fill the lesions of a patient."}
    assert {"small", "tiny"} <= set(about["presets"])
    for path in (trained, trained / "model.safetensors"):
        code, out, _ = zoo_command("info", path, "--json")
        manifest = json.loads(out)
        assert manifest["method"] == "lesion-filling"
        assert manifest["run"]["status"] == "finished"
    code, _, err = zoo_command("info", "lesion-filing")
    assert (code, "Did you mean 'lesion-filling'" in err) == (1, True)


def test_info_shows_a_model_in_rows(trained: Path, zoo_command) -> None:
    code, out, _ = zoo_command("info", trained)
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["data.contrasts"] == ["T1w"]
    assert rows["data.lesion_masks"] == ["none"]
    assert rows["trained_on"][1] == "hashes"
    assert rows["status"] == ["finished"]
    assert "velocity (out)" in out
    assert max(map(len, out.splitlines())) < 160


def test_usage_errors_exit_2_and_explain(zoo_command) -> None:
    for arguments, message in (
        (["trian"], "There is no command 'trian'. Did you mean 'train'"),
        (["edti"], "There is no command 'edti'. Did you mean 'edit'"),
        (["train"], "Missing argument 'NAME'"),
        (["train", "lesion-filling", "--devices", "none"], "'none' is not a valid integer"),
        (["fill"], "RUN is missing"),
    ):
        code, _, err = zoo_command(*arguments)
        assert code == 2, arguments
        assert message in err


def test_debug_shows_the_traceback() -> None:
    from zoo.cli import main
    from zoo.errors import UnknownNameError

    with pytest.raises(UnknownNameError):
        main(["--debug", "info", "nothing-such"])


def test_dry_run_shows_settings_size_memory_and_data(zoo_command, phantom: Path, tmp_path: Path) -> None:
    arguments = ["train", "lesion-filling", "--data", phantom, "--out", tmp_path / "run", "--dry-run", *TINY]
    code, out, _ = zoo_command(*arguments)
    assert code == 0
    assert re.search(r"data.spacing_mm +4.0", out)
    assert re.search(r"parameters +164,849", out)
    assert re.search(r"training memory about 0\.\d\d GiB", out)
    assert re.search(r"test +1 subjects: sub-00", out)
    assert not (tmp_path / "run").exists()
    about = json.loads(zoo_command(*arguments, "--json")[1])
    assert about["parameters"] == 164849
    assert sum(len(part) for part in about["data"]["split"].values()) == 5


def test_training_without_data_uses_the_phantom_and_says_so(
    zoo_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zoo.imaging.phantom.DEFAULT_SUBJECTS", 8)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    arguments = ["train", "lesion-filling", "--images", 16, *TINY]
    code, out, err = zoo_command(*arguments)
    assert code == 0, err
    assert "no --data was given, so the synthetic phantom cohort in" in err.replace("\n", "")
    folder = next((tmp_path / "runs" / "lesion-filling").iterdir())
    assert f"Finished after 16 images: {folder.relative_to(tmp_path)}/report.html" in out


def test_same_command_without_out_goes_on_in_its_unfinished_run(
    zoo_command, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "lesion-filling", "--data", phantom, "--images", 32, *TINY]
    code, out, _ = zoo_command(*arguments, "--time", "0s")
    assert code == 0
    assert "Stopped after 8 of 32 images (time is up)" in out
    code, out, _ = zoo_command(*arguments)
    assert "Finished after 32 images" in out
    runs = list((tmp_path / "runs" / "lesion-filling").iterdir())
    assert len(runs) == 1
    assert Run.open(runs[0]).record["status"] == "finished"


@pytest.mark.parametrize("limit", ["20", "m", "-3m", "1d"])
def test_wrong_time_limits(zoo_command, phantom: Path, limit: str) -> None:
    code, _, err = zoo_command("train", "lesion-filling", "--data", phantom, f"--time={limit}")
    assert code == 1
    assert "write 90s, 20m or 1.5h" in err


def test_cohort_without_the_contrast(zoo_command, phantom: Path) -> None:
    code, _, err = zoo_command("train", "lesion-filling", "--data", phantom, "--set", "data.contrasts=PDw")
    assert code == 1
    assert "None of the 5 scans" in err
    assert "has PDw; found: FLAIR, T1w, T2w" in err


def test_data_check_names_what_lacks_and_what_cannot_be_read(zoo_command, phantom: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(phantom, tmp_path / "copy"))
    code, out, _ = zoo_command("data", "check", copy)
    assert code == 0
    assert "5 scans of 5 subjects" in out
    assert "at 4×4×4 mm, RAS" in out
    (copy / "sub-002/anat/sub-002_FLAIR.nii.gz").unlink()
    (copy / "sub-003/anat/sub-003_T1w.nii.gz").write_bytes(b"")
    code, out, err = zoo_command("data", "check", copy, "--json")
    found = json.loads(out)
    assert code == 1
    assert "FLAIR" in next(scan for scan in found["scans"] if scan["id"] == "sub-002")["lacks"]
    assert list(found["problems"]) == ["sub-003 T1w"]
    assert "1 of the images" in err


def test_data_check_tells_labels_and_reads_voxels_only_when_asked(zoo_command, phantom: Path, tmp_path: Path) -> None:
    import gzip
    import shutil

    copy = Path(shutil.copytree(phantom, tmp_path / "copy"))
    found = json.loads(zoo_command("data", "check", copy, "--json")[1])
    assert found["tissue_labels"]["sub-001"]["white_matter"] == [3]
    assert "dseg.tsv" in found["tissue_labels"]["sub-001"]["known_by"]
    assert "white matter 3, grey matter 2, 4, fluid 1" in zoo_command("data", "check", copy)[1]
    image = copy / "sub-004/anat/sub-004_T2w.nii.gz"
    image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes())[:-1000]))  # a whole header, voxels missing
    assert zoo_command("data", "check", copy)[0] == 0
    code, out, _ = zoo_command("data", "check", copy, "--deep", "--json")
    assert (code, list(json.loads(out)["problems"])) == (1, ["sub-004 T2w"])
    mask = copy / "derivatives/lesions/sub-001/anat/sub-001_label-lesion_mask.nii.gz"
    shutil.copy(image.with_name("sub-004_T1w.nii.gz"), mask)
    import nibabel

    wide = nibabel.load(mask)
    nibabel.save(nibabel.Nifti1Image(wide.get_fdata()[:-1], wide.affine), mask)
    code, out, _ = zoo_command("data", "check", copy, "--json")
    assert "lies on another grid" in json.loads(out)["problems"]["sub-001 lesion-mask"]


def test_data_check_says_what_a_method_lacks_and_what_is_out_of_range(
    zoo_command, phantom: Path, tmp_path: Path
) -> None:
    import shutil

    copy = Path(shutil.copytree(phantom, tmp_path / "copy"))
    (copy / "sub-002/anat/sub-002_FLAIR.nii.gz").unlink()
    settings = ("--set", "data.targets=FLAIR", "--set", "data.scales.FLAIR.range=0,100")
    code, out, _ = zoo_command("data", "check", copy, "--method", "lesion-filling", *settings)
    assert code == 0
    assert "lesion-filling can use 4 of 5 scans" in out
    assert "sub-002 has no FLAIR" in out
    assert "to use the other scans, add these files and columns" in out
    assert "lie outside" not in out  # only with --deep
    code, out, _ = zoo_command("data", "check", copy, "--method", "lesion-filling", *settings, "--deep", "--json")
    found = json.loads(out)
    assert (code, len(found["out_of_range"])) == (0, 4)
    assert re.search(
        r"lie outside 0 to 100 and are not clamped; .* --set data.scales.FLAIR.range=0,\d+",
        found["out_of_range"]["sub-001 FLAIR"],
    )
    code, _, err = zoo_command("data", "check", copy, "--method", "lesion-filling", "--set", "data.labels=grade")
    assert (code, "has no label grade" in err) == (1, True)
    code, _, err = zoo_command("data", "check", copy, "--preset", "tiny")
    assert (code, "--method" in err) == (1, True)


def test_info_shows_the_settings_of_a_preset(zoo_command) -> None:
    def shown(*arguments: str) -> dict[str, str]:
        about = json.loads(zoo_command("info", *arguments, "--json")[1])
        return {row["setting"]: row["default"] for row in about["settings"]}

    assert shown("lesion-filling")["data.spacing_mm"] == "1.0"
    assert shown("lesion-filling", "--preset", "tiny")["size"] == "32,32"
    assert zoo_command("info", "lesion-filling", "--preset", "tinny")[0] != 0


def test_phantom_command(zoo_command, tmp_path: Path) -> None:
    code, out, _ = zoo_command("data", "phantom", tmp_path / "p", "--subjects", 1, "--spacing", 4)
    assert code == 0
    assert "zoo train lesion-filling --data" in out
    code, _, err = zoo_command("data", "phantom", tmp_path / "p")
    assert (code, "is there already" in err) == (1, True)
    code, _, err = zoo_command("data", "phantom", tmp_path / "q", "--spacing", 3)
    assert (code, "spacing is 1, 2 or 4 mm, got 3" in err) == (1, True)


def test_phantom_command_makes_the_dataset_of_a_plugin(zoo_command, tmp_path: Path) -> None:
    with registered():
        where = ("--dataset", "toy-brains", "--spacing", 4)
        code, out, _ = zoo_command("data", "phantom", tmp_path / "p", *where, "--subjects", 2, "--seed", 5)
        assert (code, f"zoo train toy-filling --data {tmp_path / 'p'}" in out) == (0, True)
        assert len(list((tmp_path / "p").glob("sub-*"))) == 2
        assert zoo_command("data", "phantom", tmp_path / "q", *where, "--subjects", 2, "--seed", 6)[0] == 0
        image = "sub-001/anat/sub-001_T1w.nii.gz"
        assert (tmp_path / "p" / image).read_bytes() != (tmp_path / "q" / image).read_bytes()
        code, _, err = zoo_command("data", "phantom", tmp_path / "r", "--dataset", "toy-brain")
        assert (code, "Did you mean 'toy-brains'?" in err) == (1, True)


def test_evaluation_uses_unseen_subjects_beside_baselines(zoo_command, trained: Path, phantom: Path) -> None:
    arguments = ["evaluate", trained, "--data", phantom, "--set", "masks_per_subject=1", "--set", "steps=2"]
    code, out, _ = zoo_command(*arguments)
    assert code == 0
    assert re.search(r"lesions +model +1 +0\.", out)
    assert re.search(r"twin +biharmonic +1 +0\.", out)
    assert "Uhr 2024, table 4.1" in out
    assert "other data than ours" in out
    assert re.search(r"left out: 4 of 5 subjects, which training has seen \(sub-0", out)
    assert "Baselines that win" in out or "No baseline wins" in out
    assert "--lpips-weights FILE" in out
    found = json.loads(zoo_command(*arguments, "--json")[1])["inpainting"]
    tested = set(Run.open(trained).record["split"]["test"])
    assert {row["subject"] for row in found["by_subject"]} == tested
    keys = set(found["scores"])
    for who in ("model", "biharmonic", "biharmonic 2D + 3D", "neighbours"):
        assert {f"circles/{who}/seam", f"circles/{who}/stripes", f"twin/{who}/grey_leak"} <= keys
        assert {f"lesions/{who}/grey_leak", f"twin/{who}/volume_error", f"twin/{who}/thickness_error"} <= keys
        assert f"circles/{who}/grey_leak" not in keys
    assert {key for key in keys if "/unfilled/" in key} == {
        "twin/unfilled/volume_error",
        "twin/unfilled/thickness_error",
    }
    assert all(score["ci"] is None for score in found["scores"].values())  # one subject
    paired = {(one["condition"], one["baseline"], one["metric"]): one for one in found["comparisons"]}
    of_one = paired["lesions", "biharmonic", "ssim_in"]
    own, theirs = (found["scores"][f"lesions/{who}/ssim_in"]["value"] for who in ("model", "biharmonic"))
    assert of_one["difference"] == pytest.approx(own - theirs)
    assert (of_one["ci"], of_one["n"], of_one["won"]) == (None, 1, int(own > theirs))
    assert found["about"]["circle_radius_mm"] == [3, 12.5]
    assert found["about"]["faded slices left out"] >= 0
    # At 4 mm a voxel has 64 mm³: no lesion is smaller than that.
    by_size = {key.split("/")[0] for key in keys if key.startswith("lesions ")}
    assert by_size
    assert by_size <= {"lesions 20-100 mm3", "lesions 100-500 mm3", "lesions >500 mm3"}
    measured = {key.split("/")[2] for key in keys if key.split("/")[0] in by_size}
    assert {"ssim_in", "psnr_in", "mse_in"} <= measured <= {"ssim_in", "psnr_in", "mse_in", "ssim_filled"}
    again = json.loads(zoo_command(*arguments, "--json")[1])["inpainting"]
    assert again == found  # seeded
    assert len(list((trained / "evaluations").glob("*.html"))) >= 1


def test_model_is_not_measured_on_what_it_was_trained_on(
    zoo_command, trained: Path, phantom: Path, tmp_path: Path
) -> None:
    import shutil

    copy = Path(shutil.copytree(phantom, tmp_path / "renamed"))
    for subject in Run.open(trained).record["split"]["test"]:
        shutil.rmtree(copy / subject)
    code, _, err = zoo_command("evaluate", trained, "--data", copy)
    assert code == 1
    assert "were used in training; a model is not measured on them" in err


def test_doctor_says_what_is_there(zoo_command) -> None:
    _, out, _ = zoo_command("doctor", "--json")
    checks = {row["check"]: row for row in json.loads(out)}
    assert checks["backend torch"]["ok"]
    assert checks["torch"]["found"][0].isdigit()


def test_doctor_names_instruction_sets_and_what_openvino_makes_of_them(zoo_command, monkeypatch) -> None:
    pytest.importorskip("openvino")
    flags = ["avx2", "avx512f", "avx512_bf16"]
    monkeypatch.setattr("zoo.system.machine.cpu", lambda: {"model": "CPU", "cores": 2, "flags": flags})
    _, out, _ = zoo_command("doctor", "--json")
    checks = {row["check"]: row["found"] for row in json.loads(out)}
    assert checks["cpu instructions"] == (
        "AVX2, AVX-512, AVX-512 bf16; not: AVX-VNNI, AVX-512 VNNI, AVX-512 fp16, AMX, AMX bf16, AMX int8"
    )
    assert re.fullmatch(r"convolutions in fp32: \S+; bf16: .+", checks["openvino uses"])
