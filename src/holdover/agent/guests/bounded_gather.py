"""A gather of many coroutines of which few run at a time, so that an agent has time for its guests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable


async def bounded_gather(
    works: Iterable[Coroutine[object, object, None]], count: int, patience: float
) -> None:
    """Run ``works`` in their order, ``count`` at a time; return when all have ended.

    If none of the running ones ends for ``patience`` seconds, they go on but no longer count. So a coroutine
    that waits for a LUN that does not answer keeps no other one waiting. If one raises, asyncio logs that,
    and the others go on.
    """
    counted: set[asyncio.Task[None]] = set()
    slow: set[asyncio.Task[None]] = set()
    try:
        for work in works:
            while len(counted) >= count:
                ended, counted = await asyncio.wait(
                    counted, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if not ended:
                    slow, counted = {each for each in slow | counted if not each.done()}, set()
            counted.add(asyncio.create_task(work))
        if counted or slow:
            await asyncio.wait(counted | slow)
    finally:
        left = [each for each in counted | slow if not each.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
