"""Many works, of which few are under way at a time, so that an agent has time for its guests beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable

__all__ = ["few_at_once"]


async def few_at_once(works: Iterable[Coroutine[object, object, None]], count: int, patience: float) -> None:
    """Carry out ``works``, begun in their order, ``count`` at a time; return when all have ended.

    When none of those has ended for ``patience`` seconds, they go on and count no more: what waits for a LUN
    that is away does not keep others waiting. A work that raises is logged by asyncio, and holds up nobody.
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
