"""When a host tries again, gives up, and looks again."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from holdover.handover.patience import Patience, by_the_clock
from holdover.handover.protocol import Source
from holdover.handover.states import Event, SourceState


def test_a_pause_grows_until_another_state_is_entered() -> None:
    patience = Patience(30)
    pauses = [patience.next_pause() for _ in range(7)]
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    patience.renew()
    assert patience.next_pause() == 0.2


def test_a_destination_is_given_up_when_it_has_not_answered_for_long_enough() -> None:
    patience = Patience(30)
    assert not patience.still_tries(100)
    assert patience.unreached(100) is Event.UNREACHED
    assert patience.unreached(129) is Event.UNREACHED
    assert patience.still_tries(129)
    assert patience.unreached(130) is Event.GIVEN_UP
    assert not patience.still_tries(130)
    patience.reached()
    assert patience.unreached(131) is Event.UNREACHED
    patience.renew()
    assert patience.unreached(200) is Event.UNREACHED


def test_no_time_at_all_is_given_up_at_once() -> None:
    assert Patience(0).unreached(5) is Event.GIVEN_UP


@pytest.mark.parametrize("state", SourceState)
def test_only_what_is_prepared_is_looked_at_again(state: SourceState) -> None:
    source = Source("h", "db1", "host-b", state, ())
    happened = by_the_clock(source, 10, 3600)
    if state is not SourceState.PREPARED:
        assert happened is None
        return
    assert happened is not None
    assert happened.event is Event.ASKED_CHECK
    rolled_back = by_the_clock(replace(source), 3601, 3600)
    assert rolled_back is not None
    assert rolled_back.event is Event.ASKED_ROLL_BACK
    assert "longer than 3600 s (limits.handover)" in rolled_back.problem
