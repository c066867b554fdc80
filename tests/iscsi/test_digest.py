"""CRC32C as it stands on the wire."""

from __future__ import annotations

import pytest

from holdover.iscsi.digest import Digest, add_digests, digest_of
from holdover.iscsi.header import Buffer


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (bytes(32), "aa36918a"),
        (b"\xff" * 32, "43aba862"),
        (bytes(range(32)), "4e79dd46"),
        (bytes(range(31, -1, -1)), "5cdb3f11"),
    ],
)
def test_examples_of_the_standard(data: bytes, digest: str) -> None:
    # RFC 7143 B.4
    assert digest_of(data).hex() == digest
    assert digest_of(data[:5], memoryview(data)[5:]).hex() == digest


@pytest.mark.parametrize(
    ("header", "data", "expected"),
    [
        (Digest.NONE, Digest.NONE, ["head", "data", "pad"]),
        (Digest.CRC32C, Digest.NONE, ["head", "crc of head", "data", "pad"]),
        (Digest.NONE, Digest.CRC32C, ["head", "data", "pad", "crc of data and pad"]),
        (Digest.CRC32C, Digest.CRC32C, ["head", "crc of head", "data", "pad", "crc of data and pad"]),
    ],
)
def test_where_digests_stand(header: Digest, data: Digest, expected: list[str]) -> None:
    head, segment, padding = b"h" * 48, b"segment", b"\0"
    parts: dict[str, Buffer] = {
        "head": head,
        "crc of head": digest_of(head),
        "data": segment,
        "pad": padding,
        "crc of data and pad": digest_of(segment + padding),
    }
    assert add_digests([head, segment, padding], header, data) == [parts[name] for name in expected]


def test_no_data_no_digest_of_them() -> None:
    assert add_digests([b"head"], Digest.NONE, Digest.CRC32C) == [b"head"]
