"""The real images that a model's samples are compared with, written like samples."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from zoo.config import MethodConfig, validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.evaluation.unseen import unseen
from zoo.imaging.cache import PackedCohort, pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.models.artifact import Artifact
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.tasks.image_files import SHOWN, ImageFiles, check_class, check_folder, draw_sheet, write_image

_DESCRIPTION = "Image that samples of the model are compared with. The terms of the data that it is from apply."


class RealExamples:
    """The real images of a cohort, as the method's ``real`` makes them; an image is made when it is asked for.

    Attributes:
        subjects: Whom each image shows.

    Args:
        artifact: A model whose method names real examples.
        packed: Subjects, packed for the model.

    Raises:
        DataError: The method names no real examples; or, where they are read, those of a method with classes have no
            ``label``.
    """

    def __init__(self, artifact: Artifact, packed: PackedCohort) -> None:
        if not artifact.method.real:
            raise DataError(f"Method {artifact.method.name!r} names no real examples; its Method needs real=.")
        self._artifact = artifact
        examples_of = resolve(artifact.method.real)
        subjects = dict.fromkeys(scan.subject for scan in packed.scans)
        examples = {subject: examples_of(artifact.config, packed.subset([subject])) for subject in subjects}
        self._places = [(own, index) for own in examples.values() for index in range(len(own))]
        self.subjects = tuple(subject for subject, own in examples.items() for _ in range(len(own)))

    @functools.cached_property
    def labels(self) -> tuple[str | None, ...]:
        """The class of each image; ``None`` where the method has no classes."""
        return tuple(self._label(self._made(number)) for number in range(len(self)))

    def __len__(self) -> int:
        return len(self._places)

    def image(self, number: int) -> np.ndarray:
        """Return one image, float32 ``[C, i, j]`` or ``[C, i, j, k]`` in [-1, 1], one channel per contrast.

        Raises:
            DataError: The examples have no ``image``.
        """
        return self._image(self._made(number))

    def read(self, number: int) -> tuple[np.ndarray, str | None]:
        """Return one image (`image`) and its class (`labels`), of which the example is made once."""
        made = self._made(number)
        return self._image(made), self._label(made)

    def _made(self, number: int) -> dict[str, np.ndarray]:
        examples, index = self._places[number]
        example: dict[str, np.ndarray] = examples.example(index, np.random.default_rng(index))
        return example

    def _image(self, example: Mapping[str, np.ndarray]) -> np.ndarray:
        made = torch.from_numpy(self._of(example, "image")).float()
        image: np.ndarray = self._artifact.contrasts_of(made[None])[0].numpy()
        return image

    def _label(self, example: Mapping[str, np.ndarray]) -> str | None:
        classes = self._artifact.config.class_names
        return classes[int(self._of(example, "label"))] if classes else None

    def _of(self, example: Mapping[str, np.ndarray], key: str) -> np.ndarray:
        if key not in example:
            raise DataError(
                f"Examples of {self._artifact.method.name!r} have no {key!r}, which stands beside samples; return it "
                "under that key."
            )
        return example[key]


def example_files(
    artifact: Artifact,
    data: Path,
    folder: Path,
    *,
    count: int,
    label: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImageFiles:
    """Write real images of subjects that training has not seen.

    They are drawn at random and in turn from each class and each subject. Example k depends on the seed, not on
    ``count``. Names and sidecars say nothing of a subject or of the files that an image is from.

    Args:
        artifact: A model whose method samples.
        data: BIDS folder or manifest.
        folder: Gets ``real-0007_T1w.nii.gz`` and its ``.json`` for each image and contrast
            (`zoo.tasks.image_files.write_image`), and ``examples.png``. The voxel size is that of samples.
        count: Images.
        label: Class of all images; ``None``: of each class alike.
        seed: Of the choice.
        progress: Called with (images written, images in all).

    Raises:
        UnknownNameError: The method cannot sample, or has no such class.
        ConfigError: A class is asked for and the method has none.
        DataError: There are fewer images, none of unseen subjects, or the folder has other images.
    """
    task = artifact.method.task("sample")
    if label is not None:
        check_class(artifact, label)
    config: MethodConfig = artifact.config
    cohort = unseen(artifact, read_cohort(data).fit_for(config.data, artifact.method.needs))
    packed = pack_cohort(cohort, config.data, targets=False)
    sidecar = {
        "Synthetic": False,
        "Description": _DESCRIPTION,
        "Method": artifact.method.name,
        "ModelSHA256": artifact.sha256,
        "DataFingerprint": packed.fingerprint,
        "Options": {"seed": seed, "label": label},
    }
    check_folder(folder, "real", sidecar)
    real = RealExamples(artifact, packed)
    found = [number for number in range(len(real)) if label in (None, real.labels[number])]
    if len(found) < count:
        what = "images" if label is None else f"images of class {label!r}"
        raise DataError(
            f"The unseen subjects in {data} have {len(found)} {what}, and {count} are asked for; lower -n or give more "
            "subjects."
        )
    chosen = _spread(found, real, np.random.default_rng(seed))[:count]
    options = validate(resolve(task.options), {}, what=f"zoo sample with {artifact.method.name}")
    spacing_mm = resolve(task.run)(artifact.parts(), config, [seed_for(options.seed, 0)], options).spacing_mm
    written: list[Path] = []
    shown: list[np.ndarray] = []
    for number, place in enumerate(chosen):
        image, own = real.image(place), real.labels[place]
        about = {**sidecar, "Example": number, **({"Class": own} if own else {})}
        written += write_image(folder, f"real-{number:04d}", image, spacing_mm, config.data, about)
        if len(shown) < SHOWN:
            shown.append(image)
        if progress:
            progress(number + 1, count)
    sheet = folder / "examples.png"
    classes = [own for place in chosen[:SHOWN] if (own := real.labels[place])]
    draw_sheet(sheet, np.stack(shown), config.data.contrasts, classes or None)
    return ImageFiles(tuple(written), sheet)


def _spread(numbers: Sequence[int], real: RealExamples, rng: np.random.Generator) -> list[int]:
    """Return images in random order, in turn of each class, and within a class of each subject."""
    groups: dict[str | None, dict[str, list[int]]] = {}
    for number in rng.permutation(numbers).tolist():
        groups.setdefault(real.labels[number], {}).setdefault(real.subjects[number], []).append(number)
    return _in_turn([_in_turn(list(subjects.values())) for subjects in groups.values()])


def _in_turn(groups: Sequence[Sequence[int]]) -> list[int]:
    """Return the first of each group, then the second of each, until all are empty."""
    return [number for row in zip_longest(*groups) for number in row if number is not None]
