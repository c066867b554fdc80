from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdover.paths import sgio
from holdover.paths.multipath import SendToPath
from holdover.paths.sgio import OpenDevice, SgIo, SgioPath, carry_out, check_scsi_device
from holdover.paths.sgio_header import SG_IO, SgHeader
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.status import Status
from tests.helper.serving import open_descriptors, settled_descriptors

READ_KEYS = in_command(InServiceAction.READ_KEYS, 64)
ANSWER = ReadKeys(7, (0xABC,)).encode()


class FakeDevices:
    """Regular files that the kernel seems to take for SCSI devices, with an ioctl of the test's."""

    def __init__(self) -> None:
        self.answer: Callable[[int, SgHeader], None] = self.good
        self.threads: set[int] = set()

    def ioctl(self, descriptor: int, number: int, header: SgHeader) -> int:
        assert number == SG_IO
        self.threads.add(threading.get_ident())
        self.answer(descriptor, header)
        return 0

    @staticmethod
    def good(_: int, header: SgHeader) -> None:
        ctypes.memmove(header.dxferp, ANSWER, len(ANSWER))
        header.resid = header.dxfer_len - len(ANSWER)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> FakeDevices:
    found = FakeDevices()
    monkeypatch.setattr(fcntl, "ioctl", found.ioctl)
    monkeypatch.setattr(sgio, "_check", lambda *_: None)
    return found


@pytest.fixture
def io() -> Iterator[SgIo]:
    threads = SgIo(4)
    yield threads
    threads.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    file = tmp_path / "disk"
    file.touch()
    return file


def replace(disk: Path) -> None:
    disk.rename(disk.with_name("old"))
    disk.touch()


def test_a_command_goes_there_and_its_answer_comes_back(devices: FakeDevices, io: SgIo, disk: Path) -> None:
    async def main() -> None:
        path = SgioPath(disk, io)
        response = await path.execute(READ_KEYS)
        assert response.status is Status.GOOD
        assert response.data_in == ANSWER
        assert path.name == str(disk)
        await path.close()

    asyncio.run(main())
    assert threading.get_ident() not in devices.threads


def test_commands_wait_side_by_side_and_the_loop_goes_on(devices: FakeDevices, io: SgIo, disk: Path) -> None:
    all_there = threading.Barrier(4, timeout=600)

    def wait(descriptor: int, header: SgHeader) -> None:
        all_there.wait()
        devices.good(descriptor, header)

    async def main() -> None:
        devices.answer = wait
        path = SgioPath(disk, io)
        responses = await asyncio.gather(*(path.execute(READ_KEYS) for _ in range(4)))
        assert all(each.good for each in responses)
        await path.close()

    asyncio.run(main())


def test_a_device_that_hangs_holds_up_nobody_else(devices: FakeDevices, tmp_path: Path) -> None:
    go_on = threading.Event()
    hanging = os.stat("/dev/null").st_rdev
    seen: list[int] = []

    def answer(descriptor: int, header: SgHeader) -> None:
        device = os.fstat(descriptor).st_rdev
        seen.append(device)
        if device == hanging:
            assert go_on.wait(600)
        devices.good(descriptor, header)

    async def main() -> None:
        devices.answer = answer
        io = SgIo(turns=3)
        null, zero = os.open("/dev/null", os.O_RDWR), os.open("/dev/zero", os.O_RDWR)
        stuck = [asyncio.ensure_future(io.execute(null, READ_KEYS, "null")) for _ in range(50)]
        for _ in range(20):
            assert (await io.execute(zero, READ_KEYS, "zero")).good
        assert seen.count(hanging) == 3
        for each in stuck[1::2]:
            each.cancel()
        await asyncio.sleep(0)  # a cancellation reaches the queue by a callback
        go_on.set()
        ends = await asyncio.gather(*stuck, return_exceptions=True)
        assert all(isinstance(each, Response) and each.good for each in ends[::2])
        assert seen.count(hanging) <= 3 + 25, "who was cancelled in the queue was not sent"
        assert (await io.execute(null, READ_KEYS, "null")).good
        os.close(null)
        os.close(zero)
        io.close()

    before = open_descriptors()
    asyncio.run(main())
    assert open_descriptors() == before


def test_what_waits_when_it_is_closed_is_not_sent(devices: FakeDevices, disk: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def answer(descriptor: int, header: SgHeader) -> None:
        begun.set()
        assert go_on.wait(600)
        devices.good(descriptor, header)

    async def main() -> None:
        devices.answer = answer
        io = SgIo(turns=1)
        descriptor = os.open(disk, os.O_RDWR)
        first, second = (asyncio.ensure_future(io.execute(descriptor, READ_KEYS, "disk")) for _ in range(2))
        assert await asyncio.to_thread(begun.wait, 20)
        io.close()
        go_on.set()
        assert (await first).good
        with pytest.raises(PathError, match="closed"):
            await second
        os.close(descriptor)

    asyncio.run(main())


def test_a_command_under_way_keeps_its_device_when_others_close_theirs(
    devices: FakeDevices, io: SgIo, disk: Path, tmp_path: Path
) -> None:
    begun, closed = threading.Event(), threading.Event()
    inodes = []

    def wait(descriptor: int, header: SgHeader) -> None:
        begun.set()
        assert closed.wait(600)
        inodes.append(os.fstat(descriptor).st_ino)
        devices.good(descriptor, header)

    async def main() -> None:
        devices.answer = wait
        descriptor = os.open(disk, os.O_RDWR)
        command = asyncio.ensure_future(io.execute(descriptor, READ_KEYS, "disk"))
        assert await asyncio.to_thread(begun.wait, 10)
        os.close(descriptor)
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        assert other == descriptor
        closed.set()
        assert (await command).good
        os.close(other)

    asyncio.run(main())
    assert inodes == [disk.stat().st_ino]


def test_no_descriptor_is_left_when_commands_fail_or_are_cancelled(
    devices: FakeDevices, io: SgIo, disk: Path
) -> None:
    go_on = threading.Event()

    def fail(_: int, _header: SgHeader) -> None:
        go_on.wait(600)
        raise OSError(errno.EIO, "Input/output error")

    async def main() -> None:
        devices.answer = fail
        path = SgioPath(disk, io)
        commands = [asyncio.ensure_future(path.execute(READ_KEYS)) for _ in range(12)]
        await asyncio.sleep(0.05)  # some are under way, some wait for a thread
        for command in commands[::2]:
            command.cancel()
        go_on.set()
        ends = await asyncio.gather(*commands, return_exceptions=True)
        assert all(isinstance(each, AnswerLost) for each in ends[1::2])
        await path.close()
        # a cancelled command's thread goes on: wait until all threads have been free
        devices.answer = devices.good
        descriptor = os.open(disk, os.O_RDWR)
        await asyncio.gather(*(io.execute(descriptor, READ_KEYS, "disk") for _ in range(8)))
        os.close(descriptor)

    before = open_descriptors()
    asyncio.run(main())
    assert settled_descriptors(before) == before


def test_after_an_error_the_name_is_opened_anew(devices: FakeDevices, io: SgIo, disk: Path) -> None:
    seen = []

    def gone(descriptor: int, _: SgHeader) -> None:
        seen.append(os.fstat(descriptor).st_ino)
        raise OSError(errno.ENODEV, "No such device")

    def found(descriptor: int, header: SgHeader) -> None:
        seen.append(os.fstat(descriptor).st_ino)
        devices.good(descriptor, header)

    async def main() -> None:
        path = SgioPath(disk, io)
        devices.answer = gone
        with pytest.raises(AnswerLost, match="No such device"):
            await path.execute(READ_KEYS)
        replace(disk)
        devices.answer = found
        assert (await path.execute(READ_KEYS)).good
        await path.close()

    asyncio.run(main())
    assert seen == [disk.with_name("old").stat().st_ino, disk.stat().st_ino]


def test_what_the_kernel_refuses_was_not_sent(devices: FakeDevices, io: SgIo, disk: Path) -> None:
    def refuse(_: int, _header: SgHeader) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    async def main() -> None:
        devices.answer = refuse
        with pytest.raises(PathError, match="CAP_SYS_RAWIO") as caught:
            await SgioPath(disk, io).execute(READ_KEYS)
        assert not isinstance(caught.value, AnswerLost)

    asyncio.run(main())


def test_a_closed_pool_sends_nothing(devices: FakeDevices, disk: Path) -> None:
    async def main() -> None:
        io = SgIo(1)
        io.close()
        path = SgioPath(disk, io)
        with pytest.raises(PathError, match="closed"):
            await path.execute(READ_KEYS)

    before = open_descriptors()
    asyncio.run(main())
    assert open_descriptors() == before


def test_a_command_of_two_directions_is_not_sent(devices: FakeDevices, io: SgIo, disk: Path) -> None:
    with pytest.raises(PathError, match="both directions"):
        asyncio.run(SgioPath(disk, io).execute(Command(bytes(10), b"out", 8)))
    assert not devices.threads


@pytest.mark.parametrize("name", ["/dev/null", "/dev/tty", "/proc/self/mem", "/"])
def test_what_is_no_scsi_device_is_never_asked(io: SgIo, name: str) -> None:
    with pytest.raises(PathError, match=name):
        asyncio.run(SgioPath(Path(name), io).execute(READ_KEYS))


def test_a_regular_file_is_no_scsi_device(io: SgIo, disk: Path) -> None:
    with disk.open("r+b") as file, pytest.raises(PathError, match="no SCSI device"):
        check_scsi_device(file.fileno(), "file")
    with pytest.raises(PathError, match="no SCSI device"):
        asyncio.run(SgioPath(disk, io).execute(READ_KEYS))
    with pytest.raises(PathError, match="No such file"):
        asyncio.run(SgioPath(disk.with_name("missing"), io).execute(READ_KEYS))


def test_who_may_only_read_changes_no_reservation(devices: FakeDevices, io: SgIo, disk: Path) -> None:
    command = out_command(OutServiceAction.REGISTER, 0, 1)

    async def main() -> None:
        with disk.open("rb") as file:
            with pytest.raises(PathError, match="the device is open only for reading"):
                await io.execute(file.fileno(), command, "disk")
            assert not devices.threads, "nothing was sent"
            assert (await io.execute(file.fileno(), READ_KEYS, "disk")).good

    asyncio.run(main())


def block_device(major: int) -> os.stat_result:
    """What fstat(2) says of one."""
    return os.stat_result((stat.S_IFBLK | 0o660, *[0] * 9), {"st_rdev": os.makedev(major, 0)})


def test_a_part_of_a_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgio, "problem_of_block", lambda number: "no" if os.major(number) == 253 else None)
    monkeypatch.setattr(os, "fstat", lambda _: block_device(253))
    with pytest.raises(PathError, match="volume: no"):
        check_scsi_device(0, "volume")
    monkeypatch.setattr(os, "fstat", lambda _: block_device(8))
    assert check_scsi_device(0, "disk") == block_device(8), "a disk lies on nothing"


def test_a_command_for_a_multipath_device_goes_to_its_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    def to_each_path(device: int, command: Command, send: SendToPath) -> Response:
        assert device == os.makedev(253, 0)
        with open("/dev/null", "rb") as path:
            return send(path.fileno(), command, "mpatha: sda")

    monkeypatch.setattr(sgio, "is_multipath", lambda device: os.major(device) == 253)
    monkeypatch.setattr(sgio, "carry_out_multipath", to_each_path)
    with pytest.raises(PathError, match="mpatha: sda: no SCSI device"):
        carry_out(OpenDevice(0, block_device(253)), READ_KEYS, "mpatha", 1.0)
