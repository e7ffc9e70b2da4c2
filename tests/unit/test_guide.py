"""The short examples of the guide run: a GAN, a VAE, a task by windows."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from tests.conftest import ROOT
from zoo import Method, Part, Task, TensorSpec
from zoo.imaging.windows import crops, run_windows, tile
from zoo.randomness import Randomness
from zoo.training.state import take_apart

PAGE = (ROOT / "docs" / "guides" / "write-a-plugin.md").read_text(encoding="utf-8")
SIZE = (16, 16)
CONFIG = SimpleNamespace(
    latent=8, size=SIZE, learning_rate=1e-3, half_life_images=100, r1_gamma=1.0, beta=1e-3,
    training=SimpleNamespace(batch_size=4), data=SimpleNamespace(contrasts=("T1w",), spacing_mm=1.0),
)  # fmt: skip


def _network(inputs: int, outputs: int, *shape: int) -> nn.Module:
    ends = [nn.Unflatten(1, shape)] if shape else []
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs), *ends)


def _run(word: str, **names: Any) -> dict[str, Any]:
    """Run the block of the page that has a word, and return its names."""
    [code] = [code for code in re.findall(r"```python\n(.*?)\n```\n", PAGE, re.DOTALL) if word in code]
    known: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "np": np, "Part": Part, "TensorSpec": TensorSpec}
    known |= {"Method": Method, "Task": Task, **names}
    exec(code, known)  # noqa: S102 - the page is ours
    return known


def test_the_gan_trains_and_keeps_its_state() -> None:
    torch.manual_seed(0)
    trainer = _run("class GANTrainer", Discriminator=lambda config: _network(256, 1))["GANTrainer"]
    gan = trainer(CONFIG, _network(8, 256, 1, *SIZE), Fabric(accelerator="cpu", devices=1))
    before = {name: value.clone() for name, value in gan.ema.state_dict().items()}
    for step in range(17):
        batch = {"image": torch.rand(4, 1, *SIZE) * 2 - 1}
        losses = gan.step(batch, Randomness(range(4 * step, 4 * step + 4)))
    assert all(torch.isfinite(value) and not value.requires_grad for value in losses.values())
    assert losses["loss/r1"] > 0
    assert gan.images_seen == 68
    assert not torch.equal(before["1.weight"], gan.ema.state_dict()["1.weight"])
    take_apart(gan.state_dict())


def test_the_vae_has_a_loss_per_image_and_samples() -> None:
    encoder, decoder = lambda config: _network(256, 16), lambda config: _network(8, 256, 1, *SIZE)
    names = _run("class VAE(nn.Module)", Encoder=encoder, Decoder=decoder)
    model, trainer = names["VAE"](CONFIG), names["VAETrainer"]()
    trainer.config = CONFIG
    assert trainer._loss(model, {"image": torch.rand(4, 1, *SIZE)}, Randomness(range(4))).shape == (4,)
    [(name, part)] = names["parts"](CONFIG).items()
    with torch.inference_mode():
        samples = names["sample"]({name: model.get_submodule(part.module)}, CONFIG, [1, 2, 3], None)
    assert samples.images.shape == (3, 1, *SIZE)


def test_windows_give_an_image_back() -> None:
    image = torch.rand(1, 20, 30, 5)
    given = {"tile": tile, "crops": crops, "run_windows": run_windows, "config": CONFIG, "image": image}
    assert torch.equal(_run("image.permute", **given, parts={"net": lambda slices: slices})["result"], image)
