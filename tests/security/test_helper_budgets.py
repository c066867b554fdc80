"""What one user, or one process, can take at the helper's socket: descriptors, time, lines of the log."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from holdover.admission.shares import shares
from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig
from holdover.helper.clients import Clients
from tests.helper.client import HelperClient
from tests.rig.processes import Rig
from tests.security.local_user import NOBODY, needs_root, open_folder, program_of

READ_KEYS = bytes.fromhex("5e000000000000004000")

FILE = """
name = "host"
initiator = "iqn.2026-11.org.example:host"
[api]
listen = "unix:{folder}/api.sock"
[helper]
socket = "{folder}/all.sock"
mode = "0666"
"""

CONNECT = """
greets = sys.argv[2] == "greets"
held = []
def open_them(count):
    for number in range(count):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(600)
        try:
            client.connect(sys.argv[1])
            if greets:
                if not client.recv(4):
                    raise OSError
                client.sendall(bytes(4))
        except OSError:
            client.close()
            continue
        held.append(client)

children = []
for number in range(int(sys.argv[3])):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        open_them(int(sys.argv[4]))
        os.write(write, b"x")
        time.sleep(600)
    os.read(read, 1)
    children.append(child)
print("there", flush=True)
sys.stdin.readline()
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


@needs_root
@pytest.mark.parametrize("greets", ["greets", "silent"])
@pytest.mark.parametrize(("processes", "each"), [(1, 400), (8, 50)])
def test_connections_of_a_user_keep_out_nobody(rig: Rig, greets: str, processes: int, each: int) -> None:
    """A helper that may have 256 descriptors, and a user of the host who opens 400 connections."""
    with open_folder() as folder:
        path = folder / "helper.sock"
        limited = ("prlimit", "--nofile=256:256", "sh", "-c", 'umask 0; exec "$0" "$@"')
        helper = rig.start(
            "helper", ["pr-helper", "-k", str(path), "-v"], ports=[f"unix:{path}"], prefix=limited
        )
        with program_of(CONNECT, str(path), greets, str(processes), str(each)) as attacker:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == "there\n"
            null = os.open("/dev/null", os.O_RDWR)
            for _ in range(3):
                with HelperClient(path, timeout=600) as victim:
                    assert victim.run(null, READ_KEYS).status == 2, "answered: this is no SCSI device"
            os.close(null)
        assert "Clients of the helper were turned away." in helper.output()


COMMANDS = """
clients = [connect(sys.argv[1]) for _ in range(int(sys.argv[2]))]
null = os.open("/dev/null", os.O_RDWR)
began = time.monotonic()
for each in clients:
    send(each, null, READ_KEYS)
for each in clients:
    reply(each)
print(time.monotonic() - began, flush=True)
"""


@needs_root
def test_commands_of_no_guest_are_answered_at_a_limited_rate() -> None:
    """Each of them takes time of the event loop, and a line in the log."""
    count = 100

    async def test(folder: Path) -> None:
        host = Host(msgspec.toml.decode(FILE.format(folder=folder), type=AgentConfig))
        await host.start()
        try:
            began = time.monotonic()
            with (
                capture_logs() as log,
                program_of(COMMANDS, str(folder / "all.sock"), str(count)) as attacker,
            ):
                assert attacker.stdout is not None
                took = float(await asyncio.to_thread(attacker.stdout.readline))
            lines = [each["event"] for each in log if each["log_level"] == "warning"]
            assert took > (count - 64) * 0.1 * 0.9
            seconds = time.monotonic() - began
            assert len(lines) <= 64 + seconds / 10
        finally:
            await host.close()

    with open_folder() as folder:
        asyncio.run(asyncio.wait_for(test(folder), 120))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_process_and_a_user_have_their_shares_of_the_connections() -> None:
    clock = Clock()
    clients = Clients(64, process_most=8, process_burst=1000, clock=clock)
    taken: Counter[int] = Counter()
    for number in range(200):
        place, _ = clients.enter(number % 20, NOBODY)
        if place is not None and place.know():
            taken[place.pid] += 1
        elif place is not None:
            place.leave()
    assert max(taken.values()) <= 8
    assert taken.total() == clients.count == 48
    other, _ = clients.enter(1, 107)
    assert other is not None
    assert other.know()
    other.leave()
    assert clients.count == 48


def test_a_process_connects_at_a_limited_rate() -> None:
    clock = Clock()
    clients = Clients(1000, process_burst=10, clock=clock)

    def come(pid: int) -> bool:
        place, _ = clients.enter(pid, NOBODY)
        if place is not None:
            place.leave()
        return place is not None

    assert [come(1) for _ in range(12)] == [True] * 10 + [False] * 2
    assert come(2), "another process has its own rate"
    clock.now += 0.1
    assert [come(1) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("limit", [64, 256, 1024, 65536, 1 << 30, -1])
def test_descriptors_are_kept_in_reserve(limit: int) -> None:
    found = shares(limit)
    assert found.connections >= 1
    assert found.helper_clients >= 16
    if limit >= 256:
        most = min(limit, 1 << 20)
        # each client of the helper may have a second one
        assert most - found.connections - 2 * found.helper_clients >= min(64, most // 8)
