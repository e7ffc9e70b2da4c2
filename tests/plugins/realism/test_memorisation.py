"""The evaluator ``memorisation``: copies are found, other real images are not taken for copies."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

import zoo
from tests.plugins.realism.conftest import Copies
from zoo.descriptors import Score
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation
from zoo.imaging.cache import pack_cohort
from zoo.imaging.cohort import Cohort, read_cohort
from zoo.imaging.phantom import write_phantom
from zoo.models.artifact import Artifact
from zoo_realism.config import MemorisationOptions
from zoo_realism.memorisation import HELD_OUT, memorisation

CLASSES = ("positive", "negative")


def _evaluate(artifact: Artifact, cohort: Cohort, **options: object) -> Evaluation:
    return memorisation(artifact, cohort, MemorisationOptions(**options), lambda done, total: None)


def _score(evaluation: Evaluation, condition: str, filler: str, metric: str) -> Score:
    (found,) = (score for key, score in evaluation.scores.items() if key == (condition, filler, metric))
    return found


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Subjects whose images the copying generator was trained on."""
    return read_cohort(write_phantom(tmp_path_factory.mktemp("trained-on"), subjects=6, seed=21, spacing_mm=4.0))


def _seen(artifact: Artifact, cohort: Cohort) -> dict[str, list[str]]:
    scans = pack_cohort(cohort, artifact.config.data).scans
    return {
        "trained_on": [digest for scan in scans for digest in scan.image_hashes],
        "trained_on_voxels": [digest for scan in scans for digest in scan.voxel_hashes],
    }


def test_training_images_are_found_to_be_copies(copies: Copies, trained_on: Cohort, others: Cohort) -> None:
    artifact = copies(trained_on, **_seen(copies(trained_on), trained_on))
    found = _evaluate(artifact, others, samples=60, training_data=str(trained_on.root))
    for name in CLASSES:
        copied = _score(found, name, MODEL, "near copies")
        assert copied.value == 1
        assert copied.ci[0] > 0.9
        assert _score(found, name, MODEL, "distance ratio").value < 0.1
        assert _score(found, name, HELD_OUT, "near copies").value < 0.1


def test_images_of_other_subjects_are_no_copies(copies: Copies, trained_on: Cohort, others: Cohort) -> None:
    half = others.subset(others.subjects[::2]), others.subset(others.subjects[1::2])
    artifact = copies(half[0], **_seen(copies(half[0]), trained_on))
    found = _evaluate(artifact, half[1], samples=200, training_data=str(trained_on.root))
    for name in CLASSES:
        copied = _score(found, name, MODEL, "near copies")
        assert copied.value < 0.05
        assert copied.ci[0] <= 0.01
        assert 0.8 < _score(found, name, MODEL, "distance ratio").value < 1.25


def test_the_gallery_shows_pairs(copies: Copies, trained_on: Cohort, others: Cohort) -> None:
    artifact = copies(trained_on, **_seen(copies(trained_on), trained_on))
    found = _evaluate(artifact, others, samples=10, training_data=str(trained_on.root))
    ((png, caption),) = found.pictures
    picture = Image.open(io.BytesIO(png)).convert("L")
    width, height = picture.size
    assert height > 3 * width  # eight rows of two
    assert "8 generated images" in caption
    assert "0, 0, 0" in caption
    side = width // 2
    left, right = (picture.crop((first + 8, 40, first + side - 8, 160)) for first in (0, side))
    assert left.tobytes() == right.tobytes()


def test_the_training_subjects_are_looked_for_in_the_same_cohort(copies: Copies, trained_on: Cohort) -> None:
    seen, unseen = (trained_on.subset(trained_on.subjects[part]) for part in (slice(0, 3), slice(3, 6)))
    artifact = copies(seen, **_seen(copies(seen), seen))
    found = _evaluate(artifact, unseen, samples=10)
    assert found.about["training images"] == "120 of 3 subjects"
    assert found.about["unseen images"] == "120 of 3 subjects"


def test_a_part_of_the_training_subjects_is_said_to_be_one(copies: Copies, trained_on: Cohort, others: Cohort) -> None:
    seen = _seen(copies(trained_on), trained_on)
    missing = {key: [*hashes, *(f"{number:064d}" for number in range(18))] for key, hashes in seen.items()}
    artifact = copies(trained_on, **missing)
    found = _evaluate(artifact, others, samples=4, training_data=str(trained_on.root))
    assert "which are 25% of the training's scans: copies of the others are not found" in found.about["training images"]


def test_a_cohort_without_training_subjects_is_refused(run: Path, others: Cohort) -> None:
    with pytest.raises(DataError, match=r"None of the subjects .* --set training_data=FOLDER"):
        _evaluate(zoo.load(run), others)


def test_a_model_without_training_images_is_refused(copies: Copies, others: Cohort) -> None:
    with pytest.raises(DataError, match="was trained on no images"):
        _evaluate(copies(others), others)


def test_subjects_that_only_chose_a_checkpoint_are_no_training_images(run: Path, phantom: Path, others: Cohort) -> None:
    found = _evaluate(zoo.load(run), others, samples=4, training_data=str(phantom))
    assert found.about["training images"].endswith("of 3 subjects")
