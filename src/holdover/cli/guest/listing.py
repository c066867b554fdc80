"""``holdover guest list`` and ``holdover guest show``: what agents know of guests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence

import msgspec

from holdover.api.client import AgentError
from holdover.api.documents import DeviceState, GuestState, HostState
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.config.agent_file import ConfigError
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.terminal import PlainTable, screen

_WHERE = {"running": "here", "incoming": "awaited", "leaving": "leaving", "departed": "not here"}


def run(apis: Sequence[str], asking: Asking, json: bool) -> None:
    """Show the guests of all agents. Exit with 1 if one does not answer."""
    hosts, problems = _ask(apis, asking)
    guests = [guest for host in hosts for guest in host.guests]
    if json:
        print(msgspec.json.encode(guests).decode())
    else:
        table = PlainTable("GUEST", "HOST", "WHERE", "LOGGED IN", "HAS", "HANDOVER")
        for guest in guests:
            table.add_row(
                guest.name,
                guest.host,
                where(guest),
                str(len(guest.sessions)),
                ", ".join(sorted({_has(device) for device in guest.devices})) or "-",
                guest.handover_state or "-",
            )
        screen().print(table, crop=False)
    _end(problems)


def show(guest: str, apis: Sequence[str], asking: Asking, json: bool) -> None:
    """Show one guest as all agents know it. Exit with 1 if none knows it or one does not answer."""
    hosts, problems = _ask(apis, asking)
    found = [each for host in hosts for each in host.guests if each.name == guest]
    if json:
        print(msgspec.json.encode(found).decode())
    else:
        print("\n\n".join("\n".join(_lines(each)) for each in found))
    if not found and not problems:
        asked = " and ".join(host.host for host in hosts)
        problems = [f"there is no guest {guest!r} on {asked}; holdover guest list shows the guests"]
    _end(problems)


def _ask(apis: Sequence[str], asking: Asking) -> tuple[list[HostState], list[str]]:
    async def ask() -> list[HostState | BaseException]:
        clients = asking.clients(*apis)
        try:
            return await asyncio.gather(*(each.guests() for each in clients), return_exceptions=True)
        finally:
            for client in clients:
                await client.close()

    try:
        told = asyncio.run(ask())
    except ConfigError as error:
        refuse(str(error))
    unforeseen = [
        each for each in told if isinstance(each, BaseException) and not isinstance(each, AgentError)
    ]
    if unforeseen:
        raise unforeseen[0]
    problems = [str(each) for each in told if isinstance(each, AgentError)]
    return [each for each in told if isinstance(each, HostState)], problems


def _end(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"holdover: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


def where(guest: GuestState) -> str:
    """Where a guest is, as its host has it."""
    gates = {device.gate for device in guest.devices}
    return "no device yet" if not gates else ", ".join(sorted(_WHERE.get(gate, gate) for gate in gates))


def _has(device: DeviceState) -> str:
    if device.key is None:
        return "stale" if device.stale else "nothing"
    kind = "" if device.type is None else f" {ReservationType(device.type).short_name}"
    return f"{device.key}{kind}{' stale' if device.stale else ''}"


def _lines(guest: GuestState) -> Iterator[str]:
    yield f"guest {guest.name} on {guest.host}: {where(guest)}"
    yield f"  machine type: {guest.machine_type}"
    if guest.export:
        yield f"  export: {guest.export}"
    for session in guest.sessions:
        yield f"  logged in: {session.initiator}"
    for device in guest.devices:
        yield f"  {device.id}: {device.designator or f'{device.drive} (not reached yet)'}"
        aptpl = ", APTPL" if device.aptpl else ""
        migrate_pr = "on" if device.migrate_pr else "off"
        yield f"    {_has(device)}{aptpl}; migrate-pr {migrate_pr}; gate {device.gate}"
        if device.report:
            yield f"    {device.report}"
    if guest.handover_id is not None:
        problem = f": {guest.handover_problem}" if guest.handover_problem else ""
        yield f"  handover {guest.handover_id} is {guest.handover_state}{problem}"
