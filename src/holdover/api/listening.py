"""Accepts the API's connections, as far as there is room, and knows the party of each one."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from functools import partial

from holdover.admission.admission import Admission, AdmittedConnection, Allowance, FrontEnd
from holdover.admission.turns_to_begin import Rates
from holdover.network.connection_owner import party_of
from holdover.network.paced_listener import AcceptThrottle, PacedListener
from holdover.network.tls_handshake import Handshakes, TlsHandshake
from holdover.pki.tls import STREAM, Credentials

UNIX = Allowance(strangers=8, strangers_each=8, known=256, known_each=128, kept=16)
"""At a Unix socket the system tells the user of each connection at once, so nobody stays a stranger."""
TCP = Allowance(strangers=64, strangers_each=16, known=1024, known_each=64, kept=48)

HANDSHAKES = Rates(burst=128, seconds=0.005, burst_each=64, seconds_each=0.02)
"""How often TLS handshakes begin. More of them wait."""

_BACKLOG = 1024
_HANDSHAKE_SECONDS = 10.0
"""The limit for a TLS handshake, so that a client that sends nothing does not hold a place for ever."""
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class ApiListener:
    """One listening socket of the API, until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        admission: Admission,
        protocol: Callable[[AdmittedConnection], asyncio.Protocol],
        stream: Callable[[AdmittedConnection], asyncio.Protocol],
        credentials: Credentials | None,
    ) -> None:
        """``protocol`` makes the protocol object of a connection with HTTP, ``stream`` that of a stream of
        messages. ``credentials`` is None for a Unix socket.
        """
        is_unix = listener.family == socket.AF_UNIX
        self._protocol = protocol
        self._stream = stream
        self._credentials = credentials
        self._handshakes = Handshakes(HANDSHAKES) if credentials is not None else None
        name = f"API at {listener.getsockname()}"
        self._front_end: FrontEnd = admission.front_end(name, UNIX if is_unix else TCP)
        self._loop = asyncio.get_running_loop()
        self._opening: dict[AdmittedConnection, TlsHandshake] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        listener.listen(_BACKLOG)
        # To accept a connection, or to close it, takes a tenth of a millisecond.
        throttle = AcceptThrottle(
            burst=512,
            seconds=0.002,
            burst_each=256 if is_unix else 128,
            seconds_each=0.004 if is_unix else 0.01,
        )
        self._paced = PacedListener(listener, name, throttle, _user_of if is_unix else party_of, self._enter)

    def close(self) -> None:
        """Accept no more connections, and drop those whose handshake is under way."""
        self._paced.close()
        for handshake in tuple(self._opening.values()):
            handshake.give_up()
        if self._handshakes is not None:
            self._handshakes.close()

    def _enter(self, connection: socket.socket, party: str) -> None:
        entry, victim = self._front_end.enter(party)
        if victim is not None:
            self._opening.pop(victim).give_up()
        if entry is not None and self._credentials is None and not entry.known_as(party):
            entry.leave()
            entry = None
        if entry is None or victim is not None:
            self._paced.tell(party)
        if entry is None:
            connection.close()
            return
        task = self._loop.create_task(self._open(connection, self._first_protocol(entry)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _first_protocol(self, entry: AdmittedConnection) -> asyncio.Protocol:
        """The protocol of a new connection: HTTP at a Unix socket, TLS's handshake over TCP."""
        if self._credentials is None or self._handshakes is None:
            return self._protocol(entry)
        credentials = self._credentials
        entry.charge = partial(self._handshakes.charge, entry.party)

        def ended(error: Exception | None) -> None:
            self._opening.pop(entry, None)
            if error is not None:
                entry.charge()
                credentials.tell_refused(error)
                entry.leave()

        self._opening[entry] = TlsHandshake(
            self._handshakes,
            credentials.server,
            entry.party,
            _HANDSHAKE_SECONDS,
            lambda agreed: self._stream(entry) if agreed == STREAM else self._protocol(entry),
            ended,
        )
        return self._opening[entry]

    async def _open(self, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        try:
            if self._credentials is not None:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError as error:
            protocol.connection_lost(error)  # it has gone already


def _user_of(connection: socket.socket) -> str:
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return f"uid {_CREDENTIALS.unpack(found)[1]}"
