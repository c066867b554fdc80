"""Key=value text and what its keys mean (RFC 7143 6 and 13).

`KEYS` is the whole of what is negotiated, as a table: each key with its rule, range, default and the
stages in which it may stand. `negotiation` acts on it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from holdover.iscsi.errors import TextError

__all__ = [
    "KEYS",
    "MAX_KEYS",
    "MAX_TEXT",
    "Key",
    "Rule",
    "Where",
    "decode_binary",
    "decode_text",
    "encode_binary",
    "encode_text",
    "parse_boolean",
    "parse_number",
]

MAX_TEXT = 16384
"""Bytes that one text may have in all its PDUs together."""
MAX_KEYS = 64
"""Keys that one text may have: bounds what an answer can grow to."""

_MAX_KEY = 63
_MAX_VALUE = 8192
_KEY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.+@_#-]*\Z")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})\Z")


class Rule(Enum):
    """How two sides come to one value (RFC 7143 6.2)."""

    LIST = auto()
    """The first value of the offer that the responder has too."""
    AND = auto()
    """Yes where both say Yes."""
    OR = auto()
    """Yes where either says Yes."""
    MINIMUM = auto()
    """The lower number."""
    MAXIMUM = auto()
    """The higher number."""
    DECLARED_NUMBER = auto()
    """Each side says its own; no answer."""
    DECLARED_TEXT = auto()
    """Each side says its own; no answer."""


class Where(Enum):
    """The phases in which a key may stand."""

    SECURITY = auto()
    OPERATIONAL = auto()
    LOGIN = auto()
    FULL_FEATURE = auto()
    OPERATIONAL_AND_FULL_FEATURE = auto()
    ANY = auto()


@dataclass(frozen=True, slots=True)
class Key:
    """One key of RFC 7143 section 13.

    Attributes:
        rule: How its value is found.
        where: When it may be sent.
        default: What holds where nobody speaks of it; "" for none.
        low, high: Range of a number.
        normal_only: Whether it means nothing in a discovery session (the answer is Irrelevant).
    """

    rule: Rule
    where: Where
    default: str = ""
    low: int = 0
    high: int = 0
    normal_only: bool = False


_LENGTHS = (512, 0xFF_FFFF)

KEYS: dict[str, Key] = {
    "AuthMethod": Key(Rule.LIST, Where.SECURITY, "None"),
    "CHAP_A": Key(Rule.DECLARED_TEXT, Where.SECURITY),
    "CHAP_C": Key(Rule.DECLARED_TEXT, Where.SECURITY),
    "CHAP_I": Key(Rule.DECLARED_TEXT, Where.SECURITY),
    "CHAP_N": Key(Rule.DECLARED_TEXT, Where.SECURITY),
    "CHAP_R": Key(Rule.DECLARED_TEXT, Where.SECURITY),
    "HeaderDigest": Key(Rule.LIST, Where.OPERATIONAL, "None"),
    "DataDigest": Key(Rule.LIST, Where.OPERATIONAL, "None"),
    "MaxConnections": Key(Rule.MINIMUM, Where.OPERATIONAL, "1", 1, 65535, normal_only=True),
    "SendTargets": Key(Rule.DECLARED_TEXT, Where.FULL_FEATURE),
    "TargetName": Key(Rule.DECLARED_TEXT, Where.ANY),
    "InitiatorName": Key(Rule.DECLARED_TEXT, Where.LOGIN),
    "TargetAlias": Key(Rule.DECLARED_TEXT, Where.ANY),
    "InitiatorAlias": Key(Rule.DECLARED_TEXT, Where.ANY),
    "TargetAddress": Key(Rule.DECLARED_TEXT, Where.ANY),
    "TargetPortalGroupTag": Key(Rule.DECLARED_NUMBER, Where.LOGIN, "", 0, 65535),
    "InitialR2T": Key(Rule.OR, Where.OPERATIONAL, "Yes", normal_only=True),
    "ImmediateData": Key(Rule.AND, Where.OPERATIONAL, "Yes", normal_only=True),
    "MaxRecvDataSegmentLength": Key(
        Rule.DECLARED_NUMBER, Where.OPERATIONAL_AND_FULL_FEATURE, "8192", *_LENGTHS
    ),
    "MaxBurstLength": Key(Rule.MINIMUM, Where.OPERATIONAL, "262144", *_LENGTHS, normal_only=True),
    "FirstBurstLength": Key(Rule.MINIMUM, Where.OPERATIONAL, "65536", *_LENGTHS, normal_only=True),
    "DefaultTime2Wait": Key(Rule.MAXIMUM, Where.OPERATIONAL, "2", 0, 3600),
    "DefaultTime2Retain": Key(Rule.MINIMUM, Where.OPERATIONAL, "20", 0, 3600),
    "MaxOutstandingR2T": Key(Rule.MINIMUM, Where.OPERATIONAL, "1", 1, 65535, normal_only=True),
    "DataPDUInOrder": Key(Rule.OR, Where.OPERATIONAL, "Yes", normal_only=True),
    "DataSequenceInOrder": Key(Rule.OR, Where.OPERATIONAL, "Yes", normal_only=True),
    "ErrorRecoveryLevel": Key(Rule.MINIMUM, Where.OPERATIONAL, "0", 0, 2),
    "SessionType": Key(Rule.DECLARED_TEXT, Where.LOGIN, "Normal"),
    "TaskReporting": Key(Rule.LIST, Where.OPERATIONAL, "RFC3720", normal_only=True),
    "iSCSIProtocolLevel": Key(Rule.MINIMUM, Where.OPERATIONAL, "1", 0, 31),
}


def decode_text(data: bytes) -> list[tuple[str, str]]:
    """The pairs of a text, in their order (RFC 7143 6.1).

    Raises:
        TextError: for a pair without "=", a malformed or repeated key, a length beyond the limits.
    """
    pairs: list[tuple[str, str]] = []
    seen: set[str] = set()
    for item in data.split(b"\0"):
        if not item:
            continue
        if len(pairs) == MAX_KEYS:
            raise TextError(f"text: more than {MAX_KEYS} keys")
        name, equals, value = item.decode("utf-8", "replace").partition("=")
        if not equals:
            raise TextError(f"text: {name[:_MAX_KEY]!r} has no '='")
        if len(name) > _MAX_KEY or not _KEY_NAME.match(name):
            raise TextError(f"text: {name[:_MAX_KEY]!r} is no key")
        if len(value) > _MAX_VALUE:
            raise TextError(f"text: the value of {name} is longer than {_MAX_VALUE}")
        if name in seen:
            raise TextError(f"text: {name} stands there twice")
        seen.add(name)
        pairs.append((name, value))
    return pairs


def encode_text(pairs: Iterable[tuple[str, str]]) -> bytes:
    """A data segment of key=value pairs, each ended by a zero byte."""
    return b"".join(f"{name}={value}\0".encode() for name, value in pairs)


def parse_number(name: str, value: str) -> int:
    """A number of a key in `KEYS`, decimal or 0x hexadecimal.

    Raises:
        TextError: for what is no number or out of the key's range.
    """
    key = KEYS[name]
    if not _NUMBER.match(value):
        raise TextError(f"{name}={value[:40]}: no number")
    number = int(value, 16 if value[:2] in ("0x", "0X") else 10)
    if not key.low <= number <= key.high:
        raise TextError(f"{name}={value}: not within {key.low} to {key.high}")
    return number


def parse_boolean(name: str, value: str) -> bool:
    """Yes or No.

    Raises:
        TextError: for anything else.
    """
    if value not in ("Yes", "No"):
        raise TextError(f"{name}={value[:40]}: neither Yes nor No")
    return value == "Yes"


def encode_binary(value: bytes) -> str:
    """A binary value in hexadecimal (RFC 7143 6.1)."""
    return "0x" + value.hex()


def decode_binary(name: str, value: str) -> bytes:
    """A binary value, 0x hexadecimal (an odd number of digits has a leading zero understood) or 0b
    base64.

    Raises:
        TextError: for anything else.
    """
    prefix, digits = value[:2].lower(), value[2:]
    try:
        if prefix == "0x" and digits:
            return binascii.unhexlify(digits if len(digits) % 2 == 0 else "0" + digits)
        if prefix == "0b" and digits:
            return base64.b64decode(digits, validate=True)
    except ValueError:
        pass
    raise TextError(f"{name}: no binary value in hexadecimal or base64")
