"""The threat model names what exists: for each attack a test, for each budget the file that holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "understand" / "security.md"
_NAME = re.compile(r"`([\w/.]+\.py)(?:::(\w+))?`")


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a page; each row is its cells, and the first row is the heading."""
    for block in re.split(r"\n\n+", text):
        lines = block.strip().splitlines()
        if lines and lines[0].startswith("|"):
            yield [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def rows(last: str) -> list[list[str]]:
    """The rows of the table whose last column has that heading."""
    (found,) = [table for table in tables(PAGE.read_text()) if table[0][-1].strip("| ") == last]
    return found[2:]


@pytest.mark.parametrize("table", list(tables(PAGE.read_text())), ids=lambda table: table[0][0])
def test_every_table_has_a_heading(table: list[list[str]]) -> None:
    assert re.fullmatch(r"[| :-]+", "|".join(table[1])), table[0]
    assert {len(row) for row in table} == {len(table[0])}


@pytest.mark.parametrize("row", rows("test in `tests/security/`"), ids=lambda row: row[0][:60])
def test_every_attack_has_its_test(row: list[str]) -> None:
    names = _NAME.findall(row[-1])
    assert names
    for file, function in names:
        path = ROOT / file if "/" in file else ROOT / "tests" / "security" / file
        assert path.is_file(), file
        assert not function or f"def {function}(" in path.read_text(), function


@pytest.mark.parametrize("row", rows("where"), ids=lambda row: row[0][:60])
def test_every_budget_has_its_place(row: list[str]) -> None:
    names = _NAME.findall(row[-1])
    assert names
    for file, _ in names:
        assert (ROOT / "src" / "holdover" / file).is_file(), file


def test_every_test_of_an_attack_is_in_the_page() -> None:
    there = {path.name for path in (ROOT / "tests" / "security").glob("test_*.py")}
    named = {
        Path(file).name for row in rows("test in `tests/security/`") for file, _ in _NAME.findall(row[-1])
    }
    assert there <= named
