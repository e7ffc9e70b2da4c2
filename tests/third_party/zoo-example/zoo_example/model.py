"""The network, what it is trained on, and how it fills."""

import numpy as np
import torch
from torch import nn

from zoo import Part, TensorSpec


class Filler(nn.Module):
    """Predict a slice from its voided copy and the hole's mask."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 5, padding=2), nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=4, dilation=2), nn.ReLU(),
            nn.Conv2d(width, 1, 5, padding=2),
        )  # fmt: skip

    def forward(self, voided, lesion_mask):
        return self.layers(torch.cat([voided, lesion_mask], dim=1))


def build(config):
    return Filler(config.width)


def parts(config):
    """Declare the graph: what goes in and out, with shapes and ranges; "batch" is dynamic."""
    shape = ("batch", 1, *config.size)
    return {
        "filler": Part(
            module="",  # the whole model
            inputs=(
                TensorSpec(name="voided", dtype="float32", shape=shape, range=(-1, 1), meaning="image, 0 in the hole"),
                TensorSpec(name="lesion_mask", dtype="float32", shape=shape, range=(0, 1), meaning="1 is filled"),
            ),
            outputs=(TensorSpec(name="image", dtype="float32", shape=shape, range=None, meaning="filled image"),),
        )
    }


class SliceExamples:
    """Slices with tissue, padded to the network's size; the cohort is packed, [K, C, I, J] in [-1, 1]."""

    def __init__(self, config, cohort):
        self.config = config
        self.slices = [
            (scan, index)
            for scan in cohort.scans
            for index in range(scan.shape[0])
            if (scan.images[index, 0] > -0.9).mean() > 0.1
        ]

    def __len__(self):
        return len(self.slices)

    def example(self, index, rng):
        scan, number = self.slices[index]
        image = centred(np.asarray(scan.images[number, 0], np.float32), self.config.size)
        tissue = np.argwhere(image > -0.9)
        row, column = tissue[rng.integers(len(tissue))]
        mask = np.zeros_like(image)
        mask[row : row + self.config.hole, column : column + self.config.hole] = 1
        return {"image": image[None], "lesion_mask": mask[None]}


def centred(plane, size):
    """Pad or crop a slice to `size`, keeping its middle."""
    result = np.full(size, -1, np.float32)
    offsets = [(have - want) // 2 for have, want in zip(plane.shape, size, strict=True)]
    source = tuple(slice(max(offset, 0), max(offset, 0) + want) for offset, want in zip(offsets, size, strict=True))
    cut = plane[source]
    target = tuple(
        slice(max(-offset, 0), max(-offset, 0) + have) for offset, have in zip(offsets, cut.shape, strict=True)
    )
    result[target] = cut
    return result


class RegressionTrainer:
    """Mean squared error inside the hole. The host owns the loop, files, devices, logs and checkpoints."""

    def __init__(self, config, model, fabric):
        self.fabric = fabric
        self.ema = model  # the model that is saved; or an average of it (zoo.nn.ema.MovingAverage)
        optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        self.network, self.optimiser = fabric.setup(model, optimiser)

    def step(self, batch, random):
        loss = self._loss(self.network, batch).mean()
        self.fabric.backward(loss)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return {"loss/mse": loss.detach()}

    def _loss(self, network, batch):
        image, mask = batch["image"], batch["lesion_mask"]
        error = (network(image * (1 - mask), mask) - image).square() * mask
        return error.flatten(1).sum(1) / mask.flatten(1).sum(1)

    def validate(self, batch, random):
        return {"loss": self._loss(self.ema, batch)}  # the first score decides which checkpoint is best

    def preview(self, batch, random):
        image, mask = batch["image"], batch["lesion_mask"]
        filled = self.ema(image * (1 - mask), mask) * mask + image * (1 - mask)
        pictures = torch.cat([image, image * (1 - mask), filled], dim=1)  # [rows, columns, I, J]
        return pictures.transpose(2, 3).flip(2)  # [rows, columns, H, W], the front of the head on top

    def state_dict(self):
        return {"model": self.ema.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state):
        self.ema.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


def fill(parts, config, image, lesion_mask, options, progress=None, *, white_matter=None):
    """Fill [C, i, j, k] slice by slice; the host pastes only what lies inside the mask."""
    filled = image.clone()
    for index in lesion_mask.any(dim=0).any(dim=0).nonzero().flatten().tolist():
        plane, hole = image[0, :, :, index].numpy(), lesion_mask[:, :, index].numpy()
        mask = torch.from_numpy(np.maximum(centred(hole.astype(np.float32), config.size), 0))[None, None]
        voided = torch.from_numpy(centred(plane, config.size))[None, None] * (1 - mask)
        result = parts["filler"](voided, mask)[0, 0].cpu().numpy()
        filled[0, :, :, index] = torch.from_numpy(centred(result, plane.shape))
    return filled
