"""Designators: the names of a logical unit, target port or target device (SPC-4 7.8.6.1).

This module is a part of `inquiry`, which would be too long with it; import these names from `inquiry`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import quote_from_bytes, unquote_to_bytes

from holdover.scsi.errors import DecodeError


class DesignatorType(IntEnum):
    """What kind of name a designator is (SPC-4 7.8.6.1 table 595)."""

    VENDOR = 0x0
    T10 = 0x1
    EUI64 = 0x2
    NAA = 0x3
    RELATIVE_TARGET_PORT = 0x4
    TARGET_PORT_GROUP = 0x5
    LOGICAL_UNIT_GROUP = 0x6
    MD5 = 0x7
    SCSI_NAME = 0x8
    PROTOCOL_SPECIFIC_PORT = 0x9
    UUID = 0xA


class Association(IntEnum):
    """What a designator names (SPC-4 7.8.6.1 table 594)."""

    LOGICAL_UNIT = 0
    TARGET_PORT = 1
    TARGET_DEVICE = 2


class CodeSet(IntEnum):
    """How a designator's value is written (SPC-4 4.3.3)."""

    BINARY = 1
    ASCII = 2
    UTF8 = 3


# The designators that have a short name in text, and the code set of their value in it.
_PREFIXES = {
    "naa": (DesignatorType.NAA, CodeSet.BINARY),
    "eui": (DesignatorType.EUI64, CodeSet.BINARY),
    "t10": (DesignatorType.T10, CodeSet.ASCII),
}
_PLAIN = bytes(each for each in range(0x20, 0x7F) if each != ord("%")).decode()


@dataclass(frozen=True, slots=True)
class Designator:
    """One name of a logical unit, target port or target device (SPC-4 7.8.6.1).

    Attributes:
        type: The kind of name.
        association: What it names.
        code_set: How the value is written.
        value: Up to 255 bytes.
        protocol: Protocol identifier of a target port, 4 bits, or None (PIV 0).
    """

    type: DesignatorType
    association: Association
    code_set: CodeSet
    value: bytes
    protocol: int | None = None

    def encode(self) -> bytes:
        """The designation descriptor."""
        piv = 0 if self.protocol is None else 0x80
        return bytes(
            [
                (self.protocol or 0) << 4 | self.code_set,
                piv | self.association << 4 | self.type,
                0,
                len(self.value),
                *self.value,
            ]
        )

    def __str__(self) -> str:
        """The text of the designator, which `parse` reads back.

        It is "naa.6001405...", "eui.0025..." or "t10.VENDOR  name". The text of any other designator is
        "designator.TYPE.ASSOCIATION.CODE-SET.PROTOCOL.VALUE", in hexadecimal.
        """
        if self.association is Association.LOGICAL_UNIT and self.protocol is None:
            for prefix, (kind, code_set) in _PREFIXES.items():
                if self.type is kind and self.code_set is code_set:
                    return f"{prefix}.{_value_text(self.value, code_set)}"
        protocol = "-" if self.protocol is None else f"{self.protocol:x}"
        return (
            f"designator.{self.type:x}.{self.association:x}.{self.code_set:x}.{protocol}.{self.value.hex()}"
        )

    @classmethod
    def parse(cls, text: str) -> Designator:
        """The designator of a text that `str` has made.

        Raises:
            DecodeError: The text is not such a text.
        """
        prefix, dot, rest = text.partition(".")
        try:
            if dot and prefix in _PREFIXES:
                kind, code_set = _PREFIXES[prefix]
                value = bytes.fromhex(rest) if code_set is CodeSet.BINARY else unquote_to_bytes(rest)
                return cls(kind, Association.LOGICAL_UNIT, code_set, value)
            if prefix == "designator":
                numbers, value = rest.split(".")[:4], bytes.fromhex(rest.split(".", 4)[4])
                kind, association, code_set = (
                    DesignatorType(int(numbers[0], 16)),
                    Association(int(numbers[1], 16)),
                    CodeSet(int(numbers[2], 16)),
                )
                protocol = None if numbers[3] == "-" else int(numbers[3], 16) & 0xF
                return cls(kind, association, code_set, value, protocol)
        except (ValueError, IndexError):
            pass
        raise DecodeError("designator", f"{text!r} is not naa., eui., t10. or designator. with a value")


def _value_text(value: bytes, code_set: CodeSet) -> str:
    return value.hex() if code_set is CodeSet.BINARY else quote_from_bytes(value, safe=_PLAIN)


def best_designator(designators: Iterable[Designator]) -> Designator | None:
    """The designator by which two hosts agree that they see the same logical unit.

    Only designators of the logical unit count: NAA first, then EUI-64, then T10. Of several designators of
    one type the longest is the best (it has the vendor's extension), and then the lowest. So the device's
    order does not matter.
    """
    ranks = {DesignatorType.NAA: 0, DesignatorType.EUI64: 1, DesignatorType.T10: 2}
    candidates = [
        each for each in designators if each.association is Association.LOGICAL_UNIT and each.type in ranks
    ]
    return min(candidates, key=lambda each: (ranks[each.type], -len(each.value), each.value), default=None)
