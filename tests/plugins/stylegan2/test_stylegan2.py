"""What StyleGAN2-ADA is shown, how its steps are weighted, and what sampling writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

import zoo
from tests.conftest import ROOT, train_briefly
from zoo.config import MethodConfig, resolve_config
from zoo.descriptors import resolve
from zoo.errors import ConfigError, DataError
from zoo.imaging.cache import pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.models.run import Run
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo.training.state import load_state
from zoo_stylegan2.config import SliceConfig, StyleGANConfig
from zoo_stylegan2.examples import StyleGANExamples, crop_around, slices_between, to_network
from zoo_stylegan2.networks import build_discriminator
from zoo_stylegan2.tasks import discriminator_score
from zoo_stylegan2.training import StyleGANTrainer, lazy_adam

METHOD = "stylegan2-ada"
SMALL = (
    "--preset", "tiny", "--set", "training.batch_size=8", "--set", "training.checkpoint_images=16",
    "--set", "training.log_images=8", "--set", "training.sample_images=64",
)  # fmt: skip


def _config(*assignments: str) -> StyleGANConfig:
    config: MethodConfig = resolve_config(registry().methods[METHOD], preset="tiny", assignments=assignments)
    assert isinstance(config, StyleGANConfig)
    return config


def _trainer(config: StyleGANConfig, **options: str) -> StyleGANTrainer:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", **options)  # type: ignore[arg-type]
    fabric.launch()
    method = registry().methods[METHOD]
    return StyleGANTrainer(config, resolve(method.build)(config), fabric)


@pytest.fixture(scope="module")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the phantom."""
    folder = tmp_path_factory.mktemp("stylegan") / "run"
    return train_briefly(folder, METHOD, phantom, "--images", "64", *SMALL)


# --- What is learnt. ---


def test_slices_are_chosen_by_position() -> None:
    every = slices_between((10, 31), SliceConfig(between=(0.25, 0.75)), "sub-1")
    assert [index for index, _ in every] == list(range(15, 26))
    assert (every[0][1], every[-1][1]) == (0.25, 0.75)
    counted = slices_between((10, 31), SliceConfig(between=(0.0, 1.0), count=5), "sub-1")
    assert [index for index, _ in counted] == [18, 19, 20, 21, 22]


def test_too_few_slices_are_refused_with_the_scan() -> None:
    with pytest.raises(DataError, match=r"sub-1 has 11 slices between positions 0.25 and 0.75.*slices.count 71"):
        slices_between((10, 31), SliceConfig(between=(0.25, 0.75), count=71), "sub-1")


def test_the_window_lies_over_the_middle_of_the_head() -> None:
    image = np.full((1, 10, 12), -1.0, np.float32)
    image[0, 6:10, 2:6] = np.arange(16).reshape(4, 4)
    window = crop_around(image, ((6, 10), (2, 6)), (6, 6))
    assert np.array_equal(window[0, 1:5, 1:5], image[0, 6:10, 2:6])
    assert (window[0, 0] == -1).all()
    assert (window[0, 5] == -1).all()


def test_pixels_are_averaged_and_contrasts_copied() -> None:
    config = _config("size=8,8", "slices.pool=2", "copies=3", "network.group=1")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16)).astype(np.float32)
    seen = to_network(image, ((0, 16), (0, 16)), config)
    assert seen.shape == (3, 8, 8)
    assert seen[0, 2, 3] == pytest.approx(image[0, 4:6, 6:8].mean())
    assert np.array_equal(seen[0], seen[2])


def test_examples_are_the_chosen_slices_with_their_position(phantom: Path) -> None:
    config = _config("slices.between=0.4,0.6")
    packed = pack_cohort(read_cohort(phantom), config.data)
    examples = StyleGANExamples(config, packed)
    rows = [examples.example(index, np.random.default_rng(0)) for index in range(len(examples))]
    assert len(rows) >= 5 * 5
    for row in rows:
        assert row["image"].shape == (1, *config.size)
        assert 0.4 <= float(row["slice_position"]) <= 0.6
        assert (row["image"] > -0.9).mean() > 0.3  # a head in the middle of the window
        assert (row["image"][:, 0] < -0.9).all()
    first = packed.scans[0].images[examples.places[0][1], 0]
    assert float(rows[0]["image"].max()) == pytest.approx(float(first.max()), abs=1e-3)


def test_each_echo_is_a_contrast(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01" / "anat"
    folder.mkdir(parents=True)
    image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    for echo in (1, 2, 3):
        nibabel.save(image, folder / f"sub-01_echo-{echo}_MEGRE.nii.gz")
    (scan,) = read_cohort(tmp_path).scans
    assert sorted(scan.images) == ["echo-1_MEGRE", "echo-2_MEGRE", "echo-3_MEGRE"]
    presets = registry().methods[METHOD].presets
    assert presets["paper-t1w-te1-3"]["data"]["contrasts"] == sorted(scan.images)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("network.group=5", "batch_size 8 must be a multiple of network.group 5"),
        ("slices.between=0.8,0.2", "two rising positions within 0 and 1"),
        ("size=4,40", "at least 8"),
        ("augmentation.kinds=mirror,blur", "augmentation.kinds"),
    ],
)
def test_settings_that_do_not_fit_are_refused(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _config(assignment)


# --- How it is trained. ---


def test_lazy_steps_correct_rate_and_betas() -> None:
    config, layer = _config(), torch.nn.Linear(2, 2)
    (group,) = lazy_adam(config, layer, 16).param_groups
    assert group["lr"] == pytest.approx(0.0025 * 16 / 17)
    assert group["betas"] == pytest.approx((0, 0.99 ** (16 / 17)))
    (group,) = lazy_adam(config, layer, 0).param_groups
    assert (group["lr"], group["betas"]) == (0.0025, (0.0, 0.99))


def test_the_papers_gamma_is_the_references() -> None:
    method = registry().methods[METHOD]
    config = resolve_config(method, preset="paper-t1w-te1-3")
    assert isinstance(config, StyleGANConfig)
    assert 0.0002 * math.prod(config.size) / config.training.batch_size == pytest.approx(0.82, abs=0.005)
    assert [part.inputs[0].shape for part in resolve(method.parts)(config).values()] == [
        ("batch", 512),
        ("batch", 14, 512),
    ]


def test_a_step_moves_each_network_by_its_own_losses() -> None:
    config = _config("network.channel_limit=8", "training.batch_size=4", "augmentation.kinds=mirror")
    trainer = _trainer(config)
    before = [
        {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for network in (trainer.generator, trainer.discriminator)
    ]
    figures = trainer.step({"image": torch.rand(4, 1, *config.size) * 2 - 1}, Randomness(range(4)))
    for network, old in zip((trainer.generator, trainer.discriminator), before, strict=True):
        # At the start the noise has no strength and the last scale's neighbours no gradient: weights tell.
        weights = [name for name in old if name.endswith("weight")]
        assert all(not torch.equal(network.state_dict()[name], old[name]) for name in weights)
    assert {"loss/generator", "loss/discriminator", "loss/r1", "loss/path-length", "score/real"} <= figures.keys()
    assert all(math.isfinite(float(value)) for value in figures.values())
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())
    assert not torch.equal(trainer.generator.mapping.average, before[0]["mapping.average"])


def test_regularisers_come_at_their_intervals() -> None:
    config = _config("network.channel_limit=8", "training.batch_size=4", "loss.r1_interval=3", "loss.path_interval=2")
    trainer = _trainer(config)
    image = torch.rand(4, 1, *config.size) * 2 - 1
    seen = [trainer.step({"image": image}, Randomness(range(4))) for _ in range(4)]
    r1, paths = ([float(line[name]) for line in seen] for name in ("loss/r1", "loss/path-length"))
    assert [a != b for a, b in pairwise(r1)] == [False, False, True]
    assert [a != b for a, b in pairwise(paths)] == [False, True, False]


def test_mixed_precision_follows_full_precision() -> None:
    config = _config("network.channel_limit=16", "training.batch_size=4")
    image = torch.rand(4, 1, *config.size) * 2 - 1
    exact, mixed = (
        _trainer(config, precision=precision).step({"image": image}, Randomness(range(4)))
        for precision in ("32-true", "bf16-mixed")
    )
    for name in ("loss/generator", "loss/discriminator", "loss/r1"):
        assert float(mixed[name]) == pytest.approx(float(exact[name]), rel=0.1), name


def test_a_discriminator_that_knows_its_images_raises_the_augmentation() -> None:
    config = _config("network.channel_limit=8", "training.batch_size=4", "augmentation.images=200")
    trainer = _trainer(config)
    torch.nn.init.constant_(trainer.discriminator.score.bias, 10)  # sure of every image
    image = torch.rand(4, 1, *config.size) * 2 - 1
    figures = [trainer.step({"image": image}, Randomness(range(4))) for _ in range(8)]
    probabilities = [float(line["augmentation/probability"]) for line in figures]
    assert probabilities[0] == 0
    assert probabilities[-1] == pytest.approx(2 * 16 / 200)


def test_the_run_leaves_its_best_model(run: Path) -> None:
    opened = Run.open(run)
    scores = {
        line["images"]: line["validation/radiomic-distance"]
        for line in opened.metrics()
        if "validation/radiomic-distance" in line
    }
    best = min(scores, key=lambda images: scores[images])
    assert opened.record["best_images"] == best
    assert len(scores) == 4
    left, kept = (load_file(folder / "model.safetensors") for folder in (run, opened.checkpoint(best)))
    assert all(torch.equal(left[name], kept[name]) for name in kept)


# --- Sampling. ---


def test_samples_are_files_that_say_what_they_are(
    run: Path, tmp_path: Path, zoo_command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = zoo_command(
        "sample", run, "-n", 5, "--out", tmp_path / "some", "--seed", 3, "--batch", 2, "--json"
    )
    assert code == 0, err
    images = [Path(path) for path in json.loads(out)["images"]]
    assert [path.name for path in images] == [f"sample-{number:04d}_T1w.nii.gz" for number in range(5)]
    volume = nibabel.load(images[4])
    assert volume.shape == (40, 48, 1)
    assert tuple(volume.header.get_zooms()) == (4, 4, 4)
    sidecar = json.loads(images[4].with_name("sample-0004_T1w.json").read_text())
    assert sidecar["Synthetic"] is True
    assert sidecar["Sample"] == 4
    assert str(tmp_path) not in json.dumps(sidecar)
    code, _, _ = zoo_command("sample", run, "-n", 1, "--first", 4, "--out", tmp_path / "one", "--seed", 3)
    assert code == 0
    alone = nibabel.load(tmp_path / "one" / "sample-0004_T1w.nii.gz")
    assert np.abs(alone.get_fdata() - volume.get_fdata()).max() < 1e-6


def test_truncation_to_nothing_leaves_only_the_noise_to_differ(run: Path) -> None:
    from zoo_stylegan2.config import StyleGANOptions
    from zoo_stylegan2.tasks import sample

    artifact = zoo.load(run)
    parts = artifact.parts()
    assert isinstance(artifact.config, StyleGANConfig)
    varied, mean = (
        sample(parts, artifact.config, [1, 2, 3], StyleGANOptions(truncation=psi)).images.std(0).mean()
        for psi in (1.0, 0.0)
    )
    assert float(mean) < 0.5 * float(varied)


def test_a_method_that_cannot_sample_says_so(
    trained: Path, tmp_path: Path, zoo_command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = zoo_command("sample", trained, "--out", tmp_path / "none")
    assert (code, "cannot sample; it offers fill" in err) == (1, True)
    code, _, err = zoo_command("sample", trained.parent / "nothing", "--out", tmp_path / "none")
    assert (code, "There is no model" in err) == (1, True)
    assert not (tmp_path / "none").exists()


def test_an_unknown_option_is_refused(
    run: Path, tmp_path: Path, zoo_command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = zoo_command("sample", run, "--out", tmp_path / "none", "--truncation", "3")
    assert (code, "truncation" in err) == (1, True)


def test_the_papers_figures_are_told_as_the_paper_tells_them() -> None:
    method = registry().methods[METHOD]
    assert [row["images"] for row in method.reported] == ["18,600", "9,200"]
    page = (ROOT / "plugins" / "zoo_stylegan2" / "README.md").read_text(encoding="utf-8")
    assert "`data.validation`, `data.test`" in page  # the presets hold subjects out, the paper does not say so


def test_the_discriminator_scores_an_image_as_in_training(run: Path) -> None:
    config = zoo.load(run).config
    assert isinstance(config, StyleGANConfig)
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    score = discriminator_score(config, checkpoint, "cpu")
    images = torch.rand(4, config.image_channels, *config.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together, alone = score(images[:3], images), score(images[2:3], images)
    assert torch.allclose(together[2:], alone, atol=1e-5)
    network = build_discriminator(config)
    network.load_state_dict(load_state(checkpoint)["trainer"]["discriminator"])
    group = torch.cat([images[2:3], images[:3]])
    assert torch.allclose(network(group)[:1], alone, atol=1e-5)
