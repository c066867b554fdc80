"""What a handover is, and how it goes from one state to the next: the tables of `holdover.handover.states`
with what events bring. An event in, the new state and its effects out; no clock, no socket, no randomness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from holdover.guest.gate import Gate
from holdover.guest.snoop import Tracked
from holdover.handover.moving import MovingLun
from holdover.handover.states import (
    DESTINATION,
    DESTINATION_DOES,
    EVENT_OF,
    HINDERS,
    ROLLS_BACK,
    SOURCE,
    SOURCE_DOES,
    Choice,
    DestinationState,
    Event,
    MessageKind,
    SourceState,
)
from holdover.handover.work import Work

__all__ = [
    "Answer",
    "Answered",
    "Destination",
    "DoWork",
    "Effect",
    "Happened",
    "Message",
    "Open",
    "ProtocolError",
    "Reply",
    "Source",
    "Tell",
    "Write",
    "begin",
    "destination_hears",
    "destination_step",
    "source_step",
]


class ProtocolError(Exception):
    """An event that has no meaning in this state; nothing was changed."""


class Answered(Enum):
    """How the destination answers a message."""

    DONE = "done"
    REFUSED = "refused"
    TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Message:
    """From source to destination.

    ``number`` grows with every message of the handover, ``machine`` is the guest's machine type.
    """

    kind: MessageKind
    handover: str
    guest: str
    number: int
    luns: tuple[MovingLun, ...]
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """From destination to source, to the message of that ``number``."""

    kind: Answered
    number: int
    luns: tuple[MovingLun, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A handover on the host that the guest leaves; all of it is in the journal.

    Attributes:
        handover, guest, peer: Its identity, the guest's name, the destination's name.
        state: Where it stands.
        luns: The guest's LUNs.
        number: Of the last message.
        changed: Designators of LUNs on which the guest changed something after the last PREPARE was sent.
        reason: Why it is rolled back; empty while it is not.
        problem: What keeps it from going on; empty while nothing does.
        machine: The guest's machine type.
        restarted: The agent has begun anew since, so the source may have been declared dead meanwhile.
        isolated: `SourceState.ISOLATING` is done, and must not be begun again.
    """

    handover: str
    guest: str
    peer: str
    state: SourceState
    luns: tuple[MovingLun, ...]
    number: int = 0
    changed: frozenset[str] = frozenset()
    reason: str = ""
    problem: str = ""
    machine: str = ""
    restarted: bool = False
    isolated: bool = False

    @property
    def is_open(self) -> bool:
        """Whether something is left to do."""
        return self.state not in (SourceState.STAYED, SourceState.GONE)

    @property
    def gate(self) -> Gate:
        """What the guest's devices on this host let through."""
        return SOURCE_DOES[self.state].gate


@dataclass(frozen=True, slots=True)
class Destination:
    """A handover on the host that the guest goes to; all of it is in the journal.

    Attributes:
        handover, guest, peer: Its identity, the guest's name, the source's name.
        state: Where it stands.
        luns: The guest's LUNs.
        number: Of the last message that was heard.
        answer: What was answered to it; None while that is being done.
        problem: Why what was asked last was not done.
    """

    handover: str
    guest: str
    peer: str
    state: DestinationState
    luns: tuple[MovingLun, ...]
    number: int = 0
    answer: Answer | None = None
    problem: str = ""

    @property
    def is_open(self) -> bool:
        """Whether something is left to do."""
        return self.state not in (DestinationState.RETURNED, DestinationState.HERE)

    @property
    def gate(self) -> Gate:
        """What the guest's devices on this host let through."""
        return DESTINATION_DOES[self.state].gate


@dataclass(frozen=True, slots=True)
class Write:
    """Put the new state into the journal. Nothing after this may happen before it is on disk."""


@dataclass(frozen=True, slots=True)
class Open:
    """Move the gate of all devices of the guest."""

    gate: Gate


@dataclass(frozen=True, slots=True)
class DoWork:
    """Do this on all LUNs, then say `Event.DONE` with what is known of them, or `Event.FAILED`.

    ``again``: it failed a moment ago, so wait a little.
    """

    work: Work
    again: bool = False


@dataclass(frozen=True, slots=True)
class Tell:
    """Send this to the destination, then say how it was answered; ``again`` as in `DoWork`."""

    message: Message
    again: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the message."""

    answer: Answer


Effect = Write | Open | DoWork | Tell | Reply


@dataclass(frozen=True, slots=True)
class Happened:
    """An event with what it brings.

    Attributes:
        event: What happened.
        luns: DONE: all LUNs as they are known now. CHANGED, RESTARTED: those of which the tracked state is
            news. TOLD: as the destination answered.
        problem: FAILED, REFUSED, UNREACHED, GIVEN_UP, ASKED_ROLL_BACK: why.
    """

    event: Event
    luns: tuple[MovingLun, ...] = ()
    problem: str = ""


Effects = tuple[Effect, ...]

_BUSY = frozenset(state for state, does in SOURCE_DOES.items() if does.work or does.message)
_TAKEN = frozenset({DestinationState.TAKING, DestinationState.TAKEN, DestinationState.HERE})
"""States in which a source that still asks for something has not heard that the guest is gone."""

_UNASKED = frozenset(
    {
        DestinationState.CLAIMING,
        DestinationState.ASSURING,
        DestinationState.TAKING,
        DestinationState.WITHDRAWING,
    }
)
"""States of the destination that no message has brought about, so that nobody waits for an answer."""


def begin(
    handover: str, guest: str, peer: str, luns: tuple[MovingLun, ...], machine: str = ""
) -> tuple[Source, Effects]:
    """A handover that the source has been asked to prepare. ``luns`` come with their random spare keys."""
    return _enter_source(
        Source(handover, guest, peer, SourceState.CHECKING, luns, machine=machine), again=False
    )


def source_step(source: Source, happened: Happened) -> tuple[Source, Effects]:
    """What follows when ``happened`` happens on the source.

    Raises:
        ProtocolError: It has no meaning in this state.
    """
    follows = SOURCE[source.state].get(happened.event)
    if follows is None:
        raise ProtocolError(f"{happened.event.value}: the handover is {source.state.value}")
    known = _learn(source, happened)
    if isinstance(follows, Choice):
        follows = follows.yes if _CONDITIONS[follows.when](known, source) else follows.no
    known = _explain(known, source, follows, happened)
    if happened.event is Event.CHANGED and follows is source.state:
        return known, (Write(),)
    return _enter_source(
        replace(known, state=follows), again=follows in (source.state, SourceState.REVIEWING)
    )


def _learn(source: Source, happened: Happened) -> Source:
    """The handover with what the event brings."""
    news = {lun.designator: lun for lun in happened.luns}
    if happened.event in (Event.CHANGED, Event.RESTARTED):
        luns = tuple(
            replace(lun, tracked=news[lun.designator].tracked) if lun.designator in news else lun
            for lun in source.luns
        )
        restarted = source.restarted or happened.event is Event.RESTARTED
        changed = source.changed | frozenset(news)
        return replace(source, luns=luns, changed=changed, restarted=restarted)
    if happened.event is Event.DONE:
        luns = tuple(
            _as_changed(news[lun.designator], lun.tracked)
            if lun.designator in source.changed
            # the confirmation may be older than what the guest changed meanwhile
            and SOURCE_DOES[source.state].work in (Work.CHECK, Work.CONFIRM)
            and source.gate is Gate.RUNNING
            else news[lun.designator]
            for lun in source.luns
        )
        return replace(source, luns=luns, isolated=source.state is SourceState.ISOLATING)
    if happened.event is Event.TOLD:
        kind = SOURCE_DOES[source.state].message
        return replace(source, luns=tuple(_told(lun, news.get(lun.designator), kind) for lun in source.luns))
    return source


def _as_changed(seen: MovingLun, tracked: Tracked) -> MovingLun:
    return replace(seen, tracked=tracked, shared=tracked.key in seen.others)


def _told(lun: MovingLun, told: MovingLun | None, kind: MessageKind | None) -> MovingLun:
    if told is None:
        return lun
    if kind is MessageKind.PREPARE:
        return replace(lun, destination_nexuses=told.destination_nexuses)
    if kind is MessageKind.CLOSE:
        return replace(lun, registered_there=told.registered_there)
    if kind is MessageKind.RETURN:
        return replace(lun, prey=told.prey)
    return replace(lun, alarm=told.alarm)


def _is_changed(known: Source, before: Source) -> bool:
    """Whether the destination has been told something else than what is known now."""
    return bool(known.changed) or any(
        now.tracked != then.tracked for now, then in zip(known.luns, before.luns, strict=True)
    )


def _may_act_alone(known: Source, _: Source) -> bool:
    """Whether the source may go on without the destination and without being told to: a third nexus that has
    the guest's key would be hurt, and a source that has begun anew may have been declared dead."""
    return not known.restarted and not any(lun.shared for lun in known.luns)


def _is_isolated(known: Source, _: Source) -> bool:
    return known.isolated


_CONDITIONS = {"changed": _is_changed, "isolated": _is_isolated, "alone": _may_act_alone}


def _explain(known: Source, before: Source, follows: SourceState, happened: Happened) -> Source:
    """Why it is rolled back, and what hinders it."""
    problem = happened.problem if happened.event in HINDERS else ""
    if follows in ROLLS_BACK and before.state not in ROLLS_BACK and not before.reason:
        reason = happened.problem or f"the handover was {before.state.value}: {happened.event.value}"
        luns = tuple(replace(lun, lost=False, registered_there=False) for lun in known.luns)
        return replace(known, reason=reason, problem="", luns=luns)
    return replace(known, problem=problem)


def _enter_source(source: Source, *, again: bool) -> tuple[Source, Effects]:
    does = SOURCE_DOES[source.state]
    if source.state is SourceState.REVIEWING:
        source = replace(source, changed=frozenset())  # what it finds is newer
    if does.message is None:
        activity: Effects = () if does.work is None else (DoWork(does.work, again),)
        return source, (Write(), Open(does.gate), *activity)
    changed = frozenset[str]() if does.message is MessageKind.PREPARE else source.changed
    source = replace(source, number=source.number + 1, changed=changed)
    message = Message(does.message, source.handover, source.guest, source.number, source.luns, source.machine)
    return source, (Write(), Open(does.gate), Tell(message, again))


def destination_hears(
    destination: Destination | None, message: Message, peer: str
) -> tuple[Destination | None, Effects]:
    """What follows when the source's message arrives. ``destination`` is None if this handover is not known.

    To be called when no work of this handover is under way.
    """
    if destination is None:
        return _hears_of(message, peer)
    if message.number < destination.number:
        return destination, (_refusal(message, "a later message of this handover was heard before it"),)
    if message.number == destination.number and destination.answer is not None:
        return destination, (Reply(destination.answer),)
    if destination.state in _TAKEN and message.kind is not MessageKind.FINISH:
        answer = Answer(Answered.TAKEN, message.number, destination.luns)
        return _answered(replace(destination, number=message.number), answer)
    follows = DESTINATION[destination.state].get(EVENT_OF[message.kind])
    luns = _merged(destination, message)
    if follows is None or not _fits(destination, message):
        what = "something else was prepared" if follows else f"the handover is {destination.state.value}"
        problem = f"{message.kind.value}: {what} on this host"
        answer = Answer(Answered.REFUSED, message.number, problem=problem)
        return _answered(replace(destination, number=message.number), answer)
    heard = replace(destination, state=follows, luns=luns, number=message.number, answer=None, problem="")
    return _enter_destination(heard, again=False)


def _hears_of(message: Message, peer: str) -> tuple[Destination | None, Effects]:
    if message.kind in (MessageKind.COMMIT, MessageKind.FINISH):
        return None, (_refusal(message, "this host knows nothing of this handover"),)
    new = Destination(message.handover, message.guest, peer, DestinationState.RETURNED, (), message.number)
    new = replace(new, luns=_merged(new, message))
    if message.kind is MessageKind.PREPARE:
        return _enter_destination(replace(new, state=DestinationState.REGISTERING), again=False)
    # it is over before it began: a PREPARE that is still on its way must find it so
    return _answered(new, Answer(Answered.DONE, message.number, new.luns))


def _merged(destination: Destination, message: Message) -> tuple[MovingLun, ...]:
    """The source's word, with what this host alone knows: which keys it may have put on its nexus."""
    known = {lun.designator: lun for lun in destination.luns}
    merged = []
    for lun in message.luns:
        ours = known.get(lun.designator, MovingLun(lun.designator))
        key = (lun.tracked.key,) if message.kind is MessageKind.PREPARE and lun.tracked.key else ()
        standing = tuple(dict.fromkeys((*ours.standing, *key)))
        merged.append(replace(lun, standing=standing))
    return tuple(merged)


def _fits(destination: Destination, message: Message) -> bool:
    """Whether a message is about the LUNs that were prepared and, if it commits, about what was prepared."""
    known = {lun.designator: lun.tracked for lun in destination.luns}
    if len(message.luns) != len(known) or {lun.designator for lun in message.luns} != known.keys():
        return False
    if message.kind is not MessageKind.COMMIT:
        return True
    return all(
        known[lun.designator] == lun.tracked and lun.prey in (0, lun.tracked.key, lun.source_spare)
        for lun in message.luns
    )


def _refusal(message: Message, problem: str) -> Reply:
    return Reply(Answer(Answered.REFUSED, message.number, problem=f"{message.kind.value}: {problem}"))


def _answered(destination: Destination, answer: Answer) -> tuple[Destination, Effects]:
    return replace(destination, answer=answer), (Write(), Reply(answer))


def destination_step(destination: Destination, happened: Happened) -> tuple[Destination, Effects]:
    """What follows when ``happened``, which is no message, happens on the destination.

    Raises:
        ProtocolError: It has no meaning in this state.
    """
    before, event = destination.state, happened.event
    follows = DESTINATION[before].get(event)
    if follows is None or event in EVENT_OF.values():
        raise ProtocolError(f"{event.value}: the handover is {before.value}")
    after = replace(destination, state=follows, problem=happened.problem)
    if event is Event.DONE:
        after = replace(after, luns=happened.luns)
    elif follows is DestinationState.HERE and happened.problem:
        after = replace(after, luns=tuple(replace(lun, alarm=happened.problem) for lun in after.luns))
    if event is Event.RESTARTED and DESTINATION_DOES[before].work is not None:
        answer = Answer(Answered.REFUSED, after.number, problem="the agent was restarted amid this")
        after = replace(after, answer=answer)
    if event not in (Event.DONE, Event.FAILED) or before in _UNASKED:
        return _enter_destination(after, again=follows is before)
    done = event is Event.DONE or follows is DestinationState.HERE
    answer = Answer(Answered.DONE if done else Answered.REFUSED, after.number, after.luns, happened.problem)
    return replace(after, answer=answer), (Write(), Open(after.gate), Reply(answer))


def _enter_destination(destination: Destination, *, again: bool) -> tuple[Destination, Effects]:
    does = DESTINATION_DOES[destination.state]
    if does.work is not None:
        return destination, (Write(), Open(does.gate), DoWork(does.work, again))
    if destination.answer is None:
        # a message that asked for what is so already
        answer = Answer(Answered.DONE, destination.number, destination.luns)
        return replace(destination, answer=answer), (Write(), Open(does.gate), Reply(answer))
    return destination, (Write(), Open(does.gate))
