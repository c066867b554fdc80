"""PERSISTENT RESERVE IN: its parameter data (SPC-4 6.15), one class for each service action.

`encode` returns the whole data. The code that answers a command slices them to the command's allocation
length; the length fields then still have the whole length. `decode` accepts cut data: it keeps the entries
that are whole, and `complete` says whether these are all.
"""

from __future__ import annotations

import msgspec

from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.errors import DecodeError
from holdover.scsi.reservation.transport_id import TransportID, decode_transport_id

_HEADER = 8
_RESERVATION_LENGTH = 16
_DESCRIPTOR_HEADER = 24
_CAPABILITIES_LENGTH = 8

_R_HOLDER, _ALL_TG_PT = 0x01, 0x02

# REPORT CAPABILITIES, byte 2 and byte 3.
_RLR_C, _CRH, _SIP_C, _ATP_C, _PTPL_C = 0x80, 0x10, 0x08, 0x04, 0x01
_TMV, _PTPL_A = 0x80, 0x01

# REPORT CAPABILITIES, bytes 4 and 5 as one number: the type mask.
_TYPE_BITS = {
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS: 0x8000,
    ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: 0x4000,
    ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: 0x2000,
    ReservationType.EXCLUSIVE_ACCESS: 0x0800,
    ReservationType.WRITE_EXCLUSIVE: 0x0200,
    ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: 0x0001,
}


class ReadKeys(msgspec.Struct, frozen=True, gc=False):
    """READ KEYS (SPC-4 6.15.2).

    Attributes:
        generation: PRGENERATION, 32 bits.
        keys: One key for each registered I_T nexus; several nexuses may have the same key.
        complete: Whether these are all; False when the allocation length cut the data.
    """

    generation: int
    keys: tuple[int, ...]
    complete: bool = True

    def encode(self) -> bytes:
        """The whole parameter data."""
        return _header(self.generation, 8 * len(self.keys)) + b"".join(
            key.to_bytes(8, "big") for key in self.keys
        )

    @classmethod
    def decode(cls, data: bytes) -> ReadKeys:
        """The keys that the data contain whole.

        Raises:
            DecodeError: There are fewer than 8 bytes, or the additional length is not a multiple of 8.
        """
        generation, additional = _decode_header("READ KEYS data", data)
        if additional % 8:
            raise DecodeError("READ KEYS data", f"additional length {additional}, not a multiple of 8", 4)
        body = data[_HEADER : _HEADER + additional]
        keys = tuple(int.from_bytes(body[at : at + 8], "big") for at in range(0, len(body) - 7, 8))
        return cls(generation, keys, complete=len(body) == additional)


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """A persistent reservation as READ RESERVATION reports it.

    Attributes:
        key: The reservation holder's key; 0 for the all registrants types.
        type: The reservation type.
        scope: The scope, 4 bits; 0 is the logical unit.
    """

    key: int
    type: ReservationType
    scope: int = 0


class ReadReservation(msgspec.Struct, frozen=True, gc=False):
    """READ RESERVATION (SPC-4 6.15.3): 8 bytes when there is no reservation, 24 otherwise.

    Attributes:
        generation: PRGENERATION, 32 bits.
        reservation: The reservation; None when there is none.
    """

    generation: int
    reservation: Reservation | None

    def encode(self) -> bytes:
        """The whole parameter data."""
        held = self.reservation
        if held is None:
            return _header(self.generation, 0)
        return (
            _header(self.generation, _RESERVATION_LENGTH)
            + held.key.to_bytes(8, "big")
            + bytes([0, 0, 0, 0, 0, held.scope << 4 | held.type, 0, 0])
        )

    @classmethod
    def decode(cls, data: bytes) -> ReadReservation:
        """The data of READ RESERVATION.

        Raises:
            DecodeError: The data were cut, or name a reserved type.
        """
        structure = "READ RESERVATION data"
        generation, additional = _decode_header(structure, data)
        if additional == 0:
            return cls(generation, None)
        if additional < _RESERVATION_LENGTH:
            raise DecodeError(structure, f"additional length {additional}, must be 0 or 16", 4)
        if len(data) < _HEADER + _RESERVATION_LENGTH:
            raise DecodeError(structure, f"length of {len(data)} bytes, 24 are needed")
        held = Reservation(
            int.from_bytes(data[8:16], "big"), _decode_type(structure, data[21], 21), data[21] >> 4
        )
        return cls(generation, held)


class Capabilities(msgspec.Struct, frozen=True, gc=False):
    """REPORT CAPABILITIES (SPC-4 6.15.4): 8 bytes.

    Attributes:
        crh: Compatible reservation handling of RESERVE and RELEASE.
        sip_c: SPEC_I_PT is supported.
        atp_c: ALL_TG_PT is supported.
        ptpl_c: Persistence through power loss is supported.
        ptpl_a: Persistence through power loss is activated.
        allow_commands: The other commands that a reservation allows (SPC-4 6.15.4 table 208), 0 to 7.
        types: The supported reservation types; None when the device does not say (TMV 0).
        rlr_c: REPLACE LOST RESERVATION is supported.
    """

    crh: bool
    sip_c: bool
    atp_c: bool
    ptpl_c: bool
    ptpl_a: bool
    allow_commands: int = 0
    types: frozenset[ReservationType] | None = None
    rlr_c: bool = False

    def encode(self) -> bytes:
        """The whole parameter data."""
        able = (
            _RLR_C * self.rlr_c
            | _CRH * self.crh
            | _SIP_C * self.sip_c
            | _ATP_C * self.atp_c
            | _PTPL_C * self.ptpl_c
        )
        state = _TMV * (self.types is not None) | self.allow_commands << 4 | _PTPL_A * self.ptpl_a
        mask = sum(_TYPE_BITS[each] for each in self.types or ())
        return bytes([0, _CAPABILITIES_LENGTH, able, state]) + mask.to_bytes(2, "big") + bytes(2)

    @classmethod
    def decode(cls, data: bytes) -> Capabilities:
        """The capabilities.

        Raises:
            DecodeError: There are fewer than 8 bytes, or the length field does not say 8.
        """
        structure = "REPORT CAPABILITIES data"
        if len(data) < _CAPABILITIES_LENGTH:
            raise DecodeError(structure, f"length of {len(data)} bytes, {_CAPABILITIES_LENGTH} are needed")
        length = int.from_bytes(data[0:2], "big")
        if length < _CAPABILITIES_LENGTH:
            raise DecodeError(structure, f"length field {length}, must be {_CAPABILITIES_LENGTH}", 0)
        able, state = data[2], data[3]
        mask = int.from_bytes(data[4:6], "big")
        types = frozenset(each for each, bit in _TYPE_BITS.items() if mask & bit)
        return cls(
            crh=bool(able & _CRH),
            sip_c=bool(able & _SIP_C),
            atp_c=bool(able & _ATP_C),
            ptpl_c=bool(able & _PTPL_C),
            ptpl_a=bool(state & _PTPL_A),
            allow_commands=state >> 4 & 0x7,
            types=types if state & _TMV else None,
            rlr_c=bool(able & _RLR_C),
        )


def without_port_capabilities(data: bytes) -> bytes:
    """REPORT CAPABILITIES data with SIP_C and ATP_C set to 0; the data may be cut at any byte."""
    if len(data) < 3:
        return data
    return data[:2] + bytes([data[2] & ~(_SIP_C | _ATP_C)]) + data[3:]


class FullStatusDescriptor(msgspec.Struct, frozen=True, gc=False):
    """One registered I_T nexus in READ FULL STATUS (SPC-4 6.15.5).

    Attributes:
        key: The reservation key of the I_T nexus.
        holder: Whether the I_T nexus holds the reservation.
        transport_id: The initiator port.
        relative_target_port: The target port; it has no meaning when `all_target_ports` is set.
        all_target_ports: Whether the descriptor stands for the initiator port's nexuses with all target
            ports.
        type: The reservation type if the I_T nexus is a holder, otherwise None.
        scope: The reservation's scope if the I_T nexus is a holder, otherwise 0.
    """

    key: int
    holder: bool
    transport_id: TransportID
    relative_target_port: int
    all_target_ports: bool = False
    type: ReservationType | None = None
    scope: int = 0

    def __post_init__(self) -> None:
        if self.holder != (self.type is not None):
            raise ValueError("a holder needs a reservation type, and only a holder has one")

    def encode(self) -> bytes:
        """The descriptor: 24 bytes and the TransportID."""
        identifier = self.transport_id.encode()
        flags = _ALL_TG_PT * self.all_target_ports | _R_HOLDER * self.holder
        return (
            self.key.to_bytes(8, "big")
            + bytes([0, 0, 0, 0, flags, self.scope << 4 | (self.type or 0), 0, 0, 0, 0])
            + self.relative_target_port.to_bytes(2, "big")
            + len(identifier).to_bytes(4, "big")
            + identifier
        )

    @classmethod
    def decode(cls, data: bytes) -> FullStatusDescriptor:
        """The descriptor in these bytes, which must be whole.

        Raises:
            DecodeError: The descriptor is short, its TransportID is malformed, or the type of a holder is
                reserved.
        """
        structure = "READ FULL STATUS descriptor"
        if len(data) < _DESCRIPTOR_HEADER:
            raise DecodeError(structure, f"length of {len(data)} bytes, {_DESCRIPTOR_HEADER} are needed")
        identifier, _ = decode_transport_id(data, _DESCRIPTOR_HEADER)
        holder = bool(data[12] & _R_HOLDER)
        # Scope and type have a meaning only if the nexus holds the reservation.
        return cls(
            key=int.from_bytes(data[0:8], "big"),
            holder=holder,
            transport_id=identifier,
            relative_target_port=int.from_bytes(data[18:20], "big"),
            all_target_ports=bool(data[12] & _ALL_TG_PT),
            type=_decode_type(structure, data[13], 13) if holder else None,
            scope=data[13] >> 4 if holder else 0,
        )


class FullStatus(msgspec.Struct, frozen=True, gc=False):
    """READ FULL STATUS (SPC-4 6.15.5).

    Attributes:
        generation: PRGENERATION, 32 bits.
        descriptors: One descriptor for each registered I_T nexus.
        complete: Whether these are all; False when the allocation length cut the data.
    """

    generation: int
    descriptors: tuple[FullStatusDescriptor, ...]
    complete: bool = True

    def encode(self) -> bytes:
        """The whole parameter data."""
        body = b"".join(each.encode() for each in self.descriptors)
        return _header(self.generation, len(body)) + body

    @classmethod
    def decode(cls, data: bytes) -> FullStatus:
        """The descriptors that the data contain whole.

        Raises:
            DecodeError: There are fewer than 8 bytes, or a whole descriptor is malformed.
        """
        generation, additional = _decode_header("READ FULL STATUS data", data)
        body = data[_HEADER : _HEADER + additional]
        descriptors = []
        at = 0
        while at + _DESCRIPTOR_HEADER <= len(body):
            length = _DESCRIPTOR_HEADER + int.from_bytes(body[at + 20 : at + 24], "big")
            if at + length > len(body):
                break
            descriptors.append(FullStatusDescriptor.decode(body[at : at + length]))
            at += length
        return cls(generation, tuple(descriptors), complete=at == additional)


def _header(generation: int, additional: int) -> bytes:
    return generation.to_bytes(4, "big") + additional.to_bytes(4, "big")


def _decode_header(structure: str, data: bytes) -> tuple[int, int]:
    if len(data) < _HEADER:
        raise DecodeError(structure, f"length of {len(data)} bytes, at least {_HEADER} are needed")
    return int.from_bytes(data[0:4], "big"), int.from_bytes(data[4:8], "big")


def _decode_type(structure: str, octet: int, offset: int) -> ReservationType:
    try:
        return ReservationType(octet & 0x0F)
    except ValueError:
        raise DecodeError(structure, f"reservation type {octet & 0x0F:X}h is reserved", offset) from None
