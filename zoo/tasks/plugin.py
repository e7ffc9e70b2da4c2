"""Registers the host's own verbs, as a plugin registers those of a third party."""

from __future__ import annotations

from zoo import Verb, hookimpl
from zoo.tasks.edit.task import LatentTask


@hookimpl
def zoo_verbs() -> list[Verb]:
    """Return ``fill``, ``sample``, ``project`` and ``edit``."""
    return [
        Verb(
            name="fill",
            summary="Fill the lesions of a patient.",
            command="zoo.tasks.fill.command:command",
            trial="zoo.tasks.fill.trial:fill_trial",
            check="zoo.tasks.fill.check:check_fill",
        ),
        Verb(
            name="sample",
            summary="Generate images.",
            command="zoo.tasks.sample.command:command",
            trial="zoo.tasks.sample.trial:sample_trial",
            check="zoo.tasks.sample.check:check_sample",
        ),
        Verb(
            name="project",
            summary="Find the codes from which a generator makes given images.",
            command="zoo.tasks.project.command:command",
            check="zoo.tasks.project.check:check_project",
        ),
        Verb(
            name="edit",
            summary="Find directions in latent space, walk projected images along them, and measure what moves.",
            command="zoo.tasks.edit.command:command",
            task=LatentTask,
            check="zoo.tasks.edit.check:check_edit",
        ),
    ]
