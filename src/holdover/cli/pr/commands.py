"""The commands of ``holdover pr``, declared; `holdover.cli.pr.pr` does what they say."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from holdover.cli.command_line import CommandLine
from holdover.cli.options import JsonOption

DEFAULT_INITIATOR = "iqn.2026-11.org.holdover:pr"

TypeName = Literal["we", "ea", "wero", "earo", "wear", "eaar", "1", "3", "5", "6", "7", "8"]

app = CommandLine("Show or change the persistent reservations of a LUN.")

Url = Annotated[
    str,
    typer.Argument(
        metavar="LUN",
        help="iscsi://[USER%PASSWORD@]HOST[:PORT]/IQN/NUMBER, or a disk of this host: /dev/disk/by-id/...",
    ),
]
Initiator = Annotated[
    str,
    typer.Option(
        metavar="IQN", help="The initiator name to log in with. Each name is an I_T nexus of its own."
    ),
]
Key = Annotated[
    str,
    typer.Option(
        metavar="KEY", help="The key with which this nexus is registered, decimal or 0x…; 0: not registered."
    ),
]
NewKey = Annotated[str, typer.Option(metavar="KEY", help="The key to register; 0 unregisters.")]
Victim = Annotated[
    str, typer.Option("--new-key", metavar="KEY", help="The key whose registrations are removed.")
]
Type = Annotated[
    TypeName,
    typer.Option(
        metavar="TYPE",
        case_sensitive=False,
        help="The type of the reservation: we, ea, wero, earo, wear, eaar, or its number 1, 3, 5, 6, 7, 8.",
    ),
]
Aptpl = Annotated[
    bool, typer.Option("--aptpl", help="Keep registrations and the reservation through a power loss.")
]


def _ask(url: str, what: str, initiator: str, json: bool) -> None:
    from holdover.cli.pr.pr import ask

    ask(url, what, initiator, json)


def _tell(
    url: str,
    what: str,
    initiator: str,
    json: bool,
    key: str,
    new_key: str = "0",
    type_name: str | None = None,
    aptpl: bool = False,
) -> None:
    from holdover.cli.pr.pr import tell

    tell(url, what, initiator, json, key=key, new_key=new_key, type_name=type_name, aptpl=aptpl)


@app.command()
def keys(url: Url, initiator: Initiator = DEFAULT_INITIATOR, json: JsonOption = False) -> None:
    """Show the key of every registrant (READ KEYS)."""
    _ask(url, "READ_KEYS", initiator, json)


@app.command()
def reservation(url: Url, initiator: Initiator = DEFAULT_INITIATOR, json: JsonOption = False) -> None:
    """Show the reservation: its key and its type (READ RESERVATION)."""
    _ask(url, "READ_RESERVATION", initiator, json)


@app.command()
def capabilities(url: Url, initiator: Initiator = DEFAULT_INITIATOR, json: JsonOption = False) -> None:
    """Show what the LUN can do (REPORT CAPABILITIES)."""
    _ask(url, "REPORT_CAPABILITIES", initiator, json)


@app.command()
def status(url: Url, initiator: Initiator = DEFAULT_INITIATOR, json: JsonOption = False) -> None:
    """Show every registrant with its I_T nexus, and who holds the reservation (READ FULL STATUS)."""
    _ask(url, "READ_FULL_STATUS", initiator, json)


@app.command()
def register(
    url: Url,
    new_key: NewKey,
    key: Key = "0",
    aptpl: Aptpl = False,
    initiator: Initiator = DEFAULT_INITIATOR,
    json: JsonOption = False,
) -> None:
    """Register a key, change it, or unregister with --new-key 0 (REGISTER)."""
    _tell(url, "REGISTER", initiator, json, key, new_key, aptpl=aptpl)


@app.command("register-ignore")
def register_ignore(
    url: Url,
    new_key: NewKey,
    aptpl: Aptpl = False,
    initiator: Initiator = DEFAULT_INITIATOR,
    json: JsonOption = False,
) -> None:
    """Register a key whatever key was registered before (REGISTER AND IGNORE EXISTING KEY)."""
    _tell(url, "REGISTER_AND_IGNORE_EXISTING_KEY", initiator, json, "0", new_key, aptpl=aptpl)


@app.command()
def reserve(
    url: Url, key: Key, type: Type, initiator: Initiator = DEFAULT_INITIATOR, json: JsonOption = False
) -> None:
    """Take the reservation (RESERVE)."""
    _tell(url, "RESERVE", initiator, json, key, type_name=type)


@app.command()
def release(
    url: Url, key: Key, type: Type, initiator: Initiator = DEFAULT_INITIATOR, json: JsonOption = False
) -> None:
    """Give the reservation up (RELEASE)."""
    _tell(url, "RELEASE", initiator, json, key, type_name=type)


@app.command()
def clear(url: Url, key: Key, initiator: Initiator = DEFAULT_INITIATOR, json: JsonOption = False) -> None:
    """Remove every registration and the reservation (CLEAR)."""
    _tell(url, "CLEAR", initiator, json, key)


@app.command()
def preempt(
    url: Url,
    key: Key,
    new_key: Victim,
    type: Type,
    initiator: Initiator = DEFAULT_INITIATOR,
    json: JsonOption = False,
) -> None:
    """Remove all registrations with one key, and take the reservation if they hold it (PREEMPT)."""
    _tell(url, "PREEMPT", initiator, json, key, new_key, type_name=type)


@app.command("preempt-abort")
def preempt_abort(
    url: Url,
    key: Key,
    new_key: Victim,
    type: Type,
    initiator: Initiator = DEFAULT_INITIATOR,
    json: JsonOption = False,
) -> None:
    """Do as preempt, and abort the commands of the registrants that it removes (PREEMPT AND ABORT)."""
    _tell(url, "PREEMPT_AND_ABORT", initiator, json, key, new_key, type_name=type)
