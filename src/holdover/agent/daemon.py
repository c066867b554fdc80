"""What runs an agent: its host, and the sockets of its API."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog
import uvicorn
from litestar.types import ASGIApp

from holdover.admission.admission import Admission, AdmittedConnection
from holdover.admission.seldom import SeldomByKey
from holdover.agent.attach.open_disks import OpenDisks
from holdover.agent.host import Host
from holdover.agent.monitoring.metrics_listener import MetricsListener, metrics_application
from holdover.agent.monitoring.monitor import Monitor
from holdover.agent.reload import Reload
from holdover.agent.server import application
from holdover.agent.signals import IDLE_SIGNALS, release_signals, tell_idle
from holdover.api.http_connection import HttpConnection
from holdover.api.keep_alive import AGENT_SECONDS, keep_alive
from holdover.api.listening import ApiListener
from holdover.config.agent_file import (
    AgentConfig,
    ApiAddress,
    ApiConfig,
    ConfigError,
    MetricsConfig,
    parse_host_port,
)
from holdover.helper.listener import listen, resolve_group
from holdover.history.history import History
from holdover.journal.journal import Journal, JournalLike
from holdover.pki.tls import Credentials
from holdover.service.notify import ServiceManager

log = structlog.get_logger()

_WARN_SECONDS = 86400.0
_TELL_SECONDS = 10.0


_GARBAGE_THRESHOLDS = (700, 4, 5000)
"""The thresholds of the garbage collector's three generations.

Reference counts free nearly everything that an agent discards: 100 handovers of 16 LUNs left 60 objects to
the collector. A collection stops the event loop while it goes through the objects that stay: for 10 ms with
the second generation, for 0.1 s and more with the third.
"""


class _Server(uvicorn.Server):
    """uvicorn on several sockets, some of them without TLS.

    It leaves signals to `serve`, which must end exports before the process ends.
    """

    def __init__(
        self,
        settings: uvicorn.Config,
        listeners: Sequence[socket.socket],
        admission: Admission,
        credentials: Credentials | None,
    ) -> None:
        super().__init__(settings)
        self.servers = []
        self._sockets = listeners
        self._front_ends: list[ApiListener] = []
        self._admission = admission
        self._credentials = credentials
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
        await super().shutdown(sockets)

    def end(self) -> None:
        """Close the sockets and abort the connections that `shutdown` has left."""
        for front_end in self._front_ends:
            front_end.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _open(self, listener: socket.socket) -> ApiListener:
        if listener.family == socket.AF_UNIX:
            return ApiListener(listener, self._admission, self._protocol, None)
        if self._credentials is None:
            raise RuntimeError("a TCP address without TLS")
        return ApiListener(listener, self._admission, self._protocol, self._credentials)

    def _protocol(self, entry: AdmittedConnection) -> HttpConnection:
        return HttpConnection(self.config, self.server_state, entry, self.lines)


async def serve(
    config: AgentConfig,
    ready: Callable[[Host], None],
    journal: JournalLike | None = None,
    reread: Callable[[], AgentConfig] | None = None,
    open_disks: OpenDisks | None = None,
    manager: ServiceManager | None = None,
) -> None:
    """Run an agent until SIGINT or SIGTERM; ``ready`` is called once the API answers.

    ``journal`` replaces the journal of ``config``; ``open_disks`` has the same meaning as for `Host`.
    ``manager`` is told when the agent is ready, that it lives, and when it ends.
    At SIGHUP the agent reads its certificates again, and its configuration by ``reread``.

    Raises:
        OSError: The API or an export cannot listen at its address.
        ListenerError: The API cannot listen at its Unix socket.
        ConfigError: A certificate or key cannot be used.
        JournalError: The journal cannot be used.
    """
    credentials = _credentials(config)
    with ExitStack() as stack:
        listeners = [_listen(address, config.api, stack) for address in config.api.addresses]
        history = History(None, 1, 1)
        if journal is None:
            journal = _open_journal(config)
            history = History(Path(config.state_dir) / "history.db", config.history.keep, config.history.most)
        host = Host(config, credentials, journal, open_disks, history=history)
        monitor = Monitor(host)
        settings = _http(application(host, credentials, monitor))
        server = _Server(settings, listeners, host.admission, credentials)
        metrics = _listen_for_metrics(config.metrics, host, monitor, server, stack)

        def end() -> None:
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        manager = manager or ServiceManager(None)
        _handle_others(Reload(host, credentials, reread, manager))
        if credentials is not None:
            stack.enter_context(_warns_in_time(credentials))
        await host.start()
        # The objects that exist now stay. Looking for garbage among them takes tens of milliseconds, which
        # may be while a guest stands still.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GARBAGE_THRESHOLDS)
        monitor.start()
        try:
            ready(host)
            manager.ready(f"{len(host.guests)} guests")
            stack.enter_context(_says_that_it_lives(manager))
            await server.serve()
        finally:
            manager.stopping()
            gc.unfreeze()
            if metrics is not None:
                metrics.close()
            await monitor.close()
            server.end()
            await host.close()
            await journal.close()
            await asyncio.to_thread(history.close)


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


def _listen_for_metrics(
    config: MetricsConfig, host: Host, monitor: Monitor, server: _Server, stack: ExitStack
) -> MetricsListener | None:
    if config.listen is None:
        return None
    address = parse_host_port(config.listen, "metrics.listen")
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = stack.enter_context(socket.create_server((address.host, address.port), family=family))
    settings = _http(metrics_application(monitor, host.config.name, open_to_all=config.allow_remote))
    settings.load()

    def connection(entry: AdmittedConnection) -> HttpConnection:
        return HttpConnection(settings, server.server_state, entry, server.lines)

    return MetricsListener(listener, host.admission, connection)


def _open_journal(config: AgentConfig) -> Journal:
    if config.journal is None:
        folder = Path(config.state_dir)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the journal cannot be kept in {folder}: {error.strerror}; set state-dir (--state-dir) to a "
                "folder that the agent may write to, or give --ephemeral for an agent that may forget"
            ) from error
    return Journal.open(config.journal_file)


def _credentials(config: AgentConfig) -> Credentials | None:
    found = Credentials.of(config.api)
    if found is None and not all(isinstance(each.where, Path) for each in config.api.addresses):
        raise ConfigError("api.listen: a TCP address needs api.certificate, api.key and api.ca")
    if found is not None and found.name != config.name:
        raise ConfigError(
            f"{config.api.certificate}: names {found.name!r}, and this host is {config.name!r}: other hosts "
            "know it by the name in its certificate; write "
            f'name = "{found.name}", or make another one: holdover ca issue {config.name}'
        )
    return found


def _listen(address: ApiAddress, api: ApiConfig, stack: ExitStack) -> socket.socket:
    if isinstance(address.where, Path):
        group = None if api.group is None else resolve_group(api.group)
        listener = listen(address.where, int(api.mode, 8), group)
        stack.callback(listener.close)
        return listener.socket
    family = socket.AF_INET6 if ":" in address.where.host else socket.AF_INET
    made = socket.create_server((address.where.host, address.where.port), family=family)
    keep_alive(made)
    return stack.enter_context(made)


def _handle_others(reload: Reload) -> None:
    """Handle the other signals that an operator may send, so that none of them ends the agent.

    Signals that have come already are handled now.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload.now)
    for number in IDLE_SIGNALS:
        loop.add_signal_handler(number, tell_idle, number)
    release_signals()


@contextmanager
def _says_that_it_lives(manager: ServiceManager) -> Generator[None, None, None]:
    """Tell the service manager, as often as it expects, that the event loop runs."""
    if manager.watchdog is None:
        yield
        return
    loop, every = asyncio.get_running_loop(), manager.watchdog / 3
    timer: asyncio.TimerHandle | None = None

    def live() -> None:
        nonlocal timer
        manager.alive()
        timer = loop.call_later(every, live)

    live()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


@contextmanager
def _warns_in_time(credentials: Credentials) -> Generator[None, None, None]:
    """Log a warning once a day about certificates that expire soon."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def warn() -> None:
        nonlocal timer
        for text in credentials.warnings(datetime.datetime.now(datetime.UTC)):
            log.warning("The agent warns its operator.", reason=text)
        timer = loop.call_later(_WARN_SECONDS, warn)

    warn()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
