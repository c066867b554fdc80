"""The commands of ``holdover journal``, declared; `holdover.cli.journal` does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Look into an agent's journal; changes nothing in it.", no_args_is_help=True)

File = Annotated[
    Path, typer.Argument(help="The journal: [journal] file of the agent's file.", metavar="FILE")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]


@app.command()
def show(file: File, json: Json = False) -> None:
    """Show guests, devices and handovers; of a damaged journal what is readable (exit status 1)."""
    from holdover.cli.journal import show as run

    run(file, json)


@app.command()
def check(file: File, json: Json = False) -> None:
    """Say whether a journal is whole; exit status 1 and what is wrong where it is not."""
    from holdover.cli.journal import check as run

    run(file, json)
