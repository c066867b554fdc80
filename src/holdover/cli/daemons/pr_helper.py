"""``holdover pr-helper``: runs the persistent reservation helper alone, in place of ``qemu-pr-helper``."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import sys
import syslog
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from holdover.admission.shares import shares
from holdover.agent.signals import IDLE_SIGNALS, ends, hold_signals
from holdover.cli.daemons.descriptors import raise_descriptor_limit
from holdover.cli.daemons.switching import SWITCH_SECONDS
from holdover.cli.errors import refuse
from holdover.helper.clients import Clients
from holdover.helper.listener import Listener, ListenerError, activated, listen
from holdover.helper.passthrough import Passthrough
from holdover.helper.privileges import PrivilegeError, UserIdentity, drop_privileges, resolve_identity
from holdover.helper.server import HelperServer
from holdover.runbook.lookup import name_topic
from holdover.service.notify import ServiceManager

DEFAULT_SOCKET = Path("/run/holdover/pr-helper.sock")
DEFAULT_PIDFILE = Path("/run/holdover/pr-helper.pid")

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def run(
    path: Path | None,
    pidfile: Path | None,
    daemon: bool,
    user: str | None,
    group: str | None,
    quiet: bool,
    verbose: int,
    trace: str | None,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP."""
    hold_signals()
    if trace is not None:
        refuse("-T: there are no trace events here; -v logs each command, -vv each connection as well")
    try:
        identity = None if user is None and group is None else resolve_identity(user, group)
        listener = _listener(path)
    except (ListenerError, ValueError) as error:
        refuse(str(error))
    _log(logging.ERROR if quiet else _LEVELS[min(verbose, len(_LEVELS) - 1)], daemon)
    if pidfile is None and daemon:
        pidfile = DEFAULT_PIDFILE
    if pidfile is not None:
        pidfile = pidfile.absolute()
    if daemon:
        _go_to_background()
    try:
        with _pidfile(pidfile):
            _serve(listener, identity)
    except (OSError, PrivilegeError) as error:
        listener.close()
        refuse(f"pr-helper: {error}", 1)


def _listener(path: Path | None) -> Listener:
    """The socket that systemd has opened, else a new one at ``path``."""
    listener = activated(os.environ)
    if listener is None:
        path = DEFAULT_SOCKET if path is None else path
        if not path.is_absolute():
            raise ListenerError(f"{path}: the path of the socket must be absolute")
        return listen(path)
    if path is not None:
        raise ListenerError(
            f"-k {path}: systemd has opened the socket already; leave -k out, or stop the socket unit"
        )
    return listener


def _serve(listener: Listener, identity: UserIdentity | None) -> None:
    raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    if identity is not None:
        drop_privileges(identity)
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *IDLE_SIGNALS}
    # This comes before the first thread: a thread must not take a signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    limits = shares(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    server = HelperServer(listener, Passthrough().handle, Clients(limits.helper_clients))
    server.start()
    manager = ServiceManager.of(os.environ, os.getpid())
    manager.ready("taking connections")
    while not ends(signal.sigwait(signals)):
        pass
    manager.stopping()
    server.close()


@contextlib.contextmanager
def _pidfile(path: Path | None) -> Iterator[None]:
    """Keep the number of this process in ``path`` while it runs."""
    if path is None:
        yield
        return
    path.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        # A process that has given up its privileges may not be allowed to remove the file.
        with contextlib.suppress(OSError):
            path.unlink()


def _go_to_background() -> None:
    """Become a daemon (daemon(3)): no terminal, no parent that waits, / as working directory."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)


class _Syslog:
    """The system log, to which a daemon writes."""

    def __getattr__(self, level: str) -> Any:
        return lambda message: syslog.syslog(_PRIORITIES.get(level, syslog.LOG_ERR), message)


_PRIORITIES = {
    "debug": syslog.LOG_DEBUG,
    "info": syslog.LOG_INFO,
    "warning": syslog.LOG_WARNING,
}


def _log(level: int, daemon: bool) -> None:
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        name_topic,
        structlog.processors.format_exc_info,
    ]
    if daemon:
        syslog.openlog("holdover-pr-helper", syslog.LOG_PID, syslog.LOG_DAEMON)
        processors.append(structlog.processors.KeyValueRenderer(key_order=["event"]))
    else:
        processors[:0] = [structlog.processors.TimeStamper(fmt="iso")]
        processors[-1] = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=(lambda *_: _Syslog()) if daemon else structlog.PrintLoggerFactory(sys.stderr),
    )
