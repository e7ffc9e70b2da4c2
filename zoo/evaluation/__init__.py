"""Measuring trained models: ``Evaluation`` is what an evaluator returns."""

from __future__ import annotations

from zoo.evaluation.scores import MODEL, Comparison, Evaluation

__all__ = ["MODEL", "Comparison", "Evaluation"]
