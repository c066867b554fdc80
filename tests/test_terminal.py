"""Tables keep words whole in every width, and lose none."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from holdover.terminal import PlainTable, screen

WORDS = st.text("abc.:-0", min_size=1, max_size=30)
CELLS = st.lists(WORDS, max_size=6).map(" ".join)


def shown(table: PlainTable, width: int) -> list[str]:
    """The lines of a table on a terminal of this width."""
    console = Console(file=io.StringIO(), width=width)
    console.print(table, crop=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@given(
    st.lists(WORDS, min_size=1, max_size=6).flatmap(
        lambda titles: st.tuples(
            st.just(titles), st.lists(st.lists(CELLS, min_size=len(titles), max_size=len(titles)), max_size=4)
        )
    ),
    st.integers(1, 200),
)
def test_no_word_is_broken_or_lost(content: tuple[list[str], list[list[str]]], width: int) -> None:
    titles, rows = content
    table = PlainTable(*titles)
    for row in rows:
        table.add_row(*row)
    lines = shown(table, width)
    words = " ".join(lines).split()
    needed = [word for row in rows for cell in row for word in cell.split()]
    for word in needed:
        words.remove(word)
    # what is left are titles, each as often as it is shown
    assert set(words) <= set(titles)
    pairs = [f"{title} {cell}" for row in rows for title, cell in zip(titles, row, strict=True) if cell]
    longest = max(map(len, pairs), default=0) + 4
    if longest <= width:
        assert max(map(len, lines), default=0) <= width or not rows


def table() -> PlainTable:
    made = PlainTable("HOST", "LUN", "WHAT", right=(0,))
    made.add_row("a", "naa.60014050000000000000000000000001", "the first one of the disks")
    made.add_row("host-b", Text("naa.6", "red"), "[red]")
    return made


def test_what_fits_stands_side_by_side() -> None:
    assert shown(table(), 80) == [
        "  HOST  LUN                                   WHAT",
        "     a  naa.60014050000000000000000000000001  the first one of the disks",
        "host-b  naa.6                                 [red]",
    ]


def test_a_cell_of_several_words_takes_several_lines() -> None:
    assert shown(table(), 60) == [
        "  HOST  LUN                                   WHAT",
        "     a  naa.60014050000000000000000000000001  the first one",
        "                                              of the disks",
        "host-b  naa.6                                 [red]",
    ]


def test_what_does_not_fit_stands_one_below_the_other() -> None:
    assert shown(table(), 45) == [
        "HOST a",
        "  LUN naa.60014050000000000000000000000001",
        "  WHAT the first one of the disks",
        "HOST host-b  LUN naa.6  WHAT [red]",
    ]


def test_a_live_table_folds_what_is_longer_than_the_window() -> None:
    live = PlainTable("LUN", folds=True)
    live.add_row("0123456789")
    assert shown(live, 8) == ["LUN", "    0123", "456789"]


def test_an_indented_cell_keeps_its_indentation() -> None:
    made = PlainTable("WHAT", "")
    made.add_row("  a b", "c")
    assert shown(made, 80)[1] == "  a b  c"
    assert shown(made, 7)[1:] == ["  a   c", "b"]


def test_a_pipe_has_no_width_whatever_the_shell_s_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert screen().width > 10_000
