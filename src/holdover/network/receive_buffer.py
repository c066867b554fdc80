"""The buffer into which an event loop receives the bytes of all its TCP connections.

A loop fills the buffer for one connection, and hands it to this connection before it fills it for another.
The connection takes its bytes out at once. A buffer for each connection, or for each target, would cost a
quarter of a MiB for each guest.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

_BYTES = 262144
_KEPT_FREE = 8 << 20
"""The bytes of a block that the process allocates and frees once, so that it keeps free memory."""
_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def receive_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The buffer of ``loop``. Call this only in that loop."""
    buffer = _BY_LOOP.get(loop)
    if buffer is None:
        _keep_free_memory()
        buffer = _BY_LOOP[loop] = memoryview(bytearray(_BYTES))
    return buffer


def _keep_free_memory() -> None:
    """Have the C library keep up to twice `_KEPT_FREE` of free memory.

    glibc gives memory back to the system when more is free at the end of the heap than twice the largest
    block that was ever mapped and freed (mallopt(3), M_MMAP_THRESHOLD): half a MiB, if that was a command's
    256 KiB. Then each command gives its memory back, and the next one pays for getting it again.
    """
    bytearray(_KEPT_FREE)
