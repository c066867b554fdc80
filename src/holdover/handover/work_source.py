"""What the source does on a LUN; `holdover.handover.work` says when."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from holdover.guest.scsi_block import Tracked
from holdover.handover.moving import UNREGISTERED, MovingLun
from holdover.handover.steps import (
    StepFailed,
    Steps,
    active_aptpl,
    change_key,
    own_key,
    read_keys,
    read_reservation,
    register_key,
    settle,
    which_key,
)
from holdover.handover.work_parts import (
    as_it_is_now,
    difference,
    is_no_holder,
    is_on_a_third,
    is_taken,
    must_rekey,
    preempt,
    require_rekeyed,
    unregister,
)
from holdover.scsi.reservation_in import Reservation

__all__ = ["ask_whether_lost", "clear_attentions", "confirm", "give", "reclaim", "take_back", "yield_up"]


def confirm(lun: MovingLun, nexuses: int, stale: bool) -> Steps[MovingLun]:
    """``nexuses``: on how many the guest's key stands by our own doing."""
    tracked = lun.tracked
    aptpl = yield from active_aptpl(tracked.aptpl)
    own = yield from own_key(replace(tracked, aptpl=aptpl), (tracked.key,))
    keys = yield from read_keys()
    ours = Counter({tracked.key: nexuses if own else nexuses - lun.source_nexuses})
    others = tuple(sorted((Counter(keys) - ours).elements()))
    if own == 0:
        return replace(lun, tracked=UNREGISTERED, shared=False, others=others, aptpl=aptpl)
    if nexuses > lun.source_nexuses and keys.count(tracked.key) < 2:
        raise StepFailed(
            "READ KEYS",
            f"key {tracked.key:#x} stands on one nexus alone: the destination's registration was removed, or "
            "both hosts are one and the same nexus (do they have one InitiatorName?)",
        )
    held = yield from read_reservation()
    found = _whose(tracked, held, keys.count(tracked.key), nexuses, stale)
    return replace(lun, tracked=found, shared=tracked.key in others, others=others, aptpl=aptpl)


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


def give(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.as_registered
    if tracked.key == 0:
        return replace(lun, prey=0)
    if is_no_holder(tracked):
        yield from change_key(tracked, tracked.key, 0, "REGISTER (unregister)")
        return replace(lun, prey=0)
    if must_rekey(lun):
        yield from change_key(tracked, tracked.key, lun.source_spare, "REGISTER (re-key)")
        yield from require_rekeyed(lun, lun.source_spare)
        return replace(lun, prey=lun.source_spare)
    return replace(lun, prey=tracked.key)


def clear_attentions(lun: MovingLun) -> Steps[MovingLun]:
    yield from settle()
    return lun


def yield_up(lun: MovingLun) -> Steps[MovingLun]:
    # the guest's key may have been removed from the other host, and its reservation be held with a spare here
    tracked = yield from as_it_is_now(lun)
    own = yield from which_key(tracked, (tracked.key, lun.source_spare, lun.fresh_spare))
    if own:
        yield from unregister(tracked, own)
    yield from settle()
    return lun


def ask_whether_lost(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.as_registered
    if tracked.key == 0:
        return replace(lun, lost=False)
    own = yield from own_key(tracked, (tracked.key, lun.source_spare))
    if own == 0 and not lun.registered_there:
        # on neither host: somebody else has removed the guest's registrations, as a cluster does to fence it
        return replace(lun, tracked=UNREGISTERED, lost=False)
    # once lost and registered again it does not look lost, but what it held is not back
    return replace(lun, lost=lun.lost or own == 0)


def reclaim(lun: MovingLun) -> Steps[MovingLun]:
    tracked, spare = lun.as_registered, lun.destination_spare
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
        yield from unregister(tracked, tracked.key)
        return replace(lun, tracked=UNREGISTERED)
    return replace(lun, shared=is_on_a_third(lun, keys))


def take_back(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.as_registered
    if tracked.key == 0:
        return lun
    if (yield from own_key(tracked, (tracked.key,))) == 0:
        if lun.prey != lun.destination_spare or lun.prey not in (yield from read_keys()):
            return replace(lun, tracked=UNREGISTERED)
        yield from register_key(tracked, tracked.key)
    refusal = ""
    if lun.lost and lun.prey:
        refusal = yield from preempt(tracked, tracked.key, lun.prey, lun)
    # what comes after this is the guest's to know
    yield from settle()
    problem = yield from difference(tracked, lun, lun.source_nexuses if refusal else None)
    if problem and (yield from is_taken(tracked, (lun.prey,))):
        # whoever took the reservation has removed the guest's registrations; ours came after that
        yield from unregister(tracked, tracked.key)
        problem = ""
        lun = replace(lun, tracked=UNREGISTERED)
    if problem:
        raise StepFailed("PREEMPT", problem + refusal)
    return lun
