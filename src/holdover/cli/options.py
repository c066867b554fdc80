"""The arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from holdover.cli.asking import API, DEFAULT_API
from holdover.cli.completion import complete_guest, complete_peer

DEFAULT_AGENT = f"[default: {DEFAULT_API}]"
"""What the help of an option says that names an agent: the agent that is asked without the option."""

StalePolicy = Literal["refuse", "reread", "force"]

GuestArgument = Annotated[
    str, typer.Argument(metavar="GUEST", help="The guest's name.", autocompletion=complete_guest)
]
ToOption = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="HOST",
        help="The destination: the name of a [[peer]] of the source's agent, or the address of that "
        "peer's API.",
        autocompletion=complete_peer,
    ),
]
AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="ADDRESS", envvar=API, help=f"The API of the agent. {DEFAULT_AGENT}"),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        metavar="FILE",
        envvar="HOLDOVER_CERTIFICATE",
        help="Your certificate, for an agent that is asked over TCP (see holdover ca issue).",
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", envvar="HOLDOVER_KEY", help="The key of your certificate."),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca", metavar="FILE", envvar="HOLDOVER_CA", help="The authority of the agents' certificates."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]
StaleOption = Annotated[
    StalePolicy,
    typer.Option(
        "--stale",
        help="What to do if the tracked state of a LUN may be out of date, or differs from what the LUN "
        "says. refuse: do not begin. reread: use what the LUN says. force: as reread; but if the LUN does "
        "not tell whose its reservation is, since a third node has the guest's key, use what was tracked "
        "last, if the LUN holds that type.",
    ),
]
