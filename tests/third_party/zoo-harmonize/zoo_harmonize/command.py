"""The command: flags and words. What is slow to import is imported when the command runs."""

from pathlib import Path

import click

from zoo.cli.options import given_options, json_option, runtime_options, set_option
from zoo.cli.output import progress_bar, show_json


@click.command(name="harmonize")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--image", "images", multiple=True, type=click.Path(path_type=Path), required=True,
              help="Scan; one per contrast of the model, in order.")  # fmt: skip
@click.option("--out", "outputs", multiple=True, type=click.Path(path_type=Path), required=True,
              help="Harmonized scan, as many as --image.")  # fmt: skip
@click.option("--strength", type=float, help="0 leaves the scan as it is; default: 1.")
@click.option("--overwrite", is_flag=True, help="Replace files that this program did not make.")
@set_option
@runtime_options
@json_option
@click.pass_obj
def command(words, run, images, outputs, strength, overwrite, assignments, runtime, as_json):
    """Give a scan the intensity curve of the scans that the model was trained on.

    \b
    zoo harmonize RUN --image T1w.nii.gz --out harmonized.nii.gz
    zoo harmonize RUN --image T1w.nii.gz --out harmonized.nii.gz --strength 0.5
    zoo harmonize RUN --image T1w.nii.gz --out harmonized.nii.gz --backend onnxruntime
    """
    import zoo
    from zoo.tasks import image_to_image_files

    with progress_bar("Harmonizing") as progress:
        sidecar = image_to_image_files(
            zoo.load(run),
            "harmonize",
            images,
            outputs,
            options=given_options(assignments, strength=strength),
            runtime=runtime,
            description="Scan with harmonized intensities. Research use only, not for diagnosis.",
            overwrite=overwrite,
            command=["zoo", *words],
            progress=progress,
        )
    if as_json:
        show_json(sidecar)
    else:
        click.echo(f"Wrote {', '.join(map(str, outputs))}")
