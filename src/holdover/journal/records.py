"""What the journal keeps. A ``body`` is its owner's JSON and is not looked into here."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

__all__ = [
    "DeviceRecord",
    "GuestRecord",
    "HandoverRecord",
    "JournalContents",
    "Key",
    "Record",
    "contents_of",
]


class GuestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A guest of this host; one by each name.

    ``origin`` is ``"configured"``, ``"attached"`` or ``"expected"``.
    """

    name: str
    uuid: str | None
    machine: str
    origin: str


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A device of a guest; one by each guest and designator (VPD page 83h)."""

    guest: str
    designator: str
    drive: str
    body: bytes


class HandoverRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A state that one side of a handover has reached; each is kept, the newest of that side counts.

    ``role`` is ``"source"`` or ``"destination"``, ``peer`` the other host, ``at`` seconds since the epoch.
    ``handover`` is the identity that all states of one handover share.
    """

    handover: str
    guest: str
    role: str
    peer: str
    state: str
    open: bool
    body: bytes
    at: float


Record = GuestRecord | DeviceRecord | HandoverRecord

Key = str | tuple[str, str]
"""What can be forgotten: a guest with its devices, by its name; or one device, by guest and designator."""


@dataclass(frozen=True, slots=True)
class JournalContents:
    """All that is kept.

    Guests are in the order of their names, devices in that of guest and designator. Of each side of a
    handover there is the newest state alone, and the one that changed last comes last: a state of one side
    never hides one of the other.
    """

    guests: tuple[GuestRecord, ...]
    devices: tuple[DeviceRecord, ...]
    handovers: tuple[HandoverRecord, ...]


def contents_of(
    guests: list[GuestRecord], devices: list[DeviceRecord], steps: list[HandoverRecord]
) -> JournalContents:
    """Contents from guests and devices in any order and all states of all handovers, oldest first."""
    newest: dict[tuple[str, str], HandoverRecord] = {}
    for step in steps:
        side = step.handover, step.role
        newest.pop(side, None)
        newest[side] = step
    return JournalContents(
        guests=tuple(sorted(guests, key=lambda guest: guest.name)),
        devices=tuple(sorted(devices, key=lambda device: (device.guest, device.designator))),
        handovers=tuple(newest.values()),
    )
