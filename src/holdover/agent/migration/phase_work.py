"""What is done in each phase of a migration from this host. All of it may be done again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from holdover.agent.handover.answers import HandoverProblem
from holdover.agent.migration.arrivals import stream_settings
from holdover.agent.migration.both_qemus import BothQemus
from holdover.agent.migration.copying import copy_memory, memory_of
from holdover.agent.migration.guest_handovers import GuestHandovers
from holdover.agent.migration.insisting import PAUSE, insist
from holdover.agent.migration.monitors import Monitors, NoMonitor
from holdover.agent.migration.tls_folder import TlsFolders
from holdover.api.client import AgentError, AgentRefused
from holdover.api.migration_documents import (
    Memory,
    QemuAction,
    QemuAnswer,
    QemuPlace,
    Ran,
)
from holdover.api.peer_hosts import PeerClient
from holdover.handover.states import Event, SourceState
from holdover.migrate.migration import Migration, MigrationEvent
from holdover.migrate.phases import Happening, Phase
from holdover.qemu.monitor import MonitorAbsent, MonitorLost, QemuError, QmpTime
from holdover.qemu.outgoing import Stage, stage_of

_WAIT = 10.0
"""Seconds for which the destination's agent is asked to wait for the guest in one request."""

_RUN_WAIT = 1.0
"""As `_WAIT`, in a request to run the guest. Nothing else is done to that QEMU meanwhile, so it is short."""

_LOOK_AGAIN = 0.01

_HEAD_START = 0.003
"""The most seconds for which QEMU waits until the commit has left this host. The processors are idle until
QEMU sends the rest, and the commit takes longer than that."""

_COMMITTED = frozenset(
    {
        SourceState.COMMITTED.value,
        SourceState.HEARING.value,
        SourceState.SETTLING.value,
        SourceState.TELLING.value,
        SourceState.GONE.value,
    }
)
"""The states of a handover in which the destination may have been told to run the guest."""

_STAYS = frozenset({SourceState.STAYED.value, SourceState.UNDOING.value, SourceState.REVIEWING.value})
_TAKEN = frozenset({SourceState.CONCEDING.value, SourceState.YIELDING.value, SourceState.GONE.value})


class PhaseWork:
    """The work of one migration.

    Attributes:
        qemus: The QEMUs of the migration.
        memory: How far the copy of the memory is; None before it begins.
        standstill_ms, commit_ms: What `MigrationState` says.
    """

    def __init__(
        self,
        handovers: GuestHandovers,
        monitors: Monitors,
        tls: TlsFolders,
        peer: Callable[[], PeerClient],
        patience: Callable[[], float],
        check: Callable[[Migration], Awaitable[None]],
    ) -> None:
        """``peer`` returns the client of the destination's agent.

        ``patience`` returns the seconds for which an agent that does not answer is asked again before the
        guest stays. ``check`` raises `HandoverProblem`, `AgentError` or `QemuError` if a migration cannot
        begin.
        """
        self._handovers = handovers
        self.qemus = BothQemus(monitors, peer)
        self._tls = tls
        self._patience = patience
        self._check = check
        self._stopped: QmpTime | None = None
        self.memory: Memory | None = None
        self.standstill_ms: float | None = None
        self.commit_ms: float | None = None

    async def of(self, migration: Migration) -> MigrationEvent:
        """Do the work of the migration's phase."""
        works: Mapping[Phase, Callable[[Migration], Awaitable[MigrationEvent]]] = {
            Phase.CHECKING: self._checking,
            Phase.PREPARING: self._preparing,
            Phase.OPENING: self._opening,
            Phase.COPYING: self._copying,
            Phase.ASCERTAINING: self._ascertaining,
            Phase.SWITCHING: self._switching,
            Phase.STARTING: self._starting,
            Phase.FINISHING: self._finishing,
            Phase.FETCHING: self._fetching,
            Phase.CANCELLING: self._resuming,
            Phase.WITHDRAWING: self._rolling_back,
            Phase.ENDING: self._ending,
            Phase.RETURNING: self._rolling_back,
            Phase.RESUMING: self._resuming,
            Phase.CLEARING: self._clearing,
        }
        return await works[migration.phase](migration)

    # -- on the way there ---------------------------------------------------------------------------

    async def _checking(self, migration: Migration) -> MigrationEvent:
        try:
            await self._check(migration)
            source = await self.qemus.source(migration)
            was_running = await source.check()
            await self.qemus.ask(migration, QemuAction.CHECK)
        except NoMonitor as error:
            return MigrationEvent(
                Happening.FAILED, f"{error}; or move the reservations alone: --reservations-only"
            )
        except (HandoverProblem, AgentError, QemuError) as error:
            return MigrationEvent(Happening.FAILED, str(error))
        return MigrationEvent(Happening.DONE, was_running=was_running)

    async def _preparing(self, migration: Migration) -> MigrationEvent:
        try:
            await self._handovers.prepare(
                migration.guest, migration.migration_id, migration.destination, migration.options.stale
            )
        except HandoverProblem as error:
            return MigrationEvent(Happening.FAILED, str(error))
        return MigrationEvent(Happening.DONE)

    async def _opening(self, migration: Migration) -> MigrationEvent:
        try:
            answer = await insist(lambda: self.qemus.ask(migration, QemuAction.OPEN), self._patience())
        except AgentError as error:
            return MigrationEvent(Happening.FAILED, str(error))
        return MigrationEvent(Happening.DONE, uri=answer.uri, tls_name=answer.tls_name)

    async def _copying(self, migration: Migration) -> MigrationEvent:
        try:
            source = await self.qemus.source(migration)
            stage = stage_of((await source.progress()).status)
            if stage in (Stage.NONE, Stage.SENT, Stage.ENDED):
                tls = self._tls.folder(migration.options, migration.tls_name)
                await source.start(migration.uri, stream_settings(migration.options, tls))
            problem = await copy_memory(source, migration.options, self._note_memory)
        except (MonitorLost, MonitorAbsent) as error:
            return await self.qemus.source_gone(error)
        except QemuError as error:
            return MigrationEvent(Happening.FAILED, str(error))
        self._stopped = source.stopped_at
        return MigrationEvent(Happening.FAILED, problem) if problem else MigrationEvent(Happening.DONE)

    def _note_memory(self, memory: Memory) -> None:
        self.memory = memory

    async def _ascertaining(self, migration: Migration) -> MigrationEvent:
        """Find out, after a restart of the agent, how far the migration has come."""
        if self._committed(migration):
            return MigrationEvent(Happening.DONE, run_requested=True)
        try:
            source = await self.qemus.source(migration)
            progress = await source.progress()
            stage = Stage.NONE if await source.has_guest() else stage_of(progress.status)
        except (MonitorLost, MonitorAbsent) as error:
            happened = await self.qemus.source_gone(error)
            if happened.happening is Happening.GONE:
                return happened
            return MigrationEvent(Happening.UNREACHED, happened.problem)
        except QemuError as error:
            return MigrationEvent(Happening.UNREACHED, str(error))
        if stage in (Stage.NONE, Stage.COPYING):
            return MigrationEvent(Happening.BEFORE)
        if stage is Stage.ENDED:
            reason = f": {progress.error_desc}" if progress.error_desc else ""
            return MigrationEvent(Happening.FAILED, f"QEMU ended the migration as {progress.status}{reason}")
        return MigrationEvent(Happening.DONE)

    def _committed(self, migration: Migration) -> bool:
        state = self._handovers.summary(migration.guest)
        return state is not None and state.handover_id == migration.migration_id and state.state in _COMMITTED

    # -- while the guest stands still ---------------------------------------------------------------

    async def _switching(self, migration: Migration) -> MigrationEvent:
        if migration.ended_here:
            # nothing more comes from the source
            arrived = await self._arrived(migration)
            return arrived or await self._commit(migration) or MigrationEvent(Happening.DONE)
        if migration.options.postcopy:
            return await self._commit(migration) or await self._send_postcopy(migration)
        commit = asyncio.ensure_future(self._commit(migration))
        leaving = asyncio.ensure_future(self._handovers.commit_leaves(migration.guest))
        sending = asyncio.ensure_future(self._switch_over_after(migration, {commit, leaving}))
        try:
            await asyncio.wait({commit, sending}, return_when=asyncio.FIRST_COMPLETED)
            if commit.done() and commit.result() is not None:
                sending.cancel()
            await asyncio.wait({commit, sending})
        finally:
            for task in (commit, leaving, sending):
                task.cancel()
        sent = None if sending.cancelled() else sending.result()
        return commit.result() or sent or MigrationEvent(Happening.DONE)

    async def _commit(self, migration: Migration) -> MigrationEvent | None:
        """Move the reservations; what has happened if they did not move."""
        if self._committed(migration):
            return None
        began = time.perf_counter()
        try:
            await self._handovers.ask(migration.guest, migration.migration_id, Event.ASKED_COMMIT)
        except HandoverProblem as error:
            return MigrationEvent(Happening.FAILED, str(error))
        self.commit_ms = (time.perf_counter() - began) * 1000
        return None

    async def _switch_over_after(
        self, migration: Migration, first: set[asyncio.Future[Any]]
    ) -> MigrationEvent | None:
        """As `_switch_over`, when one of ``first`` is done, or after the head start."""
        await asyncio.wait(first, timeout=_HEAD_START, return_when=asyncio.FIRST_COMPLETED)
        return await self._switch_over(migration)

    async def _switch_over(self, migration: Migration) -> MigrationEvent | None:
        """Let the source send the rest; what has happened if it does not do so."""
        try:
            source = await self.qemus.source(migration)
            await source.switch_over()
        except (MonitorLost, MonitorAbsent):
            return await self._arrived(migration)
        except QemuError as error:
            kind = Happening.UNREACHED if migration.run_requested else Happening.FAILED
            return await self._after_bad_end(migration, MigrationEvent(kind, str(error)))
        return None

    async def _unless_bad_end(
        self, migration: Migration, there: Coroutine[object, object, MigrationEvent | None]
    ) -> MigrationEvent | None:
        """The result of ``there``, or what has happened if the source's QEMU gives up before that."""
        work = asyncio.ensure_future(there)
        ending = asyncio.ensure_future(self.qemus.ends_badly(migration))
        try:
            await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and (failed := await self._after_bad_end(migration, ending.result())):
                return failed
            return await work
        finally:
            work.cancel()
            ending.cancel()

    async def _send_postcopy(self, migration: Migration) -> MigrationEvent:
        """Let the source send what the destination needs to run the guest; there is no way back."""
        happened = await self._switch_over(migration)
        happened = happened or await self._unless_bad_end(migration, self._arrived(migration))
        if happened is None:
            return MigrationEvent(Happening.DONE)
        if happened.happening is Happening.LOST:
            return happened
        try:
            source = await self.qemus.source(migration)
            stopped = stage_of((await source.progress()).status) in (Stage.STOPPED, Stage.ENDED)
        except QemuError as error:
            return MigrationEvent(Happening.UNREACHED, f"{happened.problem}; {error}")
        if stopped or happened.happening is Happening.GONE:
            # QEMU on the source has all of the guest's memory as long as the destination has not run it
            return MigrationEvent(Happening.FAILED, happened.problem)
        return MigrationEvent(Happening.UNREACHED, happened.problem)

    async def _after_bad_end(self, migration: Migration, failed: MigrationEvent) -> MigrationEvent | None:
        """The source's QEMU has given up. If the destination may run the guest, its QEMU knows better."""
        if not migration.run_requested:
            return failed
        try:
            answer = await self.qemus.ask(migration, QemuAction.WAIT)
        except AgentError as error:
            return MigrationEvent(Happening.UNREACHED, str(error))
        if answer.place in (QemuPlace.ARRIVED, QemuPlace.RUNNING):
            return None
        return (
            self._not_arrived(migration, answer)
            if answer.place in (QemuPlace.GONE, QemuPlace.FAILED)
            else failed
        )

    async def _arrived(self, migration: Migration) -> MigrationEvent | None:
        """Wait until the destination has the guest; what has happened if it does not get it."""
        end = time.monotonic() + self._patience()
        while True:
            try:
                answer = await self.qemus.ask(migration, QemuAction.WAIT, wait=_WAIT)
            except AgentError as error:
                if migration.run_requested:
                    return MigrationEvent(Happening.UNREACHED, str(error))
                if time.monotonic() > end:
                    return MigrationEvent(Happening.FAILED, str(error))
                await asyncio.sleep(PAUSE)
                continue
            end = time.monotonic() + self._patience()
            if answer.place in (QemuPlace.ARRIVED, QemuPlace.RUNNING):
                return None
            if answer.place in (QemuPlace.GONE, QemuPlace.FAILED):
                return self._not_arrived(migration, answer)
            if migration.ended_here:
                return MigrationEvent(
                    Happening.FAILED, "QEMU on the source has ended, and has not sent everything"
                )

    def _not_arrived(self, migration: Migration, answer: QemuAnswer) -> MigrationEvent:
        ran = migration.run_requested and answer.ran is not Ran.NO
        return MigrationEvent(Happening.LOST if ran else Happening.GONE, answer.problem)

    async def _starting(self, migration: Migration) -> MigrationEvent:
        # A commit may be known before it is on record. The guest runs only when it is.
        await self._handovers.settled(migration.guest)
        state = self._handovers.summary(migration.guest)
        if state is not None and state.problem:
            return MigrationEvent(Happening.UNREACHED, state.problem)
        happened = await self._unless_bad_end(migration, self._run(migration))
        return happened or MigrationEvent(Happening.DONE)

    async def _run(self, migration: Migration) -> MigrationEvent | None:
        """Have the destination run the guest when it has arrived; what has happened if it does not run."""
        end = time.monotonic() + self._patience()
        while True:
            try:
                answer = await self.qemus.ask(migration, QemuAction.RUN, wait=_RUN_WAIT)
            except AgentError as error:
                if isinstance(error, AgentRefused) and self._has_stayed(migration):
                    problem = f"{error}; somebody has rolled the handover back before the guest ran there"
                    return MigrationEvent(Happening.FAILED, problem)
                return MigrationEvent(Happening.UNREACHED, str(error))
            if answer.place is not QemuPlace.LISTENING or time.monotonic() > end:
                return self._after_run(migration, answer)
            await asyncio.sleep(_LOOK_AGAIN)

    def _after_run(self, migration: Migration, answer: QemuAnswer) -> MigrationEvent:
        if answer.place is QemuPlace.RUNNING or (
            answer.place is QemuPlace.ARRIVED and not migration.was_running
        ):
            self._note_standstill(answer)
            return MigrationEvent(Happening.DONE)
        if answer.place in (QemuPlace.GONE, QemuPlace.FAILED):
            if answer.ran is Ran.NO and not migration.options.postcopy:
                return MigrationEvent(Happening.GONE, answer.problem)
            return MigrationEvent(Happening.LOST, answer.problem)
        if answer.place is QemuPlace.REFUSES and not migration.options.postcopy:
            return MigrationEvent(Happening.FAILED, answer.problem)
        return MigrationEvent(Happening.UNREACHED, answer.problem or f"QEMU there is {answer.place.value}")

    def _note_standstill(self, answer: QemuAnswer) -> None:
        if self._stopped is not None and answer.resumed is not None:
            self.standstill_ms = QmpTime(*answer.resumed).milliseconds_since(self._stopped)

    # -- on the other side --------------------------------------------------------------------------

    async def _finishing(self, migration: Migration) -> MigrationEvent:
        try:
            state = await self._handovers.ask(migration.guest, migration.migration_id, Event.ASKED_FINISH)
        except HandoverProblem as error:
            if error.problem.state in _STAYS:
                problem = f"{error}; somebody has rolled the handover back while the guest moved"
                return MigrationEvent(Happening.FAILED, problem)
            return MigrationEvent(Happening.UNREACHED, str(error))
        alarms = "; ".join(f"{lun.designator}: {lun.alarm}" for lun in state.luns if lun.alarm)
        return MigrationEvent(Happening.FAILED, alarms) if alarms else MigrationEvent(Happening.DONE)

    async def _fetching(self, migration: Migration) -> MigrationEvent:
        if migration.ended_there:
            return MigrationEvent(Happening.DONE)
        if not migration.options.postcopy:
            return await self._still_there(migration)
        try:
            source = await self.qemus.source(migration)
            self.memory = memory_of(await source.progress()) or self.memory
            progress = await source.wait_fetched()
        except (MonitorLost, MonitorAbsent) as error:
            happened = await self.qemus.source_gone(error)
            return MigrationEvent(
                Happening.GONE if happened.happening is Happening.GONE else Happening.UNREACHED,
                f"{happened.problem}; what it had not sent of the guest's memory is lost, if there was any",
            )
        except QemuError as error:
            return MigrationEvent(Happening.UNREACHED, str(error))
        self.memory = memory_of(progress) or self.memory
        if stage_of(progress.status) is Stage.SENT:
            return await self._still_there(migration)
        return MigrationEvent(
            Happening.UNREACHED,
            f"QEMU's stream is {progress.status} {progress.error_desc}".strip()
            + "; the guest waits for its memory; repair the network, then by QMP: migrate-recover on the "
            "destination, and migrate with resume on the source",
        )

    async def _still_there(self, migration: Migration) -> MigrationEvent:
        """Look once whether the guest's QEMU has ended on the destination, so that nobody is told that it
        runs there. The migration does not wait for the answer of an agent that cannot be asked.
        """
        try:
            answer = await self.qemus.ask(migration, QemuAction.WAIT)
        except AgentError:
            return MigrationEvent(Happening.DONE)
        if answer.place is QemuPlace.GONE:
            return MigrationEvent(Happening.LOST, answer.problem)
        return MigrationEvent(Happening.DONE)

    # -- the way back -------------------------------------------------------------------------------

    async def _rolling_back(self, migration: Migration) -> MigrationEvent:
        if self._has_stayed(migration):
            return MigrationEvent(Happening.DONE)
        try:
            await self._handovers.ask(migration.guest, migration.migration_id, Event.ASKED_ROLL_BACK)
        except HandoverProblem as error:
            if error.problem.state in _STAYS:
                return MigrationEvent(Happening.DONE)
            if migration.phase is Phase.RETURNING and error.problem.state in _TAKEN:
                return MigrationEvent(Happening.TAKEN, str(error))
            return MigrationEvent(Happening.UNREACHED, str(error))
        return MigrationEvent(Happening.DONE)

    def _has_stayed(self, migration: Migration) -> bool:
        """Whether the handover does not move the guest's reservations away from here, or not any more."""
        state = self._handovers.summary(migration.guest)
        return state is None or state.handover_id != migration.migration_id or state.state in _STAYS

    async def _resuming(self, migration: Migration) -> MigrationEvent:
        """Let the source's QEMU run the guest again, if it ran when the migration began."""
        try:
            source = await self.qemus.source(migration)
            await source.cancel(runs=migration.was_running)
        except (MonitorLost, MonitorAbsent) as error:
            happened = await self.qemus.source_gone(error)
            if happened.happening is Happening.GONE:
                return happened
            return MigrationEvent(Happening.UNREACHED, happened.problem)
        except QemuError as error:
            return MigrationEvent(Happening.UNREACHED, str(error))
        return MigrationEvent(Happening.DONE)

    async def _ending(self, migration: Migration) -> MigrationEvent:
        try:
            answer = await self.qemus.ask(migration, QemuAction.END)
        except AgentError as error:
            return MigrationEvent(Happening.UNREACHED, str(error))
        if answer.place is QemuPlace.GONE and answer.ran is Ran.NO:
            return MigrationEvent(Happening.DONE)
        if answer.place is QemuPlace.GONE:
            return MigrationEvent(Happening.LOST, answer.problem)
        return MigrationEvent(Happening.UNREACHED, answer.problem or f"QEMU there is {answer.place.value}")

    async def _clearing(self, migration: Migration) -> MigrationEvent:
        """End the QEMU that waited for the guest, which nobody can use any more."""
        if not migration.sent:
            return MigrationEvent(Happening.DONE)
        try:
            answer = await insist(lambda: self.qemus.ask(migration, QemuAction.END), self._patience())
        except AgentError as error:
            return MigrationEvent(
                Happening.FAILED,
                f"QEMU on {migration.destination} may still wait for the guest, which it does not run; end "
                f"it: {error}",
            )
        if answer.place is QemuPlace.GONE:
            return MigrationEvent(Happening.DONE)
        problem = f"QEMU on {migration.destination} is {answer.place.value}; end it"
        return MigrationEvent(Happening.FAILED, problem)
