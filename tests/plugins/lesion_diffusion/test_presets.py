"""The presets of the thesis hold its numbers: Uhr 2024, "Diffusion-Based Filling and Synthesis of Multiple Sclerosis
Lesions", University of Bern.
"""

from __future__ import annotations

import pytest

from zoo.config import resolve_config
from zoo.registry import registry
from zoo_lesion_diffusion.config import FillingConfig, PriorConfig

CONDITIONAL = [f"paper-{dims}-{masks}" for dims in ("2d", "3d") for masks in ("circles", "lesions", "mixture")]
PRESETS = {
    "lesion-filling": ["small", "tiny", *CONDITIONAL],
    "lesion-prior": ["small", "tiny", "paper-2d", "paper-3d"],
}
PAPERS = [(method, name) for method, names in PRESETS.items() for name in names if name.startswith("paper")]


def _filling(preset: str) -> FillingConfig:
    config = resolve_config(registry().methods["lesion-filling"], preset=preset)
    assert isinstance(config, FillingConfig)
    return config


def _prior(preset: str) -> PriorConfig:
    config = resolve_config(registry().methods["lesion-prior"], preset=preset)
    assert isinstance(config, PriorConfig)
    return config


@pytest.mark.parametrize("method", PRESETS)
def test_every_preset_is_valid_and_small_is_the_default(method: str) -> None:
    registered = registry().methods[method]
    assert list(registered.presets) == PRESETS[method]
    for name in registered.presets:
        resolve_config(registered, preset=name)
    assert resolve_config(registered, preset="small") == resolve_config(registered)


@pytest.mark.parametrize(("method", "preset"), PAPERS)
def test_network_and_optimiser_are_those_of_the_thesis(method: str, preset: str) -> None:
    config = _filling(preset) if method == "lesion-filling" else _prior(preset)
    # Section 3.2, "U-Net Architectures": six resolutions, two blocks each, attention at 16 × 16.
    assert config.unet.channels == (128, 128, 256, 256, 512, 512)
    assert config.unet.blocks_per_level == 2
    assert config.size == (256, 256)  # section 3.3, "Preprocessing"
    assert [config.size[0] // 2**level for level in config.unet.attention_levels] == [16]
    # Table 3.1.
    assert config.diffusion.steps == 1000
    assert config.optimiser.learning_rate == 1e-4
    assert config.optimiser.warmup_steps == 500
    assert config.training.batch_size * config.slab == 16
    assert config.sampling.steps == 50
    # Equation 3.6 and figure 3.9: the noise of the whole image is predicted; no averaged weights.
    assert config.diffusion.prediction == "noise"
    assert config.diffusion.min_snr_gamma is None
    assert config.optimiser.average_half_life_images == 0
    assert config.data.validation == 0.2  # section 3.3: 16 subjects for training, 4 for validation


@pytest.mark.parametrize("preset", CONDITIONAL)
def test_conditional_models_fill_as_in_the_thesis(preset: str) -> None:
    config = _filling(preset)
    assert config.masks == preset.rsplit("-", 1)[1]  # section 3.3, "Mask Generation"
    assert config.sampling.solver == "ddim"  # section 3.2, "Conditional Lesion Filling"
    assert config.sampling.window is None
    assert config.diffusion.residual_scale == 0
    assert config.diffusion.loss_region == "image"
    assert not config.lesions.in_context  # section 3.3: trained on healthy subjects
    assert (config.checkpoint_score, config.training.final_model) == ("ssim", "best")  # section 3.5
    assert config.training.images // config.training.batch_size == 119_000  # figure A.2


@pytest.mark.parametrize("preset", ["paper-2d", "paper-3d"])
def test_repaint_is_that_of_the_thesis(preset: str) -> None:
    config = _prior(preset)
    assert (config.sampling.jump_length, config.sampling.resamples) == (8, 10)  # table 3.1
    assert not config.patients


def test_the_3d_prior_is_trained_as_long_as_it_was_best() -> None:
    config = _prior("paper-3d")
    assert config.training.images // config.training.batch_size == 6_000  # section 4.1, "Training Duration"


@pytest.mark.parametrize(("method", "preset"), PAPERS)
def test_slabs_have_sixteen_slices(method: str, preset: str) -> None:
    config = _filling(preset) if method == "lesion-filling" else _prior(preset)
    pseudo_3d = "-3d" in preset
    assert (config.network, config.slab) == (("pseudo-3d", 16) if pseudo_3d else ("2d", 1))
