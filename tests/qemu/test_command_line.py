"""How the process at a monitor was started."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from holdover.demo.machines.process import QemuProcess, VirtualMachine
from holdover.qemu.command_line import started_with


@pytest.mark.peer("qemu-system-x86")
@pytest.mark.parametrize("stopped", [True, False])
def test_a_real_qemu(stopped: bool) -> None:
    async def scenario() -> None:
        machine = VirtualMachine(name="guest", memory=64, stopped=stopped)
        async with QemuProcess.start(machine) as qemu, await qemu.monitor():
            assert started_with(qemu.qmp_path, "-S") is stopped

    asyncio.run(scenario())


def test_nobody_listens(tmp_path: Path) -> None:
    assert started_with(tmp_path / "none.sock", "-S") is None


def pretend(proc: Path, socket_path: str, *, flags: str = "00010000") -> None:
    """A /proc in which process 7 listens at a socket, and process 8 has another one open."""
    (proc / "net").mkdir(parents=True)
    (proc / "net" / "unix").write_text(
        "Num RefCount Protocol Flags Type St Inode Path\n"
        f"0000000000000000: 00000002 00000000 {flags} 0001 01 111 {socket_path}\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 222 /other\n"
    )
    for pid, inode in ((7, 111), (8, 222)):
        (proc / str(pid) / "fd").mkdir(parents=True)
        (proc / str(pid) / "fd" / "3").symlink_to(f"socket:[{inode}]")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["qemu", "-incoming", "tcp:0:1", "-S"], True),
        (["qemu", "--S"], True),
        (["-S"], False),
        (["qemu", "-s"], False),
        (["qemu", "-name", "S"], False),
    ],
)
def test_the_option_is_a_word_of_its_own(tmp_path: Path, arguments: list[str], expected: bool) -> None:
    pretend(tmp_path, "/run/qmp")
    (tmp_path / "7" / "cmdline").write_bytes(b"\0".join(each.encode() for each in arguments) + b"\0")
    (tmp_path / "8" / "cmdline").write_bytes(b"qemu\0-S\0")
    assert started_with(Path("/run/qmp"), "-S", tmp_path) is expected


def test_a_connected_socket_of_that_name_is_not_the_listening_one(tmp_path: Path) -> None:
    pretend(tmp_path, "/run/qmp", flags="00000000")
    (tmp_path / "7" / "cmdline").write_bytes(b"qemu\0-S\0")
    assert started_with(Path("/run/qmp"), "-S", tmp_path) is None


def test_a_process_that_has_ended_meanwhile_is_not_known(tmp_path: Path) -> None:
    pretend(tmp_path, "/run/qmp")
    assert started_with(Path("/run/qmp"), "-S", tmp_path) is None
    shutil.rmtree(tmp_path / "7")
    assert started_with(Path("/run/qmp"), "-S", tmp_path) is None


def test_a_listener_that_is_no_qemu(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        assert started_with(tmp_path / "s", "--no-such-option") is False
