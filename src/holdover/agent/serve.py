"""Runs an agent: its host, and the sockets at which its API is asked."""

from __future__ import annotations

import asyncio
import datetime
import gc
import signal
import socket
import ssl
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog
import uvicorn

from holdover.agent.config import AgentConfig, ApiAddress, ApiConfig, ConfigError
from holdover.agent.host import Host
from holdover.agent.idle import AGENT_SECONDS, keep_alive
from holdover.agent.server import application
from holdover.agent.tls import Credentials, NamingProtocol
from holdover.helper.listener import listen, resolve_group
from holdover.journal.journal import Journal, JournalLike
from holdover.journal.memory import MemoryJournal

__all__ = ["serve"]

log = structlog.get_logger()

_BACKLOG = 1024
_HANDSHAKE_SECONDS = 10.0
"""For a TLS handshake: who connects and says nothing does not hold a descriptor for ever."""
_CLOSE_SECONDS = 2.0
_WARN_SECONDS = 86400.0


_GARBAGE_THRESHOLDS = (700, 4, 5000)
"""Of the collector's three generations. Nearly all that an agent leaves behind goes by reference counts: 100
handovers of 16 LUNs left 60 objects to the collector. Looking through what lives on stops its loop, for 10 ms
with the second generation, for 0.1 s and more with the third."""


class _Server(uvicorn.Server):
    """uvicorn on several sockets, some of them plain.

    Leaves signals to `serve`, which has exports to end before the process may.
    """

    def __init__(
        self, settings: uvicorn.Config, listeners: Sequence[socket.socket], tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(settings)
        self.servers = []
        self._listeners = listeners
        self._tls = tls

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        del sockets
        self.servers = [await self._open(listener) for listener in self._listeners]
        self.started = True

    def end(self) -> None:
        """Let go of the sockets and of what is connected, where `shutdown` has not."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _open(self, listener: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            return await loop.create_unix_server(self._protocol, sock=listener, backlog=_BACKLOG)
        if self._tls is None:
            return await loop.create_server(self._protocol, sock=listener, backlog=_BACKLOG)
        return await loop.create_server(
            self._protocol,
            sock=listener,
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=_CLOSE_SECONDS,
        )

    def _protocol(self) -> NamingProtocol:
        return NamingProtocol(self.config, self.server_state, {})


async def serve(
    config: AgentConfig, ready: Callable[[Host], None], journal: JournalLike | None = None
) -> None:
    """Run an agent until SIGINT or SIGTERM; ``ready`` is called once it can be asked.

    ``journal`` is used in place of the one that ``config`` names. SIGHUP makes it take renewed certificates
    for connections from then on.

    Raises:
        OSError: The API or an export cannot listen at its address.
        ListenerError: The same of a Unix socket.
        ConfigError: A certificate or key cannot be used.
    """
    credentials = _credentials(config)
    with ExitStack() as stack:
        listeners = [_listen(address, config.api, stack) for address in config.api.addresses]
        if journal is None:
            journal = MemoryJournal() if config.journal is None else Journal.open(Path(config.journal.file))
        host = Host(config, credentials, journal)
        settings = uvicorn.Config(
            application(host),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            timeout_keep_alive=AGENT_SECONDS,
            timeout_graceful_shutdown=2,
        )
        server = _Server(settings, listeners, credentials.server if credentials is not None else None)

        def end() -> None:
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        if credentials is not None:
            stack.enter_context(_kept_fresh(credentials))
        await host.start()
        # what is there now stays; to look for garbage among it takes tens of milliseconds, also while a guest
        # stands still
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GARBAGE_THRESHOLDS)
        try:
            ready(host)
            await server.serve()
        finally:
            gc.unfreeze()
            server.end()
            await host.close()
            await journal.close()


def _credentials(config: AgentConfig) -> Credentials | None:
    found = Credentials.of(config.api)
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
    made = socket.create_server((address.where.host, address.where.port), family=family, backlog=_BACKLOG)
    keep_alive(made)
    return stack.enter_context(made)


@contextmanager
def _kept_fresh(credentials: Credentials) -> Generator[None, None, None]:
    """Warns once a day of certificates that end soon, and takes renewed ones on SIGHUP."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def warn() -> None:
        nonlocal timer
        for text in credentials.warnings(datetime.datetime.now(datetime.UTC)):
            log.warning(text)
        timer = loop.call_later(_WARN_SECONDS, warn)

    def renew() -> None:
        try:
            credentials.reload()
        except ConfigError as error:
            log.error("the certificates stay as they are", why=str(error))
        else:
            log.info("certificates read anew", name=credentials.name)

    warn()
    loop.add_signal_handler(signal.SIGHUP, renew)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        if timer is not None:
            timer.cancel()
