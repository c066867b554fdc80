"""Decides when to ping a silent peer, and when to give the peer up (RFC 7143 11.18, 11.19)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class KeepAlive:
    """Watches one connection from `start` to `stop`.

    Args:
        interval: The seconds of silence after which the peer gets a ping.
        timeout: The seconds in which the peer must then send anything.
        ask: Sends a NOP.
        give_up: Ends the connection.
    """

    def __init__(
        self, interval: float, timeout: float, ask: Callable[[], None], give_up: Callable[[], None]
    ) -> None:
        self._interval = interval
        self._timeout = timeout
        self._ask = ask
        self._give_up = give_up
        self._received_at = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin an interval."""
        self._received_at = False
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._interval_over)

    def received(self) -> None:
        """Note that the peer has sent something."""
        self._received_at = True

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _interval_over(self) -> None:
        if self._received_at:
            self.start()
            return
        self._timer = asyncio.get_running_loop().call_later(self._timeout, self._timeout_over)
        self._ask()

    def _timeout_over(self) -> None:
        if self._received_at:
            self.start()
        else:
            self._give_up()
