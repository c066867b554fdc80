"""The address of the metrics (``[metrics] listen``): plain HTTP, for reading alone, with a budget of its own.

A scraper gets its answers late if it asks often. There are few places for connections, none of which is taken
from the API or the exports. So nobody takes the event loop from the guests by reading metrics.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from holdover.admission.admission import Admission, AdmittedConnection, Allowance, FrontEnd
from holdover.admission.token_buckets import TokenBuckets
from holdover.agent.monitoring.monitor import Monitor
from holdover.api.screening import Screen, without_port
from holdover.metrics.exposition import CONTENT_TYPE
from holdover.network.connection_owner import party_of
from holdover.network.paced_listener import AcceptThrottle, PacedListener

_ALLOWANCE = Allowance(strangers=4, strangers_each=4, known=16, known_each=4, kept=8)
_BACKLOG = 64
_BURST, _SECONDS = 10, 0.1
"""The requests of one address: so many at once, and then one in so many seconds."""
_LONGEST_SECONDS = 10.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TEXT = "text/plain; charset=utf-8"


class MetricsApplication:
    """An ASGI application that answers GET of ``/metrics``, ``/livez`` and ``/readyz``."""

    def __init__(self, monitor: Monitor, clock: Callable[[], float] = time.monotonic) -> None:
        self._monitor = monitor
        self._clock = clock
        self._requests = TokenBuckets(_BURST, _SECONDS)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return
        client = scope.get("client")
        wait = self._requests.reserve(client[0] if client else "", self._clock(), _LONGEST_SECONDS)
        await asyncio.sleep(wait)
        status, kind, body = await self._answer(str(scope["method"]), scope["path"])
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method != "GET":
            return 405, _TEXT, b"this address is for reading alone: use GET\n"
        match path:
            case "/metrics":
                return 200, CONTENT_TYPE, await self._monitor.metrics()
            case "/livez":
                return 200, _TEXT, b"ok\n"
            case "/readyz":
                state = self._monitor.readiness()
                return 200 if state.ready else 503, "application/json", msgspec.json.encode(state)
            case _:
                return 404, _TEXT, b"this address has /metrics, /livez and /readyz\n"


def metrics_application(monitor: Monitor, host: str, *, open_to_all: bool) -> Screen:
    """The application of the metrics' address.

    On loopback ``Host`` must be a name of loopback, so that no page can read through a name in somebody
    else's DNS. With ``open_to_all`` every machine may read, by whatever name it knows this one.
    """

    def names_at(scope: Scope) -> Sequence[str]:
        return _LOOPBACK if not open_to_all else (*_LOOPBACK, *_host_of(scope))

    return Screen(MetricsApplication(monitor), host, names_at)


def _host_of(scope: Scope) -> Iterator[str]:
    for name, value in scope["headers"]:
        if name == b"host":
            yield without_port(value.decode("latin-1").strip())


class MetricsListener:
    """The listening socket, until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        admission: Admission,
        protocol: Callable[[AdmittedConnection], asyncio.Protocol],
    ) -> None:
        """``protocol`` makes a connection's protocol object."""
        self._protocol = protocol
        self._admission = admission
        self._front_end: FrontEnd = admission.front_end("metrics", _ALLOWANCE)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        listener.listen(_BACKLOG)
        throttle = AcceptThrottle(burst=16, seconds=0.05, burst_each=8, seconds_each=0.2)
        self._paced = PacedListener(listener, "metrics", throttle, party_of, self._enter)

    def close(self) -> None:
        """Accept no more connections."""
        self._paced.close()
        self._admission.close(self._front_end)

    def _enter(self, connection: socket.socket, party: str) -> None:
        entry, _ = self._front_end.enter(party)
        if entry is not None and not entry.known_as(party):
            entry.leave()
            entry = None
        if entry is None:
            self._paced.tell(party)
            connection.close()
            return
        task = self._loop.create_task(self._open(entry, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, entry: AdmittedConnection, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._protocol(entry), connection)
        except OSError:
            entry.leave()
        except BaseException:
            entry.leave()
            raise
