"""``zoo edit``"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import given_options, json_option, runtime_options, seed_option, set_option
from zoo.cli.output import note, progress_bar, show_json, table
from zoo.config import validate
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.models.runtime import Runtime


@click.group(name="edit")
def command() -> None:
    """Find directions in latent space along which an attribute changes, and walk projected images along them.

    \b
    zoo edit directions RUN PROJECTIONS --by group --by age --against group:age --out DIR
    zoo edit apply RUN PROJECTIONS DIRECTIONS --alpha -20,-10,0,10,20 --out DIR
    zoo edit apply RUN PROJECTIONS DIRECTIONS --alpha-range auto --out DIR
    """


_levels_option = click.option(
    "--levels", "levels", multiple=True, metavar="COLUMN=A,B", help="Two values of a column to tell apart, A to B."
)

_features_option = click.option(
    "--features",
    default="texture",
    show_default=True,
    help="What regressors see: texture, inception, timm:NAME (a network of timm) or torchscript:FILE (runs that file).",
)
_weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Weights of that network (timm: .safetensors); default: random.",
)


@command.command(name="directions")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("projections", type=click.Path(path_type=Path))
@click.option("--by", "columns", multiple=True, metavar="COLUMN", help="Of participants.tsv, or: position.")
@click.option(
    "--against", "against", multiple=True, metavar="COLUMN:OTHER,…",
    help="Also a direction of COLUMN orthogonal to those of the others.",
)  # fmt: skip
@_levels_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the directions and their page.")
@click.option("--folds", type=click.IntRange(min=2), help="Of the cross-validation; default: 10.")
@click.option("--seed", type=click.IntRange(min=0), help="Decides the folds; default: 0.")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=0,
    help="Fit on this many generated images, labelled by a regressor of the real ones; for small cohorts.",
)
@_features_option
@_weights_option
@click.option("--test", type=click.Path(path_type=Path), help="Projections of other subjects, to be predicted as well.")
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="svm_c or ridge.")
@json_option
def directions_command(
    run: Path,
    projections: Path,
    columns: tuple[str, ...],
    against: tuple[str, ...],
    levels: tuple[str, ...],
    out: Path,
    folds: int | None,
    seed: int | None,
    samples: int,
    features: str,
    weights: Path | None,
    test: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fit directions: two groups by a linear support vector machine, numbers by ridge regression.

    \b
    zoo edit directions RUN PROJECTIONS --by group --by age --against group:age --out DIR
    zoo edit directions RUN PROJECTIONS --by position --folds 5 --out DIR
    zoo edit directions RUN PROJECTIONS --by age --samples 4000 --out DIR
    zoo edit directions RUN PROJECTIONS --by age --test OTHER-PROJECTIONS --out DIR
    zoo edit directions RUN PROJECTIONS --by type --levels type=RRMS,PPMS --out DIR
    """
    import zoo
    from zoo.metrics.features import load_extractor
    from zoo.tasks.edit.directions import FitOptions
    from zoo.tasks.edit.fit import DirectionSettings, direction_files, direction_rows, score_rows
    from zoo.tasks.projections import Projections

    if not columns and not against:
        raise ConfigError("No attribute is named; write --by COLUMN (of participants.tsv, or position).")
    settings = DirectionSettings(
        columns=columns,
        against=_pairs(against, ":", "--against group:age,position"),
        levels=dict(_pairs(levels, "=", "--levels group=HC,MS")),
        options=validate(FitOptions, given_options(assignments, folds=folds, seed=seed), what="zoo edit directions"),
        samples=samples,
    )
    with progress_bar("Fitting directions") as progress:
        found = direction_files(
            zoo.load(run),
            Projections.read(projections),
            out,
            settings,
            extractor=load_extractor(features, weights),
            unseen=Projections.read(test) if test else None,
            progress=progress,
        )
    if as_json:
        show_json({name: dict(item.about) for name, item in found.items.items()})
        return
    for title, rows in (("Prediction of unseen subjects", score_rows(found)), ("\nDirections", direction_rows(found))):
        table(title, list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    note(f"Kept in {out}")


@command.command(name="apply")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("projections", type=click.Path(path_type=Path))
@click.argument("directions", type=click.Path(path_type=Path))
@click.option("--name", "names", multiple=True, help="Direction; default: all of the file.")
@click.option("--alpha", "alphas", metavar="A,B,…", help="How far to walk; 0 is always among them.")
@click.option("--alpha-range", type=click.Choice(["auto"]), help="Find how far edits stay like real images.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of images, pictures and page.")
@click.option("--ventricles", type=click.FloatRange(0, 1), help="Slice position for fractions; default: 0.55.")
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Of the regressors.",
)
@click.option(
    "--tissue", type=click.Choice(["levels", "k-means"]), default="levels", show_default=True,
    help="How tissue is found: by brightness relative to white matter, or the paper's k-means.",
)  # fmt: skip
@click.option(
    "--random", type=click.IntRange(min=0), default=0, show_default=True,
    help="Also walk this many random directions as far, for comparison.",
)  # fmt: skip
@seed_option
@_levels_option
@_features_option
@_weights_option
@set_option
@runtime_options
@json_option
@click.pass_obj
def apply_command(
    words: list[str],
    run: Path,
    projections: Path,
    directions: Path,
    names: tuple[str, ...],
    alphas: str | None,
    alpha_range: str | None,
    out: Path,
    ventricles: float | None,
    folds: int,
    tissue: str,
    random: int,
    seed: int,
    levels: tuple[str, ...],
    features: str,
    weights: Path | None,
    assignments: tuple[str, ...],
    runtime: Runtime,
    as_json: bool,
) -> None:
    """Edit projected images: images, differences, sheets, curves, and how much other attributes move.

    \b
    zoo edit apply RUN PROJECTIONS DIRECTIONS --alpha -20,-10,0,10,20 --out DIR
    zoo edit apply RUN PROJECTIONS DIRECTIONS --name group-without-age --alpha-range auto --out DIR
    zoo edit apply RUN PROJECTIONS DIRECTIONS --alpha -5,5 --random 40 --backend onnxruntime --out DIR
    """
    import zoo
    from zoo.metrics.features import load_extractor
    from zoo.tasks.edit.directions import Directions
    from zoo.tasks.edit.files import edit_files
    from zoo.tasks.edit.page import curve_rows, entanglement_rows, range_sentences
    from zoo.tasks.edit.session import VENTRICLES, EditSettings
    from zoo.tasks.projections import Projections

    if (alphas is None) == (alpha_range is None):
        raise ConfigError("Write either --alpha with numbers or --alpha-range auto.")
    settings = EditSettings(
        alphas=_numbers(alphas) if alphas is not None else None,
        names=names,
        ventricles=VENTRICLES if ventricles is None else ventricles,
        folds=folds,
        levels=dict(_pairs(levels, "=", "--levels group=HC,MS")),
        seed=seed,
        tissue=tissue,
        random=random,
        options=given_options(assignments),
    )
    with progress_bar("Editing") as progress:
        report = edit_files(
            zoo.load(run),
            Projections.read(projections),
            Directions.read(directions),
            out,
            settings,
            load_extractor(features, weights),
            runtime=runtime,
            command=["zoo", *words],
            progress=progress,
        )
    if as_json:
        edits = [{**edit.to_json(), "folder": str(report.folders[edit.name])} for edit in report.edits]
        show_json({"page": str(report.page), "edits": edits, "notes": list(report.notes)})
        return
    for sentence in range_sentences(report.edits):
        click.echo(sentence)
    fractions = [row for row in curve_rows(report.edits) if row["quantity"] == "BPF"]
    for title, rows in (("Entanglement", entanglement_rows(report.edits)), ("\nParenchymal fraction", fractions)):
        if rows:
            table(title, list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    for sentence in report.notes:
        note(sentence)
    note(f"Look at {report.page}")


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError
        return numbers
    except ValueError:
        raise ConfigError(f"--alpha takes numbers between commas, got {text!r}; write --alpha -10,0,10.") from None


def _pairs(given: tuple[str, ...], between: str, example: str) -> list[tuple[str, list[str]]]:
    """Return ``[("group", ["age", "position"])]`` of ``"group:age,position"``."""
    found = []
    for text in given:
        name, _, rest = text.partition(between)
        if not name or not all(rest.split(",")):
            raise ConfigError(f"{text!r} is not of the right form; write {example}.")
        found.append((name, rest.split(",")))
    return found
