"""Writes the tables of the documents from the committed results.

    python benchmarks/tables.py            # rewrite the tables of README.md and docs/
    python benchmarks/tables.py --check    # name the documents whose tables differ from the results

A table stands between ``<!-- table: NAME FILE [words] -->`` and ``<!-- end -->``; NAME is a key of `TABLES`, FILE is in
``benchmarks/results``. A missing result becomes a line that says so. A table without measured figures has
``<!-- not measured: WHAT -->`` above it, or no digit outside of code.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editing_tables import EDITING
from zoo.metrics.statistics import mean_interval
from zoo_bench.records import read_records
from zoo_bench.report import speedup
from zoo_bench.report import table as bench_rows

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
MARKED = re.compile(r"<!-- table: (.+?) -->\n(.*?)<!-- end -->", re.DOTALL)
MODEL = "model"

Rows = list[dict[str, Any]]


def documents() -> list[Path]:
    """Return the documents whose tables are compared with results."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read_rows(name: str) -> Rows:
    """Return the objects of a JSONL file, or the one object of a JSON file, in ``benchmarks/results``."""
    text = (RESULTS / name).read_text(encoding="utf-8")
    return [json.loads(text)] if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def render(instruction: str, document: Path) -> str:
    """Return the table of a marker, ``NAME FILE [words]``, with links to its results.

    A line says so if a file is missing. The file of a column (``NAME=FILE``) may be missing.
    """
    name, *words = instruction.split()
    files = [word.rpartition("=")[2] for word in words if word.endswith((".json", ".jsonl"))]
    needed = [word for word in words if word in files]
    missing = [file for file in needed if not (RESULTS / file).is_file()]
    if missing:
        return f"*Not measured yet: benchmarks/results/{missing[0]}.*\n"
    folder = os.path.relpath(RESULTS, document.parent)
    links = [f"[{file}]({folder}/{file})" for file in files if (RESULTS / file).is_file()]
    return "\n".join([*TABLES[name](*words), "", f"*From {', '.join(links)}.*"]) + "\n"


def rewrite(document: Path) -> str:
    """Return a document with all marked tables rendered again."""
    text = document.read_text(encoding="utf-8")
    return MARKED.sub(lambda found: f"<!-- table: {found[1]} -->\n{render(found[1], document)}<!-- end -->", text)


def sections_without_command(text: str) -> Iterator[str]:
    """Yield the heading of each section that has a table of our own figures but shows no command."""
    for section in re.split(r"^(?=#+ )", text, flags=re.MULTILINE):
        ours = [found for found in MARKED.finditer(section) if not found[1].startswith("reported ")]
        if ours and not re.search(r"^    (zoo|python) ", section, flags=re.MULTILINE):
            yield section.partition("\n")[0]


def unmarked_tables(text: str) -> Iterator[str]:
    """Yield the head of each table of figures that is neither marked nor declared as not measured."""
    lines = MARKED.sub("", re.sub(r"```.*?```", "", text, flags=re.DOTALL)).splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("|") or (number and lines[number - 1].startswith("|")):
            continue
        above = next((lines[place] for place in range(number - 1, -1, -1) if lines[place].strip()), "")
        body = []
        for row in lines[number + 2 :]:
            if not row.startswith("|"):
                break
            body.append(re.sub(r"`[^`]*`|\[[^\]]*\]\([^)]*\)", "", row))
        if re.search(r"\d", "".join(body)) and not above.startswith("<!-- not measured: "):
            yield line


# --- Cells. ---


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return [("|" + "|".join(line) + "|" if line[0] == "---" else "| " + " | ".join(line) + " |") for line in lines]


def figure(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits; large numbers are written in full."""
    if value is None:
        return ""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else text


def with_bounds(value: float, bounds: Sequence[float | None] | None, style: str, sign: str = "") -> str:
    """Return ``0.979 [0.968, 0.990]``, or the value alone without an interval."""
    shown = f"{value:{sign}{style}}"
    if bounds is None or bounds[0] is None:
        return shown
    return f"{shown} [{bounds[0]:{sign}{style}}, {bounds[1]:{sign}{style}}]"


# --- Quality: results of `zoo evaluate`. ---

STYLES = {"ssim": ".3f", "psnr": ".1f", "mse": ".4f", "seam": ".2f", "stripes": ".2f"}
PAIRED = ("ssim_in", "ssim_filled", "psnr_in")
HEADS = {"ssim_in": "SSIM", "ssim_filled": "SSIM, filled voxels alone", "psnr_in": "PSNR, dB", "mse_in": "MSE"}
HEADS |= {"coverage_1sd": "truth within 1 sd", "coverage_2sd": "truth within 2 sd"}
NAMES = {
    "biharmonic": "biharmonic, slice by slice",
    "biharmonic 2D + 3D": "biharmonic, mean of 2D and 3D",
    "neighbours": "white matter with noise",
}


def _style(metric: str) -> str:
    return STYLES.get(metric.split("_")[0], ".3g")


def _conditions(evaluation: Mapping[str, Any], wanted: str) -> list[str]:
    found = list(dict.fromkeys(key.split("/")[0] for key in evaluation["scores"]))
    return [name for name in found if wanted in ("", "all") or name in wanted.split("+")]


def evaluation_table(file: str, conditions: str = "all", metrics: str = "ssim_in,ssim_filled,psnr_in") -> list[str]:
    """Mean over subjects with its interval, one row per condition and filler; the best value per condition is bold."""
    evaluation = read_rows(file)[0]
    scores = evaluation["scores"]
    shown = [name for name in metrics.split(",") if any(key.endswith(f"/{name}") for key in scores)]
    rows: list[list[str]] = []
    for condition in _conditions(evaluation, conditions.replace("_", " ")):
        who = list(dict.fromkeys(key.split("/")[1] for key in scores if key.startswith(f"{condition}/")))
        best = {name: _best(scores, condition, who, name) for name in shown}
        for filler in who:
            found = [scores.get(f"{condition}/{filler}/{name}") for name in shown]
            known = [score if score and score["value"] is not None else None for score in found]
            n = max((score["n"] for score in known if score), default=0)
            cells = []
            for name, score in zip(shown, known, strict=True):
                text = with_bounds(score["value"], score["ci"], _style(name)) if score else ""
                text += f" (n = {score['n']})" if score and score["n"] != n else ""
                cells.append(f"**{text}**" if score and filler == best[name] else text)
            if n:
                rows.append([condition, str(n), "the model" if filler == MODEL else NAMES.get(filler, filler), *cells])
    return grid(["hole", "n", "filled by", *(HEADS.get(name, name) for name in shown)], rows)


def _best(scores: Mapping[str, Any], condition: str, who: Sequence[str], metric: str) -> str:
    found = {name: scores.get(f"{condition}/{name}/{metric}") for name in who if name != "unfilled"}
    known = {name: score for name, score in found.items() if score and score["value"] is not None}
    error = {"higher": lambda value: -value, "lower": lambda value: value, "nearer 1": lambda value: abs(value - 1)}
    return min(known, key=lambda name: error[known[name]["better"]](known[name]["value"]), default="")


def by_subject(evaluation: Mapping[str, Any], condition: str, filler: str, metric: str) -> dict[str, float]:
    """Return a metric by subject."""
    return {
        row["subject"]: row[metric]
        for row in evaluation["by_subject"]
        if row["masks"] == condition and row["filled by"] == filler and row.get(metric) is not None
    }


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, list[float | None], int, int]:
    """Return the mean paired difference, its interval, the number of subjects, and for how many the first is higher.

    There is no interval below five subjects.
    """
    differences = [one[subject] - other[subject] for subject in sorted(one.keys() & other.keys())]
    found = mean_interval(differences)
    bounds: list[float | None] = [found.low, found.high] if found.n >= 5 else [None, None]
    return found.mean, bounds, found.n, int(np.sum(np.array(differences) > 0))


def strongest(evaluation: Mapping[str, Any], condition: str) -> str:
    """Return the baseline with the highest mean PSNR under a condition."""
    rows = {row["filled by"] for row in evaluation["by_subject"] if row["masks"] == condition} - {MODEL, "unfilled"}
    return max(sorted(rows), key=lambda who: np.mean(list(by_subject(evaluation, condition, who, "psnr_in").values())))


def paired_table(file: str, other: str = "", conditions: str = "all") -> list[str]:
    """The model minus the strongest classic filler, paired by subject; with a second file minus that file's model."""
    one = read_rows(file)[0]
    rows: list[list[str]] = []
    two = read_rows(other)[0] if other.endswith(".json") else one
    wanted = conditions if other.endswith(".json") or not other else other
    for condition in _conditions(one, wanted.replace("_", " ")):
        rival = MODEL if two is not one else strongest(one, condition)
        cells = []
        for metric in PAIRED:
            own, theirs = (by_subject(of, condition, who, metric) for of, who in ((one, MODEL), (two, rival)))
            if not own.keys() & theirs.keys():
                cells += ["", ""]
                continue
            mean, bounds, n, won = difference(own, theirs)
            cells += [
                with_bounds(mean, bounds, {"psnr_in": ".2f", "ssim_in": ".4f"}.get(metric, ".3f"), "+"),
                f"{won} of {n}",
            ]
        if any(cells):
            rows.append([condition, *([] if two is not one else [NAMES.get(rival, rival)]), *cells])
    against = [] if two is not one else ["strongest classic"]
    heads = [head for metric in PAIRED for head in (f"{HEADS[metric]}, difference", "higher in")]
    return grid(["hole", *against, *heads], rows)


def sweep_table(file: str) -> list[str]:
    """Sampling settings of one model: cost, and the difference to the strongest classic filler, paired by subject."""
    rows = []
    for row in read_rows(file):
        cells = []
        for condition in ("lesions", "circles"):
            found = row["paired"].get(condition)
            cells += [
                f"{found['psnr']:.1f}" if found else "",
                with_bounds(found["difference"], found["bounds"], ".2f", "+") if found else "",
                f"{found['won']} of {found['n']}" if found else "",
            ]
        rows.append([row["way"], f"{row['processor_seconds']:.1f}", *cells])
    heads = ["dB", "to the strongest classic", "higher in"]
    return grid(
        ["way", "processor seconds", *(f"{where}, {head}" for where in ("lesions", "circles") for head in heads)], rows
    )


def thesis_table(file: str) -> list[str]:
    """Our preset and the thesis' method, trained for the same CPU time: sizes and costs."""
    rows = read_rows(file)
    lines = [
        ("parameters", "parameters", ",.0f"),
        ("images seen", "images", ",.0f"),
        ("training, processor seconds", "training_processor_seconds", ",.0f"),
        ("windows or slices, pixels", "size", ""),
        ("solver and steps", "sampling", ""),
        ("filling eight slices of a patient, processor seconds", "filling_processor_seconds", ",.1f"),
    ]
    body = [[head, *(f"{row[key]:{style}}" if style else str(row[key]) for row in rows)] for head, key, style in lines]
    return grid(["", *(row["way"] for row in rows)], body)


def reported_table(file: str) -> list[str]:
    """Figures that a paper reports, as printed there."""
    found = read_rows(file)[0]
    return grid(found["columns"], [[str(cell) for cell in row] for row in found["rows"]])


def gaussian_table(file: str) -> list[str]:
    """RePaint on pairs of normal voxels: slope of the filled voxel relative to the correct slope, by spread."""
    rows = read_rows(file)
    spreads = sorted({row["sd"] for row in rows})
    settings = list(dict.fromkeys((row["steps"], row["jump_length"], row["resamples"], row["name"]) for row in rows))
    body = []
    for steps, jump, resamples, name in settings:
        known = {
            row["sd"]: row
            for row in rows
            if (row["steps"], row["jump_length"], row["resamples"]) == (steps, jump, resamples)
        }
        calls = str(known[spreads[0]]["network_calls"])
        found = [f"{known[sd]['slope']:.2f}" for sd in spreads]
        body.append([f"{steps}, {jump}, {resamples}", name, calls, *found])
    heads = [f"follows its mean, sd {sd:g}" for sd in spreads]
    return grid(["steps, jump length, resamples", "", "network calls", *heads], body)


# --- Speed. ---


def bench_table(file: str) -> list[str]:
    """Rows of `zoo bench`."""
    records = read_records(RESULTS / file)
    rows = []
    for record, cells in zip(records, bench_rows(records), strict=True):
        work = (
            "`fill` of a phantom patient"
            if record.work.kind == "task"
            else f"{record.work.name}, " + "×".join(str(side) for side in record.work.size or ())
        )
        rows.append([work, cells["backend"], cells["ms, median [95 %]"], cells["× first row"], cells["rel. error"],
                     cells["PSNR, dB"], cells["gate"] or "–", cells["peak MB"]])  # fmt: skip
    heads = ["work", "runtime", "ms, median [95 %]", "× first", "relative error", "PSNR, dB", "gate", "peak, MB"]
    return grid(heads, rows)


def peers_table(file: str) -> list[str]:
    """The same network sampled by several libraries."""
    heads = ["backend", "version", "ms, median [95 %]", "per s", "× first row", "rel. error"]
    return grid(heads, [[row[head] for head in heads] for row in bench_rows(read_records(RESULTS / file))])


def _by_machine(words: Sequence[str]) -> dict[str, Path]:
    """Return the file of each machine of ``NAME=FILE``; an underscore is a space, and a file may be missing."""
    named = (word.partition("=") for word in words)
    return {machine.replace("_", " "): RESULTS / file for machine, _, file in named}


def shape_table(*machines: str) -> list[str]:
    """Speed of StyleGAN2 relative to the usual formulation, one column per machine: median and range over rounds."""
    files = _by_machine(machines)
    rows = {machine: read_rows(file.name) if file.is_file() else [] for machine, file in files.items()}
    keys = dict.fromkeys((row["what"], row["batch"], row["how"]) for found in rows.values() for row in found)
    body = []
    for what, batch, how in keys:
        if how.startswith("usual"):
            continue
        cells = []
        for found in rows.values():
            row = next((row for row in found if (row["what"], row["batch"], row["how"]) == (what, batch, how)), None)
            cells.append(with_bounds(row["ratio"], row["ratios"], ".2f") if row else "not measured")
        body.append([f"{what}, batch {batch}", how, *cells])
    return grid(["work", "how", *rows], body)


def peer_ratios_table(*machines: str) -> list[str]:
    """Speed of sampling with OpenVINO in float32 relative to other libraries, one column per machine."""
    body = []
    for peer in ("diffusers fp32", "monai fp32"):
        cells = []
        for file in _by_machine(machines).values():
            ratio = _peer_ratio(file, peer) if file.is_file() else None
            cells.append("not measured" if ratio is None else f"{ratio:.2f}")
        body.append([f"to {peer.split()[0]}", *cells])
    return grid(["mri-zoo, OpenVINO fp32", *_by_machine(machines)], body)


def _peer_ratio(file: Path, peer: str) -> float | None:
    rows = read_rows(file.name)
    if "ratio" in rows[0]:
        return next(row["ratio"] for row in rows if row["to"] == peer)
    records = {f"{record.backend.name} {record.precision}": record for record in read_records(file)}
    return speedup(records[peer], records["mri-zoo openvino fp32"])


def machines_table(file: str) -> list[str]:
    """The processors of the measurements, and OpenVINO's instructions on each."""
    rows = read_rows(file)
    heads = ["machine", "instructions", "OpenVINO's convolutions, fp32", "bf16", "idle"]
    keys = ["machine", "instructions", "openvino_fp32", "openvino_bf16", "idle"]
    return grid(heads, [[str(row[key]) for key in keys] for row in rows])


def stages_table(file: str) -> list[str]:
    """Seconds of `zoo fill` by stage."""
    rows = read_rows(file)
    stages = list(rows[0]["seconds"])
    body = [[stage, *(f"{row['seconds'][stage]:.2f}" for row in rows)] for stage in stages]
    body.append(["**whole command**", *(f"**{row['whole']:.1f}**" for row in rows)])
    return grid(["stage", *(f"{row['backend']} {row['precision']}" for row in rows)], body)


def cost_table(file: str) -> list[str]:
    """Seconds of filling by the number of lesions."""
    rows = read_rows(file)
    cells = [
        [str(row["lesions"]), f"{row['voxels']:,}", f"{row['windows']:,}", f"{row['seconds']:.2f}"] for row in rows
    ]
    return grid(["lesions", "mm³", "windows", "seconds"], cells)


def freed_table(file: str) -> list[str]:
    """Milliseconds of a network call with freed memory returned to the system, and kept."""
    body = [
        [f"`{row['method']}`, {row['part']}, batch {row['batch']}", f"{1e3 * row['seconds']:.0f}",
         f"{1e3 * row['seconds_kept']:.0f}", f"{row['seconds'] / row['seconds_kept']:.2f}"]
        for row in read_rows(file)
    ]  # fmt: skip
    return grid(["network", "given back, ms", "kept, ms", "×"], body)


def cache_table(file: str) -> list[str]:
    """Slices per second from volumes and from the packed cache."""
    body = [
        [f"{row['cohort']}, {row['volume'][0]} slices of {row['volume'][1]} × {row['volume'][2]}",
         *(f"{row['slices_per_second'][way]:,.0f}" for way in ("decoded", "packed")), f"{row['ratio']:.0f} ×"]
        for row in read_rows(file)
    ]  # fmt: skip
    return grid(["cohort", "decoding the volume anew", "from the cache", "ratio"], body)


def _ways(rows: Rows, *key: str) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    found: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["way"] in ("definition", "winograd"):
            name = tuple(str(row.get(part)) for part in key)
            found.setdefault(name, {})[f"{row['precision']} {row['way']}"] = row
    return found


def _pair(ways: Mapping[str, Any], precision: str) -> list[str]:
    by_definition, filtered = ways[f"{precision} definition"], ways[f"{precision} winograd"]
    seconds = [figure(1e3 * row["seconds"]) for row in (by_definition, filtered)]
    return [" → ".join(seconds), f"{filtered['ratio']:.2f} ×"]


CONVOLUTIONS = ("2 1 64 64", "2 1 128 128", "2 1 256 64", "2 1 512 32", "2 8 128 32", "3 1 128 32", "3 1 256 16")
"""The cases that the table shows: dims, batch, channels, side."""


def convolutions_table(file: str) -> list[str]:
    """Milliseconds of single convolutions, direct and by Winograd's minimal filtering."""
    rows = [row for row in read_rows(file) if "channels" in row]
    found = _ways(rows, "dims", "batch", "channels", "side")
    body = []
    for shown in CONVOLUTIONS:
        dims, batch, channels, side = shown.split()
        ways = found[dims, batch, channels, side]
        sides = " × ".join([side] * int(dims))
        body.append([f"{channels}, {sides}, {batch}", *_pair(ways, "fp32"), *_pair(ways, "bf16")])
    return grid(["channels, image, batch", "fp32", "", "bf16", ""], body)


def networks_table(file: str) -> list[str]:
    """Milliseconds and errors of whole networks, with direct convolutions and with minimal filtering."""
    rows = [{**row, "side": row["inputs"][0][-1]} for row in read_rows(file) if "inputs" in row]
    body = []
    for (model, part, batch, side), ways in _ways(rows, "model", "part", "batch", "side").items():
        cells = []
        for precision in ("fp32", "bf16"):
            errors = [f"{ways[f'{precision} {way}']['error']:.2g}" for way in ("definition", "winograd")]
            cells += [*_pair(ways, precision), " → ".join(errors)]
        where = f", {side} px" if side.isdigit() and model == "lesion-filling" else ""
        body.append([f"`{model}`, {part}{where}, batch {batch}", *cells])
    return grid(["network", "fp32, ms", "", "error", "bf16, ms", "", "error"], body)


# --- Distributions: results of `zoo evaluate` with realism, kinetics and memorisation, collected by a study. ---

SETS = {
    "model, as many as floor": "{}, as many as the floor",
    "model - real": "{} - real",
    "real": "real",
    "real (floor)": "real against real",
    "real (held out)": "real of unseen subjects",
    "real halves (floor)": "real halves, difference",
}
"""Sets that evaluators of distributions name, and how they are called beside the name of a model."""


def distribution_table(file: str, evaluator: str, metrics: str, hide: str = "") -> list[str]:
    """One row per class and model, then those of real images; the metrics are separated by commas, _ for a space.

    Sets in ``hide`` are left out.
    """
    found = read_rows(file)[0]["models"]
    chosen = metrics.replace("_", " ").split(",")
    scores = {name: own[evaluator]["scores"] for name, own in found.items()}
    keys = [key.split("/")[:2] for own in scores.values() for key in own]
    fillers = [
        name for name in dict.fromkeys(filler for _, filler in keys) if name not in hide.replace("_", " ").split(",")
    ]
    body = []
    for condition in dict.fromkeys(condition for condition, _ in keys):
        for name, own in scores.items():
            for filler in (one for one in fillers if one.startswith(MODEL)):
                body += _distribution_row(own, condition, filler, SETS.get(filler, "{}").format(name), chosen)
        for filler in (one for one in fillers if not one.startswith(MODEL)):
            body += _distribution_row(next(iter(scores.values())), condition, filler, SETS[filler], chosen)
    return grid(["class", "set", "images", *chosen], body)


def _distribution_row(
    scores: Mapping[str, Any], condition: str, filler: str, name: str, metrics: Sequence[str]
) -> list[list[str]]:
    own = [scores.get(f"{condition}/{filler}/{metric}") for metric in metrics]
    if not any(score and score["value"] is not None for score in own):
        return []
    images = next((str(score["images"]) for score in own if score and score["images"]), "")
    cells = [
        with_bounds(score["value"], score["ci"], ".3g") if score and score["value"] is not None else "" for score in own
    ]
    return [[condition, name, images, *cells]]


def stability_table(file: str) -> list[str]:
    """One row per way of training: runs, those that diverged, distances and gradients at the end."""
    rows = read_rows(file)
    body = []
    for way in sorted({row["way"] for row in rows}):
        own = [row for row in rows if row["way"] == way]
        last, growth, gradient = (
            sorted(values)
            for values in (
                [row["checks"][-1]["mean"] for row in own],
                [row["growth"] for row in own],
                [row["trace"]["gradient"][-1] for row in own],
            )
        )
        diverged = sum(row["diverged"] for row in own)
        ranges = [f"{values[0]:.3g} to {values[-1]:.3g}" for values in (last, growth, gradient)]
        body.append([way, figure(own[0]["learning_rate"], 1), f"{diverged} of {len(own)}", *ranges])
    heads = ["way", "learning rate", "diverged", "last distance", "last / lowest", "critic's gradient norm, last"]
    return grid(heads, body)


def patches_table(file: str) -> list[str]:
    """Seconds for many patches by each form of a generator, and how many times as fast as the usual form each is."""
    rows = read_rows(file)
    body = [
        ["-".join(map(str, row["widths"])), row["how"], str(row["threads"]), f"{np.median(row['seconds']):.1f}",
         with_bounds(row["ratio"], row["range"], ".2f")]
        for row in rows
    ]  # fmt: skip
    return grid(["widths", "how", "threads", f"{rows[0]['patches']:,} patches, s", "times as fast"], body)


def counts_table(file: str) -> list[str]:
    """Subjects, lesions and patches of the cohorts of a study of patches."""
    counts = read_rows(file)[0]["counts"]
    lesions, patches = ([name for part in counts.values() for name in part[kind]] for kind in ("lesions", "patches"))
    lesions, patches = list(dict.fromkeys(lesions)), list(dict.fromkeys(patches))
    heads = [
        "cohort",
        "subjects",
        *(f"{name} lesions".replace("lesion lesions", "lesions") for name in lesions),
        *(f"{name} patches" for name in patches),
    ]
    body = [
        [part, str(own["subjects"]), *(str(own["lesions"][name]) for name in lesions),
         *(str(own["patches"][name]) for name in patches)]
        for part, own in counts.items()
    ]  # fmt: skip
    return grid(heads, body)


def trained_table(file: str) -> list[str]:
    """How long the models of a study were trained."""
    body = [
        [name, f"{own['images_seen']:,}", f"{own['best_images']:,}" if own["best_images"] else "the last",
         f"{own['processor_seconds'] / 60:.0f}", ", ".join(f"{n} {part}" for part, n in own["subjects"].items())]
        for name, own in read_rows(file)[0]["trained"].items()
    ]  # fmt: skip
    return grid(["model", "images seen", "checkpoint kept, images", "processor minutes", "subjects"], body)


TABLES: dict[str, Callable[..., list[str]]] = {
    **EDITING,
    "bench": bench_table,
    "cache": cache_table,
    "convolutions": convolutions_table,
    "cost": cost_table,
    "counts": counts_table,
    "distribution": distribution_table,
    "evaluation": evaluation_table,
    "freed": freed_table,
    "gaussian": gaussian_table,
    "machines": machines_table,
    "networks": networks_table,
    "paired": paired_table,
    "patches": patches_table,
    "peer-ratios": peer_ratios_table,
    "peers": peers_table,
    "reported": reported_table,
    "shape": shape_table,
    "stability": stability_table,
    "stages": stages_table,
    "sweep": sweep_table,
    "thesis": thesis_table,
    "trained": trained_table,
}


def main() -> None:
    """Rewrite the documents, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Change nothing; exit 1 if a table is out of date.")
    arguments = parser.parse_args()
    stale = []
    for document in documents():
        new = rewrite(document)
        if new != document.read_text(encoding="utf-8"):
            stale.append(document.name)
            if not arguments.check:
                document.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'Out of date' if arguments.check else 'Rewritten'}: {', '.join(stale)}")
    sys.exit(1 if arguments.check and stale else 0)


if __name__ == "__main__":
    main()
