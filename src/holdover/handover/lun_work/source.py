"""The work of the source on a LUN; `holdover.handover.lun_work.work` says when."""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from holdover.handover.changes import change_back, change_key, preempt, register_key
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.parts import (
    as_it_is_now,
    as_released,
    difference,
    is_held_elsewhere,
    is_no_holder,
    is_taken,
    must_rekey,
    removed,
    sweep,
    unregister,
)
from holdover.handover.registrations import (
    count_of,
    count_unexplained,
    keys_beside,
    keys_of_guest,
    keys_of_hosts,
    register_proven,
    with_source,
)
from holdover.reservations.own_key import Own, find_key, made_one, own_key, probe, which_key
from holdover.reservations.questions import active_aptpl, read_keys, read_reservation
from holdover.reservations.steps import StepFailed, Steps, settle
from holdover.reservations.tracked import Tracked
from holdover.scsi.reservation.reservation_in import Reservation


def confirm(
    lun: LunHandover, stale: bool, *, registered_there: bool, candidates: tuple[int, ...] = ()
) -> Steps[LunHandover]:
    """`Work.CHECK` and `Work.CONFIRM`: find out what the guest has on the LUN.

    ``stale``: ``lun.tracked`` may be wrong. ``registered_there``: the destination has said that it has the
    guest's key. ``candidates``: the keys of a command of the guest whose result is not known.

    Raises:
        StepFailed: The destination's registration is missing, or it cannot be found out whose the reservation
            is, or the LUN refuses.
    """
    tracked = lun.tracked
    aptpl = yield from active_aptpl(tracked.aptpl)
    own = yield from own_key(replace(tracked, aptpl=aptpl), (tracked.key, *candidates))
    own, keys = yield from keys_beside(replace(tracked, aptpl=aptpl), own)
    there = lun.destination.count if registered_there else 0
    if own.key not in (0, tracked.key):
        # The destination has the guest's former key yet, and is told the new one.
        keys = without(keys, tracked.key, there)
        tracked = replace(tracked, key=own.key, aptpl=aptpl)
        lun, stale, registered_there, there = replace(lun, tracked=tracked), True, False, 0
    is_away = bool(own.carried) and len(own.carried) < lun.source.paths
    if is_away and (stale or (tracked.key and own.key == 0)):
        yield from _require_not_held_by_a_path_away(lun, own, stale)
    if own.key == 0:
        others = without(keys, tracked.key, there)
        if tracked.key or registered_there:
            # The destination may have taken everything while this host was down, and a key that is new on the
            # LUN may be the guest's. It must not pass for a third node's, or `weigh` would not see it.
            others = known_of(others, lun.others)
        return replace(lun, tracked=UNREGISTERED, shared=False, others=others, aptpl=aptpl)
    lun = yield from with_source(lun, own, keys)
    here = count_of(lun, own)
    if registered_there and keys.count(tracked.key) <= here:
        raise StepFailed(
            "READ KEYS",
            f"only this host is registered with key {tracked.key:#x}: another node has removed the "
            "destination's registration, or both hosts are one I_T nexus; compare InitiatorName on both "
            "hosts",
        )
    third = yield from count_unexplained(lun, (tracked.key,), keys, here, there)
    held = yield from read_reservation()
    found = whose(tracked, held, keys.count(tracked.key), third, stale)
    others = without(keys, tracked.key, keys.count(tracked.key) - third)
    return replace(lun, tracked=found, shared=third > 0, others=others, aptpl=aptpl)


def _require_not_held_by_a_path_away(lun: LunHandover, own: Own, stale: bool) -> Steps[None]:
    """Check that no path that is away can hold the reservation with another key than this host's.

    A REGISTER of the guest whose answer was lost may have changed the key of some paths only. A path that is
    new may lack the registration that a path has which is away: nobody has registered it.

    Raises:
        StepFailed: The reservation is held with a key that was not known as a third node's.
    """
    held = yield from read_reservation()
    if held is None or held.type.all_registrants or held.key in (own.key, *lun.others):
        return
    if not stale and held.key != lun.tracked.key:
        return
    raise StepFailed(
        "READ RESERVATION",
        f"the reservation is held with key {held.key:#x}: by another node, or by a path of this host that is "
        "away; bring all paths back (multipath -ll), then repeat",
    )


def without(keys: tuple[int, ...], key: int, count: int) -> tuple[int, ...]:
    """``keys`` in ascending order, with ``key`` removed ``count`` times."""
    return tuple(sorted((Counter(keys) - Counter({key: count})).elements()))


def known_of(keys: tuple[int, ...], known: tuple[int, ...]) -> tuple[int, ...]:
    """Those of ``keys`` that were ``known`` before, in ascending order."""
    return tuple(sorted((Counter(keys) & Counter(known)).elements()))


def whose(tracked: Tracked, held: Reservation | None, count: int, third: int, stale: bool) -> Tracked:
    """What the guest holds, if ``count`` nexuses have its key, and ``third`` of them may be a third node's.

    Raises:
        StepFailed: It cannot be found out whether the guest or a third node holds the reservation.
    """
    if held is None or (not held.type.all_registrants and held.key != tracked.key):
        return replace(tracked, type=None, scope=0)
    is_known = not stale and tracked.type is held.type and tracked.scope == held.scope
    if held.type.all_registrants or third == 0 or is_known:
        return replace(tracked, type=held.type, scope=held.scope)
    if tracked.type is None and not stale:
        return tracked
    seen = "no reservation" if tracked.type is None else f"a reservation of type {tracked.type.short_name}"
    raise StepFailed(
        "READ RESERVATION",
        f"the agent saw the guest take {seen}{' some time ago' if stale else ''}; the LUN reports a "
        f"reservation of type {held.type.short_name} with key {held.key:#x}, which {count} nexuses have. "
        "It is not known whether it is the guest's",
    )


def give(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.GIVE`: change the source's key, or unregister, where the destination's PREEMPT needs that.

    Raises:
        StepFailed: The LUN refuses, or a third node may hold the reservation.
    """
    tracked = lun.as_registered
    lun = replace(lun, preempted_key=0, unreached=False)
    if tracked.key == 0:
        return lun
    if is_no_holder(tracked):
        left = yield from change_key(tracked, tracked.key, 0, "REGISTER (unregister)")
        unreached = _is_more_than(lun, Own(tracked.key, left.carried, left.was_there))
        return replace(lun, unreached=unreached, source_was_registered=left.was_there)
    if not must_rekey(lun):
        return replace(lun, preempted_key=tracked.key)
    try:
        own = yield from change_key(tracked, tracked.key, lun.source_spare, "REGISTER (re-key)")
    except StepFailed:
        if (yield from own_key(tracked, (tracked.key, lun.source_spare))).key != 0:
            raise
        return lun  # another node has removed it: the destination will find that too
    if (yield from is_held_elsewhere(lun, lun.source_spare)):
        return replace(lun, preempted_key=tracked.key, unreached=True)
    return replace(lun, preempted_key=lun.source_spare, unreached=_is_more_than(lun, own))


def _is_more_than(lun: LunHandover, reached: Own) -> bool:
    """Whether the source had more registrations than could be reached now."""
    return not lun.shared and lun.source.count > count_of(lun, reached)


def collect(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.COLLECT`: if the guest is not registered any more, collect the unit attentions of the source's
    nexus about that, which the guest must get. On other LUNs, these may come from the handover's own PREEMPT.
    """
    if lun.tracked.key == 0:
        yield from settle()
    return lun


def clear_attentions(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.SETTLE`: clear the unit attentions that the handover has caused on the source's nexus."""
    yield from settle()
    return lun


def yield_up(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.YIELD`: unregister the source's nexus, if it still has a key of this handover."""
    # The other host may have lost the guest's key, while a spare key on this host holds the reservation.
    tracked = yield from as_it_is_now(lun)
    keys = (tracked.key, lun.source_spare, lun.fresh_spare)
    own = yield from which_key(tracked, keys)
    if own.key == 0 and lun.source.several:
        own = yield from made_one(tracked, keys)
    if own.key:
        yield from unregister(tracked, own.key)
    yield from settle()
    return lun


def wonder(lun: LunHandover, candidates: tuple[int, ...]) -> Steps[LunHandover]:
    """`Work.WONDER`: find out whether the source's nexus has no registration of this handover any more.

    ``candidates``: the keys of a command of the guest whose result is not known, because the host died amid
    it. No commit was sent after such a command. The guest has that key if the nexus has it.
    """
    tracked = lun.as_registered
    if tracked.key == 0:
        return replace(lun, lost=False)
    own = yield from own_key(tracked, (tracked.key, lun.source_spare), (lun.fresh_spare, *candidates))
    if own.key not in (0, tracked.key, *lun.spares):
        lun = replace(lun, tracked=replace(lun.tracked, key=own.key))
    return replace(lun, lost=own.key == 0)


def discard(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.DISCARD`: remove the destination's spare key, which paths of the destination that are away have
    kept. Nobody else has that key.
    """
    tracked, spare = lun.as_registered, lun.destination_spare
    if tracked.key == 0 or lun.preempted_key != spare:
        return lun
    if (yield from which_key(tracked, (tracked.key,))).key == 0:
        return lun  # another node has fenced the guest: the alarm stays
    refusal = ""
    if spare in (yield from read_keys()):
        refusal = yield from preempt(tracked, tracked.key, spare)
    if not refusal and (yield from _is_alone(lun)):
        lun = replace(lun, alarm="")
    return replace(lun, preempted_key=0)


def recount(lun: LunHandover, candidates: tuple[int, ...]) -> Steps[LunHandover]:
    """`Work.RECOUNT`: find out whether the source has lost the registration that its device has on record.

    A guest that is not registered has nothing to lose. If the destination has taken it, the guest may have
    registered there. A registration on the destination's initiator port is a sign of that. Where the LUN does
    not name the ports, each key counts that is new on the LUN.

    ``candidates``: as for `wonder`. If the source is registered with another key, the check that follows says
    so.
    """
    tracked = lun.as_registered
    if tracked.key == 0:
        # A probe with another key would set APTPL, of which nothing is known here.
        if not (yield from probe(0, 0)).good:
            return replace(lun, lost=False)
        named = yield from keys_of_hosts(lun)
        keys = Counter((yield from read_keys())) - Counter(lun.others) if named is None else Counter(named)
        return replace(lun, lost=bool(keys))
    own = yield from find_key(tracked, (tracked.key,), (*lun.spares, *candidates))
    return replace(lun, lost=own is not None and own.key == 0)


def ask_whether_lost(lun: LunHandover, candidates: tuple[int, ...]) -> Steps[LunHandover]:
    """`Work.ASK`: find out whether the source has lost its registration (`LunHandover.lost`).

    ``candidates``: as for `wonder`.
    """
    tracked, spare = lun.as_registered, lun.source_spare
    if tracked.key == 0:
        return replace(lun, lost=False)
    own = yield from own_key(tracked, (tracked.key, spare), (lun.fresh_spare, *candidates))
    if own.key not in (0, tracked.key, *lun.spares):
        return replace(lun, tracked=replace(lun.tracked, key=own.key), lost=False)
    if own.key == 0 and not lun.registered_there:
        return replace(removed(lun), lost=False)  # neither host is registered
    lost = own.key in (0, lun.fresh_spare)
    if own.key == tracked.key and own.carried and lun.preempted_key == spare:
        # The source had registered its spare key. Either that was undone, or a path that was away has brought
        # the guest's key back.
        yield from change_key(tracked, tracked.key, spare, "REGISTER (re-key)")
        held = yield from read_reservation()
        lost = held is None or held.key != spare
    # A registration that was lost and made again does not look lost, but its reservation has not come back.
    return replace(lun, lost=lun.lost or lost)


def reclaim(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.RECLAIM`: make the source's registration what it was before the commit.

    Raises:
        StepFailed: The source has a key that is not of this handover, or the LUN refuses.
    """
    tracked, spare = lun.as_registered, lun.destination_spare
    if tracked.key == 0:
        return lun
    own = yield from own_key(tracked, (tracked.key, lun.source_spare), (lun.fresh_spare,))
    if own.key == 0 and not lun.lost:
        return removed(lun)
    mine = (tracked.key, spare)
    if lun.lost and own.key != tracked.key and not set(mine) & set((yield from keys_of_guest(lun))):
        # Another node has fenced the guest. If the guest's key came back to the LUN, multipathd on the
        # destination would register a path that comes back.
        if own.key:
            yield from unregister(tracked, own.key)
        return removed(lun)
    if own.key == 0:
        lun, own, source = yield from register_proven(lun, tracked, own, lun.fresh_spare, lun.source)
        lun = replace(lun, source=source)
    elif own.key != tracked.key:
        own = yield from change_back(tracked, own.key)
    if not lun.lost:
        return lun
    own, keys = yield from keys_beside(tracked, own)
    lun = yield from with_source(lun, own, keys)
    here = count_of(lun, own)
    if keys.count(tracked.key) + keys.count(spare) <= here:
        # Another node has removed the guest's registration from the destination, so it meant this one too.
        yield from unregister(tracked, tracked.key)
        return removed(lun)
    third = yield from count_unexplained(lun, mine, keys, here, lun.destination.count)
    return replace(lun, shared=third > 0)


def take_back(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.TAKE_BACK`: move the reservation back to the source, and check the result.

    Raises:
        StepFailed: The LUN does not have what it should have afterwards; the message says what it has.
    """
    tracked = lun.as_registered
    if tracked.key == 0:
        if lun.ran_there:
            yield from settle()  # clears what the commit has caused
        return lun
    amid_sweep = (lun.source_spare,) if lun.unreached else ()
    if (yield from own_key(tracked, (tracked.key,), amid_sweep)).key == 0:
        if lun.preempted_key != lun.destination_spare or lun.preempted_key not in (yield from read_keys()):
            return removed(lun)
        yield from register_key(tracked, tracked.key)
    refusal, preempted_key = "", lun.preempted_key
    if lun.unreached:
        yield from sweep(tracked, lun.source_spare)
        preempted_key = lun.destination_spare if lun.destination_spare in (yield from read_keys()) else 0
    if preempted_key:
        refusal = yield from preempt(tracked, tracked.key, preempted_key)
    if lun.source.several:
        yield from _drop_spares(lun)
    # Unit attentions that come after this belong to the guest.
    yield from settle()
    problem = yield from difference(tracked, lun, alone=lun.source.count if refusal else None)
    if problem and tracked.type is not None and tracked.type.all_registrants:
        lun = yield from as_released(lun)
        tracked = lun.as_registered
        problem = yield from difference(tracked, lun, alone=lun.source.count if refusal else None)
    if problem and (yield from is_taken(tracked, (preempted_key,))):
        # The node that took the reservation has removed the guest's registrations. Ours was made after that.
        yield from unregister(tracked, tracked.key)
        problem = ""
        lun = removed(lun)
    if problem:
        raise StepFailed("PREEMPT", problem + refusal)
    if lun.alarm and lun.tracked.key and (yield from _is_alone(lun)):
        return replace(lun, alarm="")
    return lun


def _drop_spares(lun: LunHandover) -> Steps[None]:
    """Remove the source's spare keys from paths that failed while they had them. Such a path may be the
    holder.
    """
    keys = yield from read_keys()
    for spare in (lun.source_spare, lun.fresh_spare):
        if spare in keys:
            yield from preempt(lun.as_registered, lun.tracked.key, spare)


def _is_alone(lun: LunHandover) -> Steps[bool]:
    """Whether only the source has the guest's key now, besides third nodes that had it before."""
    own = yield from which_key(lun.as_registered, (lun.tracked.key,))
    own, keys = yield from keys_beside(lun.as_registered, own)
    return keys.count(own.key) <= count_of(lun, own) + lun.others.count(own.key)
