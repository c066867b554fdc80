"""The event loop of agents and targets: uvloop's, without a mistake by which a foreign descriptor is closed.

uvloop 0.23 (its issue 738): if a connection over a socket that the caller has made is cancelled while it
opens, libuv closes the socket's descriptor, and the Python object closes the same number once more when it
goes, maybe seconds later. By then the number may be that of a LUN's connection, of the
journal, or of a listening socket.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


class EventLoop(uvloop.Loop):
    """uvloop's loop. It owns each socket that it is given: a failure leaves the caller nothing to close."""

    async def create_connection(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *where: Any, **how: Any
    ) -> Any:
        """As in `asyncio`."""
        return await _owning(super().create_connection(protocol_factory, *where, **how), how.get("sock"))

    async def create_unix_connection(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *where: Any, **how: Any
    ) -> Any:
        """As in `asyncio`."""
        return await _owning(super().create_unix_connection(protocol_factory, *where, **how), how.get("sock"))


async def _owning(opening: Coroutine[Any, Any, T], connection: socket.socket | None) -> T:
    try:
        return await opening
    except BaseException:
        if connection is not None:
            connection.detach()  # libuv has closed it, in this very step of the loop
        raise


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on such a loop until it has ended, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(main)
