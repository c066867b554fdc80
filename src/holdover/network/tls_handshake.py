"""TLS handshakes of a server, in a thread: one takes more than a millisecond of a processor.

Guests' commands run in the event loop and must not wait for that. OpenSSL runs without Python's lock, so
the thread takes next to nothing from the loop. There is one thread, which carries out one step at a time, and
`TurnsToBegin` says whose handshake begins. So a flood of handshakes takes a limited part of one processor,
and delays another party by one step.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, cast

from holdover.admission.turns_to_begin import Rates, TurnsToBegin
from holdover.network.tls_records import whole_records
from holdover.network.tls_transport import TlsChannel, TlsTransport

_MOST_BYTES: Final = 32 << 10
"""How much of what a client sends may wait for the next step. The client may send its requests already."""
_MOST_STEPS: Final = 64
"""The most steps of a handshake. There are 2, and one more for each segment of TCP that ends a record."""

_TURNS_FOR_A_REFUSAL: Final = 4
"""How many more turns a connection counts that was refused after its handshake, or whose handshake failed."""


class Handshakes:
    """Carries out the handshakes of several listening sockets, step by step."""

    def __init__(self, rates: Rates) -> None:
        self._turns: TurnsToBegin[TlsHandshake] = TurnsToBegin(rates)
        self._begun: deque[TlsHandshake] = deque()
        """Those that continue. They go before those that begin: each has had its turn."""
        self._loop = asyncio.get_running_loop()
        self._thread: ThreadPoolExecutor | None = None
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, handshake: TlsHandshake) -> None:
        """Let a handshake wait for its next step."""
        if handshake.steps:
            self._begun.append(handshake)
        else:
            self._turns.add(handshake.party, handshake)
        self._next()

    def remove(self, handshake: TlsHandshake) -> None:
        """Let a handshake wait no longer, if it waits."""
        if handshake.steps:
            with contextlib.suppress(ValueError):
                self._begun.remove(handshake)
        else:
            self._turns.remove(handshake.party, handshake)

    def charge(self, party: str) -> None:
        """Let a party wait longer before its next handshakes: a connection of it was refused."""
        self._turns.charge(party, self._loop.time(), _TURNS_FOR_A_REFUSAL)

    def close(self) -> None:
        """End the thread."""
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        self._busy = True  # for ever

    def _next(self) -> None:
        if self._busy:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._begun:
            handshake: TlsHandshake | None = self._begun.popleft()
        else:
            handshake, pause = self._turns.next(self._loop.time())
            if handshake is None:
                if pause:
                    self._timer = self._loop.call_later(pause, self._next)
                return
        self._carry_out(cast(TlsHandshake, handshake))

    def _carry_out(self, handshake: TlsHandshake) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "tls")
        self._busy = True
        step = handshake.begin_step()

        def done(future: Future[bool]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._done, handshake, future)

        self._thread.submit(step).add_done_callback(done)

    def _done(self, handshake: TlsHandshake, future: Future[bool]) -> None:
        if self._thread is None:
            return
        self._busy = False
        handshake.end_step(future)
        self._next()


class TlsHandshake(asyncio.Protocol):
    """The protocol of a TCP connection until its handshake has ended.

    Attributes:
        party: The party of the connection.
        steps: The number of steps that were begun.
    """

    def __init__(
        self,
        handshakes: Handshakes,
        context: ssl.SSLContext,
        party: str,
        seconds: float,
        protocol: Callable[[str | None], asyncio.Protocol],
        ended: Callable[[Exception | None], None],
    ) -> None:
        """``seconds``: the time limit. ``protocol`` makes the protocol of the established connection; it
        gets what client and server have agreed on by ALPN (RFC 7301).

        ``ended``: called once, when the handshake has ended; with the reason if it failed, None otherwise.
        """
        self.party = party
        self.steps = 0
        self._handshakes = handshakes
        self._context = context
        self._channel: TlsChannel | None = None
        self._protocol = protocol
        self._tell = ended
        self._received = bytearray()
        self._waits = False
        """Whether a step is under way or waits for its turn."""
        self._has_ended = False
        self._is_paused = False
        self._transport: asyncio.Transport | None = None
        self._timer = asyncio.get_running_loop().call_later(
            seconds, self._fail, TimeoutError("its handshake did not come to its end in time")
        )

    # What comes in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._has_ended:
            return
        self._received += data
        self._continue()
        if len(self._received) > _MOST_BYTES and self._transport is not None and not self._has_ended:
            self._transport.pause_reading()
            self._is_paused = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("it has hung up"))

    def _continue(self) -> None:
        if self._waits or not whole_records(self._received):
            return
        if self.steps >= _MOST_STEPS:
            self._fail(ssl.SSLError("its handshake has too many pieces"))
            return
        self._waits = True
        self._handshakes.add(self)

    # One step, which the thread carries out

    def begin_step(self) -> Callable[[], bool]:
        """The next step. It returns whether it was the last one; it raises what makes the handshake fail."""
        self.steps += 1
        if self._channel is None:
            self._channel = TlsChannel(self._context)
        whole = whole_records(self._received)
        self._channel.incoming.write(self._received[:whole])
        del self._received[:whole]
        tls = self._channel.tls

        def step() -> bool:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

        return step

    def end_step(self, future: Future[bool]) -> None:
        """Send what the step has made, and go on."""
        self._waits = False
        if self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()
        if self._has_ended or self._transport is None or self._channel is None:
            return
        if self._channel.outgoing.pending:
            self._transport.write(self._channel.outgoing.read())
        error = future.exception()
        if error is not None:
            self._fail(error if isinstance(error, Exception) else RuntimeError(str(error)))
        elif future.result():
            self._succeed(self._transport, self._channel)
        else:
            self._continue()

    # The end

    def give_up(self) -> None:
        """End the handshake and close the connection."""
        self._fail(ConnectionAbortedError("another one needs its place"))

    def _succeed(self, transport: asyncio.Transport, channel: TlsChannel) -> None:
        self._end(None)
        protocol = self._protocol(channel.tls.selected_alpn_protocol())
        TlsTransport(transport, channel, protocol).begin(self._received)

    def _fail(self, error: Exception) -> None:
        if self._has_ended:
            return
        if self._waits:
            self._handshakes.remove(self)
        self._end(error)
        if self._transport is not None:
            # A TLS error is followed by an alert, which is on its way.
            self._transport.close() if isinstance(error, ssl.SSLError) else self._transport.abort()

    def _end(self, error: Exception | None) -> None:
        self._has_ended = True
        self._timer.cancel()
        self._tell(error)
