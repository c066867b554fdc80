"""How commands show tables: whole words, in whatever width there is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

_UNLIMITED = 100_000
_GAP = "  "
_WORD = re.compile(r"\S+")


def screen() -> Console:
    """Standard output. A pipe or a file has no width, so that a row is always one line there."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=_UNLIMITED)


class PlainTable:
    """Rows of cells under titles, without lines.

    If all columns fit side by side, they stand so; cells of several words may take several lines. If not,
    each row is a list of its titles and cells, which goes on in the next line between two cells. No word is
    broken or cut: print with ``crop=False``.
    """

    def __init__(self, *titles: str, right: Sequence[int] = (), folds: bool = False) -> None:
        """``right`` are the numbers of the columns that are aligned to the right.

        ``folds``: a line that is longer than the window goes on in the next one, for a live table, which
        cannot be printed without ``crop``.
        """
        self._folds = folds
        self._titles = [Text(title, "bold") for title in titles]
        self._right = frozenset(right)
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row. A string is shown as it is: brackets in it are no markup."""
        row = [cell if isinstance(cell, Text) else Text(cell.replace("\n", " ")) for cell in cells]
        self._rows.append(row + [Text()] * (len(self._titles) - len(row)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines of the table."""
        lines = self._side_by_side(options.max_width)
        for line in self._one_below_the_other(options.max_width) if lines is None else lines:
            line.rstrip()
            for part in line.wrap(console, options.max_width, overflow="fold") if self._folds else [line]:
                yield from part.render(console)
                yield Segment.line()

    def _side_by_side(self, width: int) -> list[Text] | None:
        """The lines if all columns fit into ``width``, else None."""
        columns = [list(column) for column in zip(self._titles, *self._rows, strict=True)]
        widths = [max(map(_longest_word, column)) for column in columns]
        wanted = [max(cell.cell_len for cell in column) for column in columns]
        spare = width - sum(widths) - len(_GAP) * (len(widths) - 1)
        if spare < 0:
            return None
        # a column that lacks little gets it first: then only the longest cells take several lines
        for number in sorted(range(len(widths)), key=lambda each: wanted[each] - widths[each]):
            more = min(wanted[number] - widths[number], spare)
            widths[number] += more
            spare -= more
        return [line for row in (self._titles, *self._rows) for line in self._lines(row, widths)]

    def _lines(self, row: Sequence[Text], widths: Sequence[int]) -> Iterator[Text]:
        """The lines of one row."""
        cells = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts: list[str | Text] = []
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
                part = cell[number] if number < len(cell) else Text()
                padding = " " * (width - part.cell_len)
                parts += [padding, part, _GAP] if column in self._right else [part, padding, _GAP]
            yield Text.assemble(*parts)

    def _one_below_the_other(self, width: int) -> Iterator[Text]:
        """The lines if each title stands before its cell."""
        for row in self._rows:
            line = Text()
            for title, cell in zip(self._titles, row, strict=True):
                if not cell.plain.strip():
                    continue
                pair = Text.assemble(title, " " if title.plain else "", *_words(cell, " "))
                if line.plain.strip() and line.cell_len + pair.cell_len > width:
                    yield line
                    line = Text(_GAP)
                *whole, pair = _wrapped(pair, width - 2 * len(_GAP))
                for part in whole:
                    yield Text.assemble(line, part)
                    line = Text(2 * _GAP)
                line = Text.assemble(line, pair, _GAP)
            yield line


def _words(cell: Text, between: str) -> list[str | Text]:
    """The words of a cell, with something between them."""
    found: list[str | Text] = []
    for word in _WORD.finditer(cell.plain):
        found += [between, cell[word.start() : word.end()]]
    return found[1:]


def _indent(cell: Text) -> int:
    return len(cell.plain) - len(cell.plain.lstrip())


def _longest_word(cell: Text) -> int:
    """The width of the longest word; the first one has the cell's indentation before it."""
    widths = [cell_len(word) for word in cell.plain.split()]
    return max([widths[0] + _indent(cell), *widths[1:]]) if widths else 0


def _wrapped(cell: Text, width: int) -> list[Text]:
    """The lines of a cell."""
    if cell.cell_len <= width:
        return [cell]
    lines: list[Text] = []
    for word in _WORD.finditer(cell.plain):
        part = cell[word.start() : word.end()]
        if lines and lines[-1].cell_len + 1 + part.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], " ", part)
        else:
            lines.append(Text.assemble("" if lines else " " * _indent(cell), part))
    return lines
