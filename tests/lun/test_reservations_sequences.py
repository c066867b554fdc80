"""What must hold of the reservation rules after any sequence of commands (see `test_reservations`)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from holdover.lun import legacy
from holdover.lun.access import Standing
from holdover.lun.reservations import (
    Outcome,
    ReservationState,
    persistent_reserve_out,
    register_and_move,
)
from holdover.scsi.cdbs.opcodes import OutServiceAction as Out
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import ParameterList, RegisterAndMoveParameterList
from holdover.scsi.reservation.transport_id import IscsiTransportID
from tests.lun.support import A2, TWO_PORTS, A, B, C
from tests.rig.amounts import amount

NEXUSES = [A, A2, B, C]
nexuses = st.sampled_from(NEXUSES)
keys = st.integers(0, 3)
# Mostly types that there are, so that reservations come about.
types = st.one_of(st.sampled_from([int(each) for each in ReservationType]), st.integers(0, 15))
scopes = st.sampled_from([0, 0, 0, 0, 0, 1])
identifiers = st.lists(st.sampled_from([A.initiator, B.initiator, C.initiator]), max_size=2)

COUNTED = set(Out) - {Out.RESERVE, Out.RELEASE}
BY_KEY = {Out.PREEMPT, Out.PREEMPT_AND_ABORT}
REGISTERING = {Out.REGISTER, Out.REGISTER_AND_IGNORE_EXISTING_KEY}


class Reservations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = ReservationState()
        self.legacy: ITNexus | None = None

    def own_key(self, nexus: ITNexus, right: bool, key: int) -> int:
        return self.state.key_of(nexus) if right else key

    @rule(
        nexus=nexuses,
        action=st.sampled_from([each for each in Out if each is not Out.REGISTER_AND_MOVE]),
        right=st.booleans(),
        key=keys,
        sark=keys,
        kind=types,
        scope=scopes,
        aptpl=st.booleans(),
        all_ports=st.booleans(),
        others=st.one_of(st.none(), st.none(), identifiers),
    )
    def reserve_out(
        self,
        nexus: ITNexus,
        action: Out,
        right: bool,
        key: int,
        sark: int,
        kind: int,
        scope: int,
        aptpl: bool,
        all_ports: bool,
        others: list[IscsiTransportID] | None,
    ) -> None:
        if self.legacy is not None:
            return
        key = self.own_key(nexus, right, key)
        ports = () if others is None else tuple(others)
        parameters = ParameterList(key, sark, aptpl, all_ports, others is not None, ports)
        outcome = persistent_reserve_out(
            self.state, nexus, action, parameters, type=kind, scope=scope, limits=TWO_PORTS
        )
        named = {nexus} | {each.nexus for each in self.state.registrations if each.key == sark}
        if action in REGISTERING:
            named = {nexus}
            if all_ports:
                named |= {ITNexus(nexus.initiator, port) for port in TWO_PORTS.ports}
            for each in NEXUSES:
                if each.initiator in ports and (all_ports or each.target_port == nexus.target_port):
                    named.add(each)
        held = self.state.reservation
        everybody = action is Out.CLEAR or (
            action in BY_KEY and held is not None and held.holder is None and sark == 0
        )
        self.check(outcome, nexus, action, named, everybody)

    @rule(
        nexus=nexuses,
        right=st.booleans(),
        key=keys,
        sark=keys,
        to=st.sampled_from([A, B, C]),
        port=st.integers(0, 3),
        unreg=st.booleans(),
        aptpl=st.booleans(),
    )
    def move(
        self,
        nexus: ITNexus,
        right: bool,
        key: int,
        sark: int,
        to: ITNexus,
        port: int,
        unreg: bool,
        aptpl: bool,
    ) -> None:
        if self.legacy is not None:
            return
        key = self.own_key(nexus, right, key)
        parameters = RegisterAndMoveParameterList(key, sark, port, to.initiator, unreg, aptpl)
        outcome = register_and_move(self.state, nexus, parameters, limits=TWO_PORTS)
        if outcome.good:
            assert outcome.state.standing(ITNexus(to.initiator, port)) is Standing.HOLDER
        named = {nexus, ITNexus(to.initiator, port)}
        self.check(outcome, nexus, Out.REGISTER_AND_MOVE, named, False)

    @rule(nexus=nexuses, release=st.booleans())
    def legacy_command(self, nexus: ITNexus, release: bool) -> None:
        command = legacy.release if release else legacy.reserve
        outcome = command(self.state, self.legacy, nexus)
        if outcome.conflict:
            assert outcome.holder == self.legacy
        self.legacy = outcome.holder

    @rule()
    def power_loss(self) -> None:
        self.state = self.state.after_power_loss()
        self.legacy = None

    def check(
        self, outcome: Outcome, sender: ITNexus, action: Out, named: set[ITNexus], everybody: bool
    ) -> None:
        before, after = self.state, outcome.state
        self.state = after
        if not outcome.good:
            assert after is before
            assert not outcome.attentions
            assert not outcome.aborted
            return
        bump = action in COUNTED and after is not before
        assert after.generation == before.generation + bump
        assert all(told != sender for told, _ in outcome.attentions)
        assert len({told for told, _ in outcome.attentions}) == len(outcome.attentions)
        told = {nexus for nexus, _ in outcome.attentions}
        assert told <= {each.nexus for each in before.registrations}
        for nexus in NEXUSES:
            if nexus in named or everybody:
                continue
            assert before.key_of(nexus) == after.key_of(nexus), "an unnamed registration changed"
        for each in before.registrations:
            if not after.key_of(each.nexus) and each.nexus != sender and action not in REGISTERING:
                assert each.nexus in told, "a registration was removed in silence"

    @invariant()
    def the_state_is_whole(self) -> None:
        registrations, held = self.state.registrations, self.state.reservation
        assert len({each.nexus for each in registrations}) == len(registrations)
        assert all(each.key for each in registrations)
        holders = [each.nexus for each in registrations if self.state.holds(each.nexus)]
        if held is None:
            assert not holders
        elif held.type.all_registrants:
            assert held.holder is None
            assert holders == [each.nexus for each in registrations]
            assert holders
        else:
            assert holders == [held.holder]

    @invariant()
    def the_two_kinds_of_reservation_exclude_each_other(self) -> None:
        assert self.legacy is None or not self.state.registrations


TestSequences = Reservations.TestCase
TestSequences.settings = settings(max_examples=amount(100, 300), stateful_step_count=40, deadline=None)
