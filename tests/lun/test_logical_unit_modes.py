"""A logical unit whose mode pages change, that is stopped, or that is being sanitized."""

from __future__ import annotations

import pytest

from holdover.lun.commands.sanitize import SanitizeWork
from holdover.scsi.block import UnmapList
from holdover.scsi.cdbs.cdb import (
    CompareAndWrite,
    ModeSense6,
    OrWrite,
    PreventAllowMediumRemoval,
    Read,
    ReadCapacity10,
    Sanitize,
    StartStopUnit,
    Unmap,
    Verify,
    Write,
    WriteAndVerify,
    WriteSame,
)
from holdover.scsi.cdbs.opcodes import OutServiceAction as Out
from holdover.scsi.cdbs.opcodes import ReservationType as Type
from holdover.scsi.cdbs.opcodes import SanitizeServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, Sense, SenseKey, decode_sense
from holdover.scsi.status import Status
from tests.lun.support import (
    READ_10,
    TEST_UNIT_READY,
    WRITE_10,
    A,
    B,
    C,
    MemoryMedium,
    attention,
    disk_full,
    illegal,
    make_unit,
    mode_select,
    out,
    sense_of,
)
from tests.lun.whole_unit import CONFLICT, INQUIRY, REPORT_LUNS, REQUEST_SENSE, holding, status

MODE_SENSE = Command(ModeSense6(0x3F, 0, 255).encode())
ERASE = Command(Sanitize(SanitizeServiceAction.BLOCK_ERASE).encode())
PROTECTED = (SenseKey.DATA_PROTECT, AdditionalSense.WRITE_PROTECTED)
STOPPED = (SenseKey.NOT_READY, AdditionalSense.LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED)
SANITIZING = (SenseKey.NOT_READY, AdditionalSense.LOGICAL_UNIT_NOT_READY_SANITIZE_IN_PROGRESS)
_UNMAP = UnmapList(((1, 1),)).encode()


# Each ends in GOOD where block 1 holds "u".
WRITERS = {
    "COMPARE AND WRITE": Command(CompareAndWrite(1, 1).encode(), b"u" * 512 + b"w" * 512),
    "ORWRITE": Command(OrWrite(1, 1).encode(), b"o" * 512),
    "SANITIZE": ERASE,
    "UNMAP": Command(Unmap(len(_UNMAP)).encode(), _UNMAP),
    "WRITE(6)": Command(Write(1, 1, 6).encode(), b"w" * 512),
    "WRITE(16)": Command(Write(1, 1, 16).encode(), b"w" * 512),
    "WRITE AND VERIFY(10)": Command(WriteAndVerify(1, 1, 10).encode(), b"w" * 512),
    "WRITE SAME(10)": Command(WriteSame(1, 2, 10).encode(), b"s" * 512),
    "WRITE SAME(16) UNMAP": Command(WriteSame(1, 2, unmap=True, no_data_out=True).encode()),
}


class TestModeParameters:
    def test_others_are_told_of_a_change(self) -> None:
        unit = make_unit()
        for nexus in (A, B):
            unit.execute(nexus, TEST_UNIT_READY)
        assert unit.execute(A, mode_select()).good  # no change
        assert status(unit, B, TEST_UNIT_READY) is Status.GOOD
        assert unit.execute(A, mode_select(write_protect=True)).good
        assert status(unit, A, TEST_UNIT_READY) is Status.GOOD
        assert sense_of(unit.execute(B, TEST_UNIT_READY)) == attention(
            AdditionalSense.MODE_PARAMETERS_CHANGED
        )
        assert unit.execute(B, MODE_SENSE).data_in[2] == 0x90

    def test_write_protection(self) -> None:
        medium = MemoryMedium()
        unit = make_unit(medium=medium)
        unit.execute(A, mode_select(write_protect=True))
        for name, command in WRITERS.items():
            assert sense_of(unit.execute(A, command)) == PROTECTED, name
        assert bytes(medium.data) == bytes(len(medium.data))
        assert status(unit, A, READ_10) is Status.GOOD
        assert unit.execute(A, mode_select()).good
        assert status(unit, A, WRITE_10) is Status.GOOD

    def test_a_medium_that_cannot_be_written(self) -> None:
        unit = make_unit(read_only=True)
        for name, command in WRITERS.items():
            assert sense_of(unit.execute(A, command)) == PROTECTED, name
        assert unit.execute(A, mode_select()).good
        assert sense_of(unit.execute(A, WRITE_10)) == PROTECTED

    def test_a_conflict_is_told_before_write_protection(self) -> None:
        unit = holding(Type.WRITE_EXCLUSIVE)
        unit.execute(A, mode_select(write_protect=True))
        unit.execute(C, REQUEST_SENSE)
        assert status(unit, C, WRITE_10) is CONFLICT

    def test_sense_data_in_descriptor_format(self) -> None:
        unit = make_unit()
        unit.execute(A, mode_select(descriptor_sense=True))
        for command in (Command(b"\x28"), Command(Read(64, 1, 10).encode())):
            assert unit.execute(A, command).sense[0] == 0x72
        unit.execute(A, WRITE_10)
        other = Command(Verify(0, 1, 10, bytchk=1).encode(), b"v" * 512)
        assert unit.execute(A, other).sense[0] == 0x72
        assert sense_of(unit.execute(A, other))[0] is SenseKey.MISCOMPARE
        unit.execute(A, mode_select())
        assert unit.execute(A, Command(b"\x28")).sense[0] == 0x70

    def test_a_reset_brings_back_the_defaults(self) -> None:
        unit = make_unit()
        unit.execute(A, mode_select(write_protect=True, descriptor_sense=True, write_cache=False))
        unit.reset()
        assert unit.execute(A, TEST_UNIT_READY).sense[0] == 0x70
        assert status(unit, A, WRITE_10) is Status.GOOD

    def test_writes_without_a_write_cache(self) -> None:
        medium = MemoryMedium()
        unit = make_unit(medium=medium)
        unit.execute(A, WRITE_10)
        unit.execute(A, mode_select(write_cache=False))
        assert medium.flushed == bytes(medium.data)
        for name, command in WRITERS.items():
            unit.execute(A, Command(Write(1, 1, 10).encode(), b"u" * 512))
            assert unit.execute(A, command).good, name
            assert medium.flushed == bytes(medium.data), name


class TestStartStopUnit:
    def test_a_stopped_unit_waits_to_be_started(self) -> None:
        unit = make_unit()
        assert unit.execute(A, Command(StartStopUnit(start=False).encode())).good
        for command in (TEST_UNIT_READY, READ_10, WRITE_10, *WRITERS.values()):
            assert sense_of(unit.execute(B, command)) == STOPPED
        for command in (INQUIRY, REPORT_LUNS, Command(ReadCapacity10().encode()), MODE_SENSE):
            assert status(unit, B, command) is Status.GOOD
        assert decode_sense(unit.execute(B, REQUEST_SENSE).data_in) == Sense(*STOPPED)
        assert out(unit, B, Out.REGISTER, 0, 1).good
        assert unit.execute(B, Command(StartStopUnit().encode())).good
        assert status(unit, A, READ_10) is Status.GOOD

    def test_stopping_writes_out_the_cache(self) -> None:
        medium = MemoryMedium()
        unit = make_unit(medium=medium)
        unit.execute(A, WRITE_10)
        unit.execute(A, Command(StartStopUnit(start=False, no_flush=True).encode()))
        assert medium.flushed == bytes(len(medium.data))
        unit.execute(A, Command(StartStopUnit(start=False).encode()))
        assert medium.flushed == bytes(medium.data)

    @pytest.mark.parametrize("condition", [1, 2, 3, 7, 10, 11])
    def test_power_conditions_leave_it_ready(self, condition: int) -> None:
        unit = make_unit()
        command = Command(StartStopUnit(start=False, power_condition=condition).encode())
        assert status(unit, A, command) is Status.GOOD
        assert status(unit, A, READ_10) is Status.GOOD

    @pytest.mark.parametrize("cdb", [StartStopUnit(load_or_eject=True), StartStopUnit(power_condition=5)])
    def test_what_it_cannot(self, cdb: StartStopUnit) -> None:
        refused = illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        assert sense_of(make_unit().execute(A, Command(cdb.encode()))) == refused

    def test_a_medium_that_cannot_be_removed(self) -> None:
        unit = make_unit()
        for prevent in (0, 1):
            assert unit.execute(A, Command(PreventAllowMediumRemoval(prevent).encode())).good
        response = unit.execute(A, Command(PreventAllowMediumRemoval(2).encode()))
        assert sense_of(response) == illegal(AdditionalSense.INVALID_FIELD_IN_CDB)


class TestSanitize:
    def test_erase(self) -> None:
        medium = MemoryMedium()
        unit = make_unit(medium=medium)
        unit.execute(A, WRITE_10)
        assert unit.execute(A, ERASE).good
        assert medium.flushed == bytes(medium.data) == bytes(len(medium.data))
        assert status(unit, A, WRITE_10) is Status.GOOD

    def test_while_it_runs(self) -> None:
        unit = make_unit()
        work = unit.begin(A, ERASE)
        assert isinstance(work, SanitizeWork)
        work.progress = 0x1234
        for command in (TEST_UNIT_READY, READ_10, WRITE_10, ERASE, MODE_SENSE):
            assert sense_of(unit.execute(B, command)) == SANITIZING
        assert decode_sense(unit.execute(B, TEST_UNIT_READY).sense).key_specific == 0x1234
        for command in (INQUIRY, REPORT_LUNS):
            assert status(unit, B, command) is Status.GOOD
        told = decode_sense(unit.execute(B, REQUEST_SENSE).data_in)
        assert (told.key, told.additional, told.key_specific) == (*SANITIZING, 0x1234)
        unit.reset()
        unit.execute(B, TEST_UNIT_READY)
        assert sense_of(unit.execute(B, TEST_UNIT_READY)) == SANITIZING
        unit.sanitized(work, Response(Status.GOOD))
        assert status(unit, B, READ_10) is Status.GOOD

    @pytest.mark.parametrize("ause", [False, True])
    def test_when_it_fails(self, ause: bool) -> None:
        medium = MemoryMedium()
        unit = make_unit(medium=medium)
        medium.failure = disk_full()
        erase = Command(Sanitize(SanitizeServiceAction.BLOCK_ERASE, ause=ause).encode())
        assert unit.execute(A, erase).status is Status.CHECK_CONDITION
        medium.failure = None
        failed = (SenseKey.MEDIUM_ERROR, AdditionalSense.SANITIZE_COMMAND_FAILED)
        for command in (READ_10, WRITE_10, TEST_UNIT_READY):
            assert sense_of(unit.execute(A, command)) == failed
        leave = unit.execute(A, Command(Sanitize(SanitizeServiceAction.EXIT_FAILURE_MODE).encode()))
        assert leave.good is ause
        assert unit.execute(A, READ_10).good is ause
        assert unit.execute(A, ERASE).good
        assert unit.execute(A, READ_10).good
