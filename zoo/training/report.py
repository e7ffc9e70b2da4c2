"""What a training leaves to look at: ``report.html`` and the model card."""

from __future__ import annotations

import io
import json
from typing import Any

from zoo.descriptors import Method
from zoo.models.run import Run
from zoo.report.figures import loss_curves
from zoo.report.html import Section, write_report
from zoo.system.files import write_text

_SHEETS = 6


def write_training_report(run: Run, method: Method) -> None:
    """Write ``report.html`` (curves, samples, settings) and ``README.md`` (the model card) into a run folder."""
    summary = [{"what": key, "value": value} for key, value in _summary(run, method).items()]
    settings = [{"setting": key, "value": str(value)} for key, value in _flatten(run.record["config"]).items()]
    stages = [
        {"stage": stage.name, "status": stage.status, "images seen": str(stage.images_seen)} for stage in run.stages()
    ]
    sections = [Section(heading="Summary", text=method.summary, table=summary)]
    if stages:
        sections.append(Section(heading="Stages", table=stages))
    for name, part in _trainings(run):
        sections += _training_sections(part, f"{name}: " if name else "")
    sections.append(Section(heading="Settings", table=settings))
    write_report(run.folder / "report.html", f"{method.name}: training", sections)
    write_text(run.folder / "README.md", _card(run, method))


def _trainings(run: Run) -> list[tuple[str, Run]]:
    """Return the run itself, or those of its stages and of their folds that have started, with their names."""
    if not run.stages():
        return [("", run)]
    started = []
    for stage in run.stages():
        folder = run.folder / "stages" / stage.name
        folds = sorted((folder / "folds").glob("*"), key=lambda fold: int(fold.name))
        named = [(stage.name, folder), *((f"{stage.name}, fold {int(fold.name) + 1}", fold) for fold in folds)]
        started += [(name, Run.open(one)) for name, one in named if (one / "metrics.jsonl").is_file()]
    return started


def _training_sections(run: Run, prefix: str) -> list[Section]:
    """Return the curves and the sample sheets of one training."""
    sheets = sorted((run.folder / "samples").glob("*.png"))
    shown = sheets[:: max(len(sheets) // _SHEETS, 1)][-_SHEETS:]
    samples = [(sheet.read_bytes(), f"after {int(sheet.stem)} images") for sheet in shown]
    figure = loss_curves(run.metrics())
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return [
        Section(heading=f"{prefix}Curves", figures=[(png.getvalue(), "losses over images seen")]),
        Section(
            heading=f"{prefix}Samples",
            text="On validation subjects, or on training subjects where there are none.",
            figures=samples,
        ),
    ]


def _summary(run: Run, method: Method) -> dict[str, Any]:
    record = run.record
    seconds = sum(part.metrics()[-1]["seconds"] for _, part in _trainings(run) if part.metrics())
    return {
        "method": f"{method.name}, version {method.version}",
        "status": record["status"],
        "images seen": record["images_seen"],
        "time": f"{seconds / 60:.1f} min" if seconds else "",
        **_best(run),
        "subjects": ", ".join(f"{len(names)} {part}" for part, names in record["split"].items()),
        **record["environment"],
    }


def _best(run: Run) -> dict[str, Any]:
    """Return which checkpoint is the best one, for each training that has validation scores."""
    if not run.stages():
        best = run.record.get("best_images") or "not measured (too few validation subjects)"
        return {"best checkpoint": best}
    return {
        f"best checkpoint of {name}": part.record["best_images"]
        for name, part in _trainings(run)
        if part.record.get("best_images")
    }


def _card(run: Run, method: Method) -> str:
    citation = method.citation
    lines = [f"# {method.name}", "", method.summary, ""]
    lines += [f"- {key}: {value}" for key, value in _summary(run, method).items()]
    lines += [
        f"- licence: {method.licence}",
        f"- method: {citation.authors} {citation.year}, {citation.title}, {citation.venue}",
        "",
        "Intended use: research on MRI. Not a medical device; not for diagnosis or treatment. Images made with it are "
        "synthetic and must be marked as such.",
        "",
        "The model may remember images it was trained on; do not publish it without checking.",
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(run.record["config"], indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
