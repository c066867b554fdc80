"""``holdover status``: the guests of agents, as a table or as JSON."""

from __future__ import annotations

import asyncio

import msgspec
from rich.markup import escape
from rich.table import Table

from holdover.agent.api import DeviceState, GuestState, HostState
from holdover.agent.attach_guest import MARK as LEFT_TO_QEMU
from holdover.agent.client import AgentError
from holdover.agent.config import ConfigError
from holdover.cli.asking import Asking
from holdover.cli.console import plain_table, screen
from holdover.cli.errors import refuse
from holdover.scsi.opcodes import ReservationType

__all__ = ["run"]

_GATE_STYLES = {
    "running": "green",
    "incoming": "yellow",
    "leaving": "yellow",
    "departed": "dim",
    LEFT_TO_QEMU: "cyan",
}


def run(apis: list[str], asking: Asking, json: bool) -> None:
    """Ask each agent and show what it says."""
    try:
        hosts = asyncio.run(_ask(apis, asking))
    except ConfigError as error:
        refuse(str(error))
    except AgentError as error:
        refuse(str(error), 1)
    if json:
        print(msgspec.json.encode(hosts).decode())
    else:
        console = screen()
        console.print(_table(hosts))
        for host in hosts:
            for guest in host.guests:
                if guest.handover is not None:
                    console.print(_handover(guest), soft_wrap=True)
                for device in guest.devices:
                    if device.report:
                        text = f"guest {guest.name}: {device.designator or device.drive}: {device.report}"
                        console.print(f"[yellow]{guest.host}:[/] {escape(text)}", soft_wrap=True)
            for warning in host.warnings:
                console.print(f"[yellow]{host.host}:[/] {escape(warning)}", soft_wrap=True)


def _handover(guest: GuestState) -> str:
    """The handover of a guest that is under way."""
    problem = f": {escape(guest.handover_problem)}" if guest.handover_problem else ""
    what = f"guest {escape(guest.name)}: handover {escape(guest.handover or '')} is {guest.handover_state}"
    return f"[yellow]{guest.host}:[/] {what}{problem}"


async def _ask(apis: list[str], asking: Asking) -> list[HostState]:
    clients = asking.clients(*apis)
    try:
        return list(await asyncio.gather(*(client.guests() for client in clients)))
    finally:
        for client in clients:
            await client.close()


def _table(hosts: list[HostState]) -> Table:
    table = plain_table(
        "HOST", "GUEST", "DEVICE", "LUN", "MIGRATE-PR", "GATE", "KEY", "TYPE", "APTPL", "LOGGED IN"
    )
    for host in hosts:
        if not host.guests:
            table.add_row(host.host, "no guest")
        for guest in host.guests:
            name = escape(guest.name)
            if not guest.devices:
                table.add_row(host.host, name, "no device yet")
            for device in guest.devices:
                table.add_row(host.host, name, *_cells(device), str(len(guest.sessions)))
    return table


def _cells(device: DeviceState) -> tuple[str, ...]:
    kind = "-"
    if device.type is not None:
        name = ReservationType(device.type)
        kind = f"{name.short_name} ({device.type})"
    gate = f"[{_GATE_STYLES.get(device.gate, 'red')}]{device.gate}[/]"
    if device.held:
        gate += f", {device.held} held"
    return (
        device.id,
        device.designator or f"{device.drive} (not reached yet)",
        "on" if device.migrate_pr else "off",
        gate,
        (f"{device.key:#x}" if device.key else "-") + (" [red]stale[/]" if device.stale else ""),
        kind,
        "yes" if device.aptpl else "no",
    )
