"""The common form of all PDU headers: a few bytes, then 32-bit words (RFC 7143 11.2.1)."""

from __future__ import annotations

from struct import Struct

Buffer = bytes | memoryview
"""Bytes that a connection sends; nobody changes them after they are handed to the connection."""

Words = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int]
"""A header as `HEADER` unpacks it: bytes 0, 1, 2, 3; lengths; LUN; the words from byte 16 on."""

HEADER_LENGTH = 48
HEADER = Struct(">BBBBIQIIIIIIII")

IMMEDIATE = 0x40
"""Byte 0 of a request: the request is delivered at once, outside the order of CmdSN."""
FINAL = 0x80
"""Byte 1: the last PDU of a sequence; in a login, the transit to the next stage."""
CONTINUE = 0x40
"""Byte 1 of text and login: more of the same text follows."""

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
"""The padding of a segment, by the segment's length modulo 4."""


def segments(header: bytes, data: Buffer) -> list[Buffer]:
    """The buffers of a PDU: the header, and the data segment with its padding if there is one."""
    length = len(data)
    if not length:
        return [header]
    return [header, data, PADDING[length & 3]] if length & 3 else [header, data]
