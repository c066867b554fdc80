"""The commands ``holdover handover ...``; each does its work in `holdover.cli.handover`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdover.cli.asking import Asking, CaOption, CertificateOption, KeyOption
from holdover.cli.stale import StaleOption, stale_of

__all__ = ["app"]

app = typer.Typer(
    name="handover",
    help="Hand a guest over step by step, where something else drives its migration: prepare while it runs, "
    "commit when it has stopped, finish when it runs on the destination; rollback whenever it stays. "
    "Exit status: 0 done, 1 not done, 3 in doubt.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Guest = Annotated[str, typer.Argument(help="The guest's name.")]
At = Annotated[str, typer.Option("--at", help="API of the agent of the host that the guest leaves.")]
AtDestination = Annotated[
    str, typer.Option("--at", help="API of the agent of the host that the guest goes to.")
]
Identity = Annotated[
    str | None, typer.Option("--id", help="The handover's identity. [default: the guest's newest]")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]


@app.command()
def prepare(
    guest: Guest,
    at: At,
    to: Annotated[
        str, typer.Option(help="Where it goes: the name of a [[peer]] of that agent, or the API there.")
    ],
    identity: Annotated[
        str | None,
        typer.Option("--id", help="An identity of your own, to repeat this safely. [default: random]"),
    ] = None,
    stale: StaleOption = "reread",
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: Json = False,
) -> None:
    """Register the guest's keys on the destination, while the guest runs; nothing else changes."""
    from holdover.cli.handover import prepare as do

    do(guest, at, to, identity, stale_of(stale), Asking(certificate, key, ca), json)


@app.command()
def commit(
    guest: Guest,
    at: At,
    identity: Identity = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: Json = False,
) -> None:
    """Move the reservations: the guest has stopped, and none of its commands is on its way to a disk."""
    from holdover.cli.handover import commit as do

    do(guest, at, identity, Asking(certificate, key, ca), json)


@app.command()
def rollback(
    guest: Guest,
    at: At,
    identity: Identity = None,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="Without the other host, which is dead: the guest does not run there."),
    ] = False,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: Json = False,
) -> None:
    """Bring everything back: the guest stays, and does not run on the destination.

    With --alone it may be asked of the destination too: to remove what was prepared there.
    """
    from holdover.cli.handover import roll_back as do

    do(guest, at, identity, alone, Asking(certificate, key, ca), json)


@app.command()
def finish(
    guest: Guest,
    at: At,
    identity: Identity = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: Json = False,
) -> None:
    """End the handover: the guest runs on the destination. After take: asked of the destination."""
    from holdover.cli.handover import finish as do

    do(guest, at, identity, Asking(certificate, key, ca), json)


@app.command()
def take(
    guest: Guest,
    at: AtDestination,
    identity: Identity = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: Json = False,
) -> None:
    """Take everything to the destination without the source, which is dead: nothing runs there any more.

    For a handover that was prepared. There is no way back from it.
    """
    from holdover.cli.handover import take as do

    do(guest, at, identity, Asking(certificate, key, ca), json)


@app.command()
def status(
    guest: Guest,
    at: Annotated[str, typer.Option("--at", help="API of the agent of either host.")],
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: Json = False,
) -> None:
    """Show the guest's newest handover: what is true now, and what comes next."""
    from holdover.cli.handover import status as do

    do(guest, at, Asking(certificate, key, ca), json)


@app.command()
def trace(
    guest: Guest,
    file: Annotated[Path, typer.Argument(help=".html: a page; .json: for Perfetto and about:tracing.")],
    at: At,
    destination: Annotated[
        str | None, typer.Option(help="API of the agent of the other host, for its part.")
    ] = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
) -> None:
    """Show where the time of the guest's newest handover went: each step, LUN and round trip."""
    from holdover.cli.handover import trace as do

    do(guest, at, destination, file, Asking(certificate, key, ca))
