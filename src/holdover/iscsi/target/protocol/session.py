"""A target's side of one session with its one connection (RFC 7143), without any I/O.

`receive_data` takes received bytes, `events_received` returns what they mean, and `data_to_send` returns the
bytes to send. `respond` answers commands, in any order. The session has these states::

    LOGIN -- LoginCompleted --> ADMITTING -- admit() --> FULL_FEATURE -- logout, error --> CLOSED
                                         \\- refuse() --------------------------------------^

CmdSN orders the non-immediate requests (RFC 7143 4.2.2.1). A request that comes too early is held if it is
within the window, and ignored otherwise. MaxCmdSN limits the open commands, and `TargetTransfers` limits
their data.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from holdover.iscsi.digest import add_digests
from holdover.iscsi.errors import PduError, TextError
from holdover.iscsi.header import Buffer
from holdover.iscsi.names import decode_lun
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.numbers import (
    NO_TAG,
    AsyncEvent,
    LoginStatus,
    LogoutReason,
    LogoutResponse,
    Opcode,
    RejectReason,
    TaskManagementFunction,
    TaskManagementResponse,
)
from holdover.iscsi.pdu import DamagedPdu, Pdu, PduReader, UnknownPdu, header_of
from holdover.iscsi.relayed import RelayedCommands
from holdover.iscsi.requests import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
)
from holdover.iscsi.responses import (
    AsyncMessage,
    LogoutResponsePdu,
    NopIn,
    Reject,
    ResponsePdu,
    TaskManagementResponsePdu,
    TextResponse,
)
from holdover.iscsi.target.events import (
    Closed,
    CommandReceived,
    LoginCompleted,
    TargetEvent,
    TaskManagementReceived,
)
from holdover.iscsi.target.protocol.held import OTHER_NUMBERED, HeldRequests, Numbered
from holdover.iscsi.target.protocol.login import LoginAnswer, TargetConfig, TargetLogin
from holdover.iscsi.target.protocol.numbers import TargetNumbers
from holdover.iscsi.target.protocol.response import response_pdus
from holdover.iscsi.target.protocol.task import TargetTask, concerned_by
from holdover.iscsi.target.protocol.text import TargetText
from holdover.iscsi.target.protocol.transfers import TargetTransfers
from holdover.scsi.command import Response
from holdover.scsi.status import Status

_LOGIN_DATA_LENGTH = 8192


class _TargetState(Enum):
    LOGIN = auto()
    ADMITTING = auto()
    FULL_FEATURE = auto()
    CLOSED = auto()


_FULL_FEATURE, _CLOSED = _TargetState.FULL_FEATURE, _TargetState.CLOSED


class TargetSession:
    """One session.

    Args:
        config: The identity and the limits of the target.
        addresses: "host:port" of each portal, as SendTargets reports them.
        entropy: Returns this number of random bytes, for CHAP.

    Attributes:
        parameters: The negotiated parameters.
        unsent: The number of bytes that `data_to_send` would return.
        refused: Why the login was refused; empty if it was not.
        config, numbers, reader: What it was made with, its serial numbers, and its received bytes.
        held: The requests that have come too early, by CmdSN.
        relay: Relays the plain commands that come next in the received bytes; None if there is no relay. What
            comes behind an event waits for its turn, so that commands begin in the order in which they came.
        relayed: The relayed commands by tag.
        transfers: The Data-Out of the session. Clear it when the session is over and its commands have
            stopped.
    """

    def __init__(
        self, config: TargetConfig, addresses: tuple[str, ...], entropy: Callable[[int], bytes]
    ) -> None:
        self.parameters = Parameters()
        self._digests = False
        self.unsent = 0
        self.refused = ""
        self.config = config
        self.reader = PduReader(_LOGIN_DATA_LENGTH)
        self._state = _TargetState.LOGIN
        self._login = TargetLogin(config, entropy)
        self._text = TargetText(config, addresses, self._login)
        self._events: list[TargetEvent] = []
        self._out: list[Buffer] = []
        self.numbers = TargetNumbers(config.max_commands)
        self.transfers = TargetTransfers(self.numbers, config.max_buffered, config.budget)
        self._last_login: tuple[LoginRequest, LoginAnswer] | None = None
        self.tasks: dict[int, TargetTask] = {}
        self.held = HeldRequests()
        self._open_immediate = 0
        self.relay: Callable[[], None] | None = None
        self.relayed = RelayedCommands()
        self._functions: set[int] = set()

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self._state is _TargetState.CLOSED

    @property
    def open_commands(self) -> int:
        """The number of commands that were received and not answered."""
        return len(self.tasks) + len(self.relayed)

    @property
    def awaited(self) -> list[tuple[int, int]]:
        """The commands for which the initiator must send data, with the bytes that have come for each."""
        tasks = self.tasks.values()
        return [(each.tag, each.received) for each in tasks if each.open_sequences and not each.delivered]

    # Called by the connection

    def receive_data(self, data: Buffer | bytearray) -> None:
        """Take bytes of the connection; the buffer may be used again afterwards. Never raises: an error of
        the protocol that cannot be repaired becomes a `Closed` event.
        """
        reader = self.reader
        reader.feed(data)
        try:
            while (state := self._state) is not _CLOSED:
                if self.relay is not None and not self._events:
                    self.relay()
                if (pdu := reader.next()) is None:
                    break
                if state is _FULL_FEATURE:
                    self._receive(pdu)
                else:
                    self._receive_early(pdu)
        except PduError as error:
            self._close(f"the initiator sent something that is no PDU: {error}")

    def events_received(self) -> list[TargetEvent]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> list[Buffer]:
        """The buffers to send, in order, that earlier calls have not returned."""
        out, self._out = self._out, []
        self.unsent = 0
        return out

    # Decisions of the owner of the session

    def admit(self, tsih: int) -> None:
        """Admit the initiator. ``tsih`` is the number of the session, 1 to 65535."""
        self._state = _TargetState.FULL_FEATURE
        self._send_login(tsih=tsih)
        # The login's last response has no digests yet.
        self.parameters = self._login.negotiator.parameters()
        self._digests = self.parameters.digests
        agreed = self.parameters
        self.reader.agree(agreed.max_recv_data_segment_length, agreed.header_digest, agreed.data_digest)

    def refuse(self, status: LoginStatus, problem: str) -> None:
        """Refuse the initiator at the end of its login."""
        if self._last_login is not None:
            request, _ = self._last_login
            self._last_login = (request, LoginAnswer(request.stage, status=status, problem=problem))
        self._send_login(tsih=0)
        self._close(problem)

    def respond(self, tag: int, response: Response) -> None:
        """Answer a command. This has no effect if the command was aborted in the meantime."""
        task = self.tasks.get(tag)
        if task is None or self._state is _CLOSED:
            return
        self._forget(task)
        for pdu in response_pdus(task, response, self.parameters, self.numbers):
            self._send(pdu)
        if self.transfers.waiting:
            self.serve_waiting()

    def answer_task_management(self, tag: int, response: TaskManagementResponse) -> None:
        """Answer a task management function."""
        if tag not in self._functions or self._state is _TargetState.CLOSED:
            return
        self._functions.discard(tag)
        self._send(TaskManagementResponsePdu(tag, response, *self.numbers.next_status()))

    def ping(self) -> None:
        """Send a NOP-In, to which a living initiator answers with a NOP-Out without data."""
        numbers = self.numbers
        tag = self.transfers.new_tag()
        self._send(NopIn(NO_TAG, tag, numbers.stat_sn, numbers.exp_cmd_sn, numbers.max_cmd_sn))

    def request_logout(self, seconds: int) -> None:
        """Ask the initiator to log out within that time (RFC 7143 11.9.1)."""
        if self._state is _TargetState.FULL_FEATURE:
            event = AsyncEvent.LOGOUT_REQUESTED
            self._send(AsyncMessage(event, *self.numbers.next_status(), parameter3=seconds))

    def terminate_tasks(self, lun: int | None) -> tuple[int, ...]:
        """End commands with TASK ABORTED, because of another session's CLEAR TASK SET or reset. Returns the
        tags of those that the owner has received already.

        Args:
            lun: Logical unit number, None for all.
        """
        tasks = self._tasks_of(lambda task: lun is None or decode_lun(task.lun) == lun)
        tags = tuple(task.tag for task in tasks if task.delivered)
        for task in tasks:
            self.respond(task.tag, Response(Status.TASK_ABORTED))
        return tags

    # Requests

    def _receive_early(self, pdu: Pdu | DamagedPdu) -> None:
        if isinstance(pdu, DamagedPdu):
            raise PduError("digests before they were agreed upon")
        if isinstance(pdu, LoginRequest) and self._state is _TargetState.LOGIN:
            self._receive_login(pdu)
        elif isinstance(pdu, LoginRequest):
            self._close("the initiator sent more before its login was answered")
        else:
            self._refuse_during_login(pdu)

    def _receive(self, pdu: Pdu | DamagedPdu) -> None:
        if isinstance(pdu, ScsiCommand):
            if pdu.immediate or self.held or not self.numbers.take(pdu.cmd_sn):
                self._receive_numbered(pdu)
            elif (opened := self._open_task(pdu)) is not None:
                self._begin(opened)
        elif isinstance(pdu, DataOut):
            if (task := self.tasks.get(pdu.task_tag)) is not None:
                # Data of an ended or unknown command is dropped. It may have been sent before the command was
                # aborted.
                task.receive(pdu)
                self._advance(task)
        elif isinstance(pdu, OTHER_NUMBERED):
            self._receive_numbered(pdu)
        elif isinstance(pdu, DamagedPdu):
            self._receive_damaged(pdu.pdu)
        elif isinstance(pdu, UnknownPdu):
            snack = pdu.code == Opcode.SNACK_REQUEST
            self._reject(pdu, RejectReason.SNACK_REJECT if snack else RejectReason.COMMAND_NOT_SUPPORTED)
        else:
            self._reject(pdu, RejectReason.PROTOCOL_ERROR)

    def _receive_damaged(self, pdu: Pdu) -> None:
        """Reject a damaged PDU. Damaged data makes its command fail, because there are no recovery R2Ts."""
        self._reject(pdu, RejectReason.DATA_DIGEST_ERROR)
        if isinstance(pdu, DataOut) and (task := self.tasks.get(pdu.task_tag)) is not None:
            task.receive_damaged(pdu)
            self._advance(task)

    def _receive_numbered(self, pdu: Numbered) -> None:
        """Handle requests with a CmdSN, in the order of CmdSN."""
        ahead = 0
        if not pdu.immediate:
            within = self.numbers.ahead(pdu.cmd_sn)
            if within is None or pdu.cmd_sn in self.held:
                return
            ahead = within
        item: Numbered | TargetTask | None = pdu
        if isinstance(pdu, ScsiCommand):
            # A held command is opened at once too, because its unsolicited data follows immediately.
            item = self._open_task(pdu)
        if pdu.immediate:
            self._perform(item)
        elif ahead:
            self.held[pdu.cmd_sn] = item
        else:
            self.numbers.advance()
            self._perform(item)
            if self.held:
                self._release_held()

    def _release_held(self) -> None:
        while self.numbers.exp_cmd_sn in self.held and self._state is _TargetState.FULL_FEATURE:
            item = self.held.pop(self.numbers.exp_cmd_sn)
            self.numbers.advance()
            self._perform(item)

    def _perform(self, item: Numbered | TargetTask | None) -> None:
        if isinstance(item, TargetTask):
            self._begin(item)
        elif isinstance(item, NopOut):
            self._nop_out(item)
        elif isinstance(item, TaskManagementRequest):
            self._task_management(item)
        elif isinstance(item, TextRequest):
            self._text_request(item)
        elif isinstance(item, LogoutRequest):
            self._logout(item)

    def _begin(self, task: TargetTask) -> None:
        task.started = True
        if task.immediate:
            self._open_immediate += 1
        else:
            self.numbers.open_commands += 1
        self._advance(task)

    def _nop_out(self, pdu: NopOut) -> None:
        if self._login.discovery:
            self._reject(pdu, RejectReason.PROTOCOL_ERROR)
        elif pdu.task_tag != NO_TAG:
            data = pdu.data[: self.parameters.max_send_data_segment_length]
            self._send(NopIn(pdu.task_tag, NO_TAG, *self.numbers.next_status(), data))

    def _task_management(self, pdu: TaskManagementRequest) -> None:
        if self._login.discovery:
            return self._reject(pdu, RejectReason.PROTOCOL_ERROR)
        if self.in_use(pdu.task_tag):
            return self._reject(pdu, RejectReason.TASK_IN_PROGRESS)
        if len(self._functions) >= self.config.max_immediate:
            return self._reject(pdu, RejectReason.TOO_MANY_IMMEDIATE_COMMANDS)
        abort = pdu.function == TaskManagementFunction.ABORT_TASK
        concerned = concerned_by(pdu)
        tasks = self._tasks_of(concerned)
        dropped = self.held.drop(pdu, concerned)
        for task in dropped:
            del self.tasks[task.tag]
            self.transfers.release(task)
        found = bool(tasks or dropped)
        if abort and not found and self.held.give_up(pdu, self.numbers):
            found = True
            self._release_held()
        self._functions.add(pdu.task_tag)
        tags = tuple(task.tag for task in tasks if task.delivered)
        lun = decode_lun(pdu.lun)
        self._events.append(TaskManagementReceived(pdu.task_tag, pdu.function, lun, tags, found))
        for task in tasks:
            self._forget(task)
        self.serve_waiting()
        return None

    def _tasks_of(self, chosen: Callable[[TargetTask], bool]) -> list[TargetTask]:
        self.relayed.make_all_ordinary()
        return [task for task in self.tasks.values() if task.started and chosen(task)]

    def _text_request(self, pdu: TextRequest) -> None:
        try:
            answer = self._text.receive(pdu, self.parameters)
        except TextError:
            return self._reject(pdu, RejectReason.PROTOCOL_ERROR)
        self.parameters = self._login.negotiator.parameters()
        numbers = self.numbers.next_status()
        self._send(
            TextResponse(pdu.task_tag, answer.target_tag, answer.data, *numbers, answer.final, answer.more)
        )
        return None

    def _logout(self, pdu: LogoutRequest) -> None:
        response = LogoutResponse.CLOSED
        if pdu.reason == LogoutReason.REMOVE_FOR_RECOVERY:
            response = LogoutResponse.RECOVERY_NOT_SUPPORTED
        elif pdu.reason == LogoutReason.CLOSE_CONNECTION and pdu.connection_id != self._login.connection_id:
            response = LogoutResponse.CID_NOT_FOUND
        elif pdu.reason not in (LogoutReason.CLOSE_SESSION, LogoutReason.CLOSE_CONNECTION):
            return self._reject(pdu, RejectReason.INVALID_PDU_FIELD)
        self._send(LogoutResponsePdu(pdu.task_tag, response, *self.numbers.next_status()))
        if response is LogoutResponse.CLOSED:
            self._close("the initiator logged out")
        return None

    # Login

    def _receive_login(self, pdu: LoginRequest) -> None:
        if self._last_login is None:
            self.numbers.exp_cmd_sn = pdu.cmd_sn
        answer = self._login.receive(pdu)
        self._last_login = (pdu, answer)
        if answer.complete:
            self._state = _TargetState.ADMITTING
            login = self._login
            self._events.append(
                LoginCompleted(
                    login.initiator, login.initiator_alias, login.isid, login.tsih, login.discovery
                )
            )
            return
        self._send_login(tsih=pdu.tsih)
        if answer.status is not LoginStatus.SUCCESS:
            self.refused = answer.problem
            self._close(f"login refused: {answer.problem}")

    def _send_login(self, tsih: int) -> None:
        if self._last_login is None:
            return
        request, answer = self._last_login
        self._send(answer.pdu(request, tsih, self.numbers.next_status()))

    def _refuse_during_login(self, pdu: Pdu) -> None:
        header = header_of(pdu)
        self._send(self._login.invalid(header, self.numbers.next_status()))
        self._close(f"PDU {header[0] & 0x3F:02X}h before the login was complete")

    # Commands and their data

    def _open_task(self, pdu: ScsiCommand) -> TargetTask | None:
        reason = None
        if self._login.discovery:
            reason = RejectReason.PROTOCOL_ERROR
        elif self.in_use(pdu.task_tag):
            reason = RejectReason.TASK_IN_PROGRESS
        elif pdu.immediate and self._open_immediate >= self.config.max_immediate:
            reason = RejectReason.TOO_MANY_IMMEDIATE_COMMANDS
        if reason is not None:
            self._reject(pdu, reason)
            return None
        task = TargetTask(pdu, self.parameters, self.config.max_data_out, self.config.max_data_in)
        self.tasks[pdu.task_tag] = task
        if task.requested:
            self.transfers.admit(task)
        return task

    def _advance(self, task: TargetTask) -> None:
        """Report a command when all of its data has come; ask for its data when there is room."""
        if task.delivered or not task.started:
            return
        if task.failure is not None:
            self.respond(task.tag, task.failure)
        elif task.complete:
            self._events.append(CommandReceived(task.tag, decode_lun(task.lun), task.command()))
        elif not task.awaits_unsolicited:
            for pdu in self.transfers.ask(task, self.parameters):
                self._send(pdu)

    def serve_waiting(self) -> None:
        """Ask for the data of commands for which there is room now."""
        for pdu in self.transfers.serve_waiting(self.parameters):
            self._send(pdu)

    def _forget(self, task: TargetTask) -> None:
        """Forget a command that is over."""
        del self.tasks[task.tag]
        if task.immediate:
            self._open_immediate -= 1
        else:
            self.numbers.open_commands -= 1
        if task.write_length:
            self.transfers.release(task)

    # Relayed commands

    def in_use(self, tag: int) -> bool:
        """Whether no new task may have that tag."""
        return tag in self.tasks or tag in self.relayed or tag in self._functions or tag == NO_TAG

    # Responses

    def _send(self, pdu: ResponsePdu) -> None:
        buffers = pdu.encode()
        if self._digests:
            buffers = add_digests(buffers, self.parameters.header_digest, self.parameters.data_digest)
        self.send_buffers(buffers)

    def send_buffers(self, buffers: list[Buffer]) -> None:
        """Send the buffers of a PDU."""
        for buffer in buffers:
            self.unsent += len(buffer)
        self._out += buffers

    def _reject(self, pdu: Pdu, reason: RejectReason) -> None:
        self._send(Reject(reason, header_of(pdu), *self.numbers.next_status()))

    def _close(self, reason: str) -> None:
        if self._state is not _TargetState.CLOSED:
            self._state = _TargetState.CLOSED
            self.tasks.clear()
            self.held.clear()
            self.transfers.waiting.clear()
            self._events.append(Closed(reason))
