"""What becomes of a registration that was found on the guest's nexus."""

from __future__ import annotations

import pytest

from holdover.guest.adoption import Adoption, decide
from holdover.reservations.own_registration import Found
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import ReservationType

WE = ReservationType.WRITE_EXCLUSIVE
OURS, FOREIGN = Found(Tracked(5, type=WE), certain=True), Found(Tracked(7), certain=True)
UNCERTAIN = Found(Tracked(5), certain=False, reason="it is not known which of them holds it")


@pytest.mark.parametrize("adopt", [True, False, None])
@pytest.mark.parametrize("sole", [True, False])
def test_what_the_guest_made_through_this_agent_is_believed(adopt: bool | None, sole: bool) -> None:
    assert decide(adopt, Tracked(5), (), OURS, sole=sole) == Adoption(OURS.tracked)
    assert decide(adopt, Tracked(4), (5,), OURS, sole=sole) == Adoption(OURS.tracked)
    nothing = Found(Tracked(), certain=True)
    assert decide(adopt, Tracked(5), (), nothing, sole=sole) == Adoption(Tracked())


@pytest.mark.parametrize("adopt", [True, False, None])
def test_nothing_is_guessed(adopt: bool | None) -> None:
    decision = decide(adopt, Tracked(5), (), UNCERTAIN, sole=True)
    assert decision == Adoption(None, "it is not known which of them holds it; have the guest register again")


@pytest.mark.parametrize(
    ("adopt", "sole", "adopted"),
    [(True, False, True), (True, True, True), (None, True, True), (None, False, False), (False, True, False)],
)
def test_what_the_guest_did_not_make_through_this_agent(
    adopt: bool | None, sole: bool, adopted: bool
) -> None:
    decision = decide(adopt, Tracked(5), (4,), FOREIGN, sole=sole)
    if adopted:
        assert decision == Adoption(Tracked(7))
    else:
        assert decision.tracked is None
        assert "key 0x7" in decision.report
        assert "adopt = true" in decision.report
