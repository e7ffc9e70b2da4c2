"""``zoo export``"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import json_option, numbers
from zoo.cli.output import note, progress_bar, show_json, table
from zoo.config import validate
from zoo.descriptors import PRECISIONS, resolve
from zoo.registry import registry

if TYPE_CHECKING:
    from zoo.exporting.job import ExportReport


def memory(context: click.Context, option: click.Parameter, text: str) -> int:
    """Read ``4G`` or ``512M`` as bytes."""
    match = re.fullmatch(r"(\d+)([MG])", text.strip().upper())
    if not match:
        raise click.BadParameter(f"{text!r} is not an amount of memory; write it like 4G or 512M.")
    return int(match[1]) << {"M": 20, "G": 30}[match[2]]


@click.command(name="export")
@click.argument("what", metavar="NAME|RUN")
@click.option("--preset", help="Settings of an untrained model, for measuring speed; zoo info NAME lists them.")
@click.option("--onnx", is_flag=True, help="An ONNX file, run by ONNX Runtime; the default.")
@click.option("--openvino", is_flag=True, help="OpenVINO, for CPUs.")
@click.option("--trt", is_flag=True, help="A TensorRT engine; of TensorRT-RTX where only that is installed.")
@click.option("--trt-rtx", is_flag=True, help="A TensorRT-RTX engine.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True,
              help="Of weights and activations; norms, inputs and outputs stay fp32.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), nargs=3, default=(1, 2, 4), show_default=True,
              metavar="MIN OPT MAX", help="Batches that are verified, and that an engine is built for.")  # fmt: skip
@click.option("--size", callback=numbers, metavar="N|H,W[,D]", help="Side of the images, pixels.")
@click.option("--opset", type=click.IntRange(min=18), help="ONNX operator set; default: 21, for bf16 22.")
@click.option("--part", "parts", multiple=True, metavar="NAME", help="Only this part; may be repeated.")
@click.option("--workspace", callback=memory, default="4G", show_default=True, help="Memory of an engine's builder.")
@click.option("--opt-level", type=click.IntRange(0, 5), help="Effort of an engine's builder.")
@click.option("--target-cc", callback=numbers, metavar="86,89,120",
              help="Compute capabilities of a TensorRT-RTX engine.")  # fmt: skip
@click.option("--timing-cache", type=click.Path(dir_okay=False), help="File of native TensorRT's timings.")
@click.option("--check-only", is_flag=True, help="Check that engines would build; build none.")
@click.option("--force", is_flag=True, help="Export again what is there already.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the model and its exports; default: its run.")
@json_option
def command(
    what: str,
    preset: str | None,
    onnx: bool,
    openvino: bool,
    trt: bool,
    trt_rtx: bool,
    precision: str,
    batch: tuple[int, int, int],
    size: tuple[int, ...],
    opset: int | None,
    parts: tuple[str, ...],
    workspace: int,
    opt_level: int | None,
    target_cc: tuple[int, ...],
    timing_cache: str | None,
    check_only: bool,
    force: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Export a model for other runtimes, verified against torch: the graph, its numbers, and whole results.

    A NAME is its newest finished run. With --preset, or where there is no run, it is a model with random weights, good
    for measuring speed and nothing else.

    \b
    zoo export runs/lesion-filling/… --onnx --openvino
    zoo export lesion-filling --trt --precision fp16 --batch 1 4 16
    zoo export lesion-filling --preset paper-2d-mixture --onnx --size 128
    """
    from zoo.exporting.export import ONNX_WRITER, export
    from zoo.exporting.job import ExportOptions
    from zoo.models.find import copied, find_artifact, untrained

    options = validate(
        ExportOptions,
        {
            "precision": precision, "batch": batch, "size": size or None, "opset": opset, "workspace_bytes": workspace,
            "opt_level": opt_level, "target_cc": target_cc, "timing_cache": timing_cache, "check_only": check_only,
            "force": force,
        },
        what="zoo export",
    )  # fmt: skip
    asked = {"onnxruntime": onnx, "openvino": openvino, "tensorrt-rtx": trt_rtx}
    backends = [name for name, wanted in asked.items() if wanted]
    if trt:
        backends = list(dict.fromkeys([*backends, _tensorrt()]))
    artifact = find_artifact(what, preset)
    if untrained(artifact):
        note(f"{artifact.path}: the weights are random numbers; good for measuring speed, not for images.")
    if out is not None:
        artifact = copied(artifact, out)
    reports = export(artifact, backends or [ONNX_WRITER], options, parts, progress_bar)
    if as_json:
        about = {"model": str(artifact.path), "untrained": untrained(artifact)}
        show_json({**about, "exports": [report.to_json() for report in reports]})
        return
    columns = ["part", "backend", "precision", "file", "MB", "s", "rel_l2", "tasks", "note"]
    table("", columns, [_row(report) for report in reports])


def _tensorrt() -> str:
    """Return which TensorRT is used, and say so."""
    exporters = registry().exporters
    for name in ("tensorrt", "tensorrt-rtx"):
        if name in exporters and not resolve(exporters[name].available)():
            note(f"--trt: {name} is used.")
            return name
    return "tensorrt-rtx"  # whose absence is explained when it is used


def _row(report: ExportReport) -> list[str]:
    largest = max((file.stat().st_size for file in report.files), default=0)
    tasks: dict[str, Any] = report.checks.get("tasks", {})
    return [
        report.part,
        report.backend,
        report.precision,
        str(report.files[0]) if report.files else "",
        f"{largest / 1e6:.1f}",
        f"{sum(report.seconds.values()):.1f}",
        f"{report.checks['parity']['rel_l2']:.1e}" if "parity" in report.checks else "",
        ", ".join(_figure(verb, found) for verb, found in tasks.items() if verb != "parts"),
        f"{report.status}: {report.note}" if report.note else report.status,
    ]


def _figure(verb: str, found: Any) -> str:
    if not isinstance(found, dict):
        return f"{verb} {found}"
    if "psnr" in found:
        return f"{verb} {found['psnr']:.1f} dB"
    return f"{verb} not checked: {found['skipped']}"
