"""``holdover host``: what an agent knows of its peers, and declarations."""

from __future__ import annotations

import datetime
import getpass

import msgspec
from rich.text import Text

from holdover.api.placement_documents import DeadHost, HostDeclaration, HostList
from holdover.cli.asking import Asking
from holdover.cli.one_agent import ask_agent
from holdover.terminal import PlainTable, screen


def show(api: str, asking: Asking, json: bool) -> None:
    """Show the peers of an agent's host."""
    _print(ask_agent(api, asking, lambda client: client.hosts()), json)


def declare(host: str, api: str, asking: Asking, *, dead: bool, why: str, json: bool) -> None:
    """Have the agent put a declaration on record, and show its peers."""
    request = HostDeclaration(dead=dead, by=_user(), why=why)
    _print(ask_agent(api, asking, lambda client: client.declare_host(host, request)), json)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _print(hosts: HostList, json: bool) -> None:
    if json:
        print(msgspec.json.encode(hosts).decode())
        return
    console = screen()
    table = PlainTable("HOST", "ADDRESS", "AGENT", "DECLARED")
    for each in hosts.hosts:
        agent = Text("answers") if each.answers else Text("does not answer", "yellow")
        table.add_row(each.name, each.api, agent, Text("dead", "red") if each.dead is not None else "-")
    console.print(table, crop=False)
    for each in hosts.hosts:
        if each.dead is not None:
            console.print(f"{each.name} is declared dead {_who(each.dead)}.", soft_wrap=True, markup=False)
        if each.declares is not None:
            text = f"{each.name} has declared {hosts.host} dead {_who(each.declares)}."
            console.print(text, soft_wrap=True, markup=False)


def _who(dead: DeadHost) -> str:
    at = datetime.datetime.fromtimestamp(dead.at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"by {dead.by}, {at}{f': {dead.why}' if dead.why else ''}"
