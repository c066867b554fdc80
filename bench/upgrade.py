"""`python -m bench.upgrade`: how long a guest behind an export waits while its agent is restarted.

QEMU's block layer (`qemu-io`, with libiscsi) reads and writes one command after another, while a stand-in for
systemd replaces the agent: by its *successor*, or by a restart as `systemctl restart` does it, with the
listening sockets in the manager's store (*kept*) or not. The figure is the longest wait for one command.
"""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec
from rich.table import Table

from bench.agents import GUEST, own_environment, settings
from bench.machine import Machine, describe_machine, wide_console
from bench.servers import SERVERS, serve
from bench.service_manager import ServiceManager
from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.config.agent_file import export_iqn
from holdover.demo.hosts import certified_hosts
from holdover.demo.processes import free_port

_HOST = "host-a"
_PROMPT = b"qemu-io> "
_HANG = 120.0
_BEFORE, _AFTER = 1.0, 1.0
"""Seconds of load before and after each restart."""


class Way(StrEnum):
    """How the agent is replaced."""

    SUCCESSOR = "successor"
    """The new process starts first, and the old one gives way to it (SIGUSR2)."""
    KEPT = "restart, sockets kept"
    NOT_KEPT = "restart, sockets not kept"


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """One restart under load: seconds."""

    way: Way
    longest_wait: float
    old_agent_ended_after: float
    commands: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    machine: Machine
    restarts: list[Restart]


@dataclass
class Guest:
    """A client of an export that has one command under way all the time, in a thread of its own."""

    url: str
    waits: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have commands under way until the block ends."""
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "qemu-io", "-f", "raw", "-t", "none", self.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        thread = threading.Thread(target=self._work, args=(process,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(_HANG)
            process.kill()
            process.wait()

    def _work(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        _until_prompt(process.stdout.fileno())
        number = 0
        while not self._stop.is_set():
            number += 1
            what = "write -P 7" if number % 2 else "read"
            began = time.monotonic()
            process.stdin.write(f"{what} {number % 1000 * 4096} 4096\n".encode())
            process.stdin.flush()
            said = _until_prompt(process.stdout.fileno())
            self.waits.append(time.monotonic() - began)
            if b"4096/4096 bytes" not in said:
                self.failures.append(said.decode(errors="replace"))
                return


def _until_prompt(descriptor: int) -> bytes:
    """What the client prints up to its next prompt.

    Raises:
        TimeoutError: It prints none.
    """
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not said.endswith(_PROMPT):
            if not selector.select(_HANG):
                raise TimeoutError(said.decode(errors="replace"))
            more = os.read(descriptor, 65536)
            if not more:
                break
            said += more
    return said


def measure(rounds: int, ways: Sequence[Way], *, kill: bool = False) -> list[Restart]:
    """Restart an agent that many times under load, for each way.

    Raises:
        RuntimeError: A command of the guest has failed, or the agent does not start.
    """
    found = []
    for way in ways:
        with tempfile.TemporaryDirectory(prefix="holdover-bench-") as name:
            found += _restarts(Path(name), rounds, way, kill=kill)
    return found


def _restarts(folder: Path, rounds: int, way: Way, *, kill: bool) -> list[Restart]:
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    hosts = certified_hosts(folder, [_HOST])
    export = f"127.0.0.1:{free_port()}"
    with serve(SERVERS[0], disk) as url:
        config = folder / "agent.toml"
        config.write_text(settings(folder, _HOST, hosts, export, [url], incoming=False), encoding="utf-8")
        command = [sys.executable, "-m", "holdover", "agent", "--config", str(config)]
        keeps = way is not Way.NOT_KEPT
        with ServiceManager(command, own_environment(folder), folder, keeps_sockets=keeps) as manager:
            manager.start()
            secret = ChapSecrets(folder / f"{_HOST}.state").file(GUEST).read_text(encoding="ascii")
            of_guest = f"iscsi://{GUEST}%{secret}@{export}/{export_iqn(GUEST)}/0"
            return [_restart(manager, of_guest, way, kill=kill) for _ in range(rounds)]


def _restart(manager: ServiceManager, url: str, way: Way, *, kill: bool) -> Restart:
    guest = Guest(url)
    with guest.running():
        time.sleep(_BEFORE)
        if kill:
            manager.kill()
        ended = manager.replace() if way is Way.SUCCESSOR else manager.restart()
        time.sleep(_AFTER)
    if guest.failures:
        raise RuntimeError(f"a command of the guest failed: {guest.failures[0]}\n{manager.output}")
    return Restart(
        way=way,
        longest_wait=max(guest.waits),
        old_agent_ended_after=ended,
        commands=len(guest.waits),
    )


def show(restarts: Sequence[Restart]) -> Table:
    """A table of the longest waits."""
    table = Table(box=None, pad_edge=False)
    for heading in ("WAY", "RESTARTS", "MEDIAN s", "LONGEST s", "OLD AGENT ENDED AFTER s"):
        table.add_column(heading, justify="left" if heading == "WAY" else "right")
    for way in Way:
        found = [each for each in restarts if each.way is way]
        if found:
            waits = [each.longest_wait for each in found]
            ended = statistics.median(each.old_agent_ended_after for each in found)
            table.add_row(
                way.value,
                str(len(found)),
                f"{statistics.median(waits):.2f}",
                f"{max(waits):.2f}",
                f"{ended:.2f}",
            )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kill", action="store_true", help="end the agent by SIGKILL")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    console = wide_console()
    if shutil.which("qemu-io") is None:
        console.print("left out: qemu-io is missing (packages qemu-utils, qemu-block-extra)")
        return 0
    restarts = measure(options.rounds, tuple(Way)[options.kill :], kill=options.kill)
    console.print(show(restarts))
    if options.json is not None:
        report = Report(machine=describe_machine(), restarts=restarts)
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
