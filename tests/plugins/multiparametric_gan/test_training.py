"""The steps of DCGAN and WGAN: their losses, when each network learns, and the scores of a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from tests.conftest import train_briefly
from tests.plugins.multiparametric_gan.conftest import BENIGN, config_of, write_study
from zoo.descriptors import resolve
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo_multiparametric_gan.networks import one_hot
from zoo_multiparametric_gan.training import WGANTrainer, clip_weights

BATCH = 6
SMALL = (
    "network.widths=8,4",
    f"training.batch_size={BATCH}",
    "size=8,8",
    "data.contrasts=T1w,T2w",
    "patches.inside=none",
)


def _trainer(method: str, *assignments: str) -> Any:
    config = config_of(method, "tiny", *SMALL, *assignments)
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu")
    fabric.launch()
    registered = registry().methods[method]
    return resolve(registered.trainer)(config, resolve(registered.build)(config), fabric)


def _batch(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(BATCH, 2, 8, 8, generator=generator) * 2 - 1
    return {"image": image, "label": torch.arange(BATCH) % 3}


def _copy(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def _moved(network: nn.Module, before: list[Tensor]) -> bool:
    return any(not torch.equal(parameter, old) for parameter, old in zip(network.parameters(), before, strict=True))


class _Scores(nn.Module):
    """A discriminator that says the mean of an image times a weight, and remembers the batches it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.given: list[Tensor] = []

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        self.given.append(images.detach().clone())
        return self.weight * images.flatten(1).mean(1)


# --- DCGAN. ---


def test_dcgan_minimises_the_cross_entropy_of_real_and_generated() -> None:
    trainer = _trainer("dcgan")
    trainer.discriminator = scores = _Scores()
    batch = _batch()
    figures = trainer.step(batch, Randomness(range(BATCH)))
    real, generated = (0.5 * images.flatten(1).mean(1) for images in scores.given[:2])
    expected = F.binary_cross_entropy_with_logits(real, torch.ones(BATCH))
    expected = expected + F.binary_cross_entropy_with_logits(generated, torch.zeros(BATCH))
    assert figures["loss/discriminator"] == pytest.approx(float(expected))
    # The discriminator learnt nothing, as its optimiser has other weights, so the generator meets the same scores.
    saturated = F.binary_cross_entropy_with_logits(generated, torch.ones(BATCH))
    assert figures["loss/generator"] == pytest.approx(float(saturated))


def test_real_and_generated_images_come_in_batches_of_their_own() -> None:
    trainer = _trainer("dcgan")
    trainer.discriminator = scores = _Scores()
    batch = _batch()
    trainer.step(batch, Randomness(range(BATCH)))
    assert [len(images) for images in scores.given] == [BATCH] * 3
    assert torch.equal(scores.given[0], batch["image"])
    assert torch.equal(scores.given[1], scores.given[2])


def test_dcgan_updates_both_networks_in_each_step() -> None:
    trainer = _trainer("dcgan")
    generator, discriminator = _copy(trainer.generator), _copy(trainer.discriminator)
    trainer.step(_batch(), Randomness(range(BATCH)))
    assert _moved(trainer.generator, generator)
    assert _moved(trainer.discriminator, discriminator)
    assert trainer.images_seen == BATCH


def test_a_new_class_asks_the_generator_for_another_image() -> None:
    trainer = _trainer("dcgan")
    trainer.discriminator = scores = _Scores()
    for labels in (torch.zeros(BATCH, dtype=torch.int64), torch.ones(BATCH, dtype=torch.int64)):
        with torch.no_grad():
            scores(trainer._generate(one_hot(labels, trainer.config), Randomness(range(BATCH))), labels)
    assert not torch.equal(*scores.given)


def test_the_average_follows_the_generator_and_may_be_left_out() -> None:
    trainer = _trainer("dcgan")
    trainer.step(_batch(), Randomness(range(BATCH)))
    assert trainer.ema is not trainer.generator
    assert not torch.equal(trainer.ema.projection.weight, trainer.generator.projection.weight)
    assert _trainer("dcgan", "optimiser.average_half_life_images=0").ema.training


# --- WGAN. ---


def _weights(trainer: WGANTrainer) -> list[list[Tensor]]:
    return [_copy(trainer.generator), _copy(trainer.discriminator)]


def test_the_critic_learns_in_each_step_and_the_generator_in_every_fifth() -> None:
    trainer = _trainer("wgan")
    moved = []
    for number in range(11):
        generator, critic = _weights(trainer)
        figures = trainer.step(_batch(number), Randomness(range(BATCH)))
        moved.append(_moved(trainer.generator, generator))
        assert _moved(trainer.discriminator, critic)
        assert ("loss/generator" in figures) is (number >= 4)
    assert [number for number, yes in enumerate(moved) if yes] == [4, 9]
    assert trainer.images_seen == 11 * BATCH


def test_the_critic_s_loss_is_the_negative_distance() -> None:
    trainer = _trainer("wgan")
    trainer.discriminator = scores = _Scores()
    figures = trainer.step(_batch(), Randomness(range(BATCH)))
    real, generated = (0.5 * images.flatten(1).mean() for images in scores.given)
    assert figures["loss/critic"] == pytest.approx(float(generated - real))


def test_weights_are_clipped_after_each_step() -> None:
    trainer = _trainer("wgan", "critic.clip=0.004")
    figures = trainer.step(_batch(), Randomness(range(BATCH)))
    largest = max(float(parameter.detach().abs().max()) for parameter in trainer.discriminator.parameters())
    assert largest == pytest.approx(0.004)
    assert 0.1 < figures["critic/weights-at-limit"] < 1


def test_the_share_of_clipped_weights_is_counted() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -2.0], [0.5, 0.2]]))
        layer.bias.zero_()
    assert clip_weights(layer, 1.0) == pytest.approx(2 / 6)
    assert layer.weight.tolist() == [[1, -1], [0.5, pytest.approx(0.2)]]


@pytest.mark.parametrize("kind", ["gradient-penalty", "spectral"])
def test_other_critics_are_not_clipped(kind: str) -> None:
    trainer = _trainer("wgan", f"critic.lipschitz={kind}", "critic.clip=0.001")
    figures = trainer.step(_batch(), Randomness(range(BATCH)))
    assert max(float(parameter.detach().abs().max()) for parameter in trainer.discriminator.parameters()) > 0.01
    assert "critic/weights-at-limit" not in figures
    assert ("loss/gradient-penalty" in figures) is (kind == "gradient-penalty")


def test_the_penalty_of_a_linear_critic_is_known() -> None:
    trainer = _trainer("wgan", "critic.lipschitz=gradient-penalty", "critic.penalty=3")
    trainer.discriminator = scores = _Scores()
    figures = trainer.step(_batch(), Randomness(range(BATCH)))
    # The gradient is the weight over the number of pixels, in each of them.
    slope = 0.5 / math.sqrt(2 * 8 * 8)
    assert figures["loss/gradient-penalty"] == pytest.approx((slope - 1) ** 2, rel=1e-5)
    real, generated, between = scores.given
    share = (between - generated).flatten(1).norm(dim=1) / (real - generated).flatten(1).norm(dim=1)
    assert 0 < share.min() < share.max() < 1
    assert torch.allclose(between, generated + share[:, None, None, None] * (real - generated), atol=1e-5)


def test_the_penalty_enters_the_gradient_with_its_weight() -> None:
    gradients = []
    for weight in (0, 4):
        trainer = _trainer("wgan", "critic.lipschitz=gradient-penalty", f"critic.penalty={weight}")
        trainer.discriminator = scores = _Scores()
        descent = torch.optim.SGD(scores.parameters(), lr=1.0)
        trainer.discriminator_optimiser = trainer.fabric.setup_optimizers(descent)
        trainer.step(_batch(), Randomness(range(BATCH)))
        gradients.append(0.5 - scores.weight.item())
    # The slope of the weight w is w times this, and d/dw (w s - 1)^2 = 2 s (w s - 1).
    slope = 1 / math.sqrt(2 * 8 * 8)
    assert gradients[1] - gradients[0] == pytest.approx(4 * 2 * slope * (0.5 * slope - 1), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "optimiser", "rate"),
    [("clipping", "RMSprop", 5e-4), ("gradient-penalty", "Adam", 1e-4), ("spectral", "Adam", 1e-4)],
)
def test_each_kind_of_critic_has_its_optimiser(kind: str, optimiser: str, rate: float) -> None:
    trainer = _trainer("wgan", f"critic.lipschitz={kind}")
    for found in (trainer.generator_optimiser, trainer.discriminator_optimiser):
        assert optimiser in type(found).__name__
        assert found.param_groups[0]["lr"] == rate


# --- Scores and pictures. ---


def test_a_checkpoint_is_scored_per_class_and_by_the_mean() -> None:
    trainer = _trainer("dcgan")
    batch = {name: torch.cat([values, values]) for name, values in _batch().items()}
    with torch.inference_mode():
        scores = trainer.validate(batch, Randomness(range(2 * BATCH)))
    assert list(scores) == ["texture-distance", *(f"texture-distance/{name}" for name in trainer.config.class_names)]
    first, *rest = scores.values()
    assert float(first) == pytest.approx(float(torch.stack(rest).mean()))
    assert float(first) > 0


def test_too_few_images_of_every_class_give_no_score() -> None:
    trainer = _trainer("dcgan")
    few = {name: values[:3] for name, values in _batch().items()}
    assert trainer.validate(few, Randomness(range(3))) == {}


@pytest.mark.parametrize("size", ["8,8", "8,8,8"])
def test_the_preview_has_a_row_per_class(size: str) -> None:
    trainer = _trainer("wgan", f"size={size}")
    with torch.inference_mode():
        rows = trainer.preview(_batch(), Randomness(range(4)))
    assert rows.shape == (3, 2 * 2, 8, 8)
    assert not torch.equal(rows[0], rows[1])


def test_a_training_without_a_lesion_of_a_class_is_refused(tmp_path: Path, zoo_command: Any) -> None:
    for subject in ("sub-01", "sub-02"):
        write_study(tmp_path / "cohort", subject, [(BENIGN, "benign")])
    code, _, error = zoo_command(
        "train", "dcgan", "--preset", "tiny", "--data", tmp_path / "cohort", "--out", tmp_path / "run"
    )
    assert code
    assert "None of the 2 training scans has a lesion of the class 'malignant'" in error
    assert not (tmp_path / "run").exists()


def test_it_trains_on_other_images_and_lesions_of_one_class(phantom: Path, tmp_path: Path, zoo_command: Any) -> None:
    settings = ("data.contrasts=T1w,T2w,FLAIR", "patches.label=none", "patches.classes=lesion", "patches.inside=none",
                "data.validation=0", "training.batch_size=8")  # fmt: skip
    chosen = [word for setting in settings for word in ("--set", setting)]
    train_briefly(tmp_path / "run", "dcgan", phantom, "--preset", "tiny", "--images", "32", *chosen)
    asked = ("-n", "2", "--class", "lesion", "--out", tmp_path / "out")
    code, _, error = zoo_command("sample", tmp_path / "run", *asked)
    assert code == 0, error
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        f"sample-000{number}_{contrast}.nii.gz" for number in range(2) for contrast in ("FLAIR", "T1w", "T2w")
    ]
    code, _, error = zoo_command("sample", tmp_path / "run", "--class", "benign", "--out", tmp_path / "other")
    assert code
    assert "Classes: lesion, no-findings" in error
