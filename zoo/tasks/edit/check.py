"""What the contract kit tests of the verb ``edit``."""

from __future__ import annotations

from pathlib import Path

import torch

from zoo.descriptors import resolve
from zoo.models.artifact import Artifact
from zoo.tasks.edit.directions import walk
from zoo.tasks.edit.protocol import latent_task
from zoo.testing.helpers import distance


def check_edit(artifact: Artifact, cohort: Path, folder: Path) -> None:
    """Editing by 0 changes nothing, an image is the same alone and in a batch, and alpha changes it."""
    task, parts = latent_task(artifact.method), artifact.parts()
    run, options = resolve(task.run), resolve(task.options)()
    codes, noise = resolve(task.codes)(parts, artifact.config, [4, 5, 6])
    one, own = resolve(task.codes)(parts, artifact.config, [5])
    assert len(codes) == 3
    assert distance(codes[1:2], one) < 1e-5
    assert all(torch.equal(planes[1:2], mine) for planes, mine in zip(noise, own, strict=True))
    direction = torch.randn(codes.shape[1:], generator=torch.Generator().manual_seed(1))
    direction /= direction.norm()

    def edited(rows: slice, alpha: float) -> torch.Tensor:
        moved = walk(codes[rows], direction, alpha)
        return run(parts, artifact.config, moved, [planes[rows] for planes in noise], options).images

    together = edited(slice(0, 3), 5.0)
    assert together.shape[:2] == (3, len(artifact.config.data.contrasts))
    assert together.abs().max() <= 1
    assert (edited(slice(1, 2), 5.0) - together[1:2]).abs().max() < 1e-5
    assert torch.equal(edited(slice(0, 3), 0.0), run(parts, artifact.config, codes, noise, options).images)
    assert not torch.equal(together, edited(slice(0, 3), -5.0))
