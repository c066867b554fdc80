"""Listening TCP sockets."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

_BACKLOG = 1024


async def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets at all addresses of a host; the caller closes them.

    Raises:
        OSError: The host has no address, or an address cannot be listened on. No socket is left open then.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(address, family=family, backlog=_BACKLOG))
            for family, address in addresses
        ]
        stack.pop_all()
        return listeners
