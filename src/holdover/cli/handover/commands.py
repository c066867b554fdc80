"""The commands of ``holdover handover``, declared; `holdover.cli.handover.handover` does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdover.cli.asking import API, BY_OPTIONS, Asking, agent_api
from holdover.cli.command_line import CommandLine
from holdover.cli.completion import complete_handover
from holdover.cli.options import (
    DEFAULT_AGENT,
    GuestArgument,
    JsonOption,
    StaleOption,
    ToOption,
)

app = CommandLine(
    """Hand a guest over step by step, while another program drives its migration.

    prepare while the guest runs; commit when it has stopped; finish when it runs on the destination; rollback
    if it stays. Exit status: 0 done, 1 not done, 3 in doubt.
    """
)

AtSource = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="ADDRESS", envvar=API, help=f"The API of the source's agent. {DEFAULT_AGENT}"
    ),
]
AtDestination = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="ADDRESS", envvar=API, help=f"The API of the destination's agent. {DEFAULT_AGENT}"
    ),
]
AtEither = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="ADDRESS", envvar=API, help=f"The API of the agent of either host. {DEFAULT_AGENT}"
    ),
]
HandoverOption = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="ID",
        help="The id of the handover. [default: the guest's newest]",
        autocompletion=complete_handover,
    ),
]


@app.command()
def prepare(
    guest: GuestArgument,
    to: ToOption,
    at: AtSource = None,
    identity: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="ID",
            help="An id of your own for the handover, so that you can repeat this command. [default: random]",
        ),
    ] = None,
    stale: StaleOption = "reread",
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Register the guest's keys on the destination while the guest runs.

    Nothing else changes.
    """
    from holdover.api.documents import Stale
    from holdover.cli.handover.handover import prepare as do

    do(guest, agent_api(at), to, identity, Stale(stale), asking, json)


@app.command()
def commit(
    guest: GuestArgument,
    at: AtSource = None,
    identity: HandoverOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Move the reservations to the destination.

    The guest must have stopped, and none of its commands may be on its way to a disk.
    """
    from holdover.cli.handover.handover import commit as do

    do(guest, agent_api(at), identity, asking, json)


@app.command()
def finish(
    guest: GuestArgument,
    at: AtSource = None,
    identity: HandoverOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """End the handover: the guest runs on the destination.

    After take, ask the destination's agent.
    """
    from holdover.cli.handover.handover import finish as do

    do(guest, agent_api(at), identity, asking, json)


@app.command()
def rollback(
    guest: GuestArgument,
    at: AtSource = None,
    identity: HandoverOption = None,
    alone: Annotated[
        bool,
        typer.Option(
            "--alone", help="The other host is dead: go on without it. The guest must not run there."
        ),
    ] = False,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Bring everything back to the source: the guest stays there.

    With --alone you can ask the destination's agent too, if the source is dead: it removes what was prepared.
    """
    from holdover.cli.handover.handover import roll_back as do

    do(guest, agent_api(at), identity, alone, asking, json)


@app.command()
def take(
    guest: GuestArgument,
    at: AtDestination = None,
    identity: HandoverOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Move everything to the destination, as the source is dead.

    The handover must have been prepared, and the guest must not run on the source any more. There is no way
    back.
    """
    from holdover.cli.handover.handover import take as do

    do(guest, agent_api(at), identity, asking, json)


@app.command()
def status(
    guest: GuestArgument,
    at: AtEither = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Show the guest's newest handover: what is true now, and what comes next."""
    from holdover.cli.handover.handover import status as do

    do(guest, agent_api(at), asking, json)


@app.command()
def trace(
    guest: GuestArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The file to write: .html for a page, .json for Perfetto and about:tracing.",
        ),
    ],
    at: AtSource = None,
    destination: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The API of the destination's agent. Without it the trace lacks the destination's part.",
        ),
    ] = None,
    asking: Asking = BY_OPTIONS,
) -> None:
    """Show where the time of the guest's newest handover went: each step, LUN and round trip."""
    from holdover.cli.handover.handover import trace as do

    do(guest, agent_api(at), destination, file, asking)
