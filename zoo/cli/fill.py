"""``zoo fill``"""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.output import note, progress_bar, show_json
from zoo.config import merge, parse_assignment


@click.command(name="fill")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--image", "images", type=click.Path(path_type=Path), multiple=True, required=True,
              help="NIfTI; repeat for a model of several contrasts, in its order.")  # fmt: skip
@click.option("--lesions", type=click.Path(path_type=Path), required=True, help="Lesion mask on the image's grid.")
@click.option("--out", "outputs", type=click.Path(path_type=Path), multiple=True, required=True,
              help="Filled image; repeat as often as --image.")  # fmt: skip
@click.option("--wm", "white_matter", type=click.Path(path_type=Path), help="White-matter mask for the dilation.")
@click.option("--dilate", type=click.IntRange(0, 10), default=1, show_default=True,
              help="Voxels the mask grows into white matter.")  # fmt: skip
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
    run: Path,
    images: tuple[Path, ...],
    lesions: Path,
    outputs: tuple[Path, ...],
    white_matter: Path | None,
    dilate: int,
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
    zoo fill RUN --image T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz --solver ddim --steps 50 --dilate 0
    """
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
