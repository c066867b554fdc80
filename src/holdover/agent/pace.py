"""How fast an agent goes on with what it does itself: as fast as leaves its event loop free for its guests.

A hundred guests that are handed over at once have thousands of commands to send. If all were begun in one
turn of the loop, a guest's own command would wait for all of them, once for each turn that it takes itself.
So few begin in each turn, in the order in which they came. How many are under way is not limited: while LUNs
take their time to answer, many turns pass.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

__all__ = ["Pace", "command_pace", "request_pace"]

_COMMANDS = 2
"""In one turn. With 8 nothing is faster, and a guest's own command meanwhile takes twice as long."""
_REQUESTS = 1
"""In one turn: reading and answering one takes half a millisecond."""


class Pace:
    """Lets a few of those who wait go on in each turn of an event loop."""

    def __init__(self, in_one_turn: int) -> None:
        self._in_one_turn = in_one_turn
        self._left = in_one_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False

    async def wait(self) -> None:
        """Return at once, or in a later turn of the loop when enough have begun in this one."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)
        if self._left:
            self._left -= 1
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._in_one_turn
        while self._waiting and self._left:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                self._left -= 1
        self._turning = self._left < self._in_one_turn
        if self._turning:
            loop.call_soon(self._turn, loop)


_Paces = WeakKeyDictionary[asyncio.AbstractEventLoop, Pace]
_COMMAND_PACES: _Paces = WeakKeyDictionary()
_REQUEST_PACES: _Paces = WeakKeyDictionary()


def command_pace() -> Pace:
    """For the agent's own commands to LUNs: one for all devices of the running loop."""
    return _pace(_COMMAND_PACES, _COMMANDS)


def request_pace() -> Pace:
    """For what the agent is asked over its API."""
    return _pace(_REQUEST_PACES, _REQUESTS)


def _pace(paces: _Paces, in_one_turn: int) -> Pace:
    loop = asyncio.get_running_loop()
    pace = paces.get(loop)
    if pace is None:
        pace = paces[loop] = Pace(in_one_turn)
    return pace
