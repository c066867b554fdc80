"""A listening socket from which an event loop takes connections at a limited rate.

To take a connection, and to turn one away, both take time of the loop in which guests' commands run. So there
is a rate for each party (a user of this host, or an address), and a rate for all parties together. A
connection above its party's rate is closed. Connections above the common rate wait in the system's backlog.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

from holdover.admission.seldom import Seldom
from holdover.admission.token_buckets import TokenBuckets

log = structlog.get_logger()

_ACCEPTED_AT_ONCE: Final = 4
_REFUSED_PAUSE: Final = 0.004
_NO_ROOM_PAUSE: Final = 0.2
"""The time before the next attempt, if the system has no descriptor or no memory for a connection."""

_TELL_SECONDS: Final = 10.0
_LONGEST_PAUSE: Final = 1.0


class AcceptThrottle:
    """How often connections may come, at one listening socket or several."""

    def __init__(self, *, burst: int, seconds: float, burst_each: int, seconds_each: float) -> None:
        """``burst``: the connections of all parties at once; after that, one in ``seconds``.

        ``burst_each`` and ``seconds_each``: the same for one party.
        """
        self._all = TokenBuckets(burst, seconds)
        self._each = TokenBuckets(burst_each, seconds_each)

    def admits(self, party: str, now: float) -> bool:
        """Whether one more connection of a party may come."""
        return not self._each.take(party, now)

    def pause(self, now: float) -> float:
        """Count one more connection. Returns the seconds for which no further connection may come."""
        return self._all.reserve(None, now, _LONGEST_PAUSE)

    def give_back(self, party: str) -> None:
        """Do not count a connection of that party, because it has proved to be a wanted one."""
        self._each.give_back(party)
        self._all.give_back(None)


class PacedListener:
    """Accepts connections until it is closed; it does not own the socket."""

    def __init__(
        self,
        listener: socket.socket,
        name: str,
        throttle: AcceptThrottle,
        party_of: Callable[[socket.socket], str],
        take: Callable[[socket.socket, str], None],
    ) -> None:
        """``listener`` listens already. ``name`` is for the log. ``take`` gets each connection, which is not
        blocking, with its party.
        """
        self._listener = listener
        self._name = name
        self._party_of = party_of
        self._take = take
        self._throttle = throttle
        self._seldom = Seldom(_TELL_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more connections."""
        if self._closed:
            return
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        else:
            self._loop.remove_reader(self._listener.fileno())

    def tell(self, party: str) -> None:
        """Log, once in a while, that a connection was turned away or made room for another one."""
        count = self._seldom.due(self._loop.time())
        if count:
            log.warning("Connections were turned away.", front_end=self._name, count=count, last=party)

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._again = self._loop.call_later(seconds, self._listen)

    def _accept(self) -> None:
        pause = 0.0
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                log.error(
                    "No connection can be accepted for a moment.", front_end=self._name, reason=error.strerror
                )
                pause = _NO_ROOM_PAUSE
                break
            pause = self._enter(connection)
            if pause > _REFUSED_PAUSE:
                break
        if pause and not self._closed:
            self._pause(pause)

    def _enter(self, connection: socket.socket) -> float:
        """Take a connection or turn it away. Returns the seconds for which to accept no more."""
        try:
            party = self._party_of(connection)
        except OSError:
            connection.close()  # it has gone already
            return _REFUSED_PAUSE
        now = self._loop.time()
        if not self._throttle.admits(party, now):
            connection.close()
            self.tell(party)
            return _REFUSED_PAUSE
        connection.setblocking(False)
        self._take(connection, party)
        return self._throttle.pause(now)
