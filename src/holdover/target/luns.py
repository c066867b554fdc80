"""One LUN of `holdover target` as its operator sees it.

The LUN can lose its power. For every PERSISTENT RESERVE OUT it tells what that command has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.lun.reservations import ReservationState
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.target.events import Event, power_lost, reserve_out

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)
_NO_POWER = check_condition(SenseKey.NOT_READY, AdditionalSense.LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE)


class ServedLun:
    """A DeviceServer over an EmbeddedLun; it opens the EmbeddedLun again after each loss of power.

    A loss of power comes between commands. The LUN first carries out the commands that it has taken; commands
    that come during the loss wait. Data that was written stays.

    Args:
        number: The logical unit number.
        options: The options with which the LUN is opened.
        tell: Called with each event about the LUN's reservations.

    Raises:
        LunError: The LUN cannot be opened.
    """

    def __init__(self, number: int, options: LunOptions, tell: Callable[[Event], None]) -> None:
        self._number = number
        self._options = options
        self._tell = tell
        self._lun: EmbeddedLun = EmbeddedLun.open(options)
        self.size = self._lun.size
        self.designator = self._lun.designator
        self._powered = asyncio.Event()
        self._powered.set()
        self._broken = False
        self._inside = 0
        self._idle = asyncio.Event()
        self._power = asyncio.Lock()
        self._telling = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def state(self) -> ReservationState:
        """The persistent reservations in force."""
        return self._lun.state

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        """The response, as from `execute`; None if the command must wait, with nothing done for it yet."""
        if self._broken or not self._powered.is_set():
            return None
        return self._lun.execute_now(nexus, command)

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out one command."""
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            # The command is finished and told even if the caller is cancelled, as in the embedded LUN.
            return await self._finish(self._reserve_out(nexus, command))
        async with self._under_power() as lun:
            return _NO_POWER if lun is None else await lun.execute(nexus, command)

    async def reset(self) -> None:
        """Carry out a LOGICAL UNIT RESET."""
        async with self._under_power() as lun:
            if lun is not None:
                await lun.reset()

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """Handle an I_T nexus loss."""
        async with self._under_power() as lun:
            if lun is not None:
                await lun.nexus_lost(nexus)

    async def lose_power(self) -> None:
        """Lose everything that is not durable, for every nexus; return when power is back.

        Raises:
            LunError: The stored state cannot be opened; all later commands end in NOT READY.
        """
        await self._finish(self._cycle())

    async def close(self) -> None:
        """Finish the commands that have begun, and close the file.

        Raises:
            OSError: The last flush failed.
        """
        while self._tasks:
            await asyncio.wait(self._tasks)
        if not self._broken:
            await self._lun.close()

    async def _reserve_out(self, nexus: ITNexus, command: Command) -> Response:
        async with self._telling, self._under_power() as lun:
            if lun is None:
                return _NO_POWER
            before = lun.state
            response = await lun.execute(nexus, command)
            self._tell(reserve_out(self._number, nexus, command, response, before, lun.state))
            return response

    async def _cycle(self) -> None:
        async with self._power:
            self._powered.clear()
            try:
                while self._inside:
                    self._idle.clear()
                    await self._idle.wait()
                before = self.state
                if not self._broken:
                    await self._shut()
                self._broken = True
                self._lun = EmbeddedLun.open(self._options)
                self._broken = False
            finally:
                self._powered.set()
            self._tell(power_lost(self._number, before, self.state))

    async def _shut(self) -> None:
        try:
            await self._lun.close()
        except OSError:
            # It is closed all the same: a loss of power loses the data that could not be flushed.
            _log.warning("LUN %s: the flush before the loss of power failed", self._number, exc_info=True)

    @contextlib.asynccontextmanager
    async def _under_power(self) -> AsyncIterator[EmbeddedLun | None]:
        """The LUN, which keeps its power during the body; None if it has no power any more."""
        while not self._powered.is_set():
            await self._powered.wait()
        self._inside += 1
        try:
            yield None if self._broken else self._lun
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()

    async def _finish(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)
