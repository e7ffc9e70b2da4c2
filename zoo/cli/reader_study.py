"""``zoo reader-study``"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from zoo.cli.options import json_option, seed_option
from zoo.cli.output import note, progress_bar, show_json, table


@click.group(name="reader-study")
def command() -> None:
    """Make pages on which people tell generated images from real ones, and analyse their answers.

    \b
    zoo reader-study make --real real --fake dcgan=fakes --out study
    zoo reader-study analyse study --answers answers-1.json --answers answers-2.json
    """


@command.command()
@click.option("--real", type=click.Path(path_type=Path), help="Folder of real images; not for --kind lesion.")
@click.option("--fake", "fakes", multiple=True, required=True, metavar="NAME=DIR",
              help="Folder of generated images and what they are called; repeatable.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder of the study.")
@click.option("--kind", type=click.Choice(["single", "pair", "lesion"]), default="single", show_default=True,
              help="Real or fake; which of two is real; click the synthetic lesion.")  # fmt: skip
@click.option("-n", "count", type=click.IntRange(min=1), metavar="N",
              help="Images per class and model, of real ones as many; default: 40, lesion: 20.")  # fmt: skip
@click.option("--warm-up", type=click.IntRange(min=0), metavar="N",
              help="Real images, and as many fakes, that come first with answers; default: 24, lesion: 0.")  # fmt: skip
@click.option("--readers", type=click.IntRange(min=1, max=99), default=2, show_default=True, help="Number of pages.")
@click.option("--classes", is_flag=True, help='Draw as many of each class ("Class" in the JSON beside an image).')
@click.option("--ratings", is_flag=True, help="Ask how sure the reader is, from 1 to 5.")
@click.option("--seconds-per-case", type=click.IntRange(min=0), metavar="S",
              help="Then the images are hidden; 0: no limit; default: no limit, lesion: 60.")  # fmt: skip
@seed_option
@json_option
def make(
    real: Path | None,
    fakes: tuple[str, ...],
    out: Path,
    kind: Literal["single", "pair", "lesion"],
    count: int | None,
    warm_up: int | None,
    readers: int,
    classes: bool,
    ratings: bool,
    seconds_per_case: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Make one page per reader, which works in any browser without a network, and the key to the answers.

    \b
    zoo reader-study make --real real --fake dcgan=dcgan --fake wgan=wgan --classes --out study
    zoo reader-study make --real real --fake wgan=wgan --kind pair --ratings --out study
    zoo reader-study make --fake prior=with-lesions --kind lesion --out study
    """
    from zoo.evaluation.reader_study.make import StudySettings, make_study

    settings = StudySettings.of(
        kind, n=count, warm_up=warm_up, readers=readers, classes=classes, ratings=ratings, seconds=seconds_per_case,
        seed=seed,
    )  # fmt: skip
    with progress_bar("Reading images") as progress:
        made = make_study(out, settings, _named_folders(fakes), real, progress)
    if as_json:
        show_json({"study": made.name, "pages": [str(page) for page in made.pages], "cases": made.cases,
                   "warm_up": made.warm_up})  # fmt: skip
        return
    click.echo(
        f"Study {made.name} in {out}: {made.cases} cases, and {made.warm_up} of the warm-up. Give each reader one page "
        f"({', '.join(page.name for page in made.pages)}) and nothing else of the folder. Then: "
        f"zoo reader-study analyse {out} --answers FILE"
    )


@command.command()
@click.argument("study_dir", type=click.Path(path_type=Path))
@click.option("--answers", "files", type=click.Path(path_type=Path), multiple=True, required=True,
              help="Answers downloaded from a reader's page; once per reader.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Also write the result as a page, report.html.")
@json_option
def analyse(study_dir: Path, files: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Say how often readers were right, against chance, how sure they were, and whether they agree.

    STUDY_DIR is the folder that 'zoo reader-study make' wrote, with answer-key.json in it. Answers that are incomplete,
    doubled, changed, or of another study are refused.

    \b
    zoo reader-study analyse study --answers answers-1.json
    zoo reader-study analyse study --answers answers-1.json --answers answers-2.json --out report.html
    zoo reader-study analyse study --answers answers-1.json --json
    """
    from zoo.evaluation.reader_study.analyse import analyse as analyse_study
    from zoo.evaluation.reader_study.report import sections, write_analysis

    analysis = analyse_study(study_dir, files)
    if out is not None:
        write_analysis(out, analysis)
    if as_json:
        show_json(analysis.to_json())
    else:
        for section in sections(analysis):
            if section.table:
                if section.text:
                    click.echo(f"\n{section.text}")
                rows = [[str(cell) for cell in row.values()] for row in section.table]
                table(f"\n{section.heading}", list(section.table[0]), rows)
        click.echo("\n" + "\n".join(analysis.notes))
    if out is not None:
        note(f"Page: {out}")


def _named_folders(fakes: tuple[str, ...]) -> dict[str, Path]:
    """Read ``NAME=DIR``.

    Raises:
        ConfigError: One is of another form, or a name is given twice.
    """
    from zoo.errors import ConfigError

    folders: dict[str, Path] = {}
    for text in fakes:
        name, separator, folder = text.partition("=")
        if not (name and separator and folder):
            raise ConfigError(f"--fake {text!r} must be a name and a folder, such as --fake dcgan=samples.")
        if name in folders:
            raise ConfigError(f"--fake names {name!r} twice; give each folder a name of its own.")
        folders[name] = Path(folder)
    return folders
