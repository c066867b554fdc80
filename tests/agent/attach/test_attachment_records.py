"""What a guest's attachment leaves on record, and finds there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from holdover.agent.attach.attached_guest import Refused
from holdover.agent.attach.expected_guest import ExpectedDevice, ExpectError, left_here
from holdover.agent.guests.device import GuestDevice
from holdover.config.agent_file import GuestConfig
from holdover.guest.gate import Gate
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import BlockState, ScsiBlock
from holdover.helper.connection import Peer
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import DeviceRecord, GuestRecord
from holdover.reservations.tracked import Tracked
from holdover.scsi.inquiry import Designator
from tests.agent.attach.attach_site import LUN, PC, UUIDS, qemu, run, site


def test_what_a_guests_process_was_known_by_is_on_record() -> None:
    async def test() -> None:
        journal = MemoryJournal()
        listed = GuestConfig(name="listed", machine_type="pc")
        async with site(listed, journal=journal) as here:
            with qemu("-name", "listed") as process:
                await here.of(process, lun=None)
                assert not journal.load().guests, "its word is not enough"
                await here.of(process)
        (found,) = journal.load().guests
        assert (found.name, found.origin) == ("listed", "configured")
        async with site(listed, journal=journal) as here:
            with qemu("-name", "listed") as process:
                stranger = Peer(process.pid, 65534, 65534)
                with pytest.raises(Refused, match="but guest listed has been known as uid 0"):
                    await here.attachments.guest_of(stranger, None, LUN)
                assert (await here.of(process)).guest.name == "listed"
            (warning,) = here.attachments.claims.warnings
            assert warning.startswith("guest listed: process ")

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
            GuestRecord(name="db1", uuid=UUIDS[1], machine_type="pc-q35-7.2", origin="attached"),
            record("db1", LUN, 0xAB),
            GuestRecord(name="db2", uuid=None, machine_type="pc-q35-rhel9", origin="expected"),
            record("own", LUN, 0xCD),
            record("nobody", LUN, 0xEF),
        )
        async with site(GuestConfig(name="own", machine_type="pc"), journal=journal) as here:
            state = here.guests["db1"].state()
            assert (state.machine_type, here.guests["db2"].state().machine_type) == (
                "pc-q35-7.2",
                "pc-q35-rhel9",
            )
            assert [(each.designator, each.key, each.gate, each.stale) for each in state.devices] == [
                (str(LUN), "0xab", "running", True)
            ]
            assert [each.key for each in here.guests["own"].state().devices] == ["0xcd"]
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
                GuestRecord(name="db1", uuid=None, machine_type="pc", origin="expected"),
            )
            attached = here.attachments.get("db1")
            assert attached is not None
            assert attached.guest is guest
            here.attachments.forget(attached)
        assert journal.load().guests == ()

    run(test())


@pytest.mark.provokes("lun-not-here")
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


def record_with_gate(guest: str, gate: Gate, tracked: Tracked) -> DeviceRecord:
    body = msgspec.json.encode(BlockState(True, gate, tracked, stale=False))
    return DeviceRecord(guest=guest, designator=str(LUN), drive="iscsi://192.0.2.1/iqn.x/0", body=body)


@pytest.mark.provokes("lun-not-here")
def test_what_cannot_be_expected_leaves_the_record_of_a_guest_that_no_file_names_any_more() -> None:
    async def test() -> None:
        journal = MemoryJournal()
        departed = record_with_gate("db1", Gate.DEPARTED, Tracked())
        await journal.put(departed)
        async with site(journal=journal) as here:
            with pytest.raises(ExpectError, match="this host has no disk of LUN"):
                await here.arrivals.expect("db1", "pc", [ExpectedDevice(str(LUN), True)])
            assert "db1" not in here.guests
        assert journal.load().devices == (departed,)

    run(test())


def test_a_guest_that_no_file_names_any_more_and_that_has_something_is_not_expected() -> None:
    async def test() -> None:
        journal = MemoryJournal()
        running = record_with_gate("db1", Gate.RUNNING, Tracked(0xAB))
        await journal.put(running)
        async with site(journal=journal) as here:
            with pytest.raises(ExpectError, match="guest db1: has registrations here on record"):
                await here.arrivals.expect("db1", "pc", [])
            assert here.guests == {}
        assert journal.load().devices == (running,)

    run(test())


@pytest.mark.parametrize(
    ("key", "command"),
    [(0xABC, "holdover pr register /dev/sda --key 0xabc --new-key 0"), (0, "holdover pr status /dev/sda")],
)
def test_a_guest_that_is_still_registered_here_is_refused_with_the_command_that_helps(
    key: int, command: str
) -> None:
    device = SimpleNamespace(name="/dev/sda", tracked=Tracked(key=key))
    told = left_here(LUN, cast(GuestDevice, device))
    assert f"LUN {LUN} from this host" in told
    assert command in told
