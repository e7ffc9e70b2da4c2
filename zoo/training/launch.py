"""From a method and a folder of images to a finished run folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from zoo.config import MethodConfig
from zoo.descriptors import Method
from zoo.errors import ConfigError, ZooError
from zoo.models.run import Run, new_run_folder, newest_run
from zoo.progress import Bar
from zoo.training.loop import Outcome, Report, train
from zoo.training.plan import pack, plan_training, seen_by


def launch(devices: int, precision: str) -> Fabric:
    """Return Fabric with its processes started: GPUs where there are any, else the CPU.

    Under torchrun or SLURM the processes are there already; else ``devices`` are started with this command.

    Raises:
        ConfigError: The machine cannot do the precision or has fewer devices.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would tell the precision just asked for
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Networks may hold parts that a step does not use, so no gradient is waited for in vain.
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
    """Train ``method`` in a new run folder, or go on in the one that was begun with the same settings.

    Args:
        method, config: What to train.
        fabric: Launched.
        data: Cohort, or ``None`` for the phantom.
        out: Run folder; ``None`` for the newest unfinished one of the same settings below ``runs``, else a new one.
        runs: Folder of runs.
        seconds: Stop after this time, to be gone on with.
        bar: Makes progress bars for the preparation.
        report: Takes the training's progress.
        say: Prints a line.
    """
    with fabric.rank_zero_first():
        plan = plan_training(method, config, data, bar)
        packed = pack(plan, bar)
    say(plan.data_note)
    record = {
        "method": method.name,
        "method_version": method.version,
        "config": config.model_dump(mode="json"),
        "split": plan.split.to_json(),
        "data_fingerprint": packed.fingerprint,
        **seen_by(plan, packed),
    }
    folder = fabric.broadcast(_run_folder(out, method, record, runs) if fabric.is_global_zero else Path())
    begun = (folder / "run.json").is_file()
    with Run(folder, {}).lock() if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            run = _open_or_create(folder, record, say)
            for line in plan.cohort.notes:
                say(f"data: {line}")
        fabric.barrier()
        if not fabric.is_global_zero:
            run = Run.open(folder)
        if run.record["status"] == "finished":
            return run, Outcome("finished", run.record["images_seen"], "")
        about = {**seen_by(plan, packed), "data_fingerprint": packed.fingerprint}
        try:
            outcome = train(run, method, config, packed, fabric, seconds=seconds, about=about, report=report)
        except ZooError:
            if fabric.is_global_zero and not begun and not run.checkpoints():
                shutil.rmtree(folder)  # a start that was refused leaves nothing
            raise
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
    say(f"run: {folder}, going on after {run.record.get('images_seen', 0)} images")
    return run
