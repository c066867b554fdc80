"""Which guest a process is: real processes with QEMU's options. Their disks are in `tests/peers`."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest

from holdover.agent.attach import starting
from holdover.agent.attach.attached_guest import Attached, Busy, Refused
from holdover.agent.attach.expected_guest import ExpectedDevice, ExpectError
from holdover.agent.attach.hosted_guest import LeftToQemu
from holdover.agent.attach.processes.process import Process
from holdover.agent.guests.device import GuestDevice
from holdover.config.agent_file import GuestConfig
from holdover.guest.gate import Gate
from holdover.guest.identity_policy import Trust
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.helper.connection import Peer
from holdover.paths.sgio import OpenDevice
from holdover.reservations.tracked import Tracked
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import PathError
from tests.agent.attach.attach_site import LUN, PC, UUIDS, qemu, run, site
from tests.agent.device_rig import QEMU
from tests.paths.local_path import LocalPath
from tests.qemu.test_monitor import ScriptedQemu

NO_DISK = OpenDevice(0, os.stat("/dev/null"))


class Nothing:
    """A device server that is never asked."""

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        raise AssertionError

    async def reset(self) -> None:
        raise AssertionError


def holding(attached: Attached, key: int) -> GuestDevice:
    """Give a guest a device on which it holds something."""
    block = ScsiBlock(DeviceOptions(None, "x", migrate_pr=True), PC, attached.gate_now)
    device = GuestDevice(block, "x", lambda _: LocalPath(Nothing(), QEMU, "x"))
    device.block.adopt(Tracked(key=key))
    attached.guest.devices.append(device)
    return device


def test_a_process_is_a_guest_while_it_runs_and_forgotten_where_it_holds_nothing() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-machine", "pc-q35-7.2") as process:
                attached = await here.of(process)
                assert here.guests["db1"] is attached.guest
                assert await here.of(process) is attached
                assert attached.guest.state().machine_type == "pc-q35-7.2"
                await here.runs(attached)
            await here.gone(attached)
            assert here.guests == {}

    run(test())


def test_libvirts_name_for_a_process_counts_over_its_command_line() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1") as process, qemu("-name", "db1") as second:
                watched = Process(process.pid, lambda _: None)
                here.attachments.names.name(watched, "db7", UUIDS[1])
                attached = await here.of(process)
                assert (attached.guest.name, attached.uuid) == ("db7", UUIDS[1])
                assert attached.process is not None
                assert attached.process.claim.trust is Trust.CERTAIN
                assert (await here.of(second)).guest.name == "db1"
                here.attachments.names.forget(watched)
                assert not here.attachments.names.has(watched)
                watched.close()

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
                both = f"process {second.pid} has the name of guest db1, but process {first.pid} already is"
                assert both in said
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
                    with pytest.raises(Refused, match="another process has its number now"):
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
            GuestConfig(name="db1", machine_type="pc"), GuestConfig(name=UUIDS[1], machine_type="pc")
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
        own = GuestConfig(name="db1", machine_type="pc", helper="/run/db1.sock")
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
                before = attached.gate_now
                here.attachments.note_command(attached)
                await here.runs(attached)
                assert before is Gate.INCOMING

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
                if after is Gate.RUNNING:
                    await here.runs(attached)
                assert device.block.gate is after

    run(test())


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("options", [(), ("-incoming", "defer")], ids=["starts", "arrived unannounced"])
def test_a_guest_that_another_host_has_is_not_let_run_by_its_process(
    options: tuple[str, ...], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "retry_pauses", lambda _: itertools.repeat(0.01))

    async def test() -> None:
        async with site() as here:
            if known:
                with qemu("-name", "db1") as process:
                    attached = await here.of(process)
                    await here.runs(attached)
                    holding(attached, 1)
                    attached.move_gate(Gate.DEPARTED)
                await here.gone(attached)
            here.refusal = "guest db1 is on host-b"
            with qemu("-name", "db1", *options) as process:
                attached = await here.of(process)
                here.attachments.note_command(attached)
                while not here.attachments.warnings:  # noqa: ASYNC110 - no event for it
                    await asyncio.sleep(0)
                (warning,) = here.attachments.warnings
                assert "guest db1: its QEMU runs on host" in warning
                assert "guest db1 is on host-b" in warning
                assert attached.gate_now is not Gate.RUNNING
                # it is claimed again and again
                here.refusal = ""
                await here.runs(attached)
                while here.attachments.warnings:  # noqa: ASYNC110 - no event for it
                    await asyncio.sleep(0)

    run(test())


def test_a_process_that_ends_while_its_guest_is_claimed_leaves_the_guest_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async with site() as here:
            asked, answer = asyncio.Event(), asyncio.Event()

            async def admit(name: str, let_run: Callable[[], Awaitable[None]]) -> str:
                asked.set()
                await answer.wait()
                await let_run()
                return ""

            monkeypatch.setattr(here.attachments._starting, "_admit", admit)
            with qemu("-name", "db1") as process:
                attached = await here.of(process)
                await asked.wait()
            await here.gone(attached)
            answer.set()
            while attached in here.attachments._starting._tasks:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0)
            assert attached.gate_now is Gate.INCOMING

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
                assert attached.guest.state().machine_type == "pc-q35-11.0"
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
        listed = GuestConfig(name="db1", machine_type="pc", qmp=f"{tmp_path}/db1.sock")
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


@pytest.mark.parametrize("machine_type", ["pc-q35-rhel9.6.0", "pc-q35-4.1-somebody"])
def test_a_machine_type_of_a_distribution_needs_none(machine_type: str) -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-M", machine_type) as process:
                attached = await here.of(process)
                assert attached.guest.state().machine_type == machine_type
                with pytest.raises(PathError, match="no SCSI device"):
                    await here.maker.find(attached, NO_DISK)

    run(test())


def test_a_machine_type_that_is_none_needs_a_rule() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-M", "pc/q35") as process:
                attached = await here.of(process)
                assert attached.guest.state().machine_type == "pc/q35"
                with pytest.raises(Refused, match=r'\[\[rule\]\] guest = "db1" migrate-pr = "on"'):
                    await here.maker.find(attached, NO_DISK)

    run(test())


def test_a_guest_that_is_being_handed_over_gets_no_new_device_and_is_not_forgotten() -> None:
    async def test() -> None:
        async with site() as here:
            with qemu("-name", "db1", "-M", "pc") as process:
                attached = await here.of(process)
                here.in_handover.add("db1")
                with pytest.raises(Busy, match="is new to guest db1, which is being handed over"):
                    await here.maker.find(attached, NO_DISK)
            await here.gone(attached)
            assert list(here.guests) == ["db1"]

    run(test())


def test_a_guest_that_is_expected_is_the_qemu_that_waits_for_it() -> None:
    async def test() -> None:
        async with site(GuestConfig(name="own", machine_type="pc", helper="/run/own.sock")) as here:
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


def test_of_several_who_say_that_they_are_the_expected_guest_it_is_the_one_with_its_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async with site() as here:
            # without -incoming: as if the guest ran here already
            with qemu("-name", "db1") as squatter, qemu("-name", "db1", "-incoming", "defer") as waiting:

                async def has_open(pid: int, luns: Iterable[Designator]) -> bool:
                    return pid == waiting.pid and list(luns) == [LUN]

                monkeypatch.setattr(here.maker, "has_open", has_open)
                attached = await here.of(squatter, lun=None)
                await here.runs(attached)
                assert not attached.settled
                here.peers = [(Peer(each.pid, 0, 0), None) for each in (squatter, waiting)]
                with pytest.raises(ExpectError, match="this host has no disk of LUN"):
                    await here.arrivals.expect("db1", "pc", [ExpectedDevice(str(LUN), migrate_pr=True)])
                process = attached.process
                assert process is not None
                assert (process.pid, attached.settled, attached.gate_now) == (
                    waiting.pid,
                    True,
                    Gate.INCOMING,
                )
                (warning,) = here.attachments.claims.warnings
                assert f"process {squatter.pid} (uid 0" in warning
                assert f"is not guest db1: process {waiting.pid} is" in warning

    run(test())


def test_what_a_process_without_a_disk_says_changes_nothing() -> None:
    async def test() -> None:
        async with site(GuestConfig(name="listed", machine_type="pc")) as here:
            attached = here.attachments.get("listed")
            assert attached is not None
            device = holding(attached, 1)
            attached.move_gate(Gate.INCOMING)
            options = ("-name", "listed", "-uuid", UUIDS[1], "-global", "scsi-block.migrate-pr=on")
            with qemu(*options, "-device", "scsi-block,drive=d") as process:
                assert await here.of(process, lun=None) is attached
                assert (attached.gate_now, attached.uuid, attached.left_to_qemu) == (
                    Gate.INCOMING,
                    None,
                    False,
                )
            await here.gone(attached)
            assert attached.guest.devices == [device]
            assert attached.gate_now is Gate.INCOMING

    run(test())
