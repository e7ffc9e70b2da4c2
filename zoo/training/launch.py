"""From a method and a folder of images to a finished run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from zoo.config import MethodConfig
from zoo.descriptors import Method
from zoo.errors import ConfigError
from zoo.models.run import Run, new_run_folder, newest_run
from zoo.progress import Bar
from zoo.training.child import Session, nothing_left_of_a_refused_start, open_child
from zoo.training.folds import leave_out, shares
from zoo.training.loop import Outcome, Report, Stop
from zoo.training.plan import Prepared, prepare
from zoo.training.source import check_source
from zoo.training.stages import MethodTraining


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
    folds: int = 0,
    start: tuple[str, Run] | None = None,
) -> tuple[Run, Outcome]:
    """Train ``method`` in a new run folder, or resume the one that was started with the same settings.

    Args:
        method, config: What to train.
        fabric: Launched.
        data: Cohort, or ``None`` for the dataset that the method names.
        out: Run folder; ``None`` for the newest unfinished one of the same settings below ``runs``, else a new one.
        runs: Folder of runs.
        seconds: Stop after this time; resumable.
        bar: Makes progress bars for the preparation.
        report: Takes the training's progress.
        say: Prints a line.
        folds: Train this many models below the run folder, each without a share of the training subjects.
        start: A stage, and another run whose stages before it are taken over instead of trained.
    """
    with fabric.rank_zero_first():
        prepared = prepare(method, config, data, bar)
    say(prepared.plan.data_note)
    record = _record(prepared)
    if folds:
        record["folds"] = folds
    if start is not None:
        stage, source = start
        check_source(source, stage, method, record, method.stages_of(config))
        record["from"] = {"run": str(source.folder.absolute()), "stage": stage}
    folder = fabric.broadcast(_run_folder(out, method, record, runs) if fabric.is_global_zero else Path())
    resumed = (folder / "run.json").is_file()
    with Run(folder, {}).lock() if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            run = _open_or_create(folder, record, say)
            for line in prepared.plan.cohort.notes:
                say(f"data: {line}")
        fabric.barrier()
        if not fabric.is_global_zero:
            run = Run.open(folder)
        if run.record["status"] == "finished":
            if not folds and not (run.folder / "README.md").is_file():
                _write_report(run, method, fabric)  # it was killed after the model, before the report
            return run, Outcome("finished", run.record["images_seen"])
        with Stop(seconds) as stop, nothing_left_of_a_refused_start(run, fabric, resumed=resumed):
            session = Session(fabric, stop, bar, report)
            if folds:
                return run, _train_folds(run, prepared, session, data)
            outcome = MethodTraining(run, prepared, session, data).train()
        _write_report(run, method, fabric)
    return run, outcome


def _record(prepared: Prepared) -> dict[str, Any]:
    """Return what a run's record says of its training and of its stages."""
    stages = prepared.plan.method.stages_of(prepared.plan.config)
    about = [{"name": stage.name, "folds": stage.folds, "makes": bool(stage.make)} for stage in stages]
    return {**prepared.record, **({"stages": about} if stages else {})}


def _train_folds(run: Run, prepared: Prepared, session: Session, data: Path | None) -> Outcome:
    """Train the method once per fold, each in ``folds/K`` of the run folder."""
    fabric, method, config = session.fabric, prepared.plan.method, prepared.plan.config
    held = shares(prepared.plan.split.train, run.record["folds"], config.seed)
    images_seen = 0
    for fold, share in enumerate(held):
        with fabric.rank_zero_first():
            own = prepare(method, leave_out(config, prepared.plan.split, share), data, session.bar)
        folder = run.folder / "folds" / str(fold)
        resumed = (folder / "run.json").is_file()
        child = open_child(folder, {**_record(own), "fold": fold}, fabric)
        if fabric.is_global_zero:
            child.remove_leftovers()
        if child.record["status"] != "finished":
            words = f"fold {fold + 1} of {len(held)}"
            with nothing_left_of_a_refused_start(child, fabric, resumed=resumed):
                outcome = MethodTraining(child, own, session, data, words=words).train()
            _write_report(child, method, fabric)
        else:
            outcome = Outcome("finished", child.record["images_seen"])
        images_seen += outcome.images_seen
        if outcome.status != "finished":
            if fabric.is_global_zero:
                run.save(status="stopped", images_seen=images_seen)
            return replace(outcome, images_seen=images_seen)
    if fabric.is_global_zero:
        run.save(status="finished", images_seen=images_seen)
    fabric.barrier()
    return Outcome("finished", images_seen)


def _write_report(run: Run, method: Method, fabric: Fabric) -> None:
    if fabric.is_global_zero:
        from zoo.training.report import write_training_report

        write_training_report(run, method)


def _run_folder(out: Path | None, method: Method, record: Mapping[str, Any], runs: Path) -> Path:
    if out is not None:
        return out
    newest = newest_run(method.name, runs)
    if newest and newest.record["status"] != "finished":
        keys = ("config", "data_fingerprint", "method_version", "folds", "from")
        if all(newest.record.get(key) == record.get(key) for key in keys):
            return newest.folder
    return new_run_folder(method.name, runs)


def _open_or_create(folder: Path, record: Mapping[str, Any], say: Callable[[str], None]) -> Run:
    if not (folder / "run.json").is_file():
        run = Run.create(folder, record)
        say(f"run: {folder}")
        return run
    run = Run.open(folder)
    run.check_same(record)
    run.remove_leftovers()
    say(f"run: {folder}, resuming after {run.record.get('images_seen', 0)} images")
    return run
