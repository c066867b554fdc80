"""The work of the destination on a LUN; `holdover.handover.lun_work.work` says when."""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from holdover.handover.changes import change_back, change_key, preempt
from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work.parts import (
    REMOVED,
    as_it_is_now,
    destination_key,
    difference,
    hex_of,
    is_no_holder,
    removed,
    require_not_freed,
    require_nothing_added,
    sweep,
    unregister,
)
from holdover.handover.registrations import count_of, keys_of_guest, register_proven
from holdover.reservations.own_key import find_key, own_key, which_key
from holdover.reservations.questions import read_full_status, read_keys, read_reservation
from holdover.reservations.steps import StepFailed, Steps, settle
from holdover.reservations.tracked import Tracked


def register(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.REGISTER`: register the guest's key on the destination's nexus, or unregister as the guest did.

    Raises:
        StepFailed: The nexus has a key that is not of this handover, or the LUN refuses.
    """
    yield from settle()
    tracked, spare = lun.as_registered, lun.destination_spare
    if tracked.key == 0 and lun.standing:
        # The guest has unregistered since then. The LUN keeps the APTPL that the guest, or another node, has
        # set.
        tracked = yield from as_it_is_now(lun)
    standing = tuple(key for key in lun.standing if key not in (0, tracked.key))
    own = yield from own_key(tracked, (tracked.key, *standing), (spare,))
    found = lun.destination
    if tracked.key not in (0, own.key) and tracked.key not in (yield from keys_of_guest(lun)):
        # Another node has fenced the guest since, which the source finds next. If the guest's key came back
        # to the LUN, multipathd on the source would register a path that comes back.
        tracked = Tracked(aptpl=tracked.aptpl)
    if own.key == 0 and tracked.key != 0:
        lun, own, found = yield from register_proven(lun, tracked, own, spare, found)
    elif own.key == spare and tracked.key != 0:
        own = yield from change_back(tracked, spare)
    elif own.key != tracked.key:
        own = yield from change_key(tracked, own.key, tracked.key, "REGISTER")
    found = replace(found, count=max(1, count_of(lun, own)), several=bool(own.carried))
    return replace(lun, destination=found, standing=(tracked.key,) if tracked.key else ())


def preempt_from_source(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.PREEMPT`: move the reservation from the source, and remove the source's registration.

    Raises:
        StepFailed: The LUN does not have what it should have afterwards; the message says what it has.
    """
    tracked = lun.as_registered
    if tracked.key == 0:
        return lun
    if lun.unreached:
        if (yield from own_key(tracked, (tracked.key, lun.destination_spare))).key == 0:
            return (yield from _without_registration(lun, ""))
        yield from sweep(tracked, lun.destination_spare)
        if lun.preempted_key in (0, tracked.key) and lun.source_spare not in (yield from read_keys()):
            return lun
        lun = replace(lun, preempted_key=lun.source_spare)
    refusal = ""
    if lun.preempted_key:
        refusal = yield from preempt(tracked, tracked.key, lun.preempted_key)
        if not refusal:
            return lun
    if (yield from own_key(tracked, (tracked.key,))).key == 0:
        return (yield from _without_registration(lun, refusal))
    if lun.preempted_key == 0 and is_no_holder(tracked):
        return lun
    problem = yield from difference(tracked, lun, alone=lun.destination.count)
    if problem:
        raise StepFailed("PREEMPT", problem + refusal)
    return lun


def _without_registration(lun: LunHandover, refusal: str) -> Steps[LunHandover]:
    """The LUN if another node has removed this host's registration. If the source's registration is gone too,
    the guest was fenced, by a PREEMPT of its key or a CLEAR, and arrives without a registration. Otherwise it
    is not known what is true, and this raises StepFailed.
    """
    keys = yield from read_keys()
    theirs = {lun.tracked.key, lun.source_spare, lun.fresh_spare} - {0}
    if theirs & set(keys):
        raise StepFailed("PREEMPT" if refusal else "REGISTER (probe)", REMOVED + refusal)
    return replace(removed(lun), others=tuple(sorted(keys)))


def recollect(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.RECOLLECT`: check that the LUN has what a commit leaves there.

    Raises:
        StepFailed: It has something else; the message says what.
    """
    return (yield from preempt_from_source(replace(lun, preempted_key=0, unreached=False)))


def probe(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.PROBE`: find out whether the destination's nexus has a key of this handover."""
    tracked = lun.as_registered
    if tracked.key == 0:
        return replace(lun, registered_there=False)
    own = yield from destination_key(lun, tracked)
    return replace(lun, registered_there=own.key in (tracked.key, lun.destination_spare))


def verify(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.VERIFY`: compare the LUN with what it should have; a difference becomes `LunHandover.alarm`."""
    yield from settle()
    tracked = lun.as_registered
    here = yield from _count_here(lun)
    ours = Counter({tracked.key: here} if tracked.key else {})
    keys = yield from read_keys()
    others = tuple(sorted((Counter(keys) - ours).elements()))
    problem = yield from difference(tracked, lun, alone=None)
    # Of a guest that is not registered and never was, this handover has changed nothing.
    if not problem and others != lun.others and (tracked.key or lun.standing):
        problem = (
            f"the other nodes' registrations were {hex_of(lun.others)} and are {hex_of(others)}; if no node "
            "has registered or unregistered since, check the LUN: holdover pr status"
        )
    left = others.count(tracked.key)
    if not problem and left and lun.source.away:
        problem = (
            f"key {tracked.key:#x} is registered on {left} nexus(es) that may be paths of the source which "
            "were away; when they are back, unregister them there"
        )
    return replace(lun, alarm=problem)


def _count_here(lun: LunHandover) -> Steps[int]:
    """The number of the destination's registrations, including those of paths that have come back."""
    if not lun.destination.several:
        return lun.destination.count
    own = yield from which_key(lun.as_registered, (lun.tracked.key,))
    return max(count_of(lun, own), lun.destination.count)


def assure(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.ASSURE`: check that the LUN has what was committed.

    Raises:
        StepFailed: It has something else; the message says what.
    """
    if lun.tracked.key == 0:
        yield from require_nothing_added(lun, (yield from read_keys()))
        return lun
    problem = yield from difference(lun.as_registered, lun, alone=lun.destination.count)
    if problem:
        raise StepFailed("READ RESERVATION", problem)
    return lun


def reassure(lun: LunHandover, candidates: tuple[int, ...]) -> Steps[LunHandover]:
    """`Work.REASSURE`: check that the source has not removed this host's registration, since the guest was
    taken.

    ``candidates``: the keys of a command of the guest whose result is not known.

    Raises:
        StepFailed: This host's registration is gone, and the LUN has a key with which the source may act
            alone; or the LUN refuses.
    """
    tracked = lun.as_registered
    if tracked.key == 0:
        return lun
    own = yield from find_key(tracked, (tracked.key,), (*lun.standing, *candidates))
    if own is None or own.key:
        return lun
    keys = Counter((yield from read_keys())) - Counter(lun.others)
    theirs = tuple(key for key in (tracked.key, lun.source_spare, lun.fresh_spare) if key in keys)
    if theirs:
        raise StepFailed(
            "READ KEYS",
            f"this host's registration is gone, and key {hex_of(theirs)} is registered: the source was back, "
            "and has begun to roll back without this host. Its agent knows more; start it. If its host is "
            "dead for good: holdover handover finish here",
        )
    return lun  # another node has fenced the guest


def withdraw(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.WITHDRAW`: unregister the destination's nexus, if it still has a key of this handover.

    Raises:
        StepFailed: This would free a reservation, or the LUN refuses.
    """
    tracked, spare = (yield from as_it_is_now(lun)), lun.destination_spare
    own = yield from destination_key(lun, tracked)
    before = own.key
    if own.key not in (0, spare) and (own.carried or not (yield from _is_held_by_source(lun, own.key))):
        # If READ RESERVATION names the spare key afterwards, the reservation is on this host.
        own = yield from change_key(tracked, before, spare, "REGISTER (re-key)")
    if own.key:
        try:
            yield from require_not_freed(replace(lun, tracked=tracked, aptpl=tracked.aptpl), own)
        except StepFailed as error:
            if own.key != before:
                yield from change_key(tracked, own.key, before, "REGISTER (re-key)")
            hint = "if the guest is on another host, compare that host's InitiatorName with this one's"
            raise StepFailed(error.step, f"{error.problem}; {hint}") from error
        yield from unregister(tracked, own.key)
    return lun


def _is_held_by_source(lun: LunHandover, key: int) -> Steps[bool]:
    """Whether a nexus with ``key`` that holds the reservation is certainly the source's, or none does.

    Otherwise it may be this host's nexus, although the source has rolled back: if another host has the same
    InitiatorName, and the guest is there by now.
    """
    held = yield from read_reservation()
    if held is None or held.type.all_registrants or held.key != key:
        return True
    ports = {*lun.source.ports, lun.port} - {""}
    status = (yield from read_full_status()) if ports else None
    return status is not None and any(
        each.holder and str(each.transport_id) in ports for each in status.descriptors
    )
