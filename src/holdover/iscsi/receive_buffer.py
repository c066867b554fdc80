"""The buffer into which an event loop receives, for all iSCSI connections of it together.

A loop fills it for one connection and hands it over before it fills it for another; whoever is handed it
takes out what stands there. A buffer for each connection, or each target, would be a quarter of a MiB for
each guest.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

__all__ = ["receive_buffer"]

_BYTES = 262144
_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def receive_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The buffer of ``loop``; to be called by what runs in it."""
    buffer = _BY_LOOP.get(loop)
    if buffer is None:
        buffer = _BY_LOOP[loop] = memoryview(bytearray(_BYTES))
    return buffer
