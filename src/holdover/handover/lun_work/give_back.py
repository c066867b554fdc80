"""How the destination gives back its registration; `holdover.handover.lun_work.work` says when.

If both hosts have one I_T nexus, the source's registration shows where the reservation is: a PREEMPT that
moved the reservation here has removed it. If a host has several nexuses, this is not certain, because some of
them may have been away. Then the destination first registers its spare key, which nobody else has. READ
RESERVATION names that key if the destination holds the reservation, and READ KEYS shows how many of its
registrations were reached.
"""

from __future__ import annotations

from msgspec.structs import replace

from holdover.handover.changes import change_key
from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work.parts import (
    destination_key,
    is_held_elsewhere,
    is_no_holder,
    require_not_freed,
    unregister,
)
from holdover.handover.registrations import count_of, count_unexplained, keys_beside
from holdover.reservations.own_key import Own
from holdover.reservations.questions import read_full_status, read_keys, read_reservation
from holdover.reservations.steps import StepFailed, Steps


def give_back(lun: LunHandover) -> Steps[LunHandover]:
    """`Work.RETURN`: unregister the destination's nexus, or prepare its key for the source's PREEMPT.

    Raises:
        StepFailed: This could remove the guest's own registration or free the reservation, or the LUN
            refuses.
    """
    tracked = lun.as_registered
    lun = replace(lun, preempted_key=0, unreached=False, alarm="")
    own = yield from destination_key(lun, tracked)
    several = lun.source.several or lun.destination.several or bool(own.carried)
    own, keys = yield from keys_beside(tracked, own)
    if own.key == 0:
        return (yield from _name_left(lun, lun.destination.count)) if several else lun
    if not lun.lost and own.key == tracked.key and keys.count(own.key) <= count_of(lun, own):
        raise StepFailed(
            "READ KEYS",
            f"only this host's nexus has key {own.key:#x}; if both hosts are one nexus, it is the guest's "
            "own registration, so it was not removed; compare InitiatorName",
        )
    if several:
        return (yield from _give_back_several(lun, own))
    return (yield from _give_back_one(lun, own, keys))


def _give_back_one(lun: LunHandover, own: Own, keys: tuple[int, ...]) -> Steps[LunHandover]:
    """As `give_back`, if each host has one I_T nexus."""
    tracked, spare = lun.as_registered, lun.destination_spare
    if not lun.lost:
        yield from require_not_freed(lun, own)
        yield from unregister(tracked, own.key)
        return lun
    if is_no_holder(tracked):
        yield from change_key(tracked, own.key, 0, "REGISTER (unregister)")
        return lun
    third = yield from count_unexplained(lun, (tracked.key, spare), keys, lun.source.count, 1)
    lun = replace(lun, shared=lun.shared or third > 0)
    if lun.shared and own.key != spare:
        own = yield from change_key(tracked, own.key, spare, "REGISTER (re-key)")
        yield from is_held_elsewhere(lun, spare)
    return replace(lun, preempted_key=own.key)


def _give_back_several(lun: LunHandover, own: Own) -> Steps[LunHandover]:
    tracked, spare = lun.as_registered, lun.destination_spare
    if own.key != spare:
        own = yield from change_key(tracked, own.key, spare, "REGISTER (re-key)")
    own, keys = yield from keys_beside(tracked, own)
    reached = keys.count(spare)
    held = yield from read_reservation()
    single = held is not None and not held.type.all_registrants
    if single and held is not None and held.key == tracked.key and lun.lost:
        if lun.shared:
            raise StepFailed(
                "READ RESERVATION",
                f"the reservation is held with key {held.key:#x} by a path of this host that is away or by "
                "another node; bring all paths back (multipath -ll), then repeat",
            )
        return replace(lun, preempted_key=spare, unreached=True)
    if (single and held is not None and held.key == spare) or (lun.lost and not is_no_holder(tracked)):
        return (yield from _name_left(replace(lun, preempted_key=spare), reached))
    yield from require_not_freed(lun, own)
    yield from unregister(tracked, spare)
    return (yield from _name_left(lun, reached))


def _name_left(lun: LunHandover, reached: int) -> Steps[LunHandover]:
    """The LUN, with an alarm if paths that were away keep registrations of the destination.

    ``reached`` is the number of its registrations that the destination could reach.
    """
    key, spare = lun.tracked.key, lun.destination_spare
    keys = yield from read_keys()
    explained = lun.source.count + lun.others.count(key)
    unknown = replace(lun, destination=replace(lun.destination, ports=()))
    left = yield from count_unexplained(unknown, (key,), keys, explained, 0)
    stray = 0 if lun.preempted_key else keys.count(spare)
    if left + stray == 0:
        return lun
    proven = max(lun.destination.count - reached, (yield from _on_own_ports(lun)) if left else 0)
    alarm = (
        f"{left + stray} registration(s) of this handover remain on paths of the destination that are "
        "away; when the paths are back, unregister them there"
    )
    preempted_key = spare if stray else lun.preempted_key
    return replace(
        lun, preempted_key=preempted_key, unreached=not lun.shared and 0 < left <= proven, alarm=alarm
    )


def _on_own_ports(lun: LunHandover) -> Steps[int]:
    """The number of registrations with the guest's key on the destination's initiator ports."""
    status = yield from read_full_status()
    if status is None:
        return 0
    mine = (each for each in status.descriptors if str(each.transport_id) in lun.destination.ports)
    return sum(each.key == lun.tracked.key for each in mine)
