"""Asks the agents to hand a guest over: prepare, commit, finish, and roll back when something fails.

The source's agent decides. The destination's agent is only asked for its name, and for its part of a trace.
Every request may be repeated safely, so a request without an answer is repeated for a while.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.documents import HandoverState, HostState, Stale
from holdover.handover.states import SourceState
from holdover.migrate.result import MigrateFailed, Progress, is_in_doubt
from holdover.migrate.state_description import in_words

T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds for which a request without an answer is repeated: a restarted agent continues the handover."""

_PAUSE = 0.2
_STAYED = SourceState.STAYED.value
_LEAVES_BEHIND = (SourceState.UNDOING.value, SourceState.REVIEWING.value)
_STAYS = (_STAYED, *_LEAVES_BEHIND)
"""States in which the guest runs on the source and this handover moves nothing any more."""


@dataclass
class RemoteHandover:
    """One handover of one guest.

    Attributes:
        guest: The guest's name.
        source: The agent of the host that the guest leaves.
        destination: The agent of the host to which the guest goes; None if only the source's agent is asked.
        tell: Called with each action that begins, goes on or ends.
        to: The destination's name among the peers of the source; empty: ``destination`` is asked for it.
        stale: What to do if the tracked state may be out of date.
        handover_id: The handover's id.
        began: When this object was made, seconds since the epoch; `Progress.at` counts from there.
    """

    guest: str
    source: AgentClient
    destination: AgentClient | None
    tell: Callable[[Progress], None]
    to: str = ""
    stale: Stale = Stale.REREAD
    handover_id: str = field(default_factory=lambda: secrets.token_hex(8))
    began: float = field(default_factory=time.time)
    source_name: str = ""
    destination_name: str = ""
    _started: float = field(default_factory=time.perf_counter)
    _prepared: bool = False
    _commit_asked: bool = False
    _left_behind: str = ""

    async def check(self) -> None:
        """Ask both agents for their names, before anything is changed.

        Raises:
            MigrateFailed: An agent does not answer, or both are the same agent.
        """
        try:
            await self.timed("check", "ask both agents", "", self._check())
        except AgentError as error:
            raise MigrateFailed(describe(error), "Nothing was changed.") from error

    async def _check(self) -> None:
        if self.destination is None:
            source = await self.source.guests()
            self.source_name, self.destination_name = source.host, self.to
            return
        source, destination = await _both(self.source, self.destination)
        if source.host == destination.host:
            raise AgentError(f"--from and --to are one agent, {source.host}")
        self.source_name, self.destination_name = source.host, destination.host
        self.to = self.to or destination.host

    async def prepare(self) -> HandoverState:
        """Register the guest's keys on the destination, while the guest runs on the source.

        Raises:
            MigrateFailed: The handover was not prepared; the guest still runs on the source.
        """
        try:
            state = await self._ask(
                "prepare", lambda: self.source.prepare(self.guest, self.handover_id, self.to, self.stale)
            )
        except AgentRefused as error:
            raise await self._not_prepared(error) from error
        except (AgentError, asyncio.CancelledError) as error:
            await self.roll_back(describe(error))
            raise MigrateFailed(describe(error), self.stays()) from error
        self._prepared = True
        self.destination_name = self.destination_name or state.peer
        return state

    async def _not_prepared(self, error: AgentRefused) -> MigrateFailed:
        problem = error.problem
        if problem.state in _STAYS:
            self._note_left_behind(problem.state)
            now = self.stays()
        else:
            now = await self._now() if problem.state else "Nothing was changed."
        return MigrateFailed(describe(error), now, in_doubt=is_in_doubt(problem, may_have_moved=False))

    async def _now(self) -> str:
        """What is true of the guest's newest handover, and what comes next. It may be another handover."""
        try:
            state = await self.source.handover(self.guest)
        except AgentError as error:
            see = f"holdover handover status {self.guest} --at {self.source.api}"
            return f"What is true now could not be asked ({describe(error)}); then: {see}"
        return in_words(state, self.source.api)

    async def commit(self) -> HandoverState:
        """Move all reservations, while the guest stands still.

        Raises:
            AgentRefused: The reservations have not moved; `bring_back` rolls back what is left.
            AgentError: Whether the reservations have moved is in doubt; `bring_back` as well.
        """
        self._commit_asked = True
        return await self._ask("commit", lambda: self.source.commit(self.guest, self.handover_id))

    async def finish(self) -> tuple[HandoverState | None, tuple[str, ...]]:
        """End the handover: the guest runs on the destination. Returns the state, and warnings for people."""
        try:
            state = await self._ask("finish", lambda: self.source.finish(self.guest, self.handover_id))
        except AgentError as error:
            again = f"holdover handover finish {self.guest} --at {self.source.api}"
            problem = (
                f"the guest has moved; {self.source_name} could not finish: {describe(error)}; then: {again}"
            )
            return None, (problem,)
        return state, tuple(f"{lun.designator}: {lun.alarm}" for lun in state.luns if lun.alarm)

    async def bring_back(self, error: BaseException) -> None:
        """Roll back, unless the error says that this was done already. Raises as `roll_back`."""
        if not (isinstance(error, AgentRefused) and error.problem.state == _STAYED):
            await self.roll_back(describe(error))

    async def roll_back(self, reason: str) -> None:
        """Undo the handover: the guest stays on the source, with everything as it was.

        Raises:
            MigrateFailed: The handover was not undone, or that is in doubt.
        """
        try:
            await self._ask("rollback", lambda: self.source.roll_back(self.guest, self.handover_id))
        except AgentError as error:
            problem = error.problem if isinstance(error, AgentRefused) else None
            state = None if problem is None else problem.state
            self._note_left_behind(state)
            if state in _STAYS or (state == "" and not self._prepared):
                return
            raise MigrateFailed(
                f"{reason}; then rolling back failed: {describe(error)}",
                f"{await self._now()}\n"
                f"Remove the cause, then: holdover handover rollback {self.guest} --at {self.source.api}",
                in_doubt=is_in_doubt(problem, may_have_moved=self._commit_asked),
            ) from error

    def _note_left_behind(self, state: str | None) -> None:
        if state in _LEAVES_BEHIND:
            self._left_behind = (
                f" A registration of the guest may be left on {self.destination_name}; the agent of "
                f"{self.source_name} removes it when {self.destination_name} can be reached."
            )

    def stays(self) -> str:
        """What is true after the handover was rolled back."""
        return f"Guest {self.guest} stays on {self.source_name} with its reservations.{self._left_behind}"

    async def _ask(self, phase: str, what: Callable[[], Coroutine[object, object, T]]) -> T:
        action = "roll back" if phase == "rollback" else phase
        return await self.timed(phase, action, self.source_name, whole(_insist(what)))

    async def timed(self, phase: str, action: str, host: str, what: Awaitable[T]) -> T:
        """Await ``what``, and report its beginning and its end."""
        began = time.perf_counter()
        self._tell(phase, action, host, "begins", began)
        try:
            result = await what
        except BaseException as error:
            self._tell(phase, action, host, "failed", began, describe(error))
            raise
        self._tell(phase, action, host, "done", began)
        return result

    def _tell(self, phase: str, action: str, host: str, state: str, began: float, detail: str = "") -> None:
        now = time.perf_counter()
        self.tell(
            Progress(
                phase=phase,
                action=action,
                host=host,
                state=state,
                at=now - self._started,
                milliseconds=(now - began) * 1000,
                detail=detail,
            )
        )


async def _both(source: AgentClient, destination: AgentClient) -> tuple[HostState, HostState]:
    """What both agents say of themselves.

    Raises:
        AgentError: One or both do not answer; the message names each.
    """
    told = await asyncio.gather(source.guests(), destination.guests(), return_exceptions=True)
    failed = [each for each in told if isinstance(each, BaseException)]
    for error in failed:
        if not isinstance(error, AgentError):
            raise error
    if failed:
        raise AgentError("; ".join(map(str, failed)))
    here, there = (each for each in told if isinstance(each, HostState))
    return here, there


async def _insist(what: Callable[[], Awaitable[T]]) -> T:
    """Ask, and ask again while there is no answer."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return await what()
        except AgentRefused:
            raise
        except AgentError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(_PAUSE)


async def whole(what: Coroutine[object, object, T]) -> T:
    """Await ``what`` to its end, even if this is cancelled meanwhile; the cancellation follows at the end."""
    task = asyncio.ensure_future(what)
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        if not task.cancelled():
            task.exception()  # read it, so that asyncio does not log it: the caller asks what is true
        raise interrupted
    return task.result()


def describe(error: BaseException) -> str:
    """An error in words."""
    if isinstance(error, asyncio.CancelledError):
        return "interrupted"
    return str(error) or type(error).__name__
