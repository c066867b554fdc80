"""What is on record of devices comes back to the LUN that it is of."""

from __future__ import annotations

import asyncio

import pytest

from holdover.agent.guests.records import Remembered, device_record, keep_records
from holdover.guest.gate import Gate
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import DeviceRecord
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.inquiry import Designator
from holdover.scsi.reservation.reservation_out import out_command
from tests.agent.device_rig import Rig

HERE, OTHER = Designator.parse("naa.5000000000000001"), Designator.parse("naa.5000000000000002")
HELD = Tracked(0xC0FFEE, True, ReservationType.EXCLUSIVE_ACCESS)
LESS = Tracked(0xBEEF)


def record(
    designator: Designator, tracked: Tracked, drive: str = "disk0", gate: Gate = Gate.RUNNING
) -> DeviceRecord:
    rig = Rig(gate=gate)
    rig.device.recall_designator(designator)
    rig.device.block.adopt(tracked)
    rig.device.name = drive
    return device_record("db1", rig.device)


def test_what_was_known_is_known_again() -> None:
    rig = Rig()
    remembered = Remembered([record(HERE, HELD, gate=Gate.DEPARTED), record(OTHER, LESS, "disk1")])
    remembered.restore(rig.device)
    assert (rig.device.tracked, rig.device.block.gate, rig.device.block.stale) == (HELD, Gate.DEPARTED, False)
    rig.device.recall_designator(HERE)
    assert remembered.identified(rig.device)
    assert (rig.device.tracked, rig.device.block.stale) == (HELD, False)


def test_another_lun_at_the_drive_is_not_taken_for_it() -> None:
    rig = Rig()
    remembered = Remembered([record(HERE, HELD)])
    remembered.restore(rig.device)
    rig.device.recall_designator(OTHER)
    assert not remembered.identified(rig.device)
    assert (rig.device.tracked, rig.device.block.stale) == (Tracked(), True)


def test_two_luns_that_have_changed_places_keep_what_is_theirs() -> None:
    rig = Rig()
    remembered = Remembered([record(HERE, HELD), record(OTHER, LESS, "disk1")])
    remembered.restore(rig.device)
    rig.device.block.gate = Gate.LEAVING
    rig.device.recall_designator(OTHER)
    assert remembered.identified(rig.device)
    assert (rig.device.tracked, rig.device.block.gate) == (LESS, Gate.LEAVING)


def test_a_record_that_makes_no_sense_makes_the_device_doubtful() -> None:
    rig = Rig()
    broken = DeviceRecord(guest="db1", designator=str(HERE), drive="disk0", body=b'{"gate":1}')
    Remembered([broken]).restore(rig.device)
    assert (rig.device.tracked, rig.device.block.stale) == (Tracked(), True)


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_a_guest_registers_only_where_it_is_known_which_lun_that_is(known: bool) -> None:
    async def test() -> None:
        rig, journal = Rig(), MemoryJournal()
        keep_records("db1", rig.device, journal)
        if known:
            rig.device.recall_designator(HERE)
        response = await rig.tell(out_command(OutServiceAction.REGISTER, 0, 5))
        assert response.good is known
        assert rig.truth.key == (5 if known else 0)
        assert [each.designator for each in journal.load().devices] == ([str(HERE)] if known else [])

    asyncio.run(test())


def test_the_gate_on_record_is_the_one_that_comes() -> None:
    rig = Rig(gate=Gate.LEAVING)
    rig.device.recall_designator(HERE)
    rig.device.coming_gate = Gate.DEPARTED
    other = Rig()
    Remembered([device_record("db1", rig.device)]).restore(other.device)
    assert other.device.block.gate is Gate.DEPARTED
    rig.device.move_gate(Gate.INCOMING)
    assert b"incoming" in device_record("db1", rig.device).body
