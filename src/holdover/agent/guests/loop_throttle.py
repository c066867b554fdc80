"""The limit on an agent's own work in one turn of its event loop, so that its guests' commands come through.

A hundred guests that are handed over at once have thousands of commands to send. If all of these began in one
turn of the loop, a guest's own command would wait for all of them, again in each turn that it needs itself.
So only a few begin in each turn, in the order in which they came. The number of commands under way has no
limit: while LUNs take their time to answer, many turns pass.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

_COMMANDS = 2
"""Commands in one turn. With 8 nothing is faster, and a guest's own command takes twice as long meanwhile."""
_REQUESTS = 1
"""API requests in one turn: to read and answer one takes half a millisecond."""


class LoopThrottle:
    """What lets a few of those who wait continue in each turn of an event loop."""

    def __init__(self, in_one_turn: int) -> None:
        self._in_one_turn = in_one_turn
        self._left = in_one_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False

    async def wait(self) -> None:
        """Return at once, or in a later turn of the loop if enough have begun in this turn."""
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


_Throttles = WeakKeyDictionary[asyncio.AbstractEventLoop, LoopThrottle]
_COMMAND_THROTTLES: _Throttles = WeakKeyDictionary()
_REQUEST_THROTTLES: _Throttles = WeakKeyDictionary()


def command_throttle() -> LoopThrottle:
    """The throttle for the agent's own commands to LUNs: one for all devices of the running loop."""
    return _throttle(_COMMAND_THROTTLES, _COMMANDS)


def request_throttle() -> LoopThrottle:
    """The throttle for requests to the agent's API."""
    return _throttle(_REQUEST_THROTTLES, _REQUESTS)


def _throttle(throttles: _Throttles, in_one_turn: int) -> LoopThrottle:
    loop = asyncio.get_running_loop()
    throttle = throttles.get(loop)
    if throttle is None:
        throttle = throttles[loop] = LoopThrottle(in_one_turn)
    return throttle
