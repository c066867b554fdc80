"""PDUs that a target sends (RFC 7143 11.4, 11.6 to 11.9, 11.11, 11.13, 11.15, 11.17, 11.19).

`encode()` returns the buffers to send, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec

from holdover.iscsi.errors import PduError
from holdover.iscsi.header import CONTINUE, FINAL, HEADER, Buffer, Words, segments
from holdover.iscsi.numbers import NO_TAG, Opcode

_SCSI_RESPONSE, _DATA_IN = int(Opcode.SCSI_RESPONSE), int(Opcode.DATA_IN)
"""For every transfer: an enum's attribute costs 0.1 µs."""

HAS_STATUS = 0x01
"""Byte 1 of a Data-In: it carries the status."""
WHOLE = FINAL | HAS_STATUS
"""Byte 1 of a Data-In that is a whole answer."""


class ScsiResponse(msgspec.Struct, frozen=True, gc=False):
    """SCSI Response (11.4). `sense` is the sense data alone, without its length.

    Attributes:
        overflow, underflow: What `residual` counts: bytes for which the initiator had no room, or bytes that
            it expected and that did not come. The same for the reads of a bidirectional command.
    """

    task_tag: int
    status: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    response: int = 0
    overflow: bool = False
    underflow: bool = False
    residual: int = 0
    read_overflow: bool = False
    read_underflow: bool = False
    read_residual: int = 0
    exp_data_sn: int = 0
    sense: bytes = b""

    opcode: ClassVar[Opcode] = Opcode.SCSI_RESPONSE

    def encode(self) -> list[Buffer]:
        data = len(self.sense).to_bytes(2) + self.sense if self.sense else b""
        flags = self.read_overflow << 4 | self.read_underflow << 3 | self.overflow << 2 | self.underflow << 1
        header = HEADER.pack(
            _SCSI_RESPONSE,
            FINAL | flags,
            self.response,
            self.status,
            len(data),
            0,
            self.task_tag,
            0,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.exp_data_sn,
            self.read_residual,
            self.residual,
        )
        return segments(header, data)


def good_response(tag: int, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int) -> bytes:
    """A `ScsiResponse` with GOOD, and without sense data and residual."""
    return HEADER.pack(_SCSI_RESPONSE, FINAL, 0, 0, 0, 0, tag, 0, stat_sn, exp_cmd_sn, max_cmd_sn, 0, 0, 0)


def is_good_response(words: Words) -> bool:
    """Whether a header is that of a `good_response`."""
    return words[0] == _SCSI_RESPONSE and words[1] == FINAL and not (words[2] or words[3])


def _decode_scsi_response(words: Words, data: bytes) -> ScsiResponse:
    flags = words[1]
    sense = b""
    if data:
        length = int.from_bytes(data[:2])
        sense = data[2 : 2 + length]
        if len(data) < 2 or len(sense) < length:
            raise PduError(f"SCSI Response: sense data of {length} bytes in a segment of {len(data)}")
    return ScsiResponse(
        task_tag=words[6],
        status=words[3],
        stat_sn=words[8],
        exp_cmd_sn=words[9],
        max_cmd_sn=words[10],
        response=words[2],
        overflow=flags & 0x04 != 0,
        underflow=flags & 0x02 != 0,
        residual=words[13],
        read_overflow=flags & 0x10 != 0,
        read_underflow=flags & 0x08 != 0,
        read_residual=words[12],
        exp_data_sn=words[11],
        sense=sense,
    )


class TaskManagementResponsePdu(msgspec.Struct, frozen=True):
    """Task Management Function Response (11.6)."""

    task_tag: int
    response: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int

    opcode: ClassVar[Opcode] = Opcode.TASK_MANAGEMENT_RESPONSE

    def encode(self) -> list[Buffer]:
        numbers = (self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn, 0, 0, 0)
        first = Opcode.TASK_MANAGEMENT_RESPONSE
        return [HEADER.pack(first, FINAL, self.response, 0, 0, 0, self.task_tag, 0, *numbers)]


def _decode_task_management_response(words: Words, _data: bytes) -> TaskManagementResponsePdu:
    return TaskManagementResponsePdu(words[6], words[2], words[8], words[9], words[10])


class DataIn(msgspec.Struct, frozen=True, gc=False):
    """SCSI Data-In (11.7); `stat_sn`, `status` and the residual are valid with `has_status`."""

    task_tag: int
    data_sn: int
    offset: int
    data: Buffer
    exp_cmd_sn: int
    max_cmd_sn: int
    final: bool = False
    has_status: bool = False
    status: int = 0
    stat_sn: int = 0
    overflow: bool = False
    underflow: bool = False
    residual: int = 0

    opcode: ClassVar[Opcode] = Opcode.DATA_IN

    def encode(self) -> list[Buffer]:
        header = HEADER.pack(
            _DATA_IN,
            (FINAL if self.final else 0) | self.overflow << 2 | self.underflow << 1 | self.has_status,
            0,
            self.status,
            len(self.data),
            0,
            self.task_tag,
            NO_TAG,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.data_sn,
            self.offset,
            self.residual,
        )
        return segments(header, self.data)


def whole_data_in(tag: int, length: int, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int) -> bytes:
    """The header of a `DataIn` with all that was asked for, and with GOOD."""
    return HEADER.pack(
        _DATA_IN, WHOLE, 0, 0, length, 0, tag, NO_TAG, stat_sn, exp_cmd_sn, max_cmd_sn, 0, 0, 0
    )


def is_whole_data_in(words: Words) -> bool:
    """Whether a header is that of a `whole_data_in`."""
    return words[0] == _DATA_IN and words[1] == WHOLE and not (words[3] or words[11] or words[12])


def _decode_data_in(words: Words, data: bytes) -> DataIn:
    flags = words[1]
    # The arguments come in the order of the fields: keywords would cost one microsecond of about seven.
    return DataIn(
        words[6],
        words[11],
        words[12],
        data,
        words[9],
        words[10],
        flags & FINAL != 0,
        flags & 0x01 != 0,
        words[3],
        words[8],
        flags & 0x04 != 0,
        flags & 0x02 != 0,
        words[13],
    )


class ReadyToTransfer(msgspec.Struct, frozen=True, gc=False):
    """Ready To Transfer (11.8): the target asks for `length` bytes from `offset` on."""

    task_tag: int
    target_tag: int
    lun: int
    r2t_sn: int
    offset: int
    length: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int

    opcode: ClassVar[Opcode] = Opcode.R2T

    def encode(self) -> list[Buffer]:
        return [
            HEADER.pack(
                Opcode.R2T,
                FINAL,
                0,
                0,
                0,
                self.lun,
                self.task_tag,
                self.target_tag,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
                self.r2t_sn,
                self.offset,
                self.length,
            )
        ]


def _decode_r2t(words: Words, _data: bytes) -> ReadyToTransfer:
    return ReadyToTransfer(
        words[6], words[7], words[5], words[11], words[12], words[13], words[8], words[9], words[10]
    )


class AsyncMessage(msgspec.Struct, frozen=True):
    """Asynchronous Message (11.9)."""

    event: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    vendor_code: int = 0
    parameter1: int = 0
    parameter2: int = 0
    parameter3: int = 0
    lun: int = 0
    data: bytes = b""

    opcode: ClassVar[Opcode] = Opcode.ASYNC_MESSAGE

    def encode(self) -> list[Buffer]:
        header = HEADER.pack(
            Opcode.ASYNC_MESSAGE,
            FINAL,
            0,
            0,
            len(self.data),
            self.lun,
            NO_TAG,
            0,
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
            self.event << 24 | self.vendor_code << 16 | self.parameter1,
            self.parameter2 << 16 | self.parameter3,
            0,
        )
        return segments(header, self.data)


def _decode_async_message(words: Words, data: bytes) -> AsyncMessage:
    event, parameters = words[11], words[12]
    return AsyncMessage(
        event >> 24,
        words[8],
        words[9],
        words[10],
        event >> 16 & 0xFF,
        event & 0xFFFF,
        parameters >> 16,
        parameters & 0xFFFF,
        words[5],
        data,
    )


class TextResponse(msgspec.Struct, frozen=True):
    """Text Response (11.11)."""

    task_tag: int
    target_tag: int
    data: bytes
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    final: bool = True
    more: bool = False

    opcode: ClassVar[Opcode] = Opcode.TEXT_RESPONSE

    def encode(self) -> list[Buffer]:
        numbers = (self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn, 0, 0, 0)
        flags = (FINAL if self.final else 0) | (CONTINUE if self.more else 0)
        header = HEADER.pack(
            Opcode.TEXT_RESPONSE, flags, 0, 0, len(self.data), 0, self.task_tag, self.target_tag, *numbers
        )
        return segments(header, self.data)


def _decode_text_response(words: Words, data: bytes) -> TextResponse:
    flags = words[1]
    return TextResponse(
        words[6],
        words[7],
        data,
        words[8],
        words[9],
        words[10],
        flags & FINAL != 0,
        flags & CONTINUE != 0,
    )


class LoginResponse(msgspec.Struct, frozen=True):
    """Login Response (11.13). `status` is class << 8 | detail."""

    task_tag: int
    isid: bytes
    tsih: int
    stage: int
    next_stage: int
    transit: bool
    data: bytes
    status: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    more: bool = False
    version_max: int = 0
    version_active: int = 0

    opcode: ClassVar[Opcode] = Opcode.LOGIN_RESPONSE

    def encode(self) -> list[Buffer]:
        numbers = (self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn, self.status << 16, 0, 0)
        header = HEADER.pack(
            Opcode.LOGIN_RESPONSE,
            self.transit << 7 | self.more << 6 | self.stage << 2 | self.next_stage,
            self.version_max,
            self.version_active,
            len(self.data),
            int.from_bytes(self.isid) << 16 | self.tsih,
            self.task_tag,
            0,
            *numbers,
        )
        return segments(header, self.data)


def _decode_login_response(words: Words, data: bytes) -> LoginResponse:
    flags = words[1]
    return LoginResponse(
        task_tag=words[6],
        isid=(words[5] >> 16).to_bytes(6),
        tsih=words[5] & 0xFFFF,
        stage=flags >> 2 & 3,
        next_stage=flags & 3,
        transit=flags & FINAL != 0,
        data=data,
        status=words[11] >> 16,
        stat_sn=words[8],
        exp_cmd_sn=words[9],
        max_cmd_sn=words[10],
        more=flags & CONTINUE != 0,
        version_max=words[2],
        version_active=words[3],
    )


class LogoutResponsePdu(msgspec.Struct, frozen=True):
    """Logout Response (11.15); times in seconds."""

    task_tag: int
    response: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    time2wait: int = 0
    time2retain: int = 0

    opcode: ClassVar[Opcode] = Opcode.LOGOUT_RESPONSE

    def encode(self) -> list[Buffer]:
        times = self.time2wait << 16 | self.time2retain
        numbers = (0, self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn, 0, times, 0)
        first = Opcode.LOGOUT_RESPONSE
        return [HEADER.pack(first, FINAL, self.response, 0, 0, 0, self.task_tag, *numbers)]


def _decode_logout_response(words: Words, _data: bytes) -> LogoutResponsePdu:
    times = words[12]
    return LogoutResponsePdu(words[6], words[2], words[8], words[9], words[10], times >> 16, times & 0xFFFF)


class Reject(msgspec.Struct, frozen=True):
    """Reject (11.17); `data` is the header of the PDU that was refused."""

    reason: int
    data: bytes
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    data_sn: int = 0

    opcode: ClassVar[Opcode] = Opcode.REJECT

    def encode(self) -> list[Buffer]:
        numbers = (0, self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn, self.data_sn, 0, 0)
        header = HEADER.pack(Opcode.REJECT, FINAL, self.reason, 0, len(self.data), 0, NO_TAG, *numbers)
        return segments(header, self.data)


def _decode_reject(words: Words, data: bytes) -> Reject:
    return Reject(words[2], data, words[8], words[9], words[10], words[11])


class NopIn(msgspec.Struct, frozen=True):
    """NOP-In (11.19): the answer to a ping, or with a `target_tag` a ping of the target."""

    task_tag: int
    target_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    data: bytes = b""
    lun: int = 0

    opcode: ClassVar[Opcode] = Opcode.NOP_IN

    def encode(self) -> list[Buffer]:
        numbers = (self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn, 0, 0, 0)
        header = HEADER.pack(
            Opcode.NOP_IN, FINAL, 0, 0, len(self.data), self.lun, self.task_tag, self.target_tag, *numbers
        )
        return segments(header, self.data)


def _decode_nop_in(words: Words, data: bytes) -> NopIn:
    return NopIn(words[6], words[7], words[8], words[9], words[10], data, words[5])


ResponsePdu = (
    ScsiResponse
    | TaskManagementResponsePdu
    | LoginResponse
    | TextResponse
    | DataIn
    | LogoutResponsePdu
    | ReadyToTransfer
    | AsyncMessage
    | Reject
    | NopIn
)

RESPONSE_DECODERS: dict[int, Callable[[Words, bytes], ResponsePdu]] = {
    Opcode.NOP_IN: _decode_nop_in,
    Opcode.SCSI_RESPONSE: _decode_scsi_response,
    Opcode.TASK_MANAGEMENT_RESPONSE: _decode_task_management_response,
    Opcode.LOGIN_RESPONSE: _decode_login_response,
    Opcode.TEXT_RESPONSE: _decode_text_response,
    Opcode.DATA_IN: _decode_data_in,
    Opcode.LOGOUT_RESPONSE: _decode_logout_response,
    Opcode.R2T: _decode_r2t,
    Opcode.ASYNC_MESSAGE: _decode_async_message,
    Opcode.REJECT: _decode_reject,
}
