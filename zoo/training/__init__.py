"""Training: what a method brings (`Trainer`, `Examples`, `Maker`), and what its stages made (`Made`)."""

from __future__ import annotations

from zoo.training.protocol import Examples, Maker, Trainer

__all__ = ["Examples", "Maker", "Trainer"]
