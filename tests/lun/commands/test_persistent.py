from __future__ import annotations

import pytest

from holdover.lun.access import Standing, allowed
from holdover.lun.commands.persistent import carry_out, parameter_data
from holdover.lun.reservations import (
    PersistentReservation,
    Registration,
    ReservationState,
    TargetLimits,
)
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction as In
from holdover.scsi.cdbs.opcodes import OutServiceAction as Out
from holdover.scsi.cdbs.opcodes import ReservationType as Type
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import (
    Capabilities,
    FullStatus,
    ReadKeys,
    ReadReservation,
    Reservation,
)
from holdover.scsi.reservation.reservation_out import ParameterList, RegisterAndMoveParameterList
from holdover.scsi.sense import AdditionalSense
from tests.lun.support import A2, TWO_PORTS, A, B, C, initiator

ONE_PORT = TargetLimits()
LENGTH_ERROR = AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
BAD_LIST = AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST


def read(service_action: int, state: ReservationState, limits: TargetLimits = ONE_PORT) -> bytes:
    data = parameter_data(PersistentReserveIn(service_action, 0), state, limits)
    assert isinstance(data, bytes)
    return data


class TestIn:
    def test_read_keys(self) -> None:
        state = ReservationState((Registration(A, 5), Registration(B, 5)), None, 7)
        assert ReadKeys.decode(read(In.READ_KEYS, state)) == ReadKeys(7, (5, 5))
        assert ReadKeys.decode(read(In.READ_KEYS, ReservationState())) == ReadKeys(0, ())

    @pytest.mark.parametrize("kind", Type)
    def test_read_reservation(self, kind: Type) -> None:
        holder = None if kind.all_registrants else B
        state = ReservationState(
            (Registration(A, 5), Registration(B, 6)), PersistentReservation(kind, holder), 7
        )
        expected = Reservation(0 if kind.all_registrants else 6, kind)
        assert ReadReservation.decode(read(In.READ_RESERVATION, state)) == ReadReservation(7, expected)

    def test_read_reservation_without_one(self) -> None:
        state = ReservationState((Registration(A, 5),), None, 7)
        assert ReadReservation.decode(read(In.READ_RESERVATION, state)) == ReadReservation(7, None)

    @pytest.mark.parametrize("aptpl", [False, True])
    def test_report_capabilities(self, aptpl: bool) -> None:
        found = Capabilities.decode(read(In.REPORT_CAPABILITIES, ReservationState(aptpl=aptpl)))
        assert found == Capabilities(
            crh=True,
            sip_c=True,
            atp_c=True,
            ptpl_c=True,
            ptpl_a=aptpl,
            allow_commands=4,
            types=frozenset(Type),
        )

    @pytest.mark.parametrize("opcode", [0x1A, 0x8C, 0x3C, 0x1C, 0xA30C, 0xA30D, 0x37, 0x00, 0x84])
    def test_what_the_capabilities_say_is_allowed_is_allowed(self, opcode: int) -> None:
        """SPC-4 table 208, code 100b: MODE SENSE and its like past Write Exclusive, two past both."""
        cdb = opcode.to_bytes(2, "big") + bytes(14) if opcode > 0xFF else bytes([opcode]) + bytes(15)
        for standing in (Standing.NOT_REGISTERED, Standing.REGISTERED):
            assert allowed(cdb, Type.WRITE_EXCLUSIVE, standing)
            assert allowed(cdb, Type.EXCLUSIVE_ACCESS, standing) == (opcode in {0x00, 0x84})

    @pytest.mark.parametrize("kind", Type)
    def test_full_status(self, kind: Type) -> None:
        holder = None if kind.all_registrants else B
        state = ReservationState(
            (Registration(A2, 5), Registration(B, 6)), PersistentReservation(kind, holder), 7
        )
        status = FullStatus.decode(read(In.READ_FULL_STATUS, state, TWO_PORTS))
        assert status.generation == 7
        assert [
            (each.key, each.transport_id, each.relative_target_port, each.all_target_ports)
            for each in status.descriptors
        ] == [(5, A2.initiator, 2, False), (6, B.initiator, 1, False)]
        assert [each.holder for each in status.descriptors] == [kind.all_registrants, True]
        assert [each.type for each in status.descriptors] == [
            kind if kind.all_registrants else None,
            kind,
        ]

    def test_full_status_of_all_target_ports_together(self) -> None:
        both = (Registration(A, 5, True), Registration(A2, 5, True))
        state = ReservationState((*both, Registration(B, 6, True)))
        status = FullStatus.decode(read(In.READ_FULL_STATUS, state, TWO_PORTS))
        assert [(each.key, each.all_target_ports) for each in status.descriptors] == [(5, True), (6, False)]

    @pytest.mark.parametrize(
        "state",
        [
            ReservationState((Registration(A, 5, True), Registration(A2, 6, True))),
            ReservationState((Registration(A, 5, True), Registration(A2, 5, False))),
            ReservationState(
                (Registration(A, 5, True), Registration(A2, 5, True)),
                PersistentReservation(Type.WRITE_EXCLUSIVE, A),
            ),
        ],
        ids=["keys differ", "registered apart", "one holds"],
    )
    def test_full_status_of_ports_that_differ(self, state: ReservationState) -> None:
        status = FullStatus.decode(read(In.READ_FULL_STATUS, state, TWO_PORTS))
        assert [each.all_target_ports for each in status.descriptors] == [False, False]

    @pytest.mark.parametrize("service_action", range(4, 32))
    def test_a_service_action_that_there_is_not(self, service_action: int) -> None:
        cdb = PersistentReserveIn(service_action, 255)
        found = parameter_data(cdb, ReservationState(), ONE_PORT)
        assert found is AdditionalSense.INVALID_FIELD_IN_CDB


REGISTER = ParameterList(0, 5).encode()
REGISTERING = {Out.REGISTER, Out.REGISTER_AND_IGNORE_EXISTING_KEY}


class TestOut:
    state = ReservationState((Registration(C, 3),))

    def problem(
        self, action: int, data: bytes, length: int | None = None, nexus: ITNexus = A
    ) -> AdditionalSense | None:
        cdb = PersistentReserveOut(action, len(data) if length is None else length)
        outcome = carry_out(cdb, data, self.state, nexus, ONE_PORT)
        assert outcome.good or outcome.state is self.state
        return outcome.problem

    def test_the_list_reaches_the_rules(self) -> None:
        cdb = PersistentReserveOut(Out.REGISTER, 24)
        outcome = carry_out(cdb, ParameterList(0, 5, aptpl=True).encode(), self.state, A, ONE_PORT)
        assert outcome.state.key_of(A) == 5
        assert outcome.state.aptpl

    def test_type_and_scope_reach_the_rules(self) -> None:
        data = ParameterList(3).encode()
        good = carry_out(PersistentReserveOut(Out.RESERVE, 24, 5), data, self.state, C, ONE_PORT)
        assert good.state.reservation == PersistentReservation(Type(5), C)
        bad = carry_out(PersistentReserveOut(Out.RESERVE, 24, 5, 1), data, self.state, C, ONE_PORT)
        assert bad.problem is AdditionalSense.INVALID_FIELD_IN_CDB

    def test_what_is_sent_beyond_the_list_is_left_aside(self) -> None:
        assert self.problem(Out.REGISTER, REGISTER + b"more", 24) is None

    @pytest.mark.parametrize("action", Out)
    @pytest.mark.parametrize("length", [*range(24)])
    def test_a_short_list(self, action: Out, length: int) -> None:
        assert self.problem(action, REGISTER[:length], nexus=C) is LENGTH_ERROR
        assert self.problem(action, REGISTER[:length], 24, C) is LENGTH_ERROR
        assert self.problem(action, REGISTER, length, C) is LENGTH_ERROR

    def test_less_than_the_cdb_says(self) -> None:
        assert self.problem(Out.REGISTER, REGISTER, 28) is LENGTH_ERROR

    @pytest.mark.parametrize("action", sorted(set(Out) - {Out.REGISTER_AND_MOVE}))
    @pytest.mark.parametrize("length", [25, 28, 32, 100])
    def test_a_long_list(self, action: Out, length: int) -> None:
        assert self.problem(action, REGISTER.ljust(length, b"\0"), nexus=C) is LENGTH_ERROR

    @pytest.mark.parametrize("action", sorted(set(Out) - REGISTERING))
    def test_a_nexus_that_is_not_registered_conflicts_before_its_list_is_looked_at(self, action: Out) -> None:
        cdb = PersistentReserveOut(action, 8)
        assert carry_out(cdb, bytes(8), self.state, A, ONE_PORT).conflict

    @pytest.mark.parametrize("action", [Out.RESERVE, Out.REGISTER_AND_MOVE])
    def test_what_a_reservation_forbids_conflicts_before_its_list_is_looked_at(self, action: Out) -> None:
        registrations = (Registration(C, 3), Registration(A, 5))
        held = ReservationState(registrations, PersistentReservation(Type.WRITE_EXCLUSIVE, C))
        cdb = PersistentReserveOut(action, 8)
        assert carry_out(cdb, bytes(8), held, A, ONE_PORT).conflict
        assert carry_out(cdb, bytes(8), held, C, ONE_PORT).problem is LENGTH_ERROR

    @pytest.mark.parametrize("action", range(8, 32))
    def test_a_service_action_that_there_is_not(self, action: int) -> None:
        assert self.problem(action, REGISTER) is AdditionalSense.INVALID_FIELD_IN_CDB

    def test_transport_ids_that_do_not_fill_their_list(self) -> None:
        whole = ParameterList(0, 5, spec_i_pt=True, transport_ids=(initiator("b"),)).encode()
        assert self.problem(Out.REGISTER, whole) is None
        assert self.problem(Out.REGISTER, whole[:24]) is LENGTH_ERROR
        assert self.problem(Out.REGISTER, whole[:27]) is LENGTH_ERROR
        assert self.problem(Out.REGISTER, whole[:-4]) is LENGTH_ERROR
        assert self.problem(Out.REGISTER, whole[:24] + bytes([0, 0, 0, 4]) + bytes(4)) is BAD_LIST

    def test_register_and_move(self) -> None:
        state = ReservationState((Registration(A, 1),), PersistentReservation(Type(1), A))
        data = RegisterAndMoveParameterList(1, 7, 1, initiator("b")).encode()
        cdb = PersistentReserveOut(Out.REGISTER_AND_MOVE, len(data))
        assert carry_out(cdb, data, state, A, ONE_PORT).state.holds(ITNexus(initiator("b")))
        assert self.problem(Out.REGISTER_AND_MOVE, data[:-4], nexus=C) is LENGTH_ERROR
        assert self.problem(Out.REGISTER_AND_MOVE, data[:24], nexus=C) is LENGTH_ERROR
        short = data[:23] + bytes([4]) + bytes(4)
        assert self.problem(Out.REGISTER_AND_MOVE, short, nexus=C) is BAD_LIST
