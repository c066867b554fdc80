"""The reading of a LUN before a guest goes back that may have run on the destination after the commit.

What the guest established last must move, on whichever host it did so. So a roll back begins with what the
guest has on the destination. If the destination cannot be asked, the LUN must show that the guest has changed
nothing there. With an older picture, the roll back could free a reservation, or leave a key behind.
"""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from holdover.handover.changes import change_back, change_key
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.parts import hex_of
from holdover.handover.lun_work.source import known_of, whose, without
from holdover.handover.lun_work.unilateral import is_gone_from_both, require_alone
from holdover.handover.registrations import count_of, count_unexplained, keys_beside, keys_of_hosts
from holdover.reservations.own_key import Own, own_key
from holdover.reservations.questions import active_aptpl, read_keys, read_reservation
from holdover.reservations.steps import StepFailed, Steps
from holdover.reservations.tracked import Tracked
from holdover.scsi.reservation.reservation_in import Reservation


def ascertain(lun: LunHandover, stale: bool) -> Steps[LunHandover]:
    """`Work.ASCERTAIN`: find out, on the destination, what the guest has on this nexus.

    ``lun.tracked`` is what the guest's device tracks. ``lun.standing`` has all keys that may be
    registered here.

    Raises:
        StepFailed: It cannot be found out whose the reservation is, or the LUN refuses.
    """
    tracked = lun.tracked
    aptpl = yield from active_aptpl(tracked.aptpl)
    seen = replace(tracked, aptpl=aptpl)
    own = yield from own_key(seen, (tracked.key, *lun.standing, lun.destination_spare))
    if tracked.key and own.key == lun.destination_spare:
        own = yield from change_back(seen, own.key)  # `_is_held_here` was interrupted
    own, keys = yield from keys_beside(seen, own)
    here = count_of(lun, own)
    if own.key in lun.standing[:1]:
        # The registrations that the handover made here are still there, even if a path is away by now.
        here = max(here, lun.destination.count)
    third = yield from count_unexplained(lun, (own.key,), keys, 0, here)
    others = without(keys, own.key, here if own.key == 0 else keys.count(own.key) - third)
    if not lun.standing and own.key == 0:
        # The source may have rolled back alone, so a key that is new may be the guest's, registered there.
        others = known_of(others, lun.others)
    # A guest without a registration was fenced, or has unregistered. It must not be registered again.
    found = UNREGISTERED
    if own.key:
        is_known = own.key == tracked.key
        now = tracked if is_known else replace(seen, key=own.key)
        held = yield from read_reservation()
        if held is not None and is_known and third and _is_doubtful(tracked, held, stale):
            here_held = yield from _is_held_here(lun, seen)
            found = replace(
                tracked, type=held.type if here_held else None, scope=held.scope if here_held else 0
            )
        else:
            found = whose(now, held, keys.count(own.key), third, stale or not is_known)
    return replace(
        lun,
        tracked=found,
        aptpl=aptpl,
        destination=replace(lun.destination, count=max(1, here), several=bool(own.carried)),
        others=others,
        shared=third > 0,
        standing=tuple(key for key in dict.fromkeys((*lun.standing, own.key)) if key),
        registered_there=own.key != 0,
        ran_there=True,
    )


def _is_doubtful(tracked: Tracked, held: Reservation, stale: bool) -> bool:
    """Whether the reservation, whose key a third nexus has too, may be the guest's or that nexus's."""
    if held.type.all_registrants or held.key != tracked.key:
        return False
    return stale or (tracked.type is not None and (tracked.type, tracked.scope) != (held.type, held.scope))


def _is_held_here(lun: LunHandover, seen: Tracked) -> Steps[bool]:
    """Whether this nexus holds the reservation, although a third nexus has the same key.

    For a moment, this nexus registers a key that nobody has. If this nexus holds the reservation, READ
    RESERVATION then names that key. The guest does not run, so it cannot notice.

    Raises:
        StepFailed: A path of this host is away, and may be the one that holds the reservation.
    """
    own = yield from change_key(seen, seen.key, lun.destination_spare, "REGISTER (re-key)")
    held = yield from read_reservation()
    yield from change_back(seen, lun.destination_spare)
    is_away = bool(own.carried) and len(own.carried) < lun.destination.paths
    if is_away and held is not None and held.key == seen.key:
        raise StepFailed(
            "READ RESERVATION",
            f"the reservation is held with key {held.key:#x} by a path of this host that is away or by "
            "another node; bring all paths back (multipath -ll), then repeat",
        )
    return held is not None and held.key == lun.destination_spare


def weigh(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.WEIGH`: check, on the source, that the source can go on without the destination.

    The LUN must show that the guest has what was committed or, if nothing was committed, what it had
    before. No third nexus may have the guest's key.

    Raises:
        StepFailed: One of these is not true; the message says which, and what to do.
    """
    # A guest that was committed may have run on the destination. What it was committed with must be there.
    return (yield from _weighed(lun, lun))


def assess(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.ASSESS`: as `weigh`, before a commit. If the source is not registered any more, the LUN must show
    that the destination has nothing of the guest either: then another node has fenced the guest.

    Raises:
        StepFailed: As `weigh`.
    """
    return (yield from _weighed(lun, replace(lun, tracked=UNREGISTERED)))


def _weighed(lun: LunHandover, there: LunHandover) -> Steps[LunHandover]:
    """``there`` has what the guest must have on the destination, if the source is not registered."""
    tracked = lun.tracked
    aptpl = yield from active_aptpl(tracked.aptpl)
    seen = replace(tracked, aptpl=aptpl)
    own = Own(0)
    if tracked.key:
        own = yield from own_key(seen, (tracked.key, lun.source_spare), (lun.fresh_spare,))
    # If the source is registered, either there was no commit, so that the guest could not run there, or the
    # source has registered again. Else the guest may have run there, also after the destination has reported
    # what it had: the destination may have taken it since, while this host was down.
    if own.key == 0:
        yield from _require_as_committed(there, aptpl)
    if tracked.key and (own.key or not (yield from is_gone_from_both(lun))):
        own, keys = yield from keys_beside(seen, own)
        yield from require_alone(lun, own, keys)
    return replace(lun, aptpl=aptpl)


def _require_as_committed(lun: LunHandover, aptpl: bool) -> Steps[None]:
    """Check that the LUN has what was committed for the guest; else StepFailed. ``aptpl`` is the LUN's."""
    tracked = lun.tracked
    named = yield from keys_of_hosts(lun)
    keys = (yield from read_keys()) if named is None else named
    # This handover's own keys do not show what the guest did.
    known = Counter((*lun.others, *lun.spares) if named is None else lun.spares)
    added = tuple(sorted((Counter(keys) - known).elements()))
    if tracked.key == 0:
        if lun.destination_spare in keys:
            _refuse(
                "the guest is not registered here any more, and the destination has a key of this handover: "
                "it has begun to take the guest's registration"
            )
        if added:
            _refuse(f"key {hex_of(added)} is registered, and the guest is not registered here")
        return
    if tracked.key in lun.others and (named is None or tracked.key in keys):
        _refuse(
            f"key {tracked.key:#x} is registered on a third nexus too, which a PREEMPT from here would remove"
        )
    if tracked.key not in keys:
        if added:
            _refuse(
                f"key {tracked.key:#x}, which was committed, is gone, and {hex_of(added)} is registered now"
            )
        if lun.destination_spare not in keys:
            return
    problem = _other_reservation(lun, (yield from read_reservation()))
    if not problem and tracked.aptpl and not aptpl:
        problem = "APTPL was committed, and has been turned off since"
    if problem:
        _refuse(problem)


def _other_reservation(lun: LunHandover, held: Reservation | None) -> str:
    """How the reservation differs from what was committed; empty if it does not differ."""
    tracked = lun.tracked
    ours = (tracked.key, lun.destination_spare)
    is_ours = held is not None and (held.type.all_registrants or held.key in ours)
    seen = "none"
    if held is not None:
        seen = held.type.short_name
        seen += "" if held.type.all_registrants else f" with key {held.key:#x}"
    if tracked.type is None:
        return f"no reservation was committed, and the guest's is now: {seen}" if is_ours else ""
    if held is not None and is_ours and (held.type, held.scope) == (tracked.type, tracked.scope):
        return ""
    return (
        f"{tracked.type.short_name} with key {tracked.key:#x} was committed, the reservation is now: {seen}"
    )


def _refuse(problem: str) -> None:
    raise StepFailed(
        "READ KEYS",
        f"{problem}. The guest may have changed that on the destination, so it is not rolled back without "
        "that host. Start the destination's agent: then the roll back goes on by itself. If that host is "
        "dead for good, remove what the guest has there (holdover pr status; holdover pr preempt from a "
        "registered initiator, or holdover pr clear), then ask for holdover handover rollback --alone again",
    )
