"""The documents of the API: what agents and their clients send each other.

``GET /guests`` and ``GET /guests/{name}`` answer `HostState` and `GuestState`,
``GET /guests/{name}/secret`` an `ExportSecret`.
``GET /guests/{name}/handover`` answers the `HandoverState` of the guest's newest handover.
``POST /guests/{name}/handover/prepare`` takes a `PrepareRequest`; ``.../commit``, ``.../rollback``,
``.../finish`` and ``.../take`` take a `HandoverRequest`. They answer when the request has been carried out.
Agents ask each other: ``POST /peer/handover`` takes a `PeerMessage` and answers an `Answer`,
``GET /peer/handover/{id}`` answers a `PeerState`. An error is a `Problem` (RFC 9457,
``application/problem+json``) with status 404 (no such guest or handover), 409 (it could not be done), 403
(this client may not ask for it) or 400 (the document is not one of these).

A reservation key has 64 bits, and many JSON readers round numbers above 2**53. So in every document for
people and programs a key is a string, "0x…" (`holdover.scsi.reservation.key`), or null if no key is
registered. Agents send each other `Message` and `Answer` as their own code reads them, with keys as numbers.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from holdover.handover.lun_handover import LunHandover
from holdover.handover.protocol import Message
from holdover.history.entry import Entry
from holdover.scsi.reservation.key import key_text, registered_key_text


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a guest.

    ``key`` is None if the guest is not registered. ``type`` is the number of SPC-4 6.15.3.4, None if the
    guest holds no reservation. ``designator`` is None until the LUN has reported it. ``report`` is what an
    operator must know of a registration that was not adopted.
    """

    id: str
    lun: int
    drive: str
    designator: str | None
    migrate_pr: bool
    gate: str
    key: str | None
    type: int | None
    scope: int
    aptpl: bool
    stale: bool
    in_flight: int
    held: int
    report: str = ""


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """An initiator that is logged in to a guest's export."""

    initiator: str


class GuestState(msgspec.Struct, frozen=True, kw_only=True):
    """One guest on one host."""

    name: str
    host: str
    machine_type: str
    export: str
    devices: tuple[DeviceState, ...]
    sessions: tuple[SessionState, ...] = ()
    handover_id: str | None = None
    handover_state: str = ""
    handover_problem: str = ""


class Registrant(msgspec.Struct, frozen=True, kw_only=True):
    """One registration at a LUN.

    ``initiator`` is the initiator port; empty if the LUN does not report it. ``target_port`` is the relative
    target port; None for all ports, or if the LUN does not report it. ``holder``: whether it holds the
    reservation; if the LUN does not report initiators, whether its key is that of the holder.
    """

    key: str
    holder: bool
    initiator: str = ""
    target_port: int | None = None


class LunRegistrants(msgspec.Struct, frozen=True, kw_only=True):
    """What a LUN says of its registrations now.

    ``type`` is that of the reservation, None if there is none. ``problem`` says why the LUN was not asked.
    """

    designator: str
    registrants: tuple[Registrant, ...] = ()
    type: int | None = None
    problem: str = ""


class GuestRegistrants(msgspec.Struct, frozen=True, kw_only=True):
    """What the LUNs of a guest say of their registrations now."""

    guest: str
    host: str
    luns: tuple[LunRegistrants, ...]


class ExportSecret(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest's QEMU needs to log in to its export.

    Attributes:
        portal: HOST:PORT.
        target: The target's iSCSI name.
        luns: The ids of the devices.
        numbers: The LUN number of each device; empty from an older agent, where they count from 0.
        user, secret: For CHAP; None for an export that does not ask for CHAP (export-open).
        file: The path of the secret's file on the agent's host; QEMU and virsh can read such a file.
    """

    portal: str
    target: str
    luns: tuple[str, ...]
    user: str | None
    secret: str | None
    file: str | None
    numbers: tuple[int, ...] = ()


class PeerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """One [[peer]] in the configuration of an agent."""

    name: str
    api: str


class HostState(msgspec.Struct, frozen=True, kw_only=True):
    """One agent: its host's name, initiator name and guests; ``warnings`` are for the administrator.

    ``version`` is Holdover's, ``api`` that of the API.
    """

    host: str
    initiator: str
    version: str
    api: str
    guests: tuple[GuestState, ...]
    warnings: tuple[str, ...] = ()
    peers: tuple[PeerAddress, ...] = ()


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a handover with its duration: a state, work on a LUN, one round trip to it, or a message.

    Attributes:
        name: "state prepared", "work preempt", "PREEMPT", "message commit".
        host: The host on which this happened.
        lun: The LUN's designator; empty for all LUNs.
        began, ended: Seconds since the epoch, by the clock of that host.
    """

    name: str
    host: str
    lun: str
    began: float
    ended: float


class LunState(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest has on one LUN of a handover.

    Attributes:
        migrate_pr: Whether the reservations move with the guest. If not, all that follows is empty.
        key: The guest's key; None if the guest is not registered.
        type: The number of the reservation's type (SPC-4 6.15.3.4); None if the guest holds no reservation.
        shared: Whether a third nexus has the guest's key.
        others: The keys of all third nexuses.
        alarm: What the destination found to be other than it should be; empty if nothing.
    """

    designator: str
    migrate_pr: bool
    key: str | None
    type: int | None
    scope: int
    aptpl: bool
    shared: bool
    others: tuple[str, ...]
    alarm: str

    @classmethod
    def of(cls, lun: LunHandover) -> LunState:
        """The state of a LUN as a handover knows it."""
        tracked = lun.tracked
        return cls(
            designator=lun.designator,
            migrate_pr=lun.migrate_pr,
            key=registered_key_text(tracked.key),
            type=None if tracked.type is None else tracked.type.value,
            scope=tracked.scope,
            aptpl=tracked.aptpl,
            shared=lun.shared,
            others=tuple(map(key_text, lun.others)),
            alarm=lun.alarm,
        )


class HandoverState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a handover on one host.

    Attributes:
        role: "source" or "destination".
        peer: The other host.
        state: The name of a state in `holdover.handover.states`.
        open: Whether something is left to do.
        reason: Why the handover is, or was, rolled back.
        problem: What prevents the handover from going on.
        in_doubt: Whether it is uncertain where the guest's reservations are.
        milliseconds: How long the request took.
        spans: The parts of the handover so far, with their durations; empty in the answers to `prepare`,
            `commit`, `finish` and `rollback`.
    """

    handover_id: str
    guest: str
    host: str
    role: str
    peer: str
    state: str
    open: bool
    luns: tuple[LunState, ...]
    reason: str = ""
    problem: str = ""
    in_doubt: bool = False
    milliseconds: float = 0.0
    spans: tuple[Span, ...] = ()


class Stale(Enum):
    """What to do if the tracked state of a LUN may be out of date, or differs from what the LUN says."""

    REFUSE = "refuse"
    """Do not begin the handover."""
    REREAD = "reread"
    """Use what the LUN says. If the LUN does not tell who holds its reservation, do not begin."""
    FORCE = "force"
    """As `REREAD`; but if the LUN does not tell, use the state tracked last, if the LUN has that type."""


class PrepareRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to prepare a handover to ``to``: a ``[[peer]]``'s name, or its address as written there."""

    handover_id: str
    to: str
    stale: Stale = Stale.REREAD


class HandoverRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to continue a handover; ``alone``: roll back without waiting for the destination."""

    handover_id: str
    alone: bool = False


class PeerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message from the agent of ``host``; the sender's certificate must have that name.

    ``version`` is that of the sender's API (`holdover.api.version`). An agent refuses a message of a version
    that is neither its own nor a neighbour, since it would miss what has another name there.
    """

    version: str
    host: str
    message: Message


class PeerState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a handover on its source; ``state`` is empty if the source does not know the handover, and
    "elsewhere" if it is over and the guest has left the source in another way.

    ``version`` is that of the API of the agent that answers; empty if it says none. ``clock`` is the time
    there, in seconds since the epoch; 0 if it says none.
    """

    handover_id: str
    known: bool
    state: str = ""
    version: str = ""
    clock: float = 0.0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was not done: problem details (RFC 9457), and to which guest, LUN or step it happened.

    Attributes:
        detail: What happened, what is true now, and what comes next.
        status: The HTTP status of the answer; 0 if the problem did not come over HTTP.
        title: The meaning of that status.
        type: Always "about:blank": ``status`` alone says of which kind the problem is (RFC 9457 4.2.1).
        host: The host that answers.
        guest, step, lun: What it happened to.
        state: The state of the guest's handover.
        in_doubt: Whether it is uncertain where the guest's reservations are.
    """

    detail: str
    status: int = 0
    title: str = ""
    type: str = "about:blank"
    host: str = ""
    guest: str = ""
    step: str = ""
    lun: str = ""
    state: str = ""
    in_doubt: bool = False


class ReadinessPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an agent: "start", "journal" or "certificates"; ``problem`` says why it is not ready."""

    name: str
    ready: bool
    problem: str = ""


class ReadinessState(msgspec.Struct, frozen=True, kw_only=True):
    """What ``GET /readyz`` answers, with status 200 if the agent is ready and 503 if not.

    ``degraded`` names the LUNs and peers that do not answer. They do not make the agent unready: it serves
    all other guests.
    """

    host: str
    ready: bool
    parts: tuple[ReadinessPart, ...]
    degraded: tuple[str, ...] = ()


class HistoryList(msgspec.Struct, frozen=True, kw_only=True):
    """What ``GET /history`` answers: the newest entries, oldest first."""

    host: str
    entries: tuple[Entry, ...]
