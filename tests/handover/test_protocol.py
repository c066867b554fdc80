"""What the transitions bring besides the next state: messages, numbers, answers, reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdover.guest.gate import Gate
from holdover.guest.scsi_block import Tracked
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import (
    Answer,
    Answered,
    Destination,
    DoWork,
    Effect,
    Happened,
    Message,
    Open,
    ProtocolError,
    Reply,
    Source,
    Tell,
    Write,
    begin,
    destination_hears,
    destination_step,
    source_step,
)
from holdover.handover.states import DestinationState, Event, MessageKind, SourceState
from holdover.handover.work import Work

LUN = MovingLun("naa.1", tracked=Tracked(0xA, True), source_spare=1, destination_spare=2, fresh_spare=3)


def happen(source: Source, *events: Event) -> Source:
    for event in events:
        luns = source.luns if event is Event.DONE else ()
        source, _ = source_step(source, Happened(event, luns))
    return source


def prepared() -> Source:
    source, _ = begin("h", "db1", "host-b", (LUN,), "pc-q35-10.2")
    return happen(source, Event.DONE, Event.TOLD, Event.DONE)


def message(kind: MessageKind, number: int, luns: tuple[MovingLun, ...] = (LUN,)) -> Message:
    return Message(kind, "h", "db1", number, luns)


def hear(destination: Destination | None, told: Message) -> tuple[Destination, tuple[Effect, ...]]:
    after, effects = destination_hears(destination, told, "host-a")
    assert after is not None
    return after, effects


def registered() -> Destination:
    destination, _ = hear(None, message(MessageKind.PREPARE, 1))
    return destination_step(destination, Happened(Event.DONE, destination.luns))[0]


def reply(effects: tuple[Effect, ...]) -> Answer:
    return next(effect.answer for effect in effects if isinstance(effect, Reply))


def test_the_journal_comes_first_whatever_happens() -> None:
    source, effects = begin("h", "db1", "host-b", (LUN,))
    assert effects == (Write(), Open(Gate.RUNNING), DoWork(Work.CHECK))
    source, effects = source_step(source, Happened(Event.DONE, (LUN,)))
    assert effects[0] == Write()
    assert effects[-1] == Tell(Message(MessageKind.PREPARE, "h", "db1", 1, (LUN,)))


def test_every_message_has_a_greater_number() -> None:
    source = prepared()
    assert source.number == 1
    source = happen(source, Event.ASKED_COMMIT, Event.DONE, Event.DONE)
    assert (source.state, source.number) == (SourceState.COMMITTING, 2)
    assert happen(source, Event.UNREACHED).number == 3


def test_what_the_guest_changes_reaches_the_destination_before_the_commit() -> None:
    new = replace(LUN, tracked=Tracked(0xB, True))
    source, effects = source_step(prepared(), Happened(Event.CHANGED, (new,)))
    assert source.state is SourceState.PREPARING
    assert isinstance(effects[-1], Tell)
    assert effects[-1].message.luns[0].tracked == new.tracked


def test_a_change_while_it_is_confirmed_is_not_overwritten_by_the_confirmation() -> None:
    source, _ = source_step(prepared(), Happened(Event.ASKED_CHECK))
    new = replace(LUN, tracked=Tracked(0xB, True))
    source, effects = source_step(source, Happened(Event.CHANGED, (new,)))
    assert effects == (Write(),), "the confirmation under way goes on"
    source, _ = source_step(source, Happened(Event.DONE, (LUN,)))
    assert source.state is SourceState.PREPARING
    assert source.luns[0].tracked == new.tracked


def test_whether_a_key_is_shared_is_said_of_the_key_that_the_guest_has_now() -> None:
    source, _ = begin("h", "db1", "host-b", (LUN,), "pc-q35-10.2")
    other = replace(LUN, tracked=Tracked(0xB, True))
    source, _ = source_step(source, Happened(Event.CHANGED, (other,)))
    seen = replace(LUN, shared=True, others=(0xA, 0xC))
    assert source_step(source, Happened(Event.DONE, (seen,)))[0].luns == (replace(other, others=(0xA, 0xC)),)
    seen = replace(LUN, others=(0xB,))
    assert source_step(source, Happened(Event.DONE, (seen,)))[0].luns == (
        replace(other, shared=True, others=(0xB,)),
    )


def test_a_change_seen_only_when_the_guest_has_stopped_is_caught_up_with() -> None:
    source = happen(prepared(), Event.ASKED_COMMIT)
    new = replace(LUN, tracked=Tracked(0xB, True))
    source, _ = source_step(source, Happened(Event.CHANGED, (new,)))
    source = happen(source, Event.DONE)
    assert source.state is SourceState.RECHECKING
    source = happen(source, Event.DONE)
    assert source.state is SourceState.CATCHING_UP
    assert happen(source, Event.TOLD, Event.DONE).state is SourceState.GIVING


def test_the_first_reason_of_a_roll_back_stays() -> None:
    source = happen(prepared(), Event.ASKED_COMMIT, Event.DONE, Event.DONE)
    source, _ = source_step(source, Happened(Event.REFUSED, problem="naa.1: no"))
    assert (source.state, source.reason, source.problem) == (SourceState.CLOSING, "naa.1: no", "")
    source, effects = source_step(source, Happened(Event.UNREACHED, problem="no route"))
    assert (source.reason, source.problem) == ("naa.1: no", "no route")
    assert isinstance(effects[-1], Tell)
    assert effects[-1].again


def test_a_source_with_a_shared_key_does_not_go_on_alone_by_itself() -> None:
    source = happen(prepared(), Event.ASKED_COMMIT, Event.DONE, Event.DONE, Event.GIVEN_UP)
    assert happen(source, Event.GIVEN_UP).state is SourceState.ISOLATING
    shared = replace(source, luns=(replace(LUN, shared=True),))
    assert happen(shared, Event.GIVEN_UP).state is SourceState.CLOSING
    restarted = happen(source, Event.RESTARTED)
    assert happen(restarted, Event.GIVEN_UP).state is SourceState.CLOSING
    assert happen(restarted, Event.ASKED_ALONE).state is SourceState.ISOLATING


def test_an_event_without_meaning_is_refused() -> None:
    with pytest.raises(ProtocolError, match="finish: the handover is prepared"):
        source_step(prepared(), Happened(Event.ASKED_FINISH))
    returned = replace(registered(), state=DestinationState.RETURNED)
    with pytest.raises(ProtocolError, match="take: the handover is returned"):
        destination_step(returned, Happened(Event.ASKED_TAKE))


def test_the_destination_remembers_which_keys_it_may_have_put_on_its_nexus() -> None:
    destination = registered()
    new = replace(LUN, tracked=Tracked(0xB, True))
    destination, effects = hear(destination, message(MessageKind.PREPARE, 2, (new,)))
    assert destination.luns[0].standing == (0xA, 0xB)
    assert effects[-1] == DoWork(Work.REGISTER)


def test_a_doubled_message_is_answered_again_and_a_late_one_refused() -> None:
    destination = registered()
    answered, effects = hear(destination, message(MessageKind.PREPARE, 1))
    assert answered == destination
    assert effects == (Reply(Answer(Answered.DONE, 1, destination.luns)),)
    destination, _ = hear(destination, message(MessageKind.CLOSE, 5))
    after, effects = hear(destination, message(MessageKind.COMMIT, 3))
    assert after == destination
    assert "later message" in reply(effects).problem


def test_a_commit_of_something_else_than_was_prepared_is_refused() -> None:
    other = replace(LUN, tracked=Tracked(0xB, True))
    destination, effects = hear(registered(), message(MessageKind.COMMIT, 2, (other,)))
    assert destination.state is DestinationState.PREPARED
    assert reply(effects).kind is Answered.REFUSED


def test_a_handover_that_is_not_known_is_over_before_its_prepare_arrives() -> None:
    destination, effects = hear(None, message(MessageKind.RETURN, 2))
    assert destination.state is DestinationState.RETURNED
    assert reply(effects).kind is Answered.DONE
    _, effects = hear(destination, message(MessageKind.PREPARE, 1))
    assert reply(effects).kind is Answered.REFUSED
    after, effects = destination_hears(None, message(MessageKind.COMMIT, 1), "host-a")
    assert after is None
    assert reply(effects).kind is Answered.REFUSED


def test_a_restart_amid_a_message_is_answered_as_a_refusal() -> None:
    destination, _ = hear(None, message(MessageKind.PREPARE, 1))
    destination, _ = destination_step(destination, Happened(Event.RESTARTED))
    assert destination.state is DestinationState.FAILED
    _, effects = hear(destination, message(MessageKind.PREPARE, 1))
    assert "restarted" in reply(effects).problem


@pytest.mark.parametrize("state", [DestinationState.TAKING, DestinationState.TAKEN, DestinationState.HERE])
def test_a_source_that_comes_back_hears_that_everything_was_taken(state: DestinationState) -> None:
    destination = replace(registered(), state=state)
    _, effects = hear(destination, message(MessageKind.CLOSE, 7))
    assert reply(effects).kind is Answered.TAKEN
    source = happen(prepared(), Event.ASKED_COMMIT, Event.RESTARTED)
    assert happen(source, Event.TAKEN).state is SourceState.CONCEDING


def test_a_take_has_no_way_back() -> None:
    destination, effects = destination_step(registered(), Happened(Event.ASKED_TAKE))
    assert effects[-1] == DoWork(Work.CLAIM)
    refused, _ = destination_step(destination, Happened(Event.FAILED, problem="no"))
    assert refused.state is DestinationState.FAILED
    destination, _ = destination_step(destination, Happened(Event.DONE, destination.luns))
    destination, effects = destination_step(destination, Happened(Event.FAILED, problem="no"))
    assert effects[-1] == DoWork(Work.TAKE, again=True)
