"""The documents of ``holdover top --json`` and of the dashboard: a site as its agents describe it.

Names are stable. Keys are strings, "0x…". Times are seconds since the epoch.
"""

from __future__ import annotations

from enum import Enum

import msgspec


class Severity(Enum):
    """How soon somebody must look at an alarm."""

    URGENT = "urgent"
    """A guest may stand still, or it is not known where its reservations are."""
    WARNING = "warning"
    """Nothing stands still. Something will not work later."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody must look at; ``next`` is the command that comes next, or empty."""

    severity: Severity
    host: str
    guest: str
    text: str
    next: str = ""


class FleetHost(msgspec.Struct, frozen=True, kw_only=True):
    """One host.

    Attributes:
        name: The host's name; its address if it has never answered.
        api: The address at which its agent is asked.
        version: The version of its agent; empty if it does not answer.
        guests: How many guests its agent knows.
        running: How many of these run there.
        problem: Why it does not answer; empty if it does.
    """

    name: str
    api: str
    version: str = ""
    guests: int = 0
    running: int = 0
    problem: str = ""


class FleetDisk(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest has on one LUN. ``type_name`` is "none" if the guest holds no reservation."""

    id: str
    lun: str
    gate: str
    key: str | None
    type: int | None
    type_name: str
    aptpl: bool
    stale: bool
    held: int


class FleetGuest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest on one host. ``place`` is "here", "arriving", "leaving", "elsewhere" or "without disks"."""

    name: str
    host: str
    place: str
    disks: tuple[FleetDisk, ...]
    sessions: int = 0


class LunUser(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that has a LUN; ``holds``: whether its agent tracks it as a holder of the reservation."""

    guest: str
    host: str
    key: str | None
    holds: bool
    gate: str


class FleetLun(msgspec.Struct, frozen=True, kw_only=True):
    """One LUN, with the guests that have it."""

    designator: str
    type_name: str
    users: tuple[LunUser, ...]


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's way from one host to another: a migration, or a handover alone.

    Attributes:
        id: The id of the handover, which is that of the migration too.
        state: The phase of the migration, else the state of the handover.
        open: Whether something is left to do.
        in_doubt: Whether it is not known where the guest's reservations are.
        progress: The part of the guest's memory that is copied, 0.0 to 1.0; None if that is not known.
        began, ended: ``ended`` is 0.0 while it lasts; both are 0.0 for a handover alone.
        now: What is true now, in a sentence.
        standstill_ms: The time from STOP on the source to RESUME on the destination, if it is known.
    """

    id: str
    guest: str
    source: str
    destination: str
    state: str
    open: bool
    in_doubt: bool = False
    progress: float | None = None
    began: float = 0.0
    ended: float = 0.0
    now: str = ""
    standstill_ms: float | None = None


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """A site at one time."""

    at: float
    hosts: tuple[FleetHost, ...]
    guests: tuple[FleetGuest, ...]
    luns: tuple[FleetLun, ...]
    moves: tuple[Move, ...]
    alarms: tuple[Alarm, ...]
