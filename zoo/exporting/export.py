"""From a trained model to files that other runtimes run.

Importing this imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from zoo.descriptors import Exporter, resolve
from zoo.errors import ConfigError, MissingExtraError, TaskGateError, UnknownNameError, did_you_mean
from zoo.exporting.files import FOLDER, rejected
from zoo.exporting.job import ExportJob, ExportOptions, ExportReport
from zoo.models.artifact import Artifact, check_precision
from zoo.models.find import resized
from zoo.models.runtime import Runtime
from zoo.progress import Bar
from zoo.registry import registry
from zoo.system.files import locked, write_text

ONNX_WRITER = "onnxruntime"
"""The exporter that writes the ONNX file other backends start from."""


def export(
    artifact: Artifact, backends: Sequence[str], options: ExportOptions, parts: Sequence[str], bar: Bar
) -> list[ExportReport]:
    """Export parts for backends; the ONNX file that a backend starts from is made first.

    Args:
        artifact: The model.
        backends: Names of exporters.
        options: Settings for all of them.
        parts: Names of parts; none for all.
        bar: Makes progress bars.

    Returns:
        One report per part and backend, in the order they were made.

    Raises:
        UnknownNameError: No such backend or part.
        MissingExtraError: A backend is not installed; nothing is exported then.
        ConfigError: A backend does not know the precision or needs no export, or the size does not fit.
        ExportError, ParityError: A part does not compile, or its numbers are not those of torch.
    """
    exporters = [registry().exporters[name] for name in backends]
    for exporter in exporters:
        if exporter.export is None:
            raise ConfigError(f"Backend {exporter.name!r} runs the model file as it is; there is nothing to export.")
        check_precision(exporter, options.precision)
        missing = resolve(exporter.available)()
        if missing:
            raise MissingExtraError(missing)
    if options.size is not None:
        artifact = resized(artifact, options.size)
    specs = artifact.part_specs()
    if unknown := [name for name in parts if name not in specs]:
        raise UnknownNameError(
            f"This model has no part {unknown[0]!r}.{did_you_mean(unknown[0], specs)} Parts: {', '.join(specs)}."
        )
    folder = artifact.folder / FOLDER
    reports: list[ExportReport] = []
    with locked(folder, f"Another process is exporting into {folder}; wait for it."):
        for exporter, precision in _steps(exporters, options.precision):
            asked = options.model_copy(update={"precision": precision})
            onnx_precision = exporter.onnx if exporter.onnx == "fp32" else precision
            made = []
            for name in parts or specs:
                with bar(f"{name} for {exporter.name}, {precision}") as progress:
                    job = ExportJob(
                        artifact=artifact, name=name, part=specs[name], folder=folder,
                        onnx=folder / f"{name}.{onnx_precision}.onnx", options=asked, progress=progress,
                    )  # fmt: skip
                    made.append(resolve(exporter.export or "")(job))
            with bar(f"Tasks with {exporter.name}, {precision}") as progress:
                reports += _gated(artifact, exporter, precision, made, progress)
    return reports


def _gated(
    artifact: Artifact,
    exporter: Exporter,
    precision: str,
    reports: Sequence[ExportReport],
    progress: Callable[[int, int], None],
) -> list[ExportReport]:
    """Check the tasks with what was just exported, and write the figures into its reports.

    Parts that were not exported in this call run in torch, and so does a bf16 ONNX file, which no CPU runtime takes. A
    failing file is kept as ``NAME.rejected``.
    """
    from zoo.exporting.gates import check_tasks

    if all("tasks" in report.checks for report in reports):
        return list(reports)
    runs = {report.part for report in reports if report.status == "ok"}
    if exporter.onnx and not runs:
        return list(reports)  # the ONNX file that it starts from has been checked already
    backends = {True: exporter.name, False: "torch"}
    loaders = {here: resolve(registry().exporters[name].load) for here, name in backends.items()}
    candidates = {
        name: loaders[name in runs](artifact.folder, name, Runtime.choose(backends[name in runs]).device, precision)
        for name in artifact.part_specs()
    }
    about = {"parts": {name: backends[name in runs] for name in candidates}}
    try:
        tasks = {"tasks": {**about, **check_tasks(artifact, candidates, precision, progress)}}
    except TaskGateError:
        for file in (file for report in reports for file in report.files):
            file.replace(rejected(file)) if file.suffix != ".json" else file.unlink()
        raise
    for report in reports:
        path = report.files[-1]
        stored = json.loads(path.read_text(encoding="utf-8"))
        write_text(path, json.dumps({**stored, "checks": {**stored["checks"], **tasks}}, indent=2) + "\n")
    return [replace(report, checks={**report.checks, **tasks}) for report in reports]


def _steps(exporters: Sequence[Exporter], precision: str) -> list[tuple[Exporter, str]]:
    """Return each exporter with its precision, each after the writer of the ONNX file that it starts from."""
    steps: dict[tuple[str, str], tuple[Exporter, str]] = {}
    for exporter in exporters:
        if exporter.onnx:
            writer = registry().exporters[ONNX_WRITER]
            source = precision if exporter.onnx == "same" else exporter.onnx
            steps[writer.name, source] = writer, source
        steps[exporter.name, precision] = exporter, precision
    return list(steps.values())
