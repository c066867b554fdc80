"""The successor of an agent: a new process of the service, which starts beside the old one and replaces it.

An agent that starts takes a second or more to import its modules, and guests behind exports wait for it. A
successor imports them, and checks its settings, while the old agent still serves. Then the old agent ends,
and the successor goes on from its journal, with the listening sockets that the old one had. If the successor
cannot start, the old agent goes on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

import structlog

from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.service.notify import ServiceManager
from holdover.service.stored_sockets import StoredSockets

log = structlog.get_logger()

_VARIABLE = "HOLDOVER_SUCCESSOR"
"""What a successor inherits, by the numbers of descriptors: the control socket, the open disks, listeners."""
_OF_OLD_PROCESS = frozenset({_VARIABLE, "WATCHDOG_PID"})
_READY, _GO = b"ready", b"go"
_FIRST_OF_CONTAINER = 1
_SECONDS = 120.0
"""The seconds that a successor has to start."""
_END_SECONDS = 90.0
"""The seconds that the old agent has to end; systemd gives it as many (TimeoutStopSec=)."""


class Successor:
    """In the old process: starts the successor, and gives way to it."""

    def __init__(self, manager: ServiceManager, sockets: StoredSockets, open_disks: OpenDisks) -> None:
        """``sockets`` and ``open_disks``: what the successor is to have."""
        self._manager = manager
        self._sockets = sockets
        self._open_disks = open_disks
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_ready = False
        """Whether the successor waits for the end of this process."""

    def start(self, end: Callable[[], None]) -> None:
        """Start a successor, unless there is one; ``end`` is called when it is ready."""
        if self._task is None or (self._task.done() and not self.is_ready):
            self._task = asyncio.ensure_future(self._start(end))

    async def _start(self, end: Callable[[], None]) -> None:
        try:
            process, control = self._spawn(os.environ)
            self._process, self._control = process, control
            log.info("A successor starts; this agent ends when the successor is ready.", pid=process.pid)
            said = await asyncio.to_thread(control.recv, len(_READY))
        except OSError as error:
            await self._failed(str(error) or "it takes too long")
            return
        if said != _READY:
            await self._failed("its own messages say why")
            return
        log.info("The successor is ready; this agent ends.", pid=process.pid)
        self.is_ready = True
        self._open_disks.leave()
        self._manager.replaced_by(process.pid)
        end()

    def _spawn(self, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if os.getpid() == _FIRST_OF_CONTAINER:
            raise OSError(
                "this agent is the first process of its container, which ends with it; restart that"
            )
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.settimeout(_SECONDS)
        with there:
            descriptors = (there.fileno(), self._open_disks.fileno(), *self._sockets.descriptors())
            kept = {name: value for name, value in environment.items() if name not in _OF_OLD_PROCESS}
            command = [sys.executable, *sys.orig_argv[1:]]
            try:
                process = subprocess.Popen(
                    command,
                    pass_fds=descriptors,
                    env={**kept, _VARIABLE: ",".join(map(str, descriptors))},
                )
            except OSError:
                here.close()
                raise
        return process, here

    async def _failed(self, reason: str) -> None:
        log.error("The successor cannot start; this agent goes on.", reason=reason)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def give_way(self) -> None:
        """Let the successor go on: this process has closed everything. End a successor that is not ready."""
        if self.is_ready and self._control is not None:
            self._control.send(_GO)
        else:
            self._end()


@dataclass(frozen=True, slots=True)
class Predecessor:
    """In the new process: the agent that it replaces."""

    control: socket.socket
    open_disks: int
    listeners: tuple[int, ...]

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Predecessor | None:
        """The agent that an environment names; None if this process replaces none.

        The variable is removed from ``environment``, so that no child process uses it.
        """
        named = environment.pop(_VARIABLE, "")
        if not named:
            return None
        control, open_disks, *listeners = map(int, named.split(","))
        for each in (control, open_disks, *listeners):
            os.set_inheritable(each, False)
        return cls(socket.socket(fileno=control), open_disks, tuple(listeners))

    def await_end(self) -> bool:
        """Say that this process is ready; returns when the old agent has closed everything.

        It returns False if the old agent has ended in another way, does not want a successor any more, or
        does not end. If this process then ends too, the service manager ends the old one and starts another.
        """
        with self.control:
            self.control.settimeout(_END_SECONDS)
            try:
                self.control.send(_READY)
                return self.control.recv(len(_GO)) == _GO
            except OSError:
                return False
