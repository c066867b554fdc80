"""What events say of two states of a LUN's reservations."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from holdover.faults.armed import ArmedFaults
from holdover.faults.fault import parse_fault
from holdover.lun.reservations import PersistentReservation, Registration, ReservationState
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status
from holdover.target.events import Event, Held, changes, fault_struck, reserve_out
from tests.lun.support import A2, TEST_UNIT_READY, A, B, C

_KEYS = st.dictionaries(st.sampled_from([A, A2, B, C]), st.integers(1, 3))


def state(keys: dict[object, int], generation: int = 0) -> ReservationState:
    found = (Registration(nexus, keys[nexus]) for nexus in (A, A2, B, C) if nexus in keys)
    return ReservationState(tuple(found), generation=generation)


@given(_KEYS, _KEYS)
def test_what_was_and_what_changed_is_what_is(before: dict[object, int], after: dict[object, int]) -> None:
    found = changes(state(before, 7), state(after, 9))
    names = {(str(nexus.initiator), nexus.target_port): nexus for nexus in (A, A2, B, C)}
    now = dict(before)
    for each in found.removed:
        assert now.pop(names[each.initiator, each.target_port]) == int(each.key, 16)
    for each in (*found.changed, *found.added):
        nexus = names[each.initiator, each.target_port]
        assert now.get(nexus) == (None if each.key_before is None else int(each.key_before, 16))
        now[nexus] = int(each.key, 16)
    assert now == after
    assert (found.generation_before, found.generation) == (7, 9)
    unchanged = [nexus for nexus in after if before.get(nexus) == after[nexus]]
    assert len(found.added) + len(found.changed) == len(after) - len(unchanged)


def test_the_reservation_before_and_after() -> None:
    registered = state({A: 5}).registrations
    held = ReservationState(registered, PersistentReservation(ReservationType.EXCLUSIVE_ACCESS, A))
    shared = PersistentReservation(ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, None)
    found = changes(held, ReservationState(registered, shared, aptpl=True))
    holder = Held(type="ea", initiator=str(A.initiator), target_port=1, key="0x5")
    assert found.reservation_before == holder
    assert found.reservation == Held(type="wear")
    assert found.aptpl


@given(st.binary(max_size=30), st.binary(max_size=40))
def test_any_bytes_can_be_told_of(cdb: bytes, data: bytes) -> None:
    nothing = ReservationState()
    event = reserve_out(3, A, Command(b"\x5f" + cdb, data), Response(Status.GOOD), nothing, nothing)
    document = msgspec.json.decode(msgspec.json.encode(event))
    assert document["event"] == "persistent-reserve-out"
    assert (document["key"] is None) is (len(data) < 24)
    assert document["time"].endswith("Z")
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event


def test_a_fault_is_told_of_with_the_command_it_strikes() -> None:
    faults = ArmedFaults(lambda: 0.0)
    faults.add(parse_fault("lose-response"))
    for command, name in ((TEST_UNIT_READY, "TEST_UNIT_READY"), (Command(b"\xc0"), "0xc0")):
        strike = faults.strike(4, A, command)
        assert strike is not None
        event = fault_struck(4, A, command, strike)
        assert (event.lun, event.command, event.service_action) == (4, name, None)
        assert [(each.id, each.fault) for each in event.faults] == [(1, "lose-response")]
