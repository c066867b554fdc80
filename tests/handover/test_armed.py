"""A handover whose commit may be done before it is on record."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.handover.destination_rules import destination_step, receive_message
from holdover.handover.effects import EffectKind, Effects
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.protocol import (
    Answer,
    Answered,
    Destination,
    DeviceView,
    HandoverEvent,
    Message,
    Source,
)
from holdover.handover.source_rules import after_restart, begin, source_step
from holdover.handover.states import DestinationState, Event, MessageKind, SourceState
from holdover.reservations.tracked import Tracked

LUN = LunHandover("naa.1", tracked=Tracked(0xA, True), source_spare=1, destination_spare=2, fresh_spare=3)
LOST = replace(LUN, lost=True)


def prepared(*luns: LunHandover, arms: bool = True) -> tuple[Source, Effects]:
    source, effects = begin("h", "db1", "host-b", luns or (LUN,), arms=arms)
    for event in (Event.DONE, Event.TOLD, Event.DONE):
        source, effects = source_step(
            source, HandoverEvent(event, source.luns if event is Event.DONE else ())
        )
    assert source.state is SourceState.PREPARED
    return source, effects


def hear(
    destination: Destination | None, kind: MessageKind, number: int, lun: LunHandover = LUN
) -> tuple[Destination, Effects]:
    message = Message(kind, "h", "db1", number, (lun,), armed=kind is MessageKind.PREPARE)
    after, effects = receive_message(destination, message, "host-a")
    assert after is not None
    return after, effects


def registered() -> Destination:
    destination, _ = hear(None, MessageKind.PREPARE, 1)
    return destination_step(destination, HandoverEvent(Event.DONE, destination.luns))[0]


def answer_of(effects: Effects) -> Answer:
    assert effects.answer is not None
    return effects.answer


def restarted(source: Source, lun: LunHandover = LUN) -> Source:
    views = tuple(DeviceView(each.designator, each.tracked) for each in source.luns)
    wondering, effects = source_step(source, HandoverEvent(Event.RESTARTED, devices=views))
    assert wondering.state is SourceState.WONDERING
    assert effects.gate is Gate.LEAVING
    return source_step(wondering, HandoverEvent(Event.DONE, (lun,)))[0]


def test_a_commit_of_an_armed_handover_waits_for_no_record() -> None:
    source, effects = prepared()
    assert source.armed
    assert effects.tells_now
    assert EffectKind.ANSWER in effects.durable_first
    source, _ = source_step(source, HandoverEvent(Event.ASKED_COMMIT))
    source, effects = source_step(source, HandoverEvent(Event.DONE, source.luns))
    assert EffectKind.WORK not in effects.durable_first
    source, effects = source_step(source, HandoverEvent(Event.DONE, source.luns))
    assert effects.message is not None
    assert EffectKind.MESSAGE not in effects.durable_first
    source, effects = source_step(source, HandoverEvent(Event.TOLD, source.luns))
    assert source.state is SourceState.COMMITTED
    assert effects.tells_now
    assert EffectKind.ANSWER not in effects.durable_first
    source, effects = source_step(source, HandoverEvent(Event.ASKED_FINISH))
    assert EffectKind.GATE in effects.durable_first


def test_a_commit_that_is_sent_again_waits_for_its_record() -> None:
    source = replace(prepared()[0], state=SourceState.COMMITTING)
    _, effects = source_step(source, HandoverEvent(Event.UNREACHED))
    assert EffectKind.MESSAGE in effects.durable_first


def test_the_gate_of_an_armed_destination_waits_for_the_record_and_its_answer_does_not() -> None:
    destination, effects = hear(registered(), MessageKind.COMMIT, 2)
    assert EffectKind.WORK not in effects.durable_first
    destination, effects = destination_step(destination, HandoverEvent(Event.DONE, destination.luns))
    assert destination.state is DestinationState.COMMITTED
    assert (EffectKind.GATE in effects.durable_first, EffectKind.ANSWER in effects.durable_first) == (
        True,
        False,
    )


@pytest.mark.parametrize(("luns", "arms"), [((LUN,), False), ((replace(LUN, tracked=UNREGISTERED),), True)])
def test_an_older_agent_or_a_guest_without_a_registration_is_never_armed(
    luns: tuple[LunHandover, ...], arms: bool
) -> None:
    source, _ = prepared(*luns, arms=arms)
    assert not source.armed
    after, _ = source_step(source, HandoverEvent(Event.RESTARTED))
    assert after.state is SourceState.PROBING


def test_a_restarted_source_asks_with_a_number_that_no_commit_has_had() -> None:
    source = prepared()[0]
    assert after_restart(source) is Gate.LEAVING
    committing = replace(source, state=SourceState.COMMITTING, number=source.number + 1)
    asking = restarted(source, LOST)
    assert asking.state is SourceState.RECALLING
    assert asking.number > committing.number


@pytest.mark.parametrize(
    ("event", "lun", "state"),
    [
        (Event.TOLD, LOST, SourceState.COMMITTED),
        (Event.KEPT, LUN, SourceState.REGAINING),
        (Event.KEPT, LOST, SourceState.CLOSING),
        (Event.REFUSED, LUN, SourceState.CLOSING),
        (Event.UNREACHED, LUN, SourceState.RECALLING),
        (Event.GIVEN_UP, LUN, SourceState.RECALLING),
        (Event.TAKEN, LUN, SourceState.CONCEDING),
    ],
)
def test_what_follows_from_the_answer(event: Event, lun: LunHandover, state: SourceState) -> None:
    after, _ = source_step(restarted(prepared()[0], lun), HandoverEvent(event))
    assert after.state is state


def test_a_change_that_the_destination_was_not_told_shows_that_nothing_was_committed() -> None:
    source = prepared()[0]
    changed = DeviceView(LUN.designator, Tracked(0xB, True))
    after, _ = source_step(source, HandoverEvent(Event.RESTARTED, devices=(changed,)))
    assert after.state is SourceState.PROBING
    after, _ = source_step(after, HandoverEvent(Event.DONE, after.luns))
    assert after.state is SourceState.PREPARING


def test_a_record_from_before_the_prepare_is_no_change() -> None:
    """The journal refused to record the end of the command by which the guest got its key."""
    source = prepared()[0]
    before = DeviceView(LUN.designator, Tracked(), stale=True, candidates=(0, LUN.tracked.key))
    after, _ = source_step(source, HandoverEvent(Event.RESTARTED, devices=(before,)))
    assert (after.state, after.luns) == (SourceState.WONDERING, source.luns)
    # A command since then whose end is not known: what is on record is newer.
    since = DeviceView(LUN.designator, Tracked(0xB, True), stale=True, candidates=(0xB, 0xC))
    after, _ = source_step(source, HandoverEvent(Event.RESTARTED, devices=(since,)))
    assert after.state is SourceState.PROBING


def test_a_destination_that_is_prepared_says_so_and_refuses_a_late_commit() -> None:
    destination, effects = hear(registered(), MessageKind.RECALL, 4)
    assert answer_of(effects).kind is Answered.KEPT
    assert EffectKind.ANSWER in effects.durable_first
    after, effects = hear(destination, MessageKind.COMMIT, 2)
    assert (after, answer_of(effects).kind) == (destination, Answered.REFUSED)


def unsure() -> Destination:
    destination, _ = destination_step(registered(), HandoverEvent(Event.RESTARTED))
    assert (destination.state, destination.gate) == (DestinationState.UNSURE, Gate.INCOMING)
    return destination


def test_a_restarted_destination_asks_the_lun_if_the_source_has_no_registration() -> None:
    asking, _ = hear(unsure(), MessageKind.RECALL, 4, LOST)
    assert asking.state is DestinationState.RECOLLECTING
    committed, effects = destination_step(asking, HandoverEvent(Event.DONE, asking.luns))
    assert (committed.state, answer_of(effects).kind) == (DestinationState.COMMITTED, Answered.DONE)
    again, effects = destination_step(asking, HandoverEvent(Event.FAILED, problem="no answer"))
    assert (again.state, answer_of(effects).kind) == (DestinationState.UNSURE, Answered.UNKNOWN)


def test_a_restarted_destination_refuses_while_the_source_is_registered() -> None:
    after, effects = hear(unsure(), MessageKind.RECALL, 4)
    assert (after.state, answer_of(effects).kind) == (DestinationState.UNSURE, Answered.REFUSED)


def test_a_finish_is_proof_of_the_commit() -> None:
    assert hear(unsure(), MessageKind.FINISH, 5)[0].state is DestinationState.VERIFYING
