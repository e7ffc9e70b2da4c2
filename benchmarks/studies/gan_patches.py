"""Collects what was measured of patch generators in one file for the documents, and draws the paper's figures.

    python benchmarks/studies/gan_patches.py --run dcgan=RUN --run wgan=RUN --train COHORT --test COHORT \
        --out benchmarks/results/gan-phantom.json --pictures docs/images/gan-phantom

First run ``zoo evaluate RUN --data COHORT --with realism --with kinetics --with memorisation``: the newest evaluation
of each evaluator is taken. Written: counts of subjects, lesions and patches (the paper's table 1), scores by class and
model (table 2) and the correlation of Fréchet distance and 1-NN accuracy over classes and models (section 5). Drawn:
real patches in all contrasts (figure 1), native T1w of each model (figures 2 and 3), and a series of each model with
its subtractions (figures 4 and 5).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from scipy import ndimage, stats

from zoo.imaging.cache import pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.models.artifact import Artifact
from zoo.models.run import Run
from zoo.report.figures import empty_figure, sheet, upright
from zoo_multiparametric_gan.config import GANConfig
from zoo_multiparametric_gan.examples import Patches
from zoo_realism.images import ImageSet, generated_images, real_images

EVALUATORS = ("realism", "kinetics", "memorisation")
SERIES = ("T1w", "ce-post1_T1w", "ce-post2_T1w", "ce-post3_T1w", "ce-post4_T1w")
SEED = 5
"""Of the patches that are shown; never chosen by their looks."""


def main() -> None:
    """Collect, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", required=True, metavar="NAME=RUN")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--shown", default="malignant", help="Class of the native images.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True, help="Start of the names of the pictures.")
    arguments = parser.parse_args()

    runs = {name: Path(folder) for name, _, folder in (text.partition("=") for text in arguments.run)}
    models = {name: Artifact.open(folder) for name, folder in runs.items()}
    first = next(iter(models.values()))
    evaluations = {name: newest(model) for name, model in models.items()}
    found = {
        "counts": {part: counts(first, getattr(arguments, part)) for part in ("train", "test")},
        "trained": {name: trained(folder) for name, folder in runs.items()},
        "models": evaluations,
        "correlation": correlation({name: one["realism"]["scores"] for name, one in evaluations.items()}),
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    draw(models, arguments.test, arguments.shown, arguments.pictures)


def newest(model: Artifact) -> dict[str, Any]:
    """Return the newest evaluation of each evaluator, without the rows of single subjects."""
    found = {}
    for name in EVALUATORS:
        files = sorted((model.folder / "evaluations").glob(f"{name}-*.json"))
        if files:
            found[name] = json.loads(files[-1].read_text(encoding="utf-8")) | {"by_subject": []}
    return found


def trained(folder: Path) -> dict[str, Any]:
    """Return how long a run was trained, on how many subjects, and which checkpoint it left."""
    record = Run.open(folder).record
    kept = {key: record.get(key) for key in ("images_seen", "best_images", "processor_seconds")}
    return {**kept, "subjects": {part: len(names) for part, names in record["split"].items()}}


def counts(model: Artifact, folder: Path) -> dict[str, Any]:
    """Return the subjects, the lesions by class and the patches by class of a cohort: the paper's table 1."""
    config = cast(GANConfig, model.config)
    cohort = read_cohort(folder).fit_for(config.data, model.method.needs)
    column = config.patches.label
    packed = pack_cohort(cohort, config.data)
    lesions: dict[str, int] = dict.fromkeys(config.patches.classes, 0)
    for scan in packed.scans:
        if column:
            for row in scan.lesion_labels.values():
                lesions[row[column]] += 1
        else:
            lesions[config.patches.classes[0]] += ndimage.label(scan.lesion_mask, np.ones((3, 3, 3)))[1]
    places = Patches(config, packed).places
    patches = {name: len(some) for name, some in zip(config.class_names, places, strict=True)}
    return {"subjects": len(cohort.subjects), "lesions": lesions, "patches": patches}


def correlation(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return Pearson's r of the Fréchet distance with each 1-NN accuracy, over classes and models."""
    places = [
        (name, key.split("/")[0]) for name, own in scores.items() for key in own if key.endswith("/model/frechet")
    ]
    metrics = ("frechet", "1-nn real", "1-nn generated")
    rows = [[scores[name][f"{condition}/model/{metric}"]["value"] for metric in metrics] for name, condition in places]
    if any(None in row for row in rows):
        return {"n": 0}
    table = np.array(rows)
    found = {metrics[column]: float(stats.pearsonr(table[:, 0], table[:, column]).statistic) for column in (1, 2)}
    return {"n": len(rows), **found}


# --- Figures. ---


def draw(models: Mapping[str, Artifact], test: Path, shown: str, start: Path) -> None:
    """Draw the paper's figures 1 to 5, in order."""
    first = next(iter(models.values()))
    needed = first.config.data
    cohort = read_cohort(test).fit_for(needed, first.method.needs)
    real = real_images(first, cohort)
    generated = {name: generated_images(model, 24, SEED) for name, model in models.items()}
    random = np.random.default_rng(SEED)

    names = first.config.class_names
    picked = [random.choice(real.rows(name)) for name in names]
    contrasts(planes(real, picked), names, first.config.data.contrasts, Path(f"{start}-real.png"))
    native = first.config.data.contrasts.index("T1w")
    for name, images in generated.items():
        rows = images.rows(shown)
        sheet(planes(images, rows)[:, native], Path(f"{start}-{name}-native.png"), columns=8)
        first_of = [images.rows(condition)[0] for condition in names]
        contrasts(planes(images, first_of), names, first.config.data.contrasts, Path(f"{start}-{name}-classes.png"))
        if set(SERIES) <= set(needed.contrasts):
            patch = dict(zip(needed.contrasts, planes(images, [images.rows(shown)[0]])[0], strict=True))
            series(patch, Path(f"{start}-{name}-series.png"))


def series(patch: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw the series and the T2w of a patch, and below the series each image minus the one before contrast agent."""
    figure = empty_figure(6 * 1.6, 2 * 1.6 + 0.3, facecolor="black")
    grid = figure.subplots(2, 6)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.92, bottom=0.01, wspace=0.03, hspace=0.03)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, name in zip(grid[0], (*SERIES, "T2w"), strict=True):
        axes.imshow(patch[name], cmap="gray", vmin=-1, vmax=1)
        axes.set_title(name, color="white", fontsize=8, pad=3)
    for axes, name in zip(grid[1][1:5], SERIES[1:], strict=True):
        axes.imshow((patch[name] - patch["T1w"]) / 2, cmap="gray", vmin=-0.1, vmax=0.5)
    figure.savefig(path, format="png", facecolor="black")


def planes(images: ImageSet, rows: Sequence[int]) -> np.ndarray:
    """Return images of some rows as a picture shows them, ``[N, C, H, W]``."""
    found = images.take(rows).numpy()
    return upright(found, found.ndim - 2)


def contrasts(images: np.ndarray, rows: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """Draw one row per class and one column per contrast; the grey values are the model's range."""
    count, channels, height, width = images.shape
    figure = empty_figure(channels * 1.5 + 1.1, count * 1.5 * height / width + 0.3, facecolor="black")
    grid = figure.subplots(count, channels, squeeze=False)
    figure.subplots_adjust(
        left=1.05 / (channels * 1.5 + 1.1), right=0.995, top=0.93, bottom=0.01, wspace=0.03, hspace=0.03
    )
    for number, (row, name, series) in enumerate(zip(grid, rows, images, strict=True)):
        for axes, title, plane in zip(row, columns, series, strict=True):
            axes.imshow(plane, cmap="gray", vmin=-1, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            if not number:
                axes.set_title(title, color="white", fontsize=8, pad=3)
        row[0].set_ylabel(name, color="white", fontsize=9, rotation=0, ha="right", va="center", labelpad=6)
    figure.savefig(path, format="png", facecolor="black")


if __name__ == "__main__":
    main()
