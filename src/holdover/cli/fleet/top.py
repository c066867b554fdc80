"""``holdover top``: the hosts, guests, LUNs and moves of a site, on a screen that renews itself."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import termios
import time
import tty
from collections.abc import AsyncGenerator, Iterator

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from holdover.api.client import AgentClient
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.config.agent_file import ConfigError
from holdover.fleet.documents import Fleet, FleetGuest, Move, Severity
from holdover.fleet.picture import picture
from holdover.fleet.survey import Survey
from holdover.terminal import PlainTable, screen

_PLACES = {
    "here": "green",
    "arriving": "yellow",
    "leaving": "yellow",
    "elsewhere": "dim",
    "without disks": "dim",
}
_BAR = 10


def run(apis: list[str], asking: Asking, interval: float, once: bool, json: bool) -> None:
    """Show the site until interrupted, or once without a terminal. Exit with 1 if no agent answers."""
    try:
        fleet = asyncio.run(_watch(apis, asking, interval, once, json))
    except ConfigError as error:
        refuse(str(error))
    if fleet is not None and all(host.problem for host in fleet.hosts):
        sys.exit(1)


@contextlib.asynccontextmanager
async def survey(apis: list[str], asking: Asking) -> AsyncGenerator[Survey]:
    """The agents to ask: those of ``apis``, and their peers if the user has a certificate."""

    def connect(api: str, name: str | None) -> AgentClient:
        return asking.client(api, name)

    made = Survey(apis, connect, peers=asking.certificate is not None)
    try:
        yield made
    finally:
        await made.close()


async def _watch(apis: list[str], asking: Asking, interval: float, once: bool, json: bool) -> Fleet | None:
    console = screen()
    async with survey(apis, asking) as agents:
        if once or json or not console.is_terminal:
            fleet = picture(await agents.ask(), time.time())
            if json:
                print(msgspec.json.encode(fleet).decode())
            else:
                console.print(shown(fleet), crop=False)
            return fleet
        with _keys() as left, Live(console=console, screen=True, auto_refresh=False) as live:
            while not left.is_set():
                fleet = picture(await agents.ask(), time.time())
                live.update(_fitted(shown(fleet, live=True), console), refresh=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval):
                        await left.wait()
    return None


@contextlib.contextmanager
def _keys() -> Iterator[asyncio.Event]:
    """An event that is set when the user presses q."""
    left = asyncio.Event()
    if not sys.stdin.isatty():
        yield left
        return
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(sys.stdin)

    def pressed() -> None:
        if sys.stdin.read(1) in ("q", "Q", "\x1b", ""):
            left.set()

    tty.setcbreak(sys.stdin)
    loop.add_reader(sys.stdin, pressed)
    try:
        yield left
    finally:
        loop.remove_reader(sys.stdin)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _fitted(content: RenderableType, console: Console) -> RenderableType:
    """As much as the window has lines for; the last line says what is left out."""
    lines = console.render_lines(content, console.options, pad=False)
    if len(lines) <= console.height:
        return content
    kept = [Text.assemble(*((part.text, part.style or "") for part in line)) for line in lines]
    more = len(lines) - console.height + 1
    return Group(*kept[: console.height - 1], Text(f"… {more} more lines; make the window taller", "dim"))


def shown(fleet: Fleet, *, live: bool = False) -> RenderableType:
    """The site as it is shown: alarms first, then moves, hosts, guests and LUNs."""
    parts: list[RenderableType] = [_headline(fleet)]
    for alarm in fleet.alarms:
        style = "bold red" if alarm.severity is Severity.URGENT else "yellow"
        where = f"{alarm.host}, guest {alarm.guest}" if alarm.guest else alarm.host
        parts.append(Text.assemble((f"! {where}: ", style), alarm.text))
        if alarm.next:
            parts.append(Text(f"  next: {alarm.next}", "dim"))
    if fleet.moves:
        parts += [Text(), _moves(fleet, live)]
    parts += [Text(), _hosts(fleet, live), Text(), _guests(fleet, live)]
    if fleet.luns:
        parts += [Text(), _luns(fleet, live)]
    return Group(*parts)


def _headline(fleet: Fleet) -> Text:
    silent = sum(bool(host.problem) for host in fleet.hosts)
    doubt = sum(move.in_doubt for move in fleet.moves)
    under_way = sum(move.open for move in fleet.moves)
    text = Text.assemble(
        ("holdover ", "bold"),
        time.strftime("%H:%M:%S", time.localtime(fleet.at)),
        f"   hosts {len(fleet.hosts) - silent} of {len(fleet.hosts)} answer",
        f"   guests {sum(host.running for host in fleet.hosts)}",
        f"   LUNs {len(fleet.luns)}   moves {under_way}",
    )
    text.append(f"   in doubt {doubt}", "bold red" if doubt else "")
    text.append(f"   alarms {len(fleet.alarms)}", "yellow" if fleet.alarms else "")
    return text


def _moves(fleet: Fleet, live: bool) -> PlainTable:
    table = PlainTable("MOVE OF", "FROM", "TO", "STATE", "MEMORY", "NOW", folds=live)
    for move in fleet.moves:
        state = Text(move.state, "" if move.open else "dim")
        if move.in_doubt:
            state = Text(f"{move.state}, in doubt", "bold red")
        table.add_row(move.guest, move.source, move.destination, state, _memory(move), move.now)
    return table


def _memory(move: Move) -> str:
    if move.progress is None or not move.open:
        return "" if move.standstill_ms is None else f"stood still {move.standstill_ms:.0f} ms"
    done = round(move.progress * _BAR)
    return f"{'█' * done}{'░' * (_BAR - done)} {move.progress:4.0%}"


def _hosts(fleet: Fleet, live: bool) -> PlainTable:
    table = PlainTable("HOST", "AGENT", "GUESTS", "RUNNING", right=(2, 3), folds=live)
    for host in fleet.hosts:
        if host.problem:
            table.add_row(host.name, Text("does not answer", "red"))
        else:
            table.add_row(host.name, host.version, str(host.guests), str(host.running))
    return table


def _guests(fleet: Fleet, live: bool) -> PlainTable:
    table = PlainTable("GUEST", "ON", "PLACE", "DISK", "GATE", "KEY", "HOLDS", folds=live)
    for guest in fleet.guests:
        place = Text(guest.place, _PLACES.get(guest.place, "cyan"))
        if not guest.disks:
            table.add_row(guest.name, guest.host, place)
        for row in _disks(guest):
            table.add_row(guest.name, guest.host, place, *row)
    return table


def _disks(guest: FleetGuest) -> Iterator[tuple[str | Text, ...]]:
    for disk in guest.disks:
        gate = f"{disk.gate}, {disk.held} held" if disk.held else disk.gate
        key = Text(disk.key or "-")
        if disk.stale:
            key.append(" stale", "red")
        holds = disk.type_name + (", APTPL" if disk.aptpl else "")
        yield disk.id, gate, key, holds if disk.key else "-"


def _luns(fleet: Fleet, live: bool) -> PlainTable:
    table = PlainTable("LUN", "RESERVATION", "GUESTS", folds=live)
    for lun in fleet.luns:
        users = ", ".join(f"{each.guest} on {each.host}{' (holds)' * each.holds}" for each in lun.users)
        table.add_row(lun.designator, lun.type_name, users)
    return table
