"""``zoo fill``"""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.output import note, progress_bar, show_json, table
from zoo.config import merge, parse_assignment


def numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Read ``3,7``."""
    try:
        return tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of lesion numbers; write it like 3,7.") from None


def _list_lesions(path: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from zoo.imaging.masks import number_lesions
    from zoo.imaging.volume import read_volume

    volume = read_volume(path)
    _, lesions = number_lesions(volume.data[0] > 0.5, volume.affine)
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
@click.option("--lesions", type=click.Path(path_type=Path), required=True, help="Lesion mask on the image's grid.")
@click.option("--out", "outputs", type=click.Path(path_type=Path), multiple=True,
              help="Filled image; repeat as often as --image.")  # fmt: skip
@click.option("--wm", "white_matter", type=click.Path(path_type=Path), help="White-matter mask for the dilation.")
@click.option("--dilate", type=click.IntRange(0, 10), default=1, show_default=True,
              help="Voxels the mask grows into white matter.")  # fmt: skip
@click.option("--list", "list_lesions", is_flag=True, help="Only list the lesions of the mask, with their numbers.")
@click.option("--select", callback=numbers, metavar="N,N", help="Fill only these lesions (numbers as in --list).")
@click.option("--keep", callback=numbers, metavar="N,N", help="Fill all lesions but these.")
@click.option("--samples", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Draws to average; more than one also writes their standard deviation.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Network evaluations; default: the model's.")
@click.option("--solver", help="Sampler; default: the model's.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="Another option of the method.")
@click.option("--backend", default="torch", show_default=True, help="Runtime; zoo list shows them.")
@click.option("--device", help="cpu, cuda, cuda:1 …; default: a GPU where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_obj
def command(
    words: list[str],
    run: Path | None,
    images: tuple[Path, ...],
    lesions: Path,
    outputs: tuple[Path, ...],
    white_matter: Path | None,
    dilate: int,
    list_lesions: bool,
    select: tuple[int, ...],
    keep: tuple[int, ...],
    samples: int,
    steps: int | None,
    solver: str | None,
    seed: int,
    assignments: tuple[str, ...],
    backend: str,
    device: str | None,
    as_json: bool,
) -> None:
    """Replace lesions by healthy tissue, on the image's own grid; outside the mask not one voxel changes.

    \b
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --wm wm.nii.gz --out filled.nii.gz
    zoo fill --list --lesions mask.nii.gz
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz --select 1,3 --samples 8
    """
    if list_lesions:
        _list_lesions(lesions, as_json)
        return
    if run is None or not images or not outputs:
        missing = "RUN" if run is None else "--out" if images else "--image"
        raise click.UsageError(f"{missing} is missing; to list lesions give --list.")

    import torch

    import zoo
    from zoo.filling import fill_files

    options = merge(
        {"seed": seed, **({"steps": steps} if steps else {}), **({"solver": solver} if solver else {})},
        *(parse_assignment(text) for text in assignments),
    )
    with progress_bar("Filling") as progress:
        report = fill_files(
            zoo.load(run),
            images,
            lesions,
            outputs,
            options=options,
            dilate=dilate,
            white_matter=white_matter,
            select=select,
            keep=keep,
            samples=samples,
            backend=backend,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            command=["zoo", *words],
            progress=progress,
        )
    for warning in report.warnings:
        note(f"warning: {warning}")
    if as_json:
        show_json({"outputs": [str(path) for path in report.outputs], **report.sidecar})
        return
    for path in report.outputs:
        click.echo(f"Wrote {path}")
    click.echo(
        f"{report.changed_inside} voxels changed inside the mask of {report.mask_voxels}, {report.changed_outside} "
        "outside."
    )
