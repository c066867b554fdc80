"""Every interleaving of the handovers of two guests that share a LUN and both hosts."""

from __future__ import annotations

import pytest

from tests.handover.explore import GUEST_CASES, explore
from tests.handover.two_guests import TwoGuests
from tests.handover.world import Bounds


@pytest.mark.parametrize(
    "name",
    [
        "holder and registrant",
        pytest.param("holder and registrant, one key", marks=pytest.mark.long),
        pytest.param("two of all registrants", marks=pytest.mark.long),
    ],
)
def test_two_guests_at_the_same_time(name: str) -> None:
    found = explore(TwoGuests(GUEST_CASES[name], Bounds(0)))
    print(f"{name}: {found.states:,} distinct states")
    assert found.ends > 1


@pytest.mark.long
@pytest.mark.parametrize("opposite", [False, True], ids=["same way", "opposite ways"])
def test_two_guests_and_one_fault(opposite: bool) -> None:
    found = explore(TwoGuests(GUEST_CASES["holder and registrant"], Bounds(1), opposite=opposite))
    print(f"{found.states:,} distinct states")
    assert found.ends > 1
