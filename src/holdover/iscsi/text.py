"""Key=value text, and the meaning of its keys (RFC 7143 6 and 13).

`KEYS` is the table of everything that is negotiated: each key with its rule, its range, its default and the
stages in which it is allowed. `negotiation` uses this table.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from holdover.iscsi.errors import TextError

MAX_TEXT = 16384
"""The most bytes of one text, in all its PDUs together."""
MAX_KEYS = 64
"""The most keys of one text; this limits the length of an answer."""

_MAX_KEY = 63
_MAX_VALUE = 8192
_KEY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.+@_#-]*\Z")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})\Z")


class TextKeyRule(Enum):
    """The rule by which two sides agree on one value (RFC 7143 6.2)."""

    LIST = auto()
    """The first value of the offer that the responder supports too."""
    AND = auto()
    """Yes if both say Yes."""
    OR = auto()
    """Yes if one of them says Yes."""
    MINIMUM = auto()
    """The lower number."""
    MAXIMUM = auto()
    """The higher number."""
    DECLARED_NUMBER = auto()
    """Each side declares its own value; there is no answer."""
    DECLARED_TEXT = auto()
    """Each side declares its own value; there is no answer."""


class KeyUse(Enum):
    """The phases in which a key is allowed."""

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
        rule: The rule for the value.
        where: The phases in which the key is allowed.
        default: The value if no side sends the key; "" for none.
        low, high: The range of a number.
        normal_only: Whether the key has no meaning in a discovery session (the answer is Irrelevant).
    """

    rule: TextKeyRule
    where: KeyUse
    default: str = ""
    low: int = 0
    high: int = 0
    normal_only: bool = False


_LENGTHS = (512, 0xFF_FFFF)

KEYS: dict[str, Key] = {
    "AuthMethod": Key(TextKeyRule.LIST, KeyUse.SECURITY, "None"),
    "CHAP_A": Key(TextKeyRule.DECLARED_TEXT, KeyUse.SECURITY),
    "CHAP_C": Key(TextKeyRule.DECLARED_TEXT, KeyUse.SECURITY),
    "CHAP_I": Key(TextKeyRule.DECLARED_TEXT, KeyUse.SECURITY),
    "CHAP_N": Key(TextKeyRule.DECLARED_TEXT, KeyUse.SECURITY),
    "CHAP_R": Key(TextKeyRule.DECLARED_TEXT, KeyUse.SECURITY),
    "HeaderDigest": Key(TextKeyRule.LIST, KeyUse.OPERATIONAL, "None"),
    "DataDigest": Key(TextKeyRule.LIST, KeyUse.OPERATIONAL, "None"),
    "MaxConnections": Key(TextKeyRule.MINIMUM, KeyUse.OPERATIONAL, "1", 1, 65535, normal_only=True),
    "SendTargets": Key(TextKeyRule.DECLARED_TEXT, KeyUse.FULL_FEATURE),
    "TargetName": Key(TextKeyRule.DECLARED_TEXT, KeyUse.ANY),
    "InitiatorName": Key(TextKeyRule.DECLARED_TEXT, KeyUse.LOGIN),
    "TargetAlias": Key(TextKeyRule.DECLARED_TEXT, KeyUse.ANY),
    "InitiatorAlias": Key(TextKeyRule.DECLARED_TEXT, KeyUse.ANY),
    "TargetAddress": Key(TextKeyRule.DECLARED_TEXT, KeyUse.ANY),
    "TargetPortalGroupTag": Key(TextKeyRule.DECLARED_NUMBER, KeyUse.LOGIN, "", 0, 65535),
    "InitialR2T": Key(TextKeyRule.OR, KeyUse.OPERATIONAL, "Yes", normal_only=True),
    "ImmediateData": Key(TextKeyRule.AND, KeyUse.OPERATIONAL, "Yes", normal_only=True),
    "MaxRecvDataSegmentLength": Key(
        TextKeyRule.DECLARED_NUMBER, KeyUse.OPERATIONAL_AND_FULL_FEATURE, "8192", *_LENGTHS
    ),
    "MaxBurstLength": Key(TextKeyRule.MINIMUM, KeyUse.OPERATIONAL, "262144", *_LENGTHS, normal_only=True),
    "FirstBurstLength": Key(TextKeyRule.MINIMUM, KeyUse.OPERATIONAL, "65536", *_LENGTHS, normal_only=True),
    "DefaultTime2Wait": Key(TextKeyRule.MAXIMUM, KeyUse.OPERATIONAL, "2", 0, 3600),
    "DefaultTime2Retain": Key(TextKeyRule.MINIMUM, KeyUse.OPERATIONAL, "20", 0, 3600),
    "MaxOutstandingR2T": Key(TextKeyRule.MINIMUM, KeyUse.OPERATIONAL, "1", 1, 65535, normal_only=True),
    "DataPDUInOrder": Key(TextKeyRule.OR, KeyUse.OPERATIONAL, "Yes", normal_only=True),
    "DataSequenceInOrder": Key(TextKeyRule.OR, KeyUse.OPERATIONAL, "Yes", normal_only=True),
    "ErrorRecoveryLevel": Key(TextKeyRule.MINIMUM, KeyUse.OPERATIONAL, "0", 0, 2),
    "SessionType": Key(TextKeyRule.DECLARED_TEXT, KeyUse.LOGIN, "Normal"),
    "TaskReporting": Key(TextKeyRule.LIST, KeyUse.OPERATIONAL, "RFC3720", normal_only=True),
    "iSCSIProtocolLevel": Key(TextKeyRule.MINIMUM, KeyUse.OPERATIONAL, "1", 0, 31),
}


def decode_text(data: bytes) -> list[tuple[str, str]]:
    """The pairs of a text, in their order (RFC 7143 6.1).

    Raises:
        TextError: A pair has no "=", or a key is malformed or repeated, or a length is beyond the limits.
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
            raise TextError(f"text: {name} is given twice")
        seen.add(name)
        pairs.append((name, value))
    return pairs


def encode_text(pairs: Iterable[tuple[str, str]]) -> bytes:
    """A data segment of key=value pairs; a zero byte ends each pair."""
    return b"".join(f"{name}={value}\0".encode() for name, value in pairs)


def parse_number(name: str, value: str) -> int:
    """A number of a key in `KEYS`, decimal or 0x hexadecimal.

    Raises:
        TextError: The text is not a number, or is outside the key's range.
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
        TextError: The text is anything else.
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
        TextError: The text is anything else.
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
