"""What the metrics of a host are now. Nearly everything is read here, when somebody asks.

An agent may have thousands of LUNs, and its event loop carries the guests' commands. So this leaves the loop
to others after each few guests.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from holdover import __version__
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.host import Host
from holdover.agent.monitoring.peer_watch import PeerReport
from holdover.api.documents import ReadinessState
from holdover.api.version import API_VERSION
from holdover.guest.gate import Gate
from holdover.journal.journal import Journal
from holdover.metrics import definitions as metrics
from holdover.metrics.definitions import NAMED_MOST, Metric
from holdover.metrics.durations import COMMAND_BOUNDS, Durations
from holdover.metrics.exposition import Sample

_GUESTS_AT_ONCE = 16
_STATES = (*(gate.value for gate in Gate), "none")


async def readings_of(host: Host, peers: Mapping[str, PeerReport], ready: ReadinessState) -> list[Sample]:
    """All readings of ``host``."""
    totals = _Totals()
    now = time.monotonic()
    for number, guest in enumerate(tuple(host.guests.values()), 1):
        totals.add(guest, now)
        if number % _GUESTS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return [
        Sample(metrics.BUILD, 1, (host.config.name, __version__, API_VERSION)),
        *(Sample(metrics.READY, part.ready, (part.name,)) for part in ready.parts),
        *totals.readings(),
        *_handovers(host),
        *_journal(host),
        *_sockets(host),
        *_certificates(host),
        *_peers(peers),
    ]


@dataclass(slots=True)
class _Totals:
    """The sums over all guests, and those guests with which something is wrong."""

    guests: Counter[str] = field(default_factory=Counter)
    luns: Counter[str] = field(default_factory=Counter)
    sums: Counter[Metric] = field(default_factory=Counter)
    stale: list[tuple[str, str]] = field(default_factory=list)
    held: list[tuple[str, float]] = field(default_factory=list)

    def add(self, guest: HostedGuest, now: float) -> None:
        """Count one guest."""
        since: float | None = None
        for device in guest.devices:
            block, gate = device.block, device.block.gate
            self.luns[gate.value] += 1
            self.sums[metrics.LUNS_UNKNOWN] += device.designator is None
            self.sums[metrics.REGISTRATIONS] += device.tracked.key != 0
            self.sums[metrics.RESERVATIONS] += device.tracked.type is not None
            self.sums[metrics.IN_FLIGHT] += device.in_flight
            self.sums[metrics.HELD] += device.held
            if block.stale and block.migrate_pr:
                self.sums[metrics.STALE_LUNS] += 1
                self.stale.append((guest.name, str(device.designator or device.name)))
            if gate is Gate.LEAVING or (gate is not Gate.RUNNING and device.held):
                since = device.gate_moved_at if since is None else min(since, device.gate_moved_at)
        if since is not None:
            self.held.append((guest.name, now - since))
        # the gates of a guest's devices move together
        self.guests[guest.devices[0].block.gate.value if guest.devices else "none"] += 1
        if guest.target is not None:
            self.sums[metrics.SESSIONS] += len(guest.target.sessions())

    def readings(self) -> Iterator[Sample]:
        """The readings that the sums make."""
        for state in _STATES:
            yield Sample(metrics.GUESTS, self.guests[state], (state,))
        for state in _STATES[:-1]:
            yield Sample(metrics.LUNS, self.luns[state], (state,))
        for metric in (
            metrics.LUNS_UNKNOWN,
            metrics.REGISTRATIONS,
            metrics.RESERVATIONS,
            metrics.STALE_LUNS,
            metrics.IN_FLIGHT,
            metrics.HELD,
            metrics.SESSIONS,
        ):
            yield Sample(metric, self.sums[metric])
        yield Sample(metrics.GATES_HELD, len(self.held))
        for name, lun in self.stale[:NAMED_MOST]:
            yield Sample(metrics.STALE, 1, (name, lun))
        longest = sorted(self.held, key=lambda each: -each[1])
        for name, seconds in longest[:NAMED_MOST]:
            yield Sample(metrics.GATE_HELD, seconds, (name,))


def _handovers(host: Host) -> Iterator[Sample]:
    under_way = host.handovers.under_way()
    roles = Counter(each.role for each in under_way)
    in_doubt = [each for each in under_way if each.in_doubt]
    for role in ("source", "destination"):
        yield Sample(metrics.HANDOVERS, roles[role], (role,))
    yield Sample(metrics.DOUBTS, len(in_doubt))
    yield Sample(metrics.STUCK, sum(bool(each.problem) for each in under_way))
    for each in in_doubt[:NAMED_MOST]:
        yield Sample(metrics.IN_DOUBT, 1, (each.guest, each.handover_id, each.role))
    measured = host.measurements
    for (role, end), count in measured.ends.items():
        yield Sample(metrics.ENDS, count, (role, end))
    for (role, phase), durations in measured.phases.items():
        yield Sample(metrics.PHASES, durations, (role, phase))
    yield Sample(metrics.STANDSTILLS, measured.standstills)
    yield Sample(metrics.MIGRATIONS, host.migrations.under_way)
    for what, count in measured.refused.items():
        yield Sample(metrics.REFUSED, count, (what,))
    yield Sample(metrics.REFUSED, host.helpers.refused, ("helper command",))
    yield Sample(metrics.COMMANDS, measured.own_commands, ("agent",))
    yield Sample(metrics.COMMANDS, measured.guest_reservations, ("guest",))


def _journal(host: Host) -> Iterator[Sample]:
    journal = host.journal if isinstance(host.journal, Journal) else None
    yield Sample(metrics.SYNCS, Durations(COMMAND_BOUNDS) if journal is None else journal.commits)
    yield Sample(metrics.RECORDS, 0 if journal is None else journal.records)
    yield Sample(metrics.JOURNAL_FAILURES, 0 if journal is None else journal.failures)
    yield Sample(metrics.JOURNAL_FAILING, host.journal.failed is not None)


def _sockets(host: Host) -> Iterator[Sample]:
    yield Sample(metrics.CLIENTS, host.helpers.clients.count)
    yield Sample(metrics.CLIENTS_LIMIT, host.helpers.clients.capacity)
    yield Sample(metrics.HELPER, host.measurements.helper_commands)
    yield Sample(metrics.MEMORY, host.export_memory.used)
    yield Sample(metrics.MEMORY_LIMIT, host.export_memory.limit)
    yield Sample(metrics.CONNECTIONS, host.admission.count)
    yield Sample(metrics.CONNECTIONS_LIMIT, host.admission.capacity)
    refused: Counter[str] = Counter()
    for each in host.admission.front_ends:
        # there may be thousands of exports
        refused["exports" if each.name.startswith("target ") else each.name] += each.refused
    for name, count in refused.items():
        yield Sample(metrics.TURNED_AWAY, count, (name,))


def _certificates(host: Host) -> Iterable[Sample]:
    ends = () if host.credentials is None else host.credentials.ends()
    return [Sample(metrics.CERTIFICATE, end.timestamp(), (name, str(file))) for name, file, end in ends]


def _peers(peers: Mapping[str, PeerReport]) -> Iterator[Sample]:
    for name, each in peers.items():
        yield Sample(metrics.PEER, each.reachable, (name,))
        if each.skew is not None:
            yield Sample(metrics.PEER_SKEW, each.skew, (name,))
