"""Tables of atrophy measures and edits, from the committed results."""

from __future__ import annotations

import json

import pytest

from editing_tables import EDITING, RESULTS, interval

FILES = {
    "atrophy-truth": ["atrophy-measures.jsonl"],
    "atrophy-changes": ["atrophy-measures.jsonl"],
    "atrophy-age": ["atrophy-measures.jsonl"],
    "atrophy-projection": ["atrophy-measures.jsonl"],
    "projected": ["editing-phantom.json", "editing-adults.json"],
    "edit-changes": ["editing-phantom.json"],
    "edit-others": ["editing-phantom.json"],
    "edit-entanglement": ["editing-adults.json"],
}


@pytest.mark.parametrize("name", EDITING)
def test_every_table_has_whole_rows(name: str) -> None:
    lines = EDITING[name](*FILES[name])
    assert len(lines) > 3
    assert len({line.count("|") for line in lines}) == 1


def test_the_default_estimator_follows_the_truth_and_not_brightness() -> None:
    rows = [json.loads(line) for line in (RESULTS / "atrophy-measures.jsonl").read_text(encoding="utf-8").splitlines()]
    own = [row for row in rows if row["estimator"] == "levels"]
    truth = {(row["quantity"], row["position"]): row for row in own if row["study"] == "truth"}
    for position in (0.55, 0.58, 0.62, 0.66):
        assert truth["BPF", position]["r_low"] > 0.9
        assert truth["ventricles", position]["r_low"] > 0.9
    brightness = [row for row in own if row["study"] == "change" and row["change"].startswith("brightness")]
    assert brightness
    assert all(row["largest"] < 0.005 for row in brightness)


def test_no_interval_without_bounds() -> None:
    assert interval(0.5, None, None, ".2f") == "0.50"
    assert interval(0.5, 0.25, 0.75, ".2f") == "0.50 [0.25, 0.75]"
