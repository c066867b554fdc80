"""What a program tells systemd about itself (sd_notify(3)): that it is ready, that it lives, that it ends."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

_MICROSECONDS = 1_000_000

_PATIENCE_SECONDS = 1.0
"""How long to wait for a manager that has no room: a program whose `ready` is lost would be ended."""


class ServiceManager:
    """The socket of the service manager. Without one, nothing is told."""

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        """``address``: the path of the socket; "@" at its beginning stands for an abstract name."""
        self._address = None if not address else f"\0{address[1:]}" if address[0] == "@" else address
        self.watchdog = watchdog
        """The seconds within which the manager expects `alive`; None if it does not."""

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> ServiceManager:
        """The service manager that an environment names; ``pid`` is the number of this process."""
        watchdog: float | None = None
        if environment.get("WATCHDOG_PID", str(pid)) == str(pid):
            with contextlib.suppress(ValueError, KeyError):
                watchdog = int(environment["WATCHDOG_USEC"]) / _MICROSECONDS
        return cls(environment.get("NOTIFY_SOCKET"), watchdog)

    def ready(self, status: str) -> None:
        """The program does its work; ``status`` is a line for `systemctl status`."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The program reads its configuration again; `ready` says that it has."""
        self._tell("RELOADING=1")

    def stopping(self) -> None:
        """The program begins to end."""
        self._tell("STOPPING=1")

    def replaced_by(self, pid: int) -> None:
        """Another process of this service is its main process from now on; this one tells nothing more."""
        self._tell(f"MAINPID={pid}")
        self._address = None

    def alive(self) -> None:
        """The program still does its work."""
        self._tell("WATCHDOG=1", 0.0)

    def store(self, name: str, descriptor: int) -> None:
        """Keep a descriptor for the next process of this service; one that is kept already is no other."""
        self._tell(f"FDSTORE=1\nFDNAME={name}", descriptors=(descriptor,))

    def remove(self, name: str) -> None:
        """Close the descriptors that were stored by that name."""
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _tell(
        self, state: str, patience: float = _PATIENCE_SECONDS, descriptors: tuple[int, ...] = ()
    ) -> None:
        """Send a datagram. A manager that does not take it within that time is no reason to stop."""
        if self._address is None:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as made,
        ):
            made.settimeout(patience)
            made.connect(self._address)
            socket.send_fds(made, [state.encode()], list(descriptors))
