"""XDR (RFC 4506), as far as libvirt's lock protocol uses it: integers, opaque data and strings."""

from __future__ import annotations

import struct

_UINT = struct.Struct(">I")
_UNIT = 4


class XdrError(ValueError):
    """Bytes are not the XDR of what is expected; the message says what is wrong."""


class XdrReader:
    """Reads one value after the other. A length in the data is checked against the data that exist before it
    is used.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def uint(self) -> int:
        """An unsigned integer of 32 bits."""
        (value,) = _UINT.unpack(self._take(_UNIT))
        return int(value)

    def opaque(self, length: int) -> bytes:
        """Opaque data of a fixed length."""
        found = self._take(length)
        self._take(-length % _UNIT)
        return found

    def string(self, limit: int) -> str:
        """A string of at most ``limit`` bytes. A byte that is not UTF-8 becomes U+FFFD."""
        length = self.uint()
        if length > limit:
            raise XdrError(f"a string of {length} bytes, where at most {limit} are allowed")
        return self.opaque(length).decode(errors="replace")

    def optional_string(self, limit: int) -> str:
        """A string that may be absent; empty if it is."""
        present = self.uint()
        if present > 1:
            raise XdrError(f"{present} where 0 or 1 says whether a string follows")
        return self.string(limit) if present else ""

    def end(self) -> None:
        """Check that nothing is left.

        Raises:
            XdrError: Bytes are left.
        """
        if self._at != len(self._data):
            raise XdrError(f"{len(self._data) - self._at} bytes too many")

    def _take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise XdrError(f"{count} bytes are expected and {len(found)} are left")
        self._at += count
        return found


def pack_uint(value: int) -> bytes:
    """The XDR of an unsigned integer."""
    return _UINT.pack(value)


def pack_string(text: str) -> bytes:
    """The XDR of a string."""
    data = text.encode()
    return pack_uint(len(data)) + data + bytes(-len(data) % _UNIT)


def optional_string(text: str) -> bytes:
    """The XDR of a string that may be absent; an empty string is."""
    return pack_uint(1) + pack_string(text) if text else pack_uint(0)
