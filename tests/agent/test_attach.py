"""Which guest a process is: real processes with QEMU's options. Their disks are in `tests/peers`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdover.agent.attach import Attachments
from holdover.agent.attach_devices import DeviceMaker
from holdover.agent.attach_expect import Arrivals, ExpectedDevice, ExpectError
from holdover.agent.attach_guest import LeftToQemu
from holdover.agent.attach_records import Keeper
from holdover.agent.attached import Attached, Busy, Refused
from holdover.agent.config import AgentConfig, ApiConfig, GuestConfig, Limits, QmpConfig
from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.agent.rules import Rules
from holdover.guest.gate import Gate
from holdover.guest.machine import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock, Tracked
from holdover.helper.connection import Peer
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import DeviceRecord, GuestRecord
from holdover.paths.host_disks import HostDisks
from holdover.paths.local import LocalPath
from holdover.paths.sgio import OpenDevice, SgIo
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.nexus import ITNexus
from tests.qemu.test_monitor import ScriptedQemu

UUIDS = [f"00000000-0000-0000-0000-00000000000{number}" for number in range(3)]
LUN = Designator.parse("naa.6001405aaaaa")
NO_DISK = OpenDevice(0, os.stat("/dev/null"))
PC = MachineType.parse("pc-q35-7.2")


class Disks(HostDisks):
    """Whatever descriptor it is, it is of one LUN; the host has no disk."""

    async def designator_of(self, device: OpenDevice, name: str = "") -> Designator:
        return LUN

    async def find(self, designator: Designator) -> tuple[Path, ...]:
        return ()


class Nothing:
    """A device server that is never asked."""

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        raise AssertionError

    async def reset(self) -> None:
        raise AssertionError


class Site:
    """The guests of an agent without sockets."""

    def __init__(self, config: AgentConfig, journal: MemoryJournal) -> None:
        self.guests: dict[str, HostedGuest] = {}
        self.moving: set[str] = set()
        io = SgIo()
        moving = self.moving.__contains__
        self.maker = DeviceMaker(Rules(config.rule), Disks(io), io, Keeper(journal), 1, moving)
        self.attachments = Attachments(config, self.guests, self.make, self.maker, moving)
        self.peers: list[tuple[Peer, str | None]] = []
        self.arrivals = Arrivals(self.attachments, self.maker, lambda: self.peers)
        for guest in config.guest:
            self.guests[guest.name] = self.make(guest.name, PC, [])
            self.attachments.take_up(self.guests[guest.name], PC, Gate.RUNNING)
        records = journal.load()
        self.attachments.restore(records.guests, records.devices)

    def make(
        self, name: str, machine: MachineType, devices: list[GuestDevice], *, left_to_qemu: bool = False
    ) -> HostedGuest:
        kind = LeftToQemu if left_to_qemu else HostedGuest
        return kind(name, "host", machine, devices, None, Limits())

    async def of(self, process: subprocess.Popen[bytes], own: str | None = None) -> Attached:
        return await self.attachments.guest_of(Peer(process.pid, 0, 0), own)

    async def gone(self, attached: Attached) -> None:
        for _ in range(1000):
            if attached.process is None:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("its process goes on")

    async def refused(self, process: subprocess.Popen[bytes]) -> str:
        with pytest.raises(Refused) as caught:
            await self.of(process)
        return str(caught.value)


@contextmanager
def qemu(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with these options."""
    command = [sys.executable, "-S", "-c", "import sys; print(flush=True); sys.stdin.read()", *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.communicate()


@asynccontextmanager
async def site(
    *guests: GuestConfig, qmp: str | None = None, journal: MemoryJournal | None = None
) -> AsyncIterator[Site]:
    config = AgentConfig(
        name="host",
        initiator="iqn.2026-11.org.example:host",
        api=ApiConfig(listen="127.0.0.1:7101"),
        guest=guests,
        qmp=None if qmp is None else QmpConfig(socket=qmp),
        limits=Limits(step=0.2),
    )
    found = Site(config, journal or MemoryJournal())
    yield found
    await found.attachments.close()


def holding(attached: Attached, key: int) -> GuestDevice:
    """Give a guest a device on which it holds something."""
    block = ScsiBlock(DeviceOptions(None, "x", migrate_pr=True), PC, attached.gate_now)
    device = GuestDevice(block, "x", lambda _: LocalPath(Nothing(), ITNexus.__new__(ITNexus), "x"))
    device.block.adopt(Tracked(key=key))
    attached.guest.devices.append(device)
    return device


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def test_a_process_is_a_guest_while_it_runs_and_forgotten_where_it_holds_nothing() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-machine", "pc-q35-7.2") as process:
                attached = await here.of(process)
                assert here.guests["db1"] is attached.guest
                assert await here.of(process) is attached
                assert attached.guest.state().machine == "pc-q35-7.2"
                assert attached.gate_now is Gate.RUNNING
            await here.gone(attached)
            assert here.guests == {}

    run(test())


def test_a_process_that_connects_is_a_guest_before_it_sends_anything() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-incoming", "defer") as process, qemu() as nobody:
                for each in (process, nobody):
                    here.attachments.welcome(Peer(each.pid, 0, 0), None)
                for _ in range(1000):
                    if here.guests:
                        break
                    await asyncio.sleep(0.01)
                attached = here.attachments.get("db1")
                assert attached is not None
                assert attached.gate_now is Gate.INCOMING
            await here.gone(attached)
            assert attached.guest.devices == []

    run(test())


def test_commands_that_come_together_make_one_guest() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-uuid", UUIDS[0]) as process:
                first, second = await asyncio.gather(here.of(process), here.of(process))
                assert first is second
                assert list(here.guests) == [UUIDS[0]]

    run(test())


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (("-name", "db1", "-uuid", UUIDS[1]), True),
        (("-name", "db1"), True),
        (("-name", "renamed", "-uuid", UUIDS[1]), True),
        (("-uuid", UUIDS[1].upper()), True),
        (("-name", "db2"), False),
    ],
)
def test_a_process_that_comes_back_goes_on_with_what_the_guest_held(now: tuple[str, ...], same: bool) -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-uuid", UUIDS[1]) as process:
                attached = await here.of(process)
                holding(attached, 0xAB)
            await here.gone(attached)
            assert here.guests["db1"].devices[0].tracked.key == 0xAB
            with qemu(*now) as process:
                assert (await here.of(process) is attached) is same

    run(test())


def test_a_second_process_is_not_the_guest_while_the_first_one_runs() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1") as first, qemu("-name", "db1") as second:
                attached = await here.of(first)
                said = await here.refused(second)
                assert f"process {second.pid} says that it is guest db1, which process {first.pid} is" in said
                holding(attached, 1)
                first.communicate()
                # at once, before the loop has heard of the end
                assert await here.of(second) is attached

    run(test())


def test_another_guest_of_the_same_name_is_refused_while_the_first_one_holds_something() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-uuid", UUIDS[1]) as process:
                attached = await here.of(process)
                device = holding(attached, 1)
            await here.gone(attached)
            with qemu("-name", "db1", "-uuid", UUIDS[2]) as process:
                assert f"the guest of that name that this agent knows has UUID {UUIDS[1]}" in (
                    await here.refused(process)
                )
                device.block.adopt(Tracked())
                assert await here.of(process) is not attached

    run(test())


def test_the_name_of_one_and_the_uuid_of_another_is_refused() -> None:
    async def test() -> None:
        async with site() as here:
            with (
                qemu("-name", "db1", "-uuid", UUIDS[1]) as first,
                qemu("-name", "db2", "-uuid", UUIDS[2]) as second,
                qemu("-name", "db1", "-uuid", UUIDS[2]) as third,
            ):
                await here.of(first)
                await here.of(second)
                said = await here.refused(third)
                assert "the name of one guest and the UUID of another: db1 and db2" in said

    run(test())


def test_a_connection_is_not_that_of_a_later_process_with_its_number() -> None:
    async def test() -> None:
        async with site() as here:
            before = time.clock_gettime(time.CLOCK_BOOTTIME) - 1
            with qemu("-name", "db1") as process:
                peer = Peer(process.pid, 0, 0, before)
                for _ in range(2):
                    with pytest.raises(Refused, match="its number is another process's now"):
                        await here.attachments.guest_of(peer)
                    assert (await here.of(process)).process is not None

    run(test())


@pytest.mark.parametrize("name", ["a/b", "a\nb"])
def test_a_name_that_cannot_be_used_is_refused(name: str) -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", name) as process:
                assert "cannot be used; start QEMU with a -name without /" in await here.refused(process)
            assert here.guests == {}

    run(test())


def test_a_guest_of_the_file_is_recognised_and_stays_when_its_process_ends() -> None:
    async def test() -> None:
        async with site(
            GuestConfig(name="db1", machine="pc"), GuestConfig(name=UUIDS[1], machine="pc")
        ) as here:
            with (
                qemu("-name", "db1", "-uuid", UUIDS[2]) as first,
                qemu("-name", "x", "-uuid", UUIDS[1]) as second,
            ):
                attached = await here.of(first)
                assert attached.guest is here.guests["db1"]
                assert (await here.of(second)).guest is here.guests[UUIDS[1]]
            with qemu("-name", "db1", "-uuid", UUIDS[0]) as again:
                # a guest of the file may be made anew
                assert await here.of(again) is attached
            await here.gone(attached)
            assert set(here.guests) == {"db1", UUIDS[1]}

    run(test())


def test_whoever_comes_by_a_guests_own_socket_is_that_guest() -> None:
    async def test() -> None:
        own = GuestConfig(name="db1", machine="pc", helper="/run/db1.sock")
        async with site(own) as here:
            attached = await here.attachments.guest_of(Peer(0, 0, 0), "db1")
            assert attached.guest is here.guests["db1"]
            with qemu("-name", "somebody") as process:
                assert await here.of(process, "db1") is attached
                assert attached.process is not None
                assert attached.process.pid == process.pid
            assert list(here.guests) == ["db1"]

    run(test())


def test_a_qemu_that_waits_for_a_migration_is_a_guest_that_is_to_arrive_until_it_runs() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-incoming", "defer") as process:
                attached = await here.of(process)
                gates = [attached.gate_now]
                here.attachments.note_command(attached)
                await asyncio.sleep(0.5)
                assert [*gates, attached.gate_now] == [Gate.INCOMING, Gate.RUNNING]

    run(test())


@pytest.mark.parametrize(
    ("before", "options", "after"),
    [
        (Gate.DEPARTED, (), Gate.RUNNING),
        (Gate.DEPARTED, ("-incoming", "defer"), Gate.INCOMING),
        (Gate.INCOMING, (), Gate.RUNNING),
        (Gate.RUNNING, ("-incoming", "defer"), Gate.RUNNING),
    ],
)
def test_a_new_process_tells_where_a_known_guest_stands(
    before: Gate, options: tuple[str, ...], after: Gate
) -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1") as process:
                attached = await here.of(process)
                device = holding(attached, 1)
                attached.move_gate(before)
            await here.gone(attached)
            device.block.adopt(Tracked())
            device.block.mark_stale()
            with qemu("-name", "db1", *options) as process:
                assert await here.of(process) is attached
                await asyncio.sleep(0)
                assert device.block.gate is after

    run(test())


async def scripted(socket: Path, name: str, *, moves: bool) -> asyncio.Server:
    block = [{"name": "disk0", "type": "child<scsi-block>"}, {"name": "migrate-pr", "type": "bool"}]
    answers: dict[str, object] = {
        "query-name": {"name": name},
        "query-uuid": {"UUID": UUIDS[2]},
        "qom-get": "pc-q35-11.0-machine",
        "qom-list": block if moves else [],
    }
    return await asyncio.start_unix_server(ScriptedQemu(answers).serve, socket)


def test_the_monitor_says_more_than_the_command_line(tmp_path: Path) -> None:
    async def test() -> None:
        server = await scripted(tmp_path / "db1.sock", "db1", moves=False)
        async with server, site(qmp=f"{tmp_path}/{{name}}.sock") as here:
            with qemu("-name", "db1", "-M", "q35", "-device", "scsi-block,migrate-pr=on") as process:
                attached = await here.of(process)
                assert (attached.uuid, attached.left_to_qemu) == (UUIDS[2], False)
                assert attached.guest.state().machine == "pc-q35-11.0"
            with qemu("-name", "db2", "-M", "q35", "-device", "scsi-block,migrate-pr=on") as process:
                # nobody listens there
                assert (await here.of(process)).left_to_qemu

    run(test())


def test_a_monitor_of_another_guest_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        server = await scripted(tmp_path / "db1.sock", "db2", moves=False)
        async with server, site(qmp=f"{tmp_path}/{{name}}.sock") as here:
            with qemu("-name", "db1") as process:
                assert f"is guest db1, and at {tmp_path}/db1.sock is guest db2" in await here.refused(process)

    run(test())


def test_a_guest_of_the_file_that_moves_itself_is_left_alone_while_it_does(tmp_path: Path) -> None:
    async def test() -> None:
        listed = GuestConfig(name="db1", machine="pc", qmp=f"{tmp_path}/db1.sock")
        async with site(listed) as here:
            home = here.guests["db1"]
            async with await scripted(tmp_path / "db1.sock", "db1", moves=True):
                with qemu("-name", "db1") as process:
                    attached = await here.of(process)
                    assert attached.left_to_qemu
                    assert isinstance(here.guests["db1"], LeftToQemu)
            await here.gone(attached)
            assert not isinstance(here.guests["db1"], LeftToQemu)
            assert here.guests["db1"].name == home.name

    run(test())


def test_a_machine_type_that_is_not_known_needs_a_rule() -> None:
    async def test() -> None:
        async with site() as here:
            with (
                qemu("-name", "db1", "-M", "pc-q35-rhel9.6.0") as process,
            ):
                attached = await here.of(process)
                assert attached.guest.state().machine == "pc-q35-rhel9.6.0"
                with pytest.raises(Refused, match=r'\[\[rule\]\] guest = "db1" migrate-pr = "on"'):
                    await here.maker.find(attached, NO_DISK)

    run(test())


def test_a_guest_that_is_being_handed_over_gets_no_new_device_and_is_not_forgotten() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-M", "pc") as process:
                attached = await here.of(process)
                here.moving.add("db1")
                with pytest.raises(Busy, match="is new to guest db1, which is being handed over"):
                    await here.maker.find(attached, NO_DISK)
            await here.gone(attached)
            assert list(here.guests) == ["db1"]

    run(test())


def test_a_guest_that_is_expected_is_the_qemu_that_waits_for_it() -> None:
    async def test() -> None:
        async with site(GuestConfig(name="own", machine="pc", helper="/run/own.sock")) as here:
            waiting = ("-incoming", "defer")
            with qemu("-name", "db1", *waiting) as first, qemu("-name", "x", *waiting) as second:
                here.peers = [(Peer(0, 0, 0), None), (Peer(first.pid, 0, 0), None)]
                here.peers.append((Peer(second.pid, 0, 0), "own"))
                for name, process in (("db1", first), ("own", second)):
                    guest = await here.arrivals.expect(name, "pc", [])
                    attached = here.attachments.get(name)
                    assert attached is not None
                    assert attached.guest is guest
                    assert attached.process is not None
                    assert attached.process.pid == process.pid
                    assert attached.expected

    run(test())


def record(guest: str, lun: Designator, key: int) -> DeviceRecord:
    block = ScsiBlock(DeviceOptions(None, "x", migrate_pr=True), PC, Gate.RUNNING)
    block.adopt(Tracked(key=key))
    body = msgspec.json.encode(block.state())
    return DeviceRecord(guest=guest, designator=str(lun), drive="/dev/none", body=body)


def test_what_is_on_record_is_there_after_a_restart_of_the_agent() -> None:
    async def test() -> None:
        journal = MemoryJournal()
        await journal.put(
            GuestRecord(name="db1", uuid=UUIDS[1], machine="pc-q35-7.2", origin="attached"),
            record("db1", LUN, 0xAB),
            GuestRecord(name="db2", uuid=None, machine="pc-q35-rhel9", origin="expected"),
            record("own", LUN, 0xCD),
            record("nobody", LUN, 0xEF),
        )
        async with site(GuestConfig(name="own", machine="pc"), journal=journal) as here:
            state = here.guests["db1"].state()
            assert (state.machine, here.guests["db2"].state().machine) == ("pc-q35-7.2", "pc-q35-rhel9")
            assert [(each.designator, each.key, each.gate, each.stale) for each in state.devices] == [
                (str(LUN), 0xAB, "running", True)
            ]
            assert [each.key for each in here.guests["own"].state().devices] == [0xCD]
            assert set(here.guests) == {"own", "db1", "db2"}
            with qemu("-name", "x", "-uuid", UUIDS[1]) as process:
                assert (await here.of(process)).guest is here.guests["db1"]

    run(test())


def test_a_guest_that_is_forgotten_is_taken_off_the_record() -> None:
    async def test() -> None:
        journal = MemoryJournal()
        async with site(journal=journal) as here:
            guest = await here.arrivals.expect("db1", "pc", [])
            assert journal.load().guests == (
                GuestRecord(name="db1", uuid=None, machine="pc", origin="expected"),
            )
            attached = here.attachments.get("db1")
            assert attached is not None
            assert attached.guest is guest
            here.attachments.forget(attached)
        assert journal.load().guests == ()

    run(test())


def test_what_cannot_be_expected_leaves_nothing_behind() -> None:
    async def test() -> None:
        async with site() as here:
            with pytest.raises(
                ExpectError, match=r"guest db1: this host has no disk of LUN naa\.6001405aaaaa"
            ):
                await here.arrivals.expect("db1", "pc", [ExpectedDevice(str(LUN), True)])
            with pytest.raises(ExpectError, match="designator: 'x' is not"):
                await here.arrivals.expect("db1", "pc", [ExpectedDevice("x", True)])
            assert here.guests == {}
            guest = await here.arrivals.expect("db1", "pc", [])
            assert here.guests == {"db1": guest}
            assert await here.arrivals.expect("db1", "pc", []) is guest
            with qemu("-name", "db2") as process:
                await here.of(process)
                with pytest.raises(ExpectError, match="guest db2: runs on this host already"):
                    await here.arrivals.expect("db2", "pc", [])

    run(test())
