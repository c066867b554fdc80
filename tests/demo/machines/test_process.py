from __future__ import annotations

import asyncio
import itertools
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.demo.machines import process
from holdover.demo.machines.process import IscsiDisk, QemuProcess, VirtualMachine, missing_qemu_packages
from holdover.qemu.monitor import QemuError


def values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(arguments) if name == option]


def test_a_disk_is_passed_through_under_the_name_of_its_initiator() -> None:
    disks = tuple(
        IscsiDisk(portal="127.0.0.1:3261", target="iqn.2026-11.x:t", initiator="iqn.2026-11.x:i", lun=lun)
        for lun in range(2)
    )
    arguments = VirtualMachine(name="g", disks=disks).arguments()
    where = "driver=iscsi,transport=tcp,portal=127.0.0.1:3261,target=iqn.2026-11.x:t"
    assert values(arguments, "-blockdev") == [
        f"{where},lun=0,initiator-name=iqn.2026-11.x:i,node-name=drive0",
        f"{where},lun=1,initiator-name=iqn.2026-11.x:i,node-name=drive1",
    ]
    assert values(arguments, "-device") == [
        "virtio-scsi-pci,id=scsi0",
        "scsi-block,id=disk0,drive=drive0,scsi-id=0",
        "scsi-block,id=disk1,drive=drive1,scsi-id=1",
    ]


def test_a_guest_boots_what_it_is_given_or_waits() -> None:
    arguments = VirtualMachine(name="g", kernel=Path("k"), initrd=Path("i"), memory=128).arguments()
    assert values(arguments, "-kernel") == ["k"]
    assert values(arguments, "-initrd") == ["i"]
    assert values(arguments, "-m") == ["128"]
    assert values(arguments, "-incoming") == []
    waiting = VirtualMachine(name="g", machine_type="q35", incoming="tcp:127.0.0.1:1").arguments()
    assert values(waiting, "-incoming") == ["tcp:127.0.0.1:1"]
    assert values(waiting, "-machine") == ["q35"]
    assert values(waiting, "-kernel") == []


def test_disks_take_more_properties_and_a_guest_may_wait_to_be_told_to_run() -> None:
    disk = IscsiDisk(portal="127.0.0.1:3261", target="iqn.2026-11.x:t", initiator="iqn.2026-11.x:i")
    machine = VirtualMachine(
        name="g", disks=(disk,), disk_options=("migrate-pr=on", "share-rw=on"), stopped=True
    )
    arguments = machine.arguments()
    assert (
        values(arguments, "-device")[1]
        == "scsi-block,id=disk0,drive=drive0,scsi-id=0,migrate-pr=on,share-rw=on"
    )
    assert "-S" in arguments
    assert "-S" not in VirtualMachine(name="g").arguments()


def test_another_qemu_than_the_installed_one_is_started(tmp_path: Path) -> None:
    script = tmp_path / "other"
    script.write_text('#!/bin/sh\necho "$@"\n')
    script.chmod(0o755)

    async def scenario() -> None:
        machine = VirtualMachine(name="the-guest", program=("env", "A=1", str(script), "first"))
        async with QemuProcess.start(machine) as qemu:
            assert await qemu.wait() == 0
            assert qemu.errors.startswith("first -name the-guest ")

    asyncio.run(scenario())


def test_without_a_qemu_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_PROGRAM", "no-such-qemu")
    assert missing_qemu_packages() == ["qemu-system-x86", "qemu-block-extra"]
    with pytest.raises(QemuError, match=r"no-such-qemu not found.*qemu-system-x86 qemu-block-extra"):
        QemuProcess.start(VirtualMachine(name="g"))


@pytest.mark.parametrize(
    ("said", "missing"),
    [("QEMU: Unknown driver 'iscsi'", ["qemu-block-extra"]), ("QEMU: iSCSI: Failed to connect", [])],
)
def test_a_qemu_without_its_iscsi_driver_lacks_the_package_of_that(
    said: str, missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    qemu.chmod(0o755)
    monkeypatch.setattr(process, "_PROGRAM", str(qemu))
    assert missing_qemu_packages() == missing


@pytest.mark.peer("qemu-system-x86", "qemu-block-extra")
def test_the_driver_that_is_here_is_found() -> None:
    assert missing_qemu_packages() == []


@pytest.mark.peer("qemu-system-x86")
@pytest.mark.xdist_group("qemu")
def test_a_qemu_takes_connections_at_once_and_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with QemuProcess.start(VirtualMachine(name="db1", memory=64)) as qemu:
            async with await qemu.monitor() as monitor:
                assert await monitor.query_name() == "db1"
            assert qemu.running
            folder = qemu.qmp_path.parent
        assert not qemu.running
        assert not folder.exists()

    asyncio.run(scenario())


@pytest.mark.peer("qemu-system-x86")
@pytest.mark.xdist_group("qemu")
def test_a_qemu_does_not_outlive_a_parent_that_was_killed() -> None:
    parent = """
import asyncio, time
from holdover.demo.machines.process import QemuProcess, VirtualMachine
qemu = QemuProcess.start(VirtualMachine(name="g", memory=64))
asyncio.run(qemu.monitor())  # it runs
print(qemu.pid, qemu.qmp_path.parent, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        pid, folder = started.stdout.readline().split()
        watch = os.pidfd_open(int(pid))
        started.kill()
    # readable once the process has ended
    assert select.select([watch], [], [], 20)[0]
    os.close(watch)
    shutil.rmtree(folder)


@pytest.mark.peer("qemu-system-x86")
@pytest.mark.xdist_group("qemu")
def test_a_qemu_that_does_not_start_says_why() -> None:
    async def scenario() -> None:
        async with QemuProcess.start(VirtualMachine(name="g", machine_type="no-such-machine")) as qemu:
            with pytest.raises(QemuError, match="unsupported machine type"):
                await qemu.monitor()
            assert await qemu.wait() == 1

    asyncio.run(scenario())
