"""What the destination does on a LUN; `holdover.handover.work` says when."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from holdover.handover.moving import MovingLun
from holdover.handover.steps import (
    StepFailed,
    Steps,
    change_key,
    own_key,
    read_keys,
    register_key,
    settle,
    which_key,
)
from holdover.handover.work_parts import (
    REMOVED,
    as_it_is_now,
    difference,
    hex_of,
    is_no_holder,
    is_on_a_third,
    must_rekey,
    preempt,
    require_no_reservation,
    require_rekeyed,
    unregister,
)

__all__ = ["assure", "give_back", "preempt_from_source", "probe", "register", "verify", "withdraw"]


def register(lun: MovingLun) -> Steps[MovingLun]:
    yield from settle()
    tracked = lun.as_registered
    standing = tuple(key for key in lun.standing if key not in (0, tracked.key))
    own = yield from own_key(tracked, (tracked.key, *standing))
    if own not in (0, tracked.key):
        yield from change_key(tracked, own, tracked.key, "REGISTER")
    elif own == 0 and tracked.key != 0:
        yield from register_key(tracked, tracked.key)
    return replace(lun, standing=(tracked.key,) if tracked.key else ())


def preempt_from_source(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.as_registered
    if tracked.key == 0:
        return lun
    if lun.prey == 0:
        if (yield from own_key(tracked, (tracked.key,))) == 0:
            raise StepFailed("REGISTER (probe)", REMOVED)
        return lun
    refusal = yield from preempt(tracked, tracked.key, lun.prey, lun)
    if refusal:
        problem = yield from difference(tracked, lun, lun.destination_nexuses)
        if problem:
            raise StepFailed("PREEMPT", problem + refusal)
    return lun


def probe(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.as_registered
    if tracked.key == 0:
        return replace(lun, registered_there=False)
    own = yield from which_key(tracked, (tracked.key, *lun.standing, lun.destination_spare))
    return replace(lun, registered_there=own in (tracked.key, lun.destination_spare))


def give_back(lun: MovingLun) -> Steps[MovingLun]:
    tracked = lun.as_registered
    own = yield from which_key(tracked, (tracked.key, *lun.standing, lun.destination_spare))
    if own == 0:
        return replace(lun, prey=0)
    keys = yield from read_keys()
    if not lun.lost:
        if own == tracked.key and keys.count(own) < 2:
            raise StepFailed(
                "READ KEYS",
                f"key {own:#x} stands on this host's nexus alone: to remove it could be to remove the "
                "guest's own registration, if both hosts are one nexus (do they have one InitiatorName?)",
            )
        yield from require_no_reservation(lun, own)
        yield from unregister(tracked, own)
        return replace(lun, prey=0)
    if is_no_holder(tracked):
        yield from change_key(tracked, own, 0, "REGISTER (unregister)")
        return replace(lun, prey=0)
    lun = replace(lun, shared=lun.shared or is_on_a_third(lun, keys))
    if must_rekey(lun) and own != lun.destination_spare:
        yield from change_key(tracked, own, lun.destination_spare, "REGISTER (re-key)")
        yield from require_rekeyed(lun, lun.destination_spare)
        own = lun.destination_spare
    return replace(lun, prey=own)


def verify(lun: MovingLun) -> Steps[MovingLun]:
    yield from settle()
    tracked = lun.as_registered
    keys = yield from read_keys()
    ours = Counter({tracked.key: lun.destination_nexuses}) if tracked.key else Counter[int]()
    others = tuple(sorted((Counter(keys) - ours).elements()))
    problem = yield from difference(tracked, lun, None)
    if not problem and others != lun.others:
        problem = (
            f"the registrations of third nexuses were {hex_of(lun.others)} and are {hex_of(others)}: "
            "if no node registered or unregistered meanwhile, look into it"
        )
    return replace(lun, alarm=problem)


def assure(lun: MovingLun) -> Steps[MovingLun]:
    problem = yield from difference(lun.as_registered, lun, lun.destination_nexuses)
    if problem:
        raise StepFailed("READ RESERVATION", problem)
    return lun


def withdraw(lun: MovingLun) -> Steps[MovingLun]:
    tracked = yield from as_it_is_now(lun)
    own = yield from which_key(tracked, (tracked.key, *lun.standing, lun.destination_spare))
    if own:
        yield from require_no_reservation(lun, own)
        yield from unregister(tracked, own)
    return lun
