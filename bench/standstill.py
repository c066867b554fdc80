"""`make bench-standstill`: how long a guest stands still while it moves, and what its reservations add.

The guests are real, in QEMU with software emulation, with 1 to 256 scsi-block LUNs over iSCSI. Their target
is behind a proxy that delays in each direction. Ten kinds of migration alternate in one run:

    a  QEMU 11.1, migrate-pr=off               e  as c, destination started with -S
    b  QEMU 11.1, migrate-pr=on                f  as d, destination started with -S
    c  the installed QEMU with Holdover        g  as c, the agents' journals in memory: no disk to sync
    d  the installed QEMU alone                h  as c, with early-commit
    i  as c, by `holdover migrate --source-qmp`  j  as i, with early-commit

In c, e, g and h the agents drive both QEMUs (`holdover migrate --at`). In i and j the command does.

The standstill is from STOP on the source to RESUME on the destination, by the times of QEMU's events. What
the reservations add is b-a for QEMU 11.1, and c-d, e-f, g-d and h-d for Holdover, in each round.

While a guest moves, the processes of all others are stopped. A case ends when the median of each difference
is known to 1 ms, after 40 rounds, or after the rounds that were asked for. The figures are saved after each
round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.costs import Case, Run, cost_panels, cost_table, is_settled, standstill_table, wanted_table
from bench.delay import Accuracy, DelayProxy, delay_proxy, measure_accuracy
from bench.machine import Machine, available_mib, describe_machine, wide_console
from bench.moving import MEMORY, GuestKind, MovingGuest, NotMeasured, moving_guest
from bench.plot import draw_bars, draw_svg
from bench.qemu11 import Qemu11Error, qemu11
from bench.servers import SERVERS, Server
from holdover.demo.machines.console import ConsoleError
from holdover.demo.machines.image import GuestImage, ImageError, guest_image
from holdover.demo.machines.process import missing_qemu_packages
from holdover.qemu.monitor import QemuError

_MIB_PER_GUEST = 250
_MIB_PER_LUN = 6
"""The most memory that the processes around one guest take for each LUN, with both QEMUs of a migration."""


_FEWEST, _MOST = 5, 40
"""Rounds of a case."""
_KNOWN_MS = 1.0
"""How well the median of each difference must be known before a case ends."""

_FAILURES = (NotMeasured, ConsoleError, QemuError, RuntimeError, TimeoutError)
"""The errors that end the measuring of one guest, but not that of the others."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    machine: Machine
    target: str
    qemus: dict[str, str]
    rounds: int | None
    proxy: list[Accuracy]
    cases: list[Case]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which guests move how: those of the installed QEMU and of QEMU 11.1, if these are available."""

    kinds: dict[Run, GuestKind]
    versions: dict[str, str]


def _plan(tell: Console, wanted: Sequence[str]) -> _Plan:
    kinds: dict[Run, GuestKind] = {}
    versions = {}
    if missing := missing_qemu_packages():
        tell.print(f"left out: c to g: QEMU is missing (packages {' '.join(missing)})")
    else:
        said = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"version ([\d.]+)", said.stdout)
        version = found[1] if found else "?"
        versions["installed"] = version
        # If the installed QEMU has the property itself, it must leave the reservations to Holdover.
        own = None if int(version.split(".")[0]) < 11 else False
        behind = GuestKind(f"QEMU {version} with Holdover", migrate_pr=own, holdover=True)
        alone = GuestKind(f"QEMU {version} alone", migrate_pr=own)
        if MEMORY.is_dir():
            in_memory = GuestKind(
                f"{behind.name}, journals in memory", (), own, holdover=True, journals=MEMORY
            )
            kinds[Run.HOLDOVER_MEMORY] = in_memory
        else:
            tell.print(f"left out: g: there is no {MEMORY}")
        early = GuestKind(f"{behind.name}, early commit", (), own, holdover=True, early=True)
        kinds |= {Run.HOLDOVER: behind, Run.HOLDOVER_S: behind, Run.ALONE: alone, Run.ALONE_S: alone}
        kinds[Run.HOLDOVER_EARLY] = early
        kinds[Run.HOLDOVER_COMMAND] = replace(behind, name=f"{behind.name}, by the command", by_command=True)
        kinds[Run.HOLDOVER_COMMAND_EARLY] = replace(
            early, name=f"{early.name}, by the command", by_command=True
        )
    try:
        new = qemu11()
        versions["new"] = new.version()
    except Qemu11Error as error:
        tell.print(f"left out: a and b: {error}", markup=False)
    else:
        name = f"QEMU {versions['new']} migrate-pr"
        kinds[Run.NEW_OFF] = GuestKind(f"{name}=off", new.started, migrate_pr=False)
        kinds[Run.NEW_ON] = GuestKind(f"{name}=on", new.started, migrate_pr=True)
    return _Plan({run: kinds[run] for run in Run if run in kinds and run.value in wanted}, versions)


def _server(name: str | None, tell: Console) -> Server:
    """The target that was asked for; otherwise one that is not ours, if there is one."""
    present = {each.name: each for each in SERVERS if not each.missing}
    server = present.get(name or "tgt", SERVERS[0])
    tell.print(f"target: {server.name}")
    return server


async def measure(
    plan: _Plan,
    server: Server,
    luns: Sequence[int],
    delays_ms: Sequence[float],
    report: Report,
    traces: Path | None,
    save: Callable[[], None],
    tell: Console,
) -> None:
    """Measure all cases into the report; guests boot once for each number of LUNs.

    ``save`` is called after each round. ``traces`` is the folder for the traces of the handovers.
    """
    image = guest_image()
    async with delay_proxy() as proxy:
        report.proxy.extend(await measure_accuracy(proxy, tuple(delays_ms)))
        for count in luns:
            kinds = set(plan.kinds.values())
            needed = len(kinds) * (_MIB_PER_GUEST + _MIB_PER_LUN * count)
            if needed > available_mib():
                tell.print(f"left out: {count} LUNs: {needed} MiB of memory are needed")
                continue
            async with AsyncExitStack() as stack:
                guests = await _boot(plan, server, stack, count, image, proxy, tell)
                for delay in delays_ms:
                    case = Case(luns=count, delay_ms=delay, standstill_ms={}, handover_ms={})
                    report.cases.append(case)
                    await _measure(case, plan, guests, report.rounds, traces, save, tell)


async def _boot(
    plan: _Plan,
    server: Server,
    stack: AsyncExitStack,
    luns: int,
    image: GuestImage,
    proxy: DelayProxy,
    tell: Console,
) -> dict[GuestKind, MovingGuest]:
    """The guests that could be started, each with reservations on all its LUNs."""
    guests = {}
    for kind in dict.fromkeys(plan.kinds.values()):
        tell.print(f"booting {kind.name} with {luns} LUNs", highlight=False)
        try:
            guests[kind] = await stack.enter_async_context(moving_guest(kind, luns, image, proxy, server))
            guests[kind].rest()
        except _FAILURES as error:
            tell.print(f"left out: {kind.name} with {luns} LUNs: {error}", markup=False)
    return guests


async def _measure(
    case: Case,
    plan: _Plan,
    guests: dict[GuestKind, MovingGuest],
    rounds: int | None,
    traces: Path | None,
    save: Callable[[], None],
    tell: Console,
) -> None:
    runs = [(run, guests[kind]) for run, kind in plan.kinds.items() if kind in guests]
    number = 0
    while number < (rounds or _MOST):
        # The order changes from round to round, so that a drift of the machine affects all.
        for run, guest in runs if number % 2 == 0 else reversed(runs):
            if guest.kind not in guests:
                continue
            if traces is not None:
                guest.trace = traces / f"{case.luns}-{case.delay_ms:g}-{run.value}-{number}.json"
            await guest.wake()
            try:
                move = await guest.move(case.delay_ms / 1000, run in {Run.HOLDOVER_S, Run.ALONE_S})
            except _FAILURES as error:
                tell.print(
                    f"left out from here on: {guest.kind.name} with {case.luns} LUNs: {error}", markup=False
                )
                del guests[guest.kind]
                continue
            finally:
                guest.rest()
            case.standstill_ms.setdefault(run.value, []).append(move.standstill_ms)
            if move.handover_ms is not None:
                case.handover_ms.setdefault(run.value, []).append(move.handover_ms)
        number += 1
        save()
        if rounds is None and number >= _FEWEST and is_settled(case, _KNOWN_MS):
            break
    told = ", ".join(f"{run} {min(ms):.0f}…{max(ms):.0f}" for run, ms in sorted(case.standstill_ms.items()))
    tell.print(
        f"{case.luns} LUNs, {case.delay_ms:g} ms each way, {number} rounds: {told} ms", highlight=False
    )


async def _until_interrupted(measuring: Coroutine[object, object, None]) -> None:
    """Measure to the end, or until the user stops it. What was measured so far is in the report."""
    task = asyncio.ensure_future(measuring)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _accuracy_table(accuracy: list[Accuracy]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("DELAY EACH WAY ms", "ROUND TRIP ms", "P99 ms"):
        table.add_column(heading, justify="right")
    for each in accuracy:
        table.add_row(f"{each.delay_ms:g}", f"{each.round_trip_ms:.2f}", f"{each.p99_ms:.2f}")
    return table


def show(report: Report, console: Console) -> None:
    """Print the tables and bars."""
    console.print("\nThe proxy itself: round trips through it, less one without a delay.")
    console.print(_accuracy_table(report.proxy))
    console.print("\nStandstill: median (least…most).")
    console.print(standstill_table(report.cases))
    console.print("\nWhat the reservations add to it, ms: median (least…most) of the rounds' differences.")
    console.print(cost_table(report.cases))
    console.print()
    console.print(wanted_table(report.cases))
    console.print()
    console.print(draw_bars("LUNs", "ms", cost_panels(report.cases)), highlight=False, markup=False)


def svg(report: Report) -> str:
    """The plot of what the reservations add."""
    title = "What moving the reservations adds to a guest's standstill"
    return draw_svg(title, "LUNs", "milliseconds", cost_panels(report.cases))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--luns", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 1, 5], help="milliseconds each way")
    names = [each.name for each in SERVERS]
    parser.add_argument("--target", choices=names, help="which target; tgt where it is installed")
    parser.add_argument("--rounds", type=int, help="so many, instead of as many as it takes")
    ways = [run.value for run in Run]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, help="the letters above")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    parser.add_argument("--traces", type=Path, help="write the trace of each handover into this folder")
    parser.add_argument("--svg", type=Path, help="draw the plot into this file")
    options = parser.parse_args()
    console = wide_console()
    plan = _plan(console, options.ways)
    server = _server(options.target, console)
    try:
        guest_image()
    except ImageError as error:
        console.print(f"left out: everything: {error}", markup=False)
        return
    report = Report(
        machine=describe_machine(),
        target=server.name,
        qemus=plan.versions,
        rounds=options.rounds,
        proxy=[],
        cases=[],
    )

    def save() -> None:
        if options.json is not None:
            new = options.json.with_name(f"{options.json.name}.new")
            new.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
            os.replace(new, options.json)

    if options.traces is not None:
        options.traces.mkdir(parents=True, exist_ok=True)
    asyncio.run(
        _until_interrupted(
            measure(plan, server, options.luns, options.delays, report, options.traces, save, console)
        )
    )
    show(report, console)
    save()
    if options.svg is not None:
        options.svg.write_text(svg(report), encoding="utf-8")


if __name__ == "__main__":
    main()
