"""`make bench-gateway`: what it costs a guest that its disk is behind an agent's export.

The same load runs on the same LUN alternately through the export of an agent and straight to the target. The
targets are tgt, if it is installed, which stands for a storage array because it is written in C, and our own.
The processor time of the agent is the steadier figure where other work shares the processors.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from bench.agents import agent, processor_time, wait_for_api
from bench.figures import differences, median_ratio
from bench.load import Load, carry_out, make_disk, possible
from bench.machine import Machine, describe_machine, wide_console
from bench.servers import SERVERS, Server, serve
from holdover.demo.hosts import certified_hosts

_WAYS = ("direct", "export")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one target, with one figure for each round.

    Attributes:
        target, load: Their names.
        depth: The commands in flight.
        commands_per_second: By way to the target.
        agent_us: The microseconds of processor time that the agent needed for each command.
    """

    target: str
    load: str
    depth: int
    commands_per_second: dict[str, list[float]]
    agent_us: list[float]

    @property
    def ratio(self) -> float | None:
        """The rate through the export as a share of the direct rate."""
        return median_ratio(self.commands_per_second["export"], self.commands_per_second["direct"])

    @property
    def added_us(self) -> float:
        """The extra microseconds of each command, with the same number in flight."""
        each = {way: [1e6 * self.depth / figure for figure in self.commands_per_second[way]] for way in _WAYS}
        return statistics.median(differences(each["export"], each["direct"]))


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    machine: Machine
    rows: list[Row]


def measure(loads: Sequence[Load], rounds: int, seconds: float, tell: Callable[[str], None]) -> list[Row]:
    """Measure all loads on all targets that are installed."""
    rows = []
    for server in SERVERS:
        if server.missing:
            tell(f"left out: {server.name} is missing (package {server.package})")
            continue
        with tempfile.TemporaryDirectory(prefix="holdover-bench-") as name:
            rows += _on(server, Path(name), loads, rounds, seconds)
    return rows


def _on(server: Server, folder: Path, loads: Sequence[Load], rounds: int, seconds: float) -> list[Row]:
    file = folder / "disk"
    make_disk(file)
    rows = []
    hosts = certified_hosts(folder, ["host-a"])
    with serve(server, file) as url, agent(folder, "host-a", hosts, [url]) as there:
        asyncio.run(wait_for_api(there.api))
        urls = {"direct": url, "export": there.url()}
        for load in loads:
            figures: dict[str, list[float]] = {way: [] for way in _WAYS}
            agent_us = []
            for number in range(rounds):
                # The order changes from round to round, so that a drift of the machine affects both.
                for way in _WAYS if number % 2 == 0 else reversed(_WAYS):
                    before = processor_time(there.pid)
                    carried = carry_out(urls[way], load, seconds)
                    figures[way].append(carried.per_second)
                    if way == "export":
                        agent_us.append(1e6 * (processor_time(there.pid) - before) / carried.commands)
            rows.append(
                Row(
                    target=server.name,
                    load=load.name,
                    depth=load.depth,
                    commands_per_second=figures,
                    agent_us=agent_us,
                )
            )
    return rows


def show(rows: Sequence[Row]) -> Table:
    """A table of medians and ratios."""
    table = Table(box=None, pad_edge=False)
    for heading in ("TARGET", "LOAD", "DIRECT /s", "EXPORT /s", "RATIO", "ADDED us", "AGENT us"):
        table.add_column(heading, justify="left" if heading in {"TARGET", "LOAD"} else "right")
    for row in rows:
        medians = [f"{statistics.median(row.commands_per_second[way]):,.0f}" for way in _WAYS]
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        agent_us = f"{statistics.median(row.agent_us):,.0f}"
        table.add_row(row.target, row.load, *medians, ratio, f"{row.added_us:,.0f}", agent_us)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, for each figure")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    console = wide_console()

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    rows = measure(possible(tell), options.rounds, options.seconds, tell)
    console.print(show(rows))
    if options.json is not None:
        report = Report(machine=describe_machine(), rows=rows)
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))


if __name__ == "__main__":
    main()
