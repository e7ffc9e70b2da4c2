"""``zoo data``"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from zoo.cli.options import json_option, seed_option
from zoo.cli.output import progress_bar, show_json, table


@click.group(name="data")
def command() -> None:
    """Make the phantom cohort, check a cohort, or lay patients' lesion masks on healthy subjects.

    \b
    zoo data phantom phantom --subjects 8
    zoo data check my-bids-folder
    zoo data transfer-masks patients healthy masks
    """


@command.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--subjects", type=click.IntRange(min=1), default=8, show_default=True, help="Half with MS.")
@seed_option
@click.option("--spacing", type=click.Choice(["1", "2", "4"]), default="2", show_default=True, help="Voxel size, mm.")
def phantom(out: Path, subjects: int, seed: int, spacing: str) -> None:
    """Write a BIDS cohort of synthetic brains whose lesions, tissues and atrophy are known.

    \b
    zoo data phantom phantom
    zoo data phantom phantom --subjects 20 --seed 7
    zoo data phantom phantom --spacing 1
    """
    from zoo.imaging.phantom import write_phantom

    with progress_bar("Making subjects") as progress:
        write_phantom(out, subjects, seed, float(spacing), progress)
    click.echo(f"{subjects} synthetic subjects in {out}; train on them with: zoo train lesion-filling --data {out}")


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Decode every voxel; else the headers are read.")
@json_option
def check(folder: Path, deep: bool, as_json: bool) -> None:
    """Say what a BIDS folder or manifest holds, what each subject lacks, and what is wrong with its images.

    \b
    zoo data check my-bids-folder
    zoo data check scans.tsv
    zoo data check my-bids-folder --deep --json
    """
    from zoo.errors import DataError
    from zoo.imaging.check import check_scan
    from zoo.imaging.cohort import read_cohort
    from zoo.imaging.labels import doubts, find_labels

    cohort = read_cohort(folder)
    counts = Counter(name for scan in cohort.scans for name in (*scan.images, *scan.maps))
    columns = sorted(counts)
    problems: dict[str, str] = {}
    grids: dict[str, str] = {}
    with progress_bar("Reading voxels" if deep else "Reading headers") as progress:
        for number, scan in enumerate(cohort.scans):
            grids[scan.id], wrong = check_scan(scan, deep=deep)
            problems |= {f"{scan.id} {name}": why for name, why in wrong.items()}
            progress(number + 1, len(cohort.scans))
    labels, label_notes = {}, []
    try:
        labels = find_labels(cohort)
        label_notes = [f"tissue labels: {text}" for text in dict.fromkeys(str(found) for found in labels.values())]
        label_notes += doubts(cohort, labels)
    except DataError as error:
        label_notes.append(str(error))
    if as_json:
        show_json(
            {
                "cohort": str(cohort.root),
                "subjects": len(cohort.subjects),
                "found": counts,
                "scans": [
                    {"id": scan.id, "has": [*scan.images, *scan.maps], "lacks": scan.lacks(columns),
                     "grid": grids.get(scan.id, ""), "covariates": scan.covariates}
                    for scan in cohort.scans
                ],
                "problems": problems,
                "tissue_labels": {scan: asdict(found) for scan, found in labels.items()},
                "notes": [*cohort.notes, *label_notes],
            }
        )  # fmt: skip
    else:
        rows = [
            [scan.id, *("yes" if not scan.lacks([name]) else "-" for name in columns), grids.get(scan.id, "")]
            for scan in cohort.scans
        ]
        table(f"{len(cohort.scans)} scans of {len(cohort.subjects)} subjects", ["scan", *columns, "grid"], rows)
        for line in (*cohort.notes, *label_notes, *(f"{where}: {why}" for where, why in problems.items())):
            click.echo(f"note: {line}")
    if problems:
        raise DataError(f"{len(problems)} of the images in {folder} cannot be used; they are named above.")


@command.command(name="transfer-masks")
@click.argument("patients", type=click.Path(path_type=Path))
@click.argument("healthy", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--nonlinear", is_flag=True, help="Register each pair with ANTs (extra: registration), 30 s a pair.")
@click.option("--wm-labels", default="find", show_default=True,
              help="White matter in dseg images: labels (2,41), a scheme (freesurfer, fast …), or find.")  # fmt: skip
@json_option
def transfer(patients: Path, healthy: Path, out: Path, nonlinear: bool, wm_labels: str, as_json: bool) -> None:
    """Lay the lesion masks of PATIENTS on HEALTHY subjects, cut to white matter, as masks to train with.

    \b
    zoo data transfer-masks patients healthy masks
    zoo data transfer-masks patients healthy masks --nonlinear
    zoo train lesion-filling --data healthy --set data.lesion_masks=masks
    """
    from zoo.config import scheme_or_labels
    from zoo.imaging.cohort import read_cohort
    from zoo.imaging.transfer import transfer_masks

    try:
        labels = scheme_or_labels(wm_labels)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    cohorts = read_cohort(patients), read_cohort(healthy)
    with progress_bar("Laying masks") as progress:
        done = transfer_masks(*cohorts, out, nonlinear=nonlinear, white_matter_labels=labels, progress=progress)
    if as_json:
        show_json([asdict(row) for row in done])
        return
    volumes = sorted(row.volume_mm3 for row in done)
    click.echo(
        f"{len(done)} masks in {out}, {volumes[0]:.0f} to {volumes[-1]:.0f} mm³ each; train with them: "
        f"--set data.lesion_masks={out}"
    )
