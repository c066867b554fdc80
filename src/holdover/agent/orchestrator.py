"""Moves a guest's reservations from one host to another, and drives its live migration around that.

Asks the agents of both hosts and, where it is given their sockets, both QEMUs. The order is what keeps
the promises: while the giver's gate is *leaving*, commands of the guest wait there, so a QEMU that
resumes the guest on the source by itself meets closed doors, never a foreign reservation.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from holdover.agent.api import GuestState, Moved, Step
from holdover.agent.client import AgentClient, AgentError, AgentRefused
from holdover.qemu.migration import GuestPlace, Migration, MigrationFailed
from holdover.qemu.monitor import Monitor, QemuError, RamProgress
from holdover.scsi.opcodes import ReservationType

__all__ = ["COPY", "SWITCH_OVER", "MigrateFailed", "Orchestrator", "Outcome", "Progress", "Qemus"]


T = TypeVar("T")

COPY = "copy memory until the guest has stopped"
SWITCH_OVER = "switch over"
"""Actions of `Progress` by whose end the guest has stopped, and runs again."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that began, went on or ended.

    Attributes:
        phase: "check", "migrate", "prepare", "commit", "finish" or "rollback".
        action: What is done, in the words of the steps ("register", "preempt", "wait for pre-switchover").
        host: Where; empty for both.
        state: "begins", "goes on", "done" or "failed".
        at: Seconds since the start of the command.
        milliseconds: How long it took; 0 until it is done.
        detail: For people.
    """

    phase: str
    action: str
    host: str
    state: str
    at: float
    milliseconds: float = 0.0
    detail: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A handover that was done.

    Attributes:
        devices: What was moved, LUN by LUN.
        milliseconds: From LEAVE to the end of PREEMPT.
        standstill_ms: STOP on the source to RESUME on the destination; None without QMP.
        warnings: What needs somebody's eye, although the guest is where it should be.
    """

    guest: str
    handover: str
    source: str
    destination: str
    devices: tuple[Moved, ...]
    milliseconds: float
    standstill_ms: float | None = None
    warnings: tuple[str, ...] = ()


class MigrateFailed(Exception):
    """The guest was not moved.

    Attributes:
        reason: Which step failed on which LUN, and why.
        now: What is true now, and what to do next.
        in_doubt: True when it is not known where the guest's reservations are.
    """

    def __init__(self, reason: str, now: str, *, in_doubt: bool = False) -> None:
        super().__init__(f"{reason}\n{now}")
        self.reason = reason
        self.now = now
        self.in_doubt = in_doubt


@dataclass(frozen=True, slots=True)
class Qemus:
    """Where to drive a live migration: both QMP sockets and the URI that the destination listens at."""

    source: Path
    destination: Path
    uri: str
    timeout: float = 3600.0


class _Rehearsed(Exception):
    """The step after which a failure was asked for has been done."""


_ENDS_A_MOVE = (AgentError, _Rehearsed, asyncio.CancelledError)
"""What ends a handover half done, so that it is rolled back; cancelling is how an interrupt arrives."""


@dataclass
class Orchestrator:
    """One handover of one guest. ``source`` and ``destination`` are the agents' clients."""

    guest: str
    source: AgentClient
    destination: AgentClient
    tell: Callable[[Progress], None]
    fail_after: Step | None = None
    handover: str = field(default_factory=lambda: secrets.token_hex(8))
    _started: float = field(default_factory=time.perf_counter)
    _names: dict[str, str] = field(default_factory=dict)
    _left_behind: str = ""

    async def run(self, qemus: Qemus | None) -> Outcome:
        """Move the reservations; with ``qemus`` live-migrate the guest around it.

        Raises:
            MigrateFailed: The guest was not moved; what was changed has been rolled back, or is in doubt.
        """
        try:
            await self._check()
        except AgentError as error:
            raise MigrateFailed(str(error), "Nothing was changed.") from error
        if qemus is None:
            return await self._without_qemu()
        return await self._with_qemu(qemus)

    async def roll_back(self) -> None:
        """Bring the reservations of a handover that was left half done back to the source.

        Raises:
            MigrateFailed: It could not be done; what is true is in doubt.
        """
        await self._take_up()
        await self._roll_back("asked for")

    async def finish(self) -> None:
        """End a handover that was left after the guest had moved: the guest runs on the destination.

        Raises:
            MigrateFailed: The reservations are not there, or the source cannot finish.
        """
        await self._take_up()
        try:
            destination = await self.destination.guest(self.guest)
        except AgentError as error:
            raise MigrateFailed(str(error), "Nothing was changed.") from error
        for device in destination.devices:
            if device.gate != "running":
                raise MigrateFailed(
                    f"on {destination.host} the gate of {device.id} is {device.gate}: "
                    "the reservations have not moved",
                    f"Bring them back: holdover rollback {self.guest} --from {self.source.api} "
                    f"--to {self.destination.api}",
                )
        try:
            told = await self._step("finish", Step.LEAVE, self.source, ())
            await self._step("finish", Step.FINISH, self.source, told)
        except AgentError as error:
            raise MigrateFailed(
                str(error),
                f"The guest is on {destination.host}, its gate on {self._name(self.source)} is shut.",
            ) from error

    async def _take_up(self) -> None:
        """Go on with the handover that is under way on the source."""
        try:
            source = await self.source.guest(self.guest)
        except AgentError as error:
            raise MigrateFailed(str(error), "Nothing was changed.") from error
        if source.handover is None:
            raise MigrateFailed(
                f"no handover of guest {self.guest} is under way on {source.host}", "Nothing was changed."
            )
        self.handover = source.handover
        self._names[self.source.api] = source.host

    # -- what is done -----------------------------------------------------------------------------

    async def _check_names(self) -> tuple[GuestState, GuestState]:
        source, destination = await asyncio.gather(
            self.source.guest(self.guest), self.destination.guest(self.guest)
        )
        self._names = {self.source.api: source.host, self.destination.api: destination.host}
        return source, destination

    async def _check(self) -> None:
        """Refuse early, while the guest runs, what the steps would refuse while it stands still."""

        async def check() -> None:
            source, destination = await self._check_names()
            if source.host == destination.host:
                raise AgentError(f"--from and --to are one agent, {source.host}")
            for state, allowed, hint in (
                (source, ("running",), "it can only leave from where it runs"),
                (destination, ("incoming", "departed"), "give it --incoming there"),
            ):
                for device in state.devices:
                    if device.gate not in allowed:
                        where = (
                            f"guest {self.guest} on {state.host}: the gate of {device.id} is {device.gate}"
                        )
                        raise AgentError(f"{where}; {hint}")
            ours = sorted((d.designator or "?", d.migrate_pr) for d in source.devices)
            theirs = sorted((d.designator or "?", d.migrate_pr) for d in destination.devices)
            if ours != theirs:
                raise AgentError(
                    f"guest {self.guest} has not the same LUNs with the same migrate-pr on both hosts: "
                    f"{source.host} {_devices(ours)}, {destination.host} {_devices(theirs)}"
                )

        await self._timed("check", "compare both hosts", "", check())

    async def _without_qemu(self) -> Outcome:
        began = time.perf_counter()
        try:
            moved = await self._move()
        except _ENDS_A_MOVE as error:
            await self._roll_back(_reason(error))
            raise MigrateFailed(_reason(error), self._stays()) from error
        milliseconds = (time.perf_counter() - began) * 1000
        return self._outcome(moved, milliseconds, None, await self._finish(moved))

    async def _with_qemu(self, qemus: Qemus) -> Outcome:
        async def connect() -> tuple[Monitor, Monitor]:
            source = await Monitor.connect(qemus.source, f"QEMU on {self._name(self.source)}")
            try:
                return source, await Monitor.connect(
                    qemus.destination, f"QEMU on {self._name(self.destination)}"
                )
            except BaseException:
                await source.close()
                raise

        try:
            source, destination = await self._timed("check", "connect to both QEMUs", "", connect())
        except QemuError as error:
            raise MigrateFailed(str(error), "Nothing was changed.") from error
        try:
            migration = Migration(source, destination, qemus.uri, on_progress=self._memory)
            return await self._migrate(migration, qemus.timeout)
        finally:
            await source.close()
            await destination.close()

    async def _migrate(self, migration: Migration, timeout: float) -> Outcome:
        await self._until_stopped(migration, timeout)
        began = time.perf_counter()
        try:
            moved = await self._move()
        except _ENDS_A_MOVE as error:
            # the guest has stopped and QEMU waits: first the reservations, then the guest
            await self._roll_back(_reason(error))
            await self._cancel(migration, _reason(error))
            raise MigrateFailed(_reason(error), self._stays()) from error
        milliseconds = (time.perf_counter() - began) * 1000
        warnings: tuple[str, ...] = ()
        try:
            # no way back from here on, so an interrupt waits for the end
            await self._timed(
                "migrate", SWITCH_OVER, "", _uninterrupted(self._switch_over(migration, timeout))
            )
        except MigrationFailed as error:
            warnings = await self._after_failed_switch_over(migration, error)
        except QemuError as error:
            raise self._doubt(str(error)) from error
        warnings += await self._finish(moved)
        return self._outcome(moved, milliseconds, migration.standstill_ms, warnings)

    async def _until_stopped(self, migration: Migration, timeout: float) -> None:
        async def stopped() -> None:
            await migration.start()
            await migration.wait_stopped(timeout)

        try:
            await self._timed("migrate", COPY, "", stopped())
        except (QemuError, asyncio.CancelledError) as error:
            await self._cancel(migration, _reason(error))
            raise MigrateFailed(_reason(error), self._stays()) from error

    async def _switch_over(self, migration: Migration, timeout: float) -> None:
        await migration.switch_over()
        await migration.wait_resumed(timeout)

    async def _after_failed_switch_over(
        self, migration: Migration, error: MigrationFailed
    ) -> tuple[str, ...]:
        """The reservations have moved and QEMU did not say that the guest runs on the destination."""
        if error.place is GuestPlace.DESTINATION:
            return (str(error),)
        if error.place is GuestPlace.IN_DOUBT:
            raise self._doubt(str(error)) from error
        # the guest is on the source, running or stopped, its commands held at the gate
        await self._roll_back(str(error))
        await self._cancel(migration, str(error))
        raise MigrateFailed(str(error), self._stays()) from error

    def _doubt(self, reason: str) -> MigrateFailed:
        return MigrateFailed(
            reason,
            f"The reservations are on {self._name(self.destination)}; whether the guest is there too is in "
            f"doubt. If it is not, bring them back: holdover rollback {self.guest} "
            f"--from {self.source.api} --to {self.destination.api}",
            in_doubt=True,
        )

    async def _move(self) -> tuple[Moved, ...]:
        """LEAVE, REGISTER, GIVE, PREEMPT."""
        told: tuple[Moved, ...] = ()
        for phase, step, agent in (
            ("prepare", Step.LEAVE, self.source),
            ("prepare", Step.REGISTER, self.destination),
            ("commit", Step.GIVE, self.source),
            ("commit", Step.PREEMPT, self.destination),
        ):
            told = await self._step(phase, step, agent, told)
            if self.fail_after is step:
                raise _Rehearsed(f"a failure after {step.value} was asked for (--fail-after)")
        return told

    async def _finish(self, moved: tuple[Moved, ...]) -> tuple[str, ...]:
        try:
            await self._step("finish", Step.FINISH, self.source, moved)
        except AgentError as error:
            return (f"the guest has moved; {self._name(self.source)} could not finish: {error}",)
        return ()

    async def _roll_back(self, reason: str) -> None:
        """CLOSE, RECLAIM, RETURN, RESUME; without the taker where it cannot be reached."""
        try:
            if (await self.source.guest(self.guest)).handover is None:
                # LEAVE was not done, so nothing else was
                return
            told = await self._step("rollback", Step.LEAVE, self.source, ())
            reachable = True
            try:
                await self._step("rollback", Step.CLOSE, self.destination, told)
            except AgentRefused:
                raise
            except AgentError as error:
                reachable = False
                self._left_behind = (
                    f" A registration of the guest may be left on {self._name(self.destination)}'s nexus "
                    f"({error}): look with holdover pr status."
                )
            told = await self._step("rollback", Step.RECLAIM, self.source, told)
            if reachable:
                told = await self._step("rollback", Step.RETURN, self.destination, told)
            else:
                told = self._preempt_alone(told)
            await self._step("rollback", Step.RESUME, self.source, told)
        except AgentError as error:
            raise MigrateFailed(
                f"{reason}; then rolling back failed: {error}",
                f"Guest {self.guest} waits on {self._name(self.source)}, its commands held; nothing is lost. "
                f"Mend the cause, then: holdover rollback {self.guest} --from {self.source.api} "
                f"--to {self.destination.api}",
                in_doubt=True,
            ) from error

    def _preempt_alone(self, told: tuple[Moved, ...]) -> tuple[Moved, ...]:
        """The taker cannot be asked: the giver's PREEMPT takes everything with the guest's key back."""
        for moved in told:
            if moved.shared and moved.lost:
                raise AgentError(
                    f"{self.destination.api} does not answer, and on {moved.designator} a third nexus has "
                    "the guest's key, which a PREEMPT from here would remove"
                )
        return tuple(
            msgspec.structs.replace(moved, prey=moved.key)
            if moved.type is not None and not moved.shared and not ReservationType(moved.type).all_registrants
            else moved
            for moved in told
        )

    async def _cancel(self, migration: Migration, reason: str) -> None:
        try:
            await self._timed("rollback", "cancel the migration", self._name(self.source), migration.cancel())
        except QemuError as error:
            raise MigrateFailed(
                f"{reason}; then the migration could not be cancelled: {error}",
                f"The reservations are on {self._name(self.source)}, where the guest's commands pass; "
                "look at the guest there.",
            ) from error

    # -- how it is told ---------------------------------------------------------------------------

    async def _step(
        self, phase: str, step: Step, agent: AgentClient, told: tuple[Moved, ...]
    ) -> tuple[Moved, ...]:
        answer = await self._timed(
            phase, step.value, self._name(agent), agent.step(self.guest, step, self.handover, told)
        )
        return answer.devices

    async def _timed(self, phase: str, action: str, host: str, what: Awaitable[T]) -> T:
        began = time.perf_counter()

        def tell(state: str, detail: str = "") -> None:
            now = time.perf_counter()
            milliseconds = 0.0 if state == "begins" else (now - began) * 1000
            self.tell(
                Progress(
                    phase=phase,
                    action=action,
                    host=host,
                    state=state,
                    at=now - self._started,
                    milliseconds=milliseconds,
                    detail=detail,
                )
            )

        tell("begins")
        try:
            result = await what
        except BaseException as error:
            tell("failed", _reason(error))
            raise
        tell("done")
        return result

    def _memory(self, ram: RamProgress) -> None:
        sent, left, total = (size / 2**20 for size in (ram.transferred, ram.remaining, ram.total))
        self.tell(
            Progress(
                phase="migrate",
                action=COPY,
                host="",
                state="goes on",
                at=time.perf_counter() - self._started,
                detail=f"{sent:.0f} MiB sent, {left:.0f} of {total:.0f} MiB left",
            )
        )

    def _name(self, agent: AgentClient) -> str:
        return self._names.get(agent.api, agent.api)

    def _stays(self) -> str:
        stays = f"Guest {self.guest} goes on on {self._name(self.source)} with its reservations."
        return stays + self._left_behind

    def _outcome(
        self,
        moved: tuple[Moved, ...],
        milliseconds: float,
        standstill: float | None,
        warnings: tuple[str, ...],
    ) -> Outcome:
        return Outcome(
            guest=self.guest,
            handover=self.handover,
            source=self._name(self.source),
            destination=self._name(self.destination),
            devices=moved,
            milliseconds=milliseconds,
            standstill_ms=standstill,
            warnings=warnings,
        )


async def _uninterrupted(what: Coroutine[object, object, T]) -> T:
    """Wait for the end of ``what``, however often this is cancelled meanwhile."""
    task = asyncio.ensure_future(what)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "interrupted"
    return str(error) or type(error).__name__


def _devices(devices: list[tuple[str, bool]]) -> str:
    return ", ".join(f"{name} migrate-pr={'on' if on else 'off'}" for name, on in devices) or "none"
