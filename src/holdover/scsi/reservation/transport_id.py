"""TransportIDs: the names of initiator ports in the standards (SPC-4 7.6.4).

Byte 0 has the format code (bits 7 and 6) and the protocol identifier (bits 3 to 0). A TransportID has 24
bytes; only that of iSCSI contains its own length. READ FULL STATUS reports TransportIDs. PERSISTENT RESERVE
OUT carries them with SPEC_I_PT and in REGISTER AND MOVE.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from holdover.scsi.errors import DecodeError

_STRUCTURE = "TransportID"
_LENGTH = 24
_SEPARATOR = ",i,0x"
_MAX_NAME = 223  # bytes: RFC 7143 4.2.7.1


class ProtocolIdentifier(IntEnum):
    """The protocols whose TransportIDs and target port names this package reads (SPC-4 7.6.1)."""

    FIBRE_CHANNEL = 0x0
    ISCSI = 0x5
    SAS = 0x6


class FcTransportID(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """An initiator port on Fibre Channel.

    Attributes:
        n_port_name: The 8-byte N_Port_Name.
    """

    n_port_name: bytes

    def __post_init__(self) -> None:
        _require_eight(self.n_port_name, "N_Port_Name")

    def encode(self) -> bytes:
        """The 24 bytes of SPC-4 7.6.4.2."""
        return bytes([ProtocolIdentifier.FIBRE_CHANNEL]) + bytes(7) + self.n_port_name + bytes(8)

    def __str__(self) -> str:
        return f"fc {self.n_port_name.hex()}"


class SasTransportID(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """An initiator port on Serial Attached SCSI.

    Attributes:
        sas_address: The 8-byte SAS address.
    """

    sas_address: bytes

    def __post_init__(self) -> None:
        _require_eight(self.sas_address, "SAS address")

    def encode(self) -> bytes:
        """The 24 bytes of SPC-4 7.6.4.7."""
        return bytes([ProtocolIdentifier.SAS]) + bytes(3) + self.sas_address + bytes(12)

    def __str__(self) -> str:
        return f"sas {self.sas_address.hex()}"


class IscsiTransportID(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """An initiator port, or a whole initiator device, on iSCSI.

    Attributes:
        name: The iSCSI name, 1 to 223 bytes of UTF-8 without NUL.
        isid: The 6-byte initiator session identifier of one port (format code 01b); None names every
            port of the device (format code 00b).
    """

    name: str
    isid: bytes | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.name.encode()) <= _MAX_NAME:
            raise ValueError(f"iSCSI name of {len(self.name.encode())} bytes, must be 1 to {_MAX_NAME}")
        if "\0" in self.name:
            raise ValueError("iSCSI name contains a NUL")
        if self.isid is not None and len(self.isid) != 6:
            raise ValueError(f"ISID of {len(self.isid)} bytes, must be 6")

    def encode(self) -> bytes:
        """The bytes of SPC-4 7.6.4.6.

        Four bytes of header come first. The text with its NUL follows, padded to a multiple of 4 and to at
        least 20 bytes.
        """
        text = str(self).encode() + b"\0"
        text += bytes(max(20 - len(text), -len(text) % 4))
        format_code = 0x00 if self.isid is None else 0x40
        return bytes([format_code | ProtocolIdentifier.ISCSI, 0]) + len(text).to_bytes(2, "big") + text

    def __str__(self) -> str:
        return self.name if self.isid is None else f"{self.name}{_SEPARATOR}{self.isid.hex()}"


class OtherTransportID(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A TransportID of a protocol or format that this package does not know, kept unchanged.

    Attributes:
        raw: All bytes of the TransportID: at least 24, and a multiple of 4.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) < _LENGTH or len(self.raw) % 4:
            raise ValueError(f"TransportID of {len(self.raw)} bytes, must be 24 or more, a multiple of 4")

    def encode(self) -> bytes:
        """The bytes, unchanged."""
        return self.raw

    def __str__(self) -> str:
        return f"transport {self.raw.hex()}"


TransportID = FcTransportID | SasTransportID | IscsiTransportID | OtherTransportID


def decode_transport_id(data: bytes | memoryview, offset: int = 0) -> tuple[TransportID, int]:
    """The TransportID that starts at an offset, and its length in bytes.

    Raises:
        DecodeError: The data end before the TransportID ends, or an iSCSI name breaks SPC-4 7.6.4.6.
    """
    rest = bytes(data[offset:])
    if len(rest) < _LENGTH:
        raise DecodeError(_STRUCTURE, f"{len(rest)} bytes are left, at least {_LENGTH} are needed", offset)
    format_code, protocol = rest[0] >> 6, rest[0] & 0x0F
    if protocol == ProtocolIdentifier.ISCSI:
        return _decode_iscsi(rest, offset, format_code)
    if format_code == 0 and protocol == ProtocolIdentifier.FIBRE_CHANNEL:
        return FcTransportID(rest[8:16]), _LENGTH
    if format_code == 0 and protocol == ProtocolIdentifier.SAS:
        return SasTransportID(rest[4:12]), _LENGTH
    return OtherTransportID(rest[:_LENGTH]), _LENGTH


def _decode_iscsi(rest: bytes, offset: int, format_code: int) -> tuple[TransportID, int]:
    additional = int.from_bytes(rest[2:4], "big")
    length = 4 + additional
    if additional < 20 or additional % 4:
        raise DecodeError(
            _STRUCTURE, f"additional length {additional} is not a multiple of 4 of at least 20", offset + 2
        )
    if len(rest) < length:
        raise DecodeError(_STRUCTURE, f"{len(rest)} bytes are left, {length} are needed", offset)
    if format_code > 1:
        return OtherTransportID(rest[:length]), length
    # The first NUL ends the name, whatever the additional length is and whatever follows.
    text, nul, _ = rest[4:length].partition(b"\0")
    if not nul:
        raise DecodeError(_STRUCTURE, "the iSCSI name has no NUL at its end", offset + 4)
    try:
        name = text.decode()
        if format_code == 0:
            return IscsiTransportID(name), length
        name, separator, digits = name.rpartition(_SEPARATOR)
        if not separator:
            raise DecodeError(_STRUCTURE, f"the iSCSI port name has no {_SEPARATOR!r}", offset + 4)
        return IscsiTransportID(name, _decode_isid(digits)), length
    except DecodeError:
        raise
    except ValueError as error:
        raise DecodeError(_STRUCTURE, str(error), offset + 4) from error


def _decode_isid(digits: str) -> bytes:
    # Some targets drop leading zeros, so fewer than 12 digits are accepted.
    if not 1 <= len(digits) <= 12 or not set(digits) <= set("0123456789abcdefABCDEF"):
        raise ValueError(f"ISID {digits!r} is not 1 to 12 hexadecimal digits")
    return int(digits, 16).to_bytes(6, "big")


def _require_eight(value: bytes, name: str) -> None:
    if len(value) != 8:
        raise ValueError(f"{name} of {len(value)} bytes, must be 8")
