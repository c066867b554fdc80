"""Listening TCP sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from holdover.service.stored_sockets import new_listener

OpenListener = Callable[[int, Any], socket.socket]
"""Opens a listening socket, of an address family, at a numeric address."""


async def listen(host: str, port: int, open_one: OpenListener = new_listener) -> list[socket.socket]:
    """Listening sockets at all addresses of a host; the caller closes them.

    Raises:
        OSError: The host has no address, or an address cannot be listened on. No socket is left open then.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    with ExitStack() as stack:
        listeners = [stack.enter_context(open_one(family, address)) for family, address in addresses]
        stack.pop_all()
        return listeners
