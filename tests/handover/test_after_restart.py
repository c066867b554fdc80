"""What a host does first after a restart that others may have used: it asks its LUNs, and holds the guest's
commands while it is in doubt. And the removal of a spare key that the other host has left.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.handover.destination_rules import destination_step
from holdover.handover.effects import Effects
from holdover.handover.lun_work.work import Work
from holdover.handover.protocol import Destination, HandoverEvent, Source
from holdover.handover.source_rules import after_restart, source_step
from holdover.handover.states import DestinationState, Event, MessageKind, SourceState
from tests.handover.test_protocol import LUN, happen, prepared


def begun(effects: Effects) -> Work | None:
    """The work that begins."""
    return None if effects.work is None else effects.work.work


GONE = replace(LUN, lost=True)
"""The LUN of a source that is not registered any more."""


def retracting() -> Source:
    """A source that was restarted, and has lost its registration."""
    probing = happen(prepared(), Event.ASKED_ROLL_BACK, Event.RESTARTED)
    return source_step(probing, HandoverEvent(Event.DONE, (GONE,)))[0]


@pytest.mark.parametrize("event", [Event.ASKED_ROLL_BACK, None])
def test_a_restarted_source_asks_its_luns_before_its_guest_goes_on(event: Event | None) -> None:
    source = prepared() if event is None else happen(prepared(), event)
    assert after_restart(source) is Gate.LEAVING
    probing, effects = source_step(source, HandoverEvent(Event.RESTARTED))
    assert begun(effects) is Work.RECOUNT
    after, effects = source_step(probing, HandoverEvent(Event.DONE, probing.luns))
    assert after.state is (SourceState.CONFIRMING if event is None else SourceState.UNDOING)
    assert effects.gate is Gate.RUNNING


@pytest.mark.parametrize("event", [Event.ASKED_ROLL_BACK, None])
def test_a_source_that_has_lost_a_registration_waits_for_the_destination(event: Event | None) -> None:
    source = prepared() if event is None else happen(prepared(), event)
    probing = happen(source, Event.RESTARTED)
    after, effects = source_step(probing, HandoverEvent(Event.DONE, (GONE,)))
    assert after.state is SourceState.RETRACTING
    assert after.reason
    assert effects.gate is Gate.LEAVING
    assert effects.message is not None
    assert effects.message.kind is MessageKind.RETURN
    assert not effects.message.luns[0].lost, "the destination must not take it for a commit"
    for nothing in (Event.UNREACHED, Event.GIVEN_UP, Event.RESTARTED, Event.ASKED_ROLL_BACK):
        after = happen(after, nothing)
        assert (after.state, after.gate) == (SourceState.RETRACTING, Gate.LEAVING), nothing
    assert happen(after, Event.TAKEN).state is SourceState.CONCEDING
    stayed, effects = source_step(after, HandoverEvent(Event.TOLD, after.luns))
    assert (stayed.state, effects.gate) == (SourceState.STAYED, Gate.RUNNING)
    assert effects.devices == (), "each device asks its LUN what is left"
    reviewing = happen(after, Event.REFUSED)
    assert (reviewing.state, reviewing.luns[0].lost) == (SourceState.REVIEWING, False)


def test_a_source_in_doubt_that_cannot_act_alone_stays_in_doubt() -> None:
    assessing, effects = source_step(retracting(), HandoverEvent(Event.ASKED_ALONE))
    assert begun(effects) is Work.ASSESS
    probing = happen(assessing, Event.FAILED)
    assert probing.state is SourceState.PROBING
    after, effects = source_step(probing, HandoverEvent(Event.DONE, (GONE,)))
    assert (after.state, effects.gate) == (SourceState.RETRACTING, Gate.LEAVING)


def test_a_roll_back_that_is_asked_of_a_restarted_source_is_done_when_its_luns_have_answered() -> None:
    probing = happen(prepared(), Event.RESTARTED, Event.ASKED_ROLL_BACK)
    assert (probing.state, bool(probing.reason)) == (SourceState.PROBING, True)
    assert happen(probing, Event.DONE).state is SourceState.UNDOING


def test_a_spare_key_that_the_destination_could_not_remove_is_removed_while_the_guest_runs() -> None:
    undoing = happen(prepared(), Event.ASKED_ROLL_BACK)
    stray = replace(LUN, preempted_key=LUN.destination_spare, alarm="1 registration")
    source, effects = source_step(undoing, HandoverEvent(Event.TOLD, (stray,)))
    assert begun(effects) is Work.DISCARD
    assert effects.gate is Gate.RUNNING
    assert happen(source, Event.FAILED).state is SourceState.DISCARDING
    assert happen(source, Event.DONE).state is SourceState.STAYED
    assert happen(undoing, Event.TOLD).state is SourceState.STAYED
    third = replace(stray, preempted_key=0x7)
    assert source_step(undoing, HandoverEvent(Event.TOLD, (third,)))[0].state is SourceState.STAYED


@pytest.mark.parametrize("event", [Event.RESTARTED, Event.ASKED_TAKE])
def test_a_destination_that_has_taken_checks_that_before_its_guest_goes_on(event: Event) -> None:
    lun = replace(LUN, standing=(LUN.tracked.key,))
    taken = Destination("h", "db1", "host-a", DestinationState.TAKEN, (lun,))
    after, effects = destination_step(taken, HandoverEvent(event))
    assert (after.state, effects.gate) == (DestinationState.REASSURING, Gate.INCOMING)
    assert begun(effects) is Work.REASSURE
    again, effects = destination_step(after, HandoverEvent(Event.FAILED, problem="it is gone"))
    assert (again.state, again.problem) == (DestinationState.REASSURING, "it is gone")
    assert (begun(effects), effects.again) == (Work.REASSURE, True)
    back, effects = destination_step(again, HandoverEvent(Event.DONE, (lun,)))
    assert (back.state, effects.gate) == (DestinationState.TAKEN, Gate.RUNNING)
    assert all(each.tracked is None for each in effects.devices), "the guest may have run here"
    conceded, _ = destination_step(again, HandoverEvent(Event.ASKED_FINISH))
    assert (conceded.state, conceded.luns[0].conceded) == (DestinationState.TAKING, True)
