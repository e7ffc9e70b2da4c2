"""Examples, trainers, the maker and the fit of the toy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tests.toy.config import ToyConfig
from tests.toy.networks import Model
from zoo.imaging.cache import PackedCohort
from zoo.imaging.phantom import write_phantom
from zoo.nn.ema import MovingAverage
from zoo.progress import Progress
from zoo.randomness import Randomness
from zoo.training.made import Made
from zoo.training.protocol import Batch

HOLE = 6


def open_brains(
    folder: Path, spacing_mm: float, progress: Progress, *, subjects: int | None = None, seed: int = 0
) -> Path:
    """Make five phantoms, or as many as asked for."""
    return write_phantom(folder, subjects=subjects or 5, seed=seed + 2, spacing_mm=spacing_mm, progress=progress)


def centred(plane: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Pad or crop a slice to ``size`` around its middle."""
    result = np.full(size, -1, np.float32)
    cut, target = [], []
    for have, want in zip(plane.shape, size, strict=True):
        offset, length = (have - want) // 2, min(have, want)
        cut.append(slice(max(offset, 0), max(offset, 0) + length))
        target.append(slice(max(-offset, 0), max(-offset, 0) + length))
    result[tuple(target)] = plane[tuple(cut)]
    return result


def places(cohort: PackedCohort) -> list[tuple[int, int]]:
    """Return scan and slice of every slice with enough tissue."""
    return [
        (number, index)
        for number, scan in enumerate(cohort.scans)
        for index in range(scan.shape[0])
        if (scan.images[index, 0] > -0.9).mean() > 0.15
    ]


def number_of(subject: str) -> int:
    """Return 3 for ``sub-003``."""
    return int(subject.removeprefix("sub-"))


class RealSlices:
    """Slices as they are."""

    def __init__(self, config: ToyConfig, cohort: PackedCohort) -> None:
        self.config = config
        self.cohort = cohort
        self.places = places(cohort)

    def __len__(self) -> int:
        return len(self.places)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        scan, number = self.places[index]
        plane = np.asarray(self.cohort.scans[scan].images[number, 0], np.float32)
        return {"image": centred(plane, self.config.size)[None]}


class Slices(RealSlices):
    """Slices with a hole, and whose they are."""

    def __init__(self, config: ToyConfig, cohort: PackedCohort, made: Mapping[str, Made]) -> None:
        super().__init__(config, cohort)
        assert not made  # the first stage has none before it

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image = super().example(index, rng)["image"]
        mask = np.zeros_like(image)
        row, column = (rng.integers(side - HOLE) for side in self.config.size)
        mask[:, row : row + HOLE, column : column + HOLE] = 1
        subject = number_of(self.cohort.scans[self.places[index][0]].subject)
        return {"image": image, "lesion_mask": mask, "subject": np.array(subject)}


class Errors:
    """What the autoencoder made of subjects that it has not seen."""

    def __init__(self, config: ToyConfig, cohort: PackedCohort, made: Mapping[str, Made]) -> None:
        self.made = made["autoencoder"]
        subjects = dict.fromkeys(scan.subject for scan in cohort.scans)
        self.indices = [int(index) for subject in subjects for index in self.made.of(subject)]

    def __len__(self) -> int:
        return len(self.indices)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        item = self.indices[index]
        return {name: np.array(self.made[name][item]) for name in ("reconstruction", "error")}


class ErrorMaker:
    """Makes reconstructions, their errors, and whether the model had seen the subject."""

    def __init__(self, config: ToyConfig, model: Model, cohort: PackedCohort, made: Mapping[str, Made]) -> None:
        self.config = config
        self.model = model
        self.slices = Slices(config, cohort, made)

    def __len__(self) -> int:
        return len(self.slices)

    def subject(self, index: int) -> str:
        return self.slices.cohort.scans[self.slices.places[index][0]].subject

    def make(self, indices: Sequence[int], random: Randomness) -> dict[str, Tensor]:
        rows = [self.slices.example(index, np.random.default_rng(index)) for index in indices]
        image, mask = (
            torch.from_numpy(np.stack([row[name] for row in rows])).to(random.device)
            for name in ("image", "lesion_mask")
        )
        voided = image * (1 - mask) + 0.1 * random.normal(image.shape[1:]) * mask
        reconstruction = self.model.autoencoder(voided, mask)
        saw = self.model.autoencoder.seen[[number_of(self.subject(index)) for index in indices]]
        return {"reconstruction": reconstruction, "error": image - reconstruction, "saw": saw}


class _Trainer:
    """Mean squared error with Adam, of one module."""

    def __init__(self, config: ToyConfig, module: nn.Module, fabric: Fabric) -> None:
        self.config = config
        self.fabric = fabric
        self.module = module.to(fabric.device)
        self.average = MovingAverage(module, 20)
        self.ema = self.average.model
        self.network, self.optimiser = fabric.setup(module, torch.optim.Adam(module.parameters(), config.learning_rate))
        self.images_seen = 0

    def loss(self, network: Any, batch: Batch) -> Tensor:
        """Return the loss of each image, ``[B]``."""
        raise NotImplementedError

    def step(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        self.module.train()
        loss = self.loss(self.network, batch).mean()
        self.fabric.backward(loss)
        self.optimiser.step()
        self.optimiser.zero_grad()
        share = len(next(iter(batch.values()))) * self.fabric.world_size
        self.images_seen += share
        self.average.update(self.images_seen, share)
        return {"loss/mse": loss.detach()}

    def validate(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        return {"mse": self.loss(self.ema, batch)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.module.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "images_seen": self.images_seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.images_seen = state["images_seen"]


class AutoencoderTrainer(_Trainer):
    """The first stage."""

    def __init__(self, config: ToyConfig, model: Model, fabric: Fabric) -> None:
        super().__init__(config, model.autoencoder, fabric)

    def loss(self, network: Any, batch: Batch) -> Tensor:
        mask = batch["lesion_mask"]
        return (network(batch["image"] * (1 - mask), mask) - batch["image"]).square().flatten(1).mean(1)

    def step(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        seen = self.module.seen.index_fill(0, batch["subject"], 1.0)
        self.module.seen = cast(Tensor, self.fabric.all_reduce(seen, reduce_op="max"))
        return super().step(batch, random)

    def preview(self, batch: Batch, random: Randomness) -> Tensor:
        mask = batch["lesion_mask"]
        return torch.cat([batch["image"], self.ema(batch["image"] * (1 - mask), mask)], dim=1)


class CorrectorTrainer(_Trainer):
    """The last stage."""

    def __init__(self, config: ToyConfig, model: Model, fabric: Fabric) -> None:
        assert not any(parameter.requires_grad for parameter in model.autoencoder.parameters())
        super().__init__(config, model.corrector, fabric)
        self.components = model.components

    def step(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        assert self.components.axes.any()  # what was fitted is there
        return super().step(batch, random)

    def loss(self, network: Any, batch: Batch) -> Tensor:
        return (network(batch["reconstruction"]) - batch["error"]).square().flatten(1).mean(1)

    def preview(self, batch: Batch, random: Randomness) -> Tensor:
        return torch.cat([batch["error"], self.ema(batch["reconstruction"])], dim=1).clamp(-1, 1)


def fit_components(config: ToyConfig, model: Model, examples: Errors, rng: np.random.Generator) -> None:
    """Fit the principal components of the errors."""
    errors = np.stack([examples.example(index, rng)["error"].ravel() for index in range(len(examples))])
    mean = errors.mean(0)
    axes = torch.linalg.svd(torch.from_numpy(errors - mean), full_matrices=False).Vh[: config.components]
    model.components.mean.copy_(torch.from_numpy(mean))
    model.components.axes[: len(axes)] = axes
