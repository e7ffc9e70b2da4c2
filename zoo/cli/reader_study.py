"""``zoo reader-study``"""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import json_option
from zoo.cli.output import note, show_json, table


@click.group(name="reader-study")
def command() -> None:
    """Make pages on which people tell generated images from real ones, and analyse their answers.

    \b
    zoo reader-study make --real real --fake dcgan=fakes --out study
    zoo reader-study analyse study --answers answers-1.json --answers answers-2.json
    """


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
