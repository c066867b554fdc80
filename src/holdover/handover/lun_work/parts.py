"""Functions that several kinds of work on a LUN share."""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from holdover.handover.changes import change_back, change_key, preempt
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.registrations import count_of, keys_beside
from holdover.reservations.own_key import Own, find_key, own_key, probe
from holdover.reservations.questions import active_aptpl, read_full_status, read_keys, read_reservation
from holdover.reservations.steps import ATTEMPTS, StepFailed, Steps
from holdover.reservations.tracked import Tracked
from holdover.scsi.sense import AdditionalSense

REMOVED = "another node has removed the guest's registration from the LUN"


def removed(lun: LunHandover) -> LunHandover:
    """The LUN after another node has removed the guest's registration, as a cluster does to fence the guest.

    The guest must get a unit attention for that. The source's nexus got one if it was still registered; then
    the source's device keeps it for the guest. If the handover itself had removed the source's registration,
    the unit attention is added here.
    """
    told = (
        () if not (lun.source_was_registered or lun.lost) else (int(AdditionalSense.REGISTRATIONS_PREEMPTED),)
    )
    return replace(
        lun,
        tracked=UNREGISTERED,
        shared=False,
        preempted_key=0,
        pending_attentions=tuple(dict.fromkeys((*lun.pending_attentions, *told))),
    )


def is_no_holder(tracked: Tracked) -> bool:
    """Whether the guest holds no reservation that a PREEMPT would have to move."""
    return tracked.type is None or tracked.type.all_registrants


def must_rekey(lun: LunHandover) -> bool:
    """Whether a PREEMPT of the guest's own key would remove more than the other host's registrations.

    A PREEMPT does not remove the registration of the nexus that sends it. It removes all others with that
    key: those of third nexuses and, if the sending host has several nexuses, those of that host too. Besides,
    if a path of the other host comes back later, multipathd there registers it again if it finds the key on
    the LUN.
    """
    return lun.shared or lun.source.several or lun.destination.several


def is_held_elsewhere(lun: LunHandover, spare: int) -> Steps[bool]:
    """Whether a path that is away holds the reservation. This host has just changed the guest's key to
    ``spare`` on all paths that it could reach, as it `must_rekey`. So such a path holds it if its key is
    still the guest's.

    Raises:
        StepFailed: The reservation is held with a key that may be a third node's.
    """
    held = yield from read_reservation()
    if held is None or held.type.all_registrants or held.key == spare:
        return False
    if held.key == lun.tracked.key and not lun.shared:
        return True
    raise StepFailed(
        "READ RESERVATION",
        f"the reservation is held with key {held.key:#x} after the re-key, by a path that is away or by "
        "another node; bring all paths back (multipath -ll), then repeat",
    )


def sweep(tracked: Tracked, spare: int) -> Steps[None]:
    """Remove the guest's key from all nexuses but this host's. If one of the others holds the reservation, it
    moves here. Call this only if no third nexus has the guest's key.

    Meanwhile, this host is registered with ``spare``, so that the PREEMPT does not name its key. A holder
    that changes its key keeps the reservation (SPC-4 5.13.7).

    Raises:
        StepFailed: This host's registration was removed, or the LUN refuses.
    """
    own = yield from own_key(tracked, (tracked.key, spare))
    if own.key == 0:
        raise StepFailed("REGISTER (probe)", REMOVED)
    if own.key != spare:
        yield from change_key(tracked, own.key, spare, "REGISTER (re-key)")
    for _ in range(ATTEMPTS):
        if tracked.key not in (yield from read_keys()):
            break
        yield from preempt(tracked, spare, tracked.key)
    yield from change_back(tracked, spare)


def difference(tracked: Tracked, lun: LunHandover, *, alone: int | None) -> Steps[str]:
    """How the LUN differs from what the guest has established on this host; empty if it does not differ.

    ``alone`` is the number of this host's registrations, if no other registration may have the guest's key,
    because it is not certain that the other host's registration is gone. None: it is certain, so any other
    registration with that key belongs to a third node.
    """
    if tracked.key == 0:
        return ""
    own = yield from own_key(tracked, (tracked.key,))
    if own.key == 0:
        return REMOVED
    own, keys = yield from keys_beside(tracked, own)
    for spare in (lun.source_spare, lun.destination_spare, lun.fresh_spare):
        if spare and spare in keys:
            return f"key {spare:#x}, which this handover used, is still registered"
    known = max(alone or 0, count_of(lun, own))
    if alone is not None and not lun.shared and keys.count(tracked.key) > known:
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


def is_taken(tracked: Tracked, spares: tuple[int, ...]) -> Steps[bool]:
    """Whether the guest alone held a reservation, and now another node or nobody holds it.

    ``spares`` are keys with which the other host may hold the reservation.
    """
    if tracked.type is None or tracked.type.all_registrants:
        return False
    held = yield from read_reservation()
    return held is None or (not held.type.all_registrants and held.key not in (tracked.key, *spares))


def as_released(lun: LunHandover) -> Steps[LunHandover]:
    """The LUN with its all registrants reservation as it is now. Any registrant may have released it, which
    removes no registration.
    """
    tracked = lun.tracked
    held = yield from read_reservation()
    if held is not None and held.type.all_registrants:
        return replace(lun, tracked=replace(tracked, type=held.type, scope=held.scope))
    return replace(lun, tracked=replace(tracked, type=None, scope=0))


def require_nothing_added(lun: LunHandover, keys: tuple[int, ...]) -> Steps[None]:
    """Check that a guest which was not registered has not registered on the source since; else StepFailed.

    The source may have rolled back alone, so that the guest ran there again. ``keys`` are the keys on the
    LUN. If the source's initiator port is known and the LUN has READ FULL STATUS, only registrations of that
    port count. Otherwise every key that is new counts.
    """
    added = tuple(sorted((Counter(keys) - Counter(lun.others)).elements()))
    ports = {*lun.source.ports, lun.port} - {""}
    status = (yield from read_full_status()) if keys and ports else None
    if status is not None:
        added = tuple(sorted(each.key for each in status.descriptors if str(each.transport_id) in ports))
    if added:
        raise StepFailed(
            "READ KEYS",
            f"key {hex_of(added)} is registered, and was not when this host was prepared: the guest, which "
            "was not registered then, may have registered on the source. If the key is the guest's, "
            "remove it (holdover pr preempt), take again, and let the guest register again; if it is "
            "another node's, let that node unregister until the guest is taken",
        )


def require_not_freed(lun: LunHandover, own: Own) -> Steps[None]:
    """Check that no reservation becomes free if the destination unregisters; else StepFailed.

    ``own`` is the destination's registration.
    """
    held = yield from read_reservation()
    if held is None or (not held.type.all_registrants and held.key != own.key):
        return
    if held.type.all_registrants and lun.tracked.key == 0:
        return  # the guest has unregistered; only this nexus keeps it
    own, keys = yield from keys_beside(lun.as_registered, own)
    holders = len(keys) if held.type.all_registrants else keys.count(own.key)
    if holders <= count_of(lun, own):
        raise StepFailed(
            "REGISTER (unregister)",
            f"this nexus holds the reservation {held.type.short_name}, which would be freed",
        )


def destination_key(lun: LunHandover, tracked: Tracked) -> Steps[Own]:
    """The destination's registration, if its key is one that this handover may have registered there. Key 0:
    it is not registered, or its key does not belong to this handover.
    """
    keys = (tracked.key, *lun.standing, lun.destination_spare)
    own = yield from find_key(tracked, keys)
    return Own(0) if own is None else own


def unregister(tracked: Tracked, key: int) -> Steps[None]:
    """Unregister ``key`` on this nexus. A conflict means that this nexus does not have ``key``, as wanted."""
    yield from probe(key, 0, tracked.aptpl, "REGISTER (unregister)")


def as_it_is_now(lun: LunHandover) -> Steps[Tracked]:
    """What the guest had, with the LUN's present PTPL_A. Much time may have passed, and a REGISTER must not
    undo an APTPL that another node has set in the meantime.
    """
    return replace(lun.tracked, aptpl=(yield from active_aptpl(lun.as_registered.aptpl)))


def hex_of(keys: tuple[int, ...]) -> str:
    return ", ".join(f"{key:#x}" for key in keys) or "none"
