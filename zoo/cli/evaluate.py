"""``zoo evaluate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from zoo.cli.options import given_options, json_option
from zoo.cli.output import note, progress_bar, show_json, table
from zoo.descriptors import PRECISIONS
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.evaluation.scores import Evaluation

_WIDEST = 16
"""Columns of a table of which a row can still be read."""


@click.command(name="evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="BIDS folder or .tsv manifest.")
@click.option(
    "--protocol",
    "protocol_file",
    type=click.Path(path_type=Path),
    help="TOML file that names the subjects; --data is then the folder of its cohorts.",
)
@click.option("--on", "part", type=click.Choice(["tuning", "test"]), help="Part of the protocol to measure on.")
@click.option("--with", "evaluators", multiple=True, metavar="NAME", help="Evaluator; default: the method's own.")
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="AlexNet weights for LPIPS, a local file.")
@click.option("--backend", help="Runtime of the network; zoo list shows them. Default: torch.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="What the network computes in. Default: fp32.")
@click.option("--set", "assignments", multiple=True, metavar="K=V", help="One option of the evaluators.")
@json_option
def command(
    run: Path,
    data: Path,
    protocol_file: Path | None,
    part: Literal["tuning", "test"] | None,
    evaluators: tuple[str, ...],
    lpips_weights: Path | None,
    backend: str | None,
    precision: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure a model on subjects that it has not seen, compared with baselines and the paper's results.

    \b
    zoo evaluate RUN --data my-bids-folder
    zoo evaluate RUN --data my-bids-folder --with inpainting --set lesion_masks=patients --json
    zoo evaluate RUN --protocol docs/protocol.toml --on tuning --data my-data
    zoo evaluate RUN --data my-bids-folder --backend openvino --precision bf16
    zoo evaluate RUN --data my-bids-folder --lpips-weights alexnet-owt-7be5be79.pth
    """
    import zoo
    from zoo.evaluation.run import evaluate, evaluate_by_protocol
    from zoo.evaluation.scores import PAIRED, explain

    if bool(part) != bool(protocol_file):
        raise ConfigError("--protocol FILE and --on PART go together: --protocol docs/protocol.toml --on tuning.")
    artifact = zoo.load(run)
    weights = None if lpips_weights is None else str(lpips_weights)
    options = given_options(assignments, lpips_weights=weights, backend=backend, precision=precision)
    if protocol_file and part:
        from zoo.evaluation.study_protocol import Protocol

        protocol = Protocol.read(protocol_file, data)
        results = evaluate_by_protocol(
            artifact, protocol, part, evaluators=evaluators, options=options, bar=progress_bar
        )
    else:
        results = evaluate(artifact, data, evaluators=evaluators, options=options, bar=progress_bar)
    if as_json:
        show_json({name: result.to_json() for name, result in results.items()})
        return
    for name, result in results.items():
        _show_scores(name, result)
        _show(f"\n{PAIRED}", result.paired_table())
        if artifact.method.reported:
            reported = [dict(row) for row in artifact.method.reported]
            title = f"\nReported in the paper ({artifact.method.reported_on})"
            table(title, list(reported[0]), [[str(value) for value in row.values()] for row in reported])
        click.echo(f"\n{explain(result)}")
    note(f"Saved in {artifact.folder / 'evaluations'}")


def _show_scores(name: str, result: Evaluation) -> None:
    """Print the table of scores; one of many metrics as a table per condition, with a row per metric."""
    rows = result.table()
    columns = _shown(rows)
    if len(columns) <= _WIDEST:
        _show(f"\n{name}", rows)
        return
    condition, filler = result.columns
    for value in dict.fromkeys(row[condition] for row in rows):
        own = [row for row in rows if row[condition] == value]
        cells = [[column, *(str(row[column]) for row in own)] for column in columns if column not in result.columns]
        table(f"\n{name}, {condition} {value}", [filler, *(row[filler] for row in own)], cells)


def _show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows under their columns."""
    if rows:
        columns = _shown(rows)
        table(title, columns, [[str(row.get(column, "")) for column in columns] for row in rows])


def _shown(rows: list[dict[str, Any]]) -> list[str]:
    """Return the columns without those that follow from the inside of the masks."""
    return [column for column in rows[0] if not column.endswith(("_out", "_full"))] if rows else []
