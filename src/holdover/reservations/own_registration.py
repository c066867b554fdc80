"""What this host's nexus has on a LUN: finds it out without changing a registration.

Theory of operation. READ KEYS and READ RESERVATION report keys and not nexuses, and several nexuses may have
the same key. A probe tells a nexus its own key (`own_key`). The probe sets APTPL, so it carries the value
that is active (PTPL_A of REPORT CAPABILITIES). It also adds one to PRGENERATION, as any registration does. If
PRGENERATION has moved by no more than that, the values that were read before and after the probe belong
together. Behind multipath, PRGENERATION moves once for each path that the probe registers. There, a second
probe must find what the first one found.

READ FULL STATUS names nexuses by their TransportIDs. If the TransportID of this nexus is known, that command
is enough. If not, it is learned from a descriptor whose key is proven to be this nexus's and belongs to no
other nexus. For a multipath device it is never learned: another of its paths may hold the reservation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from holdover.reservations.own_key import Own, probe
from holdover.reservations.questions import Picture, active_aptpl, read_full_status, read_picture
from holdover.reservations.steps import Steps
from holdover.reservations.tracked import Tracked
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import FullStatus, FullStatusDescriptor, Reservation

_ROUNDS = 4
_UNSTEADY = "the registrations change during every reading; try again when other nodes are quiet"
_MOST_KEYS = 64  # In clusters with more nodes, the journal or the operator knows the key.
_WRAP = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Found:
    """What this host's nexus has on a LUN.

    Attributes:
        tracked: Its key, its reservation, and the APTPL that is active on the LUN. If that is not certain:
            the part of it that is proven.
        certain: Whether ``tracked`` is complete and proven.
        reason: Why it is not certain; empty if it is.
        nexus: This nexus as READ FULL STATUS names it; None if that was not learned.
    """

    tracked: Tracked
    certain: bool
    reason: str = ""
    nexus: ITNexus | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between what a LUN says and what is tracked.

    Attributes:
        tracked: What is tracked.
        found: What the LUN says of the guest; None if it does not tell whose its reservation is.
        reason: The difference in words; empty if there is none.
    """

    tracked: Tracked
    found: Tracked | None
    reason: str = ""


def none_beside(_: int) -> int:
    """The default of ``beside``: no handover has registered anything on another nexus."""
    return 0


def find_own_registration(
    candidates: Sequence[int] = (),
    *,
    aptpl: bool = False,
    nexus: ITNexus | None = None,
    beside: Callable[[int], int] = none_beside,
    paths: int = 1,
) -> Steps[Found]:
    """Which key this host's nexus has on the LUN, and whether it is the reservation holder.

    Args:
        candidates: Keys that this nexus may have, the likeliest first. After them, all other keys on the LUN
            are tried.
        aptpl: The APTPL for the probe if the LUN does not say which value is active.
        nexus: This nexus as READ FULL STATUS names it, from an earlier `Found`.
        beside: Returns, for a key, how many registrations the guest's handover has made on the other host.
            These do not count as a third node's.
        paths: How many paths this host's device has, usable or not.

    Raises:
        StepFailed: The LUN refuses to say.
    """
    if nexus is not None:
        status = yield from read_full_status()
        known = None if status is None else _descriptor_of(status, nexus)
        if known is not None:
            active = yield from active_aptpl(aptpl)
            return Found(Tracked(known.key, active, known.type, known.scope), certain=True, nexus=nexus)
    for _ in range(_ROUNDS):
        before = yield from read_picture()
        # last of all before it is used: another node may set it at any time
        active = yield from active_aptpl(aptpl)
        own = yield from _own_key(candidates, before.keys, active)
        if own is None:
            reason = "this host's nexus is registered with a key that READ KEYS does not show"
            return Found(Tracked(), certain=False, reason=reason)
        if own.key == 0:
            away = _held_by_a_path_that_is_away(own, candidates, before.reservation)
            if not away and own.carried and len(own.carried) < paths:
                away = _left_on_a_path_that_is_away(candidates, before.keys, beside)
            return Found(Tracked(), certain=not away, reason=away)
        after = yield from read_picture()
        picture = yield from _belonging_together(own, before, after, active)
        if picture is not None:
            registered = Tracked(own.key, active)
            if away := _held_by_a_path_that_is_away(own, candidates, picture.reservation):
                return Found(registered, certain=False, reason=away)
            return (yield from _judge(registered, picture, own, beside(own.key)))
        candidates = (own.key, *candidates)
    return Found(Tracked(), certain=False, reason=_UNSTEADY)


def compare(tracked: Tracked, *, nexus: ITNexus | None = None) -> Steps[Difference]:
    """Compare what is tracked with what the LUN says, by reading alone.

    Args:
        tracked: What the guest has established, as far as was seen.
        nexus: This nexus as READ FULL STATUS names it. Without it a third nexus with the guest's key is
            taken for the guest, which `find_own_registration` does not do.

    Raises:
        StepFailed: The LUN refuses to say.
    """
    aptpl = yield from active_aptpl(tracked.aptpl)
    status = None if nexus is None else (yield from read_full_status())
    if nexus is not None and status is not None:
        own = _descriptor_of(status, nexus)
        found = Tracked() if own is None else Tracked(own.key, aptpl, own.type, own.scope)
        return Difference(tracked, found, _in_words(tracked, found))
    picture = yield from read_picture()
    if tracked.key not in picture.keys:
        return Difference(tracked, Tracked(), _in_words(tracked, Tracked()))
    registered = replace(tracked, aptpl=aptpl, type=None, scope=0)
    held = picture.reservation
    if held is None or not _names(held, tracked.key):
        return Difference(tracked, registered, _in_words(tracked, registered))
    holder = replace(registered, type=held.type, scope=held.scope)
    count = picture.keys.count(tracked.key)
    if held.type.all_registrants or count == 1 or _same(tracked, holder):
        return Difference(tracked, holder, _in_words(tracked, holder))
    return Difference(tracked, None, _whose(held, count))


def _own_key(candidates: Sequence[int], keys: Sequence[int], aptpl: bool) -> Steps[Own | None]:
    """What this host is registered with, key 0: nothing, None: it is not to be found."""
    likely = [key for key in dict.fromkeys(candidates) if key in keys]
    rest = [key for key in dict.fromkeys(keys) if key not in likely][:_MOST_KEYS]
    for key in (*likely, 0, *rest):
        response = yield from probe(key, key, aptpl)
        if response.good:
            return Own(key, response.carried)
    return None


def _belonging_together(own: Own, before: Picture, after: Picture, aptpl: bool) -> Steps[Picture | None]:
    """What the LUN says last, if nobody but this host's probe, which has found ``own``, has registered
    between two readings; else None."""
    if not own.carried:
        return after if (after.generation - before.generation) & _WRAP <= 1 else None
    again = yield from probe(own.key, own.key, aptpl)
    if not again.good or again.carried != own.carried:
        return None
    last = yield from read_picture()
    return last if (last.keys, last.reservation) == (after.keys, after.reservation) else None


def _judge(registered: Tracked, picture: Picture, own: Own, beside: int) -> Steps[Found]:
    """What a host has whose key is proven; ``beside``: how many others with it are of a handover's making."""
    held, count = picture.reservation, picture.keys.count(registered.key)
    # a multipath device is one nexus for each path, even if only one of them is registered now
    is_one = count == 1 and not own.carried
    nexus = (yield from _learn_nexus(registered.key, picture)) if is_one else None
    if held is None or not _names(held, registered.key):
        return Found(registered, certain=True, nexus=nexus)
    if held.type.all_registrants or (yield from _are_own(own, count - beside)):
        return Found(replace(registered, type=held.type, scope=held.scope), certain=True, nexus=nexus)
    return Found(registered, certain=False, reason=_whose(held, count))


def _are_own(own: Own, count: int) -> Steps[bool]:
    """Whether all ``count`` registrations with the key of ``own`` are this host's.

    On a LUN that keeps one registration for each initiator port they are as many as its ports, else as its
    paths. READ FULL STATUS tells which it is: this host has as many initiator ports as have the key.
    """
    ports = len(set(own.carried)) or 1
    if count <= ports:
        return True
    if count > len(own.carried):
        return False
    status = yield from read_full_status()
    if status is None:
        return False
    return len({each.transport_id for each in status.descriptors if each.key == own.key}) == ports


def _held_by_a_path_that_is_away(own: Own, candidates: Sequence[int], held: Reservation | None) -> str:
    """Why a path of a multipath device that cannot be reached may hold the reservation; empty if none may.

    A REGISTER whose answer was lost may have changed the key of some paths only.
    """
    if held is None or held.type.all_registrants or not own.carried:
        return ""
    if held.key == own.key or held.key not in candidates:
        return ""
    return (
        f"the reservation is held with key {held.key:#x}, which the guest had or may have set, perhaps by a "
        "path of this host that is away; bring all paths back (multipath -ll)"
    )


def _left_on_a_path_that_is_away(
    candidates: Sequence[int], keys: Sequence[int], beside: Callable[[int], int]
) -> str:
    """Why a path that is away may be registered, although no other path of its device is; empty if it is not.

    The device may have had only that path when the guest registered.
    """
    for key in candidates:
        if key and keys.count(key) > beside(key):
            return (
                f"key {key:#x}, which the guest had or may have set, is registered, perhaps by a path of "
                "this host that is away; bring all paths back (multipath -ll)"
            )
    return ""


def _learn_nexus(key: int, picture: Picture) -> Steps[ITNexus | None]:
    status = yield from read_full_status()
    if status is None or status.generation != picture.generation:
        return None
    beside = [each for each in status.descriptors if each.key == key]
    # a descriptor for all target ports does not say which one is ours
    if len(beside) != 1 or beside[0].all_target_ports:
        return None
    return ITNexus(beside[0].transport_id, beside[0].relative_target_port)


def _descriptor_of(status: FullStatus, nexus: ITNexus) -> FullStatusDescriptor | None:
    for each in status.descriptors:
        if each.transport_id == nexus.initiator and (
            each.all_target_ports or each.relative_target_port == nexus.target_port
        ):
            return each
    return None


def _names(held: Reservation, key: int) -> bool:
    return held.type.all_registrants or held.key == key


def _same(tracked: Tracked, found: Tracked) -> bool:
    """Whether two say the same; what all registrants hold is nothing that the guest must have taken."""
    if tracked.type is None and found.type is not None and found.type.all_registrants:
        found = replace(found, type=None, scope=0)
    return tracked == found


def _whose(held: Reservation, count: int) -> str:
    return (
        f"the reservation of type {held.type.short_name} is held with key {held.key:#x}, which "
        f"{count} nexuses have; it is not known which of them holds it"
    )


def _in_words(tracked: Tracked, found: Tracked) -> str:
    if _same(tracked, found):
        return ""
    if tracked.key != found.key:
        was = f"key {tracked.key:#x}" if tracked.key else "nothing"
        now = f"key {found.key:#x}" if found.key else "nothing"
        return f"the guest was seen to register {was}, the LUN has {now} for this host's nexus"
    if (tracked.type, tracked.scope) != (found.type, found.scope) and not (
        tracked.type is None and found.type is not None and found.type.all_registrants
    ):
        was = "nothing" if tracked.type is None else tracked.type.short_name
        now = "nothing" if found.type is None else found.type.short_name
        return f"the guest was seen to hold {was}; the LUN reports {now}"
    return f"the guest registered with APTPL {tracked.aptpl:d}; the LUN reports {found.aptpl:d}"
