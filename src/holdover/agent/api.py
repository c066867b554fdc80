"""What travels between agents and those who ask them: the documents of the API.

``GET /guests`` and ``GET /guests/{name}`` answer `HostState` and `GuestState`. Of handovers,
``GET /guests/{name}/handover`` answers the `HandoverState` of the newest;
``POST /guests/{name}/handover/prepare`` takes a `PrepareRequest`, ``.../commit``, ``.../rollback``,
``.../finish`` and ``.../take`` a `HandoverRequest`; they answer when what was asked has been reached.
Agents among themselves: ``POST /peer/handover`` takes a `PeerMessage` and answers an `Answer`,
``GET /peer/handover/{id}`` a `PeerState`. Errors are a `Problem` with status 404 (no such guest or
handover), 409 (it could not be done), 403 (who asks may not) or 400 (a document that is not one of these).
"""

from __future__ import annotations

from enum import Enum

import msgspec

from holdover.handover.moving import MovingLun
from holdover.handover.protocol import Message

__all__ = [
    "DeviceState",
    "GuestState",
    "HandoverRequest",
    "HandoverState",
    "HostState",
    "PeerAddress",
    "PeerMessage",
    "PeerState",
    "PrepareRequest",
    "Problem",
    "SessionState",
    "Span",
    "Stale",
]


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a guest.

    ``key`` 0 means not registered; ``type`` is the number of SPC-4 6.15.3.4, None when the guest holds
    no reservation. ``designator`` is None until the LUN has told it. ``report`` is what an operator should
    know of a registration that was not adopted.
    """

    id: str
    lun: int
    drive: str
    designator: str | None
    migrate_pr: bool
    gate: str
    key: int
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
    machine: str
    export: str
    devices: tuple[DeviceState, ...]
    sessions: tuple[SessionState, ...] = ()
    handover: str | None = None
    handover_state: str = ""
    handover_problem: str = ""


class PeerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A [[peer]] of an agent."""

    name: str
    api: str


class HostState(msgspec.Struct, frozen=True, kw_only=True):
    """One agent: its host's name, its initiator name and its guests; ``warnings`` are for whoever runs it."""

    host: str
    initiator: str
    version: str
    guests: tuple[GuestState, ...]
    warnings: tuple[str, ...] = ()
    peers: tuple[PeerAddress, ...] = ()


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Something that took its time in a handover: a state, work on one LUN, one round trip to it, a message.

    Attributes:
        name: "state prepared", "work preempt", "PREEMPT", "message commit".
        host: Where.
        lun: The LUN's designator; empty for all.
        began, ended: Seconds since the epoch, by this host's clock.
    """

    name: str
    host: str
    lun: str
    began: float
    ended: float


class HandoverState(msgspec.Struct, frozen=True, kw_only=True):
    """A handover on one host.

    Attributes:
        role: "source" or "destination".
        peer: The other host.
        state: As in `holdover.handover.states`.
        open: Whether something is left to do.
        reason: Why it is, or was, rolled back.
        problem: What keeps it from going on.
        in_doubt: Whether it is not certain where the guest's reservations are.
        milliseconds: How long the request took.
        spans: What took how long, so far.
    """

    handover: str
    guest: str
    host: str
    role: str
    peer: str
    state: str
    open: bool
    luns: tuple[MovingLun, ...]
    reason: str = ""
    problem: str = ""
    in_doubt: bool = False
    milliseconds: float = 0.0
    spans: tuple[Span, ...] = ()


class Stale(Enum):
    """What to do where what is tracked of a LUN may be out of date, or is other than the LUN says."""

    REFUSE = "refuse"
    """Do not begin."""
    REREAD = "reread"
    """Take what the LUN says; where it does not tell whose its reservation is, do not begin."""
    FORCE = "force"
    """As before, but where it does not tell, take what was tracked last, if the LUN holds that type."""


class PrepareRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Prepare a handover to ``to``: the name of a peer, or the address of an API on this machine."""

    handover: str
    to: str
    stale: Stale = Stale.REREAD


class HandoverRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Go on with a handover; ``alone``: roll back without waiting for the destination."""

    handover: str
    alone: bool = False


class PeerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message from the agent of ``host``, whose API is at ``api``."""

    host: str
    api: str
    message: Message


class PeerState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a handover stands on its source; ``state`` is empty if it is not known there."""

    handover: str
    known: bool
    state: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was not done: what happened and to whom.

    ``state``: of the handover. ``in_doubt``: whether it is not certain where the guest's reservations are.
    """

    error: str
    host: str = ""
    guest: str = ""
    step: str = ""
    lun: str = ""
    state: str = ""
    in_doubt: bool = False
