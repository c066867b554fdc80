"""Each page with commands has a row in testing.md, and the tests of that row name the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.typist import BLOCK, DOCS

ROOT = DOCS.parent
TABLE = DOCS / "develop" / "testing.md"
_LINK = re.compile(r"\]\(([^)]+\.md)\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)`")
_RUNBOOK = DOCS / "operate" / "runbook.md"


def rows() -> dict[Path, list[str]]:
    """By page: the tests in its row."""
    section = TABLE.read_text().partition("## Commands in the documentation\n")[2].partition("\n## ")[0]
    found: dict[Path, list[str]] = {}
    for line in section.splitlines():
        if line.startswith("| [") or line.startswith("|["):
            pages, tests, _ = (cell.strip() for cell in line.strip("|").split(" | ", 2))
            for page in _LINK.findall(pages):
                found[(TABLE.parent / page).resolve()] = _TEST.findall(tests)
    return found


ROWS = rows()


def test_each_page_with_commands_has_a_row() -> None:
    pages = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    with_commands = {page.resolve() for page in pages if BLOCK.search(page.read_text())}
    assert with_commands - set(ROWS) == set()
    assert set(ROWS) - with_commands - {_RUNBOOK} == set()


@pytest.mark.parametrize("page", sorted(ROWS), ids=lambda page: page.name)
def test_the_tests_of_a_row_name_its_page(page: Path) -> None:
    tests = ROWS[page]
    assert tests or page == _RUNBOOK
    for test in tests:
        assert page.name in (ROOT / test).read_text(), f"{test} does not name {page.name}"
