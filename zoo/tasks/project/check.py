"""What the contract kit tests of the verb ``project``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoo.descriptors import resolve
from zoo.models.artifact import Artifact
from zoo.testing.helpers import distance


def check_project(artifact: Artifact, cohort: Path, folder: Path) -> None:
    """Codes reconstruct the image; an image gives the same result alone, in a batch, and after an interruption."""
    from zoo.imaging.cohort import read_cohort
    from zoo.tasks.project.files import choose_scans, find_targets, project_files
    from zoo.tasks.projections import Projections

    options = {"loss": "ssim+l2", "iterations": 3, "seed": 5}
    scans = choose_scans(artifact, read_cohort(cohort), all_subjects=True)
    targets = find_targets(artifact, scans.subset(scans.subjects[:2]), positions=(0.5,))
    report = project_files(artifact, targets, folder / "together", options={**options, "batch_size": 2})
    together = Projections.read(report.projections)
    assert together.model_sha256 == artifact.sha256
    assert len(together) == len(targets.rows) >= 2
    assert torch.equal(together.image, torch.from_numpy(targets.images))
    if "edit" in artifact.method.tasks:
        task = artifact.method.task("edit")
        made = resolve(task.run)(
            artifact.parts(), artifact.config, together.codes, together.noise, resolve(task.options)()
        )
        assert distance(artifact.contrasts_of(together.reconstruction).clamp(-1, 1), made.images) < 1e-4
    for planes in together.noise:
        assert float(planes.flatten(1).mean(1).abs().max()) < 1e-4
        assert torch.allclose(planes.flatten(1).square().mean(1), torch.ones(len(planes)), atol=1e-3)

    one = find_targets(artifact, scans.subset(scans.subjects[1:2]), positions=(0.5,))
    report = project_files(artifact, one, folder / "alone", options={**options, "batch_size": 1})
    alone = Projections.read(report.projections)
    assert distance(together.codes[-1:], alone.codes) < 1e-3

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    torn = folder / "torn"
    with pytest.raises(KeyboardInterrupt):
        project_files(artifact, targets, torn, options={**options, "batch_size": 1}, progress=stop)
    assert not list(torn.glob("*.safetensors"))
    whole = project_files(artifact, targets, torn, options={**options, "batch_size": 1})
    again = Projections.read(whole.projections)
    assert distance(again.codes[-1:], alone.codes) == 0
