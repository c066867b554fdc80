"""The rules of persistent reservations, case by case in the order of the standard.

`test_reservations_sequences` has what must hold of any sequence.
"""

from __future__ import annotations

import pytest

from holdover.lun.reservations import (
    PersistentReservation,
    Registration,
    ReservationState,
    TargetLimits,
)
from holdover.scsi.cdbs.opcodes import OutServiceAction as Out
from holdover.scsi.cdbs.opcodes import ReservationType as Type
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.transport_id import (
    FcTransportID,
    IscsiTransportID,
    OtherTransportID,
    TransportID,
)
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
from tests.lun.support import A2, A, B, C, D, initiator

CLEARED = AdditionalSense.RESERVATIONS_PREEMPTED


class TestRegister:
    """Table 67."""

    def test_an_unregistered_nexus_registers(self) -> None:
        outcome = do(registered((B, 2)), A, Out.REGISTER, 0, 7)
        assert outcome.good
        assert keys(outcome) == {B: 2, A: 7}
        assert outcome.state.generation == 11
        assert outcome.attentions == ()

    def test_zero_to_zero_does_nothing(self) -> None:
        state = registered((B, 2))
        outcome = do(state, A, Out.REGISTER, 0, 0, aptpl=True)
        assert outcome.good
        assert outcome.state is state

    def test_an_unregistered_nexus_with_a_key_conflicts(self) -> None:
        state = registered((B, 2))
        assert conflicts(do(state, A, Out.REGISTER, 2, 7), state)

    @pytest.mark.parametrize("key", [0, 2])
    def test_a_registered_nexus_with_another_key_conflicts(self, key: int) -> None:
        state = registered((A, 1), (B, 2))
        assert conflicts(do(state, A, Out.REGISTER, key, 7), state)

    def test_the_key_changes_in_its_place(self) -> None:
        outcome = do(registered((A, 1), (B, 1)), A, Out.REGISTER, 1, 7)
        assert [each.nexus for each in outcome.state.registrations] == [A, B]
        assert keys(outcome) == {A: 7, B: 1}
        assert outcome.state.generation == 11

    @pytest.mark.parametrize("kind", ALL_TYPES)
    def test_a_new_key_leaves_the_reservation(self, kind: Type) -> None:
        state = held_by_a(kind, (B, 2))
        outcome = do(state, A, Out.REGISTER, 1, 7)
        assert outcome.state.reservation == state.reservation
        assert outcome.attentions == ()

    @pytest.mark.parametrize("kind", ALL_TYPES)
    def test_a_stranger_registers_beside_a_reservation(self, kind: Type) -> None:
        outcome = do(held_by_a(kind), B, Out.REGISTER, 0, 7)
        assert outcome.good
        assert keys(outcome)[B] == 7

    @pytest.mark.parametrize("aptpl", [False, True])
    def test_the_last_aptpl_counts(self, aptpl: bool) -> None:
        state = ReservationState((Registration(A, 1),), None, 0, not aptpl)
        assert do(state, B, Out.REGISTER, 0, 2, aptpl=aptpl).state.aptpl is aptpl
        assert do(state, A, Out.REGISTER, 1, 0, aptpl=aptpl).state.aptpl is aptpl

    def test_no_more_than_there_is_room_for(self) -> None:
        state = registered((A, 1), (B, 2))
        limits = TargetLimits(registrations=2)
        full = AdditionalSense.INSUFFICIENT_REGISTRATION_RESOURCES
        assert refused(do(state, C, Out.REGISTER, 0, 3, limits=limits), state, full)
        assert do(state, A, Out.REGISTER, 1, 3, limits=limits).good

    def test_prgeneration_wraps(self) -> None:
        state = ReservationState(generation=0xFFFFFFFF)
        assert do(state, A, Out.REGISTER, 0, 1).state.generation == 0


class TestUnregister:
    """5.13.11.2.3."""

    def test_only_the_sender_goes(self) -> None:
        outcome = do(registered((A, 1), (B, 1)), A, Out.REGISTER, 1, 0)
        assert keys(outcome) == {B: 1}
        assert outcome.state.generation == 11
        assert outcome.attentions == ()

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    @pytest.mark.parametrize("action", [Out.REGISTER, Out.REGISTER_AND_IGNORE_EXISTING_KEY])
    def test_the_holder_releases(self, kind: Type, action: Out) -> None:
        outcome = do(held_by_a(kind, (B, 2), (C, 3)), A, action, 1, 0)
        assert outcome.state.reservation is None
        expected = ((B, RELEASED), (C, RELEASED)) if kind.registrants_only else ()
        assert outcome.attentions == expected

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    def test_another_registrant_does_not(self, kind: Type) -> None:
        state = held_by_a(kind, (B, 2))
        outcome = do(state, B, Out.REGISTER, 2, 0)
        assert outcome.state.reservation == state.reservation
        assert outcome.attentions == ()

    @pytest.mark.parametrize("kind", ALL_REGISTRANTS)
    def test_all_registrants_hold_until_the_last(self, kind: Type) -> None:
        outcome = do(held_by_a(kind, (B, 2)), A, Out.REGISTER, 1, 0)
        assert outcome.state.reservation == PersistentReservation(kind, None)
        assert outcome.attentions == ()
        last = do(outcome.state, B, Out.REGISTER, 2, 0)
        assert last.state.reservation is None
        assert last.attentions == ()


class TestRegisterAndIgnoreExistingKey:
    """Table 68."""

    @pytest.mark.parametrize("key", [0, 1, 99])
    def test_whatever_the_key(self, key: int) -> None:
        state = registered((A, 1))
        action = Out.REGISTER_AND_IGNORE_EXISTING_KEY
        assert keys(do(state, A, action, key, 7)) == {A: 7}
        assert keys(do(state, B, action, key, 7)) == {A: 1, B: 7}
        assert keys(do(state, A, action, key, 0)) == {}
        assert do(state, B, action, key, 0).state is state

    def test_spec_i_pt_is_refused(self) -> None:
        state = registered((A, 1))
        action = Out.REGISTER_AND_IGNORE_EXISTING_KEY
        assert refused(do(state, A, action, 0, 7, spec_i_pt=(initiator("b"),)), state, BAD_LIST)

    @pytest.mark.parametrize("action", [Out.RESERVE, Out.RELEASE, Out.CLEAR, Out.PREEMPT])
    def test_a_wrong_key_conflicts_before_spec_i_pt_is_refused(self, action: Out) -> None:
        state = ReservationState((Registration(A, 1),))
        assert conflicts(do(state, A, action, 9, 7, spec_i_pt=()), state)


class TestSpecifyInitiatorPorts:
    """Tables 67 and 69."""

    def test_the_named_ports_register_too(self) -> None:
        ports = (initiator("b"), initiator("c"), initiator("b"), initiator("a"))
        outcome = do(ReservationState(), A, Out.REGISTER, 0, 7, spec_i_pt=ports)
        assert keys(outcome) == {A: 7, B: 7, C: 7}
        assert outcome.state.generation == 1

    def test_with_all_target_ports(self) -> None:
        outcome = do(ReservationState(), A, Out.REGISTER, 0, 7, spec_i_pt=(initiator("b"),), all_tg_pt=True)
        assert set(keys(outcome)) == {A, A2, B, ITNexus(B.initiator, 2)}

    @pytest.mark.parametrize("sark", [0, 7])
    def test_a_registered_nexus_is_refused(self, sark: int) -> None:
        state = registered((A, 1))
        assert refused(do(state, A, Out.REGISTER, 1, sark, spec_i_pt=()), state, BAD_LIST)

    def test_a_wrong_key_conflicts_first(self) -> None:
        state = registered((A, 1))
        assert conflicts(do(state, A, Out.REGISTER, 9, 7, spec_i_pt=()), state)

    def test_zero_to_zero_does_nothing(self) -> None:
        state = registered((B, 2))
        assert do(state, A, Out.REGISTER, 0, 0, spec_i_pt=(initiator("b"),)).state is state

    def test_a_port_registered_already_spoils_all(self) -> None:
        state = registered((B, 2))
        ports = (initiator("c"), initiator("b"))
        assert refused(do(state, A, Out.REGISTER, 0, 7, spec_i_pt=ports), state, BAD_LIST)

    @pytest.mark.parametrize(
        "identifier",
        [
            IscsiTransportID("iqn.2026-01.test:b"),
            FcTransportID(bytes(8)),
            OtherTransportID(bytes([0x45]) + bytes(23)),
        ],
        ids=str,
    )
    def test_what_names_no_initiator_port_of_ours(self, identifier: TransportID) -> None:
        state = ReservationState()
        assert refused(do(state, A, Out.REGISTER, 0, 7, spec_i_pt=(identifier,)), state, BAD_LIST)

    def test_all_or_none(self) -> None:
        state = registered((D, 4))
        ports = (initiator("b"), initiator("c"))
        outcome = do(state, A, Out.REGISTER, 0, 7, spec_i_pt=ports, limits=TargetLimits(registrations=3))
        assert refused(outcome, state, AdditionalSense.INSUFFICIENT_REGISTRATION_RESOURCES)

    @pytest.mark.parametrize("action", [Out.RESERVE, Out.RELEASE, Out.CLEAR, Out.PREEMPT])
    def test_only_for_register(self, action: Out) -> None:
        state = registered((A, 1))
        assert refused(do(state, A, action, 1, 1, type=1, spec_i_pt=()), state, BAD_LIST)


class TestAllTargetPorts:
    """6.16.3: as if the request had come through each port."""

    def test_every_port_registers(self) -> None:
        outcome = do(ReservationState(), A, Out.REGISTER, 0, 7, all_tg_pt=True)
        assert keys(outcome) == {A: 7, A2: 7}
        assert all(each.all_target_ports for each in outcome.state.registrations)

    def test_every_port_unregisters(self) -> None:
        state = registered((A, 7), (A2, 7), (B, 7))
        assert keys(do(state, A, Out.REGISTER, 7, 0, all_tg_pt=True)) == {B: 7}

    def test_one_port_alone_without_it(self) -> None:
        state = registered((A, 7), (A2, 7))
        assert keys(do(state, A, Out.REGISTER, 7, 8)) == {A: 8, A2: 7}

    @pytest.mark.parametrize(("key", "sark"), [(0, 8), (7, 8), (7, 0)])
    def test_a_conflict_at_one_port_is_one_for_all(self, key: int, sark: int) -> None:
        state = registered((A, 7), (A2, 9)) if key else registered((A2, 9))
        assert conflicts(do(state, A, Out.REGISTER, key, sark, all_tg_pt=True), state)

    def test_ignoring_the_existing_key_ignores_it_everywhere(self) -> None:
        state = registered((A2, 9))
        action = Out.REGISTER_AND_IGNORE_EXISTING_KEY
        assert keys(do(state, A, action, 0, 8, all_tg_pt=True)) == {A: 8, A2: 8}
        assert keys(do(state, A, action, 0, 0, all_tg_pt=True)) == {}

    def test_an_unregistering_port_that_holds_releases(self) -> None:
        kind = Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
        state = registered((A, 7), (A2, 7), (B, 2), kind=kind, holder=A2)
        outcome = do(state, A, Out.REGISTER, 7, 0, all_tg_pt=True)
        assert outcome.state.reservation is None
        assert outcome.attentions == ((B, RELEASED),)


class TestReserve:
    """5.13.9."""

    @pytest.mark.parametrize("kind", ALL_TYPES)
    def test_a_registrant_reserves(self, kind: Type) -> None:
        outcome = do(registered((A, 1), (B, 2)), A, Out.RESERVE, 1, type=kind)
        assert outcome.state.reservation == PersistentReservation(kind, None if kind.all_registrants else A)
        assert outcome.state.generation == 10
        assert outcome.attentions == ()

    @pytest.mark.parametrize("kind", ALL_TYPES)
    def test_the_holder_again(self, kind: Type) -> None:
        state = held_by_a(kind, (B, 2))
        assert do(state, A, Out.RESERVE, 1, type=kind).state is state

    @pytest.mark.parametrize("kind", ALL_TYPES)
    @pytest.mark.parametrize("other", [*range(16)])
    def test_the_holder_with_another_type_conflicts(self, kind: Type, other: int) -> None:
        state = held_by_a(kind)
        if other != kind:
            assert conflicts(do(state, A, Out.RESERVE, 1, type=other), state)
        assert conflicts(do(state, A, Out.RESERVE, 1, type=kind, scope=1), state)

    @pytest.mark.parametrize("kind", ALL_TYPES)
    def test_another_registrant(self, kind: Type) -> None:
        state = held_by_a(kind, (B, 2))
        outcome = do(state, B, Out.RESERVE, 2, type=kind)
        if kind.all_registrants:
            assert outcome.state is state
            assert outcome.good
        else:
            assert conflicts(outcome, state)

    def test_no_key_or_the_wrong_one_conflicts(self) -> None:
        state = registered((A, 1))
        assert conflicts(do(state, A, Out.RESERVE, 2, type=1), state)
        assert conflicts(do(state, B, Out.RESERVE, 0, type=1), state)
        assert conflicts(do(state, B, Out.RESERVE, 1, type=1), state)

    @pytest.mark.parametrize("kind", sorted(set(range(16)) - set(Type)))
    def test_a_type_that_there_is_not(self, kind: int) -> None:
        state = registered((A, 1))
        assert refused(do(state, A, Out.RESERVE, 1, type=kind), state, BAD_CDB)

    @pytest.mark.parametrize("scope", range(1, 16))
    def test_a_scope_that_there_is_not(self, scope: int) -> None:
        state = registered((A, 1))
        assert refused(do(state, A, Out.RESERVE, 1, type=1, scope=scope), state, BAD_CDB)


class TestRelease:
    """5.13.11.2.2."""

    @pytest.mark.parametrize("kind", ALL_TYPES)
    def test_the_holder_releases(self, kind: Type) -> None:
        outcome = do(held_by_a(kind, (B, 2), (C, 2)), A, Out.RELEASE, 1, type=kind)
        assert outcome.state.reservation is None
        assert len(outcome.state.registrations) == 3
        assert outcome.state.generation == 10
        quiet = kind in (Type.WRITE_EXCLUSIVE, Type.EXCLUSIVE_ACCESS)
        assert outcome.attentions == (() if quiet else ((B, RELEASED), (C, RELEASED)))

    @pytest.mark.parametrize("kind", ALL_TYPES)
    def test_the_holder_with_another_type_or_scope(self, kind: Type) -> None:
        state = held_by_a(kind)
        invalid = AdditionalSense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION
        for other in set(range(16)) - {kind}:
            assert refused(do(state, A, Out.RELEASE, 1, type=other), state, invalid)
        assert refused(do(state, A, Out.RELEASE, 1, type=kind, scope=2), state, invalid)

    @pytest.mark.parametrize("kind", ONE_HOLDER)
    def test_another_registrant_changes_nothing(self, kind: Type) -> None:
        state = held_by_a(kind, (B, 2))
        for asked in range(16):
            outcome = do(state, B, Out.RELEASE, 2, type=asked)
            assert outcome.good
            assert outcome.state is state

    def test_nothing_to_release(self) -> None:
        state = registered((A, 1))
        outcome = do(state, A, Out.RELEASE, 1, type=3)
        assert outcome.good
        assert outcome.state is state

    def test_no_key_or_the_wrong_one_conflicts(self) -> None:
        for state in (held_by_a(Type.WRITE_EXCLUSIVE), registered((A, 1))):
            assert conflicts(do(state, A, Out.RELEASE, 2, type=1), state)
            assert conflicts(do(state, B, Out.RELEASE, 1, type=1), state)


class TestClear:
    """5.13.11.2.7."""

    @pytest.mark.parametrize("kind", ALL_TYPES)
    @pytest.mark.parametrize("sender", [A, B])
    def test_everything_goes(self, kind: Type, sender: ITNexus) -> None:
        state = held_by_a(kind, (B, 2), (C, 2))
        outcome = do(state, sender, Out.CLEAR, state.key_of(sender))
        assert outcome.state == ReservationState((), None, 11, False)
        assert outcome.attentions == tuple((each, CLEARED) for each in (A, B, C) if each != sender)

    def test_no_key_or_the_wrong_one_conflicts(self) -> None:
        state = registered((A, 1))
        assert conflicts(do(state, A, Out.CLEAR, 2), state)
        assert conflicts(do(state, B, Out.CLEAR, 1), state)


def test_after_power_loss() -> None:
    state = held_by_a(Type.WRITE_EXCLUSIVE, (B, 2))
    assert state.after_power_loss() == ReservationState()
    kept = ReservationState(state.registrations, state.reservation, 10, True)
    assert kept.after_power_loss() == ReservationState(state.registrations, state.reservation, 0, True)


def test_states_are_hashable_and_equal_by_value() -> None:
    assert len({held_by_a(Type.WRITE_EXCLUSIVE), held_by_a(Type.WRITE_EXCLUSIVE)}) == 1
