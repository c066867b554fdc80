"""The rules of the destination: what follows from a message or an event. Pure. They apply
`holdover.handover.state_table` to the data that messages and events carry.
"""

from __future__ import annotations

from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.handover.effects import (
    DeviceNews,
    EffectKind,
    Effects,
    adopted,
    departed,
    entered,
    order,
    without_record,
)
from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work.work import POLICY
from holdover.handover.protocol import (
    Answer,
    Answered,
    Destination,
    EventNotAllowed,
    HandoverEvent,
    Message,
)
from holdover.handover.state_table import DESTINATION, EVENT_OF, Choice
from holdover.handover.states import ELSEWHERE, DestinationState, Event, MessageKind, SourceState


def receive_message(
    destination: Destination | None, message: Message, peer: str
) -> tuple[Destination | None, Effects]:
    """The new state and its effects when the source's message arrives. ``destination`` is None for an unknown
    handover.

    Call this only while no work of this handover is under way.
    """
    if destination is None:
        return _hears_of(message, peer)
    if message.number < destination.number:
        return destination, _refusal(
            message, "this host has already handled a later message of this handover"
        )
    if message.number == destination.number and destination.answer is not None:
        return destination, _answering(destination.answer)
    if DESTINATION[destination.state].is_taken and message.kind is not MessageKind.FINISH:
        answer = Answer(Answered.TAKEN, message.number, destination.luns)
        return _answered(replace(destination, number=message.number), answer)
    if message.kind is MessageKind.RECALL and destination.state is DestinationState.PREPARED:
        answer = Answer(Answered.KEPT, message.number)
        return _answered(replace(destination, number=message.number), answer)
    if _is_bare_end(destination, message):
        return receive_after_return(destination, message)
    follows = _follows(destination, EVENT_OF[message.kind])
    if follows is DestinationState.TAKING:
        return _hears_of_concession(destination, message)
    luns = _merged(destination, message)
    if follows is None or not _fits(destination, message):
        what = "something else was prepared" if follows else f"the handover is {destination.state.value}"
        if message.kind is MessageKind.RECALL and follows:
            what = "the source is still registered, so nothing was committed"
        problem = f"{message.kind.value}: {what} on this host"
        answer = Answer(Answered.REFUSED, message.number, problem=problem)
        return _answered(replace(destination, number=message.number), answer)
    received = replace(destination, state=follows, luns=luns, number=message.number, answer=None, problem="")
    if message.kind is MessageKind.PREPARE:
        received = replace(received, armed=message.armed)
    return _enter(destination, received, again=False)


def _is_bare_end(destination: Destination, message: Message) -> bool:
    """Whether the source ends again what is over here, and what has never registered anything here.

    So no LUN need be asked, and this host may lack some of them.
    """
    is_over = destination.state is DestinationState.RETURNED
    ends = message.kind in (MessageKind.RETURN, MessageKind.CLOSE)
    return is_over and ends and not any(lun.standing for lun in destination.luns)


def _hears_of_concession(destination: Destination, message: Message) -> tuple[Destination, Effects]:
    """The source leaves the guest to this host, which has not taken everything yet: the source asks again
    later.
    """
    problem = f"{message.kind.value}: this host still takes the guest's reservations; ask again"
    answer = Answer(Answered.REFUSED, message.number, problem=problem)
    received = replace(destination, number=message.number)
    is_known = all(lun.conceded for lun in destination.luns)
    if destination.state is DestinationState.TAKING and is_known:
        return _answered(received, answer)
    taking = replace(_conceded(received), state=DestinationState.TAKING, answer=answer)
    after, effects = _enter(destination, taking, again=False)
    return after, replace(effects, answer=answer, durable_first=effects.durable_first | {EffectKind.ANSWER})


def _conceded(destination: Destination) -> Destination:
    return replace(destination, luns=tuple(replace(lun, conceded=True) for lun in destination.luns))


def receive_after_return(destination: Destination, message: Message) -> tuple[Destination, Effects]:
    """The answer if the source asks again to end a handover that is over here and is not the guest's newest
    any more. Nothing of that handover is left on any LUN, so the answer is "done".
    """
    received = replace(destination, luns=_merged(destination, message), number=message.number)
    return _answered(received, Answer(Answered.DONE, message.number, received.luns))


def _hears_of(message: Message, peer: str) -> tuple[Destination | None, Effects]:
    if message.kind in (MessageKind.COMMIT, MessageKind.RECALL, MessageKind.FINISH):
        return None, _refusal(message, "this host knows nothing of this handover")
    new = Destination(message.handover_id, message.guest, peer, DestinationState.RETURNED, (), message.number)
    new = replace(new, luns=_merged(new, message))
    if message.kind is MessageKind.PREPARE:
        new = replace(new, state=DestinationState.REGISTERING, armed=message.armed)
        return _enter(None, new, again=False)
    # The handover is over before it began. A PREPARE that arrives late must find a closed handover.
    return _answered(replace(new, unbegun=True), Answer(Answered.DONE, message.number, new.luns))


def _merged(destination: Destination, message: Message) -> tuple[LunHandover, ...]:
    """The LUNs of the message, with what only this host knows: which keys it may have registered on its
    nexus, and what the guest had if it has run here. A source that closes the handover may not know that
    yet.
    """
    if message.kind is MessageKind.RECALL:
        return destination.luns
    known = {lun.designator: lun for lun in destination.luns}
    merged = []
    for lun in message.luns:
        ours = known.get(lun.designator, LunHandover(lun.designator))
        if message.kind is MessageKind.COMMIT and lun.tracked.key and _was_found_fenced(destination, ours):
            merged.append(ours)  # The source does not know: the answer that said so was lost.
            continue
        key = (lun.tracked.key,) if message.kind is MessageKind.PREPARE and lun.tracked.key else ()
        standing = tuple(dict.fromkeys((*ours.standing, *key)))
        is_older = message.kind is MessageKind.CLOSE
        now = replace(lun.with_the_guests_last(ours) if is_older else lun, standing=standing)
        # The source asks again to close the handover: repeat what this host has found.
        is_again = message.kind is MessageKind.FINISH
        merged.append(replace(now, alarm=ours.alarm) if is_again else now)
    return tuple(merged)


def _fits(destination: Destination, message: Message) -> bool:
    """Whether a message names the LUNs that were prepared. A COMMIT must also match what was prepared on
    them.
    """
    known = {lun.designator: lun for lun in destination.luns}
    if len(message.luns) != len(known) or {lun.designator for lun in message.luns} != known.keys():
        return False
    pairs = [(known[lun.designator], lun) for lun in message.luns]
    if any(ours.spares != theirs.spares for ours, theirs in pairs):
        return False
    if message.kind is MessageKind.RECALL and destination.state is DestinationState.UNSURE:
        # Where a commit was done, the source has lost all its registrations.
        return all(theirs.lost for _, theirs in pairs if theirs.migrate_pr and theirs.tracked.key)
    return message.kind is not MessageKind.COMMIT or all(
        _was_found_fenced(destination, ours)
        or (ours.tracked == theirs.tracked and ours.explains(theirs.preempted_key, ours.source_spare))
        for ours, theirs in pairs
    )


def _was_found_fenced(destination: Destination, ours: LunHandover) -> bool:
    """Whether an earlier COMMIT of this handover has found the guest fenced."""
    return destination.state is DestinationState.COMMITTED and ours.tracked.key == 0 and any(ours.standing)


def _refusal(message: Message, problem: str) -> Effects:
    return _answering(Answer(Answered.REFUSED, message.number, problem=f"{message.kind.value}: {problem}"))


def _answering(answer: Answer) -> Effects:
    """The effects of a message that changes nothing: only its answer."""
    return Effects(answer=answer, durable_first=frozenset({EffectKind.ANSWER}))


def _answered(destination: Destination, answer: Answer) -> tuple[Destination, Effects]:
    return replace(destination, answer=answer), replace(_answering(answer), record=True)


def destination_step(destination: Destination, happened: HandoverEvent) -> tuple[Destination, Effects]:
    """The new state and its effects when an event that is not a message happens on the destination.

    Raises:
        EventNotAllowed: The event has no meaning in this state.
    """
    before, event = destination.state, happened.event
    follows = _follows(destination, event)
    if follows is None or event in EVENT_OF.values():
        raise EventNotAllowed(f"{event.value}: the handover is {before.value}")
    after = replace(destination, state=follows, problem=happened.problem)
    if event is Event.DONE:
        after = replace(after, luns=_found(before, happened))
    elif event is Event.ASKED_FINISH and follows is DestinationState.TAKING:
        after = _conceded(after)
    elif follows is DestinationState.HERE and happened.problem:
        after = replace(after, luns=tuple(replace(lun, alarm=happened.problem) for lun in after.luns))
    if event is Event.RESTARTED and DESTINATION[before].work is not None:
        answer = Answer(Answered.REFUSED, after.number, problem="the agent was restarted during this step")
        after = replace(after, answer=answer)
    if event not in (Event.DONE, Event.FAILED) or not DESTINATION[before].is_asked:
        # A request ends the pause before a retry. If it began another pause, one that comes often would keep
        # the work from ever being done.
        again = follows is before and event in (Event.FAILED, Event.RESTARTED)
        return _enter(destination, after, again=again)
    done = event is Event.DONE or follows is DestinationState.HERE
    kind = Answered.DONE if done else _NOT_DONE.get(before, Answered.REFUSED)
    answer = Answer(kind, after.number, after.luns, happened.problem)
    after = replace(after, answer=answer)
    devices = _device_news(destination, after)
    effects = entered(destination, after.gate, devices=devices, answer=answer)
    if destination.armed and (before, follows) == (DestinationState.PREEMPTING, DestinationState.COMMITTED):
        # The guest may be let go on. Its commands wait at the gate, which waits for the record.
        effects = without_record(effects, EffectKind.ANSWER)
    return after, effects


_NOT_DONE = {DestinationState.RECOLLECTING: Answered.UNKNOWN}
"""The answer to a message whose work has failed, if that does not mean that the message was refused."""


_PREPARED_ONLY = frozenset({DestinationState.PREPARED, DestinationState.FAILED, DestinationState.CLOSED})
"""The states in which the destination has neither the guest nor begun to take it."""


def may_hear_that_it_is_over(destination: Destination, *, source_is_dead: bool) -> bool:
    """Whether a source that says that it has rolled back alone is believed.

    A source that is declared dead is not, if the handover has registered nothing on this host, which may have
    taken the guest: then no LUN shows whether it was taken before or after that roll back.
    """
    is_doubtful = source_is_dead and _is_bare(destination) and destination.state not in _PREPARED_ONLY
    return Event.OVER in DESTINATION[destination.state].follows and not is_doubtful


def is_over_at_the_source(destination: Destination, said: str) -> bool:
    """Whether what the source has said means that nothing comes of this handover.

    If the guest has left the source in another way, it may have come here.
    """
    is_prepared_only = destination.state in _PREPARED_ONLY
    return said == SourceState.STAYED.value or (said == ELSEWHERE and is_prepared_only)


def _is_bare(destination: Destination) -> bool:
    """Whether the handover has registered nothing on this host."""
    return not any(lun.standing for lun in destination.luns)


def _follows(destination: Destination, event: Event) -> DestinationState | None:
    follows: DestinationState | Choice[DestinationState] | None
    follows = DESTINATION[destination.state].follows.get(event)
    while isinstance(follows, Choice):
        if follows.when != "armed":
            raise TypeError(f"unknown condition: {follows.when}")
        follows = follows.yes if destination.armed else follows.no
    return follows


def _found(state: DestinationState, happened: HandoverEvent) -> tuple[LunHandover, ...]:
    """The LUNs as the work of ``state`` has left them."""
    work = DESTINATION[state].work
    if work is None or not POLICY[work].keeps_attentions:
        return happened.luns
    # The guest gets each unit attention once. If it goes back, it must not get this host's ones again.
    return tuple(
        replace(lun, pending_attentions=()).with_attentions(happened.pending_attentions)
        for lun in happened.luns
    )


def _enter(
    before: Destination | None, destination: Destination, *, again: bool
) -> tuple[Destination, Effects]:
    spec = DESTINATION[destination.state]
    devices = _device_news(before, destination)
    work = None if spec.work is None else order(spec.work, destination.luns)
    if work is None and destination.answer is None:
        # The message asked for a state that the handover has reached already.
        answer = Answer(Answered.DONE, destination.number, destination.luns)
        destination = replace(destination, answer=answer)
        return destination, entered(before, spec.gate, devices=devices, answer=answer)
    effects = entered(before, spec.gate, devices=devices, work=work, again=again)
    if destination.armed and destination.state is DestinationState.PREEMPTING:
        effects = without_record(effects, EffectKind.WORK)
    return destination, effects


def _device_news(before: Destination | None, destination: Destination) -> tuple[DeviceNews, ...]:
    """What to tell the guest's devices on this host when the handover enters another state."""
    if before is None:
        return ()
    ran = DESTINATION[before.state].guest_ran
    if destination.state is DestinationState.RETURNED and before.state is not destination.state:
        return departed(destination.luns)
    # The guest may have run here, so each device knows better than the handover what the guest has.
    arrives = adopted(destination.luns) if DESTINATION[destination.state].guest_ran and not ran else ()
    if destination.gate is not Gate.RUNNING:
        return arrives
    told = {lun.designator: lun.pending_attentions for lun in before.luns} if ran else {}
    tracked = {news.designator: news.tracked for news in arrives}
    news = tuple(
        DeviceNews(
            lun.designator,
            tracked.get(lun.designator),
            pass_on=tuple(
                each for each in lun.pending_attentions if each not in told.get(lun.designator, ())
            ),
        )
        for lun in destination.luns
    )
    return news if arrives or any(each.pass_on for each in news) else ()
