"""What the documents show is what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- (\S+) -->\n```\w+\n(.*?)\n```\n", re.DOTALL)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "plugins").rglob("*.md")])


def test_the_guides_code_is_the_example_plugin() -> None:
    shown = dict(BLOCK.findall((ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")))
    assert len(shown) == 5
    for name, code in shown.items():
        assert code == (ROOT / name).read_text(encoding="utf-8").rstrip(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        assert target.startswith("http") or (document.parent / target).exists(), target
