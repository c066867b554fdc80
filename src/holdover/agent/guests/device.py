"""One device of a guest: the shell around `ScsiBlock` that has a path and a gate where commands wait.

Commands that touch registrations run one at a time: the guest's PERSISTENT RESERVE OUT and the agent's own
commands. All other commands pass at once, and the shell looks at their responses only if they are CHECK
CONDITION.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import structlog

from holdover.agent.guests.begun_steps import BegunSteps
from holdover.agent.guests.device_queue import DeviceQueue
from holdover.agent.guests.export_nexuses import ExportNexuses
from holdover.agent.guests.forwarded import ForwardedCommand, InFlight, RelayEnd, far_end, forward
from holdover.agent.guests.inline_read import HasOpen, InlineReads
from holdover.agent.guests.recorded_path import RecordedPath
from holdover.guest.adoption import decide
from holdover.guest.gate import Gate, GateDecision
from holdover.guest.scsi_block import NotSent, ScsiBlock
from holdover.history.entry import Cause
from holdover.history.history import NO_HISTORY, History
from holdover.journal.journal import JournalError
from holdover.lun.shared_reserve import RESERVE_AND_RELEASE
from holdover.metrics.measurements import Measurements
from holdover.reservations.driver import StepRun, finish
from holdover.reservations.own_registration import Found, find_own_registration, none_beside
from holdover.reservations.questions import identify
from holdover.reservations.steps import StepFailed, Steps, T
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, HasPort, Path, PathError
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status


class _NotRecorded(NotSent):
    """The journal refused to record what a command is about to change, so the command was not sent."""


log = structlog.get_logger()

_CHECK_CONDITION = Status.CHECK_CONDITION  # for every command of the guest: an enum's attribute costs 0.1 µs

_RESET = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.BUS_DEVICE_RESET_FUNCTION_OCCURRED)

_REREAD_SECONDS = 10.0
_REREAD_ROUNDS = 4
"""How many times in a row to read what the LUN has, if each reading becomes stale while it runs."""


class GuestDevice:
    """A `DeviceServer` for a guest: every command goes through its `ScsiBlock`, then down its path.

    With ``migrate-pr`` on, the guest is one I_T nexus, whichever of its processes is logged in. With it off,
    the device is a plain gateway, and each initiator name that logs in has a nexus of its own.

    Attributes:
        on_change: Awaited with the device whenever the guest or others change `block.state()`: before a
            PERSISTENT RESERVE OUT of the guest is sent, where an error keeps the command from being sent;
            after that command has ended and before the guest knows; and when the tracked state has become
            stale or was read again. It must not wait for anything that waits for `run` of this device.
        on_guest_change: Called with the device when `changes` has grown.
        changes: How often what the guest has was changed, or may have been: by its own PERSISTENT RESERVE
            OUT, or unseen, as a later reading of the LUN has shown.
        adopt: The guest's setting for registrations that it did not make through this agent; None: adopt a
            registration that has only one explanation.
        number: The LUN number at the guest's export; None for a device that is not exported.
        recorded_as: The designator of the record that gave the device its state; empty if there is none.
        sole_nexus: Whether the nexus belongs to the guest alone, and not to the host.
        inline_reads, in_flight_here: The commands in flight: of threads other than the loop's; the others.
        held: How many commands of the guest wait at the gate.
        gate_moved_at: When the gate got its state, in seconds of the monotonic clock.
    """

    def __init__(
        self,
        block: ScsiBlock,
        name: str,
        open_path: Callable[[str], Path],
        measurements: Measurements | None = None,
        guest: str = "",
        history: History = NO_HISTORY,
    ) -> None:
        """``open_path`` makes the path for an initiator name; "" is the guest, whose name is ``guest``."""
        self.guest = guest
        self.block = block
        self.name = name
        self.on_change: Callable[[GuestDevice], Awaitable[None]] | None = None
        self.on_guest_change: Callable[[GuestDevice], None] | None = None
        self.changes = 0
        self.adopt: bool | None = None
        self.number: int | None = None
        self.recorded_as = ""
        self.sole_nexus = False
        self.inline_reads = InlineReads()
        self.in_flight_here = InFlight()
        self.held = 0
        self.gate_moved_at = time.monotonic()
        self.coming_gate: Gate | None = None  # the one on its way to the record, which it has after that
        self._measurements = measurements or Measurements()
        self._path = open_path("")
        self._sent = RecordedPath(self._path, history, guest, lambda: self.lun_name, Cause("guest"))
        own = RecordedPath(self._path, history, guest, lambda: self.lun_name)
        self._queue = DeviceQueue(block, own, self._measurements.own_commands)
        self._front = ExportNexuses(self._path, open_path, self._queue.observe)
        self._report = ""
        self._designator: Designator | None = None
        self._nexus: ITNexus | None = None
        self._gate_moved = asyncio.Event()
        self._rereading: asyncio.Task[None] | None = None

    @property
    def designator(self) -> Designator | None:
        """The LUN's designator, the same on every host; None until the LUN was asked."""
        return self._designator

    @property
    def lun_name(self) -> str:
        """The LUN's designator, or the drive while the LUN has not told its designator."""
        return str(self._designator or self.name)

    @property
    def lun_of_record(self) -> str:
        """The designator for the device's record; until the LUN was asked, that of its last record."""
        return self.recorded_as if self._designator is None else str(self._designator)

    @property
    def nexuses(self) -> int:
        """How many I_T nexuses the path has, usable or not; multipath has several."""
        return self._path.nexuses

    @property
    def in_flight(self) -> int:
        """How many commands of the guest are at the LUN."""
        return self.in_flight_here.count + self.inline_reads.under_way

    @property
    def port(self) -> str:
        """The guest's initiator port, if it is known (iSCSI); otherwise empty."""
        return self._path.port if isinstance(self._path, HasPort) else ""

    @property
    def disk(self) -> HasOpen | None:
        """The guest's path, if it is a disk of this host; otherwise None."""
        return self._path if isinstance(self._path, HasOpen) else None

    @property
    def tracked(self) -> Tracked:
        """What the guest has established, as far as the agent has seen it."""
        return self.block.tracked

    @property
    def report(self) -> str:
        """Why a registration was not adopted; empty once the guest has registered again or has left."""
        return self._report if self.block.stale else ""

    # -- the guest's commands ---------------------------------------------------------------------

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out a command of the guest, after it has waited for the gate if it must."""
        if self._front.losing:
            await self._front.lost()
        if self.block.gate is not Gate.RUNNING:
            refusal = await self._pass_gate(command)
            if refusal is not None:
                return refusal
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT and self.block.migrate_pr:
            return await self._reserve(nexus, command)
        return await self._carry(nexus, command)

    def forward(
        self, nexus: ITNexus, command: Command, answered: Callable[[Response], None]
    ) -> ForwardedCommand | None:
        """Pass a command on now; None for one that has to wait, or that is not for the LUN alone."""
        return forward(self, self._front, nexus, command, answered)

    def far_end(self, nexus: ITNexus) -> RelayEnd | None:
        """Where plain commands of a session go at this moment; None: they are ordinary ones."""
        return far_end(self, self._front, nexus)

    async def _reserve(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out a PERSISTENT RESERVE OUT in turn, so that the snoop sees no effect of another command."""
        while True:
            refusal = await self._pass_gate(command)
            if refusal is not None:
                return refusal
            await self._queue.acquire()
            if self.block.gate is Gate.RUNNING and self._queue.is_idle:
                break
            self._queue.release()
        task = asyncio.ensure_future(self._carry(nexus, command))
        task.add_done_callback(lambda _: self._queue.release())
        # The snoop must see the end of the command even if the guest's connection ends first.
        return await asyncio.shield(task)

    async def _carry(self, nexus: ITNexus, command: Command) -> Response:
        self.in_flight_here.begin()
        try:
            if self.block.passes_through(command.opcode):
                shared = self._front.of(nexus, alone=self.block.migrate_pr)
                if shared.watched or command.opcode in RESERVE_AND_RELEASE:
                    response = await shared.execute(nexus, command, lambda: self.block.is_registered)
                else:
                    response = await shared.path.execute(command)
                if response.status is _CHECK_CONDITION and self.block.observe_attention(response):
                    await self.has_become_stale()
                return response
            return await self._process(command)
        except (PathError, NotSent) as error:
            return self.unanswered(command, error)
        finally:
            self.in_flight_here.end()

    async def observe_reservation_in(self, command: Command, response: Response, sent: int) -> Response:
        """Learn from a PERSISTENT RESERVE IN of an inline read, as `ScsiBlock.observe_reservation_in`."""
        epoch = self.block.staleness_epoch
        answer = self.block.observe_reservation_in(command, response, sent)
        if self.block.staleness_epoch != epoch:
            await self.has_become_stale()
        return answer

    async def _process(self, command: Command) -> Response:
        epoch = self.block.staleness_epoch
        steps = self.block.process(command)
        try:
            run = StepRun(steps)
            if run.request is not None and command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
                return await self._process_reserve_out(run)
            return await finish(run, self._send)
        finally:
            steps.close()
            if self.block.staleness_epoch != epoch:
                await self.has_become_stale()

    async def _process_reserve_out(self, run: StepRun[Command, Response, Response]) -> Response:
        """Carry out a PERSISTENT RESERVE OUT. What it may change is on record before it is sent; what it has
        changed is on record before the guest knows."""
        try:
            await self.put_on_record()
        except JournalError as error:
            run.fail(_NotRecorded(str(error)))
        except Exception as error:
            run.fail(NotSent(f"it could not be recorded: {error}"))
        epoch = self.block.staleness_epoch
        changed = True
        try:
            response = await finish(run, self._send)
            changed = response.good or self.block.staleness_epoch != epoch
            return response
        except NotSent:
            changed = False
            raise
        finally:
            if self.nexuses > 1:
                self.block.forget_generation()  # one command has moved PRGENERATION once for every path
            await self._try_to_record()
            if changed:
                self._tell_of_change()

    async def _send(self, command: Command) -> Response:
        began = time.perf_counter()
        try:
            return await self._sent.execute(command)
        except AnswerLost:
            raise
        except PathError as error:
            raise NotSent(str(error)) from error
        finally:
            self._measurements.guest_reservations.observe(time.perf_counter() - began)

    def unanswered(self, command: Command, error: Exception) -> Response:
        """The response for a LUN that did not answer: one that makes guests try again (SPC-4 table 56)."""
        said = {"guest": self.guest, "lun": self.lun_name, "opcode": f"{command.opcode:#04x}"}
        said["reason"] = str(error)
        if isinstance(error, _NotRecorded):
            log.warning("A command of a guest was not sent, because the journal cannot record it.", **said)
        else:
            log.warning("The LUN did not answer a command of a guest.", **said)
        return check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)

    async def reset(self) -> None:
        """Carry out the guest's part of LOGICAL UNIT RESET (SAM-5 6.3.3).

        Free what the guest's sessions have reserved by RESERVE, and tell the sessions. The LUN itself is not
        reset, because that would abort the commands of other hosts.

        Raises:
            PathError, StepFailed: The LUN could not be freed.
        """
        await self._front.reset(_RESET)
        if self.block.migrate_pr:
            self.block.owe(_RESET)

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """Handle an I_T nexus loss (SAM-5 6.3.4): a session at the export and its commands have ended. Free
        what the session had reserved by RESERVE before any other command passes."""
        await self._front.lose(nexus)

    # -- the gate ---------------------------------------------------------------------------------

    async def _pass_gate(self, command: Command) -> Response | None:
        """Wait until the gate lets ``command`` pass; return the response if the gate refuses it."""
        while True:
            admission = self.block.admit(command)
            if isinstance(admission, Response):
                return admission
            if admission is GateDecision.PASS:
                return None
            self.held += 1
            try:
                await self._gate_moved.wait()
            finally:
                self.held -= 1

    def move_gate(self, gate: Gate) -> None:
        """Set the gate; commands that wait there check it again."""
        self.block.goes_back = gate is Gate.INCOMING and (
            self.block.goes_back or self.block.gate is Gate.RUNNING
        )
        self.block.gate = gate
        self.coming_gate = None
        self.gate_moved_at = time.monotonic()
        if gate is Gate.DEPARTED:
            self.block.forget_attentions()
        self._gate_moved.set()
        self._gate_moved = asyncio.Event()

    async def drain(self, limit: float) -> bool:
        """Wait until no command is in flight to the LUN; False if ``limit`` seconds were not enough."""
        try:
            async with asyncio.timeout(limit):
                # The gate is shut, so no new command begins when one ends.
                await self.in_flight_here.ended()
                await self.inline_reads.ended()
        except TimeoutError:
            return False
        return True

    # -- the agent's own commands -----------------------------------------------------------------

    async def run(self, steps: Steps[T], limit: float) -> T:
        """Carry out the agent's own commands as the guest's nexus, past the gate.

        These commands wait in the device queue: for the guest's PERSISTENT RESERVE OUT, for other steps, and
        for a command of earlier steps that may still be under way at the LUN.

        Raises:
            StepFailed: The steps say that they cannot be done.
            PathError: ``limit`` seconds were not enough.
        """
        async with self._queue.turn(limit) as left:
            return await self._queue.run(steps, left())

    def begin(self, steps: Steps[T]) -> BegunSteps[T] | None:
        """Send the first command of the agent's own ``steps`` now, if nothing has to be waited for."""
        return self._queue.begin(steps)

    async def ascertain(
        self, make: Callable[[], Steps[T]], limit: float, tracked_of: Callable[[T], Tracked]
    ) -> T:
        """Carry out steps that find out what the guest has, and track that from then on.

        ``make`` is called when the device queue runs the steps, so that it sees the guest's earlier changes.
        Raises as `run`.
        """
        async with self._queue.turn(limit) as left:
            block, since = self.block, self._queue.since()
            found = await self._queue.run(make(), left())
            tracked = tracked_of(found)
            is_news = block.stale or block.tracked != tracked
            self._queue.adopt(tracked, since)
            if is_news:
                await self._try_to_record()
            return found

    def recall_designator(self, designator: Designator) -> None:
        """Set the LUN's designator from before the agent's restart; the path checks that it is still true."""
        self._designator = designator

    async def learn_designator(self, limit: float) -> Designator:
        """Ask the LUN for its designator, every time: a path may lead to another LUN after a change."""
        designator = await self.run(identify(), limit)
        if designator != self._designator:
            self._designator, self._nexus = designator, None
        return designator

    async def reread(self, limit: float) -> Found:
        """Ask the LUN what the guest's nexus has; track it if it is certain and the guest's own.

        Returns:
            What was found. If it was not adopted, `report` says why.

        Raises:
            StepFailed: The LUN refuses to answer.
            PathError: ``limit`` seconds were not enough.
        """
        async with self._queue.turn(limit) as left:
            return await self._reread(left())

    async def _reread(self, limit: float) -> Found:
        block, since = self.block, self._queue.since()
        tracked, candidates = block.tracked, block.candidates
        beside = none_beside if block.added is None else block.added.beside
        keys, nexus, paths = (tracked.key, *candidates), self._nexus, self.nexuses
        steps = find_own_registration(keys, aptpl=tracked.aptpl, nexus=nexus, beside=beside, paths=paths)
        found = await self._queue.run(steps, limit)
        self._nexus = found.nexus or self._nexus
        decision = decide(self.adopt, tracked, candidates, found, sole=self.sole_nexus)
        if decision.report and decision.report != self.report:
            log.warning(
                "A registration that the guest did not make here was not adopted.",
                guest=self.guest,
                lun=self.lun_name,
                reason=decision.report,
            )
        self._report = decision.report
        if decision.tracked is None and not block.stale:
            block.mark_stale()  # A state that was adopted in the meantime is not what the LUN says.
        if decision.tracked is not None:
            self._queue.adopt(decision.tracked, since)
            await self._try_to_record()
            if decision.tracked != tracked:
                self._tell_of_change()
        return found

    def _tell_of_change(self) -> None:
        self.changes += 1
        if self.on_guest_change is not None:
            self.on_guest_change(self)

    # -- what others did --------------------------------------------------------------------------

    async def has_become_stale(self) -> None:
        """The tracked state has become stale: put that on record, and have it read again."""
        await self._try_to_record()
        self.read_again()

    def read_again(self) -> None:
        """Start reading the LUN again; the tracked state is stale and the gate is open."""
        if self._rereading is None or self._rereading.done():
            self._rereading = asyncio.ensure_future(self._reread_while_stale())

    async def _reread_while_stale(self) -> None:
        """Read the LUN again until no doubt is left, so that the next question gets a true answer."""
        seen: int | None = None
        for _ in range(_REREAD_ROUNDS):
            # Read once even if a state was adopted since: it may have been read before the doubt came up.
            if seen is not None and (not self.block.stale or self.block.staleness_epoch == seen):
                return
            seen = self.block.staleness_epoch
            try:
                async with self._queue.turn(_REREAD_SECONDS) as left:
                    # During a handover only the handover changes the tracked state.
                    if self.block.gate is not Gate.RUNNING:
                        return
                    await self._reread(left())
            except (PathError, StepFailed) as error:
                log.warning(
                    "The agent could not read from the LUN what a guest holds.",
                    guest=self.guest,
                    lun=self.lun_name,
                    reason=str(error),
                )

    async def put_on_record(self) -> None:
        """Put on record what it has and its gate. Raises `JournalError`."""
        if self.on_change is not None:
            await self.on_change(self)

    async def _try_to_record(self) -> None:
        """Put the state on record. If that fails, the record still says that the state is stale, or the LUN
        is asked before the state is used."""
        try:
            await self.put_on_record()
        except Exception as error:
            log.error(
                "A change of what a guest holds could not be put on record.",
                guest=self.guest,
                lun=self.lun_name,
                reason=str(error),
            )

    async def close(self) -> None:
        """Close the paths to the LUN."""
        if self._rereading is not None:
            self._rereading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rereading
        await self._queue.close()
        await self._front.close()
