"""A stand-in for systemd: it starts a service, hears when it is ready, and keeps its sockets.

The service is told nothing that systemd would not tell it: NOTIFY_SOCKET, and LISTEN_FDS with the sockets
that an earlier start of it has stored (FDSTORE=1, systemd.service(5), FileDescriptorStoreMax=).
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_FIRST = 3  # sd_listen_fds(3)
_PATIENCE = 120.0
_MOST_DESCRIPTORS = 64
_AS_LEADER = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"'


class _Main:
    """The main process of a service, which need not be a child of this one."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._child = child
        self._descriptor = os.pidfd_open(pid)

    def signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._descriptor, number)

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, or ends within that time."""
        return bool(select.select([self._descriptor], [], [], seconds)[0])

    def wait(self) -> None:
        """Wait until it has ended.

        Raises:
            TimeoutError: It does not end.
        """
        if not self.has_ended(_PATIENCE):
            raise TimeoutError(f"process {self.pid} does not end")
        os.close(self._descriptor)
        if self._child is not None:
            self._child.wait()


class ServiceManager:
    """One service, started, stopped and started again."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        *,
        keeps_sockets: bool = True,
    ) -> None:
        """``folder`` gets the socket of the manager and the output of the service."""
        self._command = command
        self._socket = folder / "notify"
        self._log = folder / "service.log"
        self._environment = {**environment, "NOTIFY_SOCKET": str(self._socket)}
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.bind(str(self._socket))
        self._heard.settimeout(_PATIENCE)
        self._keeps_sockets = keeps_sockets
        self._process: _Main | None = None
        self.store: dict[str, int] = {}
        """The descriptors that the service has stored, by their names."""

    def __enter__(self) -> ServiceManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for descriptor in self.store.values():
            os.close(descriptor)
        self.store.clear()
        self._heard.close()
        self._socket.unlink()

    @property
    def pid(self) -> int:
        """The number of the main process of a service that runs."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the main process of a service that runs."""
        assert self._process is not None
        self._process.signal(number)

    @property
    def output(self) -> str:
        """What the service has written."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Start the service; returns when it is ready.

        Raises:
            RuntimeError: It has ended, or does not become ready.
        """
        kept = list(self.store.items())
        environment = dict(self._environment)
        if kept:
            environment["LISTEN_FDS"] = str(len(kept))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in kept)
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                ["sh", "-c", _AS_LEADER, "sh", "setpriv", "--pdeathsig", "KILL", *self._command],
                env=environment,
                stdout=output,
                stderr=output,
                close_fds=False,
                preexec_fn=lambda: _hand_over([each for _, each in kept]),  # noqa: PLW1509 - of one thread
            )
        self._process = _Main(process.pid, process)
        self._wait_for("READY=1")

    def stop(self) -> None:
        """End the service by SIGTERM; returns when it has ended."""
        if self._process is not None:
            self._process.signal(signal.SIGTERM)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End the service by SIGKILL; returns when it has ended."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> float:
        """What `systemctl restart` does. Returns the seconds from the stop to the end of the old process."""
        began = time.monotonic()
        self.stop()
        ended = time.monotonic() - began
        self.start()
        return ended

    def replace(self) -> float:
        """Have the service start its successor (SIGUSR2), which is ready when this returns.

        Returns the seconds from the moment in which the old process gives way to its end.
        """
        assert self._process is not None
        old = self._process
        old.signal(signal.SIGUSR2)
        pid = int(self._wait_for("MAINPID=").removeprefix("MAINPID="))
        began = time.monotonic()
        self._process = _Main(pid)
        old.wait()
        ended = time.monotonic() - began
        self._wait_for("READY=1")
        return ended

    def _wait_for(self, beginning: str) -> str:
        """The next line that the service tells and that begins so."""
        end = time.monotonic() + _PATIENCE
        self._heard.settimeout(0.5)
        while time.monotonic() < end:
            try:
                said, ancillary, _, _ = self._heard.recvmsg(
                    4096, socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
                )
            except TimeoutError:
                if self._process is None or self._process.has_ended():
                    break
                continue
            lines = said.decode().splitlines()
            self._note(lines, ancillary)
            found = next((line for line in lines if line.startswith(beginning)), None)
            if found is not None:
                return found
        raise RuntimeError(f"the service does not become ready: {self.output}")

    def _note(self, lines: Sequence[str], ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data)
        name = next((line.partition("=")[2] for line in lines if line.startswith("FDNAME=")), "")
        if "FDSTOREREMOVE=1" in lines and name in self.store:
            os.close(self.store.pop(name))
        for descriptor in descriptors:
            if "FDSTORE=1" in lines and self._keeps_sockets and name not in self.store:
                self.store[name] = descriptor
            else:
                os.close(descriptor)


def _hand_over(descriptors: Sequence[int]) -> None:
    """In the new process: put descriptors where sd_listen_fds(3) looks for them, and close all others."""
    beyond = [os.dup2(each, 200 + number) for number, each in enumerate(descriptors)]
    for number, each in enumerate(beyond):
        os.dup2(each, _FIRST + number, inheritable=True)
    os.closerange(_FIRST + len(descriptors), 4096)
