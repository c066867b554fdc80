"""iSCSI names (RFC 7143 4.2.7) and the logical unit numbers of PDUs (SAM-5 4.7)."""

from __future__ import annotations

import re
from functools import lru_cache

from holdover.iscsi.errors import IscsiNameError

MAX_LUN = 16383
"""The highest logical unit number that flat space addressing can name (SAM-5 4.7.7.3)."""

_MAX_NAME = 223
_FORMS = {
    "iqn.": re.compile(r"iqn\.\d{4}-(0[1-9]|1[0-2])\.[^\s:,]+(:[^\s,]*)?\Z"),
    "eui.": re.compile(r"eui\.[0-9a-f]{16}\Z"),
    "naa.": re.compile(r"naa\.([0-9a-f]{16}|[0-9a-f]{32})\Z"),
}


def check_iscsi_name(name: str) -> str:
    """The name in lower case, which is the form to compare names.

    Raises:
        IscsiNameError: The text is not an iqn., eui. or naa. name; the message says why.
    """
    folded = name.lower()
    if len(folded.encode()) > _MAX_NAME:
        raise IscsiNameError(f"iSCSI name {name[:40]!r}... is longer than {_MAX_NAME} bytes")
    form = _FORMS.get(folded[:4])
    if form is None:
        raise IscsiNameError(f"iSCSI name {name!r} does not start with iqn., eui. or naa.")
    if not form.match(folded) or not folded.isprintable():
        raise IscsiNameError(f"iSCSI name {name!r} is not of the form that {folded[:4]!r} asks for")
    return folded


@lru_cache(512)
def encode_lun(number: int) -> int:
    """The 64-bit LUN field of a PDU: peripheral device addressing up to 255, flat space above.

    Raises:
        ValueError: The number is outside 0 to 16383.
    """
    if not 0 <= number <= MAX_LUN:
        raise ValueError(f"logical unit number {number} is not within 0 to {MAX_LUN}")
    return (number if number <= 0xFF else 0x4000 | number) << 48


@lru_cache(512)
def decode_lun(field: int) -> int | None:
    """The logical unit number of a 64-bit LUN field, or None for an address that has no number here.

    Such an address has another bus or a deeper level, or names a well-known or extended logical unit.
    """
    first = field >> 48
    if field & 0xFFFF_FFFF_FFFF or first >> 14 > 1:
        return None
    if first >> 14 == 1:
        return first & MAX_LUN
    return first if first <= 0xFF else None
