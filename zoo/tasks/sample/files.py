"""Sampling files: how generated images get from a sampler to NIfTI.

Every file says that it is synthetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from zoo.config import validate
from zoo.descriptors import resolve
from zoo.models.artifact import Artifact
from zoo.models.runtime import TORCH, Runtime
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.tasks.image_files import SHOWN, ImageFiles, check_class, check_folder, draw_sheet, write_image
from zoo.tasks.provenance import provenance

_DESCRIPTION = "Generated image of no real person. Research use only, not for diagnosis."


def sample_files(
    artifact: Artifact,
    folder: Path,
    *,
    count: int,
    first: int = 0,
    options: Mapping[str, object],
    runtime: Runtime = TORCH,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> ImageFiles:
    """Generate samples ``first`` to ``first + count - 1`` of a seed.

    Sample k depends on the seed and on k alone: in a batch, on another backend or on another device it is the same, up
    to rounding.

    Args:
        artifact: The trained model.
        folder: Gets ``sample-0007_T1w.nii.gz`` and its ``.json`` for each sample and contrast
            (`zoo.tasks.image_files.write_image`), and ``samples.png``.
        count: Samples.
        first: Number of the first one.
        options: Of the method's sampling options; ``label`` is the class that is asked for.
        runtime: What runs the networks.
        command: Words of the command, recorded in the sidecars without folders.
        progress: Called with (samples done, samples in all).

    Raises:
        UnknownNameError: The method cannot sample, or has no such class.
        ConfigError: A class is asked for and the method has none, or an option is wrong.
        DataError: A sample has values that are not finite and is not written, or the folder has samples of another
            model.
        ArtifactError: The disk is full or the folder cannot be written.
    """
    task = artifact.method.task("sample")
    if options.get("label") is not None:
        check_class(artifact, str(options["label"]))
    checked = validate(resolve(task.options), options, what=f"zoo sample with {artifact.method.name}")
    run, parts = resolve(task.run), artifact.parts(runtime)
    sidecar = provenance(artifact, runtime, checked, description=_DESCRIPTION, command=command)
    check_folder(folder, "sample", sidecar)
    numbers = range(first, first + count)
    written: list[Path] = []
    shown: list[np.ndarray] = []
    classes: list[str] = []
    for start in range(0, count, checked.batch_size):
        some = numbers[start : start + checked.batch_size]
        samples = run(parts, artifact.config, [seed_for(checked.seed, number) for number in some], checked)
        classes += samples.labels or ()
        for index, (number, image) in enumerate(zip(some, samples.images.numpy(), strict=True)):
            about = {**sidecar, "Sample": number, **({"Class": samples.labels[index]} if samples.labels else {})}
            stem = f"sample-{number:04d}"
            written += write_image(folder, stem, image, samples.spacing_mm, artifact.config.data, about)
            if len(shown) < SHOWN:
                shown.append(image)
        if progress:
            progress(len(some) + start, count)
    sheet = folder / "samples.png"
    draw_sheet(sheet, np.stack(shown), artifact.config.data.contrasts, classes[:SHOWN] or None)
    return ImageFiles(tuple(written), sheet)
