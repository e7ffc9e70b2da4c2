"""The settings of DCGAN and WGAN."""

from __future__ import annotations

import pytest

from tests.plugins.multiparametric_gan.conftest import config_of, tiny_config
from zoo.errors import ConfigError
from zoo.registry import registry
from zoo_multiparametric_gan.config import CONTRASTS

METHODS = ("dcgan", "wgan")


@pytest.mark.parametrize("method", METHODS)
def test_the_preset_of_the_paper_says_what_the_paper_says(method: str) -> None:
    config = config_of(method, "paper")
    assert (config.size, config.data.contrasts, config.training.batch_size) == ((64, 64), CONTRASTS, 64)
    assert (config.data.matrix, config.spacing_mm) == ((512, 512, 32), None)
    assert (config.network.widths, config.network.latent_width) == ((512, 256, 128, 64), 100)
    assert (config.network.condition, config.patches.healthy, config.patches.clear) == ("generator", 984, 32)
    assert config.optimiser.average_half_life_images == 0


def test_the_optimisers_of_the_paper() -> None:
    assert config_of("dcgan", "paper").optimiser.learning_rate == 2e-4
    assert config_of("dcgan", "paper").optimiser.betas == (0.5, 0.999)
    wgan = config_of("wgan", "paper")
    assert (wgan.optimiser.rmsprop_rate, wgan.critic.clip, wgan.critic.steps) == (5e-5, 0.01, 5)
    assert wgan.optimiser.adam_rate == 1e-4


def test_the_series_shares_one_scale_and_the_subtraction_keeps_its_sign() -> None:
    data = tiny_config().data
    sources = {data.scale_of(name).like or name for name in CONTRASTS if name != "T2w"}
    assert len(sources) == 1
    assert data.scale_of("sub").signed
    assert data.images_of(("sub",)) == ("ce-post1_T1w", "T1w")


def test_other_contrasts_come_without_the_scales_and_masks_of_the_study() -> None:
    settings = ("data.contrasts=T1w,T2w,FLAIR", "patches.inside=none", "data.spacing_mm=2")
    data = tiny_config(*settings).data
    assert (data.contrasts, data.scales, data.derived, data.regions) == (("T1w", "T2w", "FLAIR"), {}, {}, ())
    assert data.spacing_mm == 2


def test_the_study_may_be_named_with_other_details() -> None:
    data = tiny_config("data.validation=0.3", f"data.contrasts={','.join(CONTRASTS)}").data
    assert data.validation == 0.3
    assert "sub" in data.derived


def test_classes_are_those_of_lesions_and_one_without() -> None:
    assert tiny_config().class_names == ("benign", "malignant", "no-findings")
    assert tiny_config("patches.label=none", "patches.classes=lesion").class_names == ("lesion", "no-findings")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("patches.label=none", "benign, malignant need a column"),
        ("patches.classes=benign,benign", "names 'benign' twice"),
        ("patches.classes=benign,no-findings", "'no-findings' is there without being named"),
        ("patches.inside=gland-mask", "'gland-mask' is no mask of data.regions"),
        ("size=16,18", "every side of size 16,18 must be a multiple of 4"),
        ("network.widths=8,0", "network.widths 8,0 must all be at least 1"),
        ("data.contrasts=T1w,T1w_", "patches.inside 'breast-mask' is no mask"),
        ("data.spacing_mm=-1", "data.spacing_mm must be one voxel size"),
    ],
)
def test_what_does_not_fit_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(setting)


def test_a_wrong_setting_of_other_images_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"data\.validation: .*got 2"):
        tiny_config("data.contrasts=T1w", "patches.inside=none", "data.validation=2")


@pytest.mark.parametrize("method", METHODS)
def test_the_paper_s_table_is_reported_per_class(method: str) -> None:
    rows = registry().methods[method].reported
    assert [row["class"] for row in rows] == list(config_of(method, "paper").class_names)
