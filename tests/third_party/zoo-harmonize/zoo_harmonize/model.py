"""The network, what it is trained on, and how it harmonizes."""

import math

import numpy as np
import torch
from torch import nn

from zoo import Part, TensorSpec

QUARTILES = torch.tensor([0.25, 0.5, 0.75])


class VoxelNetwork(nn.Module):
    """Map each voxel by itself, given the quartiles of its scan."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(4, width, 1), nn.SiLU(), nn.Conv1d(width, 1, 1))

    def forward(self, voxels, quartiles):  # [B, 1, V], [B, 3]
        known = quartiles[:, :, None].expand(-1, -1, voxels.shape[-1])
        return voxels + self.layers(torch.cat([voxels, known], dim=1))


def build(config):
    return VoxelNetwork(config.width)


def parts(config):
    """Declare the graph: what goes in and out, with shapes and ranges; "batch" is dynamic."""
    voxels, quartiles = ("batch", 1, config.voxels), ("batch", 3)
    return {
        "curve": Part(
            module="",
            inputs=(
                TensorSpec(name="voxels", dtype="float32", shape=voxels, range=(-1, 1), meaning="intensities"),
                TensorSpec(name="quartiles", dtype="float32", shape=quartiles, range=(-1, 1), meaning="of the head"),
            ),
            outputs=(TensorSpec(name="mapped", dtype="float32", shape=voxels, range=None, meaning="intensities"),),
        )
    }


def quartiles_of(values):
    """Return the quartiles of the voxels that are not background, [3]."""
    head = values[values > -0.9]
    return torch.quantile(head, QUARTILES) if len(head) else torch.full((3,), -1.0)


class VoxelExamples:
    """Voxels of one scan, bent by a random curve; the cohort is packed, [K, C, I, J] in [-1, 1]."""

    def __init__(self, config, cohort):
        self.config = config
        self.scans = cohort.scans

    def __len__(self):
        return len(self.scans)

    def example(self, index, rng):
        values = np.asarray(self.scans[index].images[:, 0], np.float32).ravel()
        target = rng.choice(values, self.config.voxels)
        exponent = np.exp(rng.uniform(-self.config.bend, self.config.bend))
        bent = (2 * ((target + 1) / 2).clip(0, 1) ** exponent - 1).astype(np.float32)
        quartiles = quartiles_of(torch.from_numpy(bent)).numpy()
        return {"voxels": bent[None], "quartiles": quartiles, "target": target[None]}


class VoxelTrainer:
    """Mean squared error. The host owns the loop, files, devices, logs and checkpoints."""

    def __init__(self, config, model, fabric):
        self.fabric = fabric
        self.ema = model  # the model that is saved
        optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        self.network, self.optimiser = fabric.setup(model, optimiser)

    def step(self, batch, random):
        loss = self._loss(self.network, batch).mean()
        self.fabric.backward(loss)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return {"loss/mse": loss.detach()}

    def _loss(self, network, batch):
        return (network(batch["voxels"], batch["quartiles"]) - batch["target"]).square().flatten(1).mean(1)

    def validate(self, batch, random):
        return {"loss": self._loss(self.ema, batch)}

    def preview(self, batch, random):
        side = math.isqrt(batch["voxels"].shape[-1])
        shown = [batch["voxels"], self.ema(batch["voxels"], batch["quartiles"]), batch["target"]]
        return torch.cat(shown, dim=1)[..., : side * side].unflatten(-1, (side, side))  # [rows, columns, H, W]

    def state_dict(self):
        return {"model": self.ema.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state):
        self.ema.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


def harmonize(parts, config, image, options, progress=None):
    """Map the voxels of [C, i, j, k] in rows of `config.voxels`, one row per network call."""
    flat = image.flatten()
    quartiles = quartiles_of(flat)[None]
    rows = nn.functional.pad(flat, (0, -len(flat) % config.voxels), value=-1).view(-1, 1, 1, config.voxels)
    mapped = []
    for number, row in enumerate(rows):
        mapped.append(parts["curve"](row, quartiles).cpu())
        if progress:
            progress(number + 1, len(rows))
    whole = torch.cat(mapped).flatten()[: len(flat)].view_as(image)
    return torch.lerp(image, whole, options.strength).clamp(-1, 1)
