"""QEMU's persistent reservation helper protocol, the helper's side, without I/O.

Theory of operation. All numbers are big-endian. The two sides take turns:

==============  ========================================================  ==============================
state           what the client sends                                     what comes next
==============  ========================================================  ==============================
``FEATURES``    4 bytes: the features that it wants, out of the 4 bytes   ``CDB``
                that the helper has sent first; no feature is defined
``CDB``         16 bytes, and with them exactly one descriptor            ``PARAMETERS`` or ``BUSY``
``PARAMETERS``  as many bytes as the CDB's PARAMETER LIST LENGTH says     ``BUSY``
``BUSY``        nothing; the helper carries the command out               ``CDB``, with the reply sent
``CLOSED``      nothing
==============  ========================================================  ==============================

The reply is the SCSI status (4 bytes), the length of the payload (4 bytes), 96 bytes of sense data, and the
payload. The payload is the parameter data of a PERSISTENT RESERVE IN that ended in GOOD.

A descriptor arrives together with the bytes of one read. The caller must read no more than `wanted` bytes at
a time. Then it is clear to which bytes a descriptor belongs, and what a client sends too early stays in the
socket.

Ownership of descriptors: the caller of `receive` gives all of them to the protocol. The protocol hands one on
in each `HelperRequest`. It hands the others back by `release`, and the caller closes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response

CDB_LENGTH = 16
"""Bytes of CDB in a request."""

SENSE_LENGTH = 96
"""The number of bytes of sense data in every reply."""

DATA_LENGTH = 8192
"""The greatest allocation length or parameter list length that is accepted."""

_FEATURES_LENGTH = 4
_NO_FEATURES = bytes(_FEATURES_LENGTH)


class HelperProtocolError(Exception):
    """The client has broken the protocol; the connection must be closed.

    Attributes:
        problem: What the client did.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class State(Enum):
    """The states of the protocol: which side acts, and what comes."""

    FEATURES = auto()
    CDB = auto()
    PARAMETERS = auto()
    BUSY = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class HelperRequest:
    """A complete command of the client.

    Attributes:
        command: PERSISTENT RESERVE IN or OUT, with a CDB of 16 bytes.
        descriptor: The device's descriptor; it belongs to whoever takes the request.
    """

    command: Command
    descriptor: int


class ServerProtocol:
    """One connection as the helper sees it.

    `receive` takes what arrives. `events_received` and `data_to_send` return what results from it.
    """

    def __init__(self) -> None:
        self._state = State.FEATURES
        self._received = bytearray()
        self._wanted = _FEATURES_LENGTH
        self._cdb = b""
        self._allocation_length = 0
        self._descriptors: list[int] = []
        self._events: list[HelperRequest] = []
        self._to_send = bytearray(_NO_FEATURES)

    @property
    def state(self) -> State:
        """The state of the protocol."""
        return self._state

    @property
    def wanted(self) -> int:
        """How many bytes to read at most; 0 while the helper acts and the client must wait."""
        return self._wanted - len(self._received)

    @property
    def idle(self) -> bool:
        """Whether nothing from the client is incomplete. Then the end of the connection is no error."""
        return self._state in (State.CDB, State.CLOSED) and not self._received and not self._descriptors

    def receive(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Take the result of one read; no data is the end of the connection.

        Raises:
            HelperProtocolError: The client has broken the protocol. The state is then `State.CLOSED`.
        """
        self._descriptors.extend(descriptors)
        try:
            self._receive(data, bool(descriptors))
        except HelperProtocolError:
            self._close()
            raise

    def events_received(self) -> list[HelperRequest]:
        """The requests that have become complete since the last call: none or one."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """The bytes to send, all of them and in this order."""
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def send_response(self, response: Response) -> None:
        """Answer the command that is under way. Sense data and payload are cut to the bytes that fit."""
        if self._state is not State.BUSY:
            raise RuntimeError("no command is under way")
        payload = response.data_in[: self._allocation_length] if response.good else b""
        self._to_send += int(response.status).to_bytes(4, "big")
        self._to_send += len(payload).to_bytes(4, "big")
        self._to_send += response.sense[:SENSE_LENGTH].ljust(SENSE_LENGTH, b"\0")
        self._to_send += payload
        self._expect(State.CDB, CDB_LENGTH)

    def release(self) -> tuple[int, ...]:
        """End the connection. Returns the descriptors that were not handed on, for the caller to close."""
        released = (*self._descriptors, *(event.descriptor for event in self._events))
        self._descriptors.clear()
        self._events.clear()
        self._close()
        return released

    def _receive(self, data: bytes, with_descriptors: bool) -> None:
        if self._state is State.CLOSED:
            raise HelperProtocolError("data after the end of the connection")
        if not data:
            self._end()
            return
        if len(data) > self.wanted:
            raise HelperProtocolError(f"{len(data)} bytes where {self.wanted} were to come")
        if with_descriptors:
            self._check_descriptors()
        self._received += data
        if self.wanted == 0:
            self._take(bytes(self._received))

    def _check_descriptors(self) -> None:
        if self._state is not State.CDB:
            raise HelperProtocolError("a descriptor without a CDB")
        if len(self._descriptors) > 1:
            raise HelperProtocolError(f"{len(self._descriptors)} descriptors with one CDB")

    def _end(self) -> None:
        if not self.idle and self._state is not State.BUSY:
            where = self._state.name.lower()
            raise HelperProtocolError(f"the connection ended within {where}, {self.wanted} bytes too early")
        self._close()

    def _take(self, data: bytes) -> None:
        if self._state is State.FEATURES:
            if data != _NO_FEATURES:
                raise HelperProtocolError(f"features {data.hex()} are wanted, and none is offered")
            self._expect(State.CDB, CDB_LENGTH)
        elif self._state is State.CDB:
            self._take_cdb(data)
        else:
            self._begin(Command(self._cdb, data))

    def _take_cdb(self, cdb: bytes) -> None:
        if not self._descriptors:
            raise HelperProtocolError("a CDB without a descriptor")
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
            raise HelperProtocolError(
                f"operation code {cdb[0]:02X}h; only PERSISTENT RESERVE IN and OUT may come"
            )

    def _begin(self, command: Command) -> None:
        self._events.append(HelperRequest(command, self._descriptors.pop()))
        self._expect(State.BUSY, 0)

    def _expect(self, state: State, length: int) -> None:
        self._state = state
        self._wanted = length
        self._received.clear()

    def _close(self) -> None:
        self._expect(State.CLOSED, 0)


def _limited(what: str, length: int) -> int:
    if length > DATA_LENGTH:
        raise HelperProtocolError(f"{what} {length}; at most {DATA_LENGTH} may come")
    return length
