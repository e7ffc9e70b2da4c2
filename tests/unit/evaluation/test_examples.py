"""Real images written like samples: of unseen subjects, spread over classes and subjects, without names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

import tests.toy.classes as toy
import zoo
from tests.toy import registered
from tests.toy.config import ClassesConfig
from zoo.errors import DataError
from zoo.evaluation.examples import RealExamples, example_files
from zoo.imaging.cache import pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.models.artifact import Artifact

Command = Callable[..., tuple[int, str, str]]
METHOD = "toy-classes"


@pytest.fixture(scope="module", autouse=True)
def _toy() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture
def artifact() -> Artifact:
    return zoo.load(METHOD)


def _real(artifact: Artifact, cohort: Path, *subjects: str) -> RealExamples:
    return RealExamples(artifact, pack_cohort(read_cohort(cohort).named(subjects), artifact.config.data))


def _written(folder: Path) -> list[np.ndarray]:
    return [np.asarray(nibabel.load(file).dataobj) for file in sorted(folder.glob("*_T1w.nii.gz"))]


def _sidecars(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*_T1w.json"))]


def test_real_images_are_written_like_samples(phantom: Path, tmp_path: Path, zoo_command: Command) -> None:
    where = ("--data", phantom, "--out", tmp_path / "real")
    code, out, _ = zoo_command("data", "examples", METHOD, "-n", 4, *where)
    assert (code, "Wrote 8 images" in out) == (0, True)
    assert zoo_command("sample", METHOD, "-n", 4, "--out", tmp_path / "samples")[0] == 0
    real, sampled = (
        sorted(path.name.split("-", 1)[1] for path in (tmp_path / kind).glob("*-*")) for kind in ("real", "samples")
    )
    assert real == sampled
    for contrast in ("T1w", "change"):
        one, other = (
            nibabel.load(tmp_path / kind / f"{kind.rstrip('s')}-0003_{contrast}.nii.gz") for kind in ("real", "samples")
        )
        header = one.header.copy()
        assert header == other.header
        assert (one.affine == other.affine).all()
    about = _sidecars(tmp_path / "real")[0]
    assert (about["Synthetic"], about["Units"], about["SpacingKnown"]) == (False, "arbitrary, 0 to 1", True)
    assert (tmp_path / "real" / "examples.png").stat().st_size > 0


def test_nothing_says_whose_images_they_are(phantom: Path, tmp_path: Path, artifact: Artifact) -> None:
    named = phantom.rename(phantom.with_name("cohort-of-jane-doe"))
    try:
        example_files(artifact, named, tmp_path, count=20)
    finally:
        named.rename(phantom)
    for file in tmp_path.iterdir():
        content = file.read_bytes() if file.suffix != ".gz" else nibabel.load(file).to_bytes()
        assert not any(word in content for word in (b"sub-", b"jane", b"nii", str(tmp_path).encode())), file


def test_the_choice_is_spread_and_a_larger_one_begins_like_a_smaller(
    phantom: Path, tmp_path: Path, artifact: Artifact
) -> None:
    real = _real(artifact, phantom)
    assert set(real.labels) == {"dark", "bright"}
    example_files(artifact, phantom, tmp_path / "one", count=6, seed=3)
    assert Counter(about["Class"] for about in _sidecars(tmp_path / "one")) == {"dark": 3, "bright": 3}
    encoded = {(real.image(number)[0] / 2 + 0.5).astype(np.float32).tobytes(): number for number in range(len(real))}
    owners = [real.subjects[encoded[image[..., 0].tobytes()]] for image in _written(tmp_path / "one")]
    assert len(set(owners[::2])) == len(set(owners[1::2])) == 3
    example_files(artifact, phantom, tmp_path / "one", count=9, seed=3)
    example_files(artifact, phantom, tmp_path / "other", count=9, seed=4)
    one, other = _written(tmp_path / "one"), _written(tmp_path / "other")
    assert len(one) == 9
    assert [real.subjects[encoded[image[..., 0].tobytes()]] for image in one[:6]] == owners
    assert not all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_only_unseen_subjects_and_the_class_that_is_asked_for(phantom: Path, tmp_path: Path) -> None:
    known = zoo.load(METHOD)
    seen = pack_cohort(read_cohort(phantom).named(("sub-001", "sub-002", "sub-003")), known.config.data).scans
    hashes = [digest for scan in seen for digest in scan.voxel_hashes]
    artifact = Artifact(None, {**known.manifest, "trained_on_voxels": hashes})
    real = _real(artifact, phantom, "sub-004", "sub-005")
    count = real.labels.count("dark")
    example_files(artifact, phantom, tmp_path / "dark", count=count, label="dark")
    expected = [(real.image(n)[0] / 2 + 0.5).tobytes() for n in range(len(real)) if real.labels[n] == "dark"]
    assert sorted(image[..., 0].tobytes() for image in _written(tmp_path / "dark")) == sorted(expected)
    assert {about["Class"] for about in _sidecars(tmp_path / "dark")} == {"dark"}
    with pytest.raises(DataError, match=f"have {count} images of class 'dark', and {count + 1} are asked for"):
        example_files(artifact, phantom, tmp_path / "more", count=count + 1, label="dark")


def test_a_folder_with_other_images_is_refused(phantom: Path, tmp_path: Path, zoo_command: Command) -> None:
    def examples(folder: str, *more: object) -> tuple[int, str]:
        code, _, err = zoo_command("data", "examples", METHOD, "--data", phantom, "--out", tmp_path / folder, *more)
        return code, err

    assert examples("real", "-n", 2)[0] == 0
    for more in (("--seed", 1), ("--class", "dark")):
        code, err = examples("real", *more)
        assert (code, "holds real images of another model, cohort, class or seed" in err) == (1, True)
    code, _, err = zoo_command("sample", METHOD, "-n", 2, "--out", tmp_path / "real")
    assert (code, "real holds real images, such as real-0000_T1w.json; samples need a folder" in err) == (1, True)
    assert zoo_command("sample", METHOD, "-n", 2, "--out", tmp_path / "samples")[0] == 0
    code, err = examples("samples")
    assert (code, "samples holds samples, such as sample-0000_T1w.json" in err) == (1, True)
    sidecar = tmp_path / "samples" / "sample-0000_T1w.json"
    sidecar.write_text(sidecar.read_text().replace('"ModelSHA256": null', '"ModelSHA256": "another"'))
    code, _, err = zoo_command("sample", METHOD, "-n", 2, "--out", tmp_path / "samples")
    assert (code, "holds samples of another model, such as sample-0000_T1w.json" in err) == (1, True)


def test_examples_without_what_is_needed_are_refused(
    phantom: Path, tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, zoo_command: Command
) -> None:
    code, _, err = zoo_command(
        "data", "examples", METHOD, "--data", phantom, "--class", "brigth", "--out", tmp_path / "none"
    )
    assert (code, "Did you mean 'bright'?" in err) == (1, True)
    honest = toy.RealPatches.example
    for key in ("image", "label"):
        monkeypatch.setattr(
            toy.RealPatches, "example", lambda *given, key=key: {k: v for k, v in honest(*given).items() if k != key}
        )
        with pytest.raises(DataError, match=f"Examples of 'toy-classes' have no '{key}'"):
            example_files(artifact, phantom, tmp_path / "none", count=1)
    monkeypatch.setattr(toy.RealPatches, "example", lambda *given: {"image": honest(*given)["image"]})
    monkeypatch.setattr(ClassesConfig, "class_names", ())
    example_files(artifact, phantom, tmp_path / "all", count=1)
    assert "Class" not in _sidecars(tmp_path / "all")[0]
