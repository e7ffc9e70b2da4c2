"""The five hooks a plugin may implement. Each returns descriptors; none imports anything heavy."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from zoo.descriptors import Dataset, Evaluator, Exporter, Method, Verb

GROUP = "zoo"
"""Entry point group, and the project name of the hook markers."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def zoo_methods() -> Iterable[Method]:
    """Return the generative methods this plugin brings."""
    return ()


@hookspec
def zoo_evaluators() -> Iterable[Evaluator]:
    """Return the measurements this plugin brings; any method may use them."""
    return ()


@hookspec
def zoo_exporters() -> Iterable[Exporter]:
    """Return the runtimes this plugin brings; any part may run on them."""
    return ()


@hookspec
def zoo_datasets() -> Iterable[Dataset]:
    """Return the cohorts this plugin can make."""
    return ()


@hookspec
def zoo_verbs() -> Iterable[Verb]:
    """Return the verbs this plugin brings; any method may offer them as tasks."""
    return ()
