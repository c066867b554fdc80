"""The agent's end of a stream from another agent. Only peers may open one.

The limits: a frame has the length of a request at most and must come whole within a minute; only so many
messages of one connection are under way, and nothing more is read meanwhile, nor while the peer does not take
its answers. So a peer that sends without pause waits for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import structlog

from holdover.admission.admission import AdmittedConnection
from holdover.admission.seldom import SeldomByKey
from holdover.api.message_frames import ASKING, Frame, FrameError, FrameKind, FrameReader
from holdover.api.message_stream import MOST_UNDER_WAY
from holdover.api.request_bounds import REQUEST_SECONDS
from holdover.pki.tls import name_shown

log = structlog.get_logger()

Serve = Callable[[Frame, str], Awaitable[tuple[FrameKind, bytes]]]
"""Handles a frame from the peer of that name; returns the kind and the body of the answer."""


class StreamConnection(asyncio.Protocol):
    """One stream, from its handshake to its end.

    ``entry`` is its place among the connections that are admitted. ``refusal_of`` says why a name may send no
    messages; it is asked for each message, because the agent's file may change. ``serve`` handles a message.
    """

    def __init__(
        self,
        entry: AdmittedConnection,
        refusal_of: Callable[[str], str | None],
        serve: Serve,
        lines: SeldomByKey,
        ended: Callable[[StreamConnection], None],
    ) -> None:
        """``lines`` limits the lines of the log about refusals. ``ended`` is called when it is closed."""
        self._entry = entry
        self._refusal_of = refusal_of
        self._serve = serve
        self._lines = lines
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._name = ""
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_full = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def close(self) -> None:
        """Close the connection, and wait for no answer."""
        if self._transport is not None:
            self._transport.abort()

    # -- what asyncio calls ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._name = name_shown(transport) or ""
        why = self._refusal_of(self._name)
        if why is None and not self._entry.known_as(f"certificate of {self._name}"):
            why = "there are too many connections with its certificate"
        if why is not None:
            self._entry.charge()
            self._refuse(why)

    def data_received(self, data: bytes) -> None:
        try:
            self._frames += self._reader.feed(data)
        except FrameError as error:
            self._refuse(str(error))
            return
        self._begin()
        self._watch()

    def pause_writing(self) -> None:
        self._is_full = True
        self._watch()

    def resume_writing(self) -> None:
        self._is_full = False
        self._begin()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._entry.leave()
        self._frames.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._ended(self)

    # -- messages -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin with as many messages as may be under way, and read more only if none is left."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while self._frames and len(self._tasks) < MOST_UNDER_WAY and not self._is_full:
            task = self._loop.create_task(self._answer(self._frames.pop(0)))
            self._tasks.add(task)
            task.add_done_callback(self._has_answered)
        if self._frames and transport.is_reading():
            transport.pause_reading()
        elif not self._frames and not transport.is_reading():
            transport.resume_reading()

    async def _answer(self, frame: Frame) -> None:
        why = self._refusal_of(self._name)
        if why is None and frame.kind not in ASKING:
            why = "it sent a frame that is no message"
        if why is not None:
            self._refuse(why)
            return
        kind, body = await self._serve(frame, self._name)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(Frame(frame.number, kind, body).encode())

    def _has_answered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("A message of a peer was not answered.", peer=self._name, exc_info=error)
            self.close()
        self._begin()

    # -- what may not last ----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have a timer run while the rest of a frame is awaited, or the peer does not take its answers."""
        is_awaited = self._reader.is_within or self._is_full
        if is_awaited and self._timer is None:
            self._timer = self._loop.call_later(REQUEST_SECONDS, self._refuse, "it was too slow")
        elif not is_awaited and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, why: str) -> None:
        count = self._lines.due(why, self._loop.time())
        if count:
            log.warning(
                "A connection with a stream of messages was refused.",
                reason=why,
                count=count,
                last=self._name,
            )
        self.close()
