"""An initiator's side of one session with its one connection (RFC 7143), without any I/O.

`receive_data` takes received bytes, `events_received` returns what they mean, and `data_to_send` returns the
bytes to send. There are bytes to send right after creation. If the target's window (MaxCmdSN) has no room for
a command, the command waits here until the window opens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from holdover.iscsi.digest import add_digests
from holdover.iscsi.errors import CommandRefused, LoginError, PduError, ProtocolError
from holdover.iscsi.header import HEADER_LENGTH, Buffer
from holdover.iscsi.initiator.events import (
    CommandCompleted,
    CommandFailed,
    InitiatorEvent,
    LoggedIn,
    LoginFailed,
    LogoutRequested,
    SessionClosed,
    TargetsReceived,
    TaskManagementCompleted,
)
from holdover.iscsi.initiator.login import InitiatorConfig, InitiatorLogin, LoginStep
from holdover.iscsi.initiator.numbers import InitiatorNumbers
from holdover.iscsi.initiator.relay import AnswerRelay
from holdover.iscsi.initiator.targets_text import TargetsText
from holdover.iscsi.initiator.task import InitiatorTask
from holdover.iscsi.names import encode_lun
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.numbers import (
    NO_TAG,
    AsyncEvent,
    LogoutReason,
    Opcode,
    RejectReason,
    ScsiServiceResponse,
    TaskManagementFunction,
    TaskManagementResponse,
)
from holdover.iscsi.pdu import DamagedPdu, Pdu, PduReader, UnknownPdu
from holdover.iscsi.requests import (
    LogoutRequest,
    NopOut,
    RequestPdu,
    TaskManagementRequest,
    TextRequest,
)
from holdover.iscsi.responses import (
    AsyncMessage,
    DataIn,
    LoginResponse,
    LogoutResponsePdu,
    NopIn,
    ReadyToTransfer,
    Reject,
    ResponsePdu,
    ScsiResponse,
    TaskManagementResponsePdu,
    TextResponse,
)
from holdover.scsi.command import Command
from holdover.scsi.status import Status

_LOGIN_DATA_LENGTH = 8192
_STATUSES = {int(status): status for status in Status}
_MAX_ATTEMPTS = 4
"""The most times that a command is sent when its immediate data arrive damaged."""


class _InitiatorState(Enum):
    LOGIN = auto()
    FULL_FEATURE = auto()
    CLOSED = auto()


_LOGIN, _CLOSED = _InitiatorState.LOGIN, _InitiatorState.CLOSED


class InitiatorSession:
    """One session. It has bytes to send as soon as it exists.

    Args:
        config: The initiator that logs in, and the target.
        entropy: Returns this number of random bytes, for CHAP.

    Attributes:
        parameters: The negotiated parameters.
        digests: Whether a digest was negotiated.
        numbers, reader: Its serial numbers, and its received bytes.
        tasks: The commands without an answer so far, by tag, without those that are relayed.
        relay: What has the relayed commands.
    """

    def __init__(self, config: InitiatorConfig, entropy: Callable[[int], bytes]) -> None:
        self.parameters = Parameters()
        self.digests = False
        self._config = config
        self._login = InitiatorLogin(config, entropy)
        self.reader = PduReader(_LOGIN_DATA_LENGTH)
        self._state = _InitiatorState.LOGIN
        self._events: list[InitiatorEvent] = []
        self._out: list[Buffer] = []
        self.numbers = InitiatorNumbers()
        self._next_tag = 0
        self.tasks: dict[int, InitiatorTask] = {}
        self.relay = AnswerRelay(self)
        self._waiting: deque[InitiatorTask] = deque()
        self._aborts: dict[int, int] = {}
        self._functions: set[int] = set()
        self._targets: TargetsText | None = None
        self._leaving = False
        self._send_login(self._login.first())

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self._state is _InitiatorState.CLOSED

    # Called by the connection

    def receive_data(self, data: Buffer | bytearray) -> None:
        """Take bytes of the connection; the buffer may be used again afterwards. Never raises: an error of
        the protocol that cannot be repaired becomes a `LoginFailed` or `SessionClosed` event.
        """
        reader = self.reader
        reader.feed(data)
        try:
            while self._state is not _CLOSED:
                if self.relay.commands:
                    self.relay.take()
                if (pdu := reader.next()) is None:
                    break
                self._receive(pdu)
        except LoginError as error:
            self._events.append(LoginFailed(error))
            self._close(str(error))
        except (PduError, ProtocolError) as error:
            self._fail(f"the target broke the protocol: {error}")

    def events_received(self) -> list[InitiatorEvent]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> list[Buffer]:
        """The buffers to send, in order, that earlier calls have not returned."""
        out, self._out = self._out, []
        return out

    # Called by the owner of the session, in full feature phase

    def execute(self, lun: int, command: Command) -> int:
        """Send a command as soon as the window allows it; returns the tag of the command.

        Raises:
            ValueError: The logical unit number is outside 0 to 16383, or the CDB has more than 260 bytes.
        """
        if not 1 <= len(command.cdb) <= 260:
            raise ValueError(f"a CDB of {len(command.cdb)} bytes cannot be sent")
        task = InitiatorTask(self.new_tag(), encode_lun(lun), command)
        self.tasks[task.tag] = task
        if self.numbers.room <= 0:
            self._waiting.append(task)
        else:
            self._send_command(task)
        return task.tag

    def was_sent(self, tag: int) -> bool:
        """Whether a command without an answer so far was handed to the connection."""
        task = self.task(tag)
        return task is not None and task.sent

    def abort(self, tag: int) -> int | None:
        """Abort a command. Returns the tag of the function, whose completion comes as an event; None if there
        is nothing to wait for, because the command was answered or was never sent.
        """
        task = self.task(tag)
        if task is None:
            return None
        if not task.sent:
            self._waiting.remove(task)
            del self.tasks[tag]
            return None
        function_tag = self.new_tag()
        self._aborts[function_tag] = tag
        self._send_function(function_tag, TaskManagementFunction.ABORT_TASK, task.lun, task)
        return function_tag

    def manage(self, function: TaskManagementFunction, lun: int = 0) -> int:
        """Send a task management function that names no command; return its tag."""
        tag = self.new_tag()
        self._functions.add(tag)
        self._send_function(tag, function, encode_lun(lun), None)
        return tag

    def ping(self) -> None:
        """Send a NOP-Out, which a living target answers."""
        self._send(NopOut(self.new_tag(), NO_TAG, self.numbers.cmd_sn, self.numbers.exp_stat_sn))

    def send_targets(self, wanted: str = "All") -> int:
        """Ask for the list of targets; only one such request at a time. The event `TargetsReceived` has the
        answer.
        """
        self._targets = targets = TargetsText(self.new_tag(), wanted)
        self._send_text(targets.tag, targets.question, NO_TAG)
        return targets.tag

    def logout(self) -> None:
        """Ask the target to end the session; later calls have no effect. The event `SessionClosed` reports
        the end.
        """
        if self._leaving:
            return
        self._leaving = True
        tag = self.new_tag()
        self._send(
            LogoutRequest(tag, LogoutReason.CLOSE_SESSION, self.numbers.cmd_sn, self.numbers.exp_stat_sn)
        )

    def task(self, tag: int) -> InitiatorTask | None:
        """A command without an answer so far. A relayed one becomes an ordinary one."""
        if (relayed := self.relay.commands.get(tag)) is not None:
            relayed.near.ordinary(relayed)
        return self.tasks.get(tag)

    # Responses

    def _receive(self, pdu: Pdu | DamagedPdu) -> None:
        if isinstance(pdu, DamagedPdu):
            raise ProtocolError("data that do not match their digest")
        if self._state is _LOGIN:
            if not isinstance(pdu, LoginResponse):
                raise LoginError(f"the target answers the login with PDU {_opcode(pdu):02X}h")
            return self._login_response(pdu)
        if isinstance(pdu, DataIn):
            self._data_in(pdu)
        elif isinstance(pdu, ScsiResponse):
            self._scsi_response(pdu)
        elif isinstance(pdu, ReadyToTransfer):
            self._note_window(pdu)
            self._ready_to_transfer(pdu)
        elif isinstance(pdu, NopIn):
            self._nop_in(pdu)
        elif isinstance(pdu, TaskManagementResponsePdu):
            self._note(pdu)
            self._function_completed(pdu.task_tag, pdu.response)
        elif isinstance(pdu, TextResponse):
            self._note(pdu)
            self._text_response(pdu)
        elif isinstance(pdu, AsyncMessage):
            self._note(pdu)
            self._async_message(pdu)
        elif isinstance(pdu, Reject):
            self._note(pdu)
            self._rejected(pdu)
        elif isinstance(pdu, LogoutResponsePdu):
            self._close("logged out")
        else:
            raise ProtocolError(f"unexpected PDU {_opcode(pdu):02X}h")
        return None

    def _note(self, pdu: ResponsePdu) -> None:
        """Note a PDU that carries status: StatSN advances, and the window may advance too."""
        if self.numbers.note_status(pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn):
            self.send_waiting()

    def _note_window(self, pdu: ResponsePdu) -> None:
        if self.numbers.note_window(pdu.exp_cmd_sn, pdu.max_cmd_sn):
            self.send_waiting()

    def send_waiting(self) -> None:
        """Send the commands that wait, as far as there is room."""
        while self._waiting and self.numbers.room > 0:
            self._send_command(self._waiting.popleft())

    def _login_response(self, pdu: LoginResponse) -> None:
        self.numbers.exp_stat_sn = (pdu.stat_sn + 1) & 0xFFFF_FFFF
        step = self._login.receive(pdu)
        if step is not None:
            self._send_login(step)
            return
        self._state = _InitiatorState.FULL_FEATURE
        self.numbers.begin(pdu.max_cmd_sn)
        self.parameters = self._login.negotiator.parameters()
        self.digests = self.parameters.digests
        agreed = self.parameters
        self.reader.agree(agreed.max_recv_data_segment_length, agreed.header_digest, agreed.data_digest)
        self.relay.immediate_length = agreed.immediate_length
        self._events.append(LoggedIn(self.parameters))

    def _data_in(self, pdu: DataIn) -> None:
        task = self.task(pdu.task_tag)
        if task is None:
            raise ProtocolError(f"Data-In for unknown task {pdu.task_tag}")
        task.take(pdu)
        if pdu.has_status:
            self._note(pdu)
            residual = _signed(pdu.overflow, pdu.underflow, pdu.residual) if pdu.residual else 0
            self._complete(task, pdu.status, b"", residual)
        else:
            self._note_window(pdu)

    def _scsi_response(self, pdu: ScsiResponse) -> None:
        self._note(pdu)
        task = self.task(pdu.task_tag)
        if task is None:
            raise ProtocolError(f"SCSI Response for unknown task {pdu.task_tag}")
        if pdu.response != ScsiServiceResponse.COMMAND_COMPLETED:
            self._refuse(task, f"the target failed (response {pdu.response:02X}h)")
        else:
            residual = _signed(pdu.overflow, pdu.underflow, pdu.residual)
            read_residual = _signed(pdu.read_overflow, pdu.read_underflow, pdu.read_residual)
            self._complete(task, pdu.status, pdu.sense, residual, read_residual)

    def _complete(
        self, task: InitiatorTask, status: int, sense: bytes, residual: int, read_residual: int = 0
    ) -> None:
        known = _STATUSES.get(status)
        if known is None:
            return self._refuse(task, f"the target answers with status {status:02X}h, which is none")
        del self.tasks[task.tag]
        response = task.response(known, sense, residual, read_residual)
        self._events.append(CommandCompleted(task.tag, response))
        return None

    def _refuse(self, task: InitiatorTask, why: str, reason: RejectReason | None = None) -> None:
        del self.tasks[task.tag]
        self._events.append(CommandFailed(task.tag, CommandRefused(why, reason)))

    def _ready_to_transfer(self, pdu: ReadyToTransfer) -> None:
        task = self.task(pdu.task_tag)
        if task is None:
            raise ProtocolError(f"R2T for unknown task {pdu.task_tag}")
        end = pdu.offset + pdu.length
        if not pdu.length or end > len(task.command.data_out):
            raise ProtocolError(f"R2T for {pdu.offset} to {end} of {len(task.command.data_out)} bytes")
        for data in task.data_pdus(
            pdu.offset, end, pdu.target_tag, self.parameters, self.numbers.exp_stat_sn
        ):
            self._send(data)

    def _nop_in(self, pdu: NopIn) -> None:
        if pdu.task_tag != NO_TAG:
            self._note(pdu)
        else:
            self._note_window(pdu)
        if pdu.target_tag != NO_TAG:
            self._send(
                NopOut(NO_TAG, pdu.target_tag, self.numbers.cmd_sn, self.numbers.exp_stat_sn, lun=pdu.lun)
            )

    def _function_completed(self, tag: int, response: int) -> None:
        if tag in self._aborts:
            aborted = self._aborts.pop(tag)
            if response in (
                TaskManagementResponse.FUNCTION_COMPLETE,
                TaskManagementResponse.TASK_DOES_NOT_EXIST,
            ):
                self.tasks.pop(aborted, None)
        elif tag in self._functions:
            self._functions.discard(tag)
        else:
            raise ProtocolError(f"Task Management Response for unknown task {tag}")
        self._events.append(TaskManagementCompleted(tag, response))

    def _text_response(self, pdu: TextResponse) -> None:
        targets = self._targets
        if targets is None or pdu.task_tag != targets.tag:
            raise ProtocolError(f"Text Response for unknown task {pdu.task_tag}")
        targets.take(pdu.data)
        if pdu.final:
            self._targets = None
            self._events.append(TargetsReceived(targets.tag, targets.answer))
        else:
            self._send_text(targets.tag, b"", pdu.target_tag)

    def _async_message(self, pdu: AsyncMessage) -> None:
        if pdu.event in (AsyncEvent.LOGOUT_REQUESTED, AsyncEvent.NEGOTIATION_REQUESTED):
            # The target wants to negotiate again: a new login does this.
            self._events.append(LogoutRequested(pdu.parameter3))
        elif pdu.event in (AsyncEvent.CONNECTION_DROPPED, AsyncEvent.SESSION_DROPPED):
            self._close("the target says that it drops the connection")

    def _rejected(self, pdu: Reject) -> None:
        try:
            reason: RejectReason | None = RejectReason(pdu.reason)
        except ValueError:
            reason = None
        words = f"{pdu.reason:02X}h" if reason is None else reason.name.replace("_", " ").lower()
        opcode = pdu.data[0] & 0x3F if len(pdu.data) >= HEADER_LENGTH else -1
        tag = int.from_bytes(pdu.data[16:20])
        task = self.task(tag)
        if reason is RejectReason.DATA_DIGEST_ERROR and opcode == Opcode.DATA_OUT:
            # The target ends the command with a status of its own (RFC 7143 7.8).
            return
        if reason is RejectReason.DATA_DIGEST_ERROR and opcode == Opcode.SCSI_COMMAND and task is not None:
            self._send_again(task)
        elif opcode in (Opcode.SCSI_COMMAND, Opcode.DATA_OUT) and task is not None:
            self._refuse(task, f"the target rejects the command: {words}", reason)
        elif opcode == Opcode.TASK_MANAGEMENT_REQUEST and (tag in self._aborts or tag in self._functions):
            self._function_completed(tag, TaskManagementResponse.FUNCTION_REJECTED)
        elif opcode != Opcode.NOP_OUT:
            raise ProtocolError(f"it rejects PDU {opcode & 0xFF:02X}h: {words}")

    # Requests

    def new_tag(self) -> int:
        """A tag that nothing has."""
        tag = self._next_tag
        while (
            tag in self.tasks
            or tag in self.relay.commands
            or tag in self._aborts
            or tag in self._functions
            or tag == NO_TAG
        ):
            tag = (tag + 1) & 0xFFFF_FFFF
        self._next_tag = (tag + 1) & 0xFFFF_FFFF
        return tag

    def _send(self, pdu: RequestPdu) -> None:
        buffers = pdu.encode()
        if self.digests:
            buffers = add_digests(buffers, self.parameters.header_digest, self.parameters.data_digest)
        self.send_buffers(buffers)

    def send_buffers(self, buffers: list[Buffer]) -> None:
        """Send the buffers of a PDU."""
        self._out += buffers

    def _send_login(self, step: LoginStep) -> None:
        self._send(step.request(self._config.isid, self.numbers.cmd_sn, self.numbers.exp_stat_sn))

    def _send_function(
        self, tag: int, function: TaskManagementFunction, lun: int, task: InitiatorTask | None
    ) -> None:
        self._send(
            TaskManagementRequest(
                tag,
                function,
                lun,
                NO_TAG if task is None else task.tag,
                self.numbers.cmd_sn,
                self.numbers.exp_stat_sn,
                0 if task is None else task.cmd_sn,
            )
        )

    def _send_text(self, tag: int, text: bytes, target_tag: int) -> None:
        numbers = self.numbers
        self._send(TextRequest(tag, target_tag, numbers.cmd_sn, text, numbers.exp_stat_sn, immediate=True))

    def _send_command(self, task: InitiatorTask) -> None:
        """Send a command with the next CmdSN."""
        task.cmd_sn = self.numbers.next_cmd_sn()
        self._transmit(task)

    def _send_again(self, task: InitiatorTask) -> None:
        """Send a damaged command again, with its old CmdSN: later commands wait for it at the target."""
        if task.attempts == _MAX_ATTEMPTS:
            raise ProtocolError(f"a command arrives damaged {_MAX_ATTEMPTS} times")
        self._transmit(task)

    def _transmit(self, task: InitiatorTask) -> None:
        task.attempts += 1
        for pdu in task.pdus(self.parameters, self.numbers.exp_stat_sn):
            self._send(pdu)

    def _fail(self, reason: str) -> None:
        if self._state is _InitiatorState.LOGIN:
            self._events.append(LoginFailed(LoginError(reason)))
        self._close(reason)

    def _close(self, reason: str) -> None:
        if self._state is not _InitiatorState.CLOSED:
            self._state = _InitiatorState.CLOSED
            self._events.append(SessionClosed(reason))


def _signed(overflow: bool, underflow: bool, residual: int) -> int:
    """A residual as one number: positive for an overflow, negative for an underflow."""
    return residual if overflow else -residual if underflow else 0


def _opcode(pdu: Pdu) -> int:
    return pdu.code if isinstance(pdu, UnknownPdu) else pdu.opcode
