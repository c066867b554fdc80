"""A logical unit in this process: the shell of file, lock, threads and durable store around LogicalUnit.

The event loop takes all decisions, in the order in which commands come. Work that may wait for a disk runs in
a thread: large transfers, flushes, and storing the reservations when APTPL asks for it. Reservation commands
are decided, stored and put into force one at a time, under a lock. The status of a reservation command is
sent when a restart after a crash would find its effect.

Work in threads runs beside other work. Exclusive work, which reads and writes in one step, does not: it waits
for all earlier work on a part of its span, and all later work on a part of its span waits for it.

A thread cannot be stopped. Code that ends a command with work in a thread waits until this work is done, so
that the work cannot touch the medium any more (SAM-5 5.6).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.commands.sanitize import SanitizeState, SanitizeWork
from holdover.lun.commands.work import MediumWork
from holdover.lun.logical_unit import (
    RESERVATION_COMMANDS,
    STATE_COMMANDS,
    Answer,
    LogicalUnit,
    ReservationChange,
)
from holdover.lun.medium import FileMedium
from holdover.lun.options import LunOptions
from holdover.lun.reservations import ReservationState, TargetLimits
from holdover.lun.store import ReservationStore, SanitizeStore, kept_serial
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

_ABORTED = Response(Status.TASK_ABORTED)
_GOOD = Response(Status.GOOD)
_ONCE = RESERVATION_COMMANDS | STATE_COMMANDS
_FINISHED = RESERVATION_COMMANDS | {OperationCode.SANITIZE}
_NOT_KEPT = check_condition(SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE)


class _Flight:
    """A command whose work is in a thread.

    `nexus` is None for a sanitize operation, because no I_T nexus can abort one.
    """

    def __init__(self, nexus: ITNexus | None, work: MediumWork, done: asyncio.Future[Response]) -> None:
        self.nexus = nexus
        self.work = work
        self.done = done
        self.aborted = False

    def holds_up(self, work: MediumWork) -> bool:
        """Whether other work must wait until this work is done."""
        if not (self.work.exclusive or work.exclusive):
            return False
        (start, end), (other_start, other_end) = self.work.span, work.span
        return start < other_end and other_start < end


class EmbeddedLun:
    """A DeviceServer over a file. `open` makes one; one event loop uses it."""

    def __init__(
        self,
        medium: FileMedium,
        store: ReservationStore,
        sanitize_store: SanitizeStore,
        unit: LogicalUnit,
        overwrite_seconds: float,
    ) -> None:
        self._medium = medium
        self._store = store
        self._sanitize_store = sanitize_store
        self._unit = unit
        self._overwrite_seconds = overwrite_seconds
        self._changing = asyncio.Lock()
        self._flights: set[_Flight] = set()
        self._exclusive = 0
        self._sanitizing: asyncio.Task[Response] | None = None
        self._changes: set[asyncio.Task[Response]] = set()
        self._closed = asyncio.Event()

    @classmethod
    def open(
        cls,
        options: LunOptions,
        *,
        ports: tuple[int, ...] = (1,),
        luns: Callable[[], tuple[bytes, ...]] = lambda: (bytes(8),),
        overwrite_seconds: float = 8.0,
    ) -> EmbeddedLun:
        """Open the file, lock it, and read the state that is kept beside it.

        A sanitize operation that had not ended begins again; an event loop must be running for it.

        Args:
            options: The file, the size and the serial number.
            ports: The relative target port identifiers of all ports of the target.
            luns: Returns the answer of REPORT LUNS when no target answers it.
            overwrite_seconds: The least time that SANITIZE with OVERWRITE takes. A file is overwritten faster
                than anybody can look, but a real disk is not. Software that waits until SANITIZE IN PROGRESS
                appears and goes away must see it here too.

        Raises:
            LunError: The file cannot be the medium, or is in use, or the state beside it is damaged.
        """
        medium = FileMedium(options.file, options.size, read_only=options.read_only)
        try:
            store, sanitize_store = ReservationStore(options.file), SanitizeStore(options.file)
            state = store.load().after_power_loss()
            sanitizing = sanitize_store.load(medium.size)
            serial = options.serial or kept_serial(options.file)
        except BaseException:
            medium.close()
            raise
        limits = TargetLimits(ports)
        unit = LogicalUnit(
            medium,
            UnitIdentity(serial),
            state=state,
            limits=limits,
            luns=luns,
            read_only=options.read_only,
            sanitizing=sanitizing,
        )
        lun = cls(medium, store, sanitize_store, unit, overwrite_seconds)
        if sanitizing is not None:
            lun._sanitizing = asyncio.get_running_loop().create_task(lun._sanitize(sanitizing))
        return lun

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

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        """The answer of `execute`; None when the command has to wait, and nothing was done for it yet."""
        if command.opcode in _ONCE:
            return None
        answer = self._unit.begin(nexus, command)
        if isinstance(answer, Response):
            return answer
        if (
            isinstance(answer, ReservationChange)
            or answer.slow
            or (self._flights and self._must_wait(answer))
        ):
            return None
        response = answer.run(self._medium)
        return self._unit.present(response) if response.sense else response

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out one command.

        Cancelling this aborts the command, and returns when the command's work cannot touch the medium any
        more. A reservation command that has begun is finished all the same, so that file and memory agree. So
        is a sanitize operation.
        """
        if command.opcode in _FINISHED:
            alone = command.opcode in RESERVATION_COMMANDS
            execute = self._execute_alone if alone else self._execute_sanitize
            return await self._finish(execute(nexus, command))
        return await self._answer(nexus, self._unit.begin(nexus, command))

    async def reset(self) -> None:
        """Carry out a LOGICAL UNIT RESET: commands in threads end in TASK ABORTED when their work is done."""
        async with self._changing:
            self._unit.reset()
            await self._abort(set(self._flights))

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """Do what an I_T nexus loss requires (SAM-5 6.3.4), when a session ends for good.

        Persistent reservations stay.
        """
        async with self._changing:
            self._unit.nexus_lost(nexus)
            await self._abort({each for each in self._flights if each.nexus == nexus})

    async def close(self) -> None:
        """Finish the work that has begun, put everything on stable storage and release the lock.

        Raises:
            OSError: The last flush failed; the file is closed all the same.
        """
        async with self._changing:
            self._closed.set()
            await self._abort(set(self._flights))
            if self._sanitizing is not None:
                await asyncio.wait([self._sanitizing])
            try:
                await asyncio.to_thread(self._medium.flush)
            finally:
                self._medium.close()

    async def _execute_alone(self, nexus: ITNexus, command: Command) -> Response:
        async with self._changing:
            return await self._answer(nexus, self._unit.begin(nexus, command))

    async def _execute_sanitize(self, nexus: ITNexus, command: Command) -> Response:
        failed = self._unit.sanitize.failed
        response = await self._answer(nexus, self._unit.begin(nexus, command))
        if failed and self._unit.sanitize == SanitizeState():
            # EXIT FAILURE MODE: the failed operation need not be repeated any more.
            await asyncio.to_thread(self._sanitize_store.save, None)
        return response

    async def _answer(self, nexus: ITNexus, answer: Answer) -> Response:
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, ReservationChange):
            return await self._apply(answer)
        if isinstance(answer, SanitizeWork):
            return await self._start_sanitize(answer)
        if self._flights and self._must_wait(answer):
            await self._wait_turn(answer)
        response = await self._run_in_thread(nexus, answer) if answer.slow else answer.run(self._medium)
        return self._unit.present(response) if response.sense else response

    def _must_wait(self, work: MediumWork) -> bool:
        """Whether this work must wait for work in a thread; only if one of the two is exclusive."""
        return (self._exclusive > 0 or work.exclusive) and any(
            flight.holds_up(work) for flight in self._flights
        )

    async def _wait_turn(self, work: MediumWork) -> None:
        """Return when this work may begin. The caller must begin it before it awaits anything."""
        while before := [flight.done for flight in self._flights if flight.holds_up(work)]:
            await asyncio.wait(before)

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

    async def _start_sanitize(self, work: SanitizeWork) -> Response:
        """Start SANITIZE: GOOD at once with IMMED, else when it is done. Cancelling this does not stop it."""
        task = asyncio.create_task(self._sanitize(work))
        self._sanitizing = task
        return _GOOD if work.immed else await asyncio.shield(task)

    async def _sanitize(self, work: SanitizeWork) -> Response:
        least = self._overwrite_seconds if work.pattern is not None else 0.0
        loop = asyncio.get_running_loop()
        ends = loop.time() + least
        await self._wait_turn(work)
        response = await self._sanitize_durably(work)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), ends - loop.time())
        self._unit.sanitized(work, response)
        return self._unit.present(response)

    async def _sanitize_durably(self, work: SanitizeWork) -> Response:
        """Do the work of SANITIZE. After a crash it begins again, until it has ended well."""
        try:
            await asyncio.to_thread(self._sanitize_store.save, work)
            response = await self._fly(None, work).done
            if response.good:
                await asyncio.to_thread(self._sanitize_store.save, None)
        except OSError:
            return _NOT_KEPT
        return response

    async def _run_in_thread(self, nexus: ITNexus, work: MediumWork) -> Response:
        flight = self._fly(nexus, work)
        try:
            response = await asyncio.shield(flight.done)
        except asyncio.CancelledError:
            await self._abort({flight})
            raise
        return _ABORTED if flight.aborted else response

    def _fly(self, nexus: ITNexus | None, work: MediumWork) -> _Flight:
        done = asyncio.ensure_future(asyncio.to_thread(work.run, self._medium))
        flight = _Flight(nexus, work, done)
        self._flights.add(flight)
        self._exclusive += work.exclusive
        done.add_done_callback(lambda _: self._land(flight))
        return flight

    def _land(self, flight: _Flight) -> None:
        self._flights.discard(flight)
        self._exclusive -= flight.work.exclusive

    async def _abort(self, flights: set[_Flight]) -> None:
        """Wait until the work of these commands cannot touch the medium any more.

        This waits even when it is cancelled. It does not wait for a sanitize operation, which continues.
        """
        waiting = {flight.done for flight in flights if flight.nexus is not None}
        for flight in flights:
            flight.aborted = True
        cancelled = False
        while waiting:
            try:
                _, waiting = await asyncio.wait(waiting)
            except asyncio.CancelledError:
                cancelled = True
                waiting = {each for each in waiting if not each.done()}
        if cancelled:
            raise asyncio.CancelledError
