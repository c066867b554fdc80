"""The socket of `holdover target --control`: what is asked there, what is answered, and who answers.

One JSON document a line each way, {"do": "add", "fault": "lose-response"}. Whoever may open the socket (its
owner alone) may do anything there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from holdover.cli.target_state import FaultState, TargetState, fault_states
from holdover.faults.armed import ArmedFaults
from holdover.faults.fault import FaultError, parse_fault
from holdover.helper.listener import Listener, listen

__all__ = ["Add", "Answer", "Clear", "Control", "ListFaults", "Remove", "Request", "Status"]

_LONGEST = 1 << 16
_MODE = 0o600


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    pass


class ListFaults(_Request, frozen=True, forbid_unknown_fields=True, tag="list"):
    """Answer with all faults."""


class Add(_Request, frozen=True, forbid_unknown_fields=True, tag="add"):
    """Put a fault in force; answer with it."""

    fault: str


class Remove(_Request, frozen=True, forbid_unknown_fields=True, tag="remove"):
    """Take a fault out of force; answer with those that are left."""

    id: int


class Clear(_Request, frozen=True, forbid_unknown_fields=True, tag="clear"):
    """Take all faults out of force."""


class Status(_Request, frozen=True, forbid_unknown_fields=True, tag="status"):
    """Answer with everything."""


Request = ListFaults | Add | Remove | Clear | Status


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is answered: the one that was asked for, or why not."""

    error: str | None = None
    faults: tuple[FaultState, ...] | None = None
    status: TargetState | None = None


class Control:
    """Answers at the socket.

    Args:
        faults: Those of the target.
        status: Gives the state of the target.
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
            ListenerError: Somebody listens there, something else is there, or the system refuses.
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

    def answer(self, line: bytes) -> Answer:
        """Do what one line asks for. Never raises for what it holds."""
        try:
            request = self._decoder.decode(line)
            return self._do(request)
        except (msgspec.DecodeError, FaultError) as error:
            return Answer(error=str(error))

    def _do(self, request: Request) -> Answer:
        match request:
            case Add(fault):
                return Answer(faults=fault_states([self._faults.add(parse_fault(fault))]))
            case Remove(number):
                if not self._faults.remove(number):
                    return Answer(error=f"there is no fault {number}")
            case Clear():
                self._faults.clear()
            case Status():
                return Answer(status=self._status())
            case ListFaults():
                pass
        return Answer(faults=fault_states(self._faults.armed))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(writer)
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(self.answer(line)) + b"\n")
                await writer.drain()
        except ValueError:
            writer.write(msgspec.json.encode(Answer(error=f"a line of more than {_LONGEST} bytes")) + b"\n")
        except OSError:
            pass  # whoever asked is gone
        finally:
            self._serving.discard(writer)
            writer.close()
