"""`python -m bench.fleet`: a site of 1,000 hosts on paper, from the costs of one real handover.

It counts what one handover and one start of an agent cost: messages between agents, bytes of the journal,
commands to the LUNs. From that it says what an evacuation of all hosts costs, and it simulates the moment
when the whole site is powered on: all agents ask the same SAN, which carries out so many commands a second.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from unittest.mock import patch

import msgspec
import structlog
from rich.table import Table
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, Fate, San, san

from bench.machine import wide_console
from holdover.agent import settling as production
from holdover.agent.guests.retry_pauses import retry_pauses
from holdover.agent.host import Host
from holdover.api.client import AgentClient
from holdover.api.documents import PeerMessage
from holdover.config.agent_file import Limits
from holdover.handover.protocol import Answer
from holdover.journal.journal import Journal
from holdover.journal.records import Record
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_out import out_command

LUNS = 4
_SIMULATED = 30
"""So many hosts are simulated at most, before a SAN with their share of the speed. A site of 1,000 hosts has
the same times and so many times the commands, but its simulation takes half an hour."""
_PATIENCE = 900.0
"""The simulation of a start ends after so many seconds of its own time."""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What one handover of a guest with `LUNS` LUNs costs, and one start of its agent.

    Attributes:
        messages, message_bytes: The messages of the handover between the agents, with their answers.
        source_commands, destination_commands: The commands to all the LUNs.
        records, journal_bytes: What both journals get.
        start_commands: The commands to one LUN at the start of an agent whose guest holds a reservation.
    """

    messages: int
    message_bytes: int
    source_commands: int
    destination_commands: int
    records: int
    journal_bytes: int
    start_commands: int


async def measure() -> Costs:
    """The costs, counted in one real handover between two agents and one real start."""
    with tempfile.TemporaryDirectory(prefix="holdover-bench-") as folder:
        async with san(Path(folder), luns=LUNS) as site:
            return await _measure(site, Path(folder))


async def _measure(site: San, folder: Path) -> Costs:
    commands: Counter[str] = Counter()
    records: list[Record] = []
    messages: list[int] = []

    async def counted(sender: str, _command: Command) -> Fate:
        commands[sender] += 1
        return Fate.ANSWERED

    await reserved(site)
    for lun in range(1, LUNS):
        guest = site.guest_on("host-a", lun)
        await guest.register()
        await guest.reserve(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
    site.hook(counted)
    with _counting_messages(messages), _counting_records(site, records):
        client = site.clients["host-a"]
        await client.prepare(GUEST, "h1", "host-b")
        await client.commit(GUEST, "h1")
        await client.finish(GUEST, "h1")
    moved = Counter(commands)
    await site.guest_on("host-b").must(out_command(OutServiceAction.REGISTER, 0xC0FFEE, 0xC0FFEE))
    await site.stop("host-b")
    commands.clear()
    await site.start("host-b")
    await _settled(site.hosts["host-b"])
    return Costs(
        messages=len(messages),
        message_bytes=sum(messages),
        source_commands=moved["host-a"],
        destination_commands=moved["host-b"],
        records=len(records),
        journal_bytes=await asyncio.to_thread(_written, folder / "counted.journal", records),
        start_commands=round(commands["host-b"] / LUNS),
    )


async def _settled(host: Host) -> None:
    """Wait until the agent has asked all LUNs of its guest."""
    while any(not each.designator or each.block.stale for each in host.guests[GUEST].devices):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _counting_messages(sizes: list[int]) -> AbstractContextManager[object]:
    tell = AgentClient.tell

    async def counted(self: AgentClient, message: PeerMessage) -> Answer:
        answer = await tell(self, message)
        sizes.append(len(msgspec.json.encode(message)) + len(msgspec.json.encode(answer)))
        return answer

    return patch.object(AgentClient, "tell", counted)


def _counting_records(site: San, found: list[Record]) -> AbstractContextManager[object]:
    kept = site.journals["host-a"]
    put = type(kept).put

    async def counted(self: object, *records: Record) -> None:
        found.extend(records)
        await put(self, *records)  # type: ignore[arg-type]

    return patch.object(type(kept), "put", counted)


def _written(file: Path, records: list[Record]) -> int:
    """By how many bytes a real journal's write-ahead log grows when each record is written by itself."""

    journal = Journal.open(file)
    log = file.with_name(f"{file.name}-wal")
    before = log.stat().st_size

    async def write() -> None:
        for record in records:
            await journal.put(record)

    asyncio.run(write())
    grown = log.stat().st_size - before
    asyncio.run(journal.close())
    return grown


# -- the site is powered on -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """What happened when all agents started at once.

    Attributes:
        seconds: Until the agents had asked every LUN; None if that took longer than `_PATIENCE`.
        longest: The longest time of a command, in seconds.
        commands: The commands that the SAN has carried out.
        late: The commands whose time limit had passed, and which had to be repeated.
    """

    seconds: float | None
    longest: float
    commands: int
    late: int


def power_on(
    *, hosts: int, guests: int, luns: int, commands: int, rate: float, at_once: int, spread: bool
) -> Start:
    """Simulate the start of ``hosts`` agents at one moment, before a SAN that carries out ``rate`` commands a
    second.

    Args:
        commands: The commands to each LUN, one after the other; a LUN has one time limit for all of them.
        at_once: How many guests an agent asks about at a time.
        spread: Whether the pauses before a next try are spread; if not, they are 5 s.
    """
    limit, slow = Limits().connect, production._SECONDS
    order = count()
    events: list[tuple[float, int, int, int, int, float]] = []  # time, order, host, LUN, done, since
    waiting = [list(range(guests)) for _ in range(hosts)]
    asked = [[luns] * guests for _ in range(hosts)]
    pauses: dict[tuple[int, int], Iterator[float]] = {}
    free = longest = end = 0.0
    carried = late = 0

    def begin(host: int, at: float) -> None:
        guest = waiting[host].pop()
        for lun in range(luns):
            heapq.heappush(events, (at, next(order), host, guest * luns + lun, 0, at))
        heapq.heappush(events, (at + slow, next(order), host, guest * luns, -1, at))

    for host in range(hosts):
        for _ in range(min(at_once, guests)):
            begin(host, 0.0)
    counted: set[tuple[int, int]] = set()
    while events and events[0][0] < _PATIENCE:
        now, _, host, lun, done, since = heapq.heappop(events)
        guest = lun // luns
        if done == -1:
            if (host, guest) not in counted and waiting[host]:
                counted.add((host, guest))
                begin(host, now)
            continue
        if done == commands:
            end = max(end, now)
            asked[host][guest] -= 1
            if not asked[host][guest] and (host, guest) not in counted and waiting[host]:
                counted.add((host, guest))
                begin(host, now)
            continue
        free = max(free, now) + 1 / rate
        carried += 1
        longest = max(longest, free - now)
        if free - since > limit:
            late += 1
            pause = next(pauses.setdefault((host, lun), retry_pauses(f"{host}/{lun}"))) if spread else 5.0
            again = since + limit + pause
            heapq.heappush(events, (again, next(order), host, lun, 0, again))
        else:
            heapq.heappush(events, (free, next(order), host, lun, done + 1, since))
    return Start(None if events else end, longest, carried, late)


# -- what is shown --------------------------------------------------------------------------------------


def evacuation(costs: Costs, hosts: int, guests: int, minutes: float) -> Table:
    """What a rolling evacuation of all hosts costs: one after the other, each drained in ``minutes``."""
    seconds = minutes * 60
    table = Table(box=None, pad_edge=False)
    for heading in ("EVACUATION", "ONE HOST", "PER SECOND", "ALL HOSTS"):
        table.add_column(heading, justify="left" if heading == "EVACUATION" else "right")
    rows = (
        ("messages between agents", costs.messages),
        ("bytes of messages", costs.message_bytes),
        ("commands to LUNs, source", costs.source_commands),
        ("commands to LUNs, destination", costs.destination_commands),
        ("records in both journals", costs.records),
        ("bytes of both journals", costs.journal_bytes),
    )
    for name, each in rows:
        one = each * guests
        table.add_row(name, f"{one:,}", f"{one / seconds:,.1f}", f"{one * hosts:,}")
    return table


def starts(costs: Costs, hosts: int, guests: int, luns: int) -> Table:
    """How a site starts, for SANs of different speed, with and without the measures."""
    table = Table(box=None, pad_edge=False)
    for heading in ("COMMANDS/s", "GUESTS AT ONCE", "PAUSES", "ALL ASKED s", "LONGEST s", "COMMANDS", "LATE"):
        table.add_column(heading, justify="right")
    simulated = min(hosts, _SIMULATED)
    for rate in (20_000, 100_000):
        for at_once, spread in ((production._AT_ONCE, True), (guests, False)):
            found = power_on(
                hosts=simulated,
                guests=guests,
                luns=luns,
                commands=costs.start_commands,
                rate=rate * simulated / hosts,
                at_once=at_once,
                spread=spread,
            )
            table.add_row(
                f"{rate:,}",
                str(at_once),
                "spread" if spread else "5 s",
                f"more than {_PATIENCE:.0f}" if found.seconds is None else f"{found.seconds:.1f}",
                f"{found.longest:.1f}",
                f"{found.commands * hosts // simulated:,}",
                f"{found.late * hosts // simulated:,}",
            )
    return table


def main() -> None:
    """Count, calculate, simulate and show."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--guests", type=int, default=100, help="of each host")
    parser.add_argument("--minutes", type=float, default=10.0, help="in which one host is drained")
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    costs = asyncio.run(measure())
    console = wide_console()
    console.print(evacuation(costs, arguments.hosts, arguments.guests, arguments.minutes))
    console.print()
    console.print(starts(costs, arguments.hosts, arguments.guests, LUNS))


if __name__ == "__main__":
    main()
