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
    register_key,
    settle,
)
from holdover.handover.work_parts import (
    REMOVED,
    difference,
    is_no_holder,
    is_taken,
    preempt,
    unregister,
)

__all__ = ["claim", "evict", "isolate", "take"]


def isolate(lun: MovingLun) -> Steps[MovingLun]:
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
        yield from unregister(tracked, own)
        return replace(lun, tracked=UNREGISTERED)
    return lun


def _require_alone(lun: MovingLun, keys: tuple[int, ...]) -> None:
    key = lun.tracked.key
    if key in lun.others or keys.count(key) > lun.source_nexuses + lun.destination_nexuses:
        raise StepFailed(
            "PREEMPT",
            f"key {key:#x} stands on a third nexus too, which a PREEMPT from this host alone would remove",
        )


def evict(lun: MovingLun) -> Steps[MovingLun]:
    return _alone(lun, (lun.source_spare, lun.fresh_spare), lun.destination_spare, lun.source_nexuses)


def claim(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.tracked
    if (yield from own_key(tracked, (tracked.key, *lun.standing))) != tracked.key:
        raise StepFailed(
            "REGISTER (probe)",
            "the registration of this host's nexus is not what the guest had last: it was not prepared to "
            "its end",
        )
    if tracked.key == 0:
        return lun
    keys = yield from read_keys()
    if lun.source_spare not in keys:
        _require_alone(lun, keys)
    if not is_no_holder(tracked) and (yield from is_taken(tracked, lun.source_spare)):
        raise StepFailed(
            "READ RESERVATION",
            "the reservation is not the one that was prepared: the guest or a third node has changed it",
        )
    return lun


def take(lun: MovingLun) -> Steps[MovingLun]:
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
            raise StepFailed("REGISTER (probe)", REMOVED)
        return replace(lun, tracked=UNREGISTERED)
    if own == tracked.key:
        if theirs in (yield from read_keys()):
            yield from preempt(tracked, own, theirs, lun)
    else:
        yield from preempt(tracked, own, tracked.key, lun)
        if tracked.key in (yield from read_keys()):
            raise StepFailed("PREEMPT", f"key {tracked.key:#x} is still registered by the other host")
        yield from change_key(tracked, own, tracked.key, "REGISTER (re-key)")
    problem = yield from difference(tracked, lun, nexuses)
    if problem and (yield from is_taken(tracked, 0)):
        yield from unregister(tracked, tracked.key)
        return replace(lun, tracked=UNREGISTERED, standing=())
    if problem:
        raise StepFailed("PREEMPT", problem)
    yield from settle()
    return replace(lun, standing=(tracked.key,))
