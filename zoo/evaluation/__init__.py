"""Measuring trained models: ``Evaluation`` is what an evaluator returns, its scores kept by ``Measure``."""

from __future__ import annotations

from zoo.evaluation.scores import MODEL, Comparison, Evaluation, Measure

__all__ = ["MODEL", "Comparison", "Evaluation", "Measure"]
