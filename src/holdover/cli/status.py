"""``holdover status``: shows the guests of agents, as a table or as JSON.

An agent that does not answer has a row of its own, and makes the exit status 1. The others are shown.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from holdover.agent.attach.hosted_guest import MARK as LEFT_TO_QEMU
from holdover.api.client import AgentClient, AgentError
from holdover.api.documents import DeviceState, GuestState, HostState
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.config.agent_file import ConfigError
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.terminal import PlainTable, screen

_GATE_STYLES = {
    "running": "green",
    "incoming": "yellow",
    "leaving": "yellow",
    "departed": "dim",
    LEFT_TO_QEMU: "cyan",
}


class Silent(msgspec.Struct, kw_only=True):
    """An agent that does not answer, among the hosts in the document of ``--json``."""

    api: str
    error: str


def run(apis: list[str], asking: Asking, json: bool) -> None:
    """Ask each agent and show its guests. Exit with 1 if one does not answer."""
    try:
        told = asyncio.run(_ask(apis, asking))
    except ConfigError as error:
        refuse(str(error))
    hosts = [each for each in told if isinstance(each, HostState)]
    if json:
        print(msgspec.json.encode(told).decode())
    elif hosts:
        console = screen()
        console.print(table_of(told), crop=False)
        for host in hosts:
            _show_notes(console, host)
    silent = [each.error for each in told if isinstance(each, Silent)]
    if silent:
        if not json:
            refuse("\nholdover: ".join(silent), 1)
        sys.exit(1)


def _show_notes(console: Console, host: HostState) -> None:
    """Print what an operator must know of a host, below the table."""
    for guest in host.guests:
        if guest.handover_id is not None:
            console.print(_handover(guest), soft_wrap=True)
        for device in guest.devices:
            if device.report:
                text = f"guest {guest.name}: {device.designator or device.drive}: {device.report}"
                console.print(f"[yellow]{guest.host}:[/] {escape(text)}", soft_wrap=True)
    for warning in host.warnings:
        console.print(f"[yellow]{host.host}:[/] {escape(warning)}", soft_wrap=True)


def _handover(guest: GuestState) -> str:
    """A line about a guest's handover that is under way."""
    problem = f": {escape(guest.handover_problem)}" if guest.handover_problem else ""
    what = f"guest {escape(guest.name)}: handover {escape(guest.handover_id or '')} is {guest.handover_state}"
    return f"[yellow]{guest.host}:[/] {what}{problem}"


async def _ask(apis: list[str], asking: Asking) -> list[HostState | Silent]:
    """The answer of each agent, in the order of ``apis``."""

    async def ask(client: AgentClient) -> HostState | Silent:
        try:
            return await client.guests()
        except AgentError as error:
            return Silent(api=client.api, error=str(error))

    clients = asking.clients(*apis)
    try:
        return list(await asyncio.gather(*map(ask, clients)))
    finally:
        for client in clients:
            await client.close()


def table_of(told: Sequence[HostState | Silent]) -> PlainTable:
    """The table of what agents said, or that they said nothing."""
    table = PlainTable(
        "HOST", "GUEST", "DEVICE", "LUN", "MIGRATE-PR", "GATE", "KEY", "TYPE", "APTPL", "LOGGED IN"
    )
    for host in told:
        if isinstance(host, Silent):
            table.add_row(host.api, Text("does not answer", "red"))
            continue
        if not host.guests:
            table.add_row(host.host, "no guest")
        for guest in host.guests:
            name = guest.name
            if not guest.devices:
                table.add_row(host.host, name, "no device yet")
            for device in guest.devices:
                table.add_row(host.host, name, *_cells(device), str(len(guest.sessions)))
    return table


def _cells(device: DeviceState) -> tuple[str | Text, ...]:
    kind = "-"
    if device.type is not None:
        name = ReservationType(device.type)
        kind = f"{name.short_name} ({device.type})"
    gate = Text.assemble((device.gate, _GATE_STYLES.get(device.gate, "red")))
    if device.held:
        gate.append(f", {device.held} held")
    key = Text(device.key or "-")
    if device.stale:
        key.append(" stale", "red")
    return (
        device.id,
        device.designator or f"{device.drive} (not reached yet)",
        "on" if device.migrate_pr else "off",
        gate,
        key,
        kind,
        "yes" if device.aptpl else "no",
    )
