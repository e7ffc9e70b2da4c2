"""What an extractor sees of images of several channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.errors import DataError
from zoo_realism.config import SetOptions
from zoo_realism.images import ImageSet
from zoo_realism.views import WHOLE, Views

CHANNELS = ("T2w", "T1w", "ce-post1_T1w", "sub")


class _Means(nn.Module):
    """The mean of each of three channels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(len(images), 3, -1).mean(2)


@pytest.fixture
def network(tmp_path: Path) -> str:
    """Name of the features of a network."""
    torch.jit.script(_Means()).save(str(tmp_path / "means.pt"))
    return f"torchscript:{tmp_path / 'means.pt'}"


@pytest.fixture
def images() -> ImageSet:
    """Six images of four channels."""
    values = torch.rand(6, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return ImageSet.of(values, CHANNELS)


def test_texture_of_a_channel_is_its_columns(images: ImageSet) -> None:
    views = Views.choose(SetOptions(), CHANNELS)
    features = views.features(images)
    assert list(features) == [WHOLE, *CHANNELS]
    assert torch.equal(torch.cat([features[name] for name in CHANNELS], dim=1), features[WHOLE])
    alone = Views.choose(SetOptions(), ("sub",)).features(ImageSet.of(images.images[:, 3:], ("sub",)))
    assert torch.allclose(alone[WHOLE], features["sub"])
    assert list(alone) == [WHOLE]


def test_a_network_sees_the_chosen_trio_and_each_channel_in_grey(images: ImageSet, network: str) -> None:
    options = SetOptions(features=network, rgb=("ce-post1_T1w", "T2w", "T1w"))
    features = Views.choose(options, CHANNELS).features(images)
    means = images.images.mean((2, 3)).double()
    assert torch.allclose(features[WHOLE], means[:, [2, 0, 1]], atol=1e-6)
    assert torch.allclose(features["sub"], means[:, [3, 3, 3]], atol=1e-6)


def test_a_network_does_not_take_four_channels(network: str) -> None:
    with pytest.raises(DataError, match=r"take 3 channels, and the images have 4: T2w.*--set rgb="):
        Views.choose(SetOptions(features=network), CHANNELS)


def test_channels_that_are_not_there_are_refused(network: str) -> None:
    with pytest.raises(DataError, match=r"rgb names 'T1', .*Did you mean 'T1w'"):
        Views.choose(SetOptions(features=network, rgb=("T2w", "T1", "sub")), CHANNELS)


def test_texture_takes_no_rgb() -> None:
    with pytest.raises(DataError, match="'texture' take no rgb"):
        Views.choose(SetOptions(rgb=("T2w", "T1w", "sub")), CHANNELS)


def test_only_texture_is_standardised(images: ImageSet, network: str) -> None:
    texture = Views.choose(SetOptions(), CHANNELS)
    real = texture.whole(images)
    scaled = texture.standardised(real, real)
    assert scaled.mean(0).abs().max() < 1e-9
    assert scaled.std(0, correction=0).max() < 1 + 1e-9
    options = SetOptions(features=network, rgb=CHANNELS[:3])
    assert torch.equal(Views.choose(options, CHANNELS).standardised(real, real), real)
