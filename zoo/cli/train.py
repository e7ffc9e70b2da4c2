"""``zoo train``"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import TaskID

    from zoo.training.loop import Status

from zoo.cli.output import note, notes, progress_bar, show_json, table
from zoo.config import MethodConfig, resolve_config
from zoo.descriptors import Method
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
@click.option("--time", "time_limit", metavar="20m", help="Stop after this time (s, m, h); the same command goes on.")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs or CPU processes.")
@click.option(
    "--precision",
    type=click.Choice(["32-true", "bf16-mixed", "16-mixed"]),
    default="32-true",
    show_default=True,
    help="Arithmetic of training.",
)
@click.option("--dry-run", is_flag=True, help="Show settings, size, memory and data, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
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
    devices: int,
    precision: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train a method. Running the same command again goes on where it stopped, exactly.

    \b
    zoo train lesion-filling
    zoo train lesion-filling --data my-bids-folder --preset small --time 20m
    zoo train lesion-filling --data my-bids-folder --set masks=circles --set training.images=200000 --dry-run
    zoo train lesion-filling --protocol docs/protocol.toml --data my-data
    """
    method = registry().methods[name]
    given = [*assignments, *([f"training.images={images}"] if images else [])]
    layer = None
    if protocol_file:
        from zoo.evaluation.study_protocol import Protocol

        if data is None:
            raise ConfigError("--protocol needs --data, the folder that holds the protocol's cohorts.")
        protocol = Protocol.read(protocol_file, data)
        layer, data = protocol.training_settings(), protocol.cohort_path("training")
    config = resolve_config(method, preset=preset, file=config_file, protocol=layer, assignments=given)
    seconds = _seconds(time_limit) if time_limit else None
    if dry_run:
        _dry_run(method, config, data, as_json)
        return

    from zoo.training.launch import launch, train_method

    fabric = launch(devices, precision)
    if not fabric.is_global_zero:
        notes().quiet = True
    with TrainingBar(config.training.images) as bar:
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
        )
    if not fabric.is_global_zero:
        return
    if as_json:
        show_json({"run": str(run.folder), "status": outcome.status, "images_seen": outcome.images_seen})
    elif outcome.status == "finished":
        click.echo(f"Finished after {outcome.images_seen} images: {run.folder}/report.html")
    else:
        click.echo(
            f"Stopped after {outcome.images_seen} of {config.training.images} images ({outcome.reason}); all is saved "
            f"in {run.folder}. The same command goes on."
        )
    codes = {"SIGTERM": 143, "SIGINT": 130}
    sys.exit(codes.get(outcome.reason, 0))


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text.strip())
    if not match:
        raise ConfigError(f"--time {text!r} is not a time; write 90s, 20m or 1.5h.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _dry_run(method: Method, config: MethodConfig, data: Path | None, as_json: bool) -> None:
    from zoo.training.plan import estimate_cost, plan_training

    plan = plan_training(method, config, data, progress_bar)
    cost = estimate_cost(method, config)
    settings = config.model_dump(mode="json")
    memory = (cost.weight_bytes + cost.activation_bytes) / 2**30
    if as_json:
        show_json(
            {
                "config": settings,
                "parameters": cost.parameters,
                "training_memory_gib": round(memory, 3),
                "data": {"from": str(plan.cohort.root), "split": plan.split.to_json(), "notes": plan.cohort.notes},
            }
        )
        return
    table("Settings", ["setting", "value"], [[key, str(value)] for key, value in _flatten(settings).items()])
    click.echo(f"\nparameters      {cost.parameters:,}")
    click.echo(f"training memory about {memory:.2f} GiB in float32 at a batch of {config.training.batch_size}")
    click.echo(plan.data_note)
    for part, subjects in plan.split.to_json().items():
        click.echo(f"{part:<15} {len(subjects)} subjects: {', '.join(subjects)}")
    masks = sum("lesion-mask" in scan.maps for scan in plan.mask_bank.scans)
    click.echo(f"lesion masks    {masks}, from {plan.mask_bank.root}")
    for line in plan.cohort.notes:
        click.echo(f"note            {line}")


def _flatten(settings: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class TrainingBar:
    """A bar with images/s, loss and time left; on a pipe, a line every tenth of the way."""

    def __init__(self, images: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.images = images
        self.bar = Progress(
            TextColumn("Training"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} images"),
            TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[losses]}"), TimeRemainingColumn(),
            console=notes(), refresh_per_second=4,
        )  # fmt: skip
        self.task: TaskID | None = None
        self.tenth = -1

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    preparing = staticmethod(progress_bar)

    def report(self, status: Status) -> None:
        images_seen, rate = status.images_seen, status.rate
        shown = {name: value for name, value in status.losses.items() if name.startswith("loss/")}
        words = "  ".join(f"{name.removeprefix('loss/')} {value:.4f}" for name, value in shown.items())
        if not notes().is_terminal:
            tenth = 10 * images_seen // self.images
            if tenth != self.tenth:
                self.tenth = tenth
                left = (self.images - images_seen) / max(rate, 1e-9)
                note(f"{images_seen}/{self.images} images, {rate:.1f} images/s, {words}, {left:.0f} s left")
            return
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task("", total=self.images, completed=images_seen, rate="", losses="")
        self.bar.update(self.task, completed=images_seen, rate=f"{rate:.1f} images/s", losses=words)
