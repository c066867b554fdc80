"""What a guest has left registered on a LUN by a host that is dead, as READ FULL STATUS shows it. Pure.

Behind an export each guest has an initiator port of its own on each host: the initiator name of the host, and
an ISID that is made of the guest's name. So a registration with the guest's ISID and the name of another host
is the guest's registration by that host, although no record of it is here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from holdover.reservations.tracked import Tracked
from holdover.scsi.reservation.reservation_in import FullStatus, FullStatusDescriptor
from holdover.scsi.reservation.transport_id import IscsiTransportID


class NotKnown(Exception):
    """What the guest has left behind is not certain; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """What a guest has on one LUN by a dead host.

    Attributes:
        tracked: The key, and the reservation if that nexus holds it; no key: nothing was left.
        port: The initiator port of the dead host; empty if nothing was left.
        others: The keys of all other nexuses, in ascending order.
    """

    tracked: Tracked
    port: str = ""
    others: tuple[int, ...] = ()


def left_behind(
    status: FullStatus,
    own_port: str,
    living: Collection[str],
    dead: Collection[str] | None = None,
    *,
    aptpl: bool,
) -> LeftBehind:
    """What a guest has left behind on a LUN.

    Args:
        status: What the LUN says.
        own_port: The guest's initiator port on this host, as READ FULL STATUS would name it.
        living: The initiator names of hosts that are not dead.
        dead: The initiator names of all dead hosts; None if one of them is not known.
        aptpl: Whether APTPL is active on the LUN.

    Raises:
        NotKnown: More than one host may have left it, or this host is registered too.
    """
    isid = own_port.rpartition(",i,0x")[2]
    if not isid:
        raise NotKnown("the guest has no initiator port of its own on this LUN, so nothing tells what it had")
    found = [each for each in status.descriptors if _isid(each) == isid]
    mine = [each for each in found if str(each.transport_id) == own_port]
    theirs = [
        each
        for each in found
        if each not in mine and _name(each) not in living and (dead is None or _name(each) in dead)
    ]
    others = tuple(sorted(each.key for each in status.descriptors if each not in theirs and each not in mine))
    if not theirs:
        return LeftBehind(Tracked(), others=others)
    ports = sorted({str(each.transport_id) for each in theirs})
    if len(ports) > 1:
        raise NotKnown(
            f"{' and '.join(ports)} are registered for the guest; remove what is not the guest's last "
            "registration (holdover pr preempt)"
        )
    if mine:
        raise NotKnown(
            f"{ports[0]} and {own_port} are both registered for the guest; remove one of them (holdover "
            "guest release, or holdover pr preempt)"
        )
    last = theirs[0]
    return LeftBehind(Tracked(last.key, aptpl, last.type, last.scope), ports[0], others)


def _isid(descriptor: FullStatusDescriptor) -> str:
    return str(descriptor.transport_id).rpartition(",i,0x")[2]


def _name(descriptor: FullStatusDescriptor) -> str:
    port = descriptor.transport_id
    return port.name if isinstance(port, IscsiTransportID) else ""
