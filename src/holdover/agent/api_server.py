"""The API of an agent and its metrics, over HTTP.

Its imports take much of the time in which an agent starts. `holdover.agent.daemon` imports it when the guests
have their exports again.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import aiohttp  # noqa: F401 - peers are asked by it, in moments in which an import would be in the way
import uvicorn
from litestar.types import ASGIApp

from holdover.admission.admission import Admission, AdmittedConnection
from holdover.admission.seldom import SeldomByKey
from holdover.agent.host import Host
from holdover.agent.messages import Messages
from holdover.agent.monitoring.metrics_listener import MetricsListener, metrics_application
from holdover.agent.monitoring.monitor import Monitor
from holdover.agent.server import application
from holdover.api.http_connection import HttpConnection
from holdover.api.keep_alive import AGENT_SECONDS
from holdover.api.listening import ApiListener
from holdover.api.stream_connection import StreamConnection
from holdover.pki.tls import Credentials

_TELL_SECONDS = 10.0


class ApiServer(uvicorn.Server):
    """uvicorn on several sockets, some of them without TLS.

    It leaves signals to `holdover.agent.daemon.serve`, which must end exports before the process ends.
    """

    def __init__(
        self,
        settings: uvicorn.Config,
        listeners: Sequence[socket.socket],
        admission: Admission,
        credentials: Credentials | None,
        messages: Messages,
    ) -> None:
        super().__init__(settings)
        self.servers = []
        self._sockets = listeners
        self._front_ends: list[ApiListener] = []
        self._admission = admission
        self._credentials = credentials
        self._messages = messages
        self._streams: set[StreamConnection] = set()
        self._metrics: MetricsListener | None = None
        self.lines = SeldomByKey(_TELL_SECONDS)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        del sockets
        self._front_ends = [self._open(listener) for listener in self._sockets]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for front_end in self._front_ends:
            front_end.close()
        self._close_streams()
        await super().shutdown(sockets)

    def end(self) -> None:
        """Close the sockets and abort the connections that `shutdown` has left."""
        if self._metrics is not None:
            self._metrics.close()
        for front_end in self._front_ends:
            front_end.close()
        self._close_streams()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def show_metrics(self, listener: socket.socket, monitor: Monitor, host: Host) -> None:
        """Answer at the address of the metrics, too."""
        remote = host.config.metrics.allow_remote
        settings = _http(metrics_application(monitor, host.config.name, open_to_all=remote))
        settings.load()

        def connection(entry: AdmittedConnection) -> HttpConnection:
            return HttpConnection(settings, self.server_state, entry, self.lines)

        self._metrics = MetricsListener(listener, self._admission, connection)

    def _open(self, listener: socket.socket) -> ApiListener:
        if listener.family == socket.AF_UNIX:
            return ApiListener(listener, self._admission, self._protocol, self._stream, None)
        if self._credentials is None:
            raise RuntimeError("a TCP address without TLS")
        return ApiListener(listener, self._admission, self._protocol, self._stream, self._credentials)

    def _protocol(self, entry: AdmittedConnection) -> HttpConnection:
        return HttpConnection(self.config, self.server_state, entry, self.lines)

    def _stream(self, entry: AdmittedConnection) -> StreamConnection:
        messages = self._messages
        made = StreamConnection(entry, messages.refusal_of, messages.serve, self.lines, self._streams.discard)
        self._streams.add(made)
        return made

    def _close_streams(self) -> None:
        for stream in tuple(self._streams):
            stream.close()


def api_server(
    host: Host,
    credentials: Credentials | None,
    monitor: Monitor,
    listeners: Sequence[socket.socket],
    metrics: socket.socket | None,
) -> ApiServer:
    """The server of a host's API at ``listeners``, and of its metrics at ``metrics``."""
    http = _http(application(host, credentials, monitor))
    made = ApiServer(http, listeners, host.admission, credentials, Messages(host))
    if metrics is not None:
        made.show_metrics(metrics, monitor, host)
    return made


def _http(application: ASGIApp) -> uvicorn.Config:
    # its warnings are of what clients send, one line each time; `HttpConnection` logs these with a limit
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        timeout_keep_alive=AGENT_SECONDS,
        timeout_graceful_shutdown=2,
    )
