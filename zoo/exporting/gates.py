"""Does an exported model still do its task? Whole results beside those of torch in float32, the noise fixed.

A task's gate is found by its verb in `GATES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zoo.descriptors import Parts
from zoo.models.artifact import Artifact
from zoo.models.find import untrained
from zoo.tasks.fill.trial import fill_gate
from zoo.tasks.sample.trial import sample_gate


def check_tasks(
    artifact: Artifact, parts: Parts, precision: str, progress: Callable[[int, int], None]
) -> dict[str, dict[str, Any]]:
    """Run the gate of every task that the method offers.

    Args:
        artifact: The model.
        parts: Its parts on the backend in question.
        precision: Theirs.
        progress: Called with (steps done, steps in all).

    Returns:
        By verb: the figures and their limits, or ``skipped`` with the reason.

    Raises:
        TaskGateError: Results differ by more than the task allows.
    """
    if untrained(artifact):
        return {verb: {"skipped": "the weights are random"} for verb in _tasks(artifact)}
    return {
        verb: GATES[verb](artifact, parts, precision, progress)
        if verb in GATES
        else {"skipped": f"there is no gate for the task {verb!r}"}
        for verb in _tasks(artifact)
    }


def _tasks(artifact: Artifact) -> list[str]:
    return list(artifact.method.tasks)


GATES: Mapping[str, Callable[..., dict[str, Any]]] = {"fill": fill_gate, "sample": sample_gate}
