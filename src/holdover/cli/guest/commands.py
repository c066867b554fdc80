"""The commands of ``holdover guest``, declared; `holdover.cli.guest.guest` does what they say."""

from __future__ import annotations

from typing import Annotated

import typer

from holdover.cli.asking import BY_OPTIONS, Asking, agent_api
from holdover.cli.command_line import CommandLine
from holdover.cli.options import AtOption, GuestArgument, JsonOption

app = CommandLine("Show guests and what they need, start them on another host, release and forget them.")

AtMany = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="ADDRESS",
        help="The API of an agent, unix:PATH or HOST:PORT; repeatable. [default: that of this machine]",
    ),
]


@app.command("list")
def list_guests(
    at: AtMany = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """List the guests of one agent or of several: where each is, and what it has."""
    from holdover.cli.guest.listing import run

    run(at or [agent_api(None)], asking, json)


@app.command()
def show(
    guest: GuestArgument,
    at: AtMany = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Show all that agents know of one guest."""
    from holdover.cli.guest.listing import show as run

    run(guest, at or [agent_api(None)], asking, json)


@app.command()
def release(
    guest: GuestArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Remove what a guest that does not run has registered from the agent's host, and shut its gate.

    A reservation that the guest holds from there ends, and other nodes may write.
    """
    from holdover.cli.guest.leaving import release as run

    run(guest, agent_api(at), asking, yes=yes, json=json)


@app.command()
def forget(
    guest: GuestArgument,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Remove a guest that has nothing from the agent's record."""
    from holdover.cli.guest.leaving import forget as run

    run(guest, agent_api(at), asking, json)


@app.command("attach-disk")
def attach_disk(
    guest: GuestArgument,
    device: Annotated[
        str,
        typer.Argument(
            metavar="DEVICE",
            help="The disk, in QEMU's syntax: scsi-block,id=ID,drive=LUN.",
            show_default=False,
        ),
    ],
    number: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="The LUN number at the export. [default: the next free one]"),
    ] = None,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Give the export of a guest one more disk, while the guest runs."""
    from holdover.cli.guest.disks import attach as run

    run(guest, device, number, agent_api(at), asking, json=json)


@app.command("detach-disk")
def detach_disk(
    guest: GuestArgument,
    lun: Annotated[
        int, typer.Argument(metavar="LUN", help="The LUN number at the export.", show_default=False)
    ],
    release: Annotated[
        bool,
        typer.Option(
            "--release", help="Unregister the guest from the disk; a reservation that it holds there ends."
        ),
    ] = False,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Take a disk away from the export of a guest.

    First unplug it from the guest, with QEMU's device_del.
    """
    from holdover.cli.guest.disks import detach as run

    run(guest, lun, agent_api(at), asking, release=release, json=json)


@app.command()
def secret(
    guest: GuestArgument,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Print what QEMU or libvirt needs to log in to a guest's export: user, secret and options."""
    from holdover.cli.guest.guest import secret as run

    run(guest, agent_api(at), asking, json)


@app.command()
def start(
    guest: GuestArgument,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Declare this peer dead first, as `holdover host declare-dead` does; repeatable.",
        ),
    ] = None,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Bring the reservations of a guest that runs nowhere to this host, before its QEMU is started here.

    The other hosts are asked who has the guest. A host on which it was shut down hands it over at once.
    """
    from holdover.cli.guest.guest import start as run

    run(guest, agent_api(at), without or [], asking, json)
