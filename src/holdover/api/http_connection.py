"""One connection of the API: uvicorn's HTTP with limits. It gives the application the client's name.

The limits: nothing that is too long is parsed, nothing waits for ever, and there is one request at a time.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import cast

import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from holdover.admission.admission import AdmittedConnection
from holdover.admission.seldom import SeldomByKey
from holdover.api.documents import Problem
from holdover.api.problems import PROBLEM_TYPE, problem_body
from holdover.api.request_bounds import HEADER_BYTES, LARGEST_BODY, RequestBounds
from holdover.pki.tls import CALLER, CERTIFIED, CHARGE, name_shown

log = structlog.get_logger()

_LINGER_SECONDS = 0.5
"""The time in which the last answer must have been sent, before the connection is cut."""


class HttpConnection(HttpToolsProtocol):
    """uvicorn's HTTP on one connection, with limits.

    ``entry`` is the connection's place among those that are admitted. It is given back when the connection
    ends. ``lines`` limits the lines of the log about refusals, of all connections together.
    """

    def __init__(
        self, config: Config, server_state: ServerState, entry: AdmittedConnection, lines: SeldomByKey
    ) -> None:
        super().__init__(config, server_state, {})
        self.entry = entry
        self._lines = lines
        self._bounds = RequestBounds(self.loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        name = name_shown(transport)
        self.app_state = {
            CERTIFIED: name,
            CHARGE: self.entry.charge,
            CALLER: self.entry.party if name is None else f"certificate of {name}",
        }
        if name is not None and not self.entry.known_as(f"certificate of {name}"):
            self._tell("there are too many connections with its certificate")
            self.transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.entry.leave()
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._refused and not self.transport.is_closing():
            piece = self._bounds.next_piece
            if not piece:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"the header is longer than {HEADER_BYTES} bytes",
                )
                return
            now, rest = bytes(rest[:piece]), rest[piece:]
            self._bounds.received(len(now), self.loop.time())
            super().data_received(now)
        self._watch()

    def on_message_begin(self) -> None:
        self._bounds.header_began(self.loop.time())
        if self.cycle is not None and not self.cycle.response_complete:
            # a client that does not wait for its answers could have any number of requests under way
            self._refused = True
            self._tell("it sent a request before it had the answer to the last one")
            self.transport.abort()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._bounds.header_ended()
        if self._refused:
            return
        lengths = [value for name, value in self.headers if name == b"content-length"]
        if any(name == b"transfer-encoding" for name, _ in self.headers):
            self._refuse(
                HTTPStatus.LENGTH_REQUIRED, "give the body a Content-Length; a chunked body is refused"
            )
        elif lengths and int(lengths[0]) > LARGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is longer than {LARGEST_BODY} bytes")
        else:
            super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._refused:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._bounds.request_ended()
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            # otherwise TLS would read and drop all that the client sends until the client ends TLS too
            self._cut(0.0 if not self.transport.get_write_buffer_size() else _LINGER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _watch(self) -> None:
        """Start a timer that ends at the deadline, if something must come by then."""
        deadline = self._bounds.deadline
        if deadline is None or self._refused or self.transport.is_closing():
            return
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(deadline, self._look_at_the_time)

    def _look_at_the_time(self) -> None:
        self._timer = None
        deadline = self._bounds.deadline
        if deadline is not None and deadline <= self.loop.time() and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request was not complete in time")
        else:
            self._watch()

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Answer with an error, unless another answer is being sent, and close the connection."""
        self._refused = True
        self._tell(why)
        if self.cycle is None or self.cycle.response_complete:
            body = problem_body(Problem(detail=why), status)
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {PROBLEM_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        # Pause reading instead of closing: a closing connection reads and drops all that the client sends.
        self.transport.pause_reading()
        self._cut(_LINGER_SECONDS)

    def _tell(self, why: str) -> None:
        """Log why the connection is refused, each reason once in a while."""
        count = self._lines.due(why, self.loop.time())
        if count:
            log.warning(
                "A connection to the API was refused.",
                reason=why,
                count=count,
                last=self.app_state[CERTIFIED],
            )

    def _cut(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort)
