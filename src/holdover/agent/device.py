"""One device of a guest: the shell around `ScsiBlock` that has a path and a gate to wait at.

Commands that touch registrations, the guest's PERSISTENT RESERVE OUT and the agent's own, take turns. All
others go their way, and an answer to them is looked at only when it is a CHECK CONDITION.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager

import structlog

from holdover.agent.aside import Aside, HasOpen
from holdover.agent.runner import OneByOne, run_steps
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import Admission, NotSent, ScsiBlock, Tracked
from holdover.handover.adopt import Found, decide, find_own_registration
from holdover.handover.steps import StepFailed, Steps, T, identify
from holdover.paths.path import AnswerLost, Path, PathError
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import OperationCode
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, is_unit_attention
from holdover.scsi.status import Status
from holdover.scsi.transport_id import IscsiTransportID

__all__ = ["GuestDevice"]

log = structlog.get_logger()

_CHECK_CONDITION = Status.CHECK_CONDITION  # for every command of the guest: an enum's attribute costs 0.1 µs

_REREAD_SECONDS = 10.0
_REREAD_ROUNDS = 4
"""How often in a row a picture is read again that goes stale while it is read."""


class GuestDevice:
    """A `DeviceServer` for a guest: every command goes through its `ScsiBlock`, then down its path.

    With ``migrate-pr`` on, the guest is one I_T nexus, whoever of its processes is logged in. With it
    off, the device is a plain gateway, and each initiator name that logs in has a nexus of its own.

    Attributes:
        on_change: Awaited with the device whenever `block.state()` has changed by what the guest or others
            did: before a PERSISTENT RESERVE OUT of the guest is sent, which is not sent if this fails; after
            its end and before the guest knows of it; and when the picture has gone stale or was read again.
            It must not wait for anything that waits for `run` of this device.
        on_guest_change: Called with the device when `changes` has moved.
        changes: How often what the guest has was or may have been changed: by a PERSISTENT RESERVE OUT of
            its own, or unseen, as reading it again has shown.
        adopt: The guest's setting for registrations that it did not make through this agent; None: adopt
            where there is one explanation.
        sole_nexus: Whether the guest's nexus is its own, and not the host's.
        report: What the operator should know of a registration that was not adopted; empty: nothing.
        aside: Those of them that other threads than the loop's carry out.
        held: Commands of the guest that wait at the gate.
    """

    def __init__(self, block: ScsiBlock, name: str, open_path: Callable[[str], Path]) -> None:
        """``open_path`` makes the path of an initiator name; "" is the guest itself."""
        self.block = block
        self.name = name
        self.on_change: Callable[[GuestDevice], Awaitable[None]] | None = None
        self.on_guest_change: Callable[[GuestDevice], None] | None = None
        self.changes = 0
        self.adopt: bool | None = None
        self.sole_nexus = False
        self.report = ""
        self.aside = Aside()
        self.held = 0
        self._in_flight = 0
        self._open_path = open_path
        self._path = open_path("")
        self._own = OneByOne(self._path, self._notice_own)
        self._own_doubts = 0
        self._gateway_paths: dict[str, Path] = {}
        self._designator: Designator | None = None
        self._nexus: ITNexus | None = None
        self._gate_moved = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._turn = asyncio.Lock()
        self._rereading: asyncio.Task[None] | None = None

    @property
    def designator(self) -> Designator | None:
        """By what the LUN is known on every host; None until it was asked."""
        return self._designator

    @property
    def nexuses(self) -> int:
        """How many I_T nexuses a registration of the guest makes; multipath makes several."""
        return self._path.nexuses

    @property
    def in_flight(self) -> int:
        """Commands of the guest that are at the LUN."""
        return self._in_flight + self.aside.under_way

    @property
    def disk(self) -> HasOpen | None:
        """The guest's path, where that is a disk of this host."""
        return self._path if isinstance(self._path, HasOpen) else None

    @property
    def tracked(self) -> Tracked:
        """What the guest established, as far as it was seen."""
        return self.block.tracked

    # -- the guest's commands ---------------------------------------------------------------------

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out a command of the guest, after waiting for the gate where it has to."""
        if self.block.gate is not Gate.RUNNING:
            refusal = await self._pass_gate(command)
            if refusal is not None:
                return refusal
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT and self.block.migrate_pr:
            return await self._reserve(nexus, command)
        return await self._carry(nexus, command)

    async def _reserve(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out a PERSISTENT RESERVE OUT when it has its turn: what the snoop asks after it must not
        see the effect of another."""
        while True:
            refusal = await self._pass_gate(command)
            if refusal is not None:
                return refusal
            await self._own.ended()
            await self._turn.acquire()
            if self.block.gate is Gate.RUNNING and self._own.idle:
                break
            self._turn.release()
        task = asyncio.ensure_future(self._carry(nexus, command))
        task.add_done_callback(lambda _: self._turn.release())
        # the snoop must see the end of it even if the guest's connection goes in the meantime
        return await asyncio.shield(task)

    async def _carry(self, nexus: ITNexus, command: Command) -> Response:
        self._in_flight += 1
        self._idle.clear()
        try:
            if self.block.passes_through(command):
                response = await self._path_of(nexus).execute(command)
                if response.status is _CHECK_CONDITION and self.block.notice(response):
                    await self._doubted()
                return response
            return await self._process(command)
        except (PathError, NotSent) as error:
            return self._unanswered(command, error)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def hear(self, command: Command, response: Response, sent: int) -> Response:
        """Learn from what a PERSISTENT RESERVE IN aside of the loop has read, as `ScsiBlock.hear`."""
        doubts = self.block.doubts
        answer = self.block.hear(command, response, sent)
        if self.block.doubts != doubts:
            await self._doubted()
        return answer

    async def _process(self, command: Command) -> Response:
        doubts = self.block.doubts
        steps = self.block.process(command)
        try:
            request = next(steps)
            if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
                return await self._process_reserve_out(steps, request)
            return await self._drive(steps, request)
        except StopIteration as done:
            response: Response = done.value
            return response
        finally:
            steps.close()
            if self.block.doubts != doubts:
                await self._doubted()

    async def _process_reserve_out(
        self, steps: Generator[Command, Response, Response], request: Command
    ) -> Response:
        """A PERSISTENT RESERVE OUT: what is about to change is on record before it is sent, what has
        become of it before the guest knows."""
        try:
            await self._record()
        except Exception as error:
            steps.throw(NotSent(f"it could not be recorded: {error}"))
        doubts = self.block.doubts
        changed = True
        try:
            response = await self._drive(steps, request)
            changed = response.good or self.block.doubts != doubts
            return response
        except NotSent:
            changed = False
            raise
        finally:
            if self.nexuses > 1:
                self.block.forget_generation()  # one command has moved it for every path
            await self._try_to_record()
            if changed:
                self._tell_of_change()

    async def _drive(self, steps: Generator[Command, Response, Response], request: Command) -> Response:
        try:
            while True:
                try:
                    answer = await self._path.execute(request)
                except AnswerLost as error:
                    request = steps.throw(error)
                except PathError as error:
                    request = steps.throw(NotSent(str(error)))
                else:
                    request = steps.send(answer)
        except StopIteration as done:
            response: Response = done.value
            return response

    def _path_of(self, nexus: ITNexus) -> Path:
        if self.block.migrate_pr or not isinstance(nexus.initiator, IscsiTransportID):
            return self._path
        name = nexus.initiator.name
        path = self._gateway_paths.get(name)
        if path is None:
            path = self._gateway_paths[name] = self._open_path(name)
        return path

    def _unanswered(self, command: Command, error: Exception) -> Response:
        """The LUN did not answer: say so in a way that guests try again (SPC-4 table 56)."""
        log.warning(
            "no answer from the LUN", device=self.name, opcode=f"{command.opcode:#04x}", error=str(error)
        )
        return check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)

    async def reset(self) -> None:
        """LOGICAL UNIT RESET by the guest: other nexuses of the LUN are not its own to disturb."""

    # -- the gate ---------------------------------------------------------------------------------

    async def _pass_gate(self, command: Command) -> Response | None:
        """Wait until the gate lets ``command`` pass; an answer when it refuses it."""
        while True:
            admission = self.block.admit(command)
            if isinstance(admission, Response):
                return admission
            if admission is Admission.PASS:
                return None
            self.held += 1
            try:
                await self._gate_moved.wait()
            finally:
                self.held -= 1

    def move_gate(self, gate: Gate) -> None:
        """Set the gate; commands that wait there look at it again."""
        self.block.gate = gate
        if gate is Gate.DEPARTED:
            self.block.forget_attentions()
        self._gate_moved.set()
        self._gate_moved = asyncio.Event()

    async def drain(self, limit: float) -> bool:
        """Wait until nothing is in flight to the LUN; False when ``limit`` seconds were not enough."""
        try:
            async with asyncio.timeout(limit):
                # with the gate shut, none begins in place of one that has ended
                await self._idle.wait()
                await self.aside.ended()
        except TimeoutError:
            return False
        return True

    # -- the agent's own commands -----------------------------------------------------------------

    async def run(self, steps: Steps[T], limit: float) -> T:
        """Carry out the agent's own commands as the guest's nexus, past the gate.

        They wait for their turn: for the guest's PERSISTENT RESERVE OUT, for other steps, and for a command
        of earlier steps that may still be under way at the LUN.

        Raises:
            StepFailed: The steps say that they cannot be done.
            PathError: ``limit`` seconds were not enough.
        """
        async with self._in_turn(limit) as left:
            return await run_steps(self._own, steps, left())

    @asynccontextmanager
    async def _in_turn(self, limit: float) -> AsyncGenerator[Callable[[], float], None]:
        """Hold the turn; gives what is left of ``limit``, seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        try:
            async with asyncio.timeout(limit):
                await self._turn.acquire()
        except TimeoutError as error:
            problem = (
                f"no turn within {limit:g} s beside a command that changes registrations; nothing was sent"
            )
            raise PathError(self._path.name, problem) from error
        try:
            yield lambda: end - loop.time()
        finally:
            self._turn.release()

    async def ascertain(
        self, make: Callable[[], Steps[T]], limit: float, tracked_of: Callable[[T], Tracked]
    ) -> T:
        """Carry out steps that find out what the guest has, and track that from then on.

        ``make`` is called when they have their turn: what the guest changed before is known then. Raises as
        `run`.
        """
        async with self._in_turn(limit) as left:
            block, own_before, doubts = self.block, self._own_doubts, self.block.doubts
            found = await run_steps(self._own, make(), left())
            tracked = tracked_of(found)
            if block.stale or block.tracked != tracked:
                block.adopt(tracked, doubts + self._own_doubts - own_before)
                await self._try_to_record()
            return found

    def _notice_own(self, command: Command, response: Response) -> None:
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            self.block.forget_generation()
        if is_unit_attention(response):
            self._own_doubts += self.block.meet(response)

    def recall_designator(self, designator: Designator) -> None:
        """By what the LUN was known before a restart of the agent; its path sees to it that it still is."""
        self._designator = designator

    async def learn_designator(self, limit: float) -> Designator:
        """Ask the LUN for its designator, every time: a path may lead elsewhere after a change."""
        designator = await self.run(identify(), limit)
        if designator != self._designator:
            self._designator, self._nexus = designator, None
        return designator

    async def reread(self, limit: float) -> Found:
        """Ask the LUN what the guest's nexus has, and track that where it is certain and the guest's.

        Returns:
            What was found; `report` says why it was not adopted, where it was not.

        Raises:
            StepFailed: The LUN refuses to say.
            PathError: ``limit`` seconds were not enough.
        """
        async with self._in_turn(limit) as left:
            return await self._reread(left())

    async def _reread(self, limit: float) -> Found:
        block, own_before = self.block, self._own_doubts
        tracked, candidates, doubts = block.tracked, block.candidates, block.doubts
        steps = find_own_registration(
            (tracked.key, *candidates), aptpl=tracked.aptpl, nexus=self._nexus, nexuses=self.nexuses
        )
        found = await run_steps(self._own, steps, limit)
        self._nexus = found.nexus or self._nexus
        decision = decide(self.adopt, tracked, candidates, found, sole=self.sole_nexus)
        if decision.report and decision.report != self.report:
            log.warning("a registration was not adopted", device=self.name, problem=decision.report)
        self.report = decision.report
        if decision.tracked is not None:
            # what our own commands met came before the answers to them
            block.adopt(decision.tracked, doubts + self._own_doubts - own_before)
            await self._try_to_record()
            if decision.tracked != tracked:
                self._tell_of_change()
        return found

    def _tell_of_change(self) -> None:
        self.changes += 1
        if self.on_guest_change is not None:
            self.on_guest_change(self)

    # -- what others did --------------------------------------------------------------------------

    async def _doubted(self) -> None:
        """The picture has gone stale: put that on record, and see to it that it is read again."""
        await self._try_to_record()
        self.read_again()

    def read_again(self) -> None:
        """See to it that the picture is read again, now that it is stale and the gate is open."""
        if self._rereading is None or self._rereading.done():
            self._rereading = asyncio.ensure_future(self._reread_while_stale())

    async def _reread_while_stale(self) -> None:
        """Read again, once for what has come up, so that who asks is told the truth soon."""
        seen: int | None = None
        for _ in range(_REREAD_ROUNDS):
            # the first time whatever was adopted since: that may have been read before the doubt came up
            if seen is not None and (not self.block.stale or self.block.doubts == seen):
                return
            seen = self.block.doubts
            try:
                async with self._in_turn(_REREAD_SECONDS) as left:
                    # in a handover the picture is the handover's matter
                    if self.block.gate is not Gate.RUNNING:
                        return
                    await self._reread(left())
            except (PathError, StepFailed) as error:
                log.warning("what the guest holds could not be read", device=self.name, error=str(error))

    async def _record(self) -> None:
        if self.on_change is not None:
            await self.on_change(self)

    async def _try_to_record(self) -> None:
        """Put the state on record. Where that fails, what is on record still says that it is stale, or
        the LUN is asked before it is used."""
        try:
            await self._record()
        except Exception as error:
            log.error("a change could not be recorded", device=self.name, error=str(error))

    async def close(self) -> None:
        """Let go of the LUN."""
        if self._rereading is not None:
            self._rereading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rereading
        await self._own.close()
        for path in (self._path, *self._gateway_paths.values()):
            await path.close()
