from __future__ import annotations

import asyncio
import os
from collections.abc import Hashable
from pathlib import Path

import pytest

from holdover.paths import host_disks, sgio
from holdover.paths.host_disks import HostDisks
from holdover.paths.sgio import OpenDevice, SgIo
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator, DeviceIdentification
from holdover.scsi.path import PathError
from holdover.scsi.status import Status

ONE = Designator.parse("naa.60014050000000010000000000000001")
TWO = Designator.parse("naa.60014050000000020000000000000002")


def page(*designators: Designator) -> bytes:
    return DeviceIdentification(designators).encode()


class FakeIo(SgIo):
    """Answers INQUIRY by the inode of the node that was opened."""

    def __init__(self) -> None:
        super().__init__(1)
        self.answers: dict[int, Response] = {}
        self.asked = 0

    async def execute(
        self,
        device: int | OpenDevice,
        command: Command,
        name: str,
        timeout: float = 1.0,
        client: Hashable = None,
    ) -> Response:
        descriptor = device if isinstance(device, int) else device.descriptor
        self.asked += 1
        assert command == host_disks.IDENTIFY
        answer = self.answers.get(os.fstat(descriptor).st_ino)
        if answer is None:
            raise PathError(name, "is dead")
        return answer


class Machine:
    """A host's /sys and /dev, made of ordinary files."""

    def __init__(self, folder: Path) -> None:
        self.sys, self.dev = folder / "sys", folder / "dev"
        self.dev.mkdir()
        self.io = FakeIo()
        self.disks = HostDisks(self.io, self.sys, self.dev)

    def add(self, name: str, says: Designator | None, sysfs: bytes | None = None, type: str = "0") -> Path:
        """A disk that says `says` when asked, and of which sysfs has kept `sysfs`."""
        number = len(list(self.dev.iterdir()))
        device = self.sys / "class" / "scsi_device" / f"0:0:0:{number}" / "device"
        (device / "block" / name).mkdir(parents=True)
        (device / "type").write_text(type + "\n")
        if sysfs is not None:
            (device / "vpd_pg83").write_bytes(sysfs)
        node = self.dev / name
        node.touch()
        if says is not None:
            self.io.answers[node.stat().st_ino] = Response(Status.GOOD, page(says))
        return node


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(sgio, "_check", lambda *_: None)
    return Machine(tmp_path)


def test_all_disks_of_a_logical_unit_are_found(machine: Machine) -> None:
    first = machine.add("sda", ONE, page(ONE))
    machine.add("sdb", TWO, page(TWO))
    second = machine.add("sdc", ONE, page(ONE))
    assert asyncio.run(machine.disks.find(ONE)) == (first, second)
    assert machine.io.asked == 2, "what sysfs says leads elsewhere is not asked"


def test_the_multipath_device_is_found_in_place_of_its_paths(machine: Machine) -> None:
    for name in ("sda", "sdb"):
        machine.add(name, ONE, page(ONE))
        holder = machine.sys / "class" / "block" / name / "holders" / "dm-0" / "dm"
        holder.mkdir(parents=True)
        (holder / "uuid").write_text("mpath-3600140500000001\n")
    alone = machine.add("sdc", ONE, page(ONE))
    device = machine.dev / "dm-0"
    device.touch()
    machine.io.answers[device.stat().st_ino] = Response(Status.GOOD, page(ONE))
    assert asyncio.run(machine.disks.find(ONE)) == (device, alone)


def test_what_sysfs_does_not_know_is_asked(machine: Machine) -> None:
    found = machine.add("sda", ONE)
    machine.add("sdb", TWO)
    machine.add("sdc", TWO, b"\0\x80\0\0")
    assert asyncio.run(machine.disks.find(ONE)) == (found,)


def test_what_the_disk_says_counts_and_not_what_sysfs_remembers(machine: Machine) -> None:
    machine.add("sda", TWO, page(ONE))
    assert asyncio.run(machine.disks.find(ONE)) == ()


def test_what_is_no_disk_is_left_out(machine: Machine) -> None:
    machine.add("sr0", ONE, page(ONE), type="5")
    assert asyncio.run(machine.disks.find(ONE)) == ()


def test_a_disk_that_does_not_answer_is_an_error_only_where_no_other_leads_there(machine: Machine) -> None:
    machine.add("sda", None, page(ONE))
    with pytest.raises(PathError, match="sda: is dead"):
        asyncio.run(machine.disks.find(ONE))
    assert asyncio.run(machine.disks.find(TWO)) == ()
    other = machine.add("sdb", ONE, page(ONE))
    assert asyncio.run(machine.disks.find(ONE)) == (other,)


def incarnation(machine: Machine, node: Path, name: str) -> None:
    """A device of this node's number, in sysfs."""
    number = node.stat().st_rdev
    folder = machine.sys / "dev" / "char" / f"{os.major(number)}:{os.minor(number)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = machine.sys / name
    target.mkdir()
    folder.unlink(missing_ok=True)
    folder.symlink_to(target)


def test_a_designator_is_asked_for_once_for_each_device_of_a_number(machine: Machine) -> None:
    node = machine.add("sda", ONE)
    incarnation(machine, node, "first")

    async def main() -> None:
        with node.open("r+b") as file:
            for _ in range(3):
                assert await machine.disks.designator_of(OpenDevice.of(file.fileno(), "disk")) == ONE
            assert machine.io.asked == 1
            # another device has the number now
            machine.io.answers[node.stat().st_ino] = Response(Status.GOOD, page(TWO))
            incarnation(machine, node, "second")
            assert await machine.disks.designator_of(OpenDevice.of(file.fileno(), "disk")) == TWO
            assert machine.io.asked == 2
            machine.disks.forget()
            assert await machine.disks.designator_of(OpenDevice.of(file.fileno(), "disk")) == TWO
            assert machine.io.asked == 3

    asyncio.run(main())


def test_a_device_that_sysfs_does_not_show_is_always_asked(machine: Machine) -> None:
    node = machine.add("sda", ONE)

    async def main() -> None:
        with node.open("r+b") as file:
            for _ in range(2):
                await machine.disks.designator_of(OpenDevice.of(file.fileno(), "disk"))

    asyncio.run(main())
    assert machine.io.asked == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Response(Status.BUSY), "INQUIRY: BUSY"),
        (Response(Status.GOOD, page()), "no NAA, EUI-64 or T10 designator"),
        (Response(Status.GOOD, b"\0"), "VPD page 83h"),
    ],
)
def test_a_device_without_a_designator_says_so(machine: Machine, answer: Response, words: str) -> None:
    node = machine.add("sda", ONE)
    machine.io.answers[node.stat().st_ino] = answer
    with node.open("r+b") as file, pytest.raises(PathError, match=words):
        asyncio.run(machine.disks.designator_of(OpenDevice.of(file.fileno(), "disk"), "the guest's disk"))
