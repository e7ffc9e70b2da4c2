"""What the evaluator ``inpainting`` fills and measures, and how checkpoints are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel import Nifti1Image

from zoo.config import resolve_config
from zoo.descriptors import resolve
from zoo.errors import ConfigError
from zoo.imaging.cache import PackedScan, pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.imaging.geometry import Grid
from zoo.models.artifact import Artifact
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo.training.launch import launch
from zoo_lesion_diffusion.baselines import sharp_slices
from zoo_lesion_diffusion.cases import circles, whole_lesions
from zoo_lesion_diffusion.config import FEWEST_STEPS_FOR_SPREAD, BiharmonicOptions, FillingOptions, InpaintingOptions
from zoo_lesion_diffusion.measures import coverage, ideal_coverage
from zoo_lesion_diffusion.training import FillingTrainer


def test_half_faded_slices_are_left_out() -> None:
    head = np.full((20, 20, 12), -1.0)
    head[3:17, 3:17, 2:10] = np.random.default_rng(0).uniform(0, 0.6, (14, 14, 8))
    assert sharp_slices(head).tolist() == [2 <= k < 10 for k in range(12)]
    head[..., (2, 9)] = (head[..., (2, 9)] + 1) / 2 - 1
    assert sharp_slices(head).tolist() == [3 <= k < 9 for k in range(12)]
    assert not sharp_slices(np.full((4, 4, 3), -1.0)).any()


@pytest.fixture(scope="module")
def scan(phantom: Path) -> PackedScan:
    config = resolve_config(registry().methods["lesion-filling"], assignments=["data.spacing_mm=4.0"])
    return pack_cohort(read_cohort(phantom), config.data).scans[0]


def test_circles_are_in_millimetres_and_the_same_for_every_model(scan: PackedScan) -> None:
    image = np.transpose(scan.images[:, 0], (1, 2, 0)).astype(np.float32)
    options = InpaintingOptions(circle_radius_mm=(10, 10), circle_centre_sd_mm=0)
    discs = circles(scan, sharp_slices(image), options, 0)
    areas = discs.sum(axis=(0, 1)) * 16  # mm²
    assert np.median(areas[areas > 0]) == pytest.approx(np.pi * 100, rel=0.25)
    assert np.array_equal(discs, circles(scan, sharp_slices(image), options, 0))
    with pytest.raises(ValueError, match="the smaller first"):
        InpaintingOptions(circle_radius_mm=(5, 3))


def test_a_lesion_keeps_its_size_on_another_grid(tmp_path: Path) -> None:
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[10:16, 10:16, 10:16] = 1  # 216 mm³
    affine = np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = (15, -15, -15)
    Nifti1Image(mask, affine).to_filename(tmp_path / "mask.nii.gz")
    grid = Grid((12, 12, 2), np.array([[1.0, 0, 0, -4], [0, 1, 0, -7], [0, 0, 1, 0], [0, 0, 0, 1]]))  # two slices
    volumes = whole_lesions(tmp_path / "mask.nii.gz", grid)
    assert set(np.unique(volumes)) == {0, 216}
    assert (volumes > 0).sum() == 36  # one slice of the lesion lies on the slab


def test_few_samples_cover_less_than_many() -> None:
    drawn = np.random.default_rng(0).normal(size=(5, 100_000))
    truth, samples = drawn[0], drawn[1:]
    inside = np.abs(samples.mean(0) - truth) <= samples.std(0, ddof=1)
    assert inside.mean() == pytest.approx(ideal_coverage(4, 1), abs=0.01)
    assert ideal_coverage(10_000, 2) == pytest.approx(0.954, abs=0.001)


def test_coverage_of_the_true_deviation() -> None:
    rng = np.random.default_rng(0)
    truth, mask = rng.normal(0, 1, (1, 30, 30, 30)), np.ones((30, 30, 30), bool)
    right = coverage(np.zeros_like(truth), np.ones_like(truth), truth, mask)
    assert right == {"coverage_1sd": pytest.approx(0.683, abs=0.01), "coverage_2sd": pytest.approx(0.954, abs=0.01)}
    assert coverage(np.zeros_like(truth), np.full_like(truth, 0.2), truth, mask)["coverage_1sd"] < 0.2


def test_several_samples_of_few_steps_are_refused() -> None:
    config = resolve_config(registry().methods["lesion-filling"], preset="tiny")
    with pytest.raises(ConfigError, match="Several samples of 1 steps"):
        FillingOptions().check_spread(config)
    FillingOptions(steps=FEWEST_STEPS_FOR_SPREAD).check_spread(config)
    with pytest.raises(ConfigError, match="always the same"):
        BiharmonicOptions().check_spread(Artifact.open("biharmonic-filling").config)


@pytest.mark.parametrize("slab", [(), (4,)])
def test_checkpoints_can_be_chosen_by_ssim_as_in_the_thesis(slab: tuple[int, ...]) -> None:
    method = registry().methods["lesion-filling"]
    assert method.presets["paper-3d-mixture"]["training"]["final_model"] == "best"
    shape = [f"slab={slab[0]}", "network=pseudo-3d"] if slab else []
    config = resolve_config(
        method,
        preset="tiny",
        assignments=["checkpoint_score=ssim", "neighbours=0", "diffusion.residual_scale=0", *shape],
    )
    trainer = FillingTrainer(config, resolve(method.build)(config), launch(1, "32-true"))  # type: ignore[arg-type]
    image = torch.rand((2, 1, *slab, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros_like(image)
    mask[..., 8:16, 8:20] = 1
    batch = {"image": image, "context": image * (1 - mask), "lesion_mask": mask}
    with torch.inference_mode():
        scores = trainer.validate(batch, Randomness([1, 2]))
    assert list(scores) == ["one minus ssim", "loss"]
    assert scores["one minus ssim"].shape == (2,)
    assert (scores["one minus ssim"] > 0.1).all()
    trainer._filled = lambda batch, random: batch["image"]  # type: ignore[method-assign]
    with torch.inference_mode():
        assert trainer.validate(batch, Randomness([1, 2]))["one minus ssim"].tolist() == pytest.approx([0, 0], abs=1e-6)
