"""Sets of real and of generated images, and their features: each computed once and kept in the user's cache."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.evaluation.examples import RealExamples
from zoo.imaging.cache import pack_cohort
from zoo.imaging.cohort import Cohort
from zoo.metrics.features import BATCH, Extractor
from zoo.models.artifact import Artifact
from zoo.models.runtime import TORCH, Runtime
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.registry import registry
from zoo.system.files import cache_folder, replacing

ALL = "all"
"""The class of every image of a method without classes."""

_FORMAT = 1
"""Version of the cached features; those of other versions are not used."""


@dataclass(frozen=True)
class ImageSet:
    """Images that are read or generated when they are asked for, so that a large set never fills the memory.

    Attributes:
        channels: What each channel shows, in order.
        classes: The class of each image; `ALL` where the method has no classes.
        subjects: The subject of each image; ``""`` for a generated one.
        digest: Identifies the images; two sets of one digest hold the same ones.
        take: Returns the images of some rows, float32 ``[N, C, *spatial]`` in [-1, 1].
        progress: Called with (images done, images in all) while `images` is made.
    """

    channels: tuple[str, ...]
    classes: tuple[str, ...]
    subjects: tuple[str, ...]
    digest: str
    take: Callable[[Sequence[int]], Tensor] = field(repr=False)
    progress: Progress | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, images: Tensor, channels: Sequence[str], classes: Sequence[str] = (), subjects: Sequence[str] = ()
    ) -> ImageSet:
        """Return the set of images that are in memory.

        Args:
            images: float32 ``[N, C, *spatial]`` in [-1, 1].
            channels: One name per channel.
            classes, subjects: One per image; none: `ALL`, and generated.
        """
        digest = hashlib.sha256(json.dumps([*images.shape]).encode() + images.contiguous().numpy().tobytes())
        return cls(
            channels=tuple(channels),
            classes=tuple(classes) or (ALL,) * len(images),
            subjects=tuple(subjects) or ("",) * len(images),
            digest=digest.hexdigest(),
            take=lambda rows: images[list(rows)],
        )

    def __len__(self) -> int:
        return len(self.classes)

    @functools.cached_property
    def images(self) -> Tensor:
        """All images at once, float32 ``[N, C, *spatial]``; a large set is better taken in parts (`take`)."""
        batches = []
        for start in range(0, len(self), BATCH):
            batches.append(self.take(range(start, min(start + BATCH, len(self)))))
            if self.progress:
                self.progress(min(start + BATCH, len(self)), len(self))
        return torch.cat(batches)

    def rows(self, name: str) -> list[int]:
        """Return the rows of a class, in order."""
        return [row for row, own in enumerate(self.classes) if own == name]

    def subset(self, rows: Sequence[int]) -> ImageSet:
        """Return the set of some rows."""
        kept = [int(row) for row in rows]
        return ImageSet(
            channels=self.channels,
            classes=tuple(self.classes[row] for row in kept),
            subjects=tuple(self.subjects[row] for row in kept),
            digest=digest_of([self.digest, kept]),
            take=lambda some: self.take([kept[row] for row in some]),
        )


def real_images(artifact: Artifact, cohort: Cohort) -> ImageSet:
    """Return the real images that a model's samples are compared with (`Method.real`), subject by subject.

    Args:
        artifact: A model whose real examples have ``image`` and, where the method has classes, ``label``.
        cohort: Scans that have the model's contrasts.

    Raises:
        DataError: The method names no real examples, they are not as described above, or there are none.
    """
    examples = RealExamples(artifact, pack_cohort(cohort, artifact.config.data, targets=False))
    if not len(examples):
        raise DataError(f"{cohort.root} yields no real example for {artifact.method.name!r}.")
    digest = hashlib.sha256()
    classes = []
    for number, subject in enumerate(examples.subjects):
        image, label = examples.read(number)
        digest.update(json.dumps([image.shape, str(image.dtype), label, subject]).encode())
        digest.update(np.ascontiguousarray(image).tobytes())
        classes.append(label or ALL)
    return ImageSet(
        channels=artifact.config.data.contrasts,
        classes=tuple(classes),
        subjects=examples.subjects,
        digest=digest.hexdigest(),
        take=lambda rows: torch.from_numpy(np.stack([examples.image(row) for row in rows])),
    )


def generated_images(
    artifact: Artifact,
    per_class: int,
    seed: int = 0,
    runtime: Runtime = TORCH,
    progress: Progress | None = None,
) -> ImageSet:
    """Return ``per_class`` generated images of each class, class by class; they are generated when they are taken.

    Sample k of a class is what ``zoo sample RUN --class NAME --seed SEED`` writes as sample k, whatever the number of
    images.

    Args:
        artifact: A model whose method samples.
        per_class: Images of each class; of a method without classes: images.
        seed: Decides all samples.
        runtime: What runs the networks.
        progress: Called with (images done, images in all) while `ImageSet.images` is made.

    Raises:
        UnknownNameError: The method cannot sample.
        DataError: Samples have other channels than the model's contrasts.
    """
    task = artifact.method.task("sample")
    names = artifact.config.class_names or (ALL,)
    labels: list[dict[str, str]] = [{"label": name} for name in artifact.config.class_names] or [{}]
    what = f"sampling with {artifact.method.name}"
    settings = {
        name: validate(resolve(task.options), {"seed": seed, **label}, what=what)
        for name, label in zip(names, labels, strict=True)
    }
    run, parts = resolve(task.run), artifact.parts(runtime)
    channels = artifact.config.data.contrasts

    def sample(name: str, numbers: Sequence[int]) -> Tensor:
        samples = run(parts, artifact.config, [seed_for(seed, number) for number in numbers], settings[name])
        if samples.channels != channels:
            raise DataError(
                f"Samples of {artifact.method.name!r} show {', '.join(samples.channels)}, not the model's contrasts "
                f"{', '.join(channels)}; real and generated images then cannot be compared."
            )
        return samples.images

    def take(rows: Sequence[int]) -> Tensor:
        found: dict[int, Tensor] = {}
        for index, name in enumerate(names):
            own = [row for row in rows if row // per_class == index]
            size = settings[name].batch_size
            for start in range(0, len(own), size):
                some = own[start : start + size]
                found |= zip(some, sample(name, [row % per_class for row in some]), strict=True)
        return torch.stack([found[row] for row in rows])

    # The first sample of each class tells a changed sampler, which no version number tells.
    first = [hashlib.sha256(sample(name, [0]).numpy().tobytes()).hexdigest() for name in names]
    about = {
        "model": artifact.sha256 or artifact.config.model_dump(mode="json"),
        "method": [artifact.method.name, registry().methods.origins[artifact.method.name].version],
        "options": {name: one.model_dump(mode="json") for name, one in settings.items()},
        "per class": per_class,
        "runtime": [runtime.backend, runtime.precision, runtime.device],
        "first": first,
    }
    return ImageSet(
        channels=channels,
        classes=tuple(name for name in names for _ in range(per_class)),
        subjects=("",) * (per_class * len(names)),
        digest=digest_of(about),
        take=take,
        progress=progress,
    )


def features_of(
    extractor: Extractor,
    image_set: ImageSet,
    channels: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Return the features of all images of a set, ``[N, F]``, from the user's cache where they are there.

    Generated images whose features are in the cache are not generated.

    Args:
        extractor: Features.
        image_set: Images.
        channels: Which channels the extractor sees, in its order; ``None``: all.
        progress: Called with (images done, images in all).

    Raises:
        DataError: The extractor does not take so many channels.
    """
    return features_by_channels(extractor, image_set, [channels or image_set.channels], progress)[0]


def features_by_channels(
    extractor: Extractor,
    image_set: ImageSet,
    views: Sequence[Sequence[str]],
    progress: Progress | None = None,
) -> list[Tensor]:
    """Return the features of several choices of channels as `features_of` does; each image is made once for all."""

    def compute() -> Tensor:
        batches = []
        for start in range(0, len(image_set), BATCH):
            rows = range(start, min(start + BATCH, len(image_set)))
            images = image_set.take(rows)
            seen = [images[:, [image_set.channels.index(name) for name in view]] for view in views]
            batches.append(torch.stack([extractor.features(some) for some in seen]))
            if progress:
                progress(rows.stop, len(image_set))
        return torch.cat(batches, dim=1)

    return list(kept([extractor.digest, image_set.digest, [list(view) for view in views]], compute))


def kept(key: object, compute: Callable[[], Tensor]) -> Tensor:
    """Return a tensor from the user's cache; where it is not there, compute and keep it.

    Args:
        key: Plain JSON data on which the tensor depends.
        compute: Makes the tensor.
    """
    name = digest_of([_FORMAT, key])
    file = cache_folder() / "features" / name[:2] / f"{name}.npy"
    if not file.is_file():
        with replacing(file) as temporary:
            np.save(temporary, compute().numpy())
    return torch.from_numpy(np.load(file))


def digest_of(about: object) -> str:
    """Return the SHA-256 of plain JSON data."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
