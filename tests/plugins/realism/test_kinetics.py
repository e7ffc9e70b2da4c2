"""Kinetics of generated series, on the phantom where the truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from zoo.config import Scale
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation, Measure
from zoo.imaging.cohort import Cohort, read_cohort
from zoo.metrics.kinetics import measure_kinetics
from zoo.models.artifact import Artifact, make_manifest
from zoo.registry import registry
from zoo_multiparametric_gan.config import DCGANConfig, PatchConfig
from zoo_multiparametric_gan.phantom import SERIES, TIMES_S, write_dce_phantom
from zoo_realism import kinetics as module
from zoo_realism.config import KineticsOptions
from zoo_realism.images import ImageSet, real_images
from zoo_realism.kinetics import DIFFERENCE, FLOOR, REAL, kinetics

CLASSES = ("benign", "malignant", "no-findings")
Evaluate = Callable[..., Evaluation]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return read_cohort(write_dce_phantom(tmp_path_factory.mktemp("dce") / "cohort", 6, seed=2, spacing_mm=2.0))


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """A model of patches of 64 mm; it has no weights, as the tests say what it generates."""
    config = DCGANConfig(size=(32, 32), patches=PatchConfig(healthy=12, clear=16))
    config = config.model_copy(update={"data": config.data.model_copy(update={"spacing_mm": (2.0, 2.0, 4.0)})})
    return Artifact(None, make_manifest(registry().methods["dcgan"], config, trained_on=[]))


@pytest.fixture(scope="module")
def real(artifact: Artifact, cohort: Cohort) -> ImageSet:
    found = real_images(artifact, cohort)
    return ImageSet.of(found.images, found.channels, found.classes, found.subjects)


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, artifact: Artifact, cohort: Cohort, real: ImageSet) -> Evaluate:
    """Return ``(images, **options) -> Evaluation`` of a generator that returns ``images``, of ``real``'s classes."""

    def run(images: torch.Tensor, **options: object) -> Evaluation:
        made = ImageSet.of(images, real.channels, real.classes)
        monkeypatch.setattr(module, "real_images", lambda *_: real)
        monkeypatch.setattr(module, "generated_images", lambda *_: made)
        return kinetics(artifact, cohort, KineticsOptions(**options), lambda done, total: None)

    return run


def _channel(real: ImageSet, name: str) -> int:
    return real.channels.index(name)


def test_most_patches_of_the_phantom_have_the_class_of_their_lesion(real: ImageSet) -> None:
    signals = (real.images[:, [_channel(real, name) for name in SERIES]].numpy() + 1) / 2
    found = measure_kinetics(signals, TIMES_S)
    for name, wanted in (("benign", "persistent"), ("malignant", "wash-out")):
        rows = real.rows(name)
        assert len(rows) >= 10
        assert (found.curve_class[rows] == wanted).mean() > 0.85
    lesions = [*real.rows("benign"), *real.rows("malignant")]
    assert found.first_step_largest[lesions].all()
    assert np.median(found.wash_in[real.rows("malignant")]) > 1.5 * np.median(found.wash_in[real.rows("benign")])


def test_copies_of_real_images_have_their_kinetics(evaluate: Evaluate, real: ImageSet) -> None:
    found = evaluate(real.images)
    for name in CLASSES:
        for metric in ("wash-in slope", "wash-out slope", "wash-out curves", "darker", "jumps", "subtraction error"):
            score = found.scores[Measure(name, DIFFERENCE, metric)]
            assert score.value == pytest.approx(0, abs=1e-9)
            model = found.scores[Measure(name, MODEL, metric)].value
            assert found.scores[Measure(name, REAL, metric)].value == pytest.approx(model)
            assert found.scores[Measure(name, FLOOR, metric)].value >= 0
        assert found.scores[Measure(name, REAL, "subtraction error")].value < 0.001
        assert found.scores[Measure(name, REAL, "darker")].value < 0.01
    score = found.scores[Measure("no-findings", DIFFERENCE, "wash-in slope")]
    assert score.n == 6
    assert score.ci is not None
    assert score.ci[0] < 0 < score.ci[1]
    shares = [found.scores[Measure("malignant", MODEL, f"{kind} curves")].value for kind in module.CURVES]
    assert sum(shares) == pytest.approx(1)


def test_a_series_out_of_order_is_found(evaluate: Evaluate, real: ImageSet) -> None:
    images = real.images.clone()
    first, last = _channel(real, SERIES[1]), _channel(real, SERIES[4])
    images[:, [first, last]] = images[:, [last, first]]
    found = evaluate(images)
    washes = found.scores[Measure("malignant", DIFFERENCE, "wash-out curves")]
    assert washes.value < -0.8
    assert washes.ci is None or washes.ci[1] < 0
    assert found.scores[Measure("malignant", DIFFERENCE, "wash-in slope")].value < -0.3
    error = found.scores[Measure("malignant", MODEL, "subtraction error")].value
    assert error > 5 * found.scores[Measure("malignant", REAL, "subtraction error")].value


def test_images_that_darken_are_found(evaluate: Evaluate, real: ImageSet) -> None:
    images = real.images.clone()
    after = _channel(real, SERIES[1])
    images[:, after] = torch.where(images[:, after] > -0.5, images[:, after] - 0.3, images[:, after])
    found = evaluate(images)
    for name in CLASSES:
        assert found.scores[Measure(name, DIFFERENCE, "darker")].value > 0.2
        assert found.scores[Measure(name, DIFFERENCE, "jumps")].value > 0


def test_images_without_signal_are_left_out_and_counted(evaluate: Evaluate, real: ImageSet) -> None:
    images = real.images.clone()
    rows = real.rows("benign")
    images[rows[:2]] = -1
    images[real.rows("malignant")] = -1
    found = evaluate(images)
    assert f"2 of {len(rows)} images have no signal" in found.scores[Measure("benign", MODEL, "wash-in slope")].note
    dead = found.scores[Measure("malignant", MODEL, "wash-in slope")]
    assert dead.value is None
    assert "no image of the class has signal" in dead.note


def test_picture_and_rows(evaluate: Evaluate, real: ImageSet) -> None:
    found = evaluate(real.images)
    (png, caption), = found.pictures  # fmt: skip
    assert png.startswith(b"\x89PNG")
    assert "median" in caption
    assert {row["subject"] for row in found.by_subject} == set(real.subjects)
    assert sum(row["images"] for row in found.by_subject) == len(real)
    assert not found.comparisons()
    assert found.about["subjects"] == 6


def test_without_a_subtraction_none_is_checked(evaluate: Evaluate, real: ImageSet) -> None:
    found = evaluate(real.images, subtraction=None)
    assert not [key for key in found.scores if key.metric == "subtraction error"]
    assert found.about["subtraction"] == "not checked"


def test_channels_that_do_not_fit_are_refused(evaluate: Evaluate, real: ImageSet, artifact: Artifact) -> None:
    with pytest.raises(DataError, match=r"no channel 'ce-post5_T1w'.*Did you mean"):
        evaluate(real.images, after=("ce-post1_T1w", "ce-post5_T1w"), times_s=(70, 140))
    with pytest.raises(DataError, match="subtraction=none"):
        evaluate(real.images, subtraction="difference")
    data = artifact.config.data
    apart = data.model_copy(update={"scales": {**data.scales, "ce-post2_T1w": Scale()}})
    with pytest.raises(DataError, match=r"'ce-post2_T1w' .*data.scales.ce-post2_T1w.like=ce-post1_T1w"):
        module._check_channels(real.channels, KineticsOptions(), apart)


@pytest.mark.parametrize(("times", "match"), [((70, 140), "2 times for 4"), ((70, 140, 140, 280), "rise")])
def test_times_that_do_not_fit_are_refused(times: tuple[float, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        KineticsOptions(times_s=times)
