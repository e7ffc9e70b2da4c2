"""``zoo info``"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from zoo.cli.options import json_option
from zoo.cli.output import show_json, table
from zoo.errors import ConfigError
from zoo.registry import registry


@click.command(name="info")
@click.argument("what")
@click.option("--preset", help="Show the settings of this preset instead of the method's defaults.")
@json_option
def command(what: str, preset: str | None, as_json: bool) -> None:
    """Show a method with its settings, or a run or model file with its manifest.

    \b
    zoo info lesion-filling
    zoo info lesion-filling --preset tiny
    zoo info runs/lesion-filling/2026-01-31T10-20-30
    zoo info model.safetensors --json
    """
    path = Path(what)
    if what in registry().methods or not (path.exists() or "/" in what or path.suffix):
        about = _method(what, preset)
        show_json(about) if as_json else _show_method(about)
    elif preset:
        raise ConfigError(
            "--preset goes with a method's name; a run or model file shows the settings it was trained with."
        )
    else:
        about = _model(path)
        show_json(about) if as_json else _show_model(about)


def _method(name: str, preset: str | None) -> dict[str, Any]:
    from dataclasses import asdict

    from zoo.config import resolve_config
    from zoo.descriptors import resolve

    method = registry().methods[name]
    origin = registry().methods.origins[name]
    config = resolve_config(method, preset=preset) if method.trainable else None
    return {
        "name": method.name,
        "summary": method.summary,
        "version": method.version,
        "plugin": f"{origin.distribution} {origin.version}",
        "citation": asdict(method.citation),
        "licence": method.licence,
        "needs": list(method.needs),
        "also": list(method.also),
        "tasks": list(method.tasks),
        "verbs": {verb: registry().verbs[verb].summary for verb in method.tasks},
        "options": {verb: _settings(resolve(task.options)()) for verb, task in method.tasks.items()},
        "evaluators": list(method.evaluators),
        "presets": list(method.presets),
        "stages": [stage.name for stage in method.stages_of(config)] if config else [],
        "settings": _settings(config) if config else [],
        "reported": {"on": method.reported_on, "rows": [dict(row) for row in method.reported]},
    }


def _settings(config: Any, prefix: str = "") -> list[dict[str, str]]:
    """Return one row per setting, with its value in ``config``."""
    from pydantic import BaseModel

    rows: list[dict[str, str]] = []
    for name, info in type(config).model_fields.items():
        default = getattr(config, name)
        if isinstance(default, BaseModel):
            rows += _settings(default, f"{prefix}{name}.")
        else:
            bounds = " ".join(
                f"{sign} {getattr(rule, key)}"
                for rule in info.metadata
                for key, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
                if hasattr(rule, key)
            )
            rows.append(
                {
                    "setting": prefix + name,
                    "default": ",".join(map(str, default)) if isinstance(default, tuple) else str(default),
                    "bounds": bounds,
                    "meaning": info.description or "",
                }
            )
    return rows


def _show_method(about: dict[str, Any]) -> None:
    citation = about["citation"]
    click.echo(f"{about['name']} (version {about['version']}, {about['plugin']}): {about['summary']}")
    click.echo(f"{citation['authors']} {citation['year']}, {citation['title']}, {citation['venue']}")
    for key in ("licence", "needs", "also", "tasks", "evaluators", "presets"):
        value = about[key]
        click.echo(f"{key:<11} {value if isinstance(value, str) else ', '.join(value)}")
    if about["stages"]:
        click.echo(f"{'stages':<11} {', '.join(about['stages'])}")
    table("\nWhat its models do", ["command", ""], [[f"zoo {verb}", text] for verb, text in about["verbs"].items()])
    columns = ["setting", "default", "bounds", "meaning"]
    for verb, options in about["options"].items():
        table(f"\nOptions of zoo {verb}", columns, [[row[name] for name in columns] for row in options])
    table("\nSettings (--set name=value)", columns, [[row[name] for name in columns] for row in about["settings"]])
    rows = about["reported"]["rows"]
    if rows:
        title = f"\nReported in the paper ({about['reported']['on']})"
        table(title, list(rows[0]), [[str(value) for value in row.values()] for row in rows])


def _model(path: Path) -> dict[str, Any]:
    from zoo.models.artifact import MODEL_FILE, Artifact

    if (path / "run.json").is_file() and not (path / MODEL_FILE).is_file():
        return _unfinished(path)
    artifact = Artifact.open(path)
    about = {"file": str(artifact.path), "sha256": artifact.sha256, **artifact.manifest}
    record = artifact.folder / "run.json"
    if record.is_file():
        about["run"] = _run(record.parent)
    if (artifact.folder / "evaluations").is_dir():  # reading them imports scipy, which is slow
        from zoo.evaluation.run import latest_evaluations

        about["evaluations"] = latest_evaluations(artifact)
    return about


def _run(folder: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from zoo.models.run import Run

    run = Run.open(folder)
    about = {key: run.record.get(key) for key in ("status", "images_seen", "split")}
    return {**about, **({"stages": [asdict(stage) for stage in run.stages()]} if run.stages() else {})}


def _unfinished(folder: Path) -> dict[str, Any]:
    """Return what is known of a run that has no model."""
    from zoo.models.run import Run

    record = Run.open(folder).record
    kept: dict[str, Any] = {
        key: record[key] for key in ("method", "method_version", "config", "folds") if key in record
    }
    return {"folder": str(folder), **kept, "run": _run(folder)}


def _show_model(about: dict[str, Any]) -> None:
    """Print the manifest: single values first, then the rest as tables; --json has all of it."""
    run = about.get("run", {})
    for key, value in {**about, **run}.items():
        if isinstance(value, list) and key not in ("stages", "evaluations"):
            click.echo(f"{key:<17} {len(value)} hashes")
        elif key == "split" and value:
            click.echo(f"{key:<17} " + ", ".join(f"{len(names)} {part}" for part, names in value.items()))
        elif not isinstance(value, dict | list):
            click.echo(f"{key:<17} {value}")
    if run.get("stages"):
        columns = list(run["stages"][0])
        table("\nStages", columns, [[str(stage[name]) for name in columns] for stage in run["stages"]])
    if about.get("evaluations"):
        columns = ["evaluator", "when", "measured on", "the model's scores (zoo evaluate; its page has the baselines)"]
        table("\nNewest evaluations", columns, _evaluations(about["evaluations"]))
    if about.get("parts"):
        table("\nParts", ["part", "tensor", "shape", "meaning"], _tensors(about["parts"]))
    table("\nSettings", ["setting", "value"], [[name, text] for name, text in _flat(about["config"])])


def _evaluations(evaluations: list[dict[str, Any]]) -> list[list[str]]:
    """Return one row per evaluation and condition, with all scores of the model in one cell."""
    from zoo.metrics.statistics import with_interval

    rows = []
    for one in evaluations:
        texts: dict[str, list[str]] = {}
        for key, score in one["scores"].items():
            condition, _, metric = key.partition("/")
            if score["value"] is not None:
                text = with_interval(score["value"], *(score["ci"] or (None, None)))
                texts.setdefault(condition, []).append(f"{metric} {text} {score['unit']}".rstrip())
        rows += [[one["evaluator"], one["when"], condition, "; ".join(some)] for condition, some in texts.items()]
    return rows


def _tensors(parts: dict[str, Any]) -> list[list[str]]:
    """Return one row per input and output of every part of a manifest."""
    return [
        [name, f"{tensor['name']} ({kind})", " × ".join(map(str, tensor["shape"])), tensor["meaning"]]
        for name, part in parts.items()
        for kind, tensors in (("in", part["inputs"]), ("out", part["outputs"]))
        for tensor in tensors
    ]


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each setting by its full name, with its value as text."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield prefix + name, "none" if value in (None, [], {}) else text
