"""Rules that take a reservation from another nexus, or give it: PREEMPT and REGISTER AND MOVE."""

from __future__ import annotations

import pytest

from holdover.lun.access import Standing
from holdover.lun.reservations import (
    Outcome,
    PersistentReservation,
    ReservationState,
    TargetLimits,
    register_and_move,
)
from holdover.scsi.cdbs.opcodes import OutServiceAction as Out
from holdover.scsi.cdbs.opcodes import ReservationType as Type
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import RegisterAndMoveParameterList
from holdover.scsi.reservation.transport_id import FcTransportID, IscsiTransportID, TransportID
from holdover.scsi.sense import AdditionalSense
from tests.lun.reservation_rules import (
    ALL_REGISTRANTS,
    ALL_TYPES,
    BAD_CDB,
    BAD_LIST,
    ONE_HOLDER,
    RELEASED,
    conflicts,
    do,
    held_by_a,
    keys,
    refused,
    registered,
)
from tests.lun.support import TWO_PORTS, A, B, C, D

PREEMPTED = AdditionalSense.REGISTRATIONS_PREEMPTED


@pytest.mark.parametrize("action", [Out.PREEMPT, Out.PREEMPT_AND_ABORT])
class TestPreempt:
    """5.13.11.2.4 to 5.13.11.2.6, table 72."""

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    @pytest.mark.parametrize("new", ALL_TYPES)
    def test_the_holder_by_its_key(self, action: Out, kind: Type, new: Type) -> None:
        state = held_by_a(kind, (B, 2), (C, 1), (D, 4))
        outcome = do(state, B, action, 2, 1, type=new)
        assert keys(outcome) == {B: 2, D: 4}
        assert outcome.state.reservation == PersistentReservation(new, None if new.all_registrants else B)
        assert outcome.state.generation == 11
        changed = ((D, RELEASED),) if new is not kind else ()
        assert outcome.attentions == ((A, PREEMPTED), (C, PREEMPTED), *changed)
        assert outcome.aborted == ((A, C) if action is Out.PREEMPT_AND_ABORT else ())

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    def test_who_has_the_same_key_stays_when_it_preempts(self, action: Out, kind: Type) -> None:
        """The handover: the destination registers the guest's key, then preempts with it as RK and SARK."""
        outcome = do(held_by_a(kind, (B, 1)), B, action, 1, 1, type=kind)
        assert keys(outcome) == {B: 1}
        assert outcome.state.reservation == PersistentReservation(kind, B)
        assert outcome.attentions == ((A, PREEMPTED),)

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    @pytest.mark.parametrize("new", ONE_HOLDER)
    def test_the_holder_itself(self, action: Out, kind: Type, new: Type) -> None:
        outcome = do(held_by_a(kind, (B, 2)), A, action, 1, 1, type=new)
        assert keys(outcome) == {A: 1, B: 2}
        assert outcome.state.reservation == PersistentReservation(new, A)
        assert outcome.attentions == (((B, RELEASED),) if new is not kind else ())

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    def test_the_holder_with_a_bad_type_or_scope(self, action: Out, kind: Type) -> None:
        state = held_by_a(kind, (B, 2))
        assert refused(do(state, B, action, 2, 1, type=2), state, BAD_CDB)
        assert refused(do(state, B, action, 2, 1, type=kind, scope=1), state, BAD_CDB)

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    def test_another_registration_by_its_key(self, action: Out, kind: Type) -> None:
        state = held_by_a(kind, (B, 2), (C, 3), (D, 3))
        outcome = do(state, B, action, 2, 3, type=15, scope=15)
        assert keys(outcome) == {A: 1, B: 2}
        assert outcome.state.reservation == state.reservation
        assert outcome.attentions == ((C, PREEMPTED), (D, PREEMPTED))
        assert outcome.state.generation == 11

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    def test_key_zero_is_nobodys(self, action: Out, kind: Type) -> None:
        state = held_by_a(kind, (B, 2))
        assert refused(do(state, B, action, 2, 0, type=kind), state, BAD_LIST)

    @pytest.mark.parametrize("kind", ALL_REGISTRANTS)
    @pytest.mark.parametrize("new", ALL_TYPES)
    def test_all_registrants_by_key_zero(self, action: Out, kind: Type, new: Type) -> None:
        outcome = do(held_by_a(kind, (B, 2), (C, 2)), B, action, 2, 0, type=new)
        assert keys(outcome) == {B: 2}
        assert outcome.state.reservation == PersistentReservation(new, None if new.all_registrants else B)
        assert outcome.attentions == ((A, PREEMPTED), (C, PREEMPTED))
        assert outcome.aborted == ((A, B, C) if action is Out.PREEMPT_AND_ABORT else ())

    @pytest.mark.parametrize("kind", ALL_REGISTRANTS)
    def test_one_of_all_registrants_by_its_key(self, action: Out, kind: Type) -> None:
        state = held_by_a(kind, (B, 2), (C, 3))
        outcome = do(state, B, action, 2, 3, type=1)
        assert keys(outcome) == {A: 1, B: 2}
        assert outcome.state.reservation == state.reservation
        assert outcome.attentions == ((C, PREEMPTED),)

    @pytest.mark.parametrize("kind", ALL_REGISTRANTS)
    def test_the_last_registrant_removes_itself(self, action: Out, kind: Type) -> None:
        outcome = do(held_by_a(kind), A, action, 1, 1, type=kind)
        assert outcome.state == ReservationState((), None, 11, False)
        assert outcome.attentions == ()

    def test_no_reservation(self, action: Out) -> None:
        outcome = do(registered((A, 1), (B, 2), (C, 2)), A, action, 1, 2, type=1)
        assert keys(outcome) == {A: 1}
        assert outcome.state.reservation is None
        assert outcome.attentions == ((B, PREEMPTED), (C, PREEMPTED))

    def test_ones_own_key_without_a_reservation_removes_the_sender_too(self, action: Out) -> None:
        outcome = do(registered((A, 1), (B, 1), (C, 3)), A, action, 1, 1)
        assert keys(outcome) == {C: 3}
        assert outcome.attentions == ((B, PREEMPTED),)

    @pytest.mark.parametrize("kind", [None, *ALL_TYPES])
    def test_a_key_that_nobody_has_conflicts(self, action: Out, kind: Type | None) -> None:
        state = registered((A, 1), (B, 2)) if kind is None else held_by_a(kind, (B, 2))
        assert conflicts(do(state, B, action, 2, 9, type=1), state)

    def test_key_zero_without_a_reservation_conflicts(self, action: Out) -> None:
        state = registered((A, 1))
        assert conflicts(do(state, A, action, 1, 0, type=1), state)

    @pytest.mark.parametrize("kind", [None, *ALL_TYPES])
    def test_no_key_or_the_wrong_one_conflicts(self, action: Out, kind: Type | None) -> None:
        state = registered((A, 1), (B, 2)) if kind is None else held_by_a(kind, (B, 2))
        assert conflicts(do(state, B, action, 1, 1, type=1), state)
        assert conflicts(do(state, C, action, 0, 1, type=1), state)


class TestRegisterAndMove:
    """5.13.8, table 70."""

    def move(
        self,
        state: ReservationState,
        nexus: ITNexus = A,
        key: int = 1,
        sark: int = 7,
        *,
        to: TransportID = B.initiator,
        port: int = 1,
        unreg: bool = False,
        aptpl: bool = False,
        limits: TargetLimits = TWO_PORTS,
    ) -> Outcome:
        parameters = RegisterAndMoveParameterList(key, sark, port, to, unreg, aptpl)
        return register_and_move(state, nexus, parameters, limits=limits)

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    @pytest.mark.parametrize("unreg", [False, True])
    @pytest.mark.parametrize("known", [False, True])
    def test_the_reservation_moves(self, kind: Type, unreg: bool, known: bool) -> None:
        state = held_by_a(kind, (C, 3), *([(B, 2)] if known else []))
        outcome = self.move(state, unreg=unreg, aptpl=True)
        assert keys(outcome) == ({C: 3, B: 7} if unreg else {A: 1, C: 3, B: 7})
        assert outcome.state.reservation == PersistentReservation(kind, B)
        assert outcome.state.generation == 11
        assert outcome.state.aptpl
        assert outcome.attentions == ()

    def test_to_another_target_port(self) -> None:
        outcome = self.move(held_by_a(Type.WRITE_EXCLUSIVE), port=2)
        assert outcome.state.standing(ITNexus(B.initiator, 2)) is Standing.HOLDER

    @pytest.mark.parametrize("kind", ALL_REGISTRANTS)
    def test_all_registrants_conflict(self, kind: Type) -> None:
        state = held_by_a(kind)
        assert conflicts(self.move(state), state)

    def test_who_does_not_hold_it_conflicts(self) -> None:
        state = held_by_a(Type.EXCLUSIVE_ACCESS, (C, 3))
        assert conflicts(self.move(state, C, 3), state)
        assert conflicts(self.move(state, D, 0), state)
        assert conflicts(self.move(state, A, 2), state)

    def test_without_a_reservation(self) -> None:
        state = registered((A, 1))
        assert refused(self.move(state), state, BAD_CDB)
        assert conflicts(self.move(state, B, 1), state)

    @pytest.mark.parametrize("port", [1, 2])
    def test_to_oneself(self, port: int) -> None:
        state = held_by_a(Type.WRITE_EXCLUSIVE)
        assert refused(self.move(state, to=A.initiator, port=port), state, BAD_LIST)

    def test_what_names_no_nexus(self) -> None:
        state = held_by_a(Type.WRITE_EXCLUSIVE)
        assert refused(self.move(state, port=3), state, BAD_LIST)
        assert refused(self.move(state, port=0), state, BAD_LIST)
        assert refused(self.move(state, sark=0), state, BAD_LIST)
        assert refused(self.move(state, to=FcTransportID(bytes(8))), state, BAD_LIST)
        assert refused(self.move(state, to=IscsiTransportID("iqn.x:b")), state, BAD_LIST)

    def test_no_more_than_there_is_room_for(self) -> None:
        state = held_by_a(Type.WRITE_EXCLUSIVE)
        limits = TargetLimits(registrations=1)
        full = AdditionalSense.INSUFFICIENT_REGISTRATION_RESOURCES
        assert refused(self.move(state, limits=limits), state, full)
        assert self.move(state, limits=limits, unreg=True).good
