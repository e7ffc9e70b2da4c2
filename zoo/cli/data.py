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
    """Make a synthetic cohort, check a cohort, show its images as a model sees them, or transfer lesion masks.

    \b
    zoo data phantom phantom --subjects 8
    zoo data check my-bids-folder
    zoo data examples RUN --data my-bids-folder --out real
    zoo data transfer-masks patients healthy masks
    """


@command.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dataset", "name", default="phantom", show_default=True, help="What to make; zoo list shows them.")
@click.option(
    "--subjects", type=click.IntRange(min=1), default=8, show_default=True, help="Of the phantom half with MS."
)
@seed_option
@click.option("--spacing", type=click.FloatRange(min=0, min_open=True), default=2, show_default=True,
              help="Voxel size, mm; of the dataset phantom 1, 2 or 4.")  # fmt: skip
def phantom(out: Path, name: str, subjects: int, seed: int, spacing: float) -> None:
    """Write a BIDS cohort of synthetic subjects whose truth is known, such as lesions, tissues and atrophy.

    \b
    zoo data phantom phantom
    zoo data phantom phantom --subjects 20 --seed 7
    zoo data phantom phantom --spacing 1
    zoo data phantom breasts --dataset dce-phantom --subjects 20
    """
    from zoo.descriptors import resolve
    from zoo.registry import registry

    dataset = registry().datasets[name]
    with progress_bar("Making subjects") as progress:
        resolve(dataset.open)(out, spacing, progress, subjects=subjects, seed=seed)
    methods = [method.name for method in registry().methods.items.values() if method.dataset == name]
    trained = [method for method in methods if registry().methods[method].trainable]
    what = f"train on them with: zoo train {trained[0]} --data" if trained else "look at them with: zoo data check"
    click.echo(f"{subjects} synthetic subjects in {out}; {what} {out}")


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Decode every voxel; else the headers are read.")
@click.option("--method", "method_name", metavar="NAME", help="Say what training this method would need.")
@click.option("--preset", help="Preset of --method.")
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="A setting of --method, data.targets=PET.")
@json_option
def check(
    folder: Path,
    deep: bool,
    method_name: str | None,
    preset: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what a BIDS folder or manifest holds, what each subject lacks, and what is wrong with its images.

    \b
    zoo data check my-bids-folder
    zoo data check scans.tsv
    zoo data check my-bids-folder --deep --json
    zoo data check my-bids-folder --method lesion-filling --set data.contrasts=T1w,FLAIR
    """
    from zoo.config import resolve_config
    from zoo.errors import ConfigError, DataError
    from zoo.imaging.check import check_scan
    from zoo.imaging.cohort import read_cohort
    from zoo.imaging.labels import doubts, find_labels
    from zoo.registry import registry

    if not method_name and (preset or assignments):
        raise ConfigError("--preset and --set are settings of a method; name it: --method lesion-filling.")
    method = registry().methods[method_name] if method_name else None
    data = resolve_config(method, preset=preset, assignments=assignments).data if method else None
    cohort = read_cohort(folder)
    counts = Counter(name for scan in cohort.scans for name in (*scan.images, *scan.maps))
    columns = sorted(counts)
    problems: dict[str, str] = {}
    out_of_range: dict[str, str] = {}
    grids: dict[str, str] = {}
    with progress_bar("Reading voxels" if deep else "Reading headers") as progress:
        for number, scan in enumerate(cohort.scans):
            found = check_scan(scan, deep=deep, data=data)
            grids[scan.id] = found.grid
            problems |= {f"{scan.id} {name}": why for name, why in found.problems.items()}
            out_of_range |= {f"{scan.id} {name}": why for name, why in found.out_of_range.items()}
            progress(number + 1, len(cohort.scans))
    method_notes = []
    if method and data:
        usable = cohort.fit_for(data, method.needs)
        method_notes.append(f"{method.name} can use {len(usable.scans)} of {len(cohort.scans)} scans")
        method_notes += [note for note in usable.notes if note not in cohort.notes]
        if len(usable.scans) < len(cohort.scans):
            method_notes.append(
                "to use the other scans, add these files and columns, or remove them from data.contrasts, "
                "data.targets, data.regions, data.labels and data.lesion_labels"
            )
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
                "out_of_range": out_of_range,
                "tissue_labels": {scan: asdict(found) for scan, found in labels.items()},
                "notes": [*cohort.notes, *label_notes, *method_notes],
            }
        )  # fmt: skip
    else:
        rows = [
            [scan.id, *("yes" if not scan.lacks([name]) else "-" for name in columns), grids.get(scan.id, "")]
            for scan in cohort.scans
        ]
        table(f"{len(cohort.scans)} scans of {len(cohort.subjects)} subjects", ["scan", *columns, "grid"], rows)
        found_wrong = [f"{where}: {why}" for where, why in (*out_of_range.items(), *problems.items())]
        for line in (*cohort.notes, *label_notes, *method_notes, *found_wrong):
            click.echo(f"note: {line}")
    if problems:
        raise DataError(f"{len(problems)} of the images in {folder} cannot be used; they are named above.")


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", "cohort", type=click.Path(path_type=Path), required=True, help="BIDS folder or manifest.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the images and their sheet.")
@click.option("-n", "count", type=click.IntRange(min=1), default=16, show_default=True, help="Images.")
@click.option("--class", "label", metavar="NAME", help="Class of all images; default: of each class alike.")
@seed_option
@json_option
def examples(run: Path, cohort: Path, out: Path, count: int, label: str | None, seed: int, as_json: bool) -> None:
    """Write real images that samples of a model are compared with, in the form of zoo sample.

    They are of subjects that training has not seen; names and JSON say nothing of a subject.

    \b
    zoo data examples RUN --data my-bids-folder --out real
    zoo data examples RUN --data my-bids-folder -n 40 --class malignant --seed 3 --out real-malignant
    """
    import zoo
    from zoo.evaluation.examples import example_files

    with progress_bar("Writing images") as progress:
        report = example_files(zoo.load(run), cohort, out, count=count, label=label, seed=seed, progress=progress)
    if as_json:
        show_json({"images": [str(path) for path in report.images], "sheet": str(report.sheet)})
    else:
        click.echo(f"Wrote {len(report.images)} images to {out}; look at {report.sheet}")


@command.command(name="transfer-masks")
@click.argument("patients", type=click.Path(path_type=Path))
@click.argument("healthy", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--nonlinear", is_flag=True, help="Register each pair with ANTs (extra: registration), 30 s per pair.")
@click.option("--wm-labels", default="find", show_default=True,
              help="White matter in dseg images: labels (2,41), a scheme (freesurfer, fast …), or find.")  # fmt: skip
@json_option
def transfer(patients: Path, healthy: Path, out: Path, nonlinear: bool, wm_labels: str, as_json: bool) -> None:
    """Transfer the lesion masks of PATIENTS to HEALTHY subjects, cut to white matter, as masks to train with.

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
    with progress_bar("Transferring masks") as progress:
        done = transfer_masks(*cohorts, out, nonlinear=nonlinear, white_matter_labels=labels, progress=progress)
    if as_json:
        show_json([asdict(row) for row in done])
        return
    volumes = sorted(row.volume_mm3 for row in done)
    click.echo(
        f"{len(done)} masks in {out}, {volumes[0]:.0f} to {volumes[-1]:.0f} mm³ each; train with them: "
        f"--set data.lesion_masks={out}"
    )
