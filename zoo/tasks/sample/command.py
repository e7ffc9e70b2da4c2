"""``zoo sample``"""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.output import progress_bar, show_json
from zoo.config import merge, parse_assignment
from zoo.descriptors import PRECISIONS


@click.command(name="sample")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "count", type=click.IntRange(min=1), default=16, show_default=True, help="Samples.")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the first sample.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the images and their sheet.")
@click.option("--truncation", type=float, help="Below 1: more typical and less varied; default: the method's.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), help="Samples a network call; default: the method's.")
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="Another option of the method.")
@click.option("--backend", default="torch", show_default=True, help="Runtime; zoo list shows them.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True,
              help="Arithmetic of the networks.")  # fmt: skip
@click.option("--device", help="cpu, cuda, cuda:1 …; default: a GPU where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print the written files as JSON.")
@click.pass_obj
def command(
    words: list[str],
    run: Path,
    count: int,
    first: int,
    out: Path,
    truncation: float | None,
    seed: int,
    batch: int | None,
    assignments: tuple[str, ...],
    backend: str,
    precision: str,
    device: str | None,
    as_json: bool,
) -> None:
    """Generate images as NIfTI, each marked as synthetic, and a sheet of them. Sample k is always the same.

    \b
    zoo sample RUN -n 64 --out samples
    zoo sample RUN -n 64 --seed 3 --truncation 0.7 --out samples
    zoo sample RUN -n 1 --first 17 --out samples --backend torch
    """
    import zoo
    from zoo.models.artifact import default_device
    from zoo.tasks.sample.files import sample_files

    given = {"seed": seed, "truncation": truncation, "batch_size": batch}
    options = merge(
        {name: value for name, value in given.items() if value is not None},
        *(parse_assignment(text) for text in assignments),
    )
    with progress_bar("Sampling") as progress:
        report = sample_files(
            zoo.load(run),
            out,
            count=count,
            first=first,
            options=options,
            backend=backend,
            precision=precision,
            device=device or default_device(backend),
            command=["zoo", *words],
            progress=progress,
        )
    if as_json:
        show_json({"images": [str(path) for path in report.images], "sheet": str(report.sheet)})
    else:
        click.echo(f"Wrote {len(report.images)} images to {out}; look at {report.sheet}")
