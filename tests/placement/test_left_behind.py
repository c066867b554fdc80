"""What a dead host has left on a LUN, from READ FULL STATUS alone."""

from __future__ import annotations

import pytest

from holdover.paths.iscsi import isid_of
from holdover.placement.left_behind import LeftBehind, NotKnown, left_behind
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.reservation.reservation_in import FullStatus, FullStatusDescriptor
from holdover.scsi.reservation.transport_id import FcTransportID, IscsiTransportID

ISID = isid_of("db1\0")
A, B, C = (f"iqn.2026-11.org.example:host-{each}" for each in "abc")
OWN = str(IscsiTransportID(A, ISID))
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


def registered(name: str, key: int, *, holds: bool = False, isid: bytes = ISID) -> FullStatusDescriptor:
    port = IscsiTransportID(name, isid)
    return FullStatusDescriptor(key, holds, port, 1, type=WERO if holds else None)


def of(*descriptors: FullStatusDescriptor, dead: tuple[str, ...] | None = None) -> LeftBehind:
    return left_behind(FullStatus(7, descriptors), OWN, (A, C), dead, aptpl=True)


def test_the_registration_with_the_guests_isid_and_another_name_is_the_dead_hosts() -> None:
    other = registered(B, 5, isid=isid_of("db2\0"))
    third = FullStatusDescriptor(9, False, FcTransportID(b"12345678"), 1)
    found = of(registered(B, 7, holds=True), other, third)
    assert found == LeftBehind(Tracked(7, True, WERO), str(IscsiTransportID(B, ISID)), (5, 9))


def test_a_living_host_is_not_taken_from() -> None:
    assert of(registered(C, 7, holds=True)) == LeftBehind(Tracked(), others=(7,))


def test_a_host_that_is_known_not_to_be_the_dead_one_is_not_taken_from() -> None:
    assert of(registered(B, 7), dead=("iqn.2026-11.org.example:host-d",)).port == ""
    assert of(registered(B, 7), dead=(B,)).tracked == Tracked(7, True)


def test_what_is_not_certain_is_refused() -> None:
    with pytest.raises(NotKnown, match=r"host-b.* and .*host-d.* are registered"):
        of(registered(B, 7), registered("iqn.2026-11.org.example:host-d", 7))
    with pytest.raises(NotKnown, match="both registered"):
        of(registered(B, 7), registered(A, 7))
    with pytest.raises(NotKnown, match="no initiator port of its own"):
        left_behind(FullStatus(1, ()), "", (), aptpl=False)
