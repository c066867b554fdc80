"""The DeviceServer that stands before a logical unit and carries out faults on its commands.

Several faults may strike one command. Their effects come in this order:

1. the faults that come before the command: latency, power loss, the cut of the connection;
2. a status in place of the command, or else the command;
3. the faults that come after the command: latency, power loss, the cut of the connection;
4. the loss of the command's answer.
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


class FaultyServer(DeviceServer, Protocol):
    """A device server that faults can stand before: it answers at once when it can, and can lose power."""

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        """The answer of `execute`; None when the command has to wait, and nothing was done for it yet."""
        ...

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """Do what an I_T nexus loss requires (SAM-5 6.3.4)."""
        ...

    async def lose_power(self) -> None:
        """Forget everything that is not durable, and return when the power is back."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """The functions that a fault needs from the target around the logical unit.

    Attributes:
        cut: Cuts the connection of an I_T nexus, and so cancels its commands.
        struck: Is called for every command that a fault strikes, before the fault has its effect.
        sleep: Waits for a number of seconds.
    """

    cut: Callable[[ITNexus], None]
    struck: Callable[[int, ITNexus, Command, Strike], None] = lambda *_: None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class FaultyDevice:
    """One logical unit behind the faults of its target.

    Args:
        lun: The logical unit number.
        device: The logical unit.
        faults: The faults of the target.
        means: The functions that the faults need.
    """

    def __init__(self, lun: int, device: FaultyServer, faults: ArmedFaults, means: Means) -> None:
        self._lun = lun
        self._device = device
        self._faults = faults
        self._means = means

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        """The answer of `execute`; None when the command has to wait, and nothing was done for it yet."""
        if self._faults.may_strike(self._lun, nexus, command):
            return None
        return self._device.execute_now(nexus, command)

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out one command, with the effects of the faults that strike it."""
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
        """Carry out a LOGICAL UNIT RESET."""
        await self._device.reset()

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """Do what an I_T nexus loss requires."""
        await self._device.nexus_lost(nexus)

    async def _befall(self, strike: Strike, when: When, nexus: ITNexus) -> None:
        """Carry out latency, power loss and cut, before or after the command. Does not return after a cut."""
        latency = strike.latency(when)
        if latency:
            await self._means.sleep(latency)
        if strike.has(Effect.POWER_LOSS, when):
            await self._device.lose_power()
        if strike.has(Effect.DROP_CONNECTION, when):
            self._means.cut(nexus)
            await _never()


async def _never() -> Response:
    """Wait for ever. The command's task is cancelled when the command is aborted or its session ends."""
    answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    return await answer
