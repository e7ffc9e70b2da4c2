"""``zoo fill``"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import given_options, json_option, numbers, runtime_options, seed_option, set_option
from zoo.cli.output import note, progress_bar, show_json, table

if TYPE_CHECKING:
    from zoo.imaging.cohort import Cohort
    from zoo.models.artifact import Artifact
    from zoo.models.runtime import Runtime
    from zoo.tasks.fill.cohort import FilledScan
    from zoo.tasks.fill.patient import FillSettings
    from zoo.tasks.fill.quality import FilledImage, Quality


def _list_lesions(path: Path, labels: tuple[int, ...], as_json: bool) -> None:
    from zoo.imaging.masks import number_lesions
    from zoo.imaging.volume import mask_of, read_volume

    volume = read_volume(path)
    mask, found = mask_of(volume, labels)
    if found:
        note(f"note: {found}")
    _, lesions = number_lesions(mask, volume.affine)
    if as_json:
        show_json([asdict(lesion) for lesion in lesions])
        return
    rows = [
        [
            str(lesion.number),
            f"{lesion.volume_mm3:.1f}",
            str(lesion.voxels),
            " ".join(f"{x:.1f}" for x in lesion.centre_mm),
        ]
        for lesion in lesions
    ]
    table(f"{len(lesions)} lesions", ["number", "mm³", "voxels", "centre (x y z, mm)"], rows)


def _listing(fill: Callable[..., None]) -> Callable[..., None]:
    """Let ``--list`` answer before a runtime is chosen: it opens no model, and torch is slow to import."""

    @functools.wraps(fill)
    def list_or_fill(list_lesions: bool, **options: Any) -> None:
        if list_lesions:
            _list_lesions(_given(options["lesions"], "--lesions"), options["lesion_labels"], options["as_json"])
        else:
            fill(**options)

    return list_or_fill


@click.command(name="fill")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--image", "images", type=click.Path(path_type=Path), multiple=True,
              help="NIfTI; repeat for a model of several contrasts, in its order.")  # fmt: skip
@click.option("--lesions", type=click.Path(path_type=Path), help="Lesion mask on the image's grid.")
@click.option("--data", type=click.Path(path_type=Path),
              help="BIDS folder or .tsv manifest: fill all of it, instead of one --image.")  # fmt: skip
@click.option("--out", "outputs", type=click.Path(path_type=Path), multiple=True,
              help="Filled image, one per --image; with --data the folder of results.")  # fmt: skip
@click.option("--wm", "white_matter", type=click.Path(path_type=Path), help="White-matter mask for --dilate.")
@click.option("--dilate", type=click.IntRange(0, 10), default=1, show_default=True,
              help="Voxels by which the mask grows into white matter (--wm, or the cohort's own).")  # fmt: skip
@click.option("--list", "list_lesions", is_flag=True, help="Only list the lesions of the mask, with their numbers.")
@click.option("--select", callback=numbers, metavar="N,N", help="Fill only these lesions (numbers as in --list).")
@click.option("--keep", callback=numbers, metavar="N,N", help="Fill all lesions but these.")
@click.option("--lesion-labels", callback=numbers, metavar="N,N",
              help="Values that are lesions, of a mask that holds several labels.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Draws to average; several also write their standard deviation (give --steps 10, too).")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Network evaluations; default: the model's.")
@click.option("--solver", help="Sampler; default: the model's.")
@seed_option
@set_option
@_listing
@runtime_options
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes that share the scans of --data; they take the GPUs in turn.")  # fmt: skip
@click.option("--quality", type=click.Path(path_type=Path, dir_okay=False),
              help="HTML page that shows where the fill can be seen; with --data there always is one.")  # fmt: skip
@click.option("--same-space", is_flag=True,
              help="The files belong together, even if their names or headers contradict it.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace files that this program did not make; an input never is.")
@json_option
@click.pass_obj
def command(
    words: list[str],
    run: Path | None,
    images: tuple[Path, ...],
    lesions: Path | None,
    data: Path | None,
    outputs: tuple[Path, ...],
    white_matter: Path | None,
    dilate: int,
    select: tuple[int, ...],
    keep: tuple[int, ...],
    lesion_labels: tuple[int, ...],
    samples: int,
    steps: int | None,
    solver: str | None,
    seed: int,
    assignments: tuple[str, ...],
    runtime: Runtime,
    workers: int,
    quality: Path | None,
    same_space: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Replace lesions by healthy tissue, on the image's own grid.

    No voxel outside your mask changes, except the rim that dilation adds. The rim is counted separately and drawn in
    another colour; --dilate 0 switches it off.

    \b
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz --select 1,3 --samples 8 --steps 10
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz --backend openvino --precision bf16
    zoo fill --list --lesions mask.nii.gz
    zoo fill RUN --data my-bids-folder --out my-bids-folder/derivatives/filled --workers 2
    """
    model = _given(run, "RUN")
    if not outputs:
        raise click.UsageError("--out is missing.")

    import zoo
    from zoo.tasks.fill.patient import FillSettings

    artifact = zoo.load(model)
    settings = FillSettings(
        options=given_options(assignments, seed=seed, steps=steps, solver=solver), dilate=dilate, select=select,
        keep=keep, samples=samples, runtime=runtime,
    )  # fmt: skip
    if data is not None:
        if images or lesions or white_matter or select or keep or quality or len(outputs) != 1:
            raise click.UsageError(
                "--data brings its own images, masks and quality page: beside it give one --out and no other file."
            )
        _fill_cohort(
            artifact, data, outputs[0], settings, as_json, lesion_labels=lesion_labels, same_space=same_space,
            overwrite=overwrite, workers=workers, command=["zoo", *words],
        )  # fmt: skip
        return
    if not images:
        raise click.UsageError("--image is missing; for a whole cohort give --data.")
    from zoo.tasks.fill.patient import PatientFiles, fill_files
    from zoo.tasks.fill.results import check_page
    from zoo.tasks.results import ResultFiles

    mask = _given(lesions, "--lesions")
    patient = PatientFiles(images, mask, lesion_labels, white_matter, same_space=same_space)
    if quality is not None:
        inputs = [*images, mask, *([white_matter] if white_matter else [])]
        results = [file for output in outputs for file in ResultFiles(output).every()]
        check_page(quality, [*inputs, *results], overwrite=overwrite)
    with progress_bar("Filling") as progress:
        report = fill_files(
            artifact, patient, outputs, settings, overwrite=overwrite, command=["zoo", *words], progress=progress
        )
    if quality is not None:
        from zoo.tasks.fill.quality import FilledImage, write_quality_page

        pages = [
            FilledImage(contrast, before, after, mask, lesion_labels, report.counts)
            for contrast, before, after in zip(artifact.config.data.contrasts, images, report.outputs, strict=True)
        ]
        write_quality_page(quality, f"{images[0].name}, filled by {artifact.method.name}", pages)
    for warning in report.warnings:
        note(f"warning: {warning}")
    if as_json:
        show_json({"outputs": [str(path) for path in report.outputs], **report.sidecar})
        return
    for path in report.outputs:
        click.echo(f"{'Replaced' if path in report.replaced else 'Wrote'} {path}")
    click.echo(str(report.counts))


def _given(path: Path | None, name: str) -> Path:
    if path is None:
        raise click.UsageError(f"{name} is missing.")
    return path


def _fill_cohort(
    artifact: Artifact, data: Path, folder: Path, settings: FillSettings, as_json: bool, **how: Any
) -> None:
    """Fill a cohort, write its quality page and say what became of each scan."""
    from zoo.imaging.cohort import read_cohort
    from zoo.tasks.fill.cohort import fill_cohort
    from zoo.tasks.fill.quality import write_quality_page
    from zoo.tasks.fill.results import check_page

    cohort = read_cohort(data)
    check_page(folder / "quality.html", [], overwrite=how["overwrite"])
    devices = _devices(settings.runtime)
    with progress_bar("Filling") as progress:
        scans = fill_cohort(artifact, cohort, folder, settings, devices=devices, progress=progress, **how)
    title = f"{data.name}, filled by {artifact.method.name}"
    with progress_bar("Judging") as progress:
        quality = write_quality_page(folder / "quality.html", title, _pages(artifact, scans), progress)
    if as_json:
        show_json({"scans": [scan.to_json() for scan in scans], "quality": [asdict(row) for row in quality]})
    else:
        _show_cohort(scans, quality, folder)
    _note_cohort(cohort, scans, quality)
    if any(scan.status == "failed" for scan in scans):
        sys.exit(1)


def _devices(runtime: Runtime) -> list[str]:
    """Return the devices that workers take in turn: the one that --device names, else every GPU, else the CPU."""
    import torch

    if click.get_current_context().params["device"] or runtime.device != "cuda":
        return [runtime.device]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cuda"]


def _pages(artifact: Artifact, scans: list[FilledScan]) -> list[FilledImage]:
    from zoo.tasks.fill.quality import FilledImage

    return [
        FilledImage(
            scan.scan if len(scan.patient.images) == 1 else f"{scan.scan} {contrast}",
            before,
            after,
            scan.patient.lesions,
            scan.patient.lesion_labels,
            scan.counts,
        )
        for scan in scans
        if scan.status != "failed"
        for contrast, before, after in zip(
            artifact.config.data.contrasts, scan.patient.images, scan.outputs, strict=True
        )
    ]


def _show_cohort(scans: list[FilledScan], quality: list[Quality], folder: Path) -> None:
    from zoo.tasks.fill.quality import COLUMNS
    from zoo.tasks.fill.results import FillCounts

    table("", list(COLUMNS), [row.cells() for row in quality])
    click.echo(str(sum((scan.counts for scan in scans if scan.counts), FillCounts(0, 0, 0, 0, 0, 0))))
    statuses = Counter(scan.status for scan in scans)
    click.echo(
        ", ".join(f"{count} {status}" for status, count in statuses.items()) + f".\nLook at {folder}/quality.html"
    )


def _note_cohort(cohort: Cohort, scans: list[FilledScan], quality: list[Quality]) -> None:
    for line in cohort.notes:
        note(f"data: {line}")
    for scan in scans:
        if scan.status == "filled" and scan.note:
            note(f"warning: {scan.scan}: {scan.note}")
    for row in quality:
        if row.note:
            note(f"not judged: {row.name}: {row.note}")
    for scan in scans:
        if scan.status == "failed":
            note(f"failed: {scan.scan}: {scan.note}")
