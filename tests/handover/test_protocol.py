"""What the transitions bring besides the next state: messages, numbers, answers, reasons."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.handover.destination_rules import (
    destination_step,
    is_over_at_the_source,
    may_hear_that_it_is_over,
    receive_after_return,
    receive_message,
)
from holdover.handover.effects import DeviceNews, EffectKind, Effects
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.work import Work
from holdover.handover.protocol import (
    Answer,
    Answered,
    Destination,
    DeviceView,
    EventNotAllowed,
    HandoverEvent,
    Message,
    Source,
)
from holdover.handover.source_rules import begin, source_step, state_for_destination
from holdover.handover.states import ELSEWHERE, DestinationState, Event, MessageKind, SourceState
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.sense import AdditionalSense

LUN = LunHandover("naa.1", tracked=Tracked(0xA, True), source_spare=1, destination_spare=2, fresh_spare=3)


def happen(source: Source, *events: Event) -> Source:
    for event in events:
        luns = source.luns if event is Event.DONE else ()
        source, _ = source_step(source, HandoverEvent(event, luns))
    return source


def prepared() -> Source:
    source, _ = begin("h", "db1", "host-b", (LUN,), "pc-q35-10.2")
    return happen(source, Event.DONE, Event.TOLD, Event.DONE)


def message(kind: MessageKind, number: int, luns: tuple[LunHandover, ...] = (LUN,)) -> Message:
    return Message(kind, "h", "db1", number, luns)


def hear(destination: Destination | None, told: Message) -> tuple[Destination, Effects]:
    after, effects = receive_message(destination, told, "host-a")
    assert after is not None
    return after, effects


def registered() -> Destination:
    destination, _ = hear(None, message(MessageKind.PREPARE, 1))
    return destination_step(destination, HandoverEvent(Event.DONE, destination.luns))[0]


def reply(effects: Effects) -> Answer:
    assert effects.answer is not None
    assert EffectKind.ANSWER in effects.durable_first
    return effects.answer


def works(effects: Effects, work: Work, *, again: bool = False) -> bool:
    """Whether ``work`` begins, now or a little later, and waits for the record that announces it."""
    assert effects.work is not None
    assert EffectKind.WORK in effects.durable_first
    return effects.work.work is work and effects.again is again


def test_what_others_see_waits_for_the_journal() -> None:
    source, effects = begin("h", "db1", "host-b", (LUN,))
    assert (effects.record, effects.gate) == (True, Gate.RUNNING)
    assert effects.work is not None
    assert effects.work.work is Work.CHECK
    assert effects.durable_first == frozenset(), "a look changes nothing"
    source, effects = source_step(source, HandoverEvent(Event.DONE, (LUN,)))
    assert effects.message == Message(MessageKind.PREPARE, "h", "db1", 1, (LUN,))
    assert effects.durable_first == {EffectKind.MESSAGE}


def test_a_guest_is_told_that_it_is_prepared_when_that_is_on_record() -> None:
    source = happen(begin("h", "db1", "host-b", (LUN,))[0], Event.DONE, Event.TOLD)
    source, effects = source_step(source, HandoverEvent(Event.DONE, (LUN,)))
    assert source.state is SourceState.PREPARED
    assert not effects.begins
    assert effects.durable_first == {EffectKind.ANSWER}


def test_commands_that_wait_need_no_record_and_commands_that_pass_do() -> None:
    source, effects = source_step(prepared(), HandoverEvent(Event.ASKED_COMMIT))
    assert (effects.gate, effects.durable_first) == (Gate.LEAVING, frozenset())
    source, effects = source_step(source, HandoverEvent(Event.FAILED, problem="in flight"))
    assert (effects.gate, source.state) == (Gate.RUNNING, SourceState.PREPARED)
    assert EffectKind.GATE in effects.durable_first


def test_work_that_has_nothing_to_say_to_any_lun_needs_no_record() -> None:
    alone = replace(LUN, tracked=replace(LUN.tracked, type=ReservationType.WRITE_EXCLUSIVE))
    for lun, waits in ((alone, False), (replace(alone, shared=True), True), (LUN, True)):
        source = replace(happen(prepared(), Event.ASKED_COMMIT), luns=(lun,))
        source, effects = source_step(source, HandoverEvent(Event.DONE, (lun,)))
        assert source.state is SourceState.GIVING
        assert (EffectKind.WORK in effects.durable_first) is waits
        assert effects.work is not None
        assert (effects.work.result is None) is waits


def device(lun: LunHandover = LUN, **said: object) -> DeviceView:
    return replace(DeviceView(lun.designator, lun.tracked), **said)


def drained(source: Source, *devices: DeviceView) -> Source:
    leaving = happen(source, Event.ASKED_COMMIT)
    return source_step(leaving, HandoverEvent(Event.DONE, leaving.luns, devices=devices))[0]


def test_what_the_devices_know_after_a_drain_is_news() -> None:
    new = Tracked(0xB, True)
    assert drained(prepared(), device()).state is SourceState.GIVING
    assert drained(prepared(), device(stale=True)).state is SourceState.RECHECKING
    source = drained(prepared(), device(tracked=new))
    assert (source.state, source.luns[0].tracked) == (SourceState.RECHECKING, new)
    off = device(tracked=new, migrate_pr=False)
    assert drained(prepared(), off).state is SourceState.GIVING


def test_a_guest_with_other_luns_than_were_prepared_is_not_committed() -> None:
    source = drained(prepared(), device(), device(designator="naa.2"))
    assert source.state is SourceState.PREPARED
    assert source.problem.startswith("LUN naa.2 was added to the guest after the prepare")
    assert drained(prepared()).problem.startswith("LUN naa.1 was removed from the guest after the prepare")


def test_what_the_devices_know_after_a_restart_is_news_of_what_was_prepared() -> None:
    changed = HandoverEvent(Event.RESTARTED, devices=(device(tracked=Tracked(0xB)),))
    source = happen(source_step(prepared(), changed)[0], Event.DONE)
    assert (source.state, source.luns[0].tracked) == (SourceState.PREPARING, Tracked(0xB))
    stale = HandoverEvent(Event.RESTARTED, devices=(device(stale=True),))
    source = happen(source_step(prepared(), stale)[0], Event.DONE)
    assert (source.state, source.rechecks) == (SourceState.CONFIRMING, False), "a commit waits for this look"
    committing = happen(prepared(), Event.ASKED_COMMIT, Event.DONE, Event.DONE)
    assert source_step(committing, changed)[0].luns == committing.luns


def test_what_the_guest_was_not_told_goes_with_it_once_it_has_stopped() -> None:
    told = device(pending_attentions=(0x2A03,))
    source = prepared()
    checking = happen(source, Event.ASKED_CHECK)
    checked = source_step(checking, HandoverEvent(Event.DONE, (LUN,), devices=(told,)))[0]
    assert checked.luns[0].pending_attentions == ()
    assert drained(source, told).luns[0].pending_attentions == (0x2A03,)


def test_a_recheck_is_given_up_for_a_commit_unless_something_was_sent() -> None:
    checking = happen(prepared(), Event.ASKED_CHECK)
    assert checking.rechecks
    assert happen(checking, Event.DONE) == prepared()
    leaving, effects = source_step(checking, HandoverEvent(Event.ASKED_COMMIT))
    assert (leaving.state, leaving.rechecks, leaving.number) == (SourceState.LEAVING, False, checking.number)
    assert effects.begins
    new = replace(LUN, tracked=Tracked(0xB, True))
    changed = source_step(checking, HandoverEvent(Event.CHANGED, (new,)))[0]
    sent = happen(changed, Event.DONE)
    assert sent.state is SourceState.PREPARING
    first = happen(begin("h", "db1", "host-b", (LUN,))[0], Event.DONE, Event.TOLD)
    for source in (changed, sent, first):
        with pytest.raises(EventNotAllowed, match="commit"):
            source_step(source, HandoverEvent(Event.ASKED_COMMIT))


def test_the_devices_learn_where_the_reservations_are() -> None:
    committed = happen(prepared(), Event.ASKED_COMMIT, Event.DONE, Event.DONE, Event.TOLD)
    _, effects = source_step(committed, HandoverEvent(Event.ASKED_FINISH))
    assert effects.devices == (DeviceNews("naa.1", UNREGISTERED, left=True),)
    stays = replace(happen(committed, Event.ASKED_ROLL_BACK), state=SourceState.RESUMING)
    lost = replace(LUN, lost=True, pending_attentions=(0x2A03,))
    _, effects = source_step(stays, HandoverEvent(Event.DONE, (lost,)))
    dropped = (AdditionalSense.REGISTRATIONS_PREEMPTED,)
    assert effects.devices == (DeviceNews("naa.1", LUN.tracked, drop=dropped, pass_on=(0x2A03,)),)
    undoing = happen(prepared(), Event.ASKED_ROLL_BACK)
    assert source_step(undoing, HandoverEvent(Event.TOLD))[1].devices == (), (
        "it ran here: the devices know best"
    )


def test_the_devices_of_the_destination_are_told_once() -> None:
    pending = replace(LUN, pending_attentions=(0x2A03,))
    preempting, _ = hear(registered(), message(MessageKind.COMMIT, 2, (pending,)))
    committed, effects = destination_step(preempting, HandoverEvent(Event.DONE, preempting.luns))
    assert effects.devices == (DeviceNews("naa.1", LUN.tracked, pass_on=(0x2A03,)),)
    _, effects = hear(committed, message(MessageKind.FINISH, 3, (pending,)))
    assert effects.devices == (), "the guest may run: its devices know best"
    closing, _ = hear(committed, message(MessageKind.CLOSE, 3, (pending,)))
    told = (device(pending_attentions=(0x2A05,)),)
    closed, _ = destination_step(closing, HandoverEvent(Event.DONE, closing.luns, devices=told))
    assert closed.luns[0].pending_attentions == (0x2A05,), (
        "what this host has told the guest is not told again"
    )
    returning, _ = hear(closed, message(MessageKind.RETURN, 4, closed.luns))
    _, effects = destination_step(returning, HandoverEvent(Event.DONE, returning.luns))
    assert effects.devices == (DeviceNews("naa.1", UNREGISTERED, left=True),)


@pytest.mark.parametrize("state", DestinationState)
def test_an_operator_may_withdraw_where_the_guest_cannot_run(state: DestinationState) -> None:
    destination = replace(registered(), state=state)
    may = state in (
        DestinationState.PREPARED,
        DestinationState.FAILED,
        DestinationState.CLOSED,
        DestinationState.WITHDRAWING,
    )
    if may:
        assert works(destination_step(destination, HandoverEvent(Event.ASKED_ALONE))[1], Work.WITHDRAW)
    else:
        with pytest.raises(EventNotAllowed, match=f"roll back alone: the handover is {state.value}"):
            destination_step(destination, HandoverEvent(Event.ASKED_ALONE))


def test_every_message_has_a_greater_number() -> None:
    source = prepared()
    assert source.number == 1
    source = happen(source, Event.ASKED_COMMIT, Event.DONE, Event.DONE)
    assert (source.state, source.number) == (SourceState.COMMITTING, 2)
    assert happen(source, Event.UNREACHED).number == 3


def test_what_the_guest_changes_reaches_the_destination_before_the_commit() -> None:
    new = replace(LUN, tracked=Tracked(0xB, True))
    source, effects = source_step(prepared(), HandoverEvent(Event.CHANGED, (new,)))
    assert source.state is SourceState.PREPARING
    assert effects.message is not None
    assert effects.message.luns[0].tracked == new.tracked


def test_a_change_while_it_is_confirmed_is_not_overwritten_by_the_confirmation() -> None:
    source, _ = source_step(prepared(), HandoverEvent(Event.ASKED_CHECK))
    new = replace(LUN, tracked=Tracked(0xB, True))
    source, effects = source_step(source, HandoverEvent(Event.CHANGED, (new,)))
    assert effects == Effects(record=True), "the confirmation under way goes on"
    source, _ = source_step(source, HandoverEvent(Event.DONE, (LUN,)))
    assert source.state is SourceState.PREPARING
    assert source.luns[0].tracked == new.tracked


def test_whether_a_key_is_shared_is_said_of_the_key_that_the_guest_has_now() -> None:
    source, _ = begin("h", "db1", "host-b", (LUN,), "pc-q35-10.2")
    other = replace(LUN, tracked=Tracked(0xB, True))
    source, _ = source_step(source, HandoverEvent(Event.CHANGED, (other,)))
    seen = replace(LUN, shared=True, others=(0xA, 0xC))
    assert source_step(source, HandoverEvent(Event.DONE, (seen,)))[0].luns == (
        replace(other, others=(0xA, 0xC)),
    )
    seen = replace(LUN, others=(0xB,))
    assert source_step(source, HandoverEvent(Event.DONE, (seen,)))[0].luns == (
        replace(other, shared=True, others=(0xB,)),
    )


def test_a_change_seen_only_when_the_guest_has_stopped_is_caught_up_with() -> None:
    source = happen(prepared(), Event.ASKED_COMMIT)
    new = replace(LUN, tracked=Tracked(0xB, True))
    source, _ = source_step(source, HandoverEvent(Event.CHANGED, (new,)))
    source = happen(source, Event.DONE)
    assert source.state is SourceState.RECHECKING
    source = happen(source, Event.DONE)
    assert source.state is SourceState.CATCHING_UP
    assert happen(source, Event.TOLD, Event.DONE).state is SourceState.GIVING


def test_the_first_reason_of_a_roll_back_stays() -> None:
    source = happen(prepared(), Event.ASKED_COMMIT, Event.DONE, Event.DONE)
    source, _ = source_step(source, HandoverEvent(Event.REFUSED, problem="naa.1: no"))
    assert (source.state, source.reason, source.problem) == (SourceState.CLOSING, "naa.1: no", "")
    source, effects = source_step(source, HandoverEvent(Event.UNREACHED, problem="no route"))
    assert (source.reason, source.problem) == ("naa.1: no", "no route")
    assert effects.message is not None
    assert effects.again


def test_a_source_with_a_shared_key_does_not_go_on_alone_by_itself() -> None:
    source = happen(prepared(), Event.ASKED_COMMIT, Event.DONE, Event.DONE, Event.GIVEN_UP)
    assert happen(source, Event.GIVEN_UP).state is SourceState.WEIGHING
    assert happen(source, Event.GIVEN_UP, Event.DONE).state is SourceState.ISOLATING
    shared = replace(source, luns=(replace(LUN, shared=True),))
    assert happen(shared, Event.GIVEN_UP).state is SourceState.CLOSING
    restarted = happen(source, Event.RESTARTED)
    assert happen(restarted, Event.GIVEN_UP).state is SourceState.CLOSING
    assert happen(restarted, Event.ASKED_ALONE).state is SourceState.WEIGHING


def returning() -> Source:
    source = happen(prepared(), Event.ASKED_COMMIT, Event.DONE, Event.DONE, Event.ASKED_ROLL_BACK)
    return happen(source, Event.TOLD, Event.DONE, Event.DONE)


def test_whether_it_can_be_done_alone_is_asked_before_anything_is_changed() -> None:
    undoing = happen(prepared(), Event.ASKED_ROLL_BACK)
    closing = happen(prepared(), Event.ASKED_COMMIT, Event.RESTARTED)
    for source, work in (
        (undoing, Work.ASSESS),
        (happen(undoing, Event.REFUSED), Work.ASSESS),
        (closing, Work.WEIGH),
        (returning(), Work.WEIGH),
    ):
        asked, effects = source_step(source, HandoverEvent(Event.ASKED_ALONE))
        assert works(effects, work), source.state
        assert happen(asked, Event.CHANGED).state is asked.state
        assert happen(asked, Event.DONE).state is SourceState.ISOLATING


def test_what_the_destination_may_have_given_back_is_not_closed_again() -> None:
    source = returning()
    assert source.state is SourceState.RETURNING
    for event in (Event.FAILED, Event.RESTARTED):
        assert happen(source, Event.ASKED_ALONE, event).state is SourceState.RETURNING
    refused, effects = source_step(
        happen(source, Event.ASKED_ALONE), HandoverEvent(Event.FAILED, problem="no")
    )
    assert effects.message is not None
    assert effects.again
    source, _ = source_step(refused, HandoverEvent(Event.UNREACHED, problem="no route"))
    assert source.problem == "no route; the source cannot roll back without the destination: no"


def test_a_source_that_has_begun_to_act_alone_goes_on_alone() -> None:
    source = happen(prepared(), Event.ASKED_COMMIT, Event.RESTARTED, Event.ASKED_ALONE, Event.DONE)
    source, effects = source_step(source, HandoverEvent(Event.FAILED, problem="no"))
    assert (source.state, source.problem) == (SourceState.ISOLATING, "no")
    assert works(effects, Work.ISOLATE, again=True)


def test_an_event_without_meaning_is_refused() -> None:
    with pytest.raises(EventNotAllowed, match="finish: the handover is prepared"):
        source_step(prepared(), HandoverEvent(Event.ASKED_FINISH))
    returned = replace(registered(), state=DestinationState.RETURNED)
    with pytest.raises(EventNotAllowed, match="take: the handover is returned"):
        destination_step(returned, HandoverEvent(Event.ASKED_TAKE))


def test_the_destination_remembers_which_keys_it_may_have_put_on_its_nexus() -> None:
    destination = registered()
    new = replace(LUN, tracked=Tracked(0xB, True))
    destination, effects = hear(destination, message(MessageKind.PREPARE, 2, (new,)))
    assert destination.luns[0].standing == (0xA, 0xB)
    assert works(effects, Work.REGISTER)


def test_a_doubled_message_is_answered_again_and_a_late_one_refused() -> None:
    destination = registered()
    answered, effects = hear(destination, message(MessageKind.PREPARE, 1))
    assert answered == destination
    assert reply(effects) == Answer(Answered.DONE, 1, destination.luns)
    assert not effects.record
    destination, _ = hear(destination, message(MessageKind.CLOSE, 5))
    after, effects = hear(destination, message(MessageKind.COMMIT, 3))
    assert after == destination
    assert "later message" in reply(effects).problem


def test_a_commit_of_something_else_than_was_prepared_is_refused() -> None:
    other = replace(LUN, tracked=Tracked(0xB, True))
    destination, effects = hear(registered(), message(MessageKind.COMMIT, 2, (other,)))
    assert destination.state is DestinationState.PREPARED
    assert reply(effects).kind is Answered.REFUSED


def test_a_commit_that_found_the_guest_fenced_is_answered_again_when_the_answer_was_lost() -> None:
    destination, _ = hear(registered(), message(MessageKind.COMMIT, 2))
    fenced = replace(destination.luns[0], tracked=Tracked(), pending_attentions=(0x2A03,))
    destination, _ = destination_step(destination, HandoverEvent(Event.DONE, (fenced,)))
    asked = replace(LUN, preempted_key=LUN.tracked.key)
    destination, effects = hear(destination, message(MessageKind.COMMIT, 3, (asked,)))
    assert reply(effects) == Answer(Answered.DONE, 3, (fenced,))
    heard = replace(LUN, tracked=Tracked(), pending_attentions=(0x2A03, 0x2A05))
    destination, effects = hear(destination, message(MessageKind.COMMIT, 4, (heard,)))
    assert reply(effects).kind is Answered.DONE
    assert destination.luns == (replace(heard, standing=fenced.standing),)


def test_a_handover_that_is_not_known_is_over_before_its_prepare_arrives() -> None:
    destination, effects = hear(None, message(MessageKind.RETURN, 2))
    assert destination.state is DestinationState.RETURNED
    assert reply(effects).kind is Answered.DONE
    _, effects = hear(destination, message(MessageKind.PREPARE, 1))
    assert reply(effects).kind is Answered.REFUSED
    after, effects = receive_message(None, message(MessageKind.COMMIT, 1), "host-a")
    assert after is None
    assert reply(effects).kind is Answered.REFUSED


def test_a_handover_that_was_over_before_it_began_hears_its_end_once_more() -> None:
    destination, _ = hear(None, message(MessageKind.RETURN, 2))
    again, effects = receive_after_return(destination, message(MessageKind.RETURN, 3))
    assert reply(effects).kind is Answered.DONE
    assert reply(effects).number == again.number == 3
    assert again.state is DestinationState.RETURNED
    assert not effects.begins


@pytest.mark.parametrize("kind", [MessageKind.CLOSE, MessageKind.RETURN])
def test_what_was_never_registered_ends_again_without_work(kind: MessageKind) -> None:
    """So it ends on a host that lacks one of the LUNs, too."""
    destination, _ = hear(None, message(MessageKind.RETURN, 2))
    again, effects = hear(destination, message(kind, 3))
    assert again.state is DestinationState.RETURNED
    assert (reply(effects).kind, effects.work) == (Answered.DONE, None)
    once, _ = hear(replace(registered(), state=DestinationState.CLOSED), message(MessageKind.RETURN, 2))
    returned, _ = destination_step(once, HandoverEvent(Event.DONE, once.luns))
    again, effects = hear(returned, message(kind, 3))
    assert again.state is not DestinationState.RETURNED
    assert effects.work is not None


def test_a_restart_amid_a_message_is_answered_as_a_refusal() -> None:
    destination, _ = hear(None, message(MessageKind.PREPARE, 1))
    destination, _ = destination_step(destination, HandoverEvent(Event.RESTARTED))
    assert destination.state is DestinationState.FAILED
    _, effects = hear(destination, message(MessageKind.PREPARE, 1))
    assert "restarted" in reply(effects).problem


_TAKES = (
    DestinationState.TAKING,
    DestinationState.INTERRUPTED,
    DestinationState.TAKEN,
    DestinationState.HERE,
)


@pytest.mark.parametrize("state", _TAKES)
def test_a_source_that_comes_back_hears_that_everything_was_taken(state: DestinationState) -> None:
    destination = replace(registered(), state=state)
    _, effects = hear(destination, message(MessageKind.CLOSE, 7))
    assert reply(effects).kind is Answered.TAKEN
    source = happen(prepared(), Event.ASKED_COMMIT, Event.RESTARTED)
    assert happen(source, Event.TAKEN).state is SourceState.CONCEDING


def test_a_take_has_no_way_back() -> None:
    destination, effects = destination_step(registered(), HandoverEvent(Event.ASKED_TAKE))
    assert works(effects, Work.CLAIM)
    refused, _ = destination_step(destination, HandoverEvent(Event.FAILED, problem="no"))
    assert refused.state is DestinationState.FAILED
    destination, _ = destination_step(destination, HandoverEvent(Event.DONE, destination.luns))
    destination, effects = destination_step(destination, HandoverEvent(Event.FAILED, problem="no"))
    assert works(effects, Work.TAKE, again=True)


def test_a_destination_that_was_restarted_while_it_took_does_nothing_by_itself() -> None:
    destination = replace(registered(), state=DestinationState.TAKING)
    destination, effects = destination_step(destination, HandoverEvent(Event.RESTARTED))
    assert destination.state is DestinationState.INTERRUPTED
    assert not effects.begins
    taking, effects = destination_step(destination, HandoverEvent(Event.ASKED_TAKE))
    assert taking.state is DestinationState.TAKING
    assert works(effects, Work.TAKE)
    over, effects = destination_step(destination, HandoverEvent(Event.OVER))
    assert over.state is DestinationState.WITHDRAWING
    assert effects.gate is Gate.INCOMING


def test_a_destination_on_which_a_handover_is_over_does_nothing_when_it_hears_so_late() -> None:
    closed = [replace(registered(), state=state) for state in DestinationState]
    for destination in (each for each in closed if not each.is_open):
        with pytest.raises(EventNotAllowed):
            destination_step(destination, HandoverEvent(Event.OVER))


@pytest.mark.parametrize("state", [DestinationState.TAKING, DestinationState.INTERRUPTED])
def test_a_source_that_concedes_is_told_to_ask_again_until_everything_is_taken(
    state: DestinationState,
) -> None:
    destination, effects = hear(replace(registered(), state=state), message(MessageKind.FINISH, 7))
    assert destination.state is DestinationState.TAKING
    assert all(lun.conceded for lun in destination.luns)
    assert works(effects, Work.TAKE)
    assert reply(effects).kind is Answered.REFUSED
    destination, effects = hear(destination, message(MessageKind.FINISH, 8))
    assert not effects.begins
    assert (reply(effects).kind, reply(effects).number) == (Answered.REFUSED, 8)
    destination, _ = destination_step(destination, HandoverEvent(Event.DONE, destination.luns))
    assert destination.state is DestinationState.TAKEN
    destination, effects = hear(destination, message(MessageKind.FINISH, 9))
    assert destination.state is DestinationState.VERIFYING


def test_an_operator_may_say_that_the_source_never_comes_back() -> None:
    destination = replace(registered(), state=DestinationState.TAKING)
    destination, effects = destination_step(destination, HandoverEvent(Event.ASKED_FINISH))
    assert destination.state is DestinationState.TAKING
    assert all(lun.conceded for lun in destination.luns)
    assert works(effects, Work.TAKE)


@pytest.mark.parametrize(
    ("state", "request_", "work"),
    [
        (DestinationState.WITHDRAWING, Event.OVER, Work.WITHDRAW),
        (DestinationState.WITHDRAWING, Event.ASKED_ALONE, Work.WITHDRAW),
        (DestinationState.TAKING, Event.ASKED_TAKE, Work.TAKE),
        (DestinationState.TAKING, Event.ASKED_FINISH, Work.TAKE),
    ],
)
def test_a_request_that_comes_often_does_not_keep_what_has_failed_from_being_tried_again(
    state: DestinationState, request_: Event, work: Work
) -> None:
    destination = replace(registered(), state=state)
    destination, effects = destination_step(destination, HandoverEvent(Event.FAILED, problem="no answer"))
    assert works(effects, work, again=True)
    destination, effects = destination_step(destination, HandoverEvent(request_))
    assert destination.state is state
    assert works(effects, work)


@pytest.mark.parametrize(
    ("state", "failed", "request_"),
    [
        (SourceState.TELLING, Event.UNREACHED, Event.ASKED_FINISH),
        (SourceState.YIELDING, Event.FAILED, Event.ASKED_FINISH),
        (SourceState.RETURNING, Event.UNREACHED, Event.ASKED_ROLL_BACK),
        (SourceState.RESUMING, Event.FAILED, Event.ASKED_ROLL_BACK),
    ],
)
def test_an_operator_who_asks_often_does_not_keep_the_source_from_trying_again(
    state: SourceState, failed: Event, request_: Event
) -> None:
    source, effects = source_step(
        replace(prepared(), state=state), HandoverEvent(failed, problem="no answer")
    )
    assert effects.again
    source, effects = source_step(source, HandoverEvent(request_))
    assert source.state is state
    assert effects.begins
    assert not effects.again


@pytest.mark.parametrize("state", [DestinationState.COMMITTED, DestinationState.TAKEN])
def test_a_dead_source_is_not_believed_that_a_guest_without_registration_went_back(
    state: DestinationState,
) -> None:
    registered_here = replace(registered(), state=state)
    bare = replace(registered_here, luns=tuple(replace(lun, standing=()) for lun in registered_here.luns))
    assert may_hear_that_it_is_over(bare, source_is_dead=False)
    assert not may_hear_that_it_is_over(bare, source_is_dead=True)
    standing = replace(bare, luns=tuple(replace(lun, standing=(1,)) for lun in bare.luns))
    assert may_hear_that_it_is_over(standing, source_is_dead=True)


@pytest.mark.parametrize("state", DestinationState)
def test_a_guest_that_has_gone_elsewhere_is_waited_for_no_more(state: DestinationState) -> None:
    only_prepared = state in (DestinationState.PREPARED, DestinationState.FAILED, DestinationState.CLOSED)
    standing = replace(registered(), state=state)
    assert is_over_at_the_source(standing, ELSEWHERE) == only_prepared
    assert is_over_at_the_source(standing, "stayed")
    assert not is_over_at_the_source(standing, "gone")
    assert not is_over_at_the_source(standing, "undoing")
    if only_prepared:
        bare = replace(standing, luns=tuple(replace(lun, standing=()) for lun in standing.luns))
        assert may_hear_that_it_is_over(bare, source_is_dead=True)


def test_a_source_whose_gate_was_shut_says_of_a_guest_without_registration_that_it_is_elsewhere() -> None:
    stayed = replace(prepared(), state=SourceState.STAYED)
    bare = replace(stayed, luns=tuple(replace(lun, tracked=UNREGISTERED) for lun in stayed.luns))
    assert state_for_destination(stayed, departed=True) == "stayed"
    assert state_for_destination(bare, departed=False) == "stayed"
    assert state_for_destination(bare, departed=True) == ELSEWHERE


def test_a_roll_back_alone_that_is_refused_before_a_commit_is_not_one_after_a_commit() -> None:
    """A source that lost its registration to a fence must not take it for one that a commit has moved."""
    undoing = happen(prepared(), Event.ASKED_ROLL_BACK)
    assert undoing.state is SourceState.UNDOING
    assessing = happen(undoing, Event.UNREACHED, Event.ASKED_ALONE)
    assert assessing.state is SourceState.ASSESSING
    probing, effects = source_step(assessing, HandoverEvent(Event.FAILED, problem="a key is there"))
    assert (probing.state, effects.again) == (SourceState.PROBING, True)
    # The agent was not restarted, so nobody has declared this host dead.
    after, effects = source_step(probing, HandoverEvent(Event.DONE, (replace(LUN, lost=True),)))
    assert after.state is SourceState.UNDOING
    assert effects.gate is Gate.RUNNING
    assert not after.luns[0].lost
    committed = replace(prepared(), state=SourceState.CLOSING)
    refused, _ = source_step(
        happen(committed, Event.ASKED_ALONE), HandoverEvent(Event.FAILED, problem="a key is there")
    )
    assert refused.state is SourceState.CLOSING
