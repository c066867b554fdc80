"""What a handover has registered on the destination while the guest still runs on the source.

The answers that the guest reads leave these registrations out: the guest did not make them. By the time when
the guest could tell them from its own registrations, they have become its own, or they are gone. PRGENERATION
stays as the logical unit reports it, because PRGENERATION counts what any node does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.errors import DecodeError
from holdover.scsi.reservation.reservation_in import FullStatus, FullStatusDescriptor, ReadKeys

FILTERED = frozenset({InServiceAction.READ_KEYS, InServiceAction.READ_FULL_STATUS})
"""The service actions of PERSISTENT RESERVE IN whose data name registrations."""


@dataclass(frozen=True, slots=True)
class Added:
    """The registrations of one handover on the destination's nexuses to a logical unit.

    Attributes:
        keys: The keys that these registrations may have. All of them have the same one of these keys. There
            are several keys because the guest may have changed its key a moment ago.
        count: The greatest number of these registrations.
        own: How many registrations the guest itself has, on the source.
        others: The keys of third nexuses, as they were read last.
        ports: The initiator ports that are proven to be the destination's, as READ FULL STATUS names them.
        proven: Whether the destination has said that these registrations are there, and that their key is the
            guest's.
    """

    keys: tuple[int, ...]
    count: int = 1
    own: int = 1
    others: tuple[int, ...] = ()
    ports: tuple[str, ...] = ()
    proven: bool = False

    def beside(self, key: int) -> int:
        """How many registrations with ``key`` the handover has certainly made on the destination.

        One that it may have made does not count: it may be a third node's, which may hold the reservation.
        """
        return self.count if self.proven and key in self.keys and key not in self.others else 0


def without_added(action: int, data: bytes, added: Added, key: int) -> bytes:
    """The whole data of READ KEYS or READ FULL STATUS without what a handover has added.

    Args:
        action: The service action.
        data: The data of the logical unit, not cut short.
        added: What the handover has added.
        key: The guest's own key; 0 when it is not registered.
    """
    try:
        if action == InServiceAction.READ_KEYS:
            found = ReadKeys.decode(data)
            left = _leave_out(list(found.keys), added, key)
            return ReadKeys(found.generation, tuple(left)).encode() if found.complete else data
        status = FullStatus.decode(data)
    except DecodeError:
        return data  # these data cannot be understood
    return (
        FullStatus(status.generation, _those_left(status, added, key)).encode() if status.complete else data
    )


def _surplus(keys: list[int], added: Added, key: int) -> Iterator[tuple[int, int]]:
    """For each key: how many registrations the handover may have made.

    Registrations that the guest's own nexuses or a third node explain do not count.
    """
    left = added.count
    for each in added.keys:
        known = added.others.count(each) + (added.own if each == key else 0)
        many = min(left, max(0, keys.count(each) - known))
        left -= many
        yield each, many


def _leave_out(keys: list[int], added: Added, key: int) -> list[int]:
    for each, many in list(_surplus(keys, added, key)):
        for _ in range(many):
            # logical units mostly report registrations in the order in which they were made
            del keys[len(keys) - 1 - keys[::-1].index(each)]
    return keys


def _those_left(status: FullStatus, added: Added, key: int) -> tuple[FullStatusDescriptor, ...]:
    left = list(status.descriptors)
    for each, many in list(_surplus([one.key for one in left], added, key)):
        likely = sorted(
            (at for at, one in enumerate(left) if one.key == each),
            key=lambda at: _likelihood(left, at, added),
        )
        for at in sorted(likely[len(likely) - many :], reverse=True):
            del left[at]
    return tuple(left)


def _likelihood(descriptors: list[FullStatusDescriptor], at: int, added: Added) -> tuple[bool, bool, int]:
    """How likely a descriptor is the destination's, among those with the same key.

    It is likelier if its initiator port is known to be the destination's, if it does not hold the
    reservation, and if it was made later.
    """
    one = descriptors[at]
    holds_alone = one.type is not None and not one.type.all_registrants
    return str(one.transport_id) in added.ports, not holds_alone, at
