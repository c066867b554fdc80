"""The messages between the demonstration's processes: one JSON document for each line."""

from __future__ import annotations

import msgspec


class OpenDisk(msgspec.Struct, tag="open", frozen=True):
    """An order to the workload: also open this disk, as the QEMU that waits for the guest does."""

    url: str


class Connect(msgspec.Struct, tag="connect", frozen=True):
    """An order to the workload: continue on the disk at this URL; at first also register and reserve."""

    url: str


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """An order to the workload: stand still, as a guest does while its migration switches over."""


class End(msgspec.Struct, tag="end", frozen=True):
    """An order to both: stop, verify what was written (the workload only), report."""


class Tick(msgspec.Struct, tag="tick", frozen=True):
    """What happened since the last tick; ``at`` is CLOCK_MONOTONIC, in seconds."""

    at: float
    who: str
    accepted: int
    refused: int
    why: str = ""


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The workload writes again, or stands still; ``at`` says since when."""

    at: float


class Report(msgspec.Struct, tag="report", frozen=True):
    """The sums. ``verified`` and ``damaged`` count blocks that were written and read back at the end."""

    who: str
    accepted: int
    refused: int
    verified: int = 0
    damaged: int = 0


Order = OpenDisk | Connect | Stop | End
Said = Tick | Ready | Report

_orders: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_said: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


def encode(message: Order | Said) -> bytes:
    """One line that holds the message."""
    return msgspec.json.encode(message) + b"\n"


def decode_order(line: bytes) -> Order:
    """The order that a line holds."""
    return _orders.decode(line)


def decode_said(line: bytes) -> Said:
    """The message of a process that a line holds."""
    return _said.decode(line)
