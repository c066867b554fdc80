"""How tables look: as wide as they need to be where nobody's window limits them."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

__all__ = ["plain_table", "screen"]

_PIPED_WIDTH = 200


def screen() -> Console:
    """Standard output; a pipe or a file is wide."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPED_WIDTH)


def plain_table(*titles: str) -> Table:
    """A table without lines; on a narrow window long words go on in the next line and nothing is cut."""
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
