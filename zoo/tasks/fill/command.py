"""``zoo fill``"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.output import note, progress_bar, show_json, table
from zoo.config import merge, parse_assignment
from zoo.descriptors import PRECISIONS

if TYPE_CHECKING:
    from zoo.models.artifact import Artifact


def numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Read ``3,7``."""
    try:
        return tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers; write it like 3,7.") from None


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


@click.command(name="fill")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--image", "images", type=click.Path(path_type=Path), multiple=True,
              help="NIfTI; repeat for a model of several contrasts, in its order.")  # fmt: skip
@click.option("--lesions", type=click.Path(path_type=Path), help="Lesion mask on the image's grid.")
@click.option("--data", type=click.Path(path_type=Path),
              help="BIDS folder or .tsv manifest: fill all of it, instead of one --image.")  # fmt: skip
@click.option("--out", "outputs", type=click.Path(path_type=Path), multiple=True,
              help="Filled image, as often as --image; with --data the folder of results.")  # fmt: skip
@click.option("--wm", "white_matter", type=click.Path(path_type=Path), help="White-matter mask for --dilate.")
@click.option("--dilate", type=click.IntRange(0, 10), default=1, show_default=True,
              help="Voxels the mask grows into white matter: of --wm, or as the cohort has it.")  # fmt: skip
@click.option("--list", "list_lesions", is_flag=True, help="Only list the lesions of the mask, with their numbers.")
@click.option("--select", callback=numbers, metavar="N,N", help="Fill only these lesions (numbers as in --list).")
@click.option("--keep", callback=numbers, metavar="N,N", help="Fill all lesions but these.")
@click.option("--lesion-labels", callback=numbers, metavar="N,N",
              help="Values that are lesions, of a mask that holds several labels.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Draws to average; more than one also writes their spread (give --steps 10, too).")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Network evaluations; default: the model's.")
@click.option("--solver", help="Sampler; default: the model's.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="Another option of the method.")
@click.option("--backend", default="torch", show_default=True, help="Runtime; zoo list shows them.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True,
              help="What the network computes in; zoo export makes the files for it.")  # fmt: skip
@click.option("--device", help="cpu, cuda, cuda:1 …; default: a GPU where there is one.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes that share the scans of --data; they take the GPUs in turn.")  # fmt: skip
@click.option("--quality", type=click.Path(path_type=Path, dir_okay=False),
              help="HTML page that shows where the fill can be seen; with --data there always is one.")  # fmt: skip
@click.option("--same-space", is_flag=True,
              help="The files belong together, although names or headers tell of other spaces or scans.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace files that this program did not make; an input never is.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
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
    list_lesions: bool,
    select: tuple[int, ...],
    keep: tuple[int, ...],
    lesion_labels: tuple[int, ...],
    samples: int,
    steps: int | None,
    solver: str | None,
    seed: int,
    assignments: tuple[str, ...],
    backend: str,
    precision: str,
    device: str | None,
    workers: int,
    quality: Path | None,
    same_space: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Replace lesions by healthy tissue, on the image's own grid.

    No voxel outside your mask changes, but for the rim that dilation adds. It is counted apart and drawn in another
    colour; --dilate 0 switches it off.

    \b
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz --select 1,3 --samples 8 --steps 10
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz --backend openvino --precision bf16
    zoo fill --list --lesions mask.nii.gz
    zoo fill RUN --data my-bids-folder --out my-bids-folder/derivatives/filled --workers 2
    """
    if list_lesions:
        _list_lesions(_given(lesions, "--lesions"), lesion_labels, as_json)
        return
    model = _given(run, "RUN")
    if not outputs:
        raise click.UsageError("--out is missing.")

    import torch

    import zoo
    from zoo.models.artifact import default_device

    artifact = zoo.load(model)
    options = merge(
        {"seed": seed, **({"steps": steps} if steps else {}), **({"solver": solver} if solver else {})},
        *(parse_assignment(text) for text in assignments),
    )
    preferred = default_device(backend)
    if data is not None:
        if images or lesions or white_matter or select or keep or quality or len(outputs) != 1:
            raise click.UsageError(
                "--data brings its own images, masks and quality page: beside it give one --out and no other file."
            )
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if preferred == "cuda" else []
        devices = [device] if device else gpus or [preferred]
        _fill_cohort(
            artifact, data, outputs[0], as_json, options=options, dilate=dilate, lesion_labels=lesion_labels,
            samples=samples, same_space=same_space, overwrite=overwrite, backend=backend, precision=precision,
            devices=devices, workers=workers, command=["zoo", *words],
        )  # fmt: skip
        return
    if not images:
        raise click.UsageError("--image is missing; for a whole cohort give --data.")
    from zoo.tasks.fill.patient import fill_files
    from zoo.tasks.fill.results import ResultFiles, check_page

    mask = _given(lesions, "--lesions")
    if quality is not None:
        inputs = [*images, mask, *([white_matter] if white_matter else [])]
        results = [file for output in outputs for file in ResultFiles(output).every()]
        check_page(quality, [*inputs, *results], overwrite=overwrite)
    with progress_bar("Filling") as progress:
        report = fill_files(
            artifact,
            images,
            mask,
            outputs,
            options=options,
            dilate=dilate,
            white_matter=white_matter,
            lesion_labels=lesion_labels,
            select=select,
            keep=keep,
            samples=samples,
            same_space=same_space,
            overwrite=overwrite,
            backend=backend,
            precision=precision,
            device=device or preferred,
            command=["zoo", *words],
            progress=progress,
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


def _fill_cohort(artifact: Artifact, data: Path, folder: Path, as_json: bool, **settings: Any) -> None:
    from zoo.imaging.cohort import read_cohort
    from zoo.tasks.fill.cohort import fill_cohort
    from zoo.tasks.fill.quality import COLUMNS, FilledImage, write_quality_page
    from zoo.tasks.fill.results import FillCounts, check_page

    cohort = read_cohort(data)
    check_page(folder / "quality.html", [], overwrite=settings["overwrite"])
    with progress_bar("Filling") as progress:
        scans = fill_cohort(artifact, cohort, folder, progress=progress, **settings)
    pages = [
        FilledImage(
            scan.scan if len(scan.images) == 1 else f"{scan.scan} {contrast}",
            before,
            after,
            scan.lesions,
            settings["lesion_labels"],
            scan.counts,
        )
        for scan in scans
        if scan.status != "failed"
        for contrast, before, after in zip(artifact.config.data.contrasts, scan.images, scan.outputs, strict=True)
    ]
    title = f"{data.name}, filled by {artifact.method.name}"
    with progress_bar("Judging") as progress:
        quality = write_quality_page(folder / "quality.html", title, pages, progress)
    if as_json:
        show_json({"scans": [scan.to_json() for scan in scans], "quality": [asdict(row) for row in quality]})
    else:
        table("", list(COLUMNS), [row.cells() for row in quality])
        click.echo(str(sum((scan.counts for scan in scans if scan.counts), FillCounts(0, 0, 0, 0, 0, 0))))
        statuses = Counter(scan.status for scan in scans)
        click.echo(
            ", ".join(f"{count} {status}" for status, count in statuses.items()) + f".\nLook at {folder}/quality.html"
        )
    for line in cohort.notes:
        note(f"data: {line}")
    for scan in scans:
        if scan.status == "filled" and scan.note:
            note(f"warning: {scan.scan}: {scan.note}")
    for row in quality:
        if row.note:
            note(f"not judged: {row.name}: {row.note}")
    failed = [scan for scan in scans if scan.status == "failed"]
    for scan in failed:
        note(f"failed: {scan.scan}: {scan.note}")
    if failed:
        sys.exit(1)
