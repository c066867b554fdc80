"""Serves libvirt's lock protocol at a Unix socket, within limits. What is answered comes from an `Answerer`.

The connection of a QEMU stays open for as long as that QEMU lives, and nothing more comes on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from holdover.admission.seldom import Seldom
from holdover.helper.connection import credentials_of
from holdover.helper.listener import Listener
from holdover.libvirt.connection import Call, LockConnection, LockProtocolError

log = structlog.get_logger()

_READ_BYTES = 1 << 16
_BEGIN_SECONDS = 10.0
"""The seconds within which a client says who it is, and completes a call that it has begun."""
_TELL_SECONDS = 10.0


class Answerer(Protocol):
    """What answers the calls of one connection."""

    async def answer(self, call: Call, waits: Callable[[], bool]) -> str:
        """Why the answer to a call is no; empty for yes. ``waits`` returns whether the client still waits."""
        ...

    async def close(self) -> None:
        """The connection has ended."""
        ...


class LockServer:
    """The server at a lock socket."""

    def __init__(
        self, listener: Listener, uid: int, answerer: Callable[[int], Answerer], most: int = 4096
    ) -> None:
        """``uid`` is the only user who may ask. ``answerer`` makes what answers a process, by its number.
        There are at most ``most`` connections."""
        self._listener = listener
        self._uid = uid
        self._answerer = answerer
        self._most = most
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._seldom = Seldom(_TELL_SECONDS)

    @property
    def connections(self) -> int:
        """The number of connections."""
        return len(self._clients)

    async def start(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_unix_server(self._welcome, sock=self._listener.socket)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)
        pid = uid = 0
        try:
            pid, uid, _ = credentials_of(writer.get_extra_info("socket"))
            if uid != self._uid:
                self._tell(
                    "A process that is not libvirtd was turned away at the lock socket.",
                    pid,
                    uid,
                    f"it is user {self._uid}",
                )
            elif len(self._clients) > self._most:
                self._tell(
                    "A client of the lock socket was turned away.",
                    pid,
                    uid,
                    f"there are {self._most} connections",
                )
            else:
                await self._serve(reader, writer, pid)
        except (LockProtocolError, TimeoutError) as error:
            self._tell(
                "A client of the lock socket broke the protocol.", pid, uid, str(error) or "it is silent"
            )
        except (OSError, asyncio.CancelledError):
            pass  # the client has gone, or this server ends
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int) -> None:
        connection, answerer = LockConnection(), self._answerer(pid)
        try:
            while data := await self._read(reader, connection):
                for call in connection.receive(data):
                    error = call.problem or await answerer.answer(call, lambda: not reader.at_eof())
                    writer.write(call.reply(error))
                    await writer.drain()
        finally:
            await answerer.close()

    async def _read(self, reader: asyncio.StreamReader, connection: LockConnection) -> bytes:
        patient = connection.owner is not None and connection.idle
        async with asyncio.timeout(None if patient else _BEGIN_SECONDS):
            return await reader.read(_READ_BYTES)

    def _tell(self, what: str, pid: int, uid: int, why: str) -> None:
        count = self._seldom.due(time.monotonic())
        if count:
            log.warning(what, pid=pid, uid=uid, reason=why, count=count)

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._listener.close()
