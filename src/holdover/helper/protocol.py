"""QEMU's persistent reservation helper protocol, the helper's side, without I/O.

Theory of operation. All numbers are big-endian, and the two sides take turns:

==============  ========================================================  ==============================
state           what the client sends                                     what comes next
==============  ========================================================  ==============================
``FEATURES``    4 bytes: the features that it wants, of the 4 bytes that  ``CDB``
                the helper has sent first; none is defined
``CDB``         16 bytes, and with them exactly one descriptor            ``PARAMETER_LIST`` or ``BUSY``
``PARAMETERS``  as many bytes as the CDB's PARAMETER LIST LENGTH says     ``BUSY``
``BUSY``        nothing; the helper carries the command out               ``CDB``, with the reply sent
``CLOSED``      nothing
==============  ========================================================  ==============================

The reply is the SCSI status (4 bytes), the length of the payload (4 bytes), 96 bytes of sense data, and
the payload: the parameter data of a PERSISTENT RESERVE IN that ended in GOOD.

A descriptor comes beside the bytes of one read. Whoever reads must ask for no more than `wanted` bytes at
a time, so that it is clear with which bytes a descriptor came, and what a client sends too early stays
where it is.

Who owns a descriptor: whoever calls `receive` gives all of them away. The protocol hands one on in each
`Request`, and the others back by `release`, for the caller to close.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from holdover.scsi.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.command import Command, Response
from holdover.scsi.opcodes import OperationCode

__all__ = ["CDB_LENGTH", "DATA_LENGTH", "SENSE_LENGTH", "ProtocolError", "Request", "ServerProtocol", "State"]

CDB_LENGTH = 16
"""Bytes of CDB in a request."""

SENSE_LENGTH = 96
"""Bytes of sense data in a reply, always."""

DATA_LENGTH = 8192
"""The most that an allocation length or a parameter list length may be."""

_FEATURES_LENGTH = 4
_NO_FEATURES = bytes(_FEATURES_LENGTH)


class ProtocolError(Exception):
    """The client has broken the protocol; the connection must be closed.

    Attributes:
        problem: What it did.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class State(Enum):
    """Whose turn it is, and for what."""

    FEATURES = auto()
    CDB = auto()
    PARAMETERS = auto()
    BUSY = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Request:
    """A command of the client, whole.

    Attributes:
        command: PERSISTENT RESERVE IN or OUT, with a CDB of 16 bytes.
        descriptor: The device; it belongs to whoever takes the request.
    """

    command: Command
    descriptor: int


class ServerProtocol:
    """One connection, as the helper sees it. `receive` in; `data_to_send` and `events_received` out."""

    def __init__(self) -> None:
        self._state = State.FEATURES
        self._received = bytearray()
        self._wanted = _FEATURES_LENGTH
        self._cdb = b""
        self._allocation_length = 0
        self._descriptors: list[int] = []
        self._events: list[Request] = []
        self._to_send = bytearray(_NO_FEATURES)

    @property
    def state(self) -> State:
        """Whose turn it is, and for what."""
        return self._state

    @property
    def wanted(self) -> int:
        """How many bytes to read at most; 0 while it is not the client's turn."""
        return self._wanted - len(self._received)

    @property
    def idle(self) -> bool:
        """Whether the client has nothing outstanding: the end of the connection is no error then."""
        return self._state in (State.CDB, State.CLOSED) and not self._received and not self._descriptors

    def receive(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Take what one read gave; no data is the end of the connection.

        Raises:
            ProtocolError: The client has broken the protocol. The state is then `State.CLOSED`.
        """
        self._descriptors.extend(descriptors)
        try:
            self._receive(data, bool(descriptors))
        except ProtocolError:
            self._close()
            raise

    def events_received(self) -> list[Request]:
        """The requests that have become whole since the last call: none or one."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """What is to be sent, in this order and whole."""
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def send_response(self, response: Response) -> None:
        """Answer the command that is under way. Sense data and payload are cut to what fits."""
        if self._state is not State.BUSY:
            raise RuntimeError("no command is under way")
        payload = response.data_in[: self._allocation_length] if response.good else b""
        self._to_send += int(response.status).to_bytes(4, "big")
        self._to_send += len(payload).to_bytes(4, "big")
        self._to_send += response.sense[:SENSE_LENGTH].ljust(SENSE_LENGTH, b"\0")
        self._to_send += payload
        self._expect(State.CDB, CDB_LENGTH)

    def release(self) -> tuple[int, ...]:
        """End the connection: the descriptors that came and were not handed on, for the caller to close."""
        released = (*self._descriptors, *(event.descriptor for event in self._events))
        self._descriptors.clear()
        self._events.clear()
        self._close()
        return released

    def _receive(self, data: bytes, with_descriptors: bool) -> None:
        if self._state is State.CLOSED:
            raise ProtocolError("data after the end of the connection")
        if not data:
            self._end()
            return
        if len(data) > self.wanted:
            raise ProtocolError(f"{len(data)} bytes where {self.wanted} were to come")
        if with_descriptors:
            self._check_descriptors()
        self._received += data
        if self.wanted == 0:
            self._take(bytes(self._received))

    def _check_descriptors(self) -> None:
        if self._state is not State.CDB:
            raise ProtocolError("a descriptor without a CDB")
        if len(self._descriptors) > 1:
            raise ProtocolError(f"{len(self._descriptors)} descriptors with one CDB")

    def _end(self) -> None:
        if not self.idle and self._state is not State.BUSY:
            where = self._state.name.lower()
            raise ProtocolError(f"the connection ended within {where}, {self.wanted} bytes too early")
        self._close()

    def _take(self, data: bytes) -> None:
        if self._state is State.FEATURES:
            if data != _NO_FEATURES:
                raise ProtocolError(f"features {data.hex()} are wanted, and none is offered")
            self._expect(State.CDB, CDB_LENGTH)
        elif self._state is State.CDB:
            self._take_cdb(data)
        else:
            self._begin(Command(self._cdb, data))

    def _take_cdb(self, cdb: bytes) -> None:
        if not self._descriptors:
            raise ProtocolError("a CDB without a descriptor")
        if cdb[0] == OperationCode.PERSISTENT_RESERVE_IN:
            length = _limited("allocation length", PersistentReserveIn.decode(cdb).allocation_length)
            self._allocation_length = length
            self._begin(Command(cdb, data_in_length=length))
        elif cdb[0] == OperationCode.PERSISTENT_RESERVE_OUT:
            length = _limited("parameter list length", PersistentReserveOut.decode(cdb).parameter_list_length)
            self._allocation_length = 0
            self._cdb = cdb
            if length == 0:
                self._begin(Command(cdb))
            else:
                self._expect(State.PARAMETERS, length)
        else:
            raise ProtocolError(f"operation code {cdb[0]:02X}h; only PERSISTENT RESERVE IN and OUT may come")

    def _begin(self, command: Command) -> None:
        self._events.append(Request(command, self._descriptors.pop()))
        self._expect(State.BUSY, 0)

    def _expect(self, state: State, length: int) -> None:
        self._state = state
        self._wanted = length
        self._received.clear()

    def _close(self) -> None:
        self._expect(State.CLOSED, 0)


def _limited(what: str, length: int) -> int:
    if length > DATA_LENGTH:
        raise ProtocolError(f"{what} {length}; at most {DATA_LENGTH} may come")
    return length
