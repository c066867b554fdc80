"""PERSISTENT RESERVE OUT: its parameter lists (SPC-4 6.16.3, 6.16.4), and whole commands.

The basic list has 24 bytes; with SPEC_I_PT a length and the TransportIDs follow. REGISTER AND MOVE has a
parameter list of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.errors import DecodeError
from holdover.scsi.reservation.transport_id import TransportID, decode_transport_id

BASIC_LENGTH = 24
"""The bytes of a parameter list without TransportIDs: its only allowed length (SPC-4 6.16.1)."""

_BASIC = "PERSISTENT RESERVE OUT parameter list"
_MOVE = "REGISTER AND MOVE parameter list"

_SPEC_I_PT, _ALL_TG_PT, _APTPL = 0x08, 0x04, 0x01
_UNREG = 0x02


class ParameterList(msgspec.Struct, frozen=True, gc=False):
    """The parameter list of every service action except REGISTER AND MOVE (SPC-4 6.16.3).

    Attributes:
        key: RESERVATION KEY, 64 bits.
        service_action_key: SERVICE ACTION RESERVATION KEY, 64 bits.
        aptpl: Keep the registrations and the reservation through a power loss.
        all_tg_pt: Register through all target ports.
        spec_i_pt: Register the initiator ports of `transport_ids` too.
        transport_ids: Empty unless `spec_i_pt`.
    """

    key: int
    service_action_key: int = 0
    aptpl: bool = False
    all_tg_pt: bool = False
    spec_i_pt: bool = False
    transport_ids: tuple[TransportID, ...] = ()

    def encode(self) -> bytes:
        """The list as it goes into the Data-Out buffer."""
        flags = _SPEC_I_PT * self.spec_i_pt | _ALL_TG_PT * self.all_tg_pt | _APTPL * self.aptpl
        basic = _keys(self.key, self.service_action_key) + bytes([0, 0, 0, 0, flags, 0, 0, 0])
        if not self.spec_i_pt:
            return basic
        identifiers = b"".join(each.encode() for each in self.transport_ids)
        return basic + len(identifiers).to_bytes(4, "big") + identifiers

    @classmethod
    def decode(cls, data: bytes) -> ParameterList:
        """The list in a Data-Out buffer, which must end where the list ends.

        Raises:
            DecodeError: There are fewer than 24 bytes, or more without SPEC_I_PT, or the TransportIDs do not
                fill the length that the list gives.
        """
        basic = cls.decode_basic(data)
        if basic.spec_i_pt:
            return msgspec.structs.replace(basic, transport_ids=_decode_transport_ids(data))
        if len(data) != BASIC_LENGTH:
            raise DecodeError(_BASIC, f"length of {len(data)} bytes, without SPEC_I_PT it is {BASIC_LENGTH}")
        return basic

    @classmethod
    def decode_basic(cls, data: bytes) -> ParameterList:
        """The list in the first 24 bytes, whatever follows.

        This is for service actions that ignore SPEC_I_PT, and to read the SPEC_I_PT bit before the rest.

        Raises:
            DecodeError: There are fewer than 24 bytes.
        """
        if len(data) < BASIC_LENGTH:
            raise DecodeError(_BASIC, f"length of {len(data)} bytes, at least {BASIC_LENGTH} are needed")
        flags = data[20]
        return cls(
            key=int.from_bytes(data[0:8], "big"),
            service_action_key=int.from_bytes(data[8:16], "big"),
            aptpl=bool(flags & _APTPL),
            all_tg_pt=bool(flags & _ALL_TG_PT),
            spec_i_pt=bool(flags & _SPEC_I_PT),
        )


def _decode_transport_ids(data: bytes) -> tuple[TransportID, ...]:
    at = BASIC_LENGTH + 4
    if len(data) < at:
        raise DecodeError(_BASIC, "ends inside the length of the TransportID list", BASIC_LENGTH)
    length = int.from_bytes(data[BASIC_LENGTH:at], "big")
    if length != len(data) - at:
        raise DecodeError(
            _BASIC, f"TransportID list of {length} bytes, {len(data) - at} are there", BASIC_LENGTH
        )
    identifiers = []
    while at < len(data):
        identifier, length = decode_transport_id(data, at)
        identifiers.append(identifier)
        at += length
    return tuple(identifiers)


@dataclass(frozen=True, slots=True)
class RegisterAndMoveParameterList:
    """The parameter list of REGISTER AND MOVE (SPC-4 6.16.4).

    Attributes:
        key: RESERVATION KEY, 64 bits.
        service_action_key: SERVICE ACTION RESERVATION KEY, 64 bits: the key of the other nexus.
        relative_target_port: The target port of the other nexus, 16 bits.
        transport_id: The initiator port of the other nexus.
        unreg: Unregister the nexus that sends the command.
        aptpl: Keep the registrations and the reservation through a power loss.
    """

    key: int
    service_action_key: int
    relative_target_port: int
    transport_id: TransportID
    unreg: bool = False
    aptpl: bool = False

    def encode(self) -> bytes:
        """The list as it goes into the Data-Out buffer."""
        identifier = self.transport_id.encode()
        flags = _UNREG * self.unreg | _APTPL * self.aptpl
        return (
            _keys(self.key, self.service_action_key)
            + bytes([0, flags])
            + self.relative_target_port.to_bytes(2, "big")
            + len(identifier).to_bytes(4, "big")
            + identifier
        )

    @classmethod
    def decode(cls, data: bytes) -> RegisterAndMoveParameterList:
        """The list in a Data-Out buffer, which must end where the list ends.

        Raises:
            DecodeError: There are fewer bytes than the header and one TransportID need, or the TransportID
                does not fill the length that the list gives.
        """
        if len(data) < BASIC_LENGTH:
            raise DecodeError(_MOVE, f"length of {len(data)} bytes, at least {BASIC_LENGTH} are needed")
        length = int.from_bytes(data[20:24], "big")
        if length != len(data) - BASIC_LENGTH:
            raise DecodeError(
                _MOVE, f"TransportID of {length} bytes, {len(data) - BASIC_LENGTH} are there", 20
            )
        identifier, used = decode_transport_id(data, BASIC_LENGTH)
        if used != length:
            raise DecodeError(_MOVE, f"TransportID of {used} bytes in a field of {length}", 20)
        return cls(
            key=int.from_bytes(data[0:8], "big"),
            service_action_key=int.from_bytes(data[8:16], "big"),
            relative_target_port=int.from_bytes(data[18:20], "big"),
            transport_id=identifier,
            unreg=bool(data[17] & _UNREG),
            aptpl=bool(data[17] & _APTPL),
        )


def _keys(key: int, service_action_key: int) -> bytes:
    return key.to_bytes(8, "big") + service_action_key.to_bytes(8, "big")


def out_command(
    service_action: OutServiceAction,
    key: int,
    service_action_key: int = 0,
    *,
    type: ReservationType | None = None,
    scope: int = 0,
    aptpl: bool = False,
) -> Command:
    """A whole PERSISTENT RESERVE OUT command with the basic parameter list."""
    cdb = PersistentReserveOut(service_action, BASIC_LENGTH, type or 0, scope)
    return Command(cdb.encode(), ParameterList(key, service_action_key, aptpl).encode())


def in_command(service_action: InServiceAction, allocation_length: int = 8192) -> Command:
    """A whole PERSISTENT RESERVE IN command with a Data-In buffer of its allocation length."""
    cdb = PersistentReserveIn(service_action, allocation_length)
    return Command(cdb.encode(), data_in_length=allocation_length)
