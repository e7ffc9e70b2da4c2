"""``zoo project``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import device_option, given_options, json_option, seed_option, set_option
from zoo.cli.output import note, progress_bar, show_json, table

if TYPE_CHECKING:
    from zoo.imaging.cohort import Cohort


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...]:
    """Read ``0.3,0.5``."""
    try:
        return tuple(float(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of positions; write it like 0.3,0.5.") from None


@click.command(name="project")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path),
              help="BIDS folder or .tsv manifest; subjects that training has not seen are projected.")  # fmt: skip
@click.option("--image", "images", type=click.Path(path_type=Path), multiple=True,
              help="NIfTI instead; repeat for a model of several contrasts, in its order.")  # fmt: skip
@click.option("--lesions", type=click.Path(path_type=Path), help="Lesion mask of --image.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
@click.option("--subjects", metavar="S,S", help="Only these, seen by training or not.")
@click.option("--all", "all_subjects", is_flag=True, help="All subjects, including training subjects.")
@click.option("--positions", callback=_numbers, metavar="P,P",
              help="Slices nearest to these, 0 lowest, 1 highest; default: six of the learnt ones.")  # fmt: skip
@click.option("--every", type=click.IntRange(min=1), help="Every n-th learnt slice instead.")
@click.option("--loss", help="lpips, feature:NAME (a timm network) or ssim+l2; default: lpips.")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of the loss's network.")
@click.option("--iterations", type=click.IntRange(min=1),
              help="Steps; the schedule's ramps scale with them. Default: 3000.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), help="Images at once; default: the method's.")
@seed_option
@set_option
@device_option
@json_option
@click.pass_obj
def command(
    words: list[str],
    run: Path,
    data: Path | None,
    images: tuple[Path, ...],
    lesions: Path | None,
    out: Path,
    subjects: str | None,
    all_subjects: bool,
    positions: tuple[float, ...],
    every: int | None,
    loss: str | None,
    weights: Path | None,
    iterations: int | None,
    batch: int | None,
    seed: int,
    assignments: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """Find the codes and noise maps from which a generator reconstructs given images; the same command resumes.

    \b
    zoo project RUN --data my-bids-folder --out projected --weights vgg16.safetensors
    zoo project RUN --data my-bids-folder --out projected --loss ssim+l2 --iterations 1000
    zoo project RUN --image T1w.nii.gz --out projected --positions 0.5 --loss feature:resnet18
    """
    if (data is None) == (not images):
        raise click.UsageError("Give either --data or --image.")
    if images and (subjects or all_subjects):
        raise click.UsageError("--subjects and --all choose from --data; leave them out with --image.")
    if lesions and not images:
        raise click.UsageError("--lesions belongs to --image; --data brings its own masks.")
    if subjects and all_subjects:
        raise click.UsageError("--subjects and --all contradict each other; give one of them.")

    import zoo
    from zoo.imaging.cohort import read_cohort
    from zoo.models.runtime import Runtime
    from zoo.tasks.project.files import choose_scans, find_targets, project_files

    artifact = zoo.load(run)
    artifact.method.task("project")
    options = given_options(assignments, seed=seed, loss=loss, iterations=iterations, batch_size=batch)
    if data is None:
        cohort = _one_scan(artifact.config.data.contrasts, images, lesions)
    else:
        named = [word.strip() for word in subjects.split(",")] if subjects else []
        cohort = choose_scans(artifact, read_cohort(data), subjects=named, all_subjects=all_subjects)
    with progress_bar("Reading images") as progress:
        targets = find_targets(artifact, cohort, positions=positions, every=every, progress=progress)
    with progress_bar("Projecting") as progress:
        report = project_files(
            artifact,
            targets,
            out,
            options=options,
            weights=weights,
            device=Runtime.choose(device=device).device,
            command=["zoo", *words],
            progress=progress,
        )
    for line in cohort.notes:
        note(f"data: {line}")
    if as_json:
        show_json(report.to_json())
    else:
        table(
            f"{len(report.rows)} images, {report.distance}",
            ["metric", "mean over subjects", "95 % interval", "subjects"],
            [
                [
                    name,
                    f"{found.mean:.4g}",
                    f"{found.low:.4g} to {found.high:.4g}" if found.low is not None else "-",
                    str(found.n),
                ]
                for name, found in report.summary.items()
            ],
        )
        click.echo(f"Wrote {report.projections}; look at {report.sheet}")
    known = sorted({row["subject"] for row in report.rows if row["trained_on"]})
    if known:
        note(
            f"warning: training has seen {', '.join(known)}; their rows are marked trained_on and say nothing about "
            "new subjects."
        )


def _one_scan(contrasts: Sequence[str], images: Sequence[Path], lesions: Path | None) -> Cohort:
    """Return a cohort of the one scan that ``--image`` names."""
    from zoo.errors import DataError
    from zoo.imaging.cohort import Cohort, Scan

    if len(images) != len(contrasts):
        raise DataError(f"The model takes {', '.join(contrasts)}: give --image {len(contrasts)} times, in this order.")
    name = images[0].name.partition(".")[0]
    subject = next((word for word in name.split("_") if word.startswith("sub-")), name)
    maps = {"lesion-mask": lesions} if lesions else {}
    scan = Scan(name, subject, dict(zip(contrasts, images, strict=True)), maps)
    return Cohort(images[0].parent, (scan,))
