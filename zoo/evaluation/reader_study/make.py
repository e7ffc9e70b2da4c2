"""Making a reader study: one self-contained page per reader, and the answers apart from them."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from scipy import ndimage

from zoo.errors import ConfigError, DataError
from zoo.evaluation.reader_study.images import (
    LESION_MASK,
    SYNTHETIC_MASK,
    Panel,
    StudyImage,
    draw,
    find_images,
    panels_of,
)
from zoo.evaluation.reader_study.study import FORMAT, KEY_FILE, REAL, STUDY_FILE, Kind, Phase, sealed
from zoo.progress import Progress
from zoo.system.files import replacing, write_text

IMAGES_FILE = "answer-key-images.tsv"
"""Which image each case shows; as secret as the key."""

_LARGEST_PAGE = 400_000_000
"""Bytes; browsers hold a page in one string of at most 512 MB."""
_HEAD = 25
"""Grey value above which a pixel counts as one that could hold a lesion, a tenth of the brightest."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True)
class StudySettings:
    """What a study asks, and how often.

    Attributes:
        kind: ``single``: real or fake; ``pair``: which of two is real; ``lesion``: click the synthetic lesion.
        n: Images per class and set of generated images.
        warm_up: Real images, and as many generated ones, that come first with the answers shown.
        readers: Number of pages, each in an order of its own.
        classes: Draw as many images of each class.
        ratings: Ask for every answer how sure the reader is, 1 to 5.
        seconds: Time per case, after which its images are hidden; 0 for no limit.
        seed: Decides which images are drawn, their order and their names.
    """

    kind: Kind = "single"
    n: int = 40
    warm_up: int = 24
    readers: int = 2
    classes: bool = False
    ratings: bool = False
    seconds: int = 0
    seed: int = 0

    @classmethod
    def of(cls, kind: Kind, **given: Any) -> StudySettings:
        """Return the usual settings of a kind, changed by those that are given and not ``None``.

        Sources: Haarburger et al., section 4.2 (single: 40 images, a warm-up of 24 real and 24 generated ones); Uhr
        2024, section 3.5 (lesion: 20 patients, one minute each, no warm-up).
        """
        usual: dict[str, Any] = {"n": 20, "warm_up": 0, "seconds": 60} if kind == "lesion" else {}
        return cls(kind, **{**usual, **{name: value for name, value in given.items() if value is not None}})


@dataclass(frozen=True)
class Case:
    """A question to the reader.

    Attributes:
        name: Six random hexadecimal digits.
        phase: Part of the study.
        source: ``"real"`` or the name of the set of generated images.
        class_name: Empty without classes.
        images: One, or for a pair two, the left one first.
        truth: As in ``answer-key.json``; of a lesion it is found when its mask is read.
    """

    name: str
    phase: Phase
    source: str
    class_name: str
    images: tuple[StudyImage, ...]
    truth: str


@dataclass(frozen=True)
class MadeStudy:
    """What was made.

    Attributes:
        name: Twelve hexadecimal digits, in the names of the files of answers.
        pages: One per reader.
        cases, warm_up: Number of cases of the test and of the warm-up.
    """

    name: str
    pages: tuple[Path, ...]
    cases: int
    warm_up: int


def make_study(
    out: Path,
    settings: StudySettings,
    fakes: Mapping[str, Path],
    real: Path | None = None,
    progress: Progress | None = None,
) -> MadeStudy:
    """Make the folder of a study.

    Args:
        out: Folder to make; it gets ``reader-1.html`` …, ``study.json``, ``answer-key.json`` and
            ``answer-key-images.tsv``.
        settings: What is asked.
        fakes: Folders of generated images by name.
        real: Folder of real images; ``None`` for the kind ``lesion``, whose images hold both.
        progress: Called with (images read, images in all).

    Raises:
        ConfigError: Settings that do not go together, or pages that are too large.
        DataError: ``out`` exists, folders hold too few images or the same ones, or images differ in contrasts or shape.
        ArtifactError: The disk is full or the folder cannot be written.
    """
    _check_settings(out, settings, fakes, real)
    sources = {name: find_images(folder, name, synthetic=True, classes=settings.classes)
               for name, folder in fakes.items()}  # fmt: skip
    if real:
        sources[REAL] = find_images(real, REAL, synthetic=False, classes=settings.classes)
    images = [image for found in sources.values() for image in found]
    contrasts = _common_contrasts(images)
    secret = _check_distinct(images, repr(asdict(settings)), progress)
    cases = draw_cases(settings, sources, random.Random(secret))

    panels = panels_of(contrasts, narrow=settings.kind == "pair")
    drawn, shape = _draw_cases(cases, panels)
    truths: dict[str, Any] = {case.name: case.truth for case in cases}
    if settings.kind == "lesion":
        truths = {case.name: _lesion_truth(case, drawn[case.name]) for case in cases}
    payloads = _payloads(drawn, random.Random(f"padding {secret}"))

    name = _sha256(f"study {secret}")[:12]
    tested = sum(case.phase == "test" for case in cases)
    readers = [f"reader-{number}" for number in range(1, settings.readers + 1)]
    about = {
        "format": FORMAT, "study": name, "kind": settings.kind, "seed": settings.seed, "sources": list(fakes),
        "classes": sorted({case.class_name for case in cases} - {""}), "readers": readers, "cases": tested,
        "warm_up": len(cases) - tested, "made_with": metadata.version("mri-zoo"),
    }  # fmt: skip
    shown = {
        "format": FORMAT, "study": name, "kind": settings.kind, "ratings": settings.ratings,
        # One pixel shape for all cases, that of a real image, tells nothing.
        "seconds": settings.seconds, "shape": shape, "spacing": images[-1].spacing_mm(),
        "panels": [{"title": panel.title, "group": panel.group, "place": panel.place} for panel in panels],
    }  # fmt: skip
    with replacing(out) as folder:
        folder.mkdir()
        for reader in readers:
            order = _order(cases, random.Random(f"{reader} {secret}"))
            content = {**shown, "reader": reader, "cases": [_case_in_page(case, truths[case.name]) for case in order]}
            page = render_page(content, {case.name: payloads[case.name] for case in order})
            write_text(folder / f"{reader}.html", page)
        write_text(folder / STUDY_FILE, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        _write_key(folder, name, sorted(cases, key=lambda case: case.name), truths)
    return MadeStudy(name, tuple(out / f"{reader}.html" for reader in readers), tested, len(cases) - tested)


def _check_settings(out: Path, settings: StudySettings, fakes: Mapping[str, Path], real: Path | None) -> None:
    if out.exists():
        raise DataError(f"{out} exists; a study is made in a new folder, so that no key is lost. Choose another --out.")
    if settings.kind == "lesion" and real:
        raise ConfigError("A study of lesions shows real and synthetic lesions in one image; leave out --real.")
    if settings.kind != "lesion" and not real:
        raise ConfigError(f"A study of kind {settings.kind} needs real images: --real DIR (zoo data examples).")
    if not fakes:
        raise ConfigError("A reader study needs generated images: --fake NAME=DIR (zoo sample).")
    for name in fakes:
        if name == REAL or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be the name of generated images; use letters, digits, '.', '+' and '-', not 'real'."
            )
    folders: dict[Path, str] = {}
    for option, folder in [*((f"--fake {name}", folder) for name, folder in fakes.items()), ("--real", real)]:
        if folder and (other := folders.setdefault(folder.resolve(), option)) != option:
            raise DataError(f"{other} and {option} are one folder, {folder}; each needs images of its own.")


def _common_contrasts(images: Sequence[StudyImage]) -> tuple[str, ...]:
    first = images[0]
    for image in images:
        if set(image.contrasts) != set(first.contrasts):
            raise DataError(
                f"The contrasts differ: {_called(first)} has {', '.join(first.contrasts)}; {_called(image)} has "
                f"{', '.join(image.contrasts)}. All images need the same ones."
            )
    return tuple(first.contrasts)


def _check_distinct(images: Sequence[StudyImage], salt: str, progress: Progress | None) -> str:
    """Refuse an image that is there twice; return a secret that depends on all images.

    Whatever is random in a page follows from the secret, so that nobody who has the page alone can work it out.
    """
    seen: dict[str, StudyImage] = {}
    for number, image in enumerate(images):
        other = seen.setdefault(image.digest(), image)
        if other is not image:
            raise DataError(
                f"{_called(other)} and {_called(image)} are the same image, voxel by voxel. Give folders that do not "
                "overlap."
            )
        if progress:
            progress(number + 1, len(images))
    return _sha256(salt + "".join(sorted(f"{image.source} {digest}" for digest, image in seen.items())))


def draw_cases(settings: StudySettings, sources: Mapping[str, Sequence[StudyImage]], rng: random.Random) -> list[Case]:
    """Draw the cases: per class and set of generated images ``n``, and the same number of real ones.

    Real images are never shared between sets (Haarburger et al., section 4.2: 2 models, 3 classes and n = 40 make 240
    real and 240 generated images). The images of the warm-up are spread evenly over sets and classes.

    Args:
        settings: Numbers, kind and classes.
        sources: Images of each set, with ``"real"`` last.
        rng: Decides what is drawn.

    Raises:
        DataError: A folder holds too few images; the message has the numbers of each.
    """
    fakes = [name for name in sources if name != REAL]
    classes = sorted({image.class_name for found in sources.values() for image in found})
    cells = [(name, class_name) for name in fakes for class_name in classes]
    wanted: list[tuple[Phase, str, str, int]] = [("test", *cell, settings.n) for cell in cells]
    wanted += [("warm-up", *cell, n) for cell, n in zip(cells, _spread(settings.warm_up, len(cells)), strict=True)]
    if settings.kind == "single":
        spread = _spread(settings.warm_up, len(classes))
        wanted += [("test", REAL, class_name, settings.n * len(fakes)) for class_name in classes]
        wanted += [("warm-up", REAL, class_name, n) for class_name, n in zip(classes, spread, strict=True)]
    needed: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: {"test": 0, "warm-up": 0})
    for phase, source, class_name, n in wanted:
        for needing in {source, REAL} if settings.kind == "pair" else {source}:
            needed[needing, class_name][phase] += n
    pools = {
        cell: rng.sample(found, len(found))
        for cell in needed
        for found in [[image for image in sources[cell[0]] if image.class_name == cell[1]]]
    }
    _check_enough(needed, pools)

    names = iter(rng.sample(range(16**6), sum(n for *_, n in wanted)))
    cases = []
    for phase, source, class_name, n in wanted:
        sides = rng.sample([k % 2 == 0 for k in range(n)], n)
        for real_is_left in sides:
            images, truth = [pools[source, class_name].pop()], "real" if source == REAL else "fake"
            if settings.kind == "pair":
                images.insert(0 if real_is_left else 1, pools[REAL, class_name].pop())
                truth = "left" if real_is_left else "right"
            cases.append(Case(f"{next(names):06x}", phase, source, class_name, tuple(images), truth))
    return cases


def _spread(total: int, parts: int) -> list[int]:
    """Split a number into nearly equal parts."""
    return [total // parts + (index < total % parts) for index in range(parts)]


def _check_enough(
    needed: Mapping[tuple[str, str], Mapping[str, int]], pools: Mapping[tuple[str, str], Sequence[StudyImage]]
) -> None:
    lacking = []
    for (source, class_name), counts in needed.items():
        there, wanted = len(pools[source, class_name]), sum(counts.values())
        if there < wanted:
            of_class = f" of class {class_name!r}" if class_name else ""
            lacking.append(
                f"{_option(source)} has {there}{of_class} and needs {wanted} ({counts['test']} for the test, "
                f"{counts['warm-up']} for the warm-up)"
            )
    if lacking:
        raise DataError(
            f"There are too few images: {'; '.join(lacking)}. Make more (zoo sample, zoo data examples), or use a "
            "smaller -n or --warm-up."
        )


def _order(cases: Sequence[Case], rng: random.Random) -> list[Case]:
    """Return the cases in an order of their own, the warm-up first."""
    mixed = rng.sample(cases, len(cases))
    return sorted(mixed, key=lambda case: case.phase == "test")


def _draw_cases(cases: Sequence[Case], panels: Sequence[Panel]) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """Return the grey values of each case, uint8 ``[images, panels, slices, rows, columns]``, and an image's shape.

    Raises:
        DataError: An image has another shape than the first one.
    """
    drawn: dict[str, np.ndarray] = {}
    first, shape = cases[0].images[0], ()
    for case in cases:
        pictures = []
        for image in case.images:
            picture = draw(image.read(), panels)
            shape = shape or picture.shape[1:]
            if picture.shape[1:] != shape:
                raise DataError(
                    f"The shapes differ: {_called(first)} has {_by(shape)} voxels and {_called(image)} has "
                    f"{_by(picture.shape[1:])} (slices, rows, columns). Cut or resample the images to one shape."
                )
            pictures.append(picture)
        drawn[case.name] = np.stack(pictures)
    return drawn, shape


def _lesion_truth(case: Case, drawn: np.ndarray) -> dict[str, Any]:
    """Return the place of the synthetic lesion, and how likely a click at random finds it.

    With a mask of all lesions a guess picks one of them. Without one it picks a pixel that is not background.

    Raises:
        DataError: A mask is missing or empty, or the synthetic lesion consists of several parts.
    """
    image = case.images[0]
    lesion = image.read_mask(SYNTHETIC_MASK)
    if not lesion.any():
        raise DataError(f"{image.masks[SYNTHETIC_MASK]} is empty; it must hold the synthetic lesion.")
    slices = []
    for number in np.flatnonzero(lesion.any(axis=(1, 2))):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], lesion[number].ravel().astype(np.int8), [0]])))
        runs = [
            int(value) for start, end in zip(edges[::2], edges[1::2], strict=True) for value in (start, end - start)
        ]
        slices.append({"slice": int(number), "runs": runs})
    if LESION_MASK in image.masks:
        touching = np.ones((3, 3, 3))
        lesions = ndimage.label(image.read_mask(LESION_MASK) | lesion, touching)[1]
        chance = {"chance_of": "lesions", "target": 1, "candidates": int(lesions)}
    else:
        possible = (drawn[0] > _HEAD).any(axis=0) | lesion
        chance = {"chance_of": "pixels", "target": int(lesion.sum()), "candidates": int(possible.sum())}
    return {"width": lesion.shape[2], "slices": slices, **chance}


def _case_in_page(case: Case, truth: object) -> dict[str, Any]:
    """Return what a page knows of a case: of the warm-up also the answer, and where the image is from."""
    known = {"case": case.name, "phase": case.phase}
    if case.phase == "test":
        return known
    source = "" if case.source == REAL else case.source
    return {**known, "truth": truth, "origin": ", ".join(word for word in (case.class_name, source) if word)}


def _write_key(folder: Path, study: str, cases: Sequence[Case], truths: Mapping[str, object]) -> None:
    key = [
        {"case": case.name, "phase": case.phase, "source": case.source, "class": case.class_name,
         "truth": truths[case.name]}
        for case in cases
    ]  # fmt: skip
    write_text(folder / KEY_FILE, sealed({"format": FORMAT, "study": study, "cases": key}))
    rows = [["case", "phase", *(["left", "right"] if len(cases[0].images) == 2 else ["image"])]]
    rows += [[case.name, case.phase, *(image.name for image in case.images)] for case in cases]
    write_text(folder / IMAGES_FILE, "".join("\t".join(row) + "\n" for row in rows))


def _payloads(drawn: Mapping[str, np.ndarray], rng: random.Random) -> dict[str, str]:
    """Return the images of each case as base64, all of one length.

    Smooth images compress better and would be told by their length, so random bytes are added; the first four bytes
    hold the length of the compressed data.
    """
    packed = {name: zlib.compress(pictures.tobytes()) for name, pictures in drawn.items()}
    longest = max(map(len, packed.values()))
    total = (longest + 4) * 4 // 3 * len(packed)
    if total > _LARGEST_PAGE:
        raise ConfigError(
            f"Each page would have {total / 1e6:.0f} MB, and browsers open {_LARGEST_PAGE / 1e6:.0f}. Show fewer cases "
            "(-n), fewer contrasts, or volumes that are cut to what matters."
        )
    return {
        name: base64.b64encode(
            len(data).to_bytes(4, "little") + data + rng.randbytes(longest - len(data))
        ).decode("ascii")
        for name, data in packed.items()
    }  # fmt: skip


def render_page(study: Mapping[str, Any], payloads: Mapping[str, str]) -> str:
    """Return a reader's page.

    A content security policy lets it run its own script and styles, known by their hashes, and load nothing else.

    Args:
        study: What the script needs to know, as JSON.
        payloads: Images of the cases in the reader's order.
    """
    here = resources.files(__package__ or "")
    script, style = (f"\n{(here / name).read_text(encoding='utf-8')}" for name in ("page.js", "page.css"))
    environment = Environment(
        loader=PackageLoader(__package__ or "", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    return environment.get_template("page.html.jinja").render(
        study=study,
        # In a script element only "<" could end the data.
        study_json=json.dumps(study, ensure_ascii=False).replace("<", "\\u003c"),
        payloads=payloads,
        script=script,
        style=style,
        script_hash=_policy_hash(script),
        style_hash=_policy_hash(style),
        cases={phase: sum(case["phase"] == phase for case in study["cases"]) for phase in ("warm-up", "test")},
    )


def _policy_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _option(source: str) -> str:
    return "--real" if source == REAL else f"--fake {source}"


def _called(image: StudyImage) -> str:
    return f"{image.name} of {_option(image.source)}"


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
