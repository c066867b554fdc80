"""The rules of the source: an event in, the new state and its effects out. Pure. They apply
`holdover.handover.state_table` to the data that events carry.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.guest.staleness import RESERVATION_ATTENTIONS
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
from holdover.handover.lun_work.work import POLICY, Work
from holdover.handover.protocol import DeviceView, EventNotAllowed, HandoverEvent, Message, Source
from holdover.handover.state_table import HINDERS, SOURCE, Choice
from holdover.handover.states import ELSEWHERE, Event, MessageKind, SourceState
from holdover.reservations.tracked import Tracked
from holdover.scsi.sense import AdditionalSense


def begin(
    handover_id: str,
    guest: str,
    peer: str,
    luns: tuple[LunHandover, ...],
    machine_type: str = "",
    *,
    arms: bool = False,
) -> tuple[Source, Effects]:
    """A new handover on the source, and its effects. ``luns`` have their random spare keys already."""
    source = Source(
        handover_id, guest, peer, SourceState.CHECKING, luns, machine_type=machine_type, arms=arms
    )
    return _enter(source, source, again=False)


def source_step(source: Source, happened: HandoverEvent) -> tuple[Source, Effects]:
    """The new state and its effects when ``happened`` happens on the source.

    Raises:
        EventNotAllowed: The event has no meaning in this state.
    """
    happened = _judged(source, happened)
    known = _learn(source, happened)
    follows = _follows(source, known, happened.event)
    if follows is None:
        raise EventNotAllowed(f"{happened.event.value}: the handover is {source.state.value}")
    known = _explain(known, source, follows, happened)
    if happened.event is Event.CHANGED and follows is source.state:
        return known, Effects(record=True)
    # The source cannot act alone: after a pause, it asks the destination again.
    refused = source.state in _MAY_REFUSE and happened.event is Event.FAILED
    # A request ends the pause before a retry. If it began another pause, one that comes often would keep the
    # work from ever being done.
    again = refused or (follows in (source.state, SourceState.REVIEWING) and happened.event not in _REQUESTS)
    rechecks = follows is SourceState.CONFIRMING and (
        happened.event is Event.ASKED_CHECK or (source.rechecks and source.state is follows)
    )
    after, effects = _enter(source, replace(known, state=follows, rechecks=rechecks), again=again)
    return after, replace(effects, tells_now=effects.tells_now or refused)


def is_allowed(source: Source, event: Event) -> bool:
    """Whether ``event``, which carries no data, has a meaning in this state."""
    return _follows(source, source, event) is not None


def _follows(source: Source, known: Source, event: Event) -> SourceState | None:
    follows: SourceState | Choice[SourceState] | None = SOURCE[source.state].follows.get(event)
    while isinstance(follows, Choice):
        follows = follows.yes if _CONDITIONS[follows.when](known, source) else follows.no
    return follows


def after_restart(source: Source) -> Gate:
    """The gate of the guest's devices from the start of the agent on, until `Event.RESTARTED` was handled."""
    follows = _follows(source, source, Event.RESTARTED)
    return source.gate if follows is None else SOURCE[follows].gate


# -- the data of an event --------------------------------------------------------------------------


def _judged(source: Source, happened: HandoverEvent) -> HandoverEvent:
    """The event; but FAILED in place of DONE if the guest does not have the devices any more that were
    prepared.
    """
    is_drained = SOURCE[source.state].work is Work.DRAIN and happened.event is Event.DONE
    if not is_drained or happened.devices is None:
        return happened
    problem = _other_devices(source.luns, happened.devices)
    return HandoverEvent(Event.FAILED, problem=problem) if problem else happened


def _other_devices(luns: tuple[LunHandover, ...], devices: tuple[DeviceView, ...]) -> str:
    """How the guest's devices differ from the LUNs that were prepared; empty if they do not differ."""
    prepared = {lun.designator for lun in luns}
    now = {device.designator for device in devices}
    told = [f"LUN {each} was added to the guest after the prepare" for each in sorted(now - prepared)]
    told += [f"LUN {each} was removed from the guest after the prepare" for each in sorted(prepared - now)]
    return f"{'; '.join(told)}; roll back, then prepare again" if told else ""


def _news(source: Source, happened: HandoverEvent) -> dict[str, Tracked]:
    """The changes of the guest that the handover has not noted yet, by LUN; also those that it may have
    made.
    """
    if happened.event is Event.CHANGED:
        return {lun.designator: lun.tracked for lun in happened.luns}
    devices = {device.designator: device for device in happened.devices or ()}
    is_drained = SOURCE[source.state].work is Work.DRAIN and happened.event is Event.DONE
    is_prepared = source.state is SourceState.PREPARED or source.rechecks
    is_restarted = is_prepared and happened.event is Event.RESTARTED
    if not is_drained and not is_restarted:
        return {}
    return {
        lun.designator: device.tracked
        for lun in source.luns
        if (device := devices.get(lun.designator)) is not None
        and device.migrate_pr
        # The first check after a restart reads again what was stale.
        and ((device.tracked != lun.tracked and not _is_before(device, lun)) or (is_drained and device.stale))
    }


def _is_before(device: DeviceView, lun: LunHandover) -> bool:
    """Whether a device's record is from before the handover has noted what the guest has.

    The journal refused to record the end of the command by which the guest got its key.
    """
    return device.stale and lun.tracked.key in device.candidates


def _learn(source: Source, happened: HandoverEvent) -> Source:
    """The handover with the data of the event."""
    if happened.event is Event.RESTARTED:
        # The number of a COMMIT may have been used without a record.
        unrecorded = _UNRECORDED_MESSAGES if source.armed else 0
        source = replace(source, restarted=True, number=source.number + unrecorded)
    if source.state is SourceState.RETRACTING and happened.event in (Event.TOLD, Event.REFUSED):
        # The destination has not taken the guest: another node has fenced it, or it has unregistered itself.
        source = replace(source, luns=tuple(replace(lun, lost=False) for lun in source.luns))
    if happened.event is Event.DONE:
        source = _learn_result(source, happened)
    if happened.event is Event.TOLD:
        told = {lun.designator: lun for lun in happened.luns}
        luns = tuple(_told(lun, told.get(lun.designator), source.state) for lun in source.luns)
        return replace(source, luns=luns)
    news = _news(source, happened)
    luns = tuple(
        replace(lun, tracked=news[lun.designator]) if lun.designator in news else lun for lun in source.luns
    )
    return replace(source, luns=luns, changed=source.changed | frozenset(news))


def _learn_result(source: Source, happened: HandoverEvent) -> Source:
    """The handover with the result of its work."""
    policy = POLICY[work] if (work := SOURCE[source.state].work) is not None else None
    found = {lun.designator: lun for lun in happened.luns}
    runs = source.gate is Gate.RUNNING
    luns = tuple(
        _as_changed(found[lun.designator], lun.tracked)
        # The guest may have changed this LUN after the work has read it.
        if lun.designator in source.changed and runs and policy is not None and policy.finds_out
        else found[lun.designator]
        for lun in source.luns
    )
    if not runs and policy is not None and policy.keeps_attentions:
        luns = tuple(lun.with_attentions(happened.pending_attentions) for lun in luns)
    if source.state is SourceState.PROBING and not source.restarted:
        # Nobody has declared dead a host that was never away: another node has fenced the guest.
        luns = tuple(replace(lun, lost=False) for lun in luns)
    isolated = source.state is SourceState.ISOLATING
    reclaimed = source.reclaimed or source.state is SourceState.RECLAIMING
    return replace(source, luns=luns, isolated=isolated, reclaimed=reclaimed)


def _as_changed(seen: LunHandover, tracked: Tracked) -> LunHandover:
    return replace(seen, tracked=tracked, shared=tracked.key in seen.others)


def _told(lun: LunHandover, told: LunHandover | None, state: SourceState) -> LunHandover:
    kind = SOURCE[state].message
    if told is None:
        return lun
    if kind is MessageKind.PREPARE:
        return replace(lun, destination=told.destination, by_port=told.by_port)
    if kind is MessageKind.CLOSE:
        lun = replace(lun, registered_there=told.registered_there)
        # A source that has begun to act alone has removed the registration there itself.
        return lun.with_the_guests_last(told) if state is SourceState.CLOSING else lun
    if kind is MessageKind.RETURN:
        if not lun.explains(told.preempted_key, lun.destination_spare):
            told = replace(
                told,
                preempted_key=0,
                alarm=f"the destination named key {told.preempted_key:#x}, which is a third party's",
            )
        return replace(lun, preempted_key=told.preempted_key, unreached=told.unreached, alarm=told.alarm)
    if kind in (MessageKind.COMMIT, MessageKind.RECALL) and told.tracked.key == 0:
        # another node has fenced the guest
        return replace(
            lun,
            tracked=told.tracked,
            others=told.others,
            shared=False,
            preempted_key=0,
            pending_attentions=told.pending_attentions,
        )
    return replace(lun, alarm=told.alarm)


def state_for_destination(source: Source, *, departed: bool) -> str:
    """What the destination hears when it asks: the state of the source, or `ELSEWHERE`.

    ``departed``: this is the guest's newest handover, and the guest's gate is departed all the same: the host
    was declared dead, or an operator has released the guest. The guest is not here then. A guest that has
    registered nothing leaves no trace of a roll back on its LUNs, so the destination may have taken it
    meanwhile; it must not hear that the handover is over.
    """
    is_bare = all(lun.tracked.key == 0 for lun in source.luns)
    is_elsewhere = departed and is_bare and source.state is SourceState.STAYED
    return ELSEWHERE if is_elsewhere else source.state.value


# -- which state follows ---------------------------------------------------------------------------


def _is_changed(known: Source, before: Source) -> bool:
    """Whether the destination does not know the present tracked state."""
    return bool(known.changed) or any(
        now.tracked != then.tracked for now, then in zip(known.luns, before.luns, strict=True)
    )


def _has_news(known: Source, _: Source) -> bool:
    """Whether the guest has changed something since the last PREPARE."""
    return bool(known.changed)


def _may_act_alone(known: Source, _: Source) -> bool:
    """Whether the source may go on without the destination and without an operator's request. It may not if a
    third nexus has the guest's key, because that node would lose its registration. It may not after a
    restart, because an operator may have declared the source dead.
    """
    return not known.restarted and not any(lun.shared for lun in known.luns)


def _may_have_committed(known: Source, before: Source) -> bool:
    """Whether a commit may have been done without a record. It was not if the guest has changed something
    that the destination was not told: the PREPARE for that would be on record.
    """
    is_confirming = before.state is SourceState.CONFIRMING and not before.rechecks
    return before.armed and not known.changed and not is_confirming


def _is_only_recheck(known: Source, _: Source) -> bool:
    """Whether only a recheck of what was prepared is under way, and the guest has changed nothing. Then the
    recheck may end early.
    """
    return known.rechecks and not known.changed


_ASK_AGAIN = frozenset(
    {SourceState.CLOSING, SourceState.RETURNING, SourceState.UNDOING, SourceState.RETRACTING}
)
"""The states in which the destination is asked again and again, if the source cannot act alone."""


def _has_strays(known: Source, _: Source) -> bool:
    """Whether the destination has named its spare key, which paths that are away have kept. The guest's
    registration can remove it.
    """
    return any(
        lun.preempted_key == lun.destination_spare and lun.tracked.key
        for lun in known.luns
        if lun.preempted_key
    )


_MAY_REFUSE = frozenset({SourceState.WEIGHING, SourceState.ASSESSING})
"""The states that find out whether the source can act alone."""

_NOT_PREPARED = frozenset({SourceState.PREPARING, SourceState.CONFIRMING})
"""The states of a prepare. If the agent is restarted, the handover is rolled back."""

_REQUESTS = frozenset({Event.ASKED_COMMIT, Event.ASKED_ROLL_BACK, Event.ASKED_ALONE, Event.ASKED_FINISH})

_UNRECORDED_MESSAGES = 1
"""How many messages an armed source sends without a record."""

_ARMED_STEPS = frozenset(
    {
        (SourceState.LEAVING, SourceState.GIVING),
        (SourceState.RECHECKING, SourceState.GIVING),
        (SourceState.GIVING, SourceState.COMMITTING),
        (SourceState.COMMITTING, SourceState.COMMITTED),
    }
)

_CONDITIONS: dict[str, Callable[[Source, Source], bool]] = {
    "changed": _is_changed,
    "news": _has_news,
    "alone": _may_act_alone,
    "isolated": lambda known, _: known.isolated,
    "reclaimed": lambda known, _: known.reclaimed,
    "strays": _has_strays,
    "rolls back": lambda known, _: known.rolls_back,
    "only rechecked": _is_only_recheck,
    "armed": _may_have_committed,
    "lost": lambda known, _: any(lun.lost for lun in known.luns),
}


def _explain(known: Source, before: Source, follows: SourceState, happened: HandoverEvent) -> Source:
    """The handover with the reason for its roll back, and with what prevents it from going on."""
    problem = happened.problem if happened.event in HINDERS else ""
    if before.state in _MAY_REFUSE:
        known = replace(known, not_alone=problem)
    elif known.not_alone and problem and follows in _ASK_AGAIN:
        problem = f"{problem}; the source cannot roll back without the destination: {known.not_alone}"
    begins = SOURCE[follows].rolls_back and not SOURCE[before.state].rolls_back
    if follows is SourceState.PROBING:
        begins = before.state in _NOT_PREPARED or happened.event is Event.ASKED_ROLL_BACK
    if begins and not before.reason:
        reason = happened.problem or f"the handover was {before.state.value}: {happened.event.value}"
        lost = follows is SourceState.RETRACTING
        if lost:
            reason = "after the agent's restart the LUN does not have the registrations that are on record"
        luns = tuple(replace(lun, lost=lun.lost and lost, registered_there=False) for lun in known.luns)
        return replace(known, reason=reason, problem="", luns=luns)
    return replace(known, problem=problem)


# -- the new state and its effects -----------------------------------------------------------------


def _enter(before: Source, source: Source, *, again: bool) -> tuple[Source, Effects]:
    spec = SOURCE[source.state]
    if source.state is SourceState.REVIEWING:
        source = replace(source, changed=frozenset())  # the check reads newer values
    devices = _device_news(before, source)
    if spec.message is None:
        work = None if spec.work is None else order(spec.work, source.luns)
        effects = entered(before, spec.gate, devices=devices, work=work, again=again)
        if source.armed and source.state is SourceState.PREPARED:
            return source, replace(effects, tells_now=True)  # on record before a commit can begin
        if not _is_armed_commit(before, source):
            return source, effects
        if source.state is SourceState.COMMITTED:
            return source, replace(without_record(effects, EffectKind.ANSWER), tells_now=True)
        return source, without_record(effects, EffectKind.WORK)
    is_prepare = spec.message is MessageKind.PREPARE
    if is_prepare:
        source = replace(source, changed=frozenset(), armed=source.arms and is_armable(source.luns))
    source = replace(source, number=source.number + 1)
    luns = source.luns
    if source.state is SourceState.RETRACTING:
        luns = tuple(replace(lun, lost=False) for lun in luns)  # the destination has not committed anything
    message = Message(
        spec.message,
        source.handover_id,
        source.guest,
        source.number,
        luns,
        source.machine_type,
        armed=is_prepare and source.armed,
    )
    effects = entered(before, spec.gate, devices=devices, message=message, again=again)
    return source, without_record(effects, EffectKind.MESSAGE) if _is_armed_commit(
        before, source
    ) else effects


def _is_armed_commit(before: Source, source: Source) -> bool:
    """Whether this is a step of a commit for which no record is needed. A COMMIT that is sent again waits
    for the record of the first one, so that at most one number is used without a record.
    """
    return source.armed and (before.state, source.state) in _ARMED_STEPS


def is_told_at_once(source: Source) -> bool:
    """Whether those who ask may hear the state of the handover before it is on record."""
    return source.armed and source.state is SourceState.COMMITTED


def is_armable(luns: tuple[LunHandover, ...]) -> bool:
    """Whether the LUNs show after a restart whether a commit was done."""
    return any(lun.migrate_pr and lun.tracked.key for lun in luns)


def _device_news(before: Source, source: Source) -> tuple[DeviceNews, ...]:
    """What to tell the guest's devices on this host when the handover enters another state."""
    if source.state is before.state:
        return ()
    if source.state in (SourceState.SETTLING, SourceState.CONCEDING):
        return departed(source.luns)
    if before.state is SourceState.CLOSING and source.state is SourceState.ASKING:
        return adopted(lun for lun in source.luns if lun.ran_there)
    # As long as the guest ran here, its devices knew best what it has. They ask the LUN when the gate opens.
    if before.state is SourceState.RETRACTING:
        return ()
    if source.state is SourceState.STAYED and before.gate is not source.gate:
        alone = before.state is SourceState.EVICTING
        return tuple(_stays(lun, alone=alone) for lun in source.luns)
    return ()


def _stays(lun: LunHandover, *, alone: bool) -> DeviceNews:
    """What to tell a device of a guest that stays. The guest gets its own unit attentions, but not those that
    the handover has caused on this host.

    If the guest may have run on the destination, the destination has reported which unit attentions the guest
    has not got. Without the destination (``alone``), this host does not know what the destination has done.
    """
    caused = (AdditionalSense.REGISTRATIONS_PREEMPTED,) if alone or lun.lost else ()
    passed = tuple(sorted(RESERVATION_ATTENTIONS)) if lun.ran_there else ()
    tracked, pass_on = (lun.tracked, lun.pending_attentions) if lun.migrate_pr else (None, ())
    return DeviceNews(lun.designator, tracked, drop=(*caused, *passed), pass_on=pass_on)
