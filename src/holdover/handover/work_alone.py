"""What one side does on a LUN without the other, which cannot be asked; `holdover.handover.work` says when.

This side's nexus takes a key that nobody has, so that a PREEMPT of the guest's key names the other side
alone. What was so before is told by which key it took: the journal is asked to keep nothing in between.
"""

from __future__ import annotations

from dataclasses import replace

from holdover.handover.moving import UNREGISTERED, MovingLun
from holdover.handover.steps import (
    StepFailed,
    Steps,
    change_key,
    own_key,
    read_keys,
    read_reservation,
    register_key,
    settle,
)
from holdover.handover.work_parts import (
    difference,
    is_no_holder,
    is_on_a_third,
    is_taken,
    preempt,
    unregister,
)
from holdover.scsi.reservation_in import Reservation

__all__ = ["claim", "evict", "isolate", "take"]


_SHARED = "key {:#x} stands on a third nexus too, which a PREEMPT from this host alone would remove"


def isolate(lun: MovingLun) -> Steps[MovingLun]:
    tracked, mine, fresh = lun.as_registered, lun.source_spare, lun.fresh_spare
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
        yield from unregister(tracked, own)
        return replace(lun, tracked=UNREGISTERED)
    return lun


def _require_alone(lun: MovingLun, keys: tuple[int, ...]) -> None:
    key = lun.tracked.key
    if key in lun.others or is_on_a_third(lun, keys):
        raise StepFailed("PREEMPT", _SHARED.format(key))


def evict(lun: MovingLun) -> Steps[MovingLun]:
    return _alone(lun, _spares_of_source(lun), (lun.destination_spare,), lun.source_nexuses)


def claim(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.as_registered
    if (yield from own_key(tracked, (tracked.key, *lun.standing))) != tracked.key:
        raise StepFailed(
            "REGISTER (probe)",
            "the registration of this host's nexus is not what the guest had last: it was not prepared to "
            "its end",
        )
    if tracked.key == 0:
        return lun
    keys = yield from read_keys()
    spares = [key for key in _spares_of_source(lun) if key in keys]
    if not spares:
        _require_alone(lun, keys)
        lun = replace(lun, shared=False)  # perhaps the guest had another key when it was
    if not _is_as_prepared(lun, (yield from read_reservation())):
        raise StepFailed(
            "READ RESERVATION",
            "the reservation is not the one that was prepared: the guest or a third node has changed it",
        )
    may_have_preempted = lun.prey != 0 and not is_no_holder(tracked)
    if not spares and not may_have_preempted and keys.count(tracked.key) <= lun.destination_nexuses:
        raise StepFailed(
            "READ KEYS",
            "the source's registration is not there any more: it has unregistered, or a third node has "
            "removed the guest's registration before the destination made its own, or both hosts are one "
            "and the same nexus (do they have one InitiatorName?)",
        )
    return lun


def _is_as_prepared(lun: MovingLun, held: Reservation | None) -> bool:
    """Whether the reservation is what the guest had when it was prepared, or on its way from there."""
    tracked = lun.tracked
    if held is None:
        return tracked.type is None
    if held.type.all_registrants:
        return tracked.type is held.type
    if tracked.type is None:
        return held.key not in _spares_of_source(lun) and (held.key != tracked.key or lun.shared)
    ours = (tracked.key, *_spares_of_source(lun))
    return held.key in ours and (held.type, held.scope) == (tracked.type, tracked.scope)


def take(lun: MovingLun) -> Steps[MovingLun]:
    tracked, mine = lun.as_registered, lun.destination_spare
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, mine))
    keys = yield from read_keys()
    if own == 0:
        return replace(lun, tracked=UNREGISTERED)
    spares = [key for key in _spares_of_source(lun) if key in keys]
    # with a key that a third has too there is nothing to be removed but the source's spare key
    if not spares and not lun.shared:
        _require_alone(lun, keys)
        if own == tracked.key and keys.count(own) > lun.destination_nexuses:
            yield from change_key(tracked, own, mine, "REGISTER (re-key)")
    return (yield from _alone(lun, (mine,), _spares_of_source(lun), lun.destination_nexuses))


def _spares_of_source(lun: MovingLun) -> tuple[int, ...]:
    return (lun.source_spare, lun.fresh_spare)


def _alone(lun: MovingLun, mine: tuple[int, ...], theirs: tuple[int, ...], nexuses: int) -> Steps[MovingLun]:
    """Everything of the guest to this nexus, nothing left on the other side's, which cannot be asked."""
    tracked = lun.as_registered
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, *mine))
    if own == 0:
        # a late PREEMPT of the other side may have come after this side took its key
        if lun.fresh_spare not in mine or tracked.key not in (yield from read_keys()):
            return replace(lun, tracked=UNREGISTERED)
        own = lun.fresh_spare
        yield from register_key(tracked, own)
        if tracked.key not in (yield from read_keys()):
            yield from unregister(tracked, own)
            return replace(lun, tracked=UNREGISTERED)
    if own != tracked.key:
        keys = yield from read_keys()
        if keys.count(tracked.key) > lun.source_nexuses + lun.destination_nexuses - nexuses:
            raise StepFailed("PREEMPT", _SHARED.format(tracked.key))
        yield from preempt(tracked, own, tracked.key, lun)
        if tracked.key in (yield from read_keys()):
            raise StepFailed("PREEMPT", f"key {tracked.key:#x} is still registered by the other host")
        yield from change_key(tracked, own, tracked.key, "REGISTER (re-key)")
    keys = yield from read_keys()
    for spare in theirs:
        if spare in keys:
            yield from preempt(tracked, tracked.key, spare, lun)
    yield from settle()
    problem = yield from difference(tracked, lun, None)
    if problem and (yield from is_taken(tracked, ())):
        yield from unregister(tracked, tracked.key)
        return replace(lun, tracked=UNREGISTERED, standing=())
    if problem:
        raise StepFailed("PREEMPT", problem)
    return replace(lun, standing=(tracked.key,))
