"""The table of an agent's metrics. docs/reference/metrics.md is made from it.

Names follow Prometheus' conventions: a counter ends in ``_total``, a unit is a base unit and stands in the
name. Series that have the name of a guest exist only while something is wrong with it, and there are at most
`NAMED_MOST` of each metric: an agent may have thousands of guests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

NAMED_MOST = 100
"""The most series of one metric that are about one guest each."""


class MetricType(Enum):
    """The type of a metric, by the name that Prometheus gives it."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, its type, what it says, and the names of its labels."""

    name: str
    kind: MetricType
    says: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, says: str, *labels: str) -> Metric:
    return Metric(f"holdover_{name}", MetricType.GAUGE, says, labels)


def _counter(name: str, says: str, *labels: str) -> Metric:
    return Metric(f"holdover_{name}_total", MetricType.COUNTER, says, labels)


def _histogram(name: str, says: str, *labels: str) -> Metric:
    return Metric(f"holdover_{name}_seconds", MetricType.HISTOGRAM, says, labels)


BUILD = _gauge(
    "build_info",
    "Always 1; the labels name the host, Holdover's version and the API's.",
    "host",
    "version",
    "api",
)
READY = _gauge("ready", "Whether this part of the agent is ready (1) or not (0), as at /readyz.", "part")

GUESTS = _gauge(
    "guests",
    "Guests by the state of their gates; a guest without a LUN has the state none.",
    "state",
)
LUNS = _gauge("luns", "LUNs of guests by the state of their gates.", "state")
LUNS_UNKNOWN = _gauge("luns_unidentified", "LUNs of guests that have not told their designators yet.")
REGISTRATIONS = _gauge("tracked_registrations", "LUNs on which a guest is registered, as tracked.")
RESERVATIONS = _gauge("tracked_reservations", "LUNs on which a guest holds the reservation, as tracked.")
STALE_LUNS = _gauge("stale_luns", "LUNs whose tracked state may be out of date.")
STALE = _gauge(
    "lun_stale",
    "1 for a LUN whose tracked state may be out of date; no series otherwise.",
    "guest",
    "lun",
)
IN_FLIGHT = _gauge("commands_in_flight", "Commands of guests that are at their LUNs.")
HELD = _gauge("commands_held", "Commands of guests that wait at a gate.")
GATES_HELD = _gauge(
    "gates_held",
    "Guests that stand still: their gates hold them for a handover, or hold commands back.",
)
GATE_HELD = _gauge(
    "gate_held_seconds",
    "How long such a guest's gate has been held; no series for other guests.",
    "guest",
)

HANDOVERS = _gauge("handovers_open", "Handovers under way.", "role")
IN_DOUBT = _gauge(
    "handover_in_doubt",
    "1 for a handover of which it is not known where the reservations are; no series otherwise.",
    "guest",
    "handover_id",
    "role",
)
DOUBTS = _gauge(
    "handovers_in_doubt",
    "Handovers of which it is not known where the guest's reservations are.",
)
STUCK = _gauge("handovers_with_problem", "Handovers under way that cannot go on at present.")
ENDS = _counter("handovers", "Handovers that have ended, by role and end.", "role", "end")
PHASES = _histogram(
    "handover_phase_duration",
    "The phases of handovers; docs/how-to/monitoring.md says when each begins and ends.",
    "role",
    "phase",
)
STANDSTILLS = _histogram(
    "migration_standstill",
    "How long guests stood still in migrations from this host, from STOP to RESUME of QEMU.",
)
MIGRATIONS = _gauge("migrations_open", "Migrations from this host that are under way.")
REFUSED = _counter(
    "refusals",
    "Refused handovers, migrations, requests and commands through the helper.",
    "what",
)

COMMANDS = _histogram(
    "lun_command_duration",
    "Round trips to LUNs: the agent's own commands, and the PERSISTENT RESERVE commands of guests.",
    "sender",
)
SYNCS = _histogram(
    "journal_commit_duration",
    "Transactions of the journal; each one ends with a sync of the disk.",
)
RECORDS = _counter("journal_records", "Records written to the journal.")
JOURNAL_FAILURES = _counter("journal_failures", "Transactions of the journal that have failed.")
JOURNAL_FAILING = _gauge(
    "journal_failing",
    "Whether the journal's last transaction has failed: then guests' changes are refused and handovers wait.",
)

CLIENTS = _gauge("helper_clients", "Connections at the helper's sockets.")
CLIENTS_LIMIT = _gauge("helper_clients_limit", "The most connections at the helper's sockets.")
HELPER = _histogram(
    "helper_command_duration",
    "Commands through the helper's sockets, from their arrival to their answer.",
)
SESSIONS = _gauge("export_sessions", "iSCSI sessions at the exports of guests.")
MEMORY = _gauge("export_memory_bytes", "Data that the commands under way at exports hold.")
MEMORY_LIMIT = _gauge(
    "export_memory_limit_bytes",
    "The most data that the commands under way at exports may hold.",
)
CONNECTIONS = _gauge("connections", "Connections at the API and the exports together.")
CONNECTIONS_LIMIT = _gauge("connections_limit", "The most connections at the API and the exports together.")
TURNED_AWAY = _counter(
    "connections_refused",
    "Connections that were refused, or lost their place, at the API, the metrics and the exports.",
    "front_end",
)

CERTIFICATE = _gauge(
    "certificate_expiry_timestamp_seconds",
    "When a certificate of the agent ends, in seconds since the epoch.",
    "name",
    "file",
)
PEER = _gauge("peer_reachable", "Whether a peer host has answered the last question (1) or not (0).", "peer")
PEER_SKEW = _gauge("peer_clock_skew_seconds", "How far a peer's clock is ahead of this host's.", "peer")

METRICS: tuple[Metric, ...] = tuple(each for each in tuple(globals().values()) if isinstance(each, Metric))
"""All of them, in the order of this file."""
