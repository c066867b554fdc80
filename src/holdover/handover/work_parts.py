"""What several kinds of work on a LUN share."""

from __future__ import annotations

from dataclasses import replace

from holdover.guest.scsi_block import Tracked
from holdover.handover.moving import MovingLun
from holdover.handover.steps import (
    ATTEMPTS,
    StepFailed,
    Steps,
    active_aptpl,
    own_key,
    read_keys,
    read_reservation,
    tell,
)
from holdover.scsi.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation_out import out_command
from holdover.scsi.sense import describe_response
from holdover.scsi.status import Status

__all__ = [
    "REMOVED",
    "as_it_is_now",
    "difference",
    "hex_of",
    "is_no_holder",
    "is_on_a_third",
    "is_taken",
    "must_rekey",
    "preempt",
    "require_no_reservation",
    "require_rekeyed",
    "unregister",
]


REMOVED = "somebody else has removed the guest's registration"


def is_no_holder(tracked: Tracked) -> bool:
    """Whether there is no reservation that a PREEMPT would have to move."""
    return tracked.type is None or tracked.type.all_registrants


def is_on_a_third(lun: MovingLun, keys: tuple[int, ...]) -> bool:
    """Whether more nexuses have the guest's key than both hosts', of which one may have its spare key now."""
    stands = sum(keys.count(key) for key in (lun.tracked.key, lun.destination_spare) if key)
    return stands > lun.source_nexuses + lun.destination_nexuses


def must_rekey(lun: MovingLun) -> bool:
    """Whether a PREEMPT of the guest's own key would remove more than the other host's registrations.

    It spares the nexus by which it comes, and no third one with that key; nor, where a host has several
    nexuses to the LUN, the others of that very host. And a path of the other host that comes back later is
    registered again by its multipathd if that finds its key on the LUN.
    """
    return lun.shared or _has_paths(lun)


def _has_paths(lun: MovingLun) -> bool:
    return lun.source_nexuses > 1 or lun.destination_nexuses > 1


def require_rekeyed(lun: MovingLun, key: int) -> Steps[None]:
    """Raise StepFailed if the reservation is still held by a path that is away and was not re-keyed."""
    if not _has_paths(lun):
        return
    held = yield from read_reservation()
    if held is not None and not held.type.all_registrants and held.key != key:
        raise StepFailed(
            "READ RESERVATION",
            f"the reservation is held with key {held.key:#x} after the re-key, by a path that is away or by "
            "another node; bring all paths back (multipath -ll), then repeat",
        )


def preempt(tracked: Tracked, key: int, prey: int, lun: MovingLun) -> Steps[str]:
    """PREEMPT ``prey`` until it is answered; what the LUN said if that was not GOOD."""
    kind = tracked.type or ReservationType.WRITE_EXCLUSIVE  # ignored where no reservation is preempted
    command = out_command(OutServiceAction.PREEMPT, key, prey, type=kind, scope=tracked.scope)
    for _ in range(ATTEMPTS):
        response = yield from tell(command, "PREEMPT")
        if response is None:
            # it may have been carried out, and a repetition may then remove what it left
            if not (yield from _is_there(prey, key, lun)):
                return "; its answer was lost"
            continue
        return "" if response.good else f"; the LUN answered {describe_response(response)}"
    raise StepFailed("PREEMPT", "the LUN's answers are lost again and again; the reservation is in doubt")


def _is_there(prey: int, key: int, lun: MovingLun) -> Steps[bool]:
    """Whether ``prey`` is still to be preempted by a nexus registered with ``key``."""
    keys = yield from read_keys()
    ours = lun.source_nexuses if prey == key and lun.lost else lun.destination_nexuses
    return keys.count(prey) > (ours if prey == key else 0)


def difference(tracked: Tracked, lun: MovingLun, nexuses: int | None) -> Steps[str]:
    """How the LUN's state differs from what the guest established on this nexus; empty when it does not.

    ``nexuses``: on how many its key may stand, where it is not certain that the other host's registration is
    gone; None where it is, so that any more are a third node's own matter.
    """
    if tracked.key == 0:
        return ""
    if (yield from own_key(tracked, (tracked.key,))) == 0:
        return REMOVED
    keys = yield from read_keys()
    for spare in (lun.source_spare, lun.destination_spare, lun.fresh_spare):
        if spare and spare in keys:
            return f"key {spare:#x}, which this handover used, is still registered"
    if nexuses is not None and not lun.shared and keys.count(tracked.key) > nexuses:
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
    """Whether the reservation that the guest held, if it held one, is with somebody else or nobody.

    ``spares``: keys that the other host may hold it with.
    """
    if tracked.type is None:
        return False
    held = yield from read_reservation()
    return held is None or (not held.type.all_registrants and held.key not in (tracked.key, *spares))


def require_no_reservation(lun: MovingLun, own: int) -> Steps[None]:
    """Raise StepFailed if to unregister this nexus would free a reservation."""
    held = yield from read_reservation()
    if held is None or (not held.type.all_registrants and held.key != own):
        return
    if held.type.all_registrants and lun.tracked.key == 0:
        return  # the guest has unregistered, which would have freed it but for this nexus
    keys = yield from read_keys()
    holders = len(keys) if held.type.all_registrants else keys.count(own)
    if holders <= lun.destination_nexuses:
        raise StepFailed(
            "REGISTER (unregister)",
            f"this nexus holds the reservation {held.type.short_name}, which would be freed",
        )


def unregister(tracked: Tracked, key: int) -> Steps[None]:
    """Remove ``key`` from this nexus; a conflict says that it does not stand there, as is wanted."""
    command = out_command(OutServiceAction.REGISTER, key, 0, aptpl=tracked.aptpl)
    for _ in range(ATTEMPTS):
        response = yield from tell(command, "REGISTER (unregister)")
        if response is None:
            continue
        if response.good or response.status is Status.RESERVATION_CONFLICT:
            return
        raise StepFailed("REGISTER (unregister)", f"the LUN answers {describe_response(response)}")
    raise StepFailed("REGISTER (unregister)", "the LUN's answers are lost again and again")


def as_it_is_now(lun: MovingLun) -> Steps[Tracked]:
    """What the guest had, with PTPL_A as the LUN has it now: long after anything was heard of it, a REGISTER
    must not undo what was decided meanwhile."""
    return replace(lun.tracked, aptpl=(yield from active_aptpl(lun.as_registered.aptpl)))


def hex_of(keys: tuple[int, ...]) -> str:
    return ", ".join(f"{key:#x}" for key in keys) or "none"
