"""What runs an agent: its host, and the sockets of its API."""

from __future__ import annotations

import asyncio
import datetime
import gc
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.environment import Environment
from holdover.agent.host import Host
from holdover.agent.reload import Reload
from holdover.agent.signals import IDLE_SIGNALS, release_signals, tell_idle
from holdover.agent.state_lock import locked
from holdover.agent.successor import Successor
from holdover.api.keep_alive import keep_alive
from holdover.config.agent_file import (
    AgentConfig,
    ApiAddress,
    ApiConfig,
    ConfigError,
    HostPort,
    MetricsConfig,
    parse_host_port,
)
from holdover.helper.listener import listen, resolve_group
from holdover.history.history import History
from holdover.journal.journal import Journal, JournalLike
from holdover.pki.tls import Credentials
from holdover.service.notify import ServiceManager
from holdover.service.stored_sockets import StoredSockets

if TYPE_CHECKING:
    from holdover.agent.api_server import ApiServer

log = structlog.get_logger()

_WARN_SECONDS = 86400.0


_GARBAGE_THRESHOLDS = (700, 4, 5000)
"""The thresholds of the garbage collector's three generations.

Reference counts free nearly everything that an agent discards: 100 handovers of 16 LUNs left 60 objects to
the collector. A collection stops the event loop while it goes through the objects that stay: for 10 ms with
the second generation, for 0.1 s and more with the third.
"""


async def serve(
    config: AgentConfig,
    ready: Callable[[Host], None],
    journal: JournalLike | None = None,
    reread: Callable[[], AgentConfig] | None = None,
    open_disks: OpenDisks | None = None,
    manager: ServiceManager | None = None,
    sockets: StoredSockets | None = None,
    successor: Successor | None = None,
) -> None:
    """Run an agent until SIGINT or SIGTERM; ``ready`` is called once the API answers.

    ``journal`` replaces the journal of ``config``; ``open_disks`` has the same meaning as for `Host`.
    ``manager`` is told when the agent is ready, that it lives, and when it ends. ``sockets`` opens the TCP
    sockets, or has them from before a restart.
    At SIGUSR2 the agent starts its ``successor``, and ends when the successor is ready.
    At SIGHUP the agent reads its certificates again, and its configuration by ``reread``.

    Raises:
        OSError: The API or an export cannot listen at its address.
        ListenerError: The API cannot listen at its Unix socket.
        ConfigError: A certificate or key cannot be used, or another agent uses the state folder.
        JournalError: The journal cannot be used.
    """
    credentials = credentials_of(config)
    manager = manager or ServiceManager(None)
    sockets = sockets or StoredSockets(manager)
    with ExitStack() as stack:
        stack.enter_context(locked(Path(config.state_dir)))
        listeners = [_listen(address, config.api, sockets, stack) for address in config.api.addresses]
        metrics = _listen_for_metrics(config.metrics, sockets, stack)
        history = History(None, 1, 1)
        if journal is None:
            journal = _open_journal(config)
            history = History(Path(config.state_dir) / "history.db", config.history.keep, config.history.most)
        environment = Environment(open_listener=sockets.open)
        host = Host(config, credentials, journal, open_disks, environment, history)
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end.set)
        _handle_others(Reload(host, credentials, reread, manager), successor, end)
        if credentials is not None:
            stack.enter_context(_warns_in_time(credentials))
        await host.start()
        if host.is_open:
            sockets.close_unused()
        try:
            await _serve_api(host, credentials, (listeners, metrics), ready, manager, end)
        finally:
            await host.close()
            await journal.close()
            await asyncio.to_thread(history.close)


async def _serve_api(
    host: Host,
    credentials: Credentials | None,
    sockets: tuple[list[socket.socket], socket.socket | None],
    ready: Callable[[Host], None],
    manager: ServiceManager,
    end: asyncio.Event,
) -> None:
    """Answer at the sockets of the API and of the metrics until ``end`` is set."""
    await asyncio.to_thread(import_module, "holdover.agent.api_server")  # guests go on meanwhile
    from holdover.agent.api_server import api_server
    from holdover.agent.monitoring.monitor import Monitor

    monitor = Monitor(host)
    server = api_server(host, credentials, monitor, *sockets)
    # The objects that exist now stay. Looking for garbage among them takes tens of milliseconds, which
    # may be while a guest stands still.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    monitor.start()
    serving = asyncio.ensure_future(_until(server, end))
    try:
        ready(host)
        manager.ready(f"{len(host.guests)} guests")
        with _says_that_it_lives(manager):
            await server.serve()
    finally:
        serving.cancel()
        manager.stopping()
        gc.unfreeze()
        await monitor.close()
        server.end()


async def _until(server: ApiServer, end: asyncio.Event) -> None:
    await end.wait()
    server.should_exit = True


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


def credentials_of(config: AgentConfig) -> Credentials | None:
    """What an agent shows to other hosts, and what verifies them; None if it has no TCP address.

    Raises:
        ConfigError: A certificate or key cannot be used.
    """
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


def _listen(address: ApiAddress, api: ApiConfig, sockets: StoredSockets, stack: ExitStack) -> socket.socket:
    if isinstance(address.where, Path):
        group = None if api.group is None else resolve_group(api.group)
        listener = listen(address.where, int(api.mode, 8), group)
        stack.callback(listener.close)
        return listener.socket
    made = _listen_at(address.where, sockets)
    keep_alive(made)
    return stack.enter_context(made)


def _listen_for_metrics(
    config: MetricsConfig, sockets: StoredSockets, stack: ExitStack
) -> socket.socket | None:
    if config.listen is None:
        return None
    return stack.enter_context(_listen_at(parse_host_port(config.listen, "metrics.listen"), sockets))


def _listen_at(address: HostPort, sockets: StoredSockets) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    found = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)
    return sockets.open(family, found[0][4])


def _handle_others(reload: Reload, successor: Successor | None, end: asyncio.Event) -> None:
    """Handle the other signals that an operator may send, so that none of them ends the agent.

    Signals that have come already are handled now.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload.now)
    for number in IDLE_SIGNALS:
        loop.add_signal_handler(number, tell_idle, number)
    if successor is not None:
        loop.add_signal_handler(signal.SIGUSR2, successor.start, end.set)
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
