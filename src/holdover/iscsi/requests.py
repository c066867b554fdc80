"""PDUs that an initiator sends (RFC 7143 11.3, 11.5, 11.7, 11.10, 11.12, 11.14, 11.18).

`encode()` returns the buffers to send, in order. LUN fields are kept as the 64-bit numbers that they are on
the wire (`names.decode_lun` reads them).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import ClassVar

import msgspec

from holdover.iscsi.errors import PduError
from holdover.iscsi.header import CONTINUE, FINAL, HEADER, IMMEDIATE, PADDING, Buffer, Words, segments
from holdover.iscsi.numbers import Opcode, TaskAttribute

COMMAND = Struct(">BBBBIQIIII16s")
"""The header of a SCSI Command: bytes 0 to 3; lengths, LUN, tag, expected length, CmdSN, ExpStatSN, CDB."""

READS, WRITES = 0x40, 0x20
"""Byte 1 of a SCSI Command: it has Data-In, it has Data-Out."""

_AHS_EXTENDED_CDB = b"\1"
_AHS_READ_LENGTH = b"\2"
_MAX_CDB = 260
_SCSI_COMMAND, _DATA_OUT, _SIMPLE = int(Opcode.SCSI_COMMAND), int(Opcode.DATA_OUT), int(TaskAttribute.SIMPLE)
"""For every transfer: an enum's attribute costs 0.1 µs."""


class ScsiCommand(msgspec.Struct, frozen=True, gc=False):
    """SCSI Command (11.3).

    Attributes:
        expected_length: Expected Data Transfer Length; for a bidirectional command that of its writes.
        read_length: Bidirectional Read Expected Data Transfer Length; None when it is not given.
    """

    task_tag: int
    lun: int
    cdb: bytes
    expected_length: int
    cmd_sn: int
    exp_stat_sn: int = 0
    read: bool = False
    write: bool = False
    final: bool = True
    attribute: int = TaskAttribute.SIMPLE
    immediate: bool = False
    data: Buffer = b""
    read_length: int | None = None

    opcode: ClassVar[Opcode] = Opcode.SCSI_COMMAND

    def encode(self) -> list[Buffer]:
        additional = b""
        if len(self.cdb) > 16:
            more = self.cdb[16:]
            additional = (len(more) + 1).to_bytes(2) + _AHS_EXTENDED_CDB + b"\0" + more
            additional += PADDING[len(more) & 3]
        if self.read_length is not None:
            additional += b"\0\5" + _AHS_READ_LENGTH + b"\0" + self.read_length.to_bytes(4)
        header = COMMAND.pack(
            _SCSI_COMMAND | (IMMEDIATE if self.immediate else 0),
            (FINAL if self.final else 0) | self.read << 6 | self.write << 5 | self.attribute,
            0,
            0,
            len(additional) << 22 | len(self.data),
            self.lun,
            self.task_tag,
            self.expected_length,
            self.cmd_sn,
            self.exp_stat_sn,
            self.cdb[:16],
        )
        return segments(header + additional, self.data)


def whole_command(
    flags: int, length: int, lun: int, tag: int, expected: int, cmd_sn: int, exp_stat_sn: int, cdb: bytes
) -> bytes:
    """The header of a SCSI Command with all of its data, as `ScsiCommand` encodes it.

    Args:
        flags: FINAL with READS or WRITES.
        length: The length of the data that follow.
        lun, tag, expected, cmd_sn, exp_stat_sn, cdb: As of `ScsiCommand`; the CDB has 16 bytes.
    """
    return COMMAND.pack(
        _SCSI_COMMAND, flags | _SIMPLE, 0, 0, length, lun, tag, expected, cmd_sn, exp_stat_sn, cdb
    )


def decode_scsi_command(header: bytes, additional: bytes, data: bytes) -> ScsiCommand:
    """A SCSI Command from its parts. Raises PduError if the additional headers are not valid."""
    first, flags, _, _, _, lun, tag, length, cmd_sn, exp_stat_sn, cdb = COMMAND.unpack(header)
    read_length = None
    if additional:
        more, read_length = _decode_additional(additional)
        cdb += more
    return ScsiCommand(
        tag,
        lun,
        cdb,
        length,
        cmd_sn,
        exp_stat_sn,
        flags & READS != 0,
        flags & WRITES != 0,
        flags & FINAL != 0,
        flags & 0x07,
        first & IMMEDIATE != 0,
        data,
        read_length,
    )


def _decode_additional(additional: bytes) -> tuple[bytes, int | None]:
    """Rest of the CDB and bidirectional read length of additional header segments (11.2.2)."""
    cdb, read_length, at = b"", None, 0
    while at < len(additional):
        length = int.from_bytes(additional[at : at + 2])
        kind, body = additional[at + 2 : at + 3], additional[at + 3 : at + 3 + length]
        if length == 0 or len(body) < length:
            raise PduError(f"additional header segment of {length} bytes at byte {at} of {len(additional)}")
        if kind == _AHS_EXTENDED_CDB:
            cdb = body[1:]
        elif kind == _AHS_READ_LENGTH and length == 5:
            read_length = int.from_bytes(body[1:])
        at += (3 + length + 3) & ~3
    if 16 + len(cdb) > _MAX_CDB:
        raise PduError(f"CDB of {16 + len(cdb)} bytes")
    return cdb, read_length


class TaskManagementRequest(msgspec.Struct, frozen=True):
    """Task Management Function Request (11.5)."""

    task_tag: int
    function: int
    lun: int
    referenced_tag: int
    cmd_sn: int
    exp_stat_sn: int = 0
    ref_cmd_sn: int = 0
    immediate: bool = True

    opcode: ClassVar[Opcode] = Opcode.TASK_MANAGEMENT_REQUEST

    def encode(self) -> list[Buffer]:
        first = Opcode.TASK_MANAGEMENT_REQUEST | (IMMEDIATE if self.immediate else 0)
        return [
            HEADER.pack(
                first,
                FINAL | self.function,
                0,
                0,
                0,
                self.lun,
                self.task_tag,
                self.referenced_tag,
                self.cmd_sn,
                self.exp_stat_sn,
                self.ref_cmd_sn,
                0,
                0,
                0,
            )
        ]


def _decode_task_management_request(words: Words, _data: bytes) -> TaskManagementRequest:
    first, flags = words[0], words[1]
    return TaskManagementRequest(
        words[6], flags & 0x7F, words[5], words[7], words[8], words[9], words[10], first & IMMEDIATE != 0
    )


class DataOut(msgspec.Struct, frozen=True, gc=False):
    """SCSI Data-Out (11.7); `target_tag` is NO_TAG when no R2T asked for the data."""

    task_tag: int
    target_tag: int
    lun: int
    data_sn: int
    offset: int
    data: Buffer
    final: bool
    exp_stat_sn: int = 0

    opcode: ClassVar[Opcode] = Opcode.DATA_OUT

    def encode(self) -> list[Buffer]:
        header = HEADER.pack(
            _DATA_OUT,
            FINAL if self.final else 0,
            0,
            0,
            len(self.data),
            self.lun,
            self.task_tag,
            self.target_tag,
            0,
            self.exp_stat_sn,
            0,
            self.data_sn,
            self.offset,
            0,
        )
        return segments(header, self.data)


def _decode_data_out(words: Words, data: bytes) -> DataOut:
    return DataOut(words[6], words[7], words[5], words[11], words[12], data, words[1] & FINAL != 0, words[9])


class TextRequest(msgspec.Struct, frozen=True):
    """Text Request (11.10); more of the same text follows when `more` is set (the C bit)."""

    task_tag: int
    target_tag: int
    cmd_sn: int
    data: bytes
    exp_stat_sn: int = 0
    final: bool = True
    more: bool = False
    immediate: bool = False
    lun: int = 0

    opcode: ClassVar[Opcode] = Opcode.TEXT_REQUEST

    def encode(self) -> list[Buffer]:
        numbers = (self.cmd_sn, self.exp_stat_sn, 0, 0, 0, 0)
        header = HEADER.pack(
            Opcode.TEXT_REQUEST | (IMMEDIATE if self.immediate else 0),
            (FINAL if self.final else 0) | (CONTINUE if self.more else 0),
            0,
            0,
            len(self.data),
            self.lun,
            self.task_tag,
            self.target_tag,
            *numbers,
        )
        return segments(header, self.data)


def _decode_text_request(words: Words, data: bytes) -> TextRequest:
    first, flags = words[0], words[1]
    return TextRequest(
        words[6],
        words[7],
        words[8],
        data,
        words[9],
        flags & FINAL != 0,
        flags & CONTINUE != 0,
        first & IMMEDIATE != 0,
        words[5],
    )


class LoginRequest(msgspec.Struct, frozen=True):
    """Login Request (11.12). `stage` and `next_stage` are the numbers of `LoginStage`, or 2."""

    task_tag: int
    isid: bytes
    tsih: int
    stage: int
    next_stage: int
    transit: bool
    data: bytes
    cmd_sn: int = 0
    exp_stat_sn: int = 0
    connection_id: int = 0
    more: bool = False
    version_max: int = 0
    version_min: int = 0
    immediate: bool = True

    opcode: ClassVar[Opcode] = Opcode.LOGIN_REQUEST

    def encode(self) -> list[Buffer]:
        numbers = (self.connection_id << 16, self.cmd_sn, self.exp_stat_sn, 0, 0, 0, 0)
        header = HEADER.pack(
            Opcode.LOGIN_REQUEST | (IMMEDIATE if self.immediate else 0),
            self.transit << 7 | self.more << 6 | self.stage << 2 | self.next_stage,
            self.version_max,
            self.version_min,
            len(self.data),
            int.from_bytes(self.isid) << 16 | self.tsih,
            self.task_tag,
            *numbers,
        )
        return segments(header, self.data)


def _decode_login_request(words: Words, data: bytes) -> LoginRequest:
    first, flags = words[0], words[1]
    return LoginRequest(
        task_tag=words[6],
        isid=(words[5] >> 16).to_bytes(6),
        tsih=words[5] & 0xFFFF,
        stage=flags >> 2 & 3,
        next_stage=flags & 3,
        transit=flags & FINAL != 0,
        data=data,
        cmd_sn=words[8],
        exp_stat_sn=words[9],
        connection_id=words[7] >> 16,
        more=flags & CONTINUE != 0,
        version_max=words[2],
        version_min=words[3],
        immediate=first & IMMEDIATE != 0,
    )


class LogoutRequest(msgspec.Struct, frozen=True):
    """Logout Request (11.14)."""

    task_tag: int
    reason: int
    cmd_sn: int
    exp_stat_sn: int = 0
    connection_id: int = 0
    immediate: bool = True

    opcode: ClassVar[Opcode] = Opcode.LOGOUT_REQUEST

    def encode(self) -> list[Buffer]:
        first = Opcode.LOGOUT_REQUEST | (IMMEDIATE if self.immediate else 0)
        numbers = (self.connection_id << 16, self.cmd_sn, self.exp_stat_sn, 0, 0, 0, 0)
        return [HEADER.pack(first, FINAL | self.reason, 0, 0, 0, 0, self.task_tag, *numbers)]


def _decode_logout_request(words: Words, _data: bytes) -> LogoutRequest:
    first, flags = words[0], words[1]
    return LogoutRequest(words[6], flags & 0x7F, words[8], words[9], words[7] >> 16, first & IMMEDIATE != 0)


class NopOut(msgspec.Struct, frozen=True):
    """NOP-Out (11.18): a ping of the initiator, or with `task_tag` NO_TAG its answer to a NOP-In."""

    task_tag: int
    target_tag: int
    cmd_sn: int
    exp_stat_sn: int = 0
    data: bytes = b""
    lun: int = 0
    immediate: bool = True

    opcode: ClassVar[Opcode] = Opcode.NOP_OUT

    def encode(self) -> list[Buffer]:
        first = Opcode.NOP_OUT | (IMMEDIATE if self.immediate else 0)
        numbers = (self.cmd_sn, self.exp_stat_sn, 0, 0, 0, 0)
        header = HEADER.pack(
            first, FINAL, 0, 0, len(self.data), self.lun, self.task_tag, self.target_tag, *numbers
        )
        return segments(header, self.data)


def _decode_nop_out(words: Words, data: bytes) -> NopOut:
    return NopOut(words[6], words[7], words[8], words[9], data, words[5], words[0] & IMMEDIATE != 0)


RequestPdu = (
    ScsiCommand | TaskManagementRequest | LoginRequest | TextRequest | DataOut | LogoutRequest | NopOut
)

REQUEST_DECODERS: dict[int, Callable[[Words, bytes], RequestPdu]] = {
    Opcode.NOP_OUT: _decode_nop_out,
    Opcode.TASK_MANAGEMENT_REQUEST: _decode_task_management_request,
    Opcode.LOGIN_REQUEST: _decode_login_request,
    Opcode.TEXT_REQUEST: _decode_text_request,
    Opcode.DATA_OUT: _decode_data_out,
    Opcode.LOGOUT_REQUEST: _decode_logout_request,
}
"""All PDUs except SCSI Command, which alone has a CDB and additional headers."""
