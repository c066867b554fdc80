"""To which host each registration on a LUN belongs: found from the LUN, never from the number of paths.

Theory of operation. READ KEYS says how many nexuses have a key, but not which nexuses. Three things tell
which:

- The answers to a host's own REGISTER: each path that answered GOOD is registered (`Own.carried`). On a LUN
  that keeps one registration for each initiator port, paths of one port are one registration. If the kind of
  the LUN is not known, the smaller number counts, because only that many are proven.
- A random key that nobody else has. The host registers this key first, reads the keys, and then changes it to
  the guest's key. So it knows exactly which registrations are its own, and which kind of LUN it is.
- READ FULL STATUS, if the LUN has it, names the initiator port of each registration. A registration on a port
  that is proven to be a host's belongs to that host, even if the path is away by now.

A registration with the guest's key that none of these explains counts as a third node's: no PREEMPT may
name it.

Paths come and go at any time, and a path that comes back is registered by multipathd. So a host with several
nexuses repeats the count until its answers before and after the reading name the same paths.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from holdover.handover.changes import change_back, register_key
from holdover.handover.lun_handover import LunHandover, Registrations
from holdover.reservations.own_key import Own, which_key
from holdover.reservations.questions import read_full_status, read_keys
from holdover.reservations.steps import StepFailed, Steps
from holdover.reservations.tracked import Tracked
from holdover.scsi.reservation.reservation_in import FullStatus

_ROUNDS = 4
_HOSTS = 2
_STEP = "READ KEYS"


def count_of(lun: LunHandover, own: Own) -> int:
    """The number of registrations that a host is proven to have, by the answers to its REGISTER."""
    if own.key == 0:
        return 0
    if not own.carried:
        return 1
    return len(own.carried) if lun.by_port is False else len(set(own.carried))


def keys_beside(tracked: Tracked, own: Own) -> Steps[tuple[Own, tuple[int, ...]]]:
    """This host's own registration, and the keys of all nexuses, both as of the same time.

    Raises:
        StepFailed: The host's paths come and go faster than can be counted.
    """
    for _ in range(_ROUNDS):
        keys = yield from read_keys()
        if own.key == 0 or (not own.carried and own.key in keys):
            return own, keys
        again = yield from which_key(tracked, (own.key,))
        if again == own or again.key == 0:
            return again, keys
        own = again
    raise StepFailed(_STEP, "the paths of this host's device come and go faster than they can be counted")


def register_proven(
    lun: LunHandover, tracked: Tracked, nothing: Own, spare: int, known: Registrations
) -> Steps[tuple[LunHandover, Own, Registrations]]:
    """Register the guest's key on this host, which is not registered, and prove which registrations this
    made.

    Args:
        lun: The LUN.
        tracked: The key and the APTPL to register.
        nothing: The answer by which this host was found to have no registration.
        spare: A key that nobody has. A host with several nexuses registers it first.
        known: The host's registrations as known so far.
    """
    if not nothing.carried:
        own = yield from register_key(tracked, tracked.key)
        return lun, own, known
    registered = yield from register_key(tracked, spare)
    own, keys = yield from keys_beside(tracked, registered)
    count, labels = keys.count(spare), len(set(own.carried))
    # No path has failed since then. A failed path would leave a registration, which would be counted too.
    is_whole = own == registered and count in (labels, len(own.carried))
    if lun.by_port is None and is_whole and labels < len(own.carried):
        lun = replace(lun, by_port=count == labels)
    status = yield from read_full_status()
    ports = set(known.ports) | (set() if status is None else _ports_with(status, (spare,)))
    own = yield from change_back(tracked, spare)
    found = replace(known, count=max(count_of(lun, own), count), several=True, ports=tuple(sorted(ports)))
    return lun, own, found


def with_source(lun: LunHandover, own: Own, keys: tuple[int, ...]) -> Steps[LunHandover]:
    """The LUN with the source's registrations, as the answers ``own`` to the source's REGISTER show them.

    If the number of initiator ports with the guest's key, without the destination's ports, is the number of
    ports that the source is proven to have, then all of these are the source's ports.
    """
    key, ports = own.key, set(lun.source.ports)
    if not own.carried:
        return lun
    if keys.count(key) < len(own.carried):
        lun = replace(lun, by_port=True)
    count = count_of(lun, own)
    status = yield from read_full_status()
    if status is not None:
        having = _ports_with(status, (key,)) - set(lun.destination.ports)
        if len(having) == len(set(own.carried)):
            ports |= having
        named = [each for each in status.descriptors if each.key == key and str(each.transport_id) in ports]
        count = max(count, len(named))
    away = lun.source.paths > len(own.carried)
    found = replace(lun.source, count=count, several=True, ports=tuple(sorted(ports)), away=away)
    return replace(lun, source=found)


def keys_of_hosts(lun: LunHandover) -> Steps[tuple[int, ...] | None]:
    """The keys of the two hosts' own nexuses, by their initiator ports.

    None: a host has several nexuses, the port of one is not known, or the LUN has no READ FULL STATUS. Then a
    third node's registration with the guest's key cannot be told from the other host's.
    """
    ports = {lun.port, *lun.destination.ports}
    if lun.source.several or lun.destination.several or not lun.port or len(ports) != _HOSTS:
        return None
    status = yield from read_full_status()
    if status is None:
        return None
    return tuple(each.key for each in status.descriptors if str(each.transport_id) in ports)


def keys_of_guest(lun: LunHandover) -> Steps[tuple[int, ...]]:
    """The keys of the two hosts' own nexuses; where the LUN does not tell which these are, of all nexuses."""
    named = yield from keys_of_hosts(lun)
    return (yield from read_keys()) if named is None else named


def count_unexplained(
    lun: LunHandover, looked_for: tuple[int, ...], keys: tuple[int, ...], source: int, destination: int
) -> Steps[int]:
    """The number of registrations with one of the keys ``looked_for`` that are not proven to be of either
    host.

    ``source`` and ``destination`` are the numbers of registrations that are proven to be of each host.
    """
    rest = sum(keys.count(key) for key in looked_for) - source - destination
    if rest <= 0:
        return 0
    status = yield from read_full_status()
    if status is None:
        return rest
    known = {*lun.source.ports, *lun.destination.ports}
    unnamed = sum(
        each.key in looked_for and str(each.transport_id) not in known for each in status.descriptors
    )
    for registrations, count in ((lun.source, source), (lun.destination, destination)):
        if not registrations.ports:
            unnamed -= count
    return min(rest, max(unnamed, 0))


def _ports_with(status: FullStatus, keys: Iterable[int]) -> set[str]:
    return {str(each.transport_id) for each in status.descriptors if each.key in keys}
