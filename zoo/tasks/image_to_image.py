"""Files of verbs that make one image of another: read, brought to the model's grid, and written back on their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime
from zoo.progress import Progress
from zoo.system.files import replacing, sha256

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
    """Run a task that takes a patient's images and makes others, on the grid of the files.

    The task is called as ``run(parts, config, image, options, progress) -> result``, both float32 ``[C, i, j, k]`` on
    the model's grid; each volume of a 4D image is one call. ``image`` has one channel per contrast, in [-1, 1].
    ``result`` has one channel per target of the model (``data.targets``), written in the target's unit where that has
    a fixed range, in the unit of a contrast whose scale it shares (``like``), and else from 0 to 1. A model without
    targets returns its contrasts, written in the units of the files.

    Args:
        artifact: The trained model.
        verb: The task.
        images: One NIfTI per contrast, in the order of the model's contrasts, on one grid.
        outputs: Where each result goes, one per target, else per contrast: float32, with a ``.json`` beside it that
            says how it was made.
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

    from zoo.imaging.geometry import to_native
    from zoo.imaging.preprocessing import output_intensity
    from zoo.imaging.volume import WHOLE_MARKER, write_map
    from zoo.tasks.files import ModelImage, grid_for, read_images
    from zoo.tasks.provenance import provenance
    from zoo.tasks.results import ResultFiles, check_results

    task, data = artifact.method.task(verb), artifact.config.data
    checked = validate(resolve(task.options), options, what=f"zoo {verb} with {artifact.method.name}")
    made_of, makes = data.contrasts, data.targets or data.contrasts
    if len(images) != len(made_of) or len(outputs) != len(makes):
        raise DataError(
            f"This model makes {', '.join(makes)} of {', '.join(made_of)}: give {len(made_of)} images and "
            f"{len(makes)} outputs, in that order; got {len(images)} and {len(outputs)}."
        )
    results = [ResultFiles(output) for output in outputs]
    check_results(results, images, overwrite=overwrite)
    volumes = read_images(images)
    grid = grid_for(volumes[0], data)
    run, parts = resolve(task.run), artifact.parts(runtime)

    first = volumes[0]
    made = [np.empty_like(first.data) for _ in makes]
    for frame in range(len(first.data)):
        image = ModelImage.encode(volumes, frame, grid, data)
        result: Tensor = run(parts, artifact.config, image.tensor, checked, progress)
        if tuple(result.shape) != (len(makes), *grid.shape):
            raise DataError(
                f"The task {verb!r} returned {list(result.shape)}; it must be {[len(makes), *grid.shape]}, for "
                f"{', '.join(makes)}."
            )
        if not result.isfinite().all():
            raise DataError(f"The result of {verb!r} holds NaN or infinite values; was the training stable?")
        given = dict(zip(made_of, image.intensities, strict=True))
        written = [output_intensity(name, data, given) for name in data.targets]
        scales = [scale for scale, _ in written] or image.intensities
        for channel, (values, scale) in enumerate(zip(result.float().cpu().numpy(), scales, strict=True)):
            made[channel][frame] = to_native(scale.decode(values), grid, first.shape, first.affine)

    units = [unit for _, unit in written] or ["as in the input"] * len(makes)
    sidecar = {
        **provenance(artifact, runtime, checked, description=description, command=command),
        "Inputs": [
            {"Role": contrast, "File": path.name, "SHA256": sha256(path)}
            for contrast, path in zip(made_of, images, strict=True)
        ],
        "Outputs": [
            {"Role": name, "File": files.image.name, "Units": unit}
            for name, files, unit in zip(makes, results, units, strict=True)
        ],
    }
    with ExitStack() as stack:
        # What is entered first is renamed last: a sidecar without its image would claim a result that is not there.
        sidecars = [stack.enter_context(replacing(files.sidecar)) for files in results]
        places = [stack.enter_context(replacing(files.image)) for files in results]
        for place, values in zip(places, made, strict=True):
            write_map(place, first, values, WHOLE_MARKER)
        sidecar["OutputSHA256"] = {
            files.image.name: sha256(place) for files, place in zip(results, places, strict=True)
        }
        for place in sidecars:
            place.write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    return sidecar
