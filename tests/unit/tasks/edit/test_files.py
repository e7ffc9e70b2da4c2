"""Editing projected images: what is written, how far it may go, and that the model itself decides the images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import zoo
from tests.conftest import TINY, train_briefly
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.imaging.phantom import make_subject
from zoo.metrics.bpf import by_levels
from zoo.metrics.features import load_extractor
from zoo.models.golden import example_inputs
from zoo.models.runtime import TORCH
from zoo.tasks.edit.alpha_range import BPF, BPF_SLOPE, AlphaRange, Criterion, alphas_within, find_alpha_range
from zoo.tasks.edit.directions import Direction, Directions
from zoo.tasks.edit.real_images import RealImages, discriminator_of
from zoo.tasks.edit.session import EditSession, EditSettings, among_random, random_directions
from zoo.tasks.edit.slices import measure_slices
from zoo.tasks.projections import Projections

SUBJECTS = 4
SLICES = 2


@pytest.fixture(scope="module")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained for a moment."""
    folder = tmp_path_factory.mktemp("edited") / "run"
    return train_briefly(folder, "stylegan2-ada", phantom, "--images", "32", *TINY)


@pytest.fixture(scope="module")
def projections(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random codes of the run's model, with phantom slices as the images they stand for."""
    artifact = zoo.load(run)
    count = SUBJECTS * SLICES
    codes, *noise = example_inputs(artifact.part_specs()["synthesis"], seed=1, axes={"batch": count}).values()
    slices = []
    for number in range(SUBJECTS):
        volume = make_subject(number, 0, 4.0).images["T1w"]
        for index in (18, 22):
            plane = np.zeros((40, 48), np.float32)
            cut = volume[:40, :48, index].astype(np.float32)
            plane[: cut.shape[0], : cut.shape[1]] = cut / volume.max()
            slices.append(plane[None] * 2 - 1)
    rows = tuple(
        {
            "subject": f"sub-{number}",
            "scan": f"sub-{number}",
            "slice": 18 + 4 * index,
            "position": 0.5 + 0.1 * index,
            "covariates": {"group": ("HC", "MS")[number % 2], "age": f"{30 + 7 * number}", "site": "one"},
            "losses": {},
        }
        for number in range(SUBJECTS)
        for index in range(SLICES)
    )
    with torch.no_grad():
        made = artifact.build().synthesis(codes, *noise)
    folder = tmp_path_factory.mktemp("projected")
    images = torch.from_numpy(np.stack(slices))
    found = Projections(codes, tuple(noise), images, made, rows, artifact.method.name, str(artifact.sha256))
    found.write(folder / "projections.safetensors")
    return folder


@pytest.fixture(scope="module")
def directions(run: Path, projections: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directions of group and age."""
    from zoo.cli import main

    folder = tmp_path_factory.mktemp("directions")
    with pytest.raises(SystemExit) as stop:
        main(["edit", "directions", str(run), str(projections), "--by", "age", "--against", "group:age",
              "--folds", "2", "--out", str(folder)])  # fmt: skip
    assert not stop.value.code
    return folder


def test_directions_are_kept_with_their_figures(directions: Path) -> None:
    found = Directions.read(directions)
    assert list(found.items) == ["age", "group", "group-without-age"]
    overlap = (found.items["group-without-age"].vector * found.items["age"].vector).sum()
    assert abs(float(overlap)) < 1e-5
    about = json.loads((directions / "directions.json").read_text())
    assert about["directions"]["group"]["subjects"] == SUBJECTS
    assert "Prediction of subjects" in (directions / "directions.html").read_text()


def test_directions_are_measured_on_other_subjects(run: Path, projections: Path, tmp_path: Path, zoo_command) -> None:
    stored = Projections.read(projections)
    rows = tuple({**row, "subject": f"other-{row['subject']}"} for row in stored.rows)
    for name, some in (("others", rows), ("same", stored.rows)):
        (tmp_path / name).mkdir()
        replace(stored, rows=some).write(tmp_path / name / "projections.safetensors")
    fit = ("edit", "directions", run, projections, "--by", "age", "--folds", "2", "--out", tmp_path / "found")
    code, printed, err = zoo_command(*fit, "--test", tmp_path / "others", "--json")
    assert code == 0, err
    scores = {(row["measure"], row["over"]): row["value"] for row in json.loads(printed)["age"]["scores"]}
    assert scores["Spearman", "other subjects"] > 0.9  # the codes that it was fitted on, under other names
    assert scores["R²", "other images"] > scores["R²", "images"]
    code, _, err = zoo_command(*fit, "--test", tmp_path / "same")
    assert code == 1
    assert "is in both projections" in err


def test_directions_are_fitted_on_labelled_samples(run: Path, projections: Path, tmp_path: Path, zoo_command) -> None:
    code, printed, err = zoo_command(
        "edit", "directions", run, projections, "--by", "age", "--against", "group:age", "--against",
        "group:position,age", "--folds", "2", "--samples", "24", "--out", tmp_path / "found", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert list(json.loads(printed)) == ["age", "group", "position", "group-without-age", "group-without-position-age"]
    assert json.loads(printed)["age"]["model"] == "ridge regression on 24 labelled samples"
    found = Directions.read(tmp_path / "found").items["age"].vector
    # A sample has one style for all layers, so a direction of samples moves all layers alike.
    assert torch.allclose(found, found[:1].expand_as(found), atol=1e-5)


def test_applying_writes_images_differences_pictures_and_tables(
    run: Path, projections: Path, directions: Path, tmp_path: Path, zoo_command
) -> None:
    out = tmp_path / "edits"
    code, printed, err = zoo_command(
        "edit", "apply", run, projections, directions, "--name", "group", "--alpha", "-2,3", "--folds", "2",
        "--out", out, "--set", "batch_size=2",
    )  # fmt: skip
    assert code == 0, err
    assert "Entanglement" in printed
    assert "one value only" in err  # the site, which cannot be measured
    stored = Projections.read(projections)
    artifact = zoo.load(run)
    direction = Directions.read(directions).items["group"].vector
    image = nibabel.load(out / "group" / "edit-0003_sub-1_slice-022_T1w.nii.gz")
    assert image.shape == (40, 48, 1, 3)
    for column, alpha in enumerate((-2.0, 0.0, 3.0)):
        made = artifact.parts()["synthesis"](
            stored.codes[3:4] + alpha * direction, *(some[3:4] for some in stored.noise)
        )
        expected = (artifact.contrasts_of(made).clamp(-1, 1)[0, 0] + 1) / 2
        assert np.allclose(image.get_fdata()[:, :, 0, column], expected.numpy(), atol=1e-5)
    difference = nibabel.load(out / "group" / "edit-0003_sub-1_slice-022_T1w_difference.nii.gz").get_fdata()
    assert np.allclose(difference, image.get_fdata() - image.get_fdata()[..., 1:2], atol=1e-5)
    about = json.loads((out / "group" / "edit-0003_sub-1_slice-022_T1w.json").read_text())
    assert about["Synthetic"] is True
    assert about["Alphas"] == [-2, 0, 3]
    assert str(tmp_path) not in about["Command"]
    assert len(list((out / "group").glob("*.nii.gz"))) == 2 * SUBJECTS * SLICES
    assert (out / "group" / "sheet.png").stat().st_size > 0
    content = json.loads((out / "edit.json").read_text())
    (edit,) = content["edits"]
    assert [row["attribute"] for row in edit["entanglement"]] == ["position", "age", "group"]
    assert all(row["per_alpha"]["n"] == SUBJECTS for row in edit["entanglement"])
    fractions = [row for row in edit["curves"] if row["quantity"] == "BPF" and row["group"] == "group MS"]
    assert [row["alpha"] for row in fractions] == [-2, 0, 3]
    assert fractions[1]["p"] is None
    assert fractions[0]["random"] is None  # none were asked for
    page = (out / "edit.html").read_text()
    assert "correlated" in page
    assert "Brightness alone changes neither figure" in page


def test_the_walk_stands_beside_random_ones(
    run: Path, projections: Path, directions: Path, tmp_path: Path, zoo_command
) -> None:
    out = tmp_path / "edits"
    code, _, err = zoo_command(
        "edit", "apply", run, projections, directions, "--name", "age", "--alpha", "2", "--folds", "2",
        "--random", "3", "--tissue", "k-means", "--out", out,
    )  # fmt: skip
    assert code == 0, err
    content = json.loads((out / "edit.json").read_text())
    assert (content["tissue"], content["random"]) == ("k-means", 3)
    baseline, walked = (row for row in content["edits"][0]["curves"] if row["quantity"] == "BPF")
    assert baseline["random"] is None
    assert walked["random"]["n"] == 3
    assert walked["random"]["low"] <= walked["random"]["high"]
    assert walked["random"]["p"] in (0.25, 0.5, 0.75, 1)
    assert "takes cortex for fluid" in (out / "edit.html").read_text()


def test_random_directions_are_unit_vectors_of_the_codes_own_space() -> None:
    codes = torch.zeros(6, 4, 8)
    codes[:, :, 0] = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    found = random_directions(codes, 5, seed=1)
    assert len(found) == 5
    for direction in found:
        assert float(direction.vector.norm()) == pytest.approx(1, abs=1e-5)
        assert not direction.vector[:, 1:].any()
    assert torch.equal(random_directions(codes, 5, seed=1)[4].vector, found[4].vector)


def test_a_change_is_ranked_among_random_ones() -> None:
    random = np.linspace(-1, 1, 39)
    assert among_random(2.0, random).p == pytest.approx(1 / 40)
    assert among_random(-2.0, random).p == pytest.approx(1 / 40)
    assert among_random(0.0, random).p == 1
    assert among_random(2.0, np.array([0.1, np.nan])).p == pytest.approx(2 / 3)


def test_an_edit_that_only_brightens_is_no_atrophy() -> None:
    subject = make_subject(1, 0, 4.0)
    plane = subject.images["T1w"][:, :, 20] / 900 * 2 - 1
    versions = np.stack([plane, (plane + 1) * 0.9 - 1, (plane + 1) * 1.1 - 1])
    for values in measure_slices(versions, by_levels).values():
        assert values[1:] == pytest.approx(values[0], rel=0.005)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--by", "agee"), "no column 'agee'"),
        (("--by", "site"), "one value only"),
        (("--by", "age", "--folds", "5"), "fewer than 5 folds"),
        ((), "write --by COLUMN"),
        (("--against", "group"), "write --against group:age"),
    ],
)
def test_directions_that_cannot_be_are_refused(
    run: Path, projections: Path, tmp_path: Path, zoo_command, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = zoo_command("edit", "directions", run, projections, *arguments, "--out", tmp_path / "out")
    assert (code, message in err) == (1, True), err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--alpha", "1", "--name", "ages"), "Did you mean 'age'"),
        (("--alpha", "far"), "takes numbers"),
        (("--alpha", "1,nan"), "takes numbers"),
        ((), "either --alpha"),
        (("--alpha", "1", "--features", "vgg"), "no features 'vgg'"),
        (("--alpha", "1", "--folds", "9"), "at least as many subjects"),
    ],
)
def test_edits_that_cannot_be_are_refused(
    run: Path, projections: Path, directions: Path, tmp_path: Path, zoo_command, arguments, message: str
) -> None:
    code, _, err = zoo_command("edit", "apply", run, projections, directions, *arguments, "--out", tmp_path / "out")
    assert (code, message in err) == (1, True), err


def test_directions_of_another_model_are_refused(
    run: Path, projections: Path, directions: Path, tmp_path: Path, zoo_command
) -> None:
    other = Directions(Directions.read(directions).items, "stylegan2-ada", "0" * 64)
    other.write(tmp_path / "directions.safetensors")
    code, _, err = zoo_command("edit", "apply", run, projections, tmp_path, "--alpha", "1", "--out", tmp_path / "out")
    assert (code, "another model" in err) == (1, True)


# --- How far. ---


def _range(*criteria: Criterion, step: float = 1.0) -> AlphaRange:
    """Walk images of one voxel, whose value is alpha and a little more for each of 40 subjects."""
    spread = np.linspace(-0.5, 0.5, 40)
    return find_alpha_range(lambda alpha: (alpha + spread)[:, None, None, None], criteria, step)


def _value(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 0]


def test_the_range_ends_where_more_images_are_outside_than_at_0() -> None:
    found = _range(Criterion("value", -3.2, 5.9, _value))
    assert (found.low, found.high) == (-2, 5)
    assert (found.low_ended_by, found.high_ended_by) == ("value", "value")
    assert found.outside == {"value": 0}
    first = _range(Criterion("value", -9, 9, _value), Criterion("narrow", None, 2.6, _value))
    assert (first.high, first.high_ended_by) == (2, "narrow")
    already = _range(Criterion("value", 0.0, 5.9, _value))  # half are outside before anything is edited
    assert already.outside["value"] == 0.5
    assert (already.low, already.high) == (0, 5)


def test_the_range_ends_where_the_slope_turns() -> None:
    found = _range(Criterion(BPF, None, None, lambda images: -np.square(_value(images) - 3.5)))
    assert (found.high, found.high_ended_by) == (4, BPF_SLOPE)  # 3 and 4 are alike, 5 is lower
    assert "limit" in found.low_ended_by


def test_alphas_fill_the_range() -> None:
    assert alphas_within(AlphaRange(-2, 4, "", "", 1, {}), 2) == [-2, -1, 0, 2, 4]
    assert alphas_within(AlphaRange(0, 4, "", "", 1, {}), 2) == [0, 2, 4]
    with pytest.raises(DataError, match="ended by a below 0 and by b above"):
        alphas_within(AlphaRange(0, 0, "a", "b", 1, {}), 2)


def test_the_criteria_come_from_real_images(run: Path, projections: Path) -> None:
    artifact, stored = zoo.load(run), Projections.read(projections)
    real = RealImages.of(artifact, stored, load_extractor("texture"), 0.6)
    assert real.of_subjects == (1, 3, 5, 7)
    criteria = real.criteria(by_levels, discriminator_of(artifact, real, "cpu"))
    assert [item.name.split()[0] for item in criteria] == ["feature", "parenchymal", "discriminator"]
    chosen = real.images[list(real.of_subjects)]
    for item in criteria:
        assert item.measure(chosen).shape == (SUBJECTS,)
    far = np.ones_like(chosen)
    assert criteria[0].outside(criteria[0].measure(far)) == 1


def test_the_task_makes_the_same_image_of_the_same_code(run: Path) -> None:
    artifact = zoo.load(run)
    task = artifact.method.task("edit")
    codes, *noise = example_inputs(artifact.part_specs()["synthesis"], seed=3, axes={"batch": 2}).values()
    made = resolve(task.run)(artifact.parts(), artifact.config, codes, noise, resolve(task.options)())
    assert made.images.shape == (2, 1, 40, 48)


def test_alphas_that_end_in_nan_are_named(run: Path, projections: Path) -> None:
    session = EditSession(
        zoo.load(run), Projections.read(projections), EditSettings(folds=2), load_extractor("texture"), TORCH
    )
    far = Direction(torch.full(session.projections.codes.shape[1:], torch.inf), {})
    with pytest.raises(DataError, match=r"alpha -1 to 2 failed: .*NaN.* Choose smaller alphas"):
        session.images([0, 1], far, [-1.0, 2.0])
