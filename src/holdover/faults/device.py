"""The DeviceServer that stands before a logical unit and does to its commands what the faults say.

Several faults may strike one command. Then, in this order: latency, power loss, the cut of the connection, a
status in place of the command; the command; and latency, power loss and cut of those that come after it, and
last the loss of its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from holdover.faults.armed import ArmedFaults, Strike
from holdover.faults.fault import Effect, When
from holdover.scsi.command import Command, DeviceServer, Response
from holdover.scsi.nexus import ITNexus

__all__ = ["FaultyDevice", "FaultyServer", "Means"]


class FaultyServer(DeviceServer, Protocol):
    """What faults can be put before: a device server that answers at once where it can, and can lose its
    power."""

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        """As `execute`, or None for a command that has to wait and for which nothing was done yet."""
        ...

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """I_T nexus loss (SAM-5 6.3.4)."""
        ...

    async def lose_power(self) -> None:
        """Forget what is not durable; return when power is back."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What a fault needs of the target around the logical unit.

    Attributes:
        cut: Cuts the connection of an I_T nexus, and so cancels its commands.
        struck: Is told of every command that was struck, before anything happens to it.
        sleep: Waits for some seconds.
    """

    cut: Callable[[ITNexus], None]
    struck: Callable[[int, ITNexus, Command, Strike], None] = lambda *_: None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class FaultyDevice:
    """One logical unit behind the faults of its target.

    Args:
        lun: Its number.
        device: The logical unit.
        faults: Those of the target.
        means: What they need.
    """

    def __init__(self, lun: int, device: FaultyServer, faults: ArmedFaults, means: Means) -> None:
        self._lun = lun
        self._device = device
        self._faults = faults
        self._means = means

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        """As `execute`, or None for a command that has to wait and for which nothing was done yet."""
        if self._faults.may_strike(self._lun, nexus, command):
            return None
        return self._device.execute_now(nexus, command)

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out one command, or do what the faults say."""
        strike = self._faults.strike(self._lun, nexus, command)
        if strike is None:
            return await self._device.execute(nexus, command)
        self._means.struck(self._lun, nexus, command, strike)
        await self._befall(strike, When.BEFORE, nexus)
        if strike.status is not None:
            return Response(strike.status)
        response = await self._device.execute(nexus, command)
        await self._befall(strike, When.AFTER, nexus)
        return await _never() if strike.loses_response else response

    async def reset(self) -> None:
        """LOGICAL UNIT RESET."""
        await self._device.reset()

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """I_T nexus loss."""
        await self._device.nexus_lost(nexus)

    async def _befall(self, strike: Strike, when: When, nexus: ITNexus) -> None:
        """Latency, power loss and cut, on one side of the command. Does not return after a cut."""
        latency = strike.latency(when)
        if latency:
            await self._means.sleep(latency)
        if strike.has(Effect.POWER_LOSS, when):
            await self._device.lose_power()
        if strike.has(Effect.DROP_CONNECTION, when):
            self._means.cut(nexus)
            await _never()


async def _never() -> Response:
    """Wait until whoever asked gives up: the command's task is cancelled when it is aborted or its session
    ends."""
    answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    return await answer
