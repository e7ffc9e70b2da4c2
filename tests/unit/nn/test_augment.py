"""Augmentations leave alone what they should, can be differentiated twice, and are driven by the sign of the scores."""

from __future__ import annotations

import pytest
import torch

from zoo.nn.augment import KINDS, AdaptiveProbability, augment
from zoo.randomness import Randomness

SHAPES = [(8, 10), (6, 8, 6)]


def _images(shape: tuple[int, ...], count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 2, *shape, generator=generator, dtype=torch.double) * 2 - 1


@pytest.mark.parametrize("shape", SHAPES)
def test_without_probability_nothing_changes(shape: tuple[int, ...]) -> None:
    images = _images(shape)
    assert torch.equal(augment(images, KINDS, 0.0, Randomness(range(4))), images)
    assert torch.equal(augment(images, (), 1.0, Randomness(range(4))), images)


@pytest.mark.parametrize("shape", SHAPES)
def test_mirroring_exchanges_left_and_right_of_half_the_chosen(shape: tuple[int, ...]) -> None:
    images = _images(shape, 200)
    seen = augment(images, ("mirror",), 0.6, Randomness(range(200)))
    mirrored = torch.tensor([torch.equal(a, b.flip(1)) for a, b in zip(seen, images, strict=True)])
    untouched = torch.tensor([torch.equal(a, b) for a, b in zip(seen, images, strict=True)])
    assert (mirrored ^ untouched).all()
    assert float(mirrored.double().mean()) == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_kind_changes_its_share_of_the_images(kind: str, shape: tuple[int, ...]) -> None:
    images = _images(shape, 60).float()
    share = 0.25 if kind == "mirror" else 0.5
    seen = augment(images, (kind,), 0.5, Randomness(range(60)))
    changed = (seen - images).abs().flatten(1).amax(1) > 1e-4
    assert float(changed.double().mean()) == pytest.approx(share, abs=0.2)
    assert torch.isfinite(seen).all()


@pytest.mark.parametrize("kind", ["shift", "scale", "rotate"])
@pytest.mark.parametrize("shape", [(40, 48), (24, 28, 20)])
def test_a_head_stays_a_head(kind: str, shape: tuple[int, ...]) -> None:
    places = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    ball = (sum(place**2 for place in places) < 0.36).float() * 2 - 1
    images = ball.expand(12, 1, *shape)
    seen = augment(images, (kind,), 1.0, Randomness(range(12)))
    volume = (seen + 1).flatten(1).sum(1) / (ball + 1).sum()
    assert (seen[(..., *[0] * len(shape))] == -1).all()  # background comes in at the border
    spread = volume.std() > 0.05
    assert bool(spread) == (kind == "scale")
    if kind != "scale":
        assert float(volume.mean()) == pytest.approx(1, abs=0.03)


def test_rotation_keeps_lengths_where_sides_differ() -> None:
    bar = torch.full((1, 1, 60, 30), -1.0)
    bar[:, :, 10:50, 14:16] = 1
    seen = augment(bar.expand(6, 1, 60, 30), ("rotate",), 1.0, Randomness(range(6)))
    for image in seen[:, 0]:
        rows, columns = torch.nonzero(image > 0, as_tuple=True)
        length = ((rows.max() - rows.min()) ** 2 + (columns.max() - columns.min()) ** 2).double().sqrt()
        assert float(length) == pytest.approx(40, abs=2.5)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 4)])
def test_gradients_of_gradients(shape: tuple[int, ...]) -> None:
    images = _images(shape, 1).requires_grad_()

    def squared(x: torch.Tensor) -> torch.Tensor:
        return augment(x, tuple(kind for kind in KINDS if kind != "noise"), 1.0, Randomness([5])).square()

    assert torch.autograd.gradgradcheck(squared, (images,))


def test_an_image_does_not_depend_on_its_batch() -> None:
    images = _images((8, 10)).float()
    together = augment(images, KINDS, 0.7, Randomness([1, 2, 3, 4]))
    alone = augment(images[2:3], KINDS, 0.7, Randomness([3]))
    assert torch.allclose(together[2:3], alone, atol=1e-6)


def test_the_probability_settles_where_the_sign_is_as_wanted() -> None:
    controller = AdaptiveProbability(target=0.6, images=2000, highest=0.8)
    for _ in range(2000):
        controller.update(1 - controller.value, 16)  # an augmentation of 0.4 gives the wanted 0.6
    assert controller.value == pytest.approx(0.4, abs=0.05)


def test_the_probability_keeps_its_limits_and_speed() -> None:
    controller = AdaptiveProbability(target=0.6, images=1000, highest=0.8, every=4)
    for _ in range(4):
        controller.update(1.0, 10)
    assert controller.value == pytest.approx(0.04)  # 40 of 1000 images
    for _ in range(200):
        controller.update(torch.tensor(1.0), 10)
    assert controller.value == 0.8
    for _ in range(200):
        controller.update(-1.0, 10)
    assert controller.value == 0.0


def test_the_controller_goes_on_from_its_state() -> None:
    first = AdaptiveProbability(target=0.6, images=1000, highest=0.8)
    second = AdaptiveProbability(target=0.6, images=1000, highest=0.8)
    for step in range(6):
        first.update(1.0 if step % 3 else 0.2, 10)
    second.load_state_dict(first.state_dict())
    for each in (first, second):
        each.update(1.0, 10)
        each.update(1.0, 10)
    assert first.state_dict() == second.state_dict()
    assert first.value > 0
