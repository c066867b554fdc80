"""`make bench-scale`: one agent with 10, 100 and 1,000 guests of 16 LUNs each.

It measures the memory, the start-up with everything in the journal, and how long a guest's PERSISTENT RESERVE
OUT takes: alone, and while 100 other guests are handed over at once. The LUNs are in the agent's process, so
that nothing else is measured; see `bench.scale_inside`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from bench.machine import Machine, describe_machine, wide_console
from bench.scale_inside import LUNS, Figures

_WANTED_MIB, _WANTED_SECONDS, _WANTED_RATIO = 300, 3, 2
"""The goals with 1,000 guests: memory, start-up, and the p99 during handovers divided by the p99 without."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    machine: Machine
    figures: list[Figures]


def measure(guests: int) -> Figures:
    """Measure one number of guests, in processes of their own.

    Raises:
        RuntimeError: One of the processes failed; the message has the last lines that it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="holdover-bench-") as name:
        folder = Path(name)
        found = folder / "figures.json"
        for phase in (["fill"], ["measure", str(found)]):
            command = [sys.executable, "-m", "bench.scale_inside", str(guests), name, *phase]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            if done.returncode != 0:
                last = "\n".join(done.stdout.splitlines()[-20:])
                raise RuntimeError(
                    f"{' '.join(phase)} with {guests} guests ended with {done.returncode}:\n{last}"
                )
        return msgspec.json.decode(found.read_bytes(), type=Figures)


def percentile(figures: Sequence[float], part: int) -> float:
    """The smallest figure that at least ``part`` percent of the figures do not exceed."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, -(-len(ordered) * part // 100) - 1)]


def show(found: Sequence[Figures]) -> Table:
    """A table with a row for each number of guests."""
    table = Table(box=None, pad_edge=False)
    for heading in (
        "GUESTS",
        "DEVICES",
        "MEMORY MiB",
        "START s",
        "OF CPU",
        "SETTLED s",
        "IDLE P50 us",
        "P99 us",
        "HANDOVERS",
        "TOOK s",
        "MEANWHILE P50 us",
        "P99 us",
        "P99 RATIO",
        "REFUSED",
    ):
        table.add_column(heading, justify="right")
    for each in found:
        idle, busy = percentile(each.idle_us, 99), percentile(each.busy_us, 99)
        table.add_row(
            f"{each.guests:,}",
            f"{each.guests * LUNS:,}",
            f"{each.memory_mib:,.0f}",
            f"{each.start_seconds:.2f}",
            f"{each.start_cpu_seconds:.2f}",
            f"{each.settled_seconds:.2f}",
            f"{statistics.median(each.idle_us):,.0f}",
            f"{idle:,.0f}",
            f"{each.handovers}",
            f"{each.handovers_seconds:.2f}",
            f"{statistics.median(each.busy_us):,.0f}",
            f"{busy:,.0f}",
            f"{busy / idle:.1f}",
            f"{each.refused}",
        )
    return table


def growth(found: Sequence[Figures]) -> Table:
    """A table of the factors by which each figure grows from one number of guests to the next."""
    table = Table(box=None, pad_edge=False)
    for heading in ("GUESTS", "TIMES", "MEMORY KiB FOR EACH MORE", "START CPU", "IDLE P50", "MEANWHILE P50"):
        table.add_column(heading, justify="right")
    for less, more in itertools.pairwise(found):
        each = (more.memory_mib - less.memory_mib) * 1024 / (more.guests - less.guests)
        table.add_row(
            f"{less.guests:,} to {more.guests:,}",
            f"{more.guests / less.guests:.1f}",
            f"{each:,.0f}",
            f"{more.start_cpu_seconds / less.start_cpu_seconds:.1f}",
            f"{statistics.median(more.idle_us) / statistics.median(less.idle_us):.1f}",
            f"{statistics.median(more.busy_us) / statistics.median(less.busy_us):.1f}",
        )
    return table


def wanted(found: Sequence[Figures]) -> Table:
    """A table of the goals with 1,000 guests beside the figures; empty without that many guests."""
    table = Table(box=None, pad_edge=False)
    for heading in ("WANTED WITH 1,000 GUESTS", "AT MOST", "FOUND", "REACHED"):
        table.add_column(heading, justify="left" if heading.startswith("WANTED") else "right")
    for each in found:
        if each.guests != 1000:
            continue
        ratio = percentile(each.busy_us, 99) / percentile(each.idle_us, 99)
        for title, most, value in (
            ("memory, MiB", _WANTED_MIB, each.memory_mib),
            ("start-up, s", _WANTED_SECONDS, each.start_seconds),
            ("p99 during handovers by p99 without", _WANTED_RATIO, ratio),
        ):
            table.add_row(title, f"{most}", f"{value:.1f}", "yes" if value <= most else "no")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guests", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    console = wide_console()
    found = []
    for guests in options.guests:
        console.print(f"{guests:,} guests ...", highlight=False)
        try:
            found.append(measure(guests))
        except RuntimeError as error:
            console.print(f"left out: {error}", markup=False, highlight=False)
    console.print(show(found))
    console.print()
    console.print(growth(found))
    console.print()
    console.print(wanted(found))
    if options.json is not None:
        report = Report(machine=describe_machine(), figures=found)
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))


if __name__ == "__main__":
    main()
