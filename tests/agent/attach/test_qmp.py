"""What real QEMUs say of themselves, without and with `migrate-pr`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bench.qemu11 import Qemu11, qemu11_folder

from holdover.agent.attach.qmp import MonitorIdentity, ask_monitor
from holdover.demo.machines.process import IscsiDisk, QemuProcess, VirtualMachine
from holdover.iscsi.target.target import IscsiTarget
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.qemu.monitor import QemuError, QemuMonitor

IQN = "iqn.2026-11.org.example:san"
peer = pytest.mark.peer("qemu-system-x86", "qemu-block-extra")


def newest() -> tuple[str, ...]:
    """QEMU 11, if it is here."""
    folder = qemu11_folder()
    if not (folder / "usr/bin/qemu-system-x86_64").exists():
        pytest.skip(f"needs QEMU 11 in {folder}: python -m bench.qemu11 unpacks it there")
    return Qemu11(folder).started


@asynccontextmanager
async def qemu(
    folder: Path, machine_type: str, options: tuple[str, ...] = (), program: tuple[str, ...] = ()
) -> AsyncIterator[QemuProcess]:
    """A QEMU whose firmware runs, with a `scsi-block`."""
    lun = EmbeddedLun.open(LunOptions(folder / "lun", 1 << 20))
    target = IscsiTarget(IQN, {0: lun})
    port = await target.start("127.0.0.1", 0)
    disk = IscsiDisk(portal=f"127.0.0.1:{port}", target=IQN, initiator="iqn.2026-11.org.example:qemu")
    described = VirtualMachine(
        name="db1",
        machine_type=machine_type,
        disks=(disk,),
        disk_options=options,
        program=program,
        stopped=True,
    )
    process = await asyncio.to_thread(QemuProcess.start, described)
    try:
        yield process
    finally:
        await process.end()
        await target.close()
        await lun.close()


async def identity(
    folder: Path, machine_type: str, options: tuple[str, ...] = (), program: tuple[str, ...] = ()
) -> MonitorIdentity:
    async with qemu(folder, machine_type, options, program) as process:
        return await ask_monitor(process.qmp_path, timeout=600)


@peer
def test_an_older_qemu_does_not_move_reservations_and_resolves_its_machine_type(tmp_path: Path) -> None:
    said = asyncio.run(identity(tmp_path, "pc"))
    assert (said.name, said.uuid, said.moves_itself) == ("db1", None, False)
    assert said.machine_type.startswith("pc-i440fx-")


@peer
@pytest.mark.parametrize(
    ("machine_type", "options", "moves"),
    [
        ("pc-q35-11.0", (), True),
        ("pc-q35-10.0", (), False),
        ("pc-q35-10.0", ("migrate-pr=on",), True),
        ("pc-q35-11.0", ("migrate-pr=off",), False),
    ],
)
def test_a_newer_qemu_says_whether_it_moves_reservations(
    tmp_path: Path, machine_type: str, options: tuple[str, ...], moves: bool
) -> None:
    said = asyncio.run(identity(tmp_path, machine_type, options, newest()))
    assert said == MonitorIdentity("db1", None, machine_type, moves)


@peer
def test_a_monitor_that_another_holds_is_an_error_in_time(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            qemu(tmp_path, "pc") as process,
            await QemuMonitor.connect(process.qmp_path, "holder", timeout=600),
        ):
            with pytest.raises(QemuError, match="QEMU serves one client per monitor"):
                await ask_monitor(process.qmp_path, timeout=0.5)

    asyncio.run(test())


def test_a_socket_without_a_monitor_is_an_error(tmp_path: Path) -> None:
    async def test() -> None:
        socket = tmp_path / "x"
        server = await asyncio.start_unix_server(lambda _, writer: writer.close(), socket)
        async with server:
            with pytest.raises(QemuError, match="cannot connect"):
                await ask_monitor(socket, timeout=1)

    asyncio.run(test())
