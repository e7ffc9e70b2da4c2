"""Training: ``Trainer`` and ``Examples`` are what a method brings; the host owns the loop."""

from __future__ import annotations

from zoo.training.protocol import Examples, Trainer

__all__ = ["Examples", "Trainer"]
