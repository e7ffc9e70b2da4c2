"""Making a reader study: what is drawn, what the pages and the key hold, and what is refused."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from tests.unit.evaluation.reader_study.folders import SERIES, write_lesions, write_series, write_simple
from zoo.errors import ConfigError, DataError
from zoo.evaluation.reader_study.images import draw, find_images, panels_of
from zoo.evaluation.reader_study.make import IMAGES_FILE, StudySettings, make_study
from zoo.evaluation.reader_study.study import LesionTruth, ReaderStudy

CLASSES = ("benign", "malignant")


def page_of(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what the script of a page is told, and the images of each case as they stand in the page."""
    html = path.read_text(encoding="utf-8")
    told = re.search(r'<script type="application/json" id="study">(.*?)</script>', html, re.DOTALL)
    assert told
    return json.loads(told[1]), dict(re.findall(r'<script type="text/plain" id="case-(\w+)">(.*?)</script>', html))


def pictures(page: Mapping[str, Any], payload: str) -> np.ndarray:
    """Return the grey values of a case, ``[images, panels, slices, rows, columns]``."""
    content = base64.b64decode(payload)
    values = zlib.decompress(content[4 : 4 + int.from_bytes(content[:4], "little")])
    return np.frombuffer(values, np.uint8).reshape(-1, len(page["panels"]), *page["shape"])


def images_of(study: Path) -> dict[str, list[str]]:
    rows = [line.split("\t") for line in (study / IMAGES_FILE).read_text().splitlines()[1:]]
    return {case: names for case, _, *names in rows}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {
        "real": write_series(root / "real", "real", 8, classes=CLASSES, seed=1),
        "dcgan": write_series(root / "dcgan", "sample", 4, classes=CLASSES, seed=2),
        "wgan": write_series(root / "wgan", "sample", 4, classes=CLASSES, seed=3),
    }


@pytest.fixture(scope="module")
def study(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "single"
    settings = StudySettings(n=3, warm_up=4, classes=True)
    made = make_study(out, settings, {"dcgan": folders["dcgan"], "wgan": folders["wgan"]}, folders["real"])
    assert (made.cases, made.warm_up) == (24, 8)
    return out


def test_numbers_are_those_of_the_paper(study: Path) -> None:
    """n fakes per class and model, as many real ones, none shown twice, and an even warm-up."""
    read = ReaderStudy.read(study)
    assert (read.about.sources, read.about.classes, read.about.warm_up) == (("dcgan", "wgan"), CLASSES, 8)
    counts = Counter((case.phase, case.source, case.class_name) for case in read.key.values())
    for class_name in CLASSES:
        assert counts["test", "real", class_name] == 6
        assert counts["warm-up", "real", class_name] == 2
        assert counts["test", "dcgan", class_name] == counts["test", "wgan", class_name] == 3
        assert counts["warm-up", "dcgan", class_name] == counts["warm-up", "wgan", class_name] == 1
    names = images_of(study)
    assert len({(read.key[case].source, name) for case, (name,) in names.items()}) == 32


def test_a_page_tells_the_answers_of_the_warm_up_only(study: Path) -> None:
    key = ReaderStudy.read(study).key
    for reader in ("reader-1", "reader-2"):
        page, payloads = page_of(study / f"{reader}.html")
        assert list(payloads) == [case["case"] for case in page["cases"]]
        assert [case["phase"] for case in page["cases"]] == ["warm-up"] * 8 + ["test"] * 24
        assert all(case["truth"] == key[case["case"]].truth for case in page["cases"][:8])
        assert all(set(case) == {"case", "phase"} for case in page["cases"][8:])
        assert not {"seed", "sources", "classes"} & set(page)
        html = (study / f"{reader}.html").read_text(encoding="utf-8")
        for name in (
            "sample-",
            "real-",
            ".nii",
            "answer-key",
            *re.findall(r"[0-9a-f]{64}", (study / "answer-key.json").read_text()),
        ):
            assert name not in html
    about = json.loads((study / "study.json").read_text())
    assert not any(case in json.dumps(about) for case in key)


def test_real_and_generated_images_have_one_form(study: Path) -> None:
    page, payloads = page_of(study / "reader-1.html")
    assert len(set(map(len, payloads.values()))) == 1
    assert len({pictures(page, payload).shape for payload in payloads.values()}) == 1


def test_each_reader_has_an_order_of_their_own(study: Path) -> None:
    orders = [[case["case"] for case in page_of(study / f"reader-{k}.html")[0]["cases"]] for k in (1, 2)]
    assert set(orders[0]) == set(orders[1])
    assert orders[0][:8] != orders[1][:8]
    assert orders[0][8:] != orders[1][8:]


def test_the_order_follows_neither_truth_nor_name(study: Path) -> None:
    read = ReaderStudy.read(study)
    tested = [case["case"] for case in page_of(study / "reader-1.html")[0]["cases"][8:]]
    assert tested != sorted(tested)
    changes = sum(read.key[a].truth != read.key[b].truth for a, b in pairwise(tested))
    assert changes > 4


def test_the_key_names_the_images_that_are_shown(study: Path, folders: dict[str, Path]) -> None:
    page, payloads = page_of(study / "reader-2.html")
    key = ReaderStudy.read(study).key
    for case, (name,) in images_of(study).items():
        found = {
            image.name: image
            for image in find_images(folders[key[case].source], "x", synthetic=name[0] == "s", classes=True)
        }
        assert found[name].class_name == key[case].class_name
        assert np.array_equal(pictures(page, payloads[case])[0], draw(found[name].read(), panels_of(SERIES)))


def test_the_seed_decides(study: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    fakes = {"dcgan": folders["dcgan"], "wgan": folders["wgan"]}
    for seed in (0, 1):
        make_study(tmp_path / str(seed), StudySettings(n=3, warm_up=4, classes=True, seed=seed), fakes, folders["real"])
    for name in ("reader-1.html", "answer-key.json", "study.json", IMAGES_FILE):
        assert (tmp_path / "0" / name).read_bytes() == (study / name).read_bytes()
        assert (tmp_path / "1" / name).read_bytes() != (study / name).read_bytes()


def test_pairs_hold_one_real_image_of_the_same_class_on_a_side_by_chance(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = StudySettings("pair", n=3, warm_up=2, classes=True)
    made = make_study(tmp_path / "pair", settings, {"dcgan": folders["dcgan"]}, folders["real"])
    assert (made.cases, made.warm_up) == (6, 2)
    key = ReaderStudy.read(tmp_path / "pair").key
    assert {case.truth for case in key.values()} == {"left", "right"}
    classes = {
        image.name: image.class_name for image in find_images(folders["real"], "real", synthetic=False, classes=True)
    }
    for case, names in images_of(tmp_path / "pair").items():
        real, fake = names if key[case].truth == "left" else names[::-1]
        assert real.startswith("real-")
        assert fake.startswith("sample-")
        assert classes[real] == key[case].class_name
    page, payloads = page_of(tmp_path / "pair" / "reader-1.html")
    assert all(len(pictures(page, payload)) == 2 for payload in payloads.values())


def test_units_and_grey_levels_are_not_seen() -> None:
    """The same tissue, once as whole numbers of a scanner and once in [0, 1], becomes the same picture."""
    rng = np.random.default_rng(0)
    scanner = {name: rng.integers(0, 1000, (1, 16, 16)).astype(np.float32) for name in SERIES}
    unit = {name: values / 1000 for name, values in scanner.items()}
    first, second = (draw(values, panels_of(SERIES)).astype(int) for values in (scanner, unit))
    assert np.abs(first - second).max() <= 1
    assert (first.min(), first.max()) == (0, 255)


def test_a_series_is_laid_out_as_in_the_paper_with_one_scale() -> None:
    panels = panels_of(SERIES)
    assert [panel.place for panel in panels] == [(0, k) for k in range(6)] + [(1, k) for k in range(1, 5)]
    assert [panel.contrast for panel in panels[:6]] == ["T1w", *(f"ce-post{k}_T1w" for k in range(1, 5)), "T2w"]
    values = {name: np.full((1, 4, 4), 0.2) for name in SERIES}
    values["ce-post1_T1w"] = values["T1w"] + np.linspace(0, 0.6, 16).reshape(1, 4, 4)
    grey = draw(values, panels)
    assert grey[0].max() == 0
    assert grey[1].max() == 255
    subtraction = grey[6].ravel()
    assert subtraction[0] == 64  # nothing taken up: a quarter of the grey scale
    assert (np.diff(subtraction.astype(int)) > 0).all()
    assert [panel.place for panel in panels_of(SERIES, narrow=True)][1:5] == [(1, k) for k in range(4)]
    assert [panel.title for panel in panels_of(["FLAIR", "T1w"])] == ["FLAIR", "T1w"]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASL"])
def test_images_are_drawn_front_on_top_and_left_on_the_left(tmp_path: Path, axes: str) -> None:
    values = np.arange(3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)
    image = nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0]))
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes)))  # fmt: skip
    nibabel.save(turned, tmp_path / "a_T1w.nii.gz")
    (found,) = find_images(tmp_path, "x", synthetic=True, classes=False)
    drawn = found.read()["T1w"]
    assert drawn.shape == (2, 4, 3)
    assert drawn[1, 0, 2] == values[2, 3, 1]
    assert found.spacing_mm() == pytest.approx((3, 2, 1))


def test_the_truth_of_a_lesion_is_its_mask(tmp_path: Path) -> None:
    folder = write_lesions(tmp_path / "lesions", 3)
    make_study(tmp_path / "study", StudySettings.of("lesion", n=2, warm_up=1), {"prior": folder})
    key = ReaderStudy.read(tmp_path / "study").key
    images = {image.name: image for image in find_images(folder, "prior", synthetic=True, classes=False)}
    assert len(key) == 3
    for case, (name,) in images_of(tmp_path / "study").items():
        truth = key[case].truth
        assert isinstance(truth, LesionTruth)
        mask = images[name].read_mask("desc-synthetic_mask")
        found = np.zeros(mask.shape, bool)
        for part in truth.slices:
            for start, length in zip(part.runs[::2], part.runs[1::2], strict=True):
                found[part.slice].flat[start : start + length] = True
        assert np.array_equal(found, mask)
        assert (truth.chance_of, truth.target, truth.candidates) == ("lesions", 1, 3)
    page, _ = page_of(tmp_path / "study" / "reader-1.html")
    assert page["seconds"] == 60
    assert ["truth" in case for case in page["cases"]] == [True, False, False]


def test_without_a_mask_of_all_lesions_a_guess_is_a_pixel_of_the_head(tmp_path: Path) -> None:
    folder = write_lesions(tmp_path / "lesions", 1)
    next(folder.glob("*_label-lesion_mask.nii.gz")).unlink()
    make_study(tmp_path / "study", StudySettings.of("lesion", n=1), {"prior": folder})
    (case,) = ReaderStudy.read(tmp_path / "study").key.values()
    assert isinstance(case.truth, LesionTruth)
    voxels = 12 * 14 * 10
    assert case.truth.chance_of == "pixels"
    assert case.truth.target < 100 < 0.2 * voxels < case.truth.candidates < 0.8 * voxels


def test_too_few_images_are_counted(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        make_study(
            tmp_path / "s", StudySettings(n=4, warm_up=4, classes=True), {"dcgan": folders["dcgan"]}, folders["real"]
        )
    message = str(error.value)
    assert "--fake dcgan has 4 of class 'benign' and needs 6 (4 for the test, 2 for the warm-up)" in message
    assert "--real" not in message
    assert "smaller -n" in message
    assert not (tmp_path / "s").exists()


def test_an_image_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    real = write_simple(tmp_path / "real", "real", 3, seed=1)
    fake = write_simple(tmp_path / "fake", "sample", 3, seed=2)
    shutil.copy(real / "real-0001_T1w.nii.gz", fake / "sample-0009_T1w.nii.gz")
    with pytest.raises(DataError, match="sample-0009 of --fake gan and real-0001 of --real are the same image"):
        make_study(tmp_path / "s", StudySettings(n=1, warm_up=0), {"gan": fake}, real)
    with pytest.raises(DataError, match="--fake gan and --real are one folder"):
        make_study(tmp_path / "s", StudySettings(n=1, warm_up=0), {"gan": real}, real)


def test_images_that_differ_in_contrasts_or_shape_are_refused(tmp_path: Path) -> None:
    real = write_simple(tmp_path / "real", "real", 3, seed=1)
    small = write_simple(tmp_path / "small", "sample", 3, shape=(8, 5, 1), seed=2)
    series = write_series(tmp_path / "series", "sample", 3, size=8)
    with pytest.raises(DataError, match=r"shapes differ: .* has 1 × [56] × 8 voxels and .* has 1 × [56] × 8"):
        make_study(tmp_path / "s", StudySettings(n=2, warm_up=0), {"gan": small}, real)
    with pytest.raises(
        DataError, match=r"contrasts differ: sample-0000 of --fake gan has T1w, T2w, .* of --real has T1w"
    ):
        make_study(tmp_path / "s", StudySettings(n=2, warm_up=0), {"gan": series}, real)


def test_folders_that_contradict_their_json_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"given as a folder of generated images, but real-0000_\S+ says .* real"):
        make_study(tmp_path / "s", StudySettings(n=1, warm_up=0), {"gan": folders["real"]}, folders["dcgan"])
    with pytest.raises(DataError, match='sample-0000: the JSON beside the image has no "Class"'):
        find_images(write_simple(tmp_path / "plain", "sample", 1), "gan", synthetic=True, classes=True)


def test_a_folder_that_is_there_is_kept(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists"):
        make_study(tmp_path, StudySettings(n=1, warm_up=0), {"dcgan": folders["dcgan"]}, folders["real"])
    for folder, reason in ((tmp_path / "none", "no folder"), (tmp_path, "holds no image")):
        with pytest.raises(DataError, match=reason):
            make_study(tmp_path / "s", StudySettings(), {"dcgan": folder}, folders["real"])
    (tmp_path / "mean.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match="names no contrast"):
        find_images(tmp_path, "x", synthetic=True, classes=False)


@pytest.mark.parametrize(
    ("kind", "name", "with_real", "reason"),
    [("single", "gan", False, "needs real images"), ("lesion", "gan", True, "leave out --real"),
     ("single", "real", True, "cannot be the name"), ("single", "a/b", True, "cannot be the name")],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(
    folders: dict[str, Path], tmp_path: Path, kind: Any, name: str, with_real: bool, reason: str
) -> None:
    real = folders["real"] if with_real else None
    with pytest.raises(ConfigError, match=reason):
        make_study(tmp_path / "s", StudySettings(kind), {name: folders["dcgan"]}, real)


def test_the_synthetic_lesion_must_be_marked(tmp_path: Path) -> None:
    folder = write_lesions(tmp_path / "lesions", 1)
    mask = next(folder.glob("*_desc-synthetic_mask.nii.gz"))
    image = nibabel.load(mask)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), mask)
    with pytest.raises(DataError, match="is empty"):
        make_study(tmp_path / "s", StudySettings.of("lesion", n=1), {"prior": folder})
    mask.unlink()
    with pytest.raises(DataError, match="lacks case-0000_desc-synthetic_mask"):
        make_study(tmp_path / "s", StudySettings.of("lesion", n=1), {"prior": folder})


def test_command(folders: dict[str, Path], tmp_path: Path, zoo_command) -> None:
    out = tmp_path / "study"
    arguments = ["reader-study", "make", "--real", folders["real"], "--fake", f"dcgan={folders['dcgan']}", "--out", out]
    code, shown, _ = zoo_command(
        *arguments, "-n", 2, "--warm-up", 1, "--readers", 3, "--ratings", "--seconds-per-case", 9
    )
    assert code == 0
    assert "4 cases, and 2 of the warm-up" in shown
    assert sorted(path.name for path in out.iterdir()) == [
        IMAGES_FILE, "answer-key.json", "reader-1.html", "reader-2.html", "reader-3.html", "study.json",
    ]  # fmt: skip
    page, _ = page_of(out / "reader-3.html")
    assert (page["reader"], page["ratings"], page["seconds"], page["kind"]) == ("reader-3", True, 9, "single")
    code, _, error = zoo_command(*arguments, "-n", 2)
    assert (code, "exists" in error) == (1, True)
    code, _, error = zoo_command("reader-study", "make", "--fake", "dcgan", "--out", tmp_path / "other")
    assert (code, "must be a name and a folder" in error) == (1, True)
    twice = ["--fake", f"a={folders['dcgan']}", "--fake", f"a={folders['wgan']}"]
    code, _, error = zoo_command("reader-study", "make", *twice, "--out", tmp_path / "other")
    assert (code, "names 'a' twice" in error) == (1, True)
