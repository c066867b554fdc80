"""The commands of ``holdover libvirt``, declared; `holdover.cli.libvirt.libvirt` does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdover.cli.command_line import CommandLine
from holdover.cli.options import JsonOption
from holdover.libvirt.setup_plan import AGENT_FILE

app = CommandLine("Let libvirt ask the agent of this host before a guest runs, and see whether it does.")

RootOption = Annotated[
    Path,
    typer.Option(
        "--root", metavar="DIRECTORY", help="Work on the files below this folder, as of an image of a host."
    ),
]


@app.command()
def setup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes, and make none.")] = False,
    root: RootOption = Path("/"),
    json: JsonOption = False,
) -> None:
    """Change the files of this host so that libvirt asks the agent.

    It refuses where virtlockd's own locks or sanlock are in use.
    """
    from holdover.cli.libvirt.libvirt import setup as run

    run(root, dry_run, json)


@app.command()
def undo(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes, and make none.")] = False,
    root: RootOption = Path("/"),
    json: JsonOption = False,
) -> None:
    """Restore the files that `holdover libvirt setup` has changed."""
    from holdover.cli.libvirt.libvirt import undo as run

    run(root, dry_run, json)


@app.command()
def check(
    domain: Annotated[
        str | None, typer.Argument(metavar="DOMAIN", help="A domain of libvirt to look at, too.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what works on this host, what does not and why; with DOMAIN, of its disks too."""
    from holdover.cli.libvirt.libvirt import check as run

    run(domain, json)


@app.command()
def xml(
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="A domain of libvirt.")],
    config: Annotated[
        Path,
        typer.Option("--config", metavar="FILE", help="The agent's file, with its helper socket."),
    ] = Path(AGENT_FILE),
) -> None:
    """Print a domain's XML in which each disk of the host sends its reservations to the agent's helper.

    It changes nothing: give the XML to virsh define, then shut the guest down and start it.
    """
    from holdover.cli.libvirt.libvirt import xml as run

    run(domain, config)
