"""The commands of ``holdover journal``, declared; `holdover.cli.journal.journal` does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdover.cli.command_line import CommandLine
from holdover.cli.options import JsonOption

app = CommandLine("Look into the journal of an agent, and change nothing in it.")

File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The journal: the file that [journal] in the agent's file names."),
]


@app.command()
def show(file: File, json: JsonOption = False) -> None:
    """Show guests, devices and handovers.

    If the journal is damaged, it shows what can be read, and the exit status is 1.
    """
    from holdover.cli.journal.journal import show as run

    run(file, json)


@app.command()
def check(file: File, json: JsonOption = False) -> None:
    """Check whether a journal is whole.

    If it is not, the text says what is wrong, and the exit status is 1.
    """
    from holdover.cli.journal.journal import check as run

    run(file, json)
