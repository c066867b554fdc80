"""What ScsiBlock refuses and masks with `migrate-pr` on."""

from __future__ import annotations

import pytest
from msgspec import structs

from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_in import Capabilities
from holdover.scsi.reservation.reservation_out import (
    ParameterList,
    RegisterAndMoveParameterList,
    in_command,
    out_command,
)
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status
from tests.guest.rig import (
    GOOD,
    GUEST,
    IGNORE,
    REGISTER,
    RESERVE,
    THIRD,
    WE,
    drive,
    logical_unit,
    script,
    scsi_block,
    truth,
    unreachable,
)

INVALID_FIELD_IN_CDB = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
INVALID_FIELD_IN_LIST = check_condition(
    SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
)
LENGTH_ERROR = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)


def _list(parameters: ParameterList | RegisterAndMoveParameterList) -> bytes:
    return parameters.encode()


def _out(action: int, data: bytes, length: int | None = None) -> Command:
    return Command(PersistentReserveOut(action, len(data) if length is None else length).encode(), data)


_MOVE = RegisterAndMoveParameterList(5, 6, 1, THIRD.initiator)


class TestRefusals:
    @pytest.mark.parametrize(
        ("command", "answer"),
        [
            (_out(REGISTER, _list(ParameterList(0, 5, all_tg_pt=True))), INVALID_FIELD_IN_LIST),
            (
                _out(REGISTER, _list(ParameterList(0, 5, spec_i_pt=True, transport_ids=(THIRD.initiator,)))),
                INVALID_FIELD_IN_LIST,
            ),
            (_out(REGISTER, _list(ParameterList(0, 5, spec_i_pt=True))[:24]), INVALID_FIELD_IN_LIST),
            (_out(IGNORE, _list(ParameterList(0, 5, all_tg_pt=True))), INVALID_FIELD_IN_LIST),
            (_out(IGNORE, _list(ParameterList(0, 5, spec_i_pt=True))), INVALID_FIELD_IN_LIST),
            (_out(OutServiceAction.REGISTER_AND_MOVE, _list(_MOVE)), INVALID_FIELD_IN_CDB),
            (_out(OutServiceAction.REGISTER_AND_MOVE, bytes(8)), INVALID_FIELD_IN_CDB),
            (Command(out_command(REGISTER, 0, 5).cdb[:9], bytes(24)), INVALID_FIELD_IN_CDB),
            (Command(b"\x5f"), INVALID_FIELD_IN_CDB),
            # The flags are in the bytes that came, but the list is not all there.
            (_out(REGISTER, _list(ParameterList(0, 5, all_tg_pt=True)), length=28), LENGTH_ERROR),
            (_out(REGISTER, _list(ParameterList(0, 5, all_tg_pt=True))[:23], length=24), LENGTH_ERROR),
        ],
    )
    def test_the_logical_unit_never_sees_it(self, command: Command, answer: Response) -> None:
        block = scsi_block()
        assert drive(block, command, unreachable) == answer
        assert (block.tracked, block.stale) == (Tracked(), False)

    @pytest.mark.parametrize(
        "action", [each for each in OutServiceAction if each != OutServiceAction.REGISTER_AND_MOVE]
    )
    def test_every_length_but_24(self, action: OutServiceAction) -> None:
        data = ParameterList(0, 5).encode() + bytes(40)
        for length in range(64):
            if length != 24:
                assert drive(scsi_block(), _out(action, data[:length]), unreachable) == LENGTH_ERROR
                assert drive(scsi_block(), _out(action, data, length), unreachable) == LENGTH_ERROR
        for there in range(24):
            assert drive(scsi_block(), _out(action, data[:there], 24), unreachable) == LENGTH_ERROR

    def test_more_bytes_than_the_cdb_says_are_not_read(self) -> None:
        lun, block = logical_unit(), scsi_block()
        command = _out(REGISTER, ParameterList(0, 5).encode() + bytes(8), length=24)
        assert drive(block, command, lambda each: lun.execute(GUEST, each)) == GOOD
        assert block.tracked == truth(lun) == Tracked(5)

    def test_other_service_actions_ignore_the_flags(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        command = _out(RESERVE, ParameterList(5, all_tg_pt=True).encode())
        command = structs.replace(command, cdb=PersistentReserveOut(RESERVE, 24, type=WE).encode())
        assert drive(block, command, script(GOOD)) == GOOD
        assert block.tracked == Tracked(5, type=WE)

    @pytest.mark.parametrize(
        "command",
        [
            _out(REGISTER, _list(ParameterList(0, 5, all_tg_pt=True))),
            _out(OutServiceAction.REGISTER_AND_MOVE, _list(_MOVE)),
            _out(REGISTER, bytes(8)),
        ],
    )
    def test_with_migrate_pr_off_nothing_is_refused(self, command: Command) -> None:
        assert drive(scsi_block(False), command, script(GOOD)) == GOOD


class TestMask:
    def test_sip_c_and_atp_c_read_0(self) -> None:
        lun = logical_unit()
        command = in_command(InServiceAction.REPORT_CAPABILITIES)
        told = Capabilities.decode(lun.execute(GUEST, command).data_in)
        assert (told.sip_c, told.atp_c) == (True, True)
        masked = drive(scsi_block(), command, lambda each: lun.execute(GUEST, each))
        assert Capabilities.decode(masked.data_in) == structs.replace(told, sip_c=False, atp_c=False)
        plain = drive(scsi_block(False), command, lambda each: lun.execute(GUEST, each))
        assert Capabilities.decode(plain.data_in) == told

    @pytest.mark.parametrize("length", range(25))
    def test_every_allocation_length(self, length: int) -> None:
        lun = logical_unit()
        command = in_command(InServiceAction.REPORT_CAPABILITIES, length)
        whole = bytearray(lun.execute(GUEST, in_command(InServiceAction.REPORT_CAPABILITIES)).data_in)
        whole[2] &= ~0x0C & 0xFF
        response = drive(scsi_block(), command, lambda each: lun.execute(GUEST, each))
        assert response == Response(Status.GOOD, bytes(whole)[:length])

    @pytest.mark.parametrize(
        "action",
        [InServiceAction.READ_KEYS, InServiceAction.READ_RESERVATION, InServiceAction.READ_FULL_STATUS],
    )
    def test_nothing_else_is_masked(self, action: InServiceAction) -> None:
        response = Response(Status.GOOD, b"\xff" * 32)
        assert drive(scsi_block(), in_command(action), script(response)) == response

    def test_a_cdb_that_is_too_short_is_the_logical_units_to_refuse(self) -> None:
        assert drive(scsi_block(), Command(b"\x5e\x02"), script(INVALID_FIELD_IN_CDB)) == INVALID_FIELD_IN_CDB
