"""What is done on a LUN in each state of a handover, as steps that any path, or a test, can run.

`steps_of` gives the steps of one kind of `Work` on one LUN. They take the LUN as the handover knows it and
return it as it is known afterwards. Work is done on all LUNs of a guest at once.

Rules for whoever edits this file: all work may run twice, from its beginning, after a crash in the middle of
it, and must then end in the same. An answer that never came is neither failure nor success: the steps ask
the LUN, or repeat a command whose repetition shows what is true. No step may unregister a nexus that holds a
reservation of a type other than all registrants: that would free it. Nothing may name a key in a PREEMPT that
could stand on a third nexus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from holdover.guest.scsi_block import Tracked
from holdover.handover.moving import UNREGISTERED, MovingLun
from holdover.handover.steps import (
    ATTEMPTS,
    StepFailed,
    Steps,
    change_key,
    own_key,
    read_keys,
    read_reservation,
    register_key,
    settle,
    tell,
)
from holdover.scsi.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation_in import Reservation
from holdover.scsi.reservation_out import out_command
from holdover.scsi.sense import describe_response
from holdover.scsi.status import Status

__all__ = ["Work", "steps_of"]


class Work(Enum):
    """What is done on the LUNs. `DRAIN` is the host's own: no command of ours reaches the LUN."""

    CHECK = "check"
    """Source, before the destination is asked: is what was tracked true?"""
    CONFIRM = "confirm"
    """Source, after the destination has registered: is it still true, and is the key on third nexuses?"""
    DRAIN = "drain"
    """Source: the gate is shut; wait for the guest's commands in flight."""
    GIVE = "give"
    """Source: re-key or unregister where the destination's PREEMPT alone would hurt a third or do nothing."""
    SETTLE = "settle"
    """Source: clear the unit attentions that the handover has left on its nexus."""
    ASK = "ask"
    """Roll back, source: has its registration been lost?"""
    RECLAIM = "reclaim"
    """Roll back, source: its registration as it was."""
    TAKE_BACK = "take back"
    """Roll back, source: PREEMPT where the reservation has moved."""
    ISOLATE = "isolate"
    """Roll back, source, while the destination cannot be asked: a key on its nexus that the other has not."""
    EVICT = "evict"
    """Roll back, source, while the destination cannot be asked: remove its registration."""
    REGISTER = "register"
    """Destination: the guest's key on its nexus."""
    PREEMPT = "preempt"
    """Destination: move the reservation."""
    PROBE = "probe"
    """Roll back, destination: the gate is shut; is the guest's key on its nexus?"""
    RETURN = "return"
    """Roll back, destination: unregister, or make ready for the source's PREEMPT."""
    VERIFY = "verify"
    """Destination, when the guest runs there: is all as it should be, for third nexuses too?"""
    CLAIM = "claim"
    """Destination, when the source is dead: can everything be moved without it?"""
    TAKE = "take"
    """Destination, when the source is dead: move everything without it."""
    WITHDRAW = "withdraw"
    """Destination, when the source has rolled back without it: remove what may be left."""


def steps_of(work: Work, lun: MovingLun, *, stale: bool = False) -> Steps[MovingLun]:
    """The steps of ``work`` on one LUN.

    Args:
        work: What is done.
        lun: What is known of the LUN.
        stale: ``lun.tracked`` may be wrong (only looked at by `Work.CHECK` and `Work.CONFIRM`).

    Returns:
        The LUN as it is known afterwards.

    Raises:
        StepFailed: It cannot be done; the message says what is true.
    """
    if not lun.migrate_pr or work is Work.DRAIN:
        return _nothing(lun)
    if work is Work.CHECK:
        return _confirm(lun, lun.source_nexuses, stale)
    if work is Work.CONFIRM:
        return _confirm(lun, lun.source_nexuses + lun.destination_nexuses, stale)
    return _STEPS[work](lun)


def _nothing(lun: MovingLun) -> Steps[MovingLun]:
    yield from ()
    return lun


# -- the source -----------------------------------------------------------------------------------


def _confirm(lun: MovingLun, nexuses: int, stale: bool) -> Steps[MovingLun]:
    """``nexuses``: on how many the guest's key stands by our own doing."""
    tracked = lun.tracked
    own = yield from own_key(tracked, (tracked.key,))
    keys = yield from read_keys()
    ours = Counter({tracked.key: nexuses if own else nexuses - lun.source_nexuses})
    others = tuple(sorted((Counter(keys) - ours).elements()))
    if own == 0:
        return replace(lun, tracked=UNREGISTERED, shared=False, others=others)
    held = yield from read_reservation()
    found = _whose(tracked, held, keys.count(tracked.key), nexuses, stale)
    return replace(lun, tracked=found, shared=tracked.key in others, others=others)


def _whose(tracked: Tracked, held: Reservation | None, count: int, nexuses: int, stale: bool) -> Tracked:
    """What the guest holds, when its key stands on its nexus and on ``count`` in all."""
    if held is None or (not held.type.all_registrants and held.key != tracked.key):
        return replace(tracked, type=None, scope=0)
    is_known = not stale and tracked.type is held.type and tracked.scope == held.scope
    if held.type.all_registrants or count <= nexuses or is_known:
        return replace(tracked, type=held.type, scope=held.scope)
    if tracked.type is None and not stale:
        return tracked
    seen = "nothing" if tracked.type is None else f"type {tracked.type.short_name}"
    raise StepFailed(
        "READ RESERVATION",
        f"the guest was seen to hold {seen}{' some time ago' if stale else ''}, the LUN says "
        f"{held.type.short_name} for key {held.key:#x}, which stands on {count} nexuses: whose it is "
        "cannot be told",
    )


def _give(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.tracked
    if tracked.key == 0:
        return replace(lun, prey=0)
    if _is_no_holder(tracked):
        yield from change_key(tracked, tracked.key, 0, "REGISTER (unregister)")
        return replace(lun, prey=0)
    if _must_rekey(lun, lun.destination_nexuses):
        yield from change_key(tracked, tracked.key, lun.source_spare, "REGISTER (re-key)")
        return replace(lun, prey=lun.source_spare)
    return replace(lun, prey=tracked.key)


def _settle(lun: MovingLun) -> Steps[MovingLun]:
    yield from settle()
    return lun


def _ask(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.tracked
    if tracked.key == 0:
        return replace(lun, lost=False)
    own = yield from own_key(tracked, (tracked.key, lun.source_spare))
    if own == 0 and not lun.registered_there:
        # on neither host: somebody else has removed the guest's registrations, as a cluster does to fence it
        return replace(lun, tracked=UNREGISTERED, lost=False)
    # once lost and registered again it does not look lost, but what it held is not back
    return replace(lun, lost=lun.lost or own == 0)


def _reclaim(lun: MovingLun) -> Steps[MovingLun]:
    tracked, spare = lun.tracked, lun.destination_spare
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, lun.source_spare))
    if not lun.lost:
        if own == 0:
            return replace(lun, tracked=UNREGISTERED)
        if own == lun.source_spare:
            yield from change_key(tracked, lun.source_spare, tracked.key, "REGISTER (re-key)")
        return lun
    if own == 0:
        yield from register_key(tracked, tracked.key)
    keys = yield from read_keys()
    if keys.count(tracked.key) + keys.count(spare) <= lun.source_nexuses:
        # whoever removed the guest's registration from the destination meant this one too
        yield from _unregister(tracked, tracked.key)
        return replace(lun, tracked=UNREGISTERED)
    return lun


def _take_back(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.tracked
    if tracked.key == 0:
        return lun
    if (yield from own_key(tracked, (tracked.key,))) == 0:
        if lun.prey != lun.destination_spare or lun.prey not in (yield from read_keys()):
            return replace(lun, tracked=UNREGISTERED)
        yield from register_key(tracked, tracked.key)
    refusal = ""
    if lun.lost and lun.prey:
        refusal = yield from _preempt(tracked, tracked.key, lun.prey, lun)
    problem = yield from _difference(tracked, lun, lun.source_nexuses)
    if problem and (yield from _is_taken(tracked, lun.prey)):
        # whoever took the reservation has removed the guest's registrations; ours came after that
        yield from _unregister(tracked, tracked.key)
        problem = ""
        lun = replace(lun, tracked=UNREGISTERED)
    if problem:
        raise StepFailed("PREEMPT", problem + refusal)
    yield from settle()
    return lun


# -- the destination ------------------------------------------------------------------------------


def _register(lun: MovingLun) -> Steps[MovingLun]:
    yield from settle()
    tracked = lun.tracked
    standing = tuple(key for key in lun.standing if key not in (0, tracked.key))
    own = yield from own_key(tracked, (tracked.key, *standing))
    if own not in (0, tracked.key):
        yield from change_key(tracked, own, tracked.key, "REGISTER")
    elif own == 0 and tracked.key != 0:
        yield from register_key(tracked, tracked.key)
    return replace(lun, standing=(tracked.key,) if tracked.key else ())


def _preempt_from_source(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.tracked
    if tracked.key == 0:
        return lun
    if lun.prey == 0:
        if (yield from own_key(tracked, (tracked.key,))) == 0:
            raise StepFailed("REGISTER (probe)", _REMOVED)
        return lun
    refusal = yield from _preempt(tracked, tracked.key, lun.prey, lun)
    if refusal:
        problem = yield from _difference(tracked, lun, lun.destination_nexuses)
        if problem:
            raise StepFailed("PREEMPT", problem + refusal)
    return lun


_REMOVED = "somebody else has removed the guest's registration"


def _probe(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.tracked
    if tracked.key == 0:
        return replace(lun, registered_there=False)
    own = yield from own_key(tracked, (tracked.key, *lun.standing, lun.destination_spare))
    return replace(lun, registered_there=own in (tracked.key, lun.destination_spare))


def _return(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.tracked
    own = yield from own_key(tracked, (tracked.key, *lun.standing, lun.destination_spare))
    if own == 0:
        return replace(lun, prey=0)
    if not lun.lost:
        yield from _require_no_reservation(lun, own)
        yield from _unregister(tracked, own)
        return replace(lun, prey=0)
    if _is_no_holder(tracked):
        yield from change_key(tracked, own, 0, "REGISTER (unregister)")
        return replace(lun, prey=0)
    if _must_rekey(lun, lun.source_nexuses) and own != lun.destination_spare:
        yield from change_key(tracked, own, lun.destination_spare, "REGISTER (re-key)")
        own = lun.destination_spare
    return replace(lun, prey=own)


def _verify(lun: MovingLun) -> Steps[MovingLun]:
    yield from settle()
    tracked = lun.tracked
    keys = yield from read_keys()
    ours = Counter({tracked.key: lun.destination_nexuses}) if tracked.key else Counter[int]()
    others = tuple(sorted((Counter(keys) - ours).elements()))
    problem = yield from _difference(tracked, lun, lun.destination_nexuses)
    if not problem and others != lun.others:
        problem = (
            f"the registrations of third nexuses were {_hex(lun.others)} and are {_hex(others)}: "
            "if no node registered or unregistered meanwhile, look into it"
        )
    return replace(lun, alarm=problem)


def _withdraw(lun: MovingLun) -> Steps[MovingLun]:
    own = yield from own_key(lun.tracked, (lun.tracked.key, *lun.standing, lun.destination_spare))
    if own:
        yield from _require_no_reservation(lun, own)
        yield from _unregister(lun.tracked, own)
    return lun


# -- one side without the other -------------------------------------------------------------------
#
# This side's nexus takes a key that nobody has, so that a PREEMPT of the guest's key names the other side
# alone. What was so before is told by which key it took: the journal is asked to keep nothing in between.


def _isolate(lun: MovingLun) -> Steps[MovingLun]:
    tracked, mine, fresh = lun.tracked, lun.source_spare, lun.fresh_spare
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, mine, fresh))
    keys = yield from read_keys()
    if lun.destination_spare in keys:
        # it was to be preempted from here, and its key says so without a word from the other side
        prey, wanted = lun.destination_spare, tracked.key
    else:
        prey, wanted = tracked.key, fresh
        _require_alone(lun, keys)
    if own == 0:
        if prey not in keys:
            return replace(lun, tracked=UNREGISTERED)
        yield from register_key(tracked, wanted)
        own = wanted
        keys = yield from read_keys()
    elif own == tracked.key != wanted and keys.count(own) > lun.source_nexuses:
        yield from change_key(tracked, own, mine, "REGISTER (re-key)")
    if own == wanted and prey not in keys:
        # whoever removed the guest's registration from the other side meant this one too
        yield from _unregister(tracked, own)
        return replace(lun, tracked=UNREGISTERED)
    return lun


def _require_alone(lun: MovingLun, keys: tuple[int, ...]) -> None:
    key = lun.tracked.key
    if key in lun.others or keys.count(key) > lun.source_nexuses + lun.destination_nexuses:
        raise StepFailed(
            "PREEMPT",
            f"key {key:#x} stands on a third nexus too, which a PREEMPT from this host alone would remove",
        )


def _evict(lun: MovingLun) -> Steps[MovingLun]:
    return _alone(lun, (lun.source_spare, lun.fresh_spare), lun.destination_spare, lun.source_nexuses)


def _claim(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.tracked
    if tracked.key == 0:
        return lun
    if (yield from own_key(tracked, (tracked.key,))) == 0:
        raise StepFailed(
            "REGISTER (probe)", "the guest's key is not on this host's nexus: it was not prepared"
        )
    keys = yield from read_keys()
    if lun.source_spare not in keys:
        _require_alone(lun, keys)
    if not _is_no_holder(tracked) and (yield from _is_taken(tracked, lun.source_spare)):
        raise StepFailed(
            "READ RESERVATION",
            "the reservation is not the one that was prepared: the guest or a third node has changed it",
        )
    return lun


def _take(lun: MovingLun) -> Steps[MovingLun]:
    tracked, mine = lun.tracked, lun.destination_spare
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, mine))
    keys = yield from read_keys()
    if lun.source_spare not in keys:
        _require_alone(lun, keys)
        if own == tracked.key and keys.count(own) > lun.destination_nexuses:
            yield from change_key(tracked, own, mine, "REGISTER (re-key)")
    return (yield from _alone(lun, (mine,), lun.source_spare, lun.destination_nexuses))


def _alone(lun: MovingLun, mine: tuple[int, ...], theirs: int, nexuses: int) -> Steps[MovingLun]:
    """Everything of the guest to this nexus, nothing left on the other side's, which cannot be asked."""
    tracked = lun.tracked
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, *mine))
    if own == 0:
        if tracked.key in (yield from read_keys()):
            raise StepFailed("REGISTER (probe)", _REMOVED)
        return replace(lun, tracked=UNREGISTERED)
    if own == tracked.key:
        if theirs in (yield from read_keys()):
            yield from _preempt(tracked, own, theirs, lun)
    else:
        yield from _preempt(tracked, own, tracked.key, lun)
        if tracked.key in (yield from read_keys()):
            raise StepFailed("PREEMPT", f"key {tracked.key:#x} is still registered by the other host")
        yield from change_key(tracked, own, tracked.key, "REGISTER (re-key)")
    problem = yield from _difference(tracked, lun, nexuses)
    if problem and (yield from _is_taken(tracked, 0)):
        yield from _unregister(tracked, tracked.key)
        return replace(lun, tracked=UNREGISTERED, standing=())
    if problem:
        raise StepFailed("PREEMPT", problem)
    yield from settle()
    return replace(lun, standing=(tracked.key,))


# -- parts ----------------------------------------------------------------------------------------


def _is_no_holder(tracked: Tracked) -> bool:
    """Whether there is no reservation that a PREEMPT would have to move."""
    return tracked.type is None or tracked.type.all_registrants


def _must_rekey(lun: MovingLun, preempting: int) -> bool:
    """Whether a PREEMPT of the guest's own key would remove more than the other host's registrations.

    It spares the nexus that it comes by, and no third one with that key; nor, where a host has
    ``preempting`` nexuses to the LUN, the others of that very host.
    """
    return lun.shared or preempting > 1


def _preempt(tracked: Tracked, key: int, prey: int, lun: MovingLun) -> Steps[str]:
    """PREEMPT ``prey`` until it is answered; what the LUN said if that was not GOOD."""
    kind = tracked.type or ReservationType.WRITE_EXCLUSIVE  # ignored where no reservation is preempted
    command = out_command(OutServiceAction.PREEMPT, key, prey, type=kind, scope=tracked.scope)
    for _ in range(ATTEMPTS):
        response = yield from tell(command, "PREEMPT")
        if response is None:
            # it may have been carried out, and a repetition may then remove what it left
            if not (yield from _is_there(prey, key, lun)):
                return "; its answer was lost"
            continue
        return "" if response.good else f"; the LUN answered {describe_response(response)}"
    raise StepFailed("PREEMPT", "the LUN's answers are lost again and again; the reservation is in doubt")


def _is_there(prey: int, key: int, lun: MovingLun) -> Steps[bool]:
    """Whether ``prey`` is still to be preempted by a nexus registered with ``key``."""
    keys = yield from read_keys()
    ours = lun.source_nexuses if prey == key and lun.lost else lun.destination_nexuses
    return keys.count(prey) > (ours if prey == key else 0)


def _difference(tracked: Tracked, lun: MovingLun, nexuses: int) -> Steps[str]:
    """How the LUN's state differs from what the guest established on this nexus; empty when it does not."""
    if tracked.key == 0:
        return ""
    if (yield from own_key(tracked, (tracked.key,))) == 0:
        return _REMOVED
    keys = yield from read_keys()
    for spare in (lun.source_spare, lun.destination_spare, lun.fresh_spare):
        if spare and spare in keys:
            return f"key {spare:#x}, which this handover used, is still registered"
    if not lun.shared and keys.count(tracked.key) > nexuses:
        return f"key {tracked.key:#x} is registered on {keys.count(tracked.key)} nexuses"
    if tracked.type is None:
        return ""
    held = yield from read_reservation()
    if held is None:
        return f"no reservation is held, {tracked.type.short_name} is wanted"
    if held.type is not tracked.type or held.scope != tracked.scope:
        return f"the reservation is of type {held.type.short_name}, {tracked.type.short_name} is wanted"
    if not held.type.all_registrants and held.key != tracked.key:
        return f"the reservation is held with key {held.key:#x}, {tracked.key:#x} is wanted"
    return ""


def _is_taken(tracked: Tracked, prey: int) -> Steps[bool]:
    """Whether the reservation that the guest held, if it held one, is with somebody else or nobody."""
    if tracked.type is None:
        return False
    held = yield from read_reservation()
    return held is None or (not held.type.all_registrants and held.key not in (tracked.key, prey))


def _require_no_reservation(lun: MovingLun, own: int) -> Steps[None]:
    """Raise StepFailed if to unregister this nexus would free a reservation."""
    held = yield from read_reservation()
    if held is None or held.type.all_registrants or held.key != own:
        return
    keys = yield from read_keys()
    if keys.count(own) <= lun.destination_nexuses:
        raise StepFailed(
            "REGISTER (unregister)",
            f"this nexus holds the reservation {held.type.short_name}, which would be freed",
        )


def _unregister(tracked: Tracked, key: int) -> Steps[None]:
    """Remove ``key`` from this nexus; a conflict says that it does not stand there, as is wanted."""
    command = out_command(OutServiceAction.REGISTER, key, 0, aptpl=tracked.aptpl)
    for _ in range(ATTEMPTS):
        response = yield from tell(command, "REGISTER (unregister)")
        if response is None:
            continue
        if response.good or response.status is Status.RESERVATION_CONFLICT:
            return
        raise StepFailed("REGISTER (unregister)", f"the LUN answers {describe_response(response)}")
    raise StepFailed("REGISTER (unregister)", "the LUN's answers are lost again and again")


def _hex(keys: tuple[int, ...]) -> str:
    return ", ".join(f"{key:#x}" for key in keys) or "none"


_STEPS: dict[Work, Callable[[MovingLun], Steps[MovingLun]]] = {
    Work.GIVE: _give,
    Work.SETTLE: _settle,
    Work.ASK: _ask,
    Work.RECLAIM: _reclaim,
    Work.TAKE_BACK: _take_back,
    Work.ISOLATE: _isolate,
    Work.EVICT: _evict,
    Work.REGISTER: _register,
    Work.PREEMPT: _preempt_from_source,
    Work.PROBE: _probe,
    Work.RETURN: _return,
    Work.VERIFY: _verify,
    Work.CLAIM: _claim,
    Work.TAKE: _take,
    Work.WITHDRAW: _withdraw,
}
