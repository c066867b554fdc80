"""Sessions that share one nexus to the LUN meet what they would with a nexus each, as far as RESERVE goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.lun.logical_unit import LogicalUnit
from holdover.lun.shared_reserve import RESERVE_AND_RELEASE, SharedReserve
from holdover.scsi.cdbs.cdb import Inquiry, Release, Reserve
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status
from tests.lun.support import READ_10, WRITE_10, A, B, C, make_unit

SHARED = ITNexus(IscsiTransportID("iqn.2026-11.org.example:host", bytes(6)), 1)
RESERVE, RELEASE = Command(Reserve(6).encode()), Command(Release(6).encode())
COMMANDS = {
    "RESERVE(6)": RESERVE,
    "RESERVE(10)": Command(Reserve(10).encode()),
    "RELEASE(6)": RELEASE,
    "RELEASE(10)": Command(Release(10).encode()),
    "READ": READ_10,
    "WRITE": WRITE_10,
    "INQUIRY": Command(Inquiry(36).encode(), data_in_length=36),
    "READ KEYS": in_command(InServiceAction.READ_KEYS),
}
GOOD, CONFLICT = Response(Status.GOOD), Response(Status.RESERVATION_CONFLICT)


class Gateway:
    """A and B behind one nexus, C with one of its own."""

    def __init__(self) -> None:
        self.unit: LogicalUnit = make_unit()
        self.reserve = SharedReserve()

    def execute(self, nexus: ITNexus, command: Command) -> Response:
        if nexus == C:
            return self.unit.execute(C, command)
        answer = self.reserve.answer(nexus, command)
        if answer is not None:
            return answer
        if command.opcode not in RESERVE_AND_RELEASE:
            return self.unit.execute(SHARED, command)
        fresh = self.reserve.begin(nexus, command)
        response = self.unit.execute(SHARED, command)
        self.reserve.end(nexus, command, response, fresh=fresh, registered=False)
        return response

    def lose(self, nexus: ITNexus) -> None:
        if nexus == C:
            self.unit.nexus_lost(C)
        elif self.reserve.lose(nexus):
            self.unit.execute(SHARED, RELEASE)
            self.reserve.freed()


_nexuses = st.sampled_from([A, B, C])
_acts = st.lists(
    st.tuples(_nexuses, st.sampled_from(["lose", *COMMANDS]).map(str)),
    max_size=20,
)


@given(_acts)
def test_each_session_meets_what_a_nexus_of_its_own_would(acts: list[tuple[ITNexus, str]]) -> None:
    gateway, unit = Gateway(), make_unit()
    lost = set()
    for nexus, act in acts:
        if act == "lose":
            gateway.lose(nexus)
            unit.nexus_lost(nexus)
            lost.add(nexus)
        elif nexus not in lost:  # what a lost nexus is told first is not what this is about
            assert (
                gateway.execute(nexus, COMMANDS[act]).status is unit.execute(nexus, COMMANDS[act]).status
            ), act


def test_a_reserve_whose_answer_is_lost_counts_and_is_freed_with_its_session() -> None:
    reserve = SharedReserve()
    assert reserve.begin(A, RESERVE)
    assert reserve.answer(B, READ_10) == CONFLICT
    assert reserve.answer(A, READ_10) is None
    assert not reserve.lose(B)
    assert reserve.lose(A)
    assert not reserve.lose(A)


def test_a_reserve_that_was_not_sent_or_failed_does_not_count() -> None:
    for response in (None, CONFLICT, Response(Status.BUSY)):
        reserve = SharedReserve()
        fresh = reserve.begin(A, RESERVE)
        reserve.end(A, RESERVE, response, fresh=fresh, registered=False)
        assert reserve.holder is None


def test_a_reserve_that_was_aborted_may_have_been_carried_out() -> None:
    reserve = SharedReserve()
    aborted = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)
    reserve.end(A, RESERVE, aborted, fresh=reserve.begin(A, RESERVE), registered=False)
    assert reserve.holder == A


@pytest.mark.parametrize(("response", "holder"), [(CONFLICT, None), (Response(Status.BUSY), A)])
def test_a_holder_that_reserves_again_and_fails(response: Response, holder: ITNexus | None) -> None:
    reserve = SharedReserve()
    reserve.end(A, RESERVE, GOOD, fresh=reserve.begin(A, RESERVE), registered=False)
    reserve.end(A, RESERVE, response, fresh=reserve.begin(A, RESERVE), registered=False)
    # a conflict says that the LUN has lost the reservation, and another host has one now
    assert reserve.holder == holder


def test_until_the_lun_is_free_the_reservation_of_a_session_that_has_ended_stands() -> None:
    reserve = SharedReserve()
    reserve.end(A, RESERVE, GOOD, fresh=reserve.begin(A, RESERVE), registered=False)
    reserve.lose(A)
    # also for a session of the same name that comes meanwhile
    for nexus in (A, B):
        assert reserve.answer(nexus, RESERVE) == CONFLICT
        assert reserve.answer(nexus, RELEASE) == GOOD
        assert reserve.answer(nexus, COMMANDS["INQUIRY"]) is None
    reserve.freed()
    assert reserve.answer(B, RESERVE) is None


def test_reserve_from_a_registered_nexus_reserves_nothing() -> None:
    """CRH (SPC-4 5.13.3): it ends in GOOD, and the persistent reservation is what counts."""
    unit, reserve = make_unit(), SharedReserve()
    assert unit.execute(SHARED, out_command(OutServiceAction.REGISTER, 0, 7)).good
    assert unit.execute(SHARED, out_command(OutServiceAction.RESERVE, 7, type=ReservationType(5))).good
    fresh = reserve.begin(A, RESERVE)
    response = unit.execute(SHARED, RESERVE)
    assert response.good
    reserve.end(A, RESERVE, response, fresh=fresh, registered=True)
    assert reserve.answer(B, READ_10) is None
