"""Studies and answers made up for tests; as a script, answers of made-up readers to a study that is there.

uv run python -m tests.unit.evaluation.reader_study.simulate STUDY_DIR --skill 0.7
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.evaluation.reader_study.study import KEY_FILE, STUDY_FILE, KeyCase, LesionTruth, ReaderStudy, sealed

STUDY = "0123456789ab"
STARTED, FINISHED = "2026-03-01T09:00:00.000Z", "2026-03-01T10:00:00.000Z"


def write_study(folder: Path, cases: list[dict[str, Any]], **about: Any) -> Path:
    """Write ``study.json`` and ``answer-key.json``; sources, classes and numbers follow from the cases."""
    folder.mkdir(parents=True, exist_ok=True)
    named = [{"case": f"c{number:04d}", "phase": "test", "class": "", **case} for number, case in enumerate(cases)]
    content = {
        "format": 1, "study": STUDY, "kind": "single", "seed": 0,
        "sources": list(dict.fromkeys(case["source"] for case in named if case["source"] != "real")),
        "classes": list(dict.fromkeys(case["class"] for case in named if case["class"])),
        "readers": ["reader-1", "reader-2"],
        "cases": sum(case["phase"] == "test" for case in named),
        "warm_up": sum(case["phase"] == "warm-up" for case in named),
        "made_with": "0.0", **about,
    }  # fmt: skip
    (folder / STUDY_FILE).write_text(json.dumps(content), encoding="utf-8")
    (folder / KEY_FILE).write_text(sealed({"format": 1, "study": content["study"], "cases": named}), encoding="utf-8")
    return folder


def write_answers(
    folder: Path, reader: str, answer: Callable[[KeyCase], Mapping[str, Any]], out: Path | None = None, **changes: Any
) -> Path:
    """Write the answers of a reader to all cases, as its page does.

    Args:
        folder: Of the study.
        reader: Name of the reader.
        answer: Returns the choice to a case, and what else of the answer is not as usual.
        out: File; default: ``answers-STUDY-READER.json`` in the folder.
        changes: Other content of the file.
    """
    study = ReaderStudy.read(folder)
    answers = [
        {"case": case.case, "phase": case.phase, "rating": None, "seconds": 4.25, **answer(case)}
        for case in study.key.values()
    ]
    content = {
        "format": 1, "study": study.about.study, "reader": reader,
        "background": {"role": "radiologist", "years": 7}, "started": STARTED, "finished": FINISHED,
        "answers": answers, **changes,
    }  # fmt: skip
    path = out or folder / f"answers-{study.about.study}-{reader}.json"
    path.write_text(sealed(content), encoding="utf-8")
    return path


def simulated(skill: float, seed: int) -> Callable[[KeyCase], dict[str, Any]]:
    """Return a reader who is right with probability ``skill``; with more of it, right answers are rated higher."""
    random = np.random.default_rng(seed)

    def answer(case: KeyCase) -> dict[str, Any]:
        right = random.random() < skill
        surer = round(4 * abs(skill - 0.5)) if right else 0
        rating = int(np.clip(random.integers(1, 5) + surer, 1, 5))
        return {"choice": _choice(case, right), "rating": rating, "seconds": round(float(random.gamma(4, 1.5)), 1)}

    return answer


def _choice(case: KeyCase, right: bool) -> Any:
    if isinstance(case.truth, LesionTruth):
        part = case.truth.slices[0]
        y, x = divmod(part.runs[0], case.truth.width)
        return {"slice": part.slice, "x": x + 0.5, "y": y + 0.5} if right else "none"
    other = {"real": "fake", "fake": "real", "left": "right", "right": "left"}
    return case.truth if right else other[case.truth]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--skill", type=float, default=0.7)
    options = parser.parse_args()
    for number, name in enumerate(ReaderStudy.read(options.folder).about.readers):
        print(write_answers(options.folder, name, simulated(options.skill, number)))
