"""The socket of `holdover target --control`: its requests, its answers, and the server.

Each line in either direction is one JSON document, such as {"do": "add", "fault": "lose-response"}. Only the
owner may open the socket, and whoever can open it may send every request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from holdover.faults.armed import ArmedFaults
from holdover.faults.fault import FaultError, parse_fault
from holdover.helper.listener import Listener, listen
from holdover.target.state import FaultState, TargetState, fault_states

_LONGEST = 1 << 16
_MODE = 0o600


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    pass


class ListFaults(_Request, frozen=True, forbid_unknown_fields=True, tag="list"):
    """A request for all faults."""


class Add(_Request, frozen=True, forbid_unknown_fields=True, tag="add"):
    """A request to put a fault in force; the answer has that fault."""

    fault: str


class Remove(_Request, frozen=True, forbid_unknown_fields=True, tag="remove"):
    """A request to take a fault out of force; the answer has the faults that are left."""

    id: int


class Clear(_Request, frozen=True, forbid_unknown_fields=True, tag="clear"):
    """A request to take all faults out of force."""


class ControlStatus(_Request, frozen=True, forbid_unknown_fields=True, tag="status"):
    """A request for the whole state of the target."""


Request = ListFaults | Add | Remove | Clear | ControlStatus


class ControlAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a request: what was asked for, or why the request failed."""

    error: str | None = None
    faults: tuple[FaultState, ...] | None = None
    status: TargetState | None = None


class Control:
    """The server at the socket.

    Args:
        faults: The faults of the target.
        status: Returns the state of the target.
    """

    def __init__(self, faults: ArmedFaults, status: Callable[[], TargetState]) -> None:
        self._faults = faults
        self._status = status
        self._decoder = msgspec.json.Decoder(Request)
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.StreamWriter] = set()

    async def start(self, path: Path) -> None:
        """Listen; only this user may connect.

        Raises:
            ListenerError: Another process listens there, something else is there, or the system refuses.
        """
        self._listener = listen(path, _MODE)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=self._listener.socket, limit=_LONGEST
        )

    async def close(self) -> None:
        """Stop answering and remove the socket."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._serving):
            writer.close()
        if self._listener is not None:
            self._listener.close()

    def answer(self, line: bytes) -> ControlAnswer:
        """Do what one line asks for. No content of the line makes this raise."""
        try:
            request = self._decoder.decode(line)
            return self._do(request)
        except (msgspec.DecodeError, FaultError) as error:
            return ControlAnswer(error=str(error))

    def _do(self, request: Request) -> ControlAnswer:
        match request:
            case Add(fault):
                return ControlAnswer(faults=fault_states([self._faults.add(parse_fault(fault))]))
            case Remove(number):
                if not self._faults.remove(number):
                    known = ", ".join(str(each.number) for each in self._faults.armed)
                    there_are = f"the faults that there are: {known}" if known else "no fault is in force"
                    return ControlAnswer(error=f"there is no fault {number}; {there_are}")
            case Clear():
                self._faults.clear()
            case ControlStatus():
                return ControlAnswer(status=self._status())
            case ListFaults():
                pass
        return ControlAnswer(faults=fault_states(self._faults.armed))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(writer)
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(self.answer(line)) + b"\n")
                await writer.drain()
        except ValueError:
            writer.write(
                msgspec.json.encode(ControlAnswer(error=f"a line of more than {_LONGEST} bytes")) + b"\n"
            )
        except OSError:
            pass  # the client is gone
        finally:
            self._serving.discard(writer)
            writer.close()
