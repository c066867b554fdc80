"""Whether an agent can do its work, part by part: what /readyz answers."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from holdover.agent.host import Host
from holdover.agent.monitoring.peer_watch import PeerReport
from holdover.api.documents import ReadinessPart, ReadinessState


def readiness(host: Host, peers: Mapping[str, PeerReport], now: datetime.datetime) -> ReadinessState:
    """The state of each part.

    LUNs and peers that do not answer are named. They do not make the agent unready: it serves all other
    guests.
    """
    parts = (_start(host), _journal(host), _certificates(host, now))
    return ReadinessState(
        host=host.config.name,
        ready=all(part.ready for part in parts),
        parts=parts,
        degraded=(
            *_unknown_luns(host),
            *(f"peer {name}: {each.problem}" for name, each in peers.items() if not each.reachable),
        ),
    )


def _start(host: Host) -> ReadinessPart:
    if host.has_started:
        return ReadinessPart(name="start", ready=True)
    return ReadinessPart(name="start", ready=False, problem="the LUNs of the guests are being asked")


def _journal(host: Host) -> ReadinessPart:
    failed = host.journal.failed
    return ReadinessPart(name="journal", ready=failed is None, problem="" if failed is None else str(failed))


def _certificates(host: Host, now: datetime.datetime) -> ReadinessPart:
    ends = () if host.credentials is None else host.credentials.ends()
    over = [f"the certificate of {name} ({file}) has ended" for name, file, end in ends if end <= now]
    return ReadinessPart(name="certificates", ready=not over, problem="; ".join(over))


_LISTED = 20


def _unknown_luns(host: Host) -> tuple[str, ...]:
    found = [
        f"guest {guest.name}: {device.name} has not told which LUN it is"
        for guest in tuple(host.guests.values())
        for device in guest.devices
        if device.designator is None
    ]
    more = (f"and {len(found) - _LISTED} more",) if len(found) > _LISTED else ()
    return (*found[:_LISTED], *more)
