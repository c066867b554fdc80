"""What a PERSISTENT RESERVE OUT leaves; `test_scsi_block` has the sequences."""

from __future__ import annotations

import pytest

from holdover.guest.snoop import HolderUnknown, as_pictured
from holdover.reservations.questions import Picture
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.reservation.reservation_in import Reservation

WE, WEAR = ReservationType.WRITE_EXCLUSIVE, ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS


@pytest.mark.parametrize(
    ("before", "picture", "kept", "expected"),
    [
        (Tracked(5, True, WE), Picture((6,), None), True, Tracked()),
        (Tracked(5, True, WE), Picture((5,), None), True, Tracked(5, True)),
        (Tracked(5, True), Picture((5,), Reservation(5, WE)), False, Tracked(5, True, WE)),
        (Tracked(5), Picture((5, 6), Reservation(6, WE)), False, Tracked(5)),
        (Tracked(5, type=WE), Picture((5, 5), Reservation(5, WE)), True, Tracked(5, type=WE)),
        (Tracked(5), Picture((5, 5), Reservation(0, WEAR)), False, Tracked(5, type=WEAR)),
    ],
)
def test_as_pictured(before: Tracked, picture: Picture, kept: bool, expected: Tracked) -> None:
    assert as_pictured(before, picture, kept=kept) == expected


@pytest.mark.parametrize(("before", "kept"), [(Tracked(5), True), (Tracked(5, type=WE), False)])
def test_either_of_two_may_be_the_holder(before: Tracked, kept: bool) -> None:
    with pytest.raises(HolderUnknown, match="several registrants have key 0x5"):
        as_pictured(before, Picture((5, 5), Reservation(5, WE)), kept=kept)
