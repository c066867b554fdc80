"""The buffer into which an event loop receives the bytes of all its TCP connections.

A loop fills the buffer for one connection, and hands it to this connection before it fills it for another.
The connection takes its bytes out at once. A buffer for each connection, or for each target, would cost a
quarter of a MiB for each guest.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

_BYTES = 262144
_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def receive_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The buffer of ``loop``. Call this only in that loop."""
    buffer = _BY_LOOP.get(loop)
    if buffer is None:
        buffer = _BY_LOOP[loop] = memoryview(bytearray(_BYTES))
    return buffer
