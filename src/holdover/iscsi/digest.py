"""Header and data digests: CRC32C after the header and after the data segment (RFC 7143 11.2.3, 13.1)."""

from __future__ import annotations

from enum import StrEnum

from crc32c import crc32c

from holdover.iscsi.header import Buffer

DIGEST_LENGTH = 4


class Digest(StrEnum):
    """A value of the keys HeaderDigest and DataDigest."""

    NONE = "None"
    CRC32C = "CRC32C"


def digest_of(*parts: Buffer) -> bytes:
    """The digest of these parts: the four bytes that follow them on the wire."""
    value = 0
    for part in parts:
        value = crc32c(part, value)
    return value.to_bytes(DIGEST_LENGTH, "little")


def add_digests(buffers: list[Buffer], header: Digest, data: Digest) -> list[Buffer]:
    """The buffers of a PDU from `encode`, with the negotiated digests."""
    head, *segment = buffers
    protected: list[Buffer] = [head]
    if header is Digest.CRC32C:
        protected.append(digest_of(head))
    protected += segment
    if segment and data is Digest.CRC32C:
        protected.append(digest_of(*segment))
    return protected
