"""Does an exported model still do its tasks? Whole results are compared with those of torch in float32.

What is run is the trial of each verb that the method offers (`zoo.tasks.trial.Trial`), with the same noise for both.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.descriptors import Parts
from zoo.errors import DataError, TaskGateError
from zoo.models.artifact import Artifact
from zoo.models.find import untrained
from zoo.progress import Progress
from zoo.registry import registry
from zoo.tasks.trial import Trial, make_trial, slices_with

_SEED = 11
_SAMPLES = 4
"""Samples compared for a batched trial, one per call, as every exported batch size allows one."""
_SECONDS = 20.0
"""Longest run of a trial with a region; where it would take longer, slices are left out."""


def check_tasks(artifact: Artifact, parts: Parts, precision: str, progress: Progress) -> dict[str, dict[str, Any]]:
    """Check every task that the method offers.

    Args:
        artifact: The model.
        parts: Its parts on the backend in question.
        precision: Of these parts.
        progress: Called with (steps done, steps in all).

    Returns:
        By verb: the figures and their limits, or ``skipped`` with the reason.

    Raises:
        TaskGateError: Results differ by more than the verb's trial allows.
    """
    return {verb: _check_task(artifact, verb, parts, precision, progress) for verb in artifact.method.tasks}


def _check_task(artifact: Artifact, verb: str, parts: Parts, precision: str, progress: Progress) -> dict[str, Any]:
    if untrained(artifact):
        return {"skipped": "the weights are random"}
    if registry().verbs[verb].trial is None:
        return {"skipped": f"the verb {verb!r} has no trial"}
    assert artifact.path is not None
    try:
        case = _case(artifact.path, artifact.sha256 or "", verb)
    except DataError as error:
        return {"skipped": str(error)}
    found = _run(case.trial, parts, case.inputs, progress)
    psnr, ssim = case.trial.fidelity(found.clamp(-1, 1), case.expected.clamp(-1, 1), case.inputs)
    least_psnr, least_ssim = case.trial.limits[precision]
    if not (psnr >= least_psnr and ssim >= least_ssim):
        raise TaskGateError(
            f"The task {verb!r} with {precision} parts gives other images than torch in float32 ({case.on}): PSNR "
            f"{psnr:.1f} dB and SSIM {ssim:.4f}; {least_psnr:g} dB and {least_ssim:g} are the least."
        )
    return {"psnr": psnr, "ssim": ssim, "least": {"psnr": least_psnr, "ssim": least_ssim}, "on": case.on}


def _run(trial: Trial, parts: Parts, inputs: Mapping[str, Tensor], progress: Progress) -> Tensor:
    """Return the images of a trial; samples are made one per call."""
    if not trial.batched:
        return trial.run(parts, inputs, progress)
    images = []
    for number in range(_SAMPLES):
        one = {name: values[number : number + 1] for name, values in inputs.items()}
        images.append(trial.run(parts, one, None))
        progress(number + 1, _SAMPLES)
    return torch.cat(images)


@dataclass(frozen=True)
class _Case:
    """A trial with its inputs, torch's images, and what they are in words."""

    trial: Trial
    inputs: Mapping[str, Tensor]
    expected: Tensor
    on: str


@functools.lru_cache(maxsize=4)
def _case(file: Path, digest: str, verb: str) -> _Case:
    """Return what a verb's exports are compared with, computed once for all backends.

    Raises:
        DataError: There is no synthetic input for the model.
    """
    artifact = Artifact.open(file)
    trial = make_trial(artifact, verb, {}, what=f"the trial of {verb}", seed=_SEED)
    inputs = trial.inputs(_SAMPLES if trial.batched else 1)
    parts = artifact.parts()
    if trial.region:
        return _in_region(trial, parts, inputs)
    words = f"{_SAMPLES} {trial.on}" if trial.batched else trial.on
    return _Case(trial, inputs, _run(trial, parts, inputs, lambda done, total: None), words)


def _in_region(trial: Trial, parts: Parts, inputs: Mapping[str, Tensor]) -> _Case:
    """Return the case of a trial with a region; where all of it would take too long, the slices with most of it."""
    region = inputs[trial.region]
    largest_first = region.flatten(0, 1).sum(dim=0).argsort(descending=True, stable=True)
    kept = slices = len(slices_with(region))
    while True:
        some = region.clone()
        some[..., largest_first[kept:]] = False
        inputs = {**inputs, trial.region: some}
        try:
            expected = trial.run(parts, inputs, _stop_if_long(kept > 1))
        except _TooLong as long:
            kept = max(min(int(kept * long.share), kept - 1), 1)
        else:
            return _Case(trial, inputs, expected, f"{trial.on}, {kept} of {slices} slices")


class _TooLong(Exception):
    """A run that would take longer than `_SECONDS`; ``share`` is the share of it that would not."""

    def __init__(self, share: float) -> None:
        self.share = share


def _stop_if_long(may_stop: bool) -> Callable[[int, int], None]:
    started = time.perf_counter()

    def report(done: int, total: int) -> None:
        expected = (time.perf_counter() - started) / done * total
        if may_stop and expected > _SECONDS:
            raise _TooLong(_SECONDS / expected)

    return report
