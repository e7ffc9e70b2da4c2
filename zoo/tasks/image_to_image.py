"""Files of verbs that make one image of another: read, brought to the model's grid, and written back on their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime
from zoo.progress import Progress
from zoo.system.files import sha256, write_text

if TYPE_CHECKING:
    from torch import Tensor


def image_to_image_files(
    artifact: Artifact,
    verb: str,
    images: Sequence[Path],
    outputs: Sequence[Path],
    *,
    options: Mapping[str, Any],
    runtime: Runtime,
    description: str,
    overwrite: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a task that takes a patient's images and returns as many, on the grid and in the units of the files.

    The task is called as ``run(parts, config, image, options, progress) -> image``, both float32 ``[C, i, j, k]`` in
    [-1, 1] on the model's grid, one channel per contrast; each volume of a 4D image is one call.

    Args:
        artifact: The trained model.
        verb: The task.
        images: One NIfTI per contrast, in the order of the model's contrasts, on one grid.
        outputs: Where each result goes, float32, with a ``.json`` beside it that says how it was made.
        options: Of the method's task.
        runtime: What runs the networks.
        description: What the result is, and what it must not be used for; stands in the ``.json``.
        overwrite: Replace files that this program did not make.
        command: Words of the command, recorded in the ``.json`` without folders.
        progress: Called by the task with (network calls done, network calls in all).

    Returns:
        What the ``.json`` holds.

    Raises:
        UnknownNameError: The method does not offer the verb.
        ConfigError: An option is unknown or out of range.
        DataError: An image cannot be used, the result does not fit it or is not finite, or a result would replace an
            input or a file that this program did not make; then nothing is written.
    """
    import numpy as np

    from zoo.imaging.volume import WHOLE_MARKER, write_map
    from zoo.tasks.files import ModelImage, grid_for, read_images
    from zoo.tasks.provenance import provenance
    from zoo.tasks.results import ResultFiles, check_results

    task, data = artifact.method.task(verb), artifact.config.data
    checked = validate(resolve(task.options), options, what=f"zoo {verb} with {artifact.method.name}")
    if not len(images) == len(outputs) == len(data.contrasts):
        raise DataError(
            f"This model takes {', '.join(data.contrasts)} together: give {len(data.contrasts)} images and as many "
            f"outputs, in that order; got {len(images)} and {len(outputs)}."
        )
    results = [ResultFiles(output) for output in outputs]
    check_results(results, images, overwrite=overwrite)
    volumes = read_images(images)
    grid = grid_for(volumes[0], data.spacing_mm)
    run, parts = resolve(task.run), artifact.parts(runtime)

    made = [np.empty_like(volume.data) for volume in volumes]
    for frame in range(len(volumes[0].data)):
        image = ModelImage.encode(volumes, frame, grid, data)
        result: Tensor = run(parts, artifact.config, image.tensor, checked, progress)
        if result.shape != image.tensor.shape:
            raise DataError(f"The task {verb!r} returned {list(result.shape)} for {list(image.tensor.shape)}.")
        if not result.isfinite().all():
            raise DataError(f"The result of {verb!r} holds NaN or infinite values; was the training stable?")
        for channel, values in enumerate(image.decode(result.float().cpu(), np.ones(grid.shape, bool))):
            made[channel][frame] = values

    sidecar = {
        **provenance(artifact, runtime, checked, description=description, command=command),
        "Inputs": [
            {"Role": contrast, "File": path.name, "SHA256": sha256(path)}
            for contrast, path in zip(data.contrasts, images, strict=True)
        ],
    }
    for files, volume, values in zip(results, volumes, made, strict=True):
        write_map(files.image, volume, values, WHOLE_MARKER)
    sidecar["OutputSHA256"] = {files.image.name: sha256(files.image) for files in results}
    for files in results:
        write_text(files.sidecar, json.dumps(sidecar, indent=2) + "\n")
    return sidecar
