"""Registers the evaluator ``realism``."""

from __future__ import annotations

from zoo import Evaluator, hookimpl


@hookimpl
def zoo_evaluators() -> list[Evaluator]:
    """Return ``realism``."""
    return [
        Evaluator(
            name="realism",
            summary="Distance between generated and real images by features of a named extractor.",
            evaluate="zoo_realism.evaluation:realism",
            options="zoo_realism.config:RealismOptions",
        )
    ]
