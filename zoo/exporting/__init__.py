"""Exporting models for other runtimes; ``ExportJob`` and ``ExportReport`` are what an exporter meets."""

from __future__ import annotations

from zoo.exporting.job import ExportJob, ExportOptions, ExportReport

__all__ = ["ExportJob", "ExportOptions", "ExportReport"]
