"""`python -m bench.journal`: how fast a journal acknowledges, and how fast a large one is opened and loaded.

It also measures the disk alone: writes of 4 KiB, each with a sync. Nothing durable that writes one by one can
be faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from holdover.journal.journal import Journal
from holdover.journal.records import DeviceRecord, GuestRecord, HandoverRecord
from holdover.network import event_loop

_SECONDS = 5.0
_GUESTS, _DEVICES, _STATES = 1000, 16, 12
_BODY = json.dumps({"key": 1 << 60, "type": 5, "aptpl": True, "generation": 77, "stale": False}).encode()


@dataclass(frozen=True, slots=True)
class Rate:
    """How many writes were acknowledged; times are in seconds."""

    what: str
    callers: int
    per_second: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Start:
    """The times to open and load a journal with many devices, in seconds, and its size in bytes."""

    guests: int
    devices: int
    states: int
    size: int
    written: float
    opened: float
    loaded: float


def _rate(what: str, callers: int, times: list[float], seconds: float) -> Rate:
    centiles = statistics.quantiles(times, n=100)
    return Rate(what, callers, len(times) / seconds, centiles[49], centiles[98])


def disk(folder: Path) -> Rate:
    """Write and sync again and again, into a file that has its full size already."""
    times: list[float] = []
    descriptor = os.open(folder / "disk", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, bytes(1 << 22), 0)
    os.fsync(descriptor)
    start = time.perf_counter()
    while (begin := time.perf_counter()) - start < _SECONDS:
        os.pwrite(descriptor, bytes(4096), len(times) % 1024 * 4096)
        os.fdatasync(descriptor)
        times.append(time.perf_counter() - begin)
    os.close(descriptor)
    return _rate("the disk alone: 4 KiB and fdatasync", 1, times, time.perf_counter() - start)


async def puts(folder: Path, callers: int) -> Rate:
    """Run several callers at once; each puts one state of its handover and one device at a time."""
    journal = Journal.open(folder / f"journal-{callers}")
    times: list[float] = []
    start = time.perf_counter()

    async def call(name: str) -> None:
        while (begin := time.perf_counter()) - start < _SECONDS:
            await journal.put(_device(name, 0), _state(name, str(len(times))))
            times.append(time.perf_counter() - begin)

    await asyncio.gather(*(call(f"guest{number}") for number in range(callers)))
    seconds = time.perf_counter() - start
    await journal.close()
    return _rate("put of a device and a state", callers, times, seconds)


async def large(folder: Path) -> Start:
    """Measure an agent's journal with many guests, each of which has been migrated twice."""
    file = folder / "large"
    journal = Journal.open(file)
    start = time.perf_counter()
    for number in range(_GUESTS):
        name = f"guest{number:04d}"
        guest = GuestRecord(name=name, uuid=None, machine_type="pc-q35-9.2", origin="configured")
        devices = [_device(name, place) for place in range(_DEVICES)]
        states = [_state(f"{name}-{place % 2}", str(place)) for place in range(_STATES)]
        await journal.put(guest, *devices, *states)
    written = time.perf_counter() - start
    await journal.close()
    start = time.perf_counter()
    journal = Journal.open(file)
    opened = time.perf_counter() - start
    start = time.perf_counter()
    contents = journal.load()
    loaded = time.perf_counter() - start
    await journal.close()
    assert len(contents.devices) == _GUESTS * _DEVICES
    count, size = _GUESTS * _STATES, file.stat().st_size
    return Start(_GUESTS, len(contents.devices), count, size, written, opened, loaded)


def _device(guest: str, place: int) -> DeviceRecord:
    designator = f"naa.6001405{zlib.crc32(f'{guest} {place}'.encode()):09x}"
    return DeviceRecord(guest=guest, designator=designator, drive=f"/dev/disk/by-id/wwn-{place}", body=_BODY)


def _state(handover_id: str, state: str) -> HandoverRecord:
    return HandoverRecord(
        handover_id=handover_id,
        guest="guest",
        role="source",
        peer="host-b",
        state=state,
        open=True,
        body=_BODY * 10,
        at=time.time(),
    )


def main() -> None:
    """Measure in a folder of the disk in question and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to write; a new folder of the system's otherwise")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        rates = [disk(folder), *(event_loop.run(puts(folder, callers)) for callers in (1, 100))]
        start = event_loop.run(large(folder))
    if options.json:
        print(json.dumps({"rates": [asdict(rate) for rate in rates], "start": asdict(start)}))
        return
    table = Table("what", "callers", "per second", "p50 ms", "p99 ms", box=None)
    for rate in rates:
        numbers = (f"{rate.per_second:.0f}", f"{rate.p50 * 1e3:.2f}", f"{rate.p99 * 1e3:.2f}")
        table.add_row(rate.what, str(rate.callers), *numbers)
    Console().print(table)
    print(
        f"{start.guests} guests, {start.devices} devices, {start.states} states of handovers, "
        f"{start.size >> 10} KiB: written in {start.written:.2f} s, opened (all of it checked) in "
        f"{start.opened:.2f} s, loaded in {start.loaded:.2f} s"
    )


if __name__ == "__main__":
    main()
