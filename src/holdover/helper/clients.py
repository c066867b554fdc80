"""Decides which connections the helper's sockets accept, so that no client keeps the others out.

A client that has not exchanged the features is a stranger. If there is no place for a new stranger, it takes
the place of the oldest stranger of the same user. Connections of known clients have two limits: one for each
process, and one for all processes of a user. The rate of new connections is limited too, because each one
takes time: the agent finds out which guest it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from holdover.admission.admission import Admission, AdmittedConnection, Allowance, FrontEnd
from holdover.admission.token_buckets import TokenBuckets

_STRANGERS: Final = 256
_STRANGERS_EACH: Final = 128
_PROCESS_MOST: Final = 512
"""The most connections of one process: libvirt gives a QEMU one connection for each of its disks."""

_PROCESS_BURST: Final = 256
_PROCESS_SECONDS: Final = 0.1
_USER_BURST: Final = 1024
_USER_SECONDS: Final = 0.02
_LINES: Final = 64
_LINES_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ClientPlace:
    """The place of one connection."""

    clients: Clients
    entry: AdmittedConnection
    pid: int
    uid: int

    @property
    def is_known(self) -> bool:
        """Whether the client has exchanged the features."""
        return self.entry.is_known

    def know(self) -> bool:
        """Note that the client has exchanged the features. Returns False if its process or user has its share
        already.
        """
        return self.clients.know(self)

    def leave(self) -> None:
        """Note that the connection has ended."""
        self.clients.leave(self)


class Clients:
    """The places of all helper sockets of a process. Any thread may call the methods.

    Attributes:
        process_most, user_most: The most connections of one process, and of one user's processes together.
        strangers: What ends the connection of each client that has not exchanged the features.
    """

    def __init__(
        self,
        capacity: int,
        process_most: int = _PROCESS_MOST,
        process_burst: int = _PROCESS_BURST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``capacity``: the most connections at once.

        ``process_burst``: how many connections a process may make without a pause. After that it may make
        one in 0.1 s.
        """
        self.process_most = max(1, min(process_most, capacity // 2))
        self.user_most = max(1, capacity * 3 // 4)
        self.strangers: dict[AdmittedConnection, Callable[[], None]] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._admission = Admission(capacity)
        strangers = min(_STRANGERS, max(1, capacity // 4))
        self._front_end: FrontEnd = self._admission.front_end(
            "helper",
            Allowance(
                strangers=strangers,
                strangers_each=min(_STRANGERS_EACH, max(1, strangers // 2)),
                known=capacity,
                known_each=self.process_most,
                known_of_group=self.user_most,
                kept=0,
            ),
        )
        self._of_process = TokenBuckets(process_burst, _PROCESS_SECONDS)
        self._of_user = TokenBuckets(max(_USER_BURST, process_burst), _USER_SECONDS)
        self._lines = TokenBuckets(_LINES, _LINES_SECONDS)

    @property
    def capacity(self) -> int:
        """The most connections at once."""
        return self._admission.capacity

    @property
    def count(self) -> int:
        """The number of connections."""
        with self._lock:
            return self._admission.count

    def enter(self, pid: int, uid: int) -> tuple[ClientPlace | None, AdmittedConnection | None]:
        """Admit a client that has connected. Returns its place, or None if it must be closed; and the entry
        of another client that lost its place and must be closed now, or None.
        """
        now = self._clock()
        with self._lock:
            if self._of_process.take((pid, uid), now) or self._of_user.take(uid, now):
                return None, None
            entry, victim = self._front_end.enter(f"uid {uid}")
        return (None if entry is None else ClientPlace(self, entry, pid, uid)), victim

    def may_log(self, uid: int) -> bool:
        """Whether one more line of the log may tell what a user's processes did wrong."""
        with self._lock:
            return not self._lines.take(uid, self._clock())

    def know(self, place: ClientPlace) -> bool:
        """As `ClientPlace.know`."""
        # processes of other PID namespaces have no number, so the user counts too
        process = f"process {place.pid} of uid {place.uid}"
        with self._lock:
            return place.entry.known_as(process, group=f"uid {place.uid}")

    def leave(self, place: ClientPlace) -> None:
        """As `ClientPlace.leave`."""
        with self._lock:
            place.entry.leave()
