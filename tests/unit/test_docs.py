"""What the documents show is what is there."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from tests.conftest import ROOT
from zoo import errors
from zoo.descriptors import resolve

BLOCK = re.compile(r"<!-- (\S+) -->\n```\w+\n(.*?)\n```\n", re.DOTALL)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "plugins").rglob("*.md")])


GUIDES = sorted((ROOT / "docs" / "guides").glob("write-a-*.md"))
THIRD_PARTY = ROOT / "tests" / "third_party"
FIELDS = re.compile(r"<!-- not measured: fields of (\S+) -->\n((?:\|.*\n)+)")


@pytest.mark.parametrize("page", GUIDES, ids=lambda path: path.stem)
def test_a_guides_code_is_a_tested_plugin(page: Path) -> None:
    shown = dict(BLOCK.findall(page.read_text(encoding="utf-8")))
    distribution = {Path(name).parts[2] for name in shown}
    assert len(distribution) == 1
    for name, code in shown.items():
        assert code == (ROOT / name).read_text(encoding="utf-8").rstrip(), name
    folder = THIRD_PARTY / distribution.pop()
    files = {str(file.relative_to(ROOT)) for file in folder.rglob("*.py") if file.name != "__init__.py"}
    assert not files - shown.keys()


@pytest.mark.parametrize("page", GUIDES, ids=lambda path: path.stem)
def test_a_guides_other_code_can_be_compiled(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)\n```\n", page.read_text(encoding="utf-8"), re.DOTALL):
        compile(code, page.name, "exec")


def _public(kind: type) -> set[str]:
    """Return the names of what an author may use of a type."""
    if issubclass(kind, BaseModel):
        fields = set(kind.model_fields)
    elif dataclasses.is_dataclass(kind):
        fields = {field.name for field in dataclasses.fields(kind)}
    else:
        fields = set(getattr(kind, "_fields", ())) | set(inspect.get_annotations(kind))
        if "__init__" in vars(kind) and not getattr(kind, "_is_protocol", False):
            fields |= set(re.findall(r"self\.([a-z]\w*)\b[^=\n(]*=", inspect.getsource(kind.__init__)))
    methods = {
        name
        for name, value in vars(kind).items()
        if callable(value) or isinstance(value, property | classmethod | functools.cached_property)
    }
    return {name for name in fields | methods if not name.startswith("_") and name != "model_config"}


def _documented() -> dict[str, set[str]]:
    """Return the names in the first column of each table of fields, by the type that they are of."""
    found: dict[str, set[str]] = {}
    for page in GUIDES:
        for target, rows in FIELDS.findall(page.read_text(encoding="utf-8")):
            cells = [row.split("|")[1] for row in rows.splitlines()[2:]]
            names = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
            found[target] = {name for name in names if not name.startswith("_")}
    return found


@pytest.mark.parametrize("target", _documented())
def test_a_guides_table_has_all_public_fields_and_no_others(target: str) -> None:
    assert _documented()[target] == _public(resolve(target))


def test_the_guides_table_has_all_errors() -> None:
    text = (ROOT / "docs" / "guides" / "write-a-plugin.md").read_text(encoding="utf-8")
    section = text.partition("<!-- errors -->")[2].partition("\n# ")[0]
    for name, kind in vars(errors).items():
        own = isinstance(kind, type) and issubclass(kind, errors.ZooError) and kind is not errors.ZooError
        if own and kind.__base__ is not errors.ExportError:
            assert f"`{name}`" in section, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        assert target.startswith("http") or (document.parent / target).exists(), target


@pytest.fixture(scope="module")
def tables() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("tables")


def test_tables_say_what_the_committed_results_say(tables: ModuleType) -> None:
    for document in tables.documents():
        text = document.read_text(encoding="utf-8")
        for found in tables.MARKED.finditer(text):
            rendered = tables.render(found[1], document)
            assert found[2] == rendered, f"{document.name}: {found[1]}; run python benchmarks/tables.py"


def test_every_table_of_figures_is_held_against_a_result(tables: ModuleType) -> None:
    for document in tables.documents():
        unmarked = list(tables.unmarked_tables(document.read_text(encoding="utf-8")))
        assert not unmarked, f"{document.name}: {unmarked}; see benchmarks/tables.py"


def test_every_table_of_our_figures_names_its_command(tables: ModuleType) -> None:
    for document in tables.documents():
        unnamed = list(tables.sections_without_command(document.read_text(encoding="utf-8")))
        assert not unnamed, f"{document.name}: {unnamed}"


def test_tables_of_figures_are_found_and_others_are_not(tables: ModuleType) -> None:
    measured = "| way | dB |\n|---|---|\n| ours | 33.1 |\n"
    assert list(tables.unmarked_tables(measured)) == ["| way | dB |"]
    assert not list(tables.unmarked_tables(f"<!-- table: evaluation a.json -->\n{measured}<!-- end -->\n"))
    assert not list(tables.unmarked_tables(f"<!-- not measured: defaults -->\n\n{measured}"))
    assert not list(tables.unmarked_tables("| option | is |\n|---|---|\n| `steps=2` | two |\n"))


def test_differences_are_paired_by_subject(tables: ModuleType) -> None:
    ours = {f"sub-{number}": float(number) for number in range(6)}
    theirs = {subject: value - 1 - 0.1 * (subject == "sub-3") for subject, value in ours.items()}
    mean, bounds, n, won = tables.difference(ours, {**theirs, "sub-9": 7.0})
    assert (n, won) == (6, 6)
    assert mean == pytest.approx(1 + 0.1 / 6)
    assert bounds[0] < mean < bounds[1]
    few = {name: ours[name] for name in list(ours)[:4]}
    assert tables.difference(few, theirs)[1] == [None, None]  # no interval below five subjects


def test_an_evaluation_becomes_tables(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(value: float, better: str) -> dict[str, object]:
        return {"value": value, "ci": [value - 0.1, value + 0.1], "n": 6, "better": better}

    psnr = {"model": 33.0, "biharmonic": 31.0, "neighbours": 21.0}
    scores = {f"lesions/{who}/psnr_in": score(value, "higher") for who, value in psnr.items()}
    scores |= {f"lesions/{who}/ssim_in": score(value / 40, "higher") for who, value in psnr.items()}
    rows = [
        {"subject": f"sub-{n}", "masks": "lesions", "filled by": who, "psnr_in": value + n, "ssim_in": value / 40}
        for who, value in psnr.items()
        for n in range(6)
    ]
    evaluation = {"about": {}, "scores": scores, "by_subject": rows}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    means = tables.evaluation_table("evaluation.json")
    assert means[0] == "| hole | n | filled by | SSIM | PSNR, dB |"
    assert means[2] == "| lesions | 6 | the model | **0.825 [0.725, 0.925]** | **33.0 [32.9, 33.1]** |"
    differences = "+0.0500 [+0.0500, +0.0500] | 6 of 6 |  |  | +2.00 [+2.00, +2.00] | 6 of 6 |"
    assert tables.paired_table("evaluation.json")[2] == f"| lesions | biharmonic, slice by slice | {differences}"
    itself = tables.paired_table("evaluation.json", "evaluation.json", "lesions")
    assert itself[2] == "| lesions | +0.0000 [+0.0000, +0.0000] | 0 of 6 |  |  | +0.00 [+0.00, +0.00] | 0 of 6 |"
    assert tables.render("paired other.json", ROOT / "README.md").startswith(
        "*Not measured yet: benchmarks/results/other.json"
    )


@pytest.mark.parametrize("page", ["lesion-filling.md", "stylegan2.md"])
def test_a_methods_page_says_what_of_its_paper_has_no_code(page: str) -> None:
    text = (ROOT / "docs" / "methods" / page).read_text(encoding="utf-8")
    assert re.search(r"^## What of the (thesis|paper) has no code", text, flags=re.MULTILINE)


def test_the_verdict_on_repaint_names_the_spread_it_holds_for(tables: ModuleType) -> None:
    slopes = {(row["name"], row["sd"]): row["slope"] for row in tables.read_rows("repaint-gaussian.jsonl")}
    assert slopes["default", 0.25] > slopes["the thesis", 0.25]
    assert slopes["default", 1.0] < slopes["the thesis", 1.0]
    head = tables.gaussian_table("repaint-gaussian.jsonl")[0]
    assert "sd 0.25" in head
    assert "sd 1 " in head


def test_what_was_wrong_is_said_in_the_changelog_alone() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = document.read_text(encoding="utf-8")
        assert "462 times" not in text
        assert "wins in every row" not in text
    assert "462 times" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_words_on_steps_follow_the_sweep(tables: ModuleType) -> None:
    rows = {(row["settings"]["steps"], row["settings"].get("samples", 1)): row["paired"]["lesions"]
            for row in tables.read_rows("filling-sweep.jsonl") if "window" not in row["settings"]}  # fmt: skip
    assert rows[1, 1]["bounds"][0] > 0  # one step is regression, and nearer than the strongest classic
    assert rows[10, 1]["bounds"][1] < 0  # ten steps draw, and are farther
    page = " ".join((ROOT / "docs" / "methods" / "lesion-filling.md").read_text(encoding="utf-8").split())
    assert "That is regression" in page
    assert "A draw is sharper, but its error is larger" in page
