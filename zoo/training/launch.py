"""From a method and a folder of images to a finished run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from zoo.config import MethodConfig
from zoo.descriptors import Method
from zoo.errors import ConfigError
from zoo.models.run import Run, new_run_folder, newest_run
from zoo.progress import Bar
from zoo.training.loop import Outcome, Report, Stop
from zoo.training.plan import prepare
from zoo.training.stages import MethodTraining, Session, nothing_left_of_a_refused_start


def launch(devices: int, precision: str) -> Fabric:
    """Return Fabric with its processes started: GPUs where there are any, else the CPU.

    Under torchrun or SLURM the processes are there already; else ``devices`` are started with this command.

    Raises:
        ConfigError: The machine cannot do the precision or has fewer devices.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # silence Fabric's repeat of --precision
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Networks may hold parts that a step does not use, so DDP must tolerate unused parameters.
        strategy = "ddp_find_unused_parameters_true" if devices > 1 else "auto"
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)  # type: ignore[arg-type]
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"--devices {devices} --precision {precision} cannot be used here: {error}") from None
    return fabric


def train_method(
    method: Method,
    config: MethodConfig,
    fabric: Fabric,
    *,
    data: Path | None,
    out: Path | None,
    runs: Path,
    seconds: float | None,
    bar: Bar,
    report: Report,
    say: Callable[[str], None],
) -> tuple[Run, Outcome]:
    """Train ``method`` in a new run folder, or resume the one that was started with the same settings.

    Args:
        method, config: What to train.
        fabric: Launched.
        data: Cohort, or ``None`` for the phantom.
        out: Run folder; ``None`` for the newest unfinished one of the same settings below ``runs``, else a new one.
        runs: Folder of runs.
        seconds: Stop after this time; resumable.
        bar: Makes progress bars for the preparation.
        report: Takes the training's progress.
        say: Prints a line.
    """
    with fabric.rank_zero_first():
        prepared = prepare(method, config, data, bar)
    say(prepared.plan.data_note)
    record = prepared.record
    folder = fabric.broadcast(_run_folder(out, method, record, runs) if fabric.is_global_zero else Path())
    begun = (folder / "run.json").is_file()
    with Run(folder, {}).lock() if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            run = _open_or_create(folder, record, say)
            for line in prepared.plan.cohort.notes:
                say(f"data: {line}")
        fabric.barrier()
        if not fabric.is_global_zero:
            run = Run.open(folder)
        if run.record["status"] == "finished":
            return run, Outcome("finished", run.record["images_seen"])
        with Stop(seconds) as stop, nothing_left_of_a_refused_start(run, fabric, begun=begun):
            outcome = MethodTraining(run, prepared, Session(fabric, stop, bar, report), data).train()
        if fabric.is_global_zero:
            from zoo.training.report import write_training_report

            write_training_report(run, method)
    return run, outcome


def _run_folder(out: Path | None, method: Method, record: Mapping[str, Any], runs: Path) -> Path:
    if out is not None:
        return out
    newest = newest_run(method.name, runs)
    if newest and newest.record["status"] != "finished":
        same = all(newest.record.get(key) == record[key] for key in ("config", "data_fingerprint", "method_version"))
        if same:
            return newest.folder
    return new_run_folder(method.name, runs)


def _open_or_create(folder: Path, record: Mapping[str, Any], say: Callable[[str], None]) -> Run:
    if not (folder / "run.json").is_file():
        run = Run.create(folder, record)
        say(f"run: {folder}")
        return run
    run = Run.open(folder)
    run.check_same(record)
    say(f"run: {folder}, resuming after {run.record.get('images_seen', 0)} images")
    return run
