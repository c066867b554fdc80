"""A logical unit in this process: the shell of file, lock, threads and durable store around LogicalUnit.

All decisions are taken in the event loop, in the order in which commands come. What may wait for a disk
runs in a thread: large transfers, flushes, and keeping the reservations when APTPL asks for it. A
reservation command is decided, kept and put into force one at a time, under a lock; its status is sent
when what it did would be found after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from holdover.lun.block import MediumWork
from holdover.lun.inquiry import Identity
from holdover.lun.logical_unit import RESERVATION_COMMANDS, Answer, LogicalUnit, ReservationChange
from holdover.lun.medium import FileMedium
from holdover.lun.options import LunOptions
from holdover.lun.reservations import ReservationState, TargetLimits
from holdover.lun.store import ReservationStore, kept_serial
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

__all__ = ["EmbeddedLun"]

_ABORTED = Response(Status.TASK_ABORTED)
_NOT_KEPT = check_condition(SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE)


class _Flight:
    """A command whose work is in a thread."""

    def __init__(self, nexus: ITNexus, work: asyncio.Future[Response]) -> None:
        self.nexus = nexus
        self.work = work
        self.aborted = False


class EmbeddedLun:
    """A DeviceServer over a file. Made by `open`; used from one event loop."""

    def __init__(self, medium: FileMedium, store: ReservationStore, unit: LogicalUnit) -> None:
        self._medium = medium
        self._store = store
        self._unit = unit
        self._changing = asyncio.Lock()
        self._flights: set[_Flight] = set()
        self._changes: set[asyncio.Task[Response]] = set()

    @classmethod
    def open(
        cls,
        options: LunOptions,
        *,
        ports: tuple[int, ...] = (1,),
        luns: Callable[[], tuple[bytes, ...]] = lambda: (bytes(8),),
    ) -> EmbeddedLun:
        """Open the file, lock it, and take up what was kept beside it.

        Args:
            options: Which file, which size, which serial number.
            ports: Relative target port identifiers of all ports of the target.
            luns: What REPORT LUNS answers where no target answers it.

        Raises:
            LunError: The file cannot be the medium, is in use, or what was kept beside it is damaged.
        """
        medium = FileMedium(options.file, options.size)
        try:
            store = ReservationStore(options.file)
            state = store.load().after_power_loss()
            serial = options.serial or kept_serial(options.file)
        except BaseException:
            medium.close()
            raise
        limits = TargetLimits(ports)
        unit = LogicalUnit(medium, Identity(serial), state=state, limits=limits, luns=luns)
        return cls(medium, store, unit)

    @property
    def state(self) -> ReservationState:
        """The persistent reservations in force."""
        return self._unit.state

    @property
    def designator(self) -> Designator:
        """The designator by which hosts recognise this logical unit."""
        return self._unit.identity.naa

    @property
    def size(self) -> int:
        """Bytes."""
        return self._medium.size

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out one command. Cancelling aborts it, but for a reservation command, which is finished
        all the same once begun, so that file and memory agree."""
        if command.opcode in RESERVATION_COMMANDS:
            return await self._finish(self._execute_alone(nexus, command))
        return await self._answer(nexus, self._unit.begin(nexus, command))

    async def reset(self) -> None:
        """LOGICAL UNIT RESET: commands in threads end in TASK ABORTED when their work is done."""
        async with self._changing:
            self._unit.reset()
            await self._abort(set(self._flights))

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """I_T nexus loss (SAM-5 6.3.4): for when a session ends for good. Persistent reservations
        stay."""
        async with self._changing:
            self._unit.nexus_lost(nexus)
            await self._abort({each for each in self._flights if each.nexus == nexus})

    async def close(self) -> None:
        """Finish what was begun, put everything on stable storage and give up the lock.

        Raises:
            OSError: The last flush failed; the file is closed all the same.
        """
        async with self._changing:
            await self._abort(set(self._flights))
            try:
                await asyncio.to_thread(self._medium.flush)
            finally:
                self._medium.close()

    async def _execute_alone(self, nexus: ITNexus, command: Command) -> Response:
        async with self._changing:
            return await self._answer(nexus, self._unit.begin(nexus, command))

    async def _answer(self, nexus: ITNexus, answer: Answer) -> Response:
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, ReservationChange):
            return await self._apply(answer)
        if answer.slow:
            return await self._run_in_thread(nexus, answer)
        return answer.run(self._medium)

    async def _apply(self, change: ReservationChange) -> Response:
        before, after = self._unit.state, change.state
        if after is not before and (after.aptpl or before.aptpl):
            try:
                await asyncio.to_thread(self._store.save, after)
            except OSError:
                return _NOT_KEPT
        response = self._unit.commit(change)
        await self._abort({each for each in self._flights if each.nexus in change.aborted})
        return response

    async def _finish(self, change: Coroutine[Any, Any, Response]) -> Response:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _run_in_thread(self, nexus: ITNexus, work: MediumWork) -> Response:
        future = asyncio.ensure_future(asyncio.to_thread(work.run, self._medium))
        flight = _Flight(nexus, future)
        self._flights.add(flight)
        future.add_done_callback(lambda _: self._flights.discard(flight))
        # A thread cannot be stopped: whoever aborts the command leaves its work to end by itself.
        response = await asyncio.shield(future)
        return _ABORTED if flight.aborted else response

    async def _abort(self, flights: set[_Flight]) -> None:
        """Wait until the work of these commands can touch the medium no more (SAM-5 5.6)."""
        for flight in flights:
            flight.aborted = True
        if flights:
            await asyncio.wait([flight.work for flight in flights])
