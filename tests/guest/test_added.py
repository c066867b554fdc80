"""What the guest reads while a handover has registered its key on the destination."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.guest.added import Added, without_added
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import InServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_in import FullStatus, FullStatusDescriptor, ReadKeys
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status
from tests.guest.rig import drive, scsi_block, unreachable

KEYS, FULL = InServiceAction.READ_KEYS, InServiceAction.READ_FULL_STATUS
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
WEAR = ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS
A, B, T = 0xA, 0xB, 0x7

keys = st.sampled_from([A, B, T, 0x8])


def descriptor(name: str, key: int, kind: ReservationType | None = None) -> FullStatusDescriptor:
    identifier = IscsiTransportID(f"iqn.2026-11.org.example:{name}", b"\x80\0\0\0\0\1")
    return FullStatusDescriptor(key, kind is not None, identifier, 1, type=kind)


def read(data: bytes) -> tuple[int, ...]:
    found = ReadKeys.decode(data)
    assert found.complete
    assert len(data) == 8 + 8 * len(found.keys)
    assert found.generation == 9
    return found.keys


@given(
    own=st.sampled_from([0, A, B]),
    paths=st.integers(1, 3),
    there=st.sampled_from([0, A, B]),
    count=st.integers(1, 3),
    thirds=st.lists(keys, max_size=4),
    order=st.randoms(),
)
def test_the_guest_reads_what_it_and_third_nodes_have(
    own: int, paths: int, there: int, count: int, thirds: list[int], order: object
) -> None:
    """Whatever the destination has by now, of the keys that it was told, or nothing."""
    mine = [own] * paths if own else []
    all_keys = [*mine, *thirds, *([there] * count if there else [])]
    order.shuffle(all_keys)  # type: ignore[attr-defined]
    added = Added((A, B), count, paths, tuple(sorted(thirds)))
    data = without_added(KEYS, ReadKeys(9, tuple(all_keys)).encode(), added, own)
    assert Counter(read(data)) == Counter([*mine, *thirds])


@given(st.lists(keys, max_size=6), st.sampled_from([0, A]), st.integers(1, 2))
def test_no_more_is_left_out_than_can_have_been_added(listed: list[int], own: int, count: int) -> None:
    data = without_added(KEYS, ReadKeys(9, tuple(listed)).encode(), Added((A,), count), own)
    gone = Counter(listed) - Counter(read(data))
    assert set(gone) <= {A}
    assert gone[A] <= count
    if own and listed.count(A) == 1:
        assert not gone


@pytest.mark.parametrize("kind", [None, WERO, WEAR])
@pytest.mark.parametrize("first", [True, False])
def test_of_full_status_the_destinations_descriptor_is_left_out(
    kind: ReservationType | None, first: bool
) -> None:
    mine = descriptor("mine", A, kind)
    theirs = descriptor("theirs", A, kind if kind is WEAR else None)
    third = descriptor("third", A, kind if kind is WEAR else None)
    listed = (theirs, mine, third) if first else (mine, third, theirs)
    ports = (str(theirs.transport_id),)
    whole = FullStatus(9, listed).encode()
    added = Added((A,), 1, 1, (A,), ports if first else ())
    assert FullStatus.decode(without_added(FULL, whole, added, A)) == FullStatus(
        9, tuple(each for each in listed if each is not theirs)
    )


@pytest.mark.parametrize("action", [KEYS, FULL])
@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0\0\0\1\0\0\0\x18" + bytes(7)])
def test_what_cannot_be_told_is_left_as_it_is(action: int, data: bytes) -> None:
    assert without_added(action, data, Added((A,)), 0) == data


class Lun:
    """A logical unit that lists these keys, and refuses allocation lengths above 8192."""

    def __init__(self, *listed: int) -> None:
        self.data = ReadKeys(9, listed).encode()
        self.lengths: list[int] = []

    def __call__(self, command: Command) -> Response:
        self.lengths.append(command.data_in_length)
        if command.data_in_length > 8192:
            return check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
        return Response(Status.GOOD, self.data[: command.data_in_length])


@pytest.mark.parametrize("length", [0, 4, 8, 12, 16, 24, 32, 8192])
def test_the_guests_allocation_length_cuts_what_is_left(length: int) -> None:
    block = scsi_block()
    block.adopt(Tracked(A), generation=9)
    lun = Lun(A, A, T)
    block.added = Added((A,), others=(T,))
    answer = drive(block, in_command(KEYS, length), lun)
    assert answer == Response(Status.GOOD, ReadKeys(9, (A, T)).encode()[:length])
    assert lun.lengths == [8192]
    block.added = None
    assert drive(block, in_command(KEYS, length), lun).data_in == lun.data[:length]
    assert not block.stale


def test_where_the_whole_cannot_be_read_the_guest_reads_what_there_is() -> None:
    block = scsi_block()
    block.adopt(Tracked(A), generation=9)
    block.added = Added((A,))
    lun = Lun(A, A, *range(100, 1200))
    assert drive(block, in_command(KEYS, 32), lun).data_in == lun.data[:32]
    assert lun.lengths == [8192, 8 + 8 * 1102, 32]


def test_a_unit_attention_is_the_guests() -> None:
    block = scsi_block()
    block.adopt(Tracked(A), generation=9)
    block.added = Added((A,))
    attention = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.REGISTRATIONS_PREEMPTED)
    asked: list[Command] = []

    def answer(command: Command) -> Response:
        asked.append(command)
        return attention

    assert drive(block, in_command(KEYS, 32), answer) == attention
    assert (len(asked), block.stale) == (1, True)


def test_other_reads_are_as_they_are() -> None:
    block = scsi_block()
    block.adopt(Tracked(A), generation=9)
    block.added = Added((A,))
    assert block.has_pending_attention
    command = in_command(InServiceAction.READ_RESERVATION, 24)
    seen: list[Command] = []

    def answer(each: Command) -> Response:
        seen.append(each)
        return Response(Status.GOOD, bytes([0, 0, 0, 9, 0, 0, 0, 0]))

    drive(block, command, answer)
    assert seen == [command]
    block.owe(check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.CAPACITY_DATA_HAS_CHANGED))
    assert not drive(block, in_command(KEYS), unreachable).good


@pytest.mark.parametrize(
    ("added", "count"),
    [
        (Added((A,), 2, proven=True), 2),
        (Added((A,), 2), 0),
        (Added((B,), 2, proven=True), 0),
        (Added((A,), 2, others=(A, T), proven=True), 0),
        (Added((A,), 2, others=(T,), proven=True), 2),
    ],
    ids=["proven", "not answered", "another key", "a third node has it too", "a third node has another"],
)
def test_what_is_certainly_the_handovers(added: Added, count: int) -> None:
    assert added.beside(A) == count
