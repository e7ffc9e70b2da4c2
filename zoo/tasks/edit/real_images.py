"""The projected images themselves: what edited images are compared with, and how far from them an edit may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.descriptors import resolve
from zoo.metrics.bpf import parenchymal_fraction
from zoo.metrics.distances import nearest_distances
from zoo.metrics.features import Extractor, feature_scale
from zoo.models.artifact import Artifact
from zoo.tasks.edit.alpha_range import BPF, Criterion
from zoo.tasks.edit.protocol import latent_task
from zoo.tasks.edit.slices import Tissue, signal, slice_of
from zoo.tasks.projections import Projections

Scores = Callable[[np.ndarray], np.ndarray]
"""Images ``[N, C, *spatial]`` to a score each, ``[N]``."""

_SCORED_AT_ONCE = 64


@dataclass(frozen=True)
class RealImages:
    """The real images that were projected.

    Attributes:
        images: ``[N, C, *spatial]``.
        features: ``[N, F]``, each in units of its standard deviation.
        measure: Images to features in the same units.
        subjects: One per image.
        of_subjects: Index of the image that stands for each subject.
        extractor: Name of the features.
    """

    images: np.ndarray
    features: Tensor
    measure: Callable[[np.ndarray], Tensor]
    subjects: tuple[str, ...]
    of_subjects: tuple[int, ...]
    extractor: str

    @classmethod
    def of(cls, artifact: Artifact, projections: Projections, extractor: Extractor, position: float) -> RealImages:
        """Take them from projections; the slice nearest to ``position`` stands for its subject."""
        images = artifact.contrasts_of(projections.image).numpy()
        features = extractor.in_batches(torch.from_numpy(images))
        scale = feature_scale(features)
        nearest: dict[str, int] = {}
        for index, row in enumerate(projections.rows):
            known = nearest.setdefault(row["subject"], index)
            if abs(row["position"] - position) < abs(projections.rows[known]["position"] - position):
                nearest[row["subject"]] = index
        return cls(
            images,
            features / scale,
            lambda some: extractor.in_batches(torch.from_numpy(some)) / scale,
            tuple(projections.subjects),
            tuple(nearest.values()),
            extractor.name,
        )

    def criteria(self, tissue: Tissue, discriminator: Scores | None) -> list[Criterion]:
        """Return the criteria that end the search for a range, with limits from the real images."""
        names = np.array(self.subjects)
        own = torch.from_numpy(names[:, None] == names[None])
        distances = nearest_distances(self.features, self.features, not_of=own)
        rows = list(self.of_subjects)

        def fraction(images: np.ndarray) -> np.ndarray:
            return np.array([parenchymal_fraction(tissue(signal(slice_of(image)))) for image in images])

        low, high = (float(limit) for limit in np.quantile(fraction(self.images[rows]), [0.025, 0.975]))
        found = [
            Criterion(
                "feature distance to the nearest real image of another subject",
                None,
                float(distances.quantile(0.95)),
                lambda images: nearest_distances(self.measure(images), self.features, not_of=own[rows]).numpy(),
            ),
            Criterion(BPF, low, high, fraction),
        ]
        if discriminator:
            limit = float(np.quantile(discriminator(self.images), 0.05))
            found.append(Criterion("discriminator score", limit, None, discriminator))
        return found


def discriminator_of(artifact: Artifact, real: RealImages, device: str) -> Scores | None:
    """Return the discriminator of the model's checkpoint, or of the newest; ``None`` where no checkpoint is there."""
    task = latent_task(artifact.method)
    folder = artifact.folder / "checkpoints"
    kept = sorted(path for path in folder.glob("[0-9]*") if (path / "state.safetensors").is_file())
    if not task.discriminator or not kept:
        return None
    own = folder / f"{artifact.manifest.get('images_seen', -1):09d}"
    score = resolve(task.discriminator)(artifact.config, own if own in kept else kept[-1], device)
    companions = torch.from_numpy(real.images)

    def scores(images: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(images).split(_SCORED_AT_ONCE)
        return torch.cat([score(batch, companions) for batch in batches]).double().numpy()

    return scores
