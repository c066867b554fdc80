"""What the demonstration's processes tell each other, one JSON document a line."""

from __future__ import annotations

import msgspec

__all__ = [
    "Connect",
    "End",
    "Open",
    "Order",
    "Ready",
    "Report",
    "Said",
    "Stop",
    "Tick",
    "decode_order",
    "decode_said",
    "encode",
]


class Open(msgspec.Struct, tag="open", frozen=True):
    """To the workload: open this disk as well, as the QEMU does that waits for the guest."""

    url: str


class Connect(msgspec.Struct, tag="connect", frozen=True):
    """To the workload: go on, on the disk behind this URL. The first time: register and reserve as well."""

    url: str


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """To the workload: stand still, as a guest does while its migration switches over."""


class End(msgspec.Struct, tag="end", frozen=True):
    """To both: stop, verify what was written (the workload), report."""


class Tick(msgspec.Struct, tag="tick", frozen=True):
    """What happened since the last tick; ``at`` is CLOCK_MONOTONIC, seconds."""

    at: float
    who: str
    accepted: int
    refused: int
    why: str = ""


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The workload writes, or stands still: when it began or ended."""

    at: float


class Report(msgspec.Struct, tag="report", frozen=True):
    """The sums. ``verified`` and ``damaged`` count blocks that were written and read back at the end."""

    who: str
    accepted: int
    refused: int
    verified: int = 0
    damaged: int = 0


Order = Open | Connect | Stop | End
Said = Tick | Ready | Report

_orders: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_said: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


def encode(message: Order | Said) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode_order(line: bytes) -> Order:
    """An order to a process."""
    return _orders.decode(line)


def decode_said(line: bytes) -> Said:
    """What a process says."""
    return _said.decode(line)
