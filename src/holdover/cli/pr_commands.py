"""The commands of ``holdover pr``, declared; `holdover.cli.pr` does what they say."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["app"]

DEFAULT_INITIATOR = "iqn.2026-11.org.holdover:pr"

app = typer.Typer(help="Ask or change the persistent reservations of a LUN.", no_args_is_help=True)

Url = Annotated[
    str,
    typer.Argument(
        help="iscsi://[user%password@]HOST[:PORT]/IQN/LUN, or a device of this host: /dev/disk/by-id/...",
        metavar="LUN",
    ),
]
Initiator = Annotated[
    str, typer.Option(help="Initiator name to log in with; each name is an I_T nexus of its own.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
Key = Annotated[str, typer.Option(help="The key this nexus is registered with, decimal or 0x…; 0 for none.")]
NewKey = Annotated[str, typer.Option(help="The key to register; 0 unregisters.")]
Victim = Annotated[str, typer.Option("--new-key", help="The key whose registrations are removed.")]
Type = Annotated[str, typer.Option(help="we, ea, wero, earo, wear, eaar, or its number (1, 3, 5, 6, 7, 8).")]
Aptpl = Annotated[
    bool, typer.Option("--aptpl", help="Keep registrations and reservation through power loss.")
]


def _ask(url: str, what: str, initiator: str, json: bool) -> None:
    from holdover.cli.pr import ask

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
    from holdover.cli.pr import tell

    tell(url, what, initiator, json, key=key, new_key=new_key, type_name=type_name, aptpl=aptpl)


@app.command()
def keys(url: Url, initiator: Initiator = DEFAULT_INITIATOR, json: Json = False) -> None:
    """READ KEYS: the key of every registered nexus."""
    _ask(url, "READ_KEYS", initiator, json)


@app.command()
def reservation(url: Url, initiator: Initiator = DEFAULT_INITIATOR, json: Json = False) -> None:
    """READ RESERVATION: who holds it, and its type."""
    _ask(url, "READ_RESERVATION", initiator, json)


@app.command()
def capabilities(url: Url, initiator: Initiator = DEFAULT_INITIATOR, json: Json = False) -> None:
    """REPORT CAPABILITIES: what the LUN can do."""
    _ask(url, "REPORT_CAPABILITIES", initiator, json)


@app.command()
def status(url: Url, initiator: Initiator = DEFAULT_INITIATOR, json: Json = False) -> None:
    """READ FULL STATUS: every registrant with its nexus, and which one holds."""
    _ask(url, "READ_FULL_STATUS", initiator, json)


@app.command()
def register(
    url: Url,
    new_key: NewKey,
    key: Key = "0",
    aptpl: Aptpl = False,
    initiator: Initiator = DEFAULT_INITIATOR,
    json: Json = False,
) -> None:
    """REGISTER: a new key, another key, or none (--new-key 0)."""
    _tell(url, "REGISTER", initiator, json, key, new_key, aptpl=aptpl)


@app.command("register-ignore")
def register_ignore(
    url: Url,
    new_key: NewKey,
    aptpl: Aptpl = False,
    initiator: Initiator = DEFAULT_INITIATOR,
    json: Json = False,
) -> None:
    """REGISTER AND IGNORE EXISTING KEY."""
    _tell(url, "REGISTER_AND_IGNORE_EXISTING_KEY", initiator, json, "0", new_key, aptpl=aptpl)


@app.command()
def reserve(
    url: Url, key: Key, type: Type, initiator: Initiator = DEFAULT_INITIATOR, json: Json = False
) -> None:
    """RESERVE."""
    _tell(url, "RESERVE", initiator, json, key, type_name=type)


@app.command()
def release(
    url: Url, key: Key, type: Type, initiator: Initiator = DEFAULT_INITIATOR, json: Json = False
) -> None:
    """RELEASE."""
    _tell(url, "RELEASE", initiator, json, key, type_name=type)


@app.command()
def clear(url: Url, key: Key, initiator: Initiator = DEFAULT_INITIATOR, json: Json = False) -> None:
    """CLEAR: every registration and the reservation."""
    _tell(url, "CLEAR", initiator, json, key)


@app.command()
def preempt(
    url: Url,
    key: Key,
    new_key: Victim,
    type: Type,
    initiator: Initiator = DEFAULT_INITIATOR,
    json: Json = False,
) -> None:
    """PREEMPT: remove the registrations with --new-key; take the reservation that they hold."""
    _tell(url, "PREEMPT", initiator, json, key, new_key, type_name=type)


@app.command("preempt-abort")
def preempt_abort(
    url: Url,
    key: Key,
    new_key: Victim,
    type: Type,
    initiator: Initiator = DEFAULT_INITIATOR,
    json: Json = False,
) -> None:
    """PREEMPT AND ABORT: PREEMPT, and abort the commands of those preempted."""
    _tell(url, "PREEMPT_AND_ABORT", initiator, json, key, new_key, type_name=type)
