"""`make bench-libvirt`: how long a guest of libvirt stands still in `virsh migrate --live`.

Separate hosts have a libvirtd, QEMU and, with Holdover, an agent each; the guest has one LUN by scsi-block
and runs its firmware. The ways take turns in one run:

    stock      libvirt without a lock manager, straight to the LUN; no reservation
    question   with Holdover and a reservation, which is committed when the destination asks
    events     the same with libvirt's events: it is committed at pre-switchover (package python3-libvirt)

The standstill is from STOP on the source to RESUME on the destination, by the times of QEMU's events, as
`virsh qemu-monitor-event` prints them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from tests.rig.hosts import Program, until
from tests.rig.libvirt_machine import A, B, Machine
from tests.rig.packages import missing
from tests.rig.separate_libvirt import PACKAGES, SeparateLibvirt, straight_disk
from tests.rig.separate_site import GUEST, SAN, SeparateSite, separate_site

from bench.figures import Spread, differences, median_ratio
from bench.machine import Machine as MachineDescription
from bench.machine import describe_machine, wide_console
from holdover.agent.libvirt.libvirt_python import load_libvirt

STOCK, QUESTION, EVENTS = "stock", "question", "events"
_EVENT = re.compile(r"event (STOP|RESUME) at ([\d.]+) for domain '(.+?)'")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured: the standstills of each way in milliseconds, in the order of the rounds."""

    machine: MachineDescription
    standstill_ms: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class _Way:
    """A guest that moves in one way, and the programs that print the events of each host."""

    machine: Machine
    events: dict[str, Program]

    def move(self, *, reserved: bool) -> float:
        """Migrate the guest once; the milliseconds that it stood still."""
        source, destination = self.machine.here, self.machine.there
        before = {name: len(times(self.events[name].output())) for name in (source, destination)}
        done = self.machine.migrate().result()
        if done.returncode != 0:
            raise RuntimeError(f"virsh migrate: {done.stderr}")
        self.machine.here, self.machine.there = destination, source
        if reserved:
            self.machine.is_at_home()

        def seen(host: str, event: str) -> float:
            new = times(self.events[host].output())[before[host] :]
            return next((at for name, at in reversed(new) if name == event), 0.0)

        stop = until(lambda: seen(source, "STOP"), "no STOP on the source")
        resume = until(lambda: seen(destination, "RESUME"), "no RESUME on the destination")
        return (resume - stop) * 1000


def times(printed: str) -> list[tuple[str, float]]:
    """The events of the guest that virsh has printed, with QEMU's times in seconds."""
    return [(event, float(at)) for event, at, name in _EVENT.findall(printed) if name == GUEST]


@contextlib.contextmanager
def _way(name: str, folder: Path) -> Iterator[_Way]:
    with separate_site(folder / name, A, B) as site:
        uri = "qemu:///system" if name == EVENTS else ""
        site.begin(sections=f'[libvirt]\nevents = "{uri}"\n')
        libvirt = SeparateLibvirt(site)
        libvirt.begin("nop" if name == STOCK else "lockd")
        machine = Machine(libvirt)
        if name == STOCK:
            libvirt.define(A, disk=straight_disk(site[SAN].address))
            libvirt.must(A, "start", GUEST)
        else:
            machine.start()
        if name == EVENTS:
            _hears(site)
        watch = ("stdbuf", "-oL", "virsh", "-c", "qemu:///system", "qemu-monitor-event", "--loop")
        yield _Way(machine, {host: site[host].spawn(*watch) for host in (A, B)})
        machine.end()


def _hears(site: SeparateSite) -> None:
    for name, agent in site.agents.items():
        until(partial(_is_subscribed, agent), f"{name}: the agent does not hear events")


def _is_subscribed(agent: Program) -> bool:
    return "hears libvirt's events" in agent.output()


def measure(names: list[str], rounds: int, tell: Console) -> dict[str, list[float]]:
    """The standstills of each way; each round has each way twice, there and back."""
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, contextlib.ExitStack() as stack:
        ways = {name: stack.enter_context(_way(name, Path(folder))) for name in names}
        for number in range(rounds):
            order = list(ways.items())
            for name, way in order if number % 2 == 0 else reversed(order):
                found[name] += [way.move(reserved=name != STOCK) for _ in range(2)]
            tell.print(
                f"round {number + 1}: {', '.join(f'{name} {found[name][-1]:.0f}' for name in names)} ms",
                highlight=False,
            )
    return found


def show(found: dict[str, list[float]]) -> Table:
    """A table of the standstills, and of what the reservation adds."""
    table = Table(box=None, pad_edge=False)
    for heading in ("WAY", "MOVES", "MEDIAN ms", "LEAST", "MOST", "MORE THAN STOCK ms", "RATIO"):
        table.add_column(heading, justify="left" if heading == "WAY" else "right")
    stock = found.get(STOCK, [])
    for name, figures in found.items():
        spread = Spread.of(figures)
        row = [name, str(spread.count), f"{spread.median:.0f}", f"{spread.low:.0f}", f"{spread.high:.0f}"]
        if name != STOCK and stock:
            ratio = median_ratio(figures, stock)
            more = Spread.of(differences(figures, stock)).median
            row += [f"{more:.0f}", "" if ratio is None else f"{ratio:.2f}"]
        table.add_row(*row)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    console = wide_console()
    if lacks := missing(*PACKAGES, "iproute2", "nftables"):
        console.print(f"left out: everything: packages {' '.join(lacks)}")
        return 0
    if os.geteuid() != 0:
        console.print("left out: everything: separate hosts need root")
        return 0
    names = [STOCK, QUESTION]
    if load_libvirt() is None:
        console.print("left out: events: package python3-libvirt")
    else:
        names.append(EVENTS)
    found = measure(names, options.rounds, console)
    console.print(show(found))
    if options.json is not None:
        report = Report(machine=describe_machine(), standstill_ms=found)
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
