"""Where TLS records end, without their keys. Pure."""

from __future__ import annotations

from typing import Final

_HEADER: Final = 5
_TYPES: Final = frozenset({20, 21, 22, 23})  # RFC 8446 5.1
_LONGEST: Final = (1 << 14) + 2048  # RFC 5246 6.2.3, which allows more than RFC 8446 5.2


def whole_records(received: bytearray, most: int | None = None) -> int:
    """How many bytes the whole TLS records at the beginning of ``received`` have; at most ``most`` records.

    All bytes, if what follows is no record or is too long for one: OpenSSL then says so. The beginning of the
    next record stays behind, so ``received`` always begins with a record.
    """
    at = count = 0
    while at < len(received) and count != most:
        if received[at] not in _TYPES:
            return len(received)
        header = received[at : at + _HEADER]
        length = int.from_bytes(header[3:], "big")
        if length > _LONGEST:
            return len(received)
        if len(header) < _HEADER or len(received) < at + _HEADER + length:
            break
        at += _HEADER + length
        count += 1
    return at
