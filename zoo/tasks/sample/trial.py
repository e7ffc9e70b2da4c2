"""The verb ``sample`` with a few seeds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.descriptors import Parts, resolve
from zoo.models.artifact import Artifact
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.tasks.sample.protocol import SampleOptions
from zoo.tasks.trial import Trial


def sample_trial(artifact: Artifact, options: SampleOptions) -> Trial:
    """Return the generation of the first samples of a seed."""
    run = resolve(artifact.method.task("sample").run)

    def inputs(count: int) -> dict[str, Tensor]:
        return {"seeds": torch.tensor([seed_for(options.seed, number) for number in range(count)])}

    def sample(parts: Parts, inputs: Mapping[str, Tensor], progress: Progress | None) -> Tensor:
        return run(parts, artifact.config, inputs["seeds"].tolist(), options).images

    return Trial(inputs=inputs, run=sample, on="generated images", unit="samples", batched=True)
