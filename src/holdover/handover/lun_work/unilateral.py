"""The work of one side on a LUN while the other side cannot be asked (`holdover.handover.lun_work.work`).

This side's nexus registers a key that nobody has, so that a PREEMPT of the guest's key removes only the other
side's registration. After a crash, this key on the LUN shows how far the work had come. So the journal need
not keep anything in between.
"""

from __future__ import annotations

from msgspec.structs import replace

from holdover.handover.changes import change_back, change_key, preempt, register_key
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.parts import (
    REMOVED,
    as_released,
    difference,
    hex_of,
    is_no_holder,
    is_taken,
    require_nothing_added,
    unregister,
)
from holdover.handover.registrations import count_of, count_unexplained, keys_beside, keys_of_hosts
from holdover.reservations.own_key import Own, own_key
from holdover.reservations.questions import read_full_status, read_keys, read_reservation
from holdover.reservations.steps import ATTEMPTS, StepFailed, Steps, settle
from holdover.scsi.reservation.reservation_in import Reservation

_SHARED = "key {:#x} is registered on a third nexus too, which a PREEMPT from this host alone would remove"


def isolate(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.ISOLATE`: register a key on the source's nexus that the destination does not have.

    Raises:
        StepFailed: A third nexus has the guest's key, or the LUN refuses.
    """
    tracked, mine, fresh = lun.as_registered, lun.source_spare, lun.fresh_spare
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, mine, fresh))
    own, keys = yield from keys_beside(tracked, own)
    if own.key == 0 and (yield from is_gone_from_both(lun)):
        return replace(lun, tracked=UNREGISTERED)
    yield from require_alone(lun, own, keys)
    preempted_key: tuple[int, ...]
    if _is_named(lun, keys):
        preempted_key, wanted = (lun.destination_spare,), tracked.key
    else:
        # With several paths, the destination may have its spare key on some and the guest's key on others.
        preempted_key, wanted = (tracked.key, lun.destination_spare), fresh
    if own.key == 0:
        if not set(preempted_key) & set(keys):
            return replace(lun, tracked=UNREGISTERED)
        own = yield from register_key(tracked, wanted)
        own, keys = yield from keys_beside(tracked, own)
    elif own.key == tracked.key != wanted and (
        keys.count(own.key) > count_of(lun, own) or lun.destination_spare in keys
    ):
        yield from change_key(tracked, own.key, mine, "REGISTER (re-key)")
    if own.key == wanted and not set(preempted_key) & set(keys):
        # Another node has removed the guest's registration from the other side, so it meant this one too.
        yield from unregister(tracked, own.key)
        return replace(lun, tracked=UNREGISTERED)
    return lun


def is_gone_from_both(lun: LunHandover) -> Steps[bool]:
    """Whether the LUN shows by the initiator ports that neither host is registered any more: another node has
    fenced the guest, and may have the guest's key itself by now.
    """
    named = yield from keys_of_hosts(lun)
    return named is not None and not {lun.tracked.key, *lun.spares} & set(named)


def _is_named(lun: LunHandover, keys: tuple[int, ...]) -> bool:
    """Whether the destination has prepared itself for the source's PREEMPT: its spare key on the LUN shows
    that.
    """
    several = lun.source.several or lun.destination.several
    return lun.destination_spare in keys and (lun.shared or not several)


def require_alone(lun: LunHandover, own: Own, keys: tuple[int, ...]) -> Steps[None]:
    """Check that the source, which is registered as ``own``, can remove the destination's registration alone.

    This changes nothing, so that it can run on all LUNs before anything is changed on one of them.

    Raises:
        StepFailed: A third nexus has the guest's key too.
    """
    if _is_named(lun, keys):
        return
    here = count_of(lun, own) if own.key == lun.tracked.key else 0
    named = yield from keys_of_hosts(lun)
    if named is None:
        yield from _require_no_third(lun, here, lun.destination.count, keys)
    elif keys.count(lun.tracked.key) > named.count(lun.tracked.key):
        raise StepFailed("PREEMPT", _SHARED.format(lun.tracked.key))


def _require_no_third(lun: LunHandover, source: int, destination: int, keys: tuple[int, ...]) -> Steps[None]:
    """Check that the guest's key is only on nexuses that are proven to be of one of the hosts; else
    StepFailed.

    ``source`` and ``destination`` are the numbers of registrations that are proven to be of each host.
    """
    key = lun.tracked.key
    if key in lun.others or (yield from count_unexplained(lun, (key,), keys, source, destination)):
        raise StepFailed("PREEMPT", _SHARED.format(key))


def _count_of_source(lun: LunHandover) -> Steps[int]:
    """The number of registrations with the guest's key that the source has.

    If the LUN does not say by which initiator ports they are, it is the number that the source has told. But
    the guest may have changed its key since, and a third node may have registered the old one.
    """
    is_named = lun.port and not lun.source.several
    status = (yield from read_full_status()) if is_named else None
    if status is None:
        return lun.source.count
    mine = (each for each in status.descriptors if str(each.transport_id) == lun.port)
    return sum(each.key == lun.tracked.key for each in mine)


def evict(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.EVICT`: move everything to the source, and remove the destination's registration.

    Raises as `take`.
    """
    return _alone(lun, _spares_of_source(lun))


def claim(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.CLAIM`: check whether the destination can move everything without the source. Changes nothing.

    Raises:
        StepFailed: It cannot; the message says why, and what to do.
    """
    tracked = lun.as_registered
    if tracked.key == 0 and lun.ran_there and lun.standing:
        # A source that rolls back alone removes the registration here. The guest's registration is
        # then the source's own.
        raise StepFailed(
            "REGISTER (probe)",
            f"the guest had key {hex_of(lun.standing)} on this host, but that registration was gone at the "
            "request to roll back. The source, another node or the guest may have removed it; only the "
            "source knows. Start the source's agent; if its host is dead for good: holdover handover "
            "rollback --alone here, then let the guest register again",
        )
    # This agent may have died during its part of a commit, in which it registers its spare key for a moment.
    amid_sweep = (lun.destination_spare,) if lun.unreached else ()
    own = yield from own_key(tracked, (tracked.key, *lun.standing), amid_sweep)
    if own.key not in (tracked.key, *amid_sweep):
        raise StepFailed(
            "REGISTER (probe)",
            "this host is not registered with the guest's last key: the prepare had not ended",
        )
    own, keys = yield from keys_beside(tracked, own)
    if tracked.key == 0:
        yield from require_nothing_added(lun, keys)
        return lun
    here = count_of(lun, own) if own.key == tracked.key else 0
    spares = [key for key in _spares_of_source(lun) if key in keys]
    if not spares:
        source = (yield from _count_of_source(lun)) if keys.count(tracked.key) > here else 0
        yield from _require_no_third(lun, source, here, keys)
        lun = replace(lun, shared=False)  # it may have been true for an earlier key
    if not _is_as_prepared(lun, own, (yield from read_reservation())):
        raise StepFailed(
            "READ RESERVATION",
            "the reservation is not the one that was prepared: the guest or a third node has changed it",
        )
    may_have_preempted = lun.preempted_key != 0 and not is_no_holder(tracked)
    # If the guest has run here, the commit has removed the source's registration.
    is_here = may_have_preempted or lun.ran_there
    # A path of this host that is away now keeps the registration that this host has made by it.
    mine = max(here, lun.destination.count)
    if not spares and not is_here and not (yield from _is_source_there(lun, own, keys, mine)):
        raise StepFailed(
            "READ KEYS",
            "the source's registration is not there any more: it has unregistered, or a third node has "
            "removed the guest's registration before the destination made its own, or both hosts are one "
            "and the same nexus (do they have one InitiatorName?)",
        )
    return lun


def _is_source_there(lun: LunHandover, own: Own, keys: tuple[int, ...], mine: int) -> Steps[bool]:
    """Whether the source still has the guest's key. ``mine``: how many registrations with it are proven to be
    this host's.

    If it is not known whether the LUN keeps one registration for each initiator port, this host's paths with
    one port may have more than one. READ FULL STATUS tells whose the others are.
    """
    key = lun.tracked.key
    count = keys.count(key)
    if count <= mine or lun.by_port is not None or count > len(own.carried):
        return count > mine
    theirs, ours = {*lun.source.ports, lun.port} - {""}, set(lun.destination.ports)
    status = (yield from read_full_status()) if theirs or ours else None
    if status is None:
        return True
    having = {str(each.transport_id) for each in status.descriptors if each.key == key}
    return bool(having & theirs) if theirs else bool(having - ours)


def _is_as_prepared(lun: LunHandover, own: Own, held: Reservation | None) -> bool:
    """Whether the reservation is what the guest had when it was prepared, or is on its way to the
    destination.
    """
    tracked = lun.tracked
    if held is None:
        return tracked.type is None
    if held.type.all_registrants:
        return tracked.type is held.type
    if tracked.type is None:
        return held.key not in _spares_of_source(lun) and (held.key != tracked.key or lun.shared)
    ours = (tracked.key, own.key, *_spares_of_source(lun))
    return held.key in ours and (held.type, held.scope) == (tracked.type, tracked.scope)


def take(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.TAKE`: move everything to the destination without the source.

    Raises:
        StepFailed: This host's registration is gone and it is not known why, or the LUN does not have what it
            should have afterwards; the message says what it has.
    """
    tracked, mine = lun.as_registered, lun.destination_spare
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, mine))
    if own.key == 0:
        if not (yield from _is_left_by_source(lun)):
            return replace(lun, tracked=UNREGISTERED)
        own = yield from register_key(tracked, mine)
    own, keys = yield from keys_beside(tracked, own)
    # If a third nexus has the guest's key too, only the source's spare key may be removed.
    if not lun.shared and own.key == tracked.key and keys.count(own.key) > count_of(lun, own):
        yield from change_key(tracked, own.key, mine, "REGISTER (re-key)")
    return (yield from _alone(lun, (mine,)))


def _is_left_by_source(lun: LunHandover) -> Steps[bool]:
    """Whether the source has removed this host's registration, and has left the guest to this host since. If
    not, another node has fenced the guest.

    Raises:
        StepFailed: It is not known which of the two is true.
    """
    if not lun.conceded:
        raise StepFailed(
            "REGISTER (probe)",
            "this host's registration is gone: another node has fenced the guest, or the source is back and "
            "has rolled back without this host. The source's agent knows which; start it. If its host is "
            "dead for good: holdover handover finish here",
        )
    keys = yield from read_keys()
    theirs = _spares_of_source(lun) if lun.shared else (lun.tracked.key, *_spares_of_source(lun))
    return any(key in keys for key in theirs)


def _spares_of_source(lun: LunHandover) -> tuple[int, ...]:
    return (lun.source_spare, lun.fresh_spare)


def _remove_other(lun: LunHandover, key: int, spares: list[int]) -> Steps[None]:
    """Remove all registrations with the guest's key and with ``spares``; this host is registered with
    ``key``.

    A late command of the other side may change one of these keys into another, or preempt the guest's key.
    """
    theirs = (lun.tracked.key, *spares)
    for _ in range(ATTEMPTS):
        keys = yield from read_keys()
        left = [each for each in theirs if each in keys]
        named = (yield from keys_of_hosts(lun)) if lun.tracked.key in left else None
        if named is not None and keys.count(lun.tracked.key) > named.count(lun.tracked.key):
            # A third node has registered the guest's key since.
            if lun.tracked.key in named:
                raise StepFailed("PREEMPT", _SHARED.format(lun.tracked.key))
            left.remove(lun.tracked.key)
        if not left:
            return
        for each in left:
            yield from preempt(lun.as_registered, key, each)
    raise StepFailed("PREEMPT", f"key {lun.tracked.key:#x} is still registered by the other host")


def _spares(lun: LunHandover) -> tuple[int, ...]:
    return (lun.destination_spare, *_spares_of_source(lun))


def _fenced(lun: LunHandover) -> Steps[LunHandover]:
    """The LUN on a source that acts alone when another node has fenced the guest.

    That node does not know the destination's spare key. It goes too, with the reservation if it holds that.
    """
    tracked, key, left = lun.as_registered, lun.fresh_spare, lun.destination_spare
    if left in (yield from read_keys()):
        yield from register_key(tracked, key)
        yield from preempt(tracked, key, left)
        yield from unregister(tracked, key)
    return replace(lun, tracked=UNREGISTERED)


def _alone(lun: LunHandover, mine: tuple[int, ...]) -> Steps[LunHandover]:
    """Move everything of the guest to this host, and leave nothing on the nexuses of the other side.

    `isolate` or `claim` has checked that no third node has the guest's key. So a registration with that key,
    while this host has a spare key, belongs to the other side, even on a path that has come back since.
    """
    tracked = lun.as_registered
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, *mine))
    key = own.key
    if key == 0 and lun.destination_spare in mine:
        raise StepFailed("REGISTER (probe)", "another node has removed this host's registration")
    if key == 0:
        # A late PREEMPT of the other side may have come after this side had registered its key.
        if tracked.key not in (yield from read_keys()) or (yield from is_gone_from_both(lun)):
            return (yield from _fenced(lun))
        key = lun.fresh_spare
        yield from register_key(tracked, key)
        if tracked.key not in (yield from read_keys()):
            yield from unregister(tracked, key)
            return (yield from _fenced(lun))
    if key != tracked.key:
        yield from _remove_other(lun, key, [each for each in _spares(lun) if each not in mine])
        yield from change_back(tracked, key)
    keys = yield from read_keys()
    for spare in _spares(lun):
        if spare in keys:  # of the other side, or of an absent path of this side
            yield from preempt(tracked, tracked.key, spare)
    yield from settle()
    problem = yield from difference(tracked, lun, alone=None)
    if problem and tracked.type is not None and tracked.type.all_registrants:
        lun = yield from as_released(lun)
        tracked = lun.as_registered
        problem = yield from difference(tracked, lun, alone=None)
    if problem == REMOVED and lun.destination_spare in mine:
        raise StepFailed("PREEMPT", problem)
    if problem and (yield from is_taken(tracked, ())):
        yield from unregister(tracked, tracked.key)
        if lun.destination_spare not in mine:
            lun = yield from _fenced(lun)
        return replace(lun, tracked=UNREGISTERED, standing=())
    if problem:
        raise StepFailed("PREEMPT", problem)
    return replace(lun, standing=(tracked.key,))
