"""Which disks a process has open, as a privileged process of its own finds out: `open_disks_server`."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import structlog

from holdover.agent.attach.disks.open_disks_server import ANSWER, DEVICE, MOST_DEVICES, OK, REQUEST
from holdover.helper.privileges import drop_capability

log = structlog.get_logger()

_SERVER = Path(__file__).with_name("open_disks_server.py")
_SECONDS = 5.0
"""The process answers within two seconds, or the machine is very busy."""
_CAP_SYS_PTRACE = 19
_LENGTH = ANSWER.size + MOST_DEVICES * DEVICE.size


class OpenDisks:
    """The client of that process; it asks about one process at a time. No answer counts as nothing open."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        # an answer to an earlier process of the agent may still be in the socket
        self._number = secrets.randbits(31)
        self._one_by_one = asyncio.Lock()

    @classmethod
    def start_and_give_up(cls) -> OpenDisks:
        """Start the process that may look, and give up the right to look in this process.

        Call this before there is a second thread: a capability belongs to a thread, not to a process.

        Raises:
            PrivilegeError: The capability cannot be given up.
        """
        found = cls()
        found.start()
        drop_capability(_CAP_SYS_PTRACE)
        return found

    @classmethod
    def inherit_and_give_up(cls, descriptor: int) -> OpenDisks:
        """The client of the process that an earlier process of this agent has started; else as above.

        ``descriptor`` is the socket of that process; this object owns it.
        """
        found = cls()
        found._socket = socket.socket(fileno=descriptor)
        found._socket.settimeout(_SECONDS)
        drop_capability(_CAP_SYS_PTRACE)
        return found

    def fileno(self) -> int:
        """The socket of the process that looks.

        Raises:
            OSError: There is no such process.
        """
        if self._socket is None:
            raise OSError("the process that looks at open disks has ended")
        return self._socket.fileno()

    def leave(self) -> None:
        """Leave the process that looks to the successor of this agent."""
        self._server = None

    def start(self) -> None:
        """Start the process that looks."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            command = [sys.executable, "-I", "-S", str(_SERVER)]
            self._server = subprocess.Popen(command, stdin=there.fileno(), stdout=subprocess.DEVNULL)
        here.settimeout(_SECONDS)
        self._socket = here

    async def of(self, pid: int) -> frozenset[tuple[int, int]]:
        """The devices that a process has open, by type and device number (st_mode's type, st_rdev)."""
        async with self._one_by_one:
            if self._socket is None:
                self.start()
            try:
                return await asyncio.to_thread(self._ask, pid)
            except OSError as error:
                log.error(
                    "The process that looks at open disks does not answer; restart the agent.",
                    pid=pid,
                    reason=str(error),
                )
                return frozenset()

    def _ask(self, pid: int) -> frozenset[tuple[int, int]]:
        if self._socket is None:
            raise ConnectionResetError("it has been ended")
        self._number = (self._number + 1) % (1 << 32)
        self._socket.send(REQUEST.pack(self._number, pid))
        while True:
            answer = self._socket.recv(_LENGTH)
            if not answer:
                raise ConnectionResetError("it has ended")
            number, status, _ = ANSWER.unpack_from(answer)
            if number == self._number:
                break
            # this answer belongs to an earlier request; read the next one
        if status != OK:
            log.info("The open files of a process cannot be seen.", pid=pid)
        return frozenset((kind, device) for kind, device in DEVICE.iter_unpack(answer[ANSWER.size :]))

    async def close(self) -> None:
        """End the process."""
        async with self._one_by_one:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if self._server is not None:
                await asyncio.to_thread(self._server.wait)
