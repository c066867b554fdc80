"""What a roll back after the commit goes by: what the guest has on the destination, or what the LUN says."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from holdover.handover.destination_rules import destination_step, receive_message
from holdover.handover.effects import EffectKind, Effects
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.work import Work, as_the_device_knows
from holdover.handover.protocol import Answer, Answered, Destination, HandoverEvent, Message, Source
from holdover.handover.source_rules import source_step
from holdover.handover.states import DestinationState, Event, MessageKind, SourceState
from holdover.reservations.steps import StepFailed
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation.reservation_out import out_command
from tests.handover.work_rig import DESTINATION, FRESH, KEY, OTHER, SOURCE, SPARE, SPARE_BACK, THIRD, Rig

WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
NEW = 0x9
HELD = Tracked(KEY, True, WERO)
_S = OutServiceAction


def lun_of(tracked: Tracked, **known: object) -> LunHandover:
    lun = LunHandover(
        "naa.1", tracked=tracked, source_spare=SPARE, destination_spare=SPARE_BACK, fresh_spare=FRESH
    )
    return replace(lun, aptpl=True, standing=(KEY,), **known)


def committed(tracked: Tracked = HELD) -> Rig:
    """The guest's registration and reservation are on the destination."""
    rig = Rig()
    if tracked.key:
        rig.must(DESTINATION, out_command(_S.REGISTER, 0, tracked.key, aptpl=True))
    if tracked.type is not None:
        rig.must(DESTINATION, out_command(_S.RESERVE, tracked.key, type=tracked.type))
    return rig


def ascertained(rig: Rig, tracked: Tracked, candidates: tuple[int, ...] = (), *, stale: bool) -> LunHandover:
    known = as_the_device_knows(Work.ASCERTAIN, lun_of(HELD), tracked, candidates)
    return rig.work(DESTINATION, Work.ASCERTAIN, known, stale=stale)


# -- the destination -------------------------------------------------------------------------------


def test_a_picture_that_is_true_is_what_the_guest_has() -> None:
    found = ascertained(committed(), HELD, stale=False)
    assert (found.tracked, found.ran_there, found.registered_there) == (HELD, True, True)


def test_a_reservation_that_somebody_took_is_not_the_guests() -> None:
    rig = committed()
    rig.must(DESTINATION, out_command(_S.RELEASE, KEY, type=WERO))
    assert ascertained(rig, HELD, stale=True).tracked == replace(HELD, type=None)


def test_a_guest_that_was_fenced_is_not_registered() -> None:
    rig = committed()
    rig.must(THIRD, out_command(_S.REGISTER, 0, OTHER, aptpl=True))
    rig.must(THIRD, out_command(_S.PREEMPT, OTHER, KEY, type=WERO))
    found = ascertained(rig, HELD, stale=True)
    assert (found.tracked, found.registered_there, found.others) == (UNREGISTERED, False, (OTHER,))


def test_a_key_whose_registration_was_not_answered_is_found() -> None:
    rig = committed()
    rig.must(DESTINATION, out_command(_S.REGISTER, KEY, NEW, aptpl=True))
    found = ascertained(rig, HELD, (NEW, KEY), stale=True)
    assert found.tracked == replace(HELD, key=NEW)
    assert NEW in found.standing


def test_a_key_that_a_third_has_too_is_told_so() -> None:
    rig = committed()
    rig.must(THIRD, out_command(_S.REGISTER, 0, KEY, aptpl=True))
    found = ascertained(rig, HELD, stale=False)
    assert (found.shared, found.others, found.tracked) == (True, (KEY,), HELD)


def test_a_key_that_nobody_else_has_tells_whose_the_reservation_is() -> None:
    rig = committed()
    rig.must(THIRD, out_command(_S.REGISTER, 0, KEY, aptpl=True))
    before = rig.registrations(), rig.holder()
    assert ascertained(rig, HELD, stale=True).tracked == HELD
    assert (rig.registrations(), rig.holder()) == before


def test_a_reservation_that_a_third_with_the_guests_key_holds_is_not_the_guests() -> None:
    rig = committed()
    rig.must(THIRD, out_command(_S.REGISTER, 0, KEY, aptpl=True))
    rig.must(DESTINATION, out_command(_S.RELEASE, KEY, type=WERO))
    rig.must(THIRD, out_command(_S.RESERVE, KEY, type=WERO))
    before = rig.registrations(), rig.holder()
    assert ascertained(rig, HELD, stale=True).tracked == replace(HELD, type=None)
    assert (rig.registrations(), rig.holder()) == before


def test_a_look_that_was_cut_off_is_begun_anew() -> None:
    rig = committed()
    rig.must(THIRD, out_command(_S.REGISTER, 0, KEY, aptpl=True))
    before = rig.registrations(), rig.holder()
    rig.must(DESTINATION, out_command(_S.REGISTER, KEY, SPARE_BACK, aptpl=True))
    assert ascertained(rig, HELD, stale=True).tracked == HELD
    assert (rig.registrations(), rig.holder()) == before


def test_whose_it_is_that_cannot_be_told_is_not_guessed() -> None:
    rig = committed()
    rig.must(DESTINATION, out_command(_S.REGISTER, KEY, NEW, aptpl=True))
    rig.must(THIRD, out_command(_S.REGISTER, 0, NEW, aptpl=True))
    with pytest.raises(StepFailed, match="It is not known whether it is the guest's"):
        ascertained(rig, HELD, (NEW,), stale=True)


# -- the source without the destination ------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (out_command(_S.REGISTER, KEY, NEW, aptpl=True), "is gone, and 0x9 is registered now"),
        (out_command(_S.RELEASE, KEY, type=WERO), "the reservation is now: none"),
        (out_command(_S.REGISTER, KEY, KEY), "APTPL was committed, and has been turned off"),
    ],
)
def test_what_is_not_as_committed_is_refused_by_name(change: object, told: str) -> None:
    rig = committed()
    rig.work(SOURCE, Work.WEIGH, lun_of(HELD))
    rig.must(DESTINATION, change)  # type: ignore[arg-type]
    before = rig.registrations(), rig.holder(), rig.unit.state.aptpl
    with pytest.raises(StepFailed, match=told):
        rig.work(SOURCE, Work.WEIGH, lun_of(HELD))
    assert (rig.registrations(), rig.holder(), rig.unit.state.aptpl) == before


def test_a_key_that_has_come_may_be_that_of_a_guest_without_a_registration() -> None:
    rig = committed(Tracked(NEW))
    with pytest.raises(StepFailed, match="the guest is not registered here"):
        rig.work(SOURCE, Work.WEIGH, lun_of(UNREGISTERED))
    rig.work(SOURCE, Work.WEIGH, lun_of(UNREGISTERED, others=(NEW,)))


def test_a_guest_that_was_fenced_there_comes_back_without_its_destination() -> None:
    rig = committed()
    rig.must(THIRD, out_command(_S.REGISTER, 0, OTHER, aptpl=True))
    rig.must(THIRD, out_command(_S.PREEMPT, OTHER, KEY, type=WERO))
    lun = rig.work(SOURCE, Work.WEIGH, lun_of(HELD, others=(OTHER,)))
    assert rig.work(SOURCE, Work.ISOLATE, lun).tracked == UNREGISTERED


def test_a_key_of_the_handover_itself_is_not_the_guests_doing() -> None:
    rig = committed()
    rig.must(DESTINATION, out_command(_S.REGISTER, KEY, SPARE_BACK, aptpl=True))  # its part of a roll back
    lun = rig.work(SOURCE, Work.WEIGH, lun_of(HELD))
    assert rig.work(SOURCE, Work.EVICT, rig.work(SOURCE, Work.ISOLATE, lun)).tracked == HELD
    assert rig.registrations() == {SOURCE: KEY}


def test_what_a_source_has_removed_alone_is_not_taken_for_the_guests_last() -> None:
    registrant = replace(HELD, type=None)
    rig = committed(registrant)
    lun = rig.work(SOURCE, Work.ISOLATE, rig.work(SOURCE, Work.WEIGH, lun_of(registrant)))
    rig.must(SOURCE, out_command(_S.PREEMPT, FRESH, KEY, type=WERO))  # the first that EVICT does
    found = ascertained(rig, registrant, stale=True)
    assert (found.tracked, found.others) == (UNREGISTERED, (FRESH,))
    with pytest.raises(StepFailed, match="only the source knows"):
        rig.work(DESTINATION, Work.CLAIM, found)
    with pytest.raises(StepFailed, match="removed the guest's registration"):
        rig.work(DESTINATION, Work.PREEMPT, lun)  # nor is it, by a late commit, a guest that was fenced
    assert rig.registrations() == {SOURCE: FRESH}


def test_a_guest_that_was_never_registered_there_can_be_taken() -> None:
    never = replace(lun_of(UNREGISTERED), standing=())
    known = as_the_device_knows(Work.ASCERTAIN, never, UNREGISTERED, ())
    found = Rig().work(DESTINATION, Work.ASCERTAIN, known)
    assert Rig().work(DESTINATION, Work.CLAIM, found).tracked == UNREGISTERED


# -- the states ------------------------------------------------------------------------------------


def message(kind: MessageKind, number: int, lun: LunHandover) -> Message:
    return Message(kind, "h", "db1", number, (lun,))


def hear(destination: Destination, told: Message) -> tuple[Destination, Effects]:
    after, effects = receive_message(destination, told, "host-a")
    assert after is not None
    return after, effects


def running() -> Destination:
    return Destination("h", "db1", "host-a", DestinationState.COMMITTED, (lun_of(HELD),), 3)


def closed() -> Destination:
    """The guest has another key there, and its gate is shut."""
    destination, effects = hear(running(), message(MessageKind.CLOSE, 4, lun_of(HELD)))
    assert effects.work is not None
    assert effects.work.work is Work.ASCERTAIN
    found = lun_of(replace(HELD, key=NEW), ran_there=True, registered_there=True)
    destination, effects = destination_step(destination, HandoverEvent(Event.DONE, (found,)))
    assert effects.answer == Answer(Answered.DONE, 4, (found,))
    return destination


def closing() -> Source:
    return Source("h", "db1", "host-b", SourceState.CLOSING, (lun_of(HELD),), 4, reason="it was asked for")


def test_a_later_close_takes_no_older_picture() -> None:
    destination, effects = hear(closed(), message(MessageKind.CLOSE, 5, lun_of(HELD)))
    assert effects.work is not None
    assert effects.work.work is Work.PROBE
    assert destination.luns[0].tracked.key == NEW
    _, effects = hear(closed(), message(MessageKind.CLOSE, 4, lun_of(HELD)))
    assert effects.answer is not None
    assert effects.answer.luns[0].tracked.key == NEW


def test_a_destination_that_cannot_ask_is_asked_again() -> None:
    destination, _ = hear(running(), message(MessageKind.CLOSE, 4, lun_of(HELD)))
    for event in (Event.FAILED, Event.RESTARTED):
        halted, _ = destination_step(destination, HandoverEvent(event, problem="no"))
        assert halted.state is DestinationState.HALTED
        again, effects = hear(halted, message(MessageKind.CLOSE, 5, lun_of(HELD)))
        assert again.state is DestinationState.ASCERTAINING
        assert effects.work is not None
        assert effects.work.work is Work.ASCERTAIN


def test_the_source_goes_on_with_what_the_guest_has_there() -> None:
    source, _ = source_step(closing(), HandoverEvent(Event.TOLD, closed().luns))
    assert source.state is SourceState.ASKING
    assert source.luns[0].tracked == replace(HELD, key=NEW)


def test_a_source_that_has_begun_to_act_alone_keeps_its_picture() -> None:
    inquiring = replace(closing(), state=SourceState.INQUIRING)
    source, _ = source_step(inquiring, HandoverEvent(Event.TOLD, closed().luns))
    assert source.luns[0].tracked == HELD


def test_a_refusal_to_act_alone_is_said_while_the_destination_is_asked() -> None:
    source, effects = source_step(closing(), HandoverEvent(Event.ASKED_ALONE))
    assert effects.work is not None
    assert effects.work.work is Work.WEIGH
    source, effects = source_step(source, HandoverEvent(Event.FAILED, problem="naa.1: another key"))
    assert (source.state, source.problem) == (SourceState.CLOSING, "naa.1: another key")
    assert effects.message is not None
    assert effects.again, "who waits is told first"
    assert EffectKind.ANSWER in effects.durable_first
    source, _ = source_step(source, HandoverEvent(Event.UNREACHED, problem="no route"))
    assert (
        source.problem == "no route; the source cannot roll back without the destination: naa.1: another key"
    )
    source, _ = source_step(source, HandoverEvent(Event.TOLD, closed().luns))
    source, _ = source_step(source, HandoverEvent(Event.FAILED, problem="the LUN is away"))
    assert source.problem == "the LUN is away"
