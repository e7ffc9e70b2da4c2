"""``zoo train``"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import TaskID

    from zoo.models.run import Run
    from zoo.training.loop import Status
    from zoo.training.plan import Cost

from zoo.cli.options import json_option
from zoo.cli.output import note, notes, progress_bar, show_json, table
from zoo.config import MethodConfig, merge, parse_assignment, read_config_file, resolve_config, validate
from zoo.descriptors import Method, resolve
from zoo.errors import ConfigError
from zoo.registry import registry


@click.command(name="train")
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path), help="BIDS folder or .tsv manifest; default: the phantom.")
@click.option("--preset", help="Named settings; zoo info NAME lists them.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file of settings.")
@click.option(
    "--protocol",
    "protocol_file",
    type=click.Path(path_type=Path),
    help="TOML file of who is trained on; --data is then the folder of its cohorts.",
)
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="One setting; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default: runs/NAME/DATE.")
@click.option("--images", type=click.IntRange(min=1), help="Images to see; short for --set training.images=N.")
@click.option("--time", "time_limit", metavar="20m", help="Stop after this time (s, m, h); resumable.")
@click.option("--stage", metavar="NAME", help="Train this stage and the later ones; the earlier ones are of --from.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Run whose stages before --stage are used.")
@click.option("--folds", type=click.IntRange(min=2), help="Train this many models, each without a share of subjects.")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs or CPU processes.")
@click.option(
    "--precision",
    type=click.Choice(["32-true", "bf16-mixed", "16-mixed"]),
    default="32-true",
    show_default=True,
    help="Arithmetic of training.",
)
@click.option("--dry-run", is_flag=True, help="Show settings, size, memory and data, and stop.")
@json_option
def command(
    name: str,
    data: Path | None,
    preset: str | None,
    config_file: Path | None,
    protocol_file: Path | None,
    assignments: tuple[str, ...],
    out: Path | None,
    images: int | None,
    time_limit: str | None,
    stage: str | None,
    source: Path | None,
    folds: int | None,
    devices: int,
    precision: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train a method. Running the same command again resumes it exactly.

    \b
    zoo train lesion-filling
    zoo train lesion-filling --data my-bids-folder --preset small --time 20m
    zoo train lesion-filling --data my-bids-folder --set masks=circles --set training.images=200000 --dry-run
    zoo train lesion-filling --protocol docs/protocol.toml --data my-data
    zoo train lesion-filling --data my-bids-folder --folds 5
    """
    method = registry().methods[name]
    given = [*assignments, *([f"training.images={images}"] if images else [])]
    if (stage is None) != (source is None):
        raise ConfigError("--stage and --from belong together: --stage NAME --from RUN.")
    if folds and stage:
        raise ConfigError("--folds trains all stages; leave --stage and --from out.")
    layer = None
    if protocol_file:
        from zoo.evaluation.study_protocol import Protocol

        if data is None:
            raise ConfigError("--protocol needs --data, the folder that holds the protocol's cohorts.")
        protocol = Protocol.read(protocol_file, data)
        layer, data = protocol.training_settings(), protocol.cohort_path("training")
    start = None
    if stage is not None and source is not None:
        from zoo.models.run import Run

        start = (stage, Run.open(source))
        if preset or layer:
            raise ConfigError(f"{source} has settings of its own; leave --preset and --protocol out.")
        config = _settings_of_run(method, start[1], config_file, given)
    else:
        config = resolve_config(method, preset=preset, file=config_file, protocol=layer, assignments=given)
    seconds = _seconds(time_limit) if time_limit else None
    if dry_run:
        _dry_run(method, config, data, folds or 0, as_json)
        return

    from zoo.training.launch import launch, train_method

    fabric = launch(devices, precision)
    if not fabric.is_global_zero:
        notes().quiet = True
    with TrainingBar() as bar:
        run, outcome = train_method(
            method,
            config,
            fabric,
            data=data,
            out=out,
            runs=Path("runs"),
            seconds=seconds,
            bar=bar.preparing,
            report=bar.report,
            say=note,
            folds=folds or 0,
            start=start,
        )
    if not fabric.is_global_zero:
        return
    if as_json:
        about = {"run": str(run.folder), "status": outcome.status, "images_seen": outcome.images_seen}
        if run.stages():
            about["stages"] = [asdict(one) for one in run.stages()]
        show_json(about)
    elif outcome.status == "finished":
        left = f"{run.folder}/folds" if folds else f"{run.folder}/report.html"
        click.echo(f"Finished after {outcome.images_seen} images: {left}")
    else:
        seen = (
            f"{outcome.images_seen} images"
            if outcome.stage
            else f"{outcome.images_seen} of {config.training.images} images"
        )
        where = f"{outcome.stage}, {outcome.reason}" if outcome.stage else outcome.reason
        click.echo(f"Stopped after {seen} ({where}); all is saved in {run.folder}. Run the same command to resume.")
    codes = {"SIGTERM": 143, "SIGINT": 130}
    sys.exit(codes.get(outcome.reason, 0))


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text.strip())
    if not match:
        raise ConfigError(f"--time {text!r} is not a time; write 90s, 20m or 1.5h.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _settings_of_run(method: Method, run: Run, file: Path | None, assignments: Sequence[str]) -> MethodConfig:
    """Return a run's settings with those of a file and of ``--set`` over them."""
    layers = [run.record["config"], read_config_file(file) if file else {}, *map(parse_assignment, assignments)]
    return validate(resolve(method.config), merge(*layers), what=f"method {method.name!r}")


def _dry_run(method: Method, config: MethodConfig, data: Path | None, folds: int, as_json: bool) -> None:
    from zoo.training.folds import shares
    from zoo.training.plan import estimate_cost, plan_training

    plan = plan_training(method, config, data, progress_bar)
    stages = _stage_costs(method, config)
    cost = estimate_cost(method, config)
    settings = config.model_dump(mode="json")
    memory = max([stage["training_memory_gib"] for stage in stages] or [_gib(cost)])
    left_out = shares(plan.split.train, folds, config.seed)
    if as_json:
        about = {
            "config": settings,
            "parameters": cost.parameters,
            "training_memory_gib": round(memory, 3),
            "data": {"from": str(plan.cohort.root), "split": plan.split.to_json(), "notes": plan.cohort.notes},
        }
        show_json({**about, **({"stages": stages} if stages else {}), **({"folds": left_out} if folds else {})})
        return
    table("Settings", ["setting", "value"], [[key, str(value)] for key, value in _flatten(settings).items()])
    click.echo(f"\nparameters      {cost.parameters:,}")
    if stages:
        rows = [[str(value) for value in stage.values()] for stage in stages]
        table("\nStages, in order", ["stage", "images", "batch", "parameters", "memory, GiB", "folds", "makes"], rows)
        click.echo()
    else:
        batch = config.training.batch_size
        click.echo(f"training memory about {memory:.2f} GiB in float32 at a batch of {batch}")
    click.echo(plan.data_note)
    for part, subjects in plan.split.to_json().items():
        click.echo(f"{part:<15} {len(subjects)} subjects: {', '.join(subjects)}")
    for number, share in enumerate(left_out):
        click.echo(f"{f'fold {number} without':<15} {len(share)} subjects: {', '.join(share)}")
    masks = sum("lesion-mask" in scan.maps for scan in plan.mask_bank.scans)
    click.echo(f"lesion masks    {masks}, from {plan.mask_bank.root}")
    for line in plan.cohort.notes:
        click.echo(f"note            {line}")


def _stage_costs(method: Method, config: MethodConfig) -> list[dict[str, Any]]:
    """Return a row per stage: its images, its size, and what it makes in its author's words."""
    from zoo.training.plan import estimate_cost, settings_of

    rows = []
    for stage in method.stages_of(config):
        own = settings_of(method, stage, config)
        cost = estimate_cost(method, own, stage)
        maker = resolve(stage.make).__doc__ or stage.make if stage.make else ""
        rows.append(
            {
                "name": stage.name,
                "images": own.training.images if stage.trainer else 0,
                "batch_size": own.training.batch_size,
                "parameters": cost.parameters,
                "training_memory_gib": round(_gib(cost), 3),
                "folds": stage.folds,
                "makes": maker.strip().partition("\n")[0],
            }
        )
    return rows


def _gib(cost: Cost) -> float:
    return (cost.weight_bytes + cost.activation_bytes) / 2**30


def _flatten(settings: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class TrainingBar:
    """A bar with images/s, loss and time left for each stage; on a pipe, a line every tenth of the way."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} images"),
            TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[losses]}"), TimeRemainingColumn(),
            console=notes(), refresh_per_second=4,
        )  # fmt: skip
        self.task: TaskID | None = None
        self.stage = ""
        self.tenth = -1

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    preparing = staticmethod(progress_bar)

    def report(self, status: Status) -> None:
        """Show where a training stands."""
        shown = {name: value for name, value in status.losses.items() if name.startswith("loss/")}
        words = "  ".join(f"{name.removeprefix('loss/')} {value:.4f}" for name, value in shown.items())
        if status.stage != self.stage:
            self._close()
            self.stage = status.stage
        if not notes().is_terminal:
            tenth = 10 * status.images_seen // status.images
            if tenth != self.tenth:
                self.tenth = tenth
                left = (status.images - status.images_seen) / max(status.rate, 1e-9)
                where = f"{status.stage}: " if status.stage else ""
                done = f"{status.images_seen}/{status.images} images"
                said = [
                    f"{where}{done}",
                    f"{status.rate:.1f} images/s",
                    *([words] if words else []),
                    f"{left:.0f} s left",
                ]
                note(", ".join(said))
            return
        if self.task is None:
            self.bar.start()
            title = f"Training {status.stage}".rstrip()
            self.task = self.bar.add_task(title, total=status.images, completed=status.images_seen, rate="", losses="")
        self.bar.update(self.task, completed=status.images_seen, rate=f"{status.rate:.1f} images/s", losses=words)
        if status.images_seen >= status.images:
            self._close()  # another bar may follow: rich shows one at a time

    def _close(self) -> None:
        if self.task is not None:
            self.bar.stop()
            self.bar.remove_task(self.task)
        self.task, self.tenth = None, -1
