"""Whole commands against a logical unit: what reservations and unit attentions do to them."""

from __future__ import annotations

from typing import Literal

import pytest

from holdover.lun.reservations import (
    PersistentReservation,
    Registration,
    ReservationState,
)
from holdover.scsi.block import Capacity, LunList
from holdover.scsi.cdbs.cdb import (
    ExtendedCopy,
    Inquiry,
    ModeSense6,
    Read,
    ReadCapacity10,
    ReadCapacity16,
    ReadDefectData,
    ReceiveCopyResults,
    Release,
    ReportLuns,
    ReportSupportedOperationCodes,
    ReportSupportedTaskManagementFunctions,
    RequestSense,
    Reserve,
    SynchronizeCache,
    Verify,
    Write,
)
from holdover.scsi.cdbs.extended_copy import CopyList, CscdDescriptor, SegmentDescriptor
from holdover.scsi.cdbs.opcodes import CopyInServiceAction, InServiceAction
from holdover.scsi.cdbs.opcodes import OutServiceAction as Out
from holdover.scsi.cdbs.opcodes import ReservationType as Type
from holdover.scsi.command import Command
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import ParameterList, in_command, out_command
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
    illegal,
    make_unit,
    out,
    sense_of,
)
from tests.lun.whole_unit import CONFLICT, INQUIRY, REPORT_LUNS, REQUEST_SENSE, holding, status

CAPACITY = Capacity(64, 512, thin=True, reads_zeros=True)
POWER_ON = AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED
RESERVE, RELEASE = Command(Reserve(6).encode()), Command(Release(6).encode())


class TestBlocks:
    @pytest.mark.parametrize("size", [6, 10, 12, 16])
    def test_write_and_read_back(self, size: Literal[6, 10, 12, 16]) -> None:
        unit = make_unit()
        cdb = bytes(Write(5, 2, size).encode())
        assert status(unit, A, Command(cdb, b"a" * 512 + b"b" * 512)) is Status.GOOD
        found = unit.execute(A, Command(Read(4, 4, size).encode()))
        assert found.data_in == bytes(512) + b"a" * 512 + b"b" * 512 + bytes(512)

    @pytest.mark.parametrize("size", [10, 12, 16])
    def test_verify(self, size: Literal[10, 12, 16]) -> None:
        unit = make_unit()
        unit.execute(A, WRITE_10)
        same = Command(Verify(0, 1, size, bytchk=1).encode(), b"w" * 512)
        other = Command(same.cdb, b"v" * 512)
        assert status(unit, A, same) is Status.GOOD
        assert sense_of(unit.execute(A, other))[0] is SenseKey.MISCOMPARE

    @pytest.mark.parametrize("size", [10, 16])
    def test_synchronize_cache(self, size: Literal[10, 16]) -> None:
        medium = MemoryMedium()
        unit = make_unit(medium=medium)
        unit.execute(A, WRITE_10)
        assert medium.flushed[:512] == bytes(512)
        assert status(unit, A, Command(SynchronizeCache(0, 0, size).encode())) is Status.GOOD
        assert medium.flushed[:512] == b"w" * 512

    def test_a_piece_of_a_block_writes_nothing(self) -> None:
        medium = MemoryMedium()
        unit = make_unit(medium=medium)
        for length in (1, 511):
            response = unit.execute(A, Command(WRITE_10.cdb, b"w" * length))
            too_little = AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT
            assert sense_of(response) == illegal(too_little)
        none = unit.execute(A, Command(WRITE_10.cdb))
        assert none.good
        assert none.data_out_length == 512
        assert medium.data == bytes(len(medium.data))

    def test_a_huge_transfer_is_refused_before_memory_is_asked_for(self) -> None:
        class Endless(MemoryMedium):
            size = 1 << 62

        unit = make_unit(medium=Endless())
        response = unit.execute(A, Command(Read(0, 0xFFFFFFFF, 16).encode()))
        assert sense_of(response) == illegal(AdditionalSense.INVALID_FIELD_IN_CDB)


class TestParameterData:
    def test_capacity(self) -> None:
        unit = make_unit()
        ten = unit.execute(A, Command(ReadCapacity10().encode()))
        assert Capacity.decode_10(ten.data_in) == Capacity(64, 512)
        sixteen = unit.execute(A, Command(ReadCapacity16(32).encode()))
        assert Capacity.decode_16(sixteen.data_in) == CAPACITY

    def test_report_luns(self) -> None:
        unit = make_unit()
        assert LunList.decode(unit.execute(A, REPORT_LUNS).data_in) == LunList((bytes(8),))
        none = unit.execute(A, Command(ReportLuns(256, select_report=1).encode()))
        assert LunList.decode(none.data_in) == LunList(())
        for bad in (ReportLuns(256, select_report=3), ReportLuns(15)):
            response = unit.execute(A, Command(bad.encode()))
            assert sense_of(response) == illegal(AdditionalSense.INVALID_FIELD_IN_CDB)

    @pytest.mark.parametrize("length", range(64))
    def test_data_are_cut_to_the_allocation_length_and_go_on_telling_their_own(self, length: int) -> None:
        unit = holding(Type.WRITE_EXCLUSIVE)
        for whole, cut in (
            (Inquiry(255), Inquiry(length)),
            (Inquiry(255, 0x83), Inquiry(length, 0x83)),
            (ModeSense6(0x3F, 0, 255), ModeSense6(0x3F, 0, length)),
            (ReadCapacity16(255), ReadCapacity16(length)),
            (RequestSense(252), RequestSense(length)),
        ):
            data = unit.execute(A, Command(whole.encode())).data_in
            assert unit.execute(A, Command(cut.encode())).data_in == data[:length]
        for action in InServiceAction:
            data = unit.execute(C, in_command(action)).data_in
            assert unit.execute(C, in_command(action, length)).data_in == data[:length]

    def test_an_unknown_page(self) -> None:
        response = make_unit().execute(A, Command(Inquiry(255, 0x99).encode()))
        assert sense_of(response) == illegal(AdditionalSense.INVALID_FIELD_IN_CDB)


class TestRefusals:
    @pytest.mark.parametrize("cdb", [b"", b"\xff", b"\x04\0\0\0\0\0", b"\xa4\x0a" + bytes(10)])
    def test_an_operation_code_that_there_is_not(self, cdb: bytes) -> None:
        expected = illegal(AdditionalSense.INVALID_COMMAND_OPERATION_CODE)
        assert sense_of(make_unit().execute(A, Command(cdb))) == expected
        assert sense_of(holding(Type.EXCLUSIVE_ACCESS).execute(C, Command(cdb))) == expected

    @pytest.mark.parametrize("cdb", [b"\x28", b"\x28" + bytes(8), b"\x9e\x11" + bytes(14)])
    def test_a_cdb_that_is_none(self, cdb: bytes) -> None:
        response = make_unit().execute(A, Command(cdb))
        assert sense_of(response) == illegal(AdditionalSense.INVALID_FIELD_IN_CDB)

    def test_an_8_byte_parameter_list(self) -> None:
        """On this QEMU 11.1 ends with a failed assertion."""
        command = Command(bytes.fromhex("5f000000000000000800"), bytes(8))
        response = make_unit().execute(A, command)
        assert sense_of(response) == illegal(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)


class TestAccess:
    @pytest.mark.parametrize("kind", Type)
    def test_who_may_read_and_write(self, kind: Type) -> None:
        unit = holding(kind)
        exclusive = kind in (
            Type.EXCLUSIVE_ACCESS,
            Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
            Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
        )
        registrants = kind not in (Type.WRITE_EXCLUSIVE, Type.EXCLUSIVE_ACCESS)
        assert status(unit, A, READ_10) is Status.GOOD
        assert status(unit, A, WRITE_10) is Status.GOOD
        assert status(unit, B, READ_10) is (Status.GOOD if registrants or not exclusive else CONFLICT)
        assert status(unit, B, WRITE_10) is (Status.GOOD if registrants else CONFLICT)
        assert status(unit, C, READ_10) is (CONFLICT if exclusive else Status.GOOD)
        assert status(unit, C, WRITE_10) is CONFLICT
        assert status(unit, C, TEST_UNIT_READY) is Status.GOOD

    def test_a_refused_write_writes_nothing(self) -> None:
        medium = MemoryMedium()
        state = ReservationState((Registration(A, 1),), PersistentReservation(Type.WRITE_EXCLUSIVE, A))
        unit = make_unit(state, medium=medium)
        assert status(unit, C, WRITE_10) is CONFLICT
        assert medium.data == bytes(len(medium.data))

    def test_access_follows_each_change(self) -> None:
        unit = make_unit()
        assert out(unit, A, Out.REGISTER, 0, 1).good
        assert status(unit, C, WRITE_10) is Status.GOOD
        assert out(unit, A, Out.RESERVE, 1, type=Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY).good
        assert status(unit, C, WRITE_10) is CONFLICT
        assert out(unit, C, Out.REGISTER, 0, 3).good
        assert status(unit, C, WRITE_10) is Status.GOOD
        assert out(unit, A, Out.RELEASE, 1, type=Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY).good
        assert sense_of(unit.execute(C, WRITE_10)) == attention(AdditionalSense.RESERVATIONS_RELEASED)
        assert status(unit, B, WRITE_10) is Status.GOOD

    def test_the_handover(self) -> None:
        """REGISTER on the destination, then PREEMPT: at no instant can a third nexus write."""
        unit = make_unit()
        out(unit, A, Out.REGISTER, 0, 7, aptpl=True)
        out(unit, A, Out.RESERVE, 7, type=Type.EXCLUSIVE_ACCESS)
        for step in (
            out_command(Out.REGISTER, 0, 7, aptpl=True),
            out_command(Out.PREEMPT, 7, 7, type=Type.EXCLUSIVE_ACCESS),
        ):
            assert status(unit, C, WRITE_10) is CONFLICT
            assert status(unit, B, step) is Status.GOOD
        assert status(unit, C, WRITE_10) is CONFLICT
        assert status(unit, B, WRITE_10) is Status.GOOD
        assert status(unit, A, WRITE_10) is CONFLICT
        assert sense_of(unit.execute(A, TEST_UNIT_READY)) == attention(
            AdditionalSense.REGISTRATIONS_PREEMPTED
        )
        assert unit.state.aptpl


class TestReserveAndRelease:
    def test_the_reserving_nexus_alone_has_access(self) -> None:
        unit = make_unit()
        assert status(unit, A, RESERVE) is Status.GOOD
        for command in (READ_10, WRITE_10, TEST_UNIT_READY, RESERVE):
            assert status(unit, A, command) is Status.GOOD
            assert status(unit, B, command) is CONFLICT
        for command in (INQUIRY, REPORT_LUNS, REQUEST_SENSE, RELEASE):
            assert status(unit, B, command) is Status.GOOD
        assert unit.legacy_holder == A
        assert status(unit, A, Command(Release(10).encode())) is Status.GOOD
        assert status(unit, B, WRITE_10) is Status.GOOD

    @pytest.mark.parametrize("nexus", [A, B])
    def test_persistent_reserve_conflicts_with_it(self, nexus: ITNexus) -> None:
        unit = make_unit()
        unit.execute(A, RESERVE)
        assert out(unit, nexus, Out.REGISTER, 0, 1).status is CONFLICT
        assert status(unit, nexus, in_command(InServiceAction.READ_KEYS)) is CONFLICT
        assert unit.state == ReservationState()

    @pytest.mark.parametrize("size", [6, 10])
    def test_a_registration_conflicts_with_it(self, size: Literal[6, 10]) -> None:
        unit = make_unit()
        out(unit, A, Out.REGISTER, 0, 1)
        for cdb in (Reserve(size), Release(size)):
            assert status(unit, A, Command(cdb.encode())) is CONFLICT
            assert status(unit, B, Command(cdb.encode())) is CONFLICT

    def test_compatible_reservation_handling(self) -> None:
        unit = holding(Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
        for command in (RESERVE, RELEASE):
            assert status(unit, A, command) is Status.GOOD
            assert status(unit, B, command) is Status.GOOD
            assert status(unit, C, command) is CONFLICT
        assert unit.legacy_holder is None

    @pytest.mark.parametrize("cdb", [Reserve(6, extent=True), Release(10, third_party=True)])
    def test_extents_and_third_parties_are_refused(self, cdb: Reserve | Release) -> None:
        response = make_unit().execute(A, Command(cdb.encode()))
        assert sense_of(response) == illegal(AdditionalSense.INVALID_FIELD_IN_CDB)

    def test_a_reset_and_the_loss_of_the_nexus_release_it(self) -> None:
        unit = make_unit()
        unit.execute(A, RESERVE)
        unit.reset()
        assert unit.legacy_holder is None
        unit.execute(A, TEST_UNIT_READY)
        unit.execute(A, RESERVE)
        unit.nexus_lost(B)
        assert unit.legacy_holder == A
        unit.nexus_lost(A)
        assert status(unit, C, WRITE_10) is Status.GOOD


class TestUnitAttentions:
    @pytest.mark.parametrize("command", [TEST_UNIT_READY, READ_10, WRITE_10, Command(b"\xff")])
    def test_a_new_nexus_is_told_of_power_on_once(self, command: Command) -> None:
        unit = make_unit(greet=True)
        assert sense_of(unit.execute(A, command)) == attention(POWER_ON)
        assert status(unit, A, TEST_UNIT_READY) is Status.GOOD
        assert sense_of(unit.execute(B, command)) == attention(POWER_ON)

    def test_some_commands_pass_by(self) -> None:
        unit = make_unit(greet=True)
        assert unit.execute(A, INQUIRY).good
        assert unit.execute(A, REPORT_LUNS).good
        assert sense_of(unit.execute(A, TEST_UNIT_READY)) == attention(POWER_ON)

    @pytest.mark.parametrize("descriptor", [False, True])
    def test_request_sense_takes_it_as_data(self, descriptor: bool) -> None:
        unit = make_unit(greet=True)
        command = Command(RequestSense(252, descriptor).encode())
        first, second = unit.execute(A, command), unit.execute(A, command)
        assert first.good
        assert first.data_in[0] & 0x7F == (0x72 if descriptor else 0x70)
        assert decode_sense(first.data_in) == Sense(SenseKey.UNIT_ATTENTION, POWER_ON)
        assert decode_sense(second.data_in) == Sense(SenseKey.NO_SENSE)
        assert status(unit, A, TEST_UNIT_READY) is Status.GOOD

    def test_a_reset_is_told_before_a_conflict(self) -> None:
        """SAM-5 5.3.3."""
        unit = holding(Type.EXCLUSIVE_ACCESS)
        for nexus in (A, B, C):
            unit.execute(nexus, INQUIRY)
        unit.reset()
        told = attention(AdditionalSense.BUS_DEVICE_RESET_FUNCTION_OCCURRED)
        assert sense_of(unit.execute(C, WRITE_10)) == told
        assert status(unit, C, WRITE_10) is CONFLICT
        assert sense_of(unit.execute(A, WRITE_10)) == told
        assert unit.state.holds(A)

    def test_a_conflict_is_told_before_the_rest(self) -> None:
        """SAM-5 5.3.3: the condition stays until a command does not conflict."""
        unit = holding(Type.WRITE_EXCLUSIVE)
        out(unit, B, Out.PREEMPT, 2, 1, type=Type.EXCLUSIVE_ACCESS)
        assert status(unit, A, WRITE_10) is CONFLICT
        assert status(unit, A, RESERVE) is CONFLICT
        assert out(unit, A, Out.REGISTER, 1, 5).status is CONFLICT
        told = attention(AdditionalSense.REGISTRATIONS_PREEMPTED)
        assert sense_of(out(unit, A, Out.REGISTER, 0, 5)) == told
        assert unit.state.key_of(A) == 0
        assert out(unit, A, Out.REGISTER, 0, 5).good

    def test_a_condition_is_told_before_a_bad_cdb(self) -> None:
        unit = holding(Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
        out(unit, A, Out.RELEASE, 1, type=Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
        assert sense_of(unit.execute(B, Command(b"\x28"))) == attention(AdditionalSense.RESERVATIONS_RELEASED)
        assert sense_of(unit.execute(B, Command(b"\x28"))) == illegal(AdditionalSense.INVALID_FIELD_IN_CDB)

    def test_what_is_decided_is_not_done_before_commit(self) -> None:
        unit = make_unit()
        change = unit.begin(A, out_command(Out.REGISTER, 0, 1))
        assert unit.state == ReservationState()
        assert not hasattr(change, "sense")

    def test_loss_of_the_nexus(self) -> None:
        unit = make_unit()
        unit.execute(A, TEST_UNIT_READY)
        out(unit, A, Out.REGISTER, 0, 1)
        unit.nexus_lost(A)
        assert sense_of(unit.execute(A, TEST_UNIT_READY)) == attention(
            AdditionalSense.I_T_NEXUS_LOSS_OCCURRED
        )
        assert unit.state.key_of(A) == 1


def test_read_keys_grows_with_the_registrations() -> None:
    unit = make_unit()
    out(unit, A, Out.REGISTER, 0, 1)
    out(unit, B, Out.REGISTER, 0, 2)
    data = unit.execute(C, in_command(InServiceAction.READ_KEYS, 12)).data_in
    assert ReadKeys.decode(data) == ReadKeys(2, (), complete=False)
    assert data[4:8] == (16).to_bytes(4, "big")


def test_spec_i_pt_through_the_whole_command() -> None:
    unit = make_unit()
    data = ParameterList(0, 9, spec_i_pt=True, transport_ids=(B.initiator,)).encode()
    command = Command(bytes([0x5F, 0, 0, 0, 0, *len(data).to_bytes(4, "big"), 0]), data)
    assert unit.execute(A, command).good
    assert unit.state.key_of(A) == unit.state.key_of(B) == 9


def test_a_copy_within_the_unit_and_what_is_told_of_it() -> None:
    medium = MemoryMedium()
    unit = make_unit(medium=medium)
    unit.execute(A, WRITE_10)
    naa = unit.identity.naa
    here = CscdDescriptor(naa.code_set, naa.association, naa.type, naa.value)
    data = CopyList((here,), (SegmentDescriptor(0, 0, 1, 0, 9),), list_identifier=3).encode()
    status_of = Command(ReceiveCopyResults(CopyInServiceAction.COPY_STATUS_LID1, 3, 255).encode())
    none = illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    assert sense_of(unit.execute(A, status_of)) == none
    assert unit.execute(A, Command(ExtendedCopy(len(data)).encode(), data)).good
    assert medium.data[9 * 512 : 10 * 512] == b"w" * 512
    assert unit.execute(A, status_of).data_in == bytes.fromhex("00000008 81 0001 00 00000200")
    assert sense_of(unit.execute(B, status_of)) == none


def test_reports() -> None:
    unit = make_unit()
    tasks = Command(ReportSupportedTaskManagementFunctions(4).encode())
    assert unit.execute(A, tasks).data_in == bytes.fromhex("da000000")
    codes = unit.execute(A, Command(ReportSupportedOperationCodes(65535).encode())).data_in
    assert int.from_bytes(codes[:4], "big") == len(codes) - 4
    for size, header in ((10, "00190000"), (12, "0019000000000000")):
        wanted = ReadDefectData(255, 10 if size == 10 else 12, 1, primary=True, grown=True)
        assert unit.execute(A, Command(wanted.encode())).data_in.hex() == header
