"""The queue of one device for what changes registrations: the guest's PERSISTENT RESERVE OUT, and the agent's
own commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from holdover.agent.guests.begun_steps import BegunSteps
from holdover.agent.guests.step_runner import OneByOne, run_steps
from holdover.guest.scsi_block import ScsiBlock
from holdover.guest.staleness import generation_read
from holdover.metrics.durations import Durations
from holdover.reservations.driver import StepRun
from holdover.reservations.steps import Steps, T
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.path import Path, PathError
from holdover.scsi.sense import is_unit_attention


@dataclass(frozen=True, slots=True)
class Since:
    """A moment from which on the staleness of a device's tracked state counts.

    ``own`` of them came from unit attentions that the agent's own commands met before any of them was
    answered.
    """

    epoch: int
    own: int


class DeviceQueue:
    """One thing at a time changes the registrations of a device, or asks what they are."""

    def __init__(self, block: ScsiBlock, path: Path, durations: Durations | None) -> None:
        """``path`` takes the agent's own commands; ``durations`` counts their round trips."""
        self._block = block
        self._name = path.name
        self._own = OneByOne(path, self.observe, self._begin, durations)
        self._turn = asyncio.Lock()
        self._is_own_turn = False
        self._own_epochs = 0
        self._is_answered = False
        """Whether the LUN has answered one of the agent's own commands since `since`."""
        self._generation: int | None = None
        """The first PRGENERATION that the agent's own commands have read since they last moved it."""

    @property
    def is_idle(self) -> bool:
        """Whether none of the agent's own commands is under way."""
        return self._own.idle

    async def acquire(self) -> None:
        """Wait for the turn of a command of the guest; the agent's own commands have ended then, unless one
        begins at the same moment (`is_idle`).
        """
        await self._own.ended()
        await self._turn.acquire()

    def release(self) -> None:
        """End the turn of a command of the guest."""
        self._turn.release()

    @asynccontextmanager
    async def turn(self, limit: float) -> AsyncGenerator[Callable[[], float], None]:
        """Hold the turn for the agent's own commands; yield a function that returns how many seconds of
        ``limit`` are left.

        Raises:
            PathError: ``limit`` seconds were not enough.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        if not _is_acquired_at_once(self._turn):
            await self._acquire(limit)
        self._begin_turn()
        try:
            yield lambda: end - loop.time()
        finally:
            self._end_turn()

    async def _acquire(self, limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                await self._turn.acquire()
        except TimeoutError as error:
            problem = (
                f"another command that changes registrations was still running after {limit:g} s; "
                "nothing was sent"
            )
            raise PathError(self._name, problem) from error

    def begin(self, steps: Steps[T]) -> BegunSteps[T] | None:
        """Take the turn and send the first command of ``steps``, if that is possible without waiting.

        Otherwise None, and the steps have not begun. Raises what the steps raise at their beginning.
        """
        if not self._own.submits or not self._own.idle or not _is_acquired_at_once(self._turn):
            return None
        self._begin_turn()
        try:
            run = StepRun(steps)
            submitted = None if run.request is None else self._own.submit(run.request)
        except BaseException:
            self._end_turn()
            raise
        return BegunSteps(self._own, run, submitted, self._end_turn)

    def _begin_turn(self) -> None:
        self._generation, self._is_own_turn = None, True

    def _end_turn(self) -> None:
        self._is_own_turn = False
        self._block.end_own()
        self._turn.release()

    async def run(self, steps: Steps[T], limit: float) -> T:
        """Carry out steps with the agent's own commands, inside a `turn`. Raises as `run_steps`."""
        return await run_steps(self._own, steps, limit)

    def since(self) -> Since:
        """Now: `adopt` counts the staleness epoch from here on."""
        self._is_answered = False
        return Since(self._block.staleness_epoch, self._own_epochs)

    def adopt(self, tracked: Tracked, since: Since) -> None:
        """Track what the agent's own commands have found. Staleness that others have caused since then stays.

        A unit attention that the first of these commands met came before all their answers, so it casts no
        doubt on them. One that a later command met does: another node may have acted between two answers.
        """
        self._block.adopt(tracked, since.epoch + self._own_epochs - since.own, self._generation)

    def _begin(self, command: Command) -> None:
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            self._generation = None
            if self._is_own_turn:
                self._block.begin_own()
            else:
                self._block.forget_generation()  # its time limit passed before it was sent

    def observe(self, command: Command, response: Response) -> None:
        """Observe the response to one of the agent's own commands, on this path or on another one."""
        if is_unit_attention(response):
            made_doubtful = self._block.observe_own_response(response)
            self._own_epochs += made_doubtful and not self._is_answered
        else:
            self._is_answered = True
        if self._generation is None and response.good:
            self._generation = generation_read(command, response.data_in)

    async def close(self) -> None:
        """Stop waiting for a command that is under way; the path stays open."""
        await self._own.close()


def _is_acquired_at_once(lock: asyncio.Lock) -> bool:
    """Acquire a lock that nobody has and nobody waits for; otherwise leave it."""
    if lock.locked():
        return False
    acquiring = lock.acquire()
    try:
        acquiring.send(None)
    except StopIteration:
        return True
    acquiring.close()
    return False
