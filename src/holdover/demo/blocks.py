"""Blocks that show whether they were overwritten: a sequence number, an address and a checksum over both."""

from __future__ import annotations

import hashlib
import struct

BLOCK = 4096
"""The bytes of a block: 8 logical blocks of 512."""

_HEADER = struct.Struct(">8sQQ")
_MAGIC = b"HOLDOVER"
_DIGEST = 32

FOREIGN = b"INTRUDER" * (BLOCK // 8)
"""The block that the intruder writes."""


def block(sequence: int, address: int) -> bytes:
    """Block ``address`` as write number ``sequence`` writes it."""
    body = _HEADER.pack(_MAGIC, sequence, address).ljust(BLOCK - _DIGEST, b"\xa5")
    return body + hashlib.blake2b(body, digest_size=_DIGEST).digest()


def check(data: bytes, address: int) -> int | None:
    """The sequence number of an intact block; None for any other data."""
    if len(data) != BLOCK:
        return None
    magic, sequence, found = _HEADER.unpack_from(data)
    if magic != _MAGIC or found != address or data != block(sequence, address):
        return None
    return int(sequence)
