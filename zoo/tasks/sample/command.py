"""``zoo sample``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import given_options, json_option, runtime_options, seed_option, set_option
from zoo.cli.output import progress_bar, show_json

if TYPE_CHECKING:
    from zoo.models.runtime import Runtime


@click.command(name="sample")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "count", type=click.IntRange(min=1), default=16, show_default=True, help="Samples.")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the first sample.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the images and their sheet.")
@click.option("--truncation", type=float, help="Below 1: more typical and less varied; default: the method's.")
@click.option("--class", "label", metavar="NAME", help="Class of all samples; default: each draws its own.")
@seed_option
@click.option("--batch", type=click.IntRange(min=1), help="Samples per network call; default: the method's.")
@set_option
@runtime_options
@json_option
@click.pass_obj
def command(
    words: list[str],
    run: Path,
    count: int,
    first: int,
    out: Path,
    truncation: float | None,
    label: str | None,
    seed: int,
    batch: int | None,
    assignments: tuple[str, ...],
    runtime: Runtime,
    as_json: bool,
) -> None:
    """Generate images as NIfTI, each marked as synthetic, and a sheet of them. Sample k is always the same.

    \b
    zoo sample RUN -n 64 --out samples
    zoo sample RUN -n 64 --seed 3 --truncation 0.7 --out samples
    zoo sample RUN -n 64 --class malignant --out malignant
    zoo sample RUN -n 1 --first 17 --out samples --backend torch
    """
    import zoo
    from zoo.tasks.sample.files import sample_files

    with progress_bar("Sampling") as progress:
        report = sample_files(
            zoo.load(run),
            out,
            count=count,
            first=first,
            options=given_options(assignments, seed=seed, truncation=truncation, label=label, batch_size=batch),
            runtime=runtime,
            command=["zoo", *words],
            progress=progress,
        )
    if as_json:
        show_json({"images": [str(path) for path in report.images], "sheet": str(report.sheet)})
    else:
        click.echo(f"Wrote {len(report.images)} images to {out}; look at {report.sheet}")
