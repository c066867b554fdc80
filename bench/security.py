"""`python -m bench.security`: what attacks cost a guest, which reads through its export meanwhile.

The agent, its SAN and each attacker are processes of their own. Rounds without and with the attack alternate.
The ratio is the median of the rounds' own ratios, so other work on the machine counts less.
docs/understand/security.md has the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.table import Table

from bench.agents import GUEST, agent
from bench.figures import Spread
from bench.machine import Machine, describe_machine, wide_console
from bench.security_attacks import ATTACKS, Place
from bench.servers import SERVERS, serve
from holdover.demo.hosts import certified_hosts
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.scsi.cdbs.cdb import Read
from holdover.scsi.command import Command
from holdover.scsi.sense import is_unit_attention

_READ = Command(Read(8, 8, 10).encode(), data_in_length=4096)
_WARM_UP = 200
_SETTLE_SECONDS = 1.0


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round: the refusals per second, and the microseconds of the READs before and during the attack."""

    refused_per_second: float
    bytes_per_second: float
    idle: list[float]
    attacked: list[float]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One attack in several rounds."""

    attack: str
    rounds: list[Round]

    @property
    def ratios(self) -> Spread:
        """The 99th percentiles of the READs during the attack, divided by those just before it."""
        return Spread.of(_p99(each.attacked) / _p99(each.idle) for each in self.rounds)

    def median(self, of: Callable[[Round], float]) -> float:
        """The median of a figure of each round."""
        return statistics.median(of(each) for each in self.rounds)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a run."""

    machine: Machine
    rows: list[Row]


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


@dataclass(frozen=True, slots=True)
class _Site:
    place: Place
    portal: str
    iqn: str
    secret: Path


@contextmanager
def _site(folder: Path) -> Iterator[_Site]:
    disk = folder / "disk"
    with disk.open("wb") as new:
        new.truncate(64 << 20)
    hosts = certified_hosts(folder, ("host-a", "host-b", "stranger"))
    with ExitStack() as stack:
        url = stack.enter_context(serve(SERVERS[0], disk))
        known = {name: hosts[name] for name in ("host-a", "host-b")}
        helper = folder / "helper.sock"
        there = stack.enter_context(agent(folder, "host-a", known, [url], helper=helper))
        place = Place(
            address=hosts["host-a"].address,
            export=there.portal,
            peer=str(hosts["host-b"].certificate),
            stranger=str(hosts["stranger"].certificate),
            ca=str(hosts["host-a"].ca),
            helper=str(helper),
        )
        yield _Site(place, there.portal, there.iqn, there.secret)


async def _reads(guest: IscsiInitiator, seconds: float) -> list[float]:
    found = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        response = await guest.execute(0, _READ)
        if not response.good:
            raise RuntimeError("the guest's READ was not answered")
        found.append((time.perf_counter() - began) * 1e6)
        await asyncio.sleep(0.001)
    return found


async def _attack(place: Place, name: str, seconds: float) -> asyncio.subprocess.Process:
    attacker = await asyncio.create_subprocess_exec(
        # Real attackers have processors of their own, and take none from the agent.
        *("nice", "-n", "19", sys.executable, "-m", "bench.security_attacks", name, str(seconds)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    if attacker.stdin is None or attacker.stdout is None:
        raise RuntimeError("a process without pipes")
    attacker.stdin.write(msgspec.json.encode(place))
    attacker.stdin.close()
    await attacker.stdout.readline()  # it has begun
    return attacker


async def _round(site: _Site, guest: IscsiInitiator, name: str, seconds: float) -> Round:
    idle = await _reads(guest, seconds)
    attacker = await _attack(site.place, name, seconds + 2 * _SETTLE_SECONDS)
    await asyncio.sleep(_SETTLE_SECONDS)
    attacked = await _reads(guest, seconds)
    told = json.loads((await attacker.communicate())[0])
    await asyncio.sleep(_SETTLE_SECONDS)
    return Round(
        refused_per_second=told["refused"] / told["seconds"],
        bytes_per_second=told["bytes"] / told["seconds"],
        idle=idle,
        attacked=attacked,
    )


async def _measure(site: _Site, name: str, seconds: float, rounds: int) -> Row:
    host, _, port = site.portal.rpartition(":")
    guest = await IscsiInitiator.connect(
        host,
        int(port),
        site.iqn,
        "iqn.2026-11.org.holdover:bench-guest",
        bytes.fromhex("800000000001"),
        user=GUEST,
        password=site.secret.read_text(encoding="ascii"),
    )
    try:
        for _ in range(_WARM_UP):
            while is_unit_attention(await guest.execute(0, _READ)):
                pass
        return Row(attack=name, rounds=[await _round(site, guest, name, seconds) for _ in range(rounds)])
    finally:
        await guest.close()


def show(rows: list[Row]) -> Table:
    """A table of medians; times are in microseconds."""
    table = Table(box=None, pad_edge=False)
    headings = ("ATTACK", "REFUSED /s", "MiB /s", "IDLE p50", "p99", "ATTACKED p50", "p99", "p99 RATIO")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "ATTACK" else "right")
    for row in rows:
        refused = row.median(lambda each: each.refused_per_second)
        sent = row.median(lambda each: each.bytes_per_second) / (1 << 20)
        times = (
            row.median(lambda each: statistics.median(each.idle)),
            row.median(lambda each: _p99(each.idle)),
            row.median(lambda each: statistics.median(each.attacked)),
            row.median(lambda each: _p99(each.attacked)),
        )
        ratios = row.ratios
        table.add_row(
            row.attack,
            f"{refused:,.0f}",
            f"{sent:.2f}",
            *(f"{each:,.0f}" for each in times),
            f"{ratios.median:.1f} ({ratios.low:.1f} to {ratios.high:.1f})",
        )
    return table


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each half of a round")
    parser.add_argument("--rounds", type=int, default=7, help="of each attack")
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="only this one; repeatable")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="holdover-bench-") as name, _site(Path(name)) as site:
        rows = [
            asyncio.run(_measure(site, attack, options.seconds, options.rounds))
            for attack in options.attack or ATTACKS
        ]
    console = wide_console()
    console.print(show(rows))
    console.print(
        f"{machine.cpu}, {machine.cores} cores, load {machine.load:.1f} before the run", highlight=False
    )
    if options.json is not None:
        options.json.write_bytes(msgspec.json.encode(Report(machine=machine, rows=rows)))


if __name__ == "__main__":
    main()
