"""PDUs from bytes: 48 bytes of header, additional headers, a padded data segment (RFC 7143 11.1)."""

from __future__ import annotations

from struct import Struct

import msgspec

from holdover.iscsi.digest import DIGEST_LENGTH, Digest, digest_of
from holdover.iscsi.errors import PduError
from holdover.iscsi.header import HEADER, HEADER_LENGTH, Buffer, Words, segments
from holdover.iscsi.numbers import Opcode
from holdover.iscsi.requests import REQUEST_DECODERS, RequestPdu, decode_scsi_command
from holdover.iscsi.responses import RESPONSE_DECODERS, ResponsePdu

_LENGTHS = Struct(">4xI")
_NONE = Digest.NONE


class UnknownPdu(msgspec.Struct, frozen=True):
    """A PDU with an operation code that this package does not use, such as SNACK."""

    code: int
    header: bytes
    data: bytes

    def encode(self) -> list[Buffer]:
        return segments(self.header, self.data)


Pdu = RequestPdu | ResponsePdu | UnknownPdu


class DamagedPdu(msgspec.Struct, frozen=True):
    """A PDU whose data segment does not match its data digest; its header is valid."""

    pdu: Pdu


def header_of(pdu: Pdu) -> bytes:
    """The 48 bytes of a PDU's header, without additional headers."""
    return b"".join(pdu.encode())[:HEADER_LENGTH]


_DECODERS = {**REQUEST_DECODERS, **RESPONSE_DECODERS}
_SCSI_COMMAND = int(Opcode.SCSI_COMMAND)  # for every PDU: an enum's attribute costs 0.1 µs


def decode_pdu(header: bytes, additional: bytes, data: bytes) -> Pdu:
    """A PDU from its parts: 48 bytes of header, additional headers, the data segment without padding.

    Raises:
        PduError: The header has another length, or the parts contradict one another.
    """
    if len(header) != HEADER_LENGTH:
        raise PduError(f"header of {len(header)} bytes")
    code = header[0] & 0x3F
    if code == _SCSI_COMMAND:
        return decode_scsi_command(header, additional, data)
    decode = _DECODERS.get(code)
    if decode is None:
        return UnknownPdu(code, header, data)
    words: Words = HEADER.unpack(header)
    return decode(words, data)


class PduReader:
    """Reads PDUs from a stream of bytes that may be cut at any place.

    It copies each byte of a data segment once. It never keeps more than one PDU and the bytes of `feed`.

    Attributes:
        max_data_length: The longest data segment that it accepts.
        header_digest, data_digest: The digests that the sender adds. `agree` changes all of these.
        view, length: The received bytes, and their number.
        at: Where the next PDU begins among them.
    """

    def __init__(self, max_data_length: int) -> None:
        self.max_data_length = max_data_length
        self.header_digest = self.data_digest = Digest.NONE
        self._digests = False
        self._kept: list[bytes] = []
        self._kept_length = 0
        self.view = memoryview(b"")
        self.length = 0
        self.at = 0
        self._header = b""
        self._additional: bytes | None = None

    def agree(self, max_data_length: int, header_digest: Digest, data_digest: Digest) -> None:
        """Note what the sender keeps to from the next PDU on."""
        self.max_data_length = max_data_length
        self.header_digest, self.data_digest = header_digest, data_digest
        self._digests = header_digest is not _NONE or data_digest is not _NONE

    def feed(self, data: Buffer | bytearray) -> None:
        """Add bytes. Call `next` until it returns None before you use the buffer again."""
        self.view = memoryview(data)
        self.length = len(data)
        self.at = 0

    @property
    def at_whole_pdu(self) -> bool:
        """Whether `at` is the beginning of a PDU, and the PDUs have no digests."""
        return not (self._header or self._kept_length or self._digests)

    def next(self) -> Pdu | DamagedPdu | None:
        """The next whole PDU, or None until more bytes come.

        Raises:
            PduError: A data segment is longer than `max_data_length`, or parts contradict one another, or a
                header does not match its digest. The stream is then lost.
        """
        if not self._header:
            at, end = self.at, self.at + HEADER_LENGTH
            if self._kept_length or end > self.length:
                taken = self._take(HEADER_LENGTH)
                if taken is None:
                    return None
                header = taken
            else:
                header = bytes(self.view[at:end])
                self.at = end
            (lengths,) = _LENGTHS.unpack_from(header)
            if lengths & 0xFF_FFFF > self.max_data_length:
                raise PduError(
                    f"data segment of {lengths & 0xFF_FFFF} bytes where {self.max_data_length} may come"
                )
            if not lengths and self.header_digest is _NONE:
                return decode_pdu(header, b"", b"")
            self._header = header
        if self._digests:
            return self._next_with_digests()
        header = self._header
        (lengths,) = _LENGTHS.unpack_from(header)
        additional_length, data_length = lengths >> 24 << 2, lengths & 0xFF_FFFF
        body = self._take(additional_length + (data_length + 3 & ~3))
        if body is None:
            return None
        self._header = b""
        if additional_length or data_length & 3:
            end = additional_length + data_length
            return decode_pdu(header, body[:additional_length], body[additional_length:end])
        return decode_pdu(header, b"", body)

    def _next_with_digests(self) -> Pdu | DamagedPdu | None:
        """The PDU of a header. The header's digest is checked before the length in the header is used."""
        header = self._header
        (lengths,) = _LENGTHS.unpack_from(header)
        additional_length, data_length = lengths >> 24 << 2, lengths & 0xFF_FFFF
        if self._additional is None:
            self._additional = self._take_additional(header, additional_length)
            if self._additional is None:
                return None
        body_length = data_length + 3 & ~3
        digested = self.data_digest is Digest.CRC32C and data_length > 0
        body = self._take(body_length + DIGEST_LENGTH if digested else body_length)
        if body is None:
            return None
        additional, self._header, self._additional = self._additional, b"", None
        pdu = decode_pdu(header, additional, body[:data_length])
        if digested and digest_of(memoryview(body)[:body_length]) != body[body_length:]:
            return DamagedPdu(pdu)
        return pdu

    def _take_additional(self, header: bytes, length: int) -> bytes | None:
        if self.header_digest is Digest.NONE:
            return self._take(length)
        part = self._take(length + DIGEST_LENGTH)
        if part is None:
            return None
        if digest_of(header, part[:length]) != part[length:]:
            raise PduError("a header does not match its digest")
        return part[:length]

    def _take(self, length: int) -> bytes | None:
        """This number of bytes; None when there are fewer, which are then kept."""
        end = self.at + length - self._kept_length
        if end > self.length:
            rest = bytes(self.view[self.at :])
            self.at = self.length
            if rest:
                self._kept.append(rest)
                self._kept_length += len(rest)
            return None
        taken = bytes(self.view[self.at : end])
        self.at = end
        if self._kept:
            self._kept.append(taken)
            taken = b"".join(self._kept)
            self._kept.clear()
            self._kept_length = 0
        return taken
