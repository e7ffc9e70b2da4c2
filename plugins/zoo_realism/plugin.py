"""Registers the evaluators ``realism``, ``memorisation`` and ``kinetics``."""

from __future__ import annotations

from zoo import Evaluator, hookimpl


@hookimpl
def zoo_evaluators() -> list[Evaluator]:
    """Return ``realism``, ``memorisation`` and ``kinetics``."""
    return [
        Evaluator(
            name="realism",
            summary="Distances, neighbours, variety and classes of generated images compared with real ones.",
            evaluate="zoo_realism.evaluation:realism",
            options="zoo_realism.config:RealismOptions",
        ),
        Evaluator(
            name="memorisation",
            summary="Whether generated images are copies of training images, with a gallery of the closest pairs.",
            evaluate="zoo_realism.memorisation:memorisation",
            options="zoo_realism.config:MemorisationOptions",
        ),
        Evaluator(
            name="kinetics",
            summary="Course of contrast agent in generated dynamic series compared with real ones.",
            evaluate="zoo_realism.kinetics:kinetics",
            options="zoo_realism.config:KineticsOptions",
        ),
    ]
