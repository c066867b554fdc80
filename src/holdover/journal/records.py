"""The records that a journal keeps. A ``body`` is the owner's JSON, which the journal does not read."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


class GuestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A guest of this host. Its name is its key.

    ``origin`` is ``"configured"``, ``"attached"`` or ``"expected"``. ``process`` is the QEMU process identity
    when that process last showed a disk of the guest, as JSON of its owner; empty when no process has.
    """

    name: str
    uuid: str | None
    machine_type: str
    origin: str
    process: str = ""


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A device of a guest. The guest and the designator (VPD page 83h) are its key."""

    guest: str
    designator: str
    drive: str
    body: bytes


class HandoverRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A state that one side of a handover has reached. All states are kept; the newest of each side counts.

    ``role`` is ``"source"`` or ``"destination"``, ``peer`` is the peer host, ``at`` is in seconds since the
    epoch. ``handover`` is the id that all states of one handover share.
    """

    handover_id: str
    guest: str
    role: str
    peer: str
    state: str
    open: bool
    body: bytes
    at: float


Record = GuestRecord | DeviceRecord | HandoverRecord

Key = str | tuple[str, str]
"""The key of what `forget` removes: a guest's name (with its devices), or a guest's name and a designator."""


@dataclass(frozen=True, slots=True)
class JournalContents:
    """Everything that a journal keeps.

    Guests are sorted by name, devices by guest and designator. Of each side of a handover there is only the
    newest state; the side that changed last comes last. So a state of one side never hides a state of the
    other side.
    """

    guests: tuple[GuestRecord, ...]
    devices: tuple[DeviceRecord, ...]
    handovers: tuple[HandoverRecord, ...]


def contents_of(
    guests: list[GuestRecord], devices: list[DeviceRecord], steps: list[HandoverRecord]
) -> JournalContents:
    """The contents, from guests and devices in any order and all states of all handovers, oldest first."""
    newest: dict[tuple[str, str], HandoverRecord] = {}
    for step in steps:
        side = step.handover_id, step.role
        newest.pop(side, None)
        newest[side] = step
    return JournalContents(
        guests=tuple(sorted(guests, key=lambda guest: guest.name)),
        devices=tuple(sorted(devices, key=lambda device: (device.guest, device.designator))),
        handovers=tuple(newest.values()),
    )
