"""The process that looks at the open files of others: what it says, what it may, what it cannot hold up."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdover.agent.attach.disks import open_disks_server
from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.attach.disks.open_disks_server import (
    ANSWER,
    FAILED,
    REQUEST,
    USERFAULTFD,
    answer,
    open_devices,
)

CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")
SYS_PTRACE, DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 19, 1 << 1, 1 << 2


@pytest.fixture
def zero() -> Iterator[tuple[int, int]]:
    """A device that this process has open."""
    with Path("/dev/zero").open("rb") as file:
        yield stat.S_IFCHR, os.fstat(file.fileno()).st_rdev


def capabilities(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: int(found[name], 16) for name in CAPABILITIES}


def test_the_devices_that_a_process_has_open(zero: tuple[int, int]) -> None:
    assert zero in set(open_devices(os.getpid()))
    with pytest.raises(OSError, match="No such file"):
        list(open_devices(0))

    async def test() -> None:
        disks = OpenDisks()
        assert zero in await disks.of(os.getpid())
        found, none, again = await asyncio.gather(disks.of(os.getppid()), disks.of(0), disks.of(os.getpid()))
        assert zero not in found
        assert none == frozenset()
        assert zero in again
        await disks.close()

    asyncio.run(asyncio.wait_for(test(), 600))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of userfaultfd(2) is that of x86-64")
def test_a_userfaultfd_is_among_them() -> None:
    assert USERFAULTFD not in set(open_devices(os.getpid()))
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(323, os.O_CLOEXEC | 1)  # UFFD_USER_MODE_ONLY
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    try:
        assert USERFAULTFD in set(open_devices(os.getpid()))
    finally:
        os.close(descriptor)


def test_it_has_no_capability_beside_those_for_looking() -> None:
    async def test() -> None:
        disks = OpenDisks()
        await disks.of(os.getpid())
        assert disks._server is not None
        found = capabilities(disks._server.pid)
        assert found["CapEff"] & ~(SYS_PTRACE | DAC_OVERRIDE | DAC_READ_SEARCH) == 0
        assert found["CapPrm"] == found["CapEff"]
        assert (found["CapInh"], found["CapAmb"]) == (0, 0)
        await disks.close()
        assert disks._server.returncode == 0

    asyncio.run(asyncio.wait_for(test(), 600))


def test_a_process_of_another_user_is_seen_and_the_agent_may_not_look_itself() -> None:
    """In a process of its own, which gives up the right to look, as an agent does."""
    if os.getuid() != 0:
        pytest.skip("only root may look at processes of other users")
    script = """
import asyncio, os, sys
from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.attach.disks.open_disks_server import open_devices
disks = OpenDisks.start_and_give_up()
pid = int(sys.argv[1])
try:
    list(open_devices(pid))
    print("agent sees")
except PermissionError:
    print("agent is refused")
async def main():
    print("looked" if await disks.of(pid) else "not seen")
    await disks.close()
asyncio.run(main())
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")))
"""
    nobody = (
        "import os; zero = open('/dev/zero'); os.setgroups([]); os.setresgid(65534, 65534, 65534); "
        "os.setresuid(65534, 65534, 65534); print(flush=True); input()"
    )
    command = [sys.executable, "-S", "-c", nobody]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        command = [sys.executable, "-c", script, str(other.pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        other.communicate(b"\n")
    refused, looked, left = done.stdout.splitlines()
    assert (refused, looked) == ("agent is refused", "looked")
    assert int(left, 16) & SYS_PTRACE == 0


def test_a_look_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(open_disks_server, "open_devices", lambda _: threading.Event().wait())
    with here, there:
        child = answer(there, 7, 1, seconds=0.2)
        assert here.recv(100) == ANSWER.pack(7, FAILED, 0)
        assert child is not None
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_is_late_is_not_taken_for_the_answer_to_the_next(zero: tuple[int, int]) -> None:
    async def test() -> None:
        disks = OpenDisks()
        assert zero in await disks.of(os.getpid())
        assert disks._socket is not None
        # a request whose answer nobody has waited for
        disks._socket.send(REQUEST.pack(99, 0))
        assert zero in await disks.of(os.getpid())
        await disks.close()

    asyncio.run(asyncio.wait_for(test(), 600))


def test_when_it_has_died_nothing_counts_as_open() -> None:
    async def test() -> None:
        disks = OpenDisks()
        await disks.of(os.getpid())
        assert disks._server is not None
        disks._server.kill()
        disks._server.wait()
        assert await disks.of(os.getpid()) == frozenset()
        await disks.close()

    asyncio.run(asyncio.wait_for(test(), 600))


def test_it_ends_with_the_agent() -> None:
    script = "import os; from holdover.agent.attach.disks.open_disks import OpenDisks; "
    script += "d = OpenDisks(); d.start(); print(d._server.pid, flush=True); os._exit(0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        threading.Event().wait(0.02)
    raise AssertionError("it goes on")


def test_it_uses_the_standard_library_alone() -> None:
    text = Path(open_disks_server.__file__).read_text()
    modules = {
        line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import", "from"))
    }
    assert modules <= sys.stdlib_module_names
    assert struct.calcsize("=IQ") == 12
