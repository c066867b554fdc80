"""Asks the agents of both hosts to hand a guest over: prepare, commit, finish, and back when something fails.

The source's agent decides; the destination's is asked who it is, and for its part of a trace. Every request
may be repeated, so one that is not answered is, for a while.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

from holdover.agent.api import HandoverState, HostState, Stale
from holdover.agent.client import AgentClient, AgentError, AgentRefused
from holdover.agent.outcome import MigrateFailed, Progress
from holdover.handover.states import SourceState

__all__ = ["HandingOver", "describe", "whole"]

T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds for which a request that nobody answers is repeated: an agent that is started anew goes on."""

_PAUSE = 0.2
_STAYED = SourceState.STAYED.value
_UNDOING = SourceState.UNDOING.value


@dataclass
class HandingOver:
    """One handover of one guest.

    Attributes:
        guest: Its name.
        source: The agent that it leaves.
        destination: The agent that it goes to; None where only the source's agent is to be asked.
        tell: Called with all that begins, goes on and ends.
        to: How the source's agent calls the destination: the name of a peer of its, or an address; empty:
            found out by asking ``destination``.
        stale: What to do where what is tracked may be out of date.
        handover: Its identity.
        began: When this was made, seconds since the epoch; `Progress.at` counts from there.
    """

    guest: str
    source: AgentClient
    destination: AgentClient | None
    tell: Callable[[Progress], None]
    to: str = ""
    stale: Stale = Stale.REREAD
    handover: str = field(default_factory=lambda: secrets.token_hex(8))
    began: float = field(default_factory=time.time)
    source_name: str = ""
    destination_name: str = ""
    _started: float = field(default_factory=time.perf_counter)
    _prepared: bool = False
    _left_behind: str = ""

    async def check(self) -> None:
        """Ask both who they are, while nothing is changed yet.

        Raises:
            MigrateFailed: One cannot be asked, or both are one.
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
        source, destination = await asyncio.gather(self.source.guests(), self.destination.guests())
        if source.host == destination.host:
            raise AgentError(f"--from and --to are one agent, {source.host}")
        self.source_name, self.destination_name = source.host, destination.host
        self.to = self.to or _called_by(source, destination.host, self.destination.api)

    async def prepare(self) -> HandoverState:
        """Register on the destination, while the guest runs on the source.

        Raises:
            MigrateFailed: That was not done; the guest goes on where it is.
        """
        try:
            state = await self._ask(
                "prepare", lambda: self.source.prepare(self.guest, self.handover, self.to, self.stale)
            )
        except AgentRefused as error:
            state_now = error.problem.state
            self._note_left_behind(state_now)
            now = self.stays() if state_now else "Nothing was changed."
            known = state_now in ("", _STAYED, _UNDOING)
            raise MigrateFailed(describe(error), now, in_doubt=not known) from error
        except (AgentError, asyncio.CancelledError) as error:
            await self.roll_back(describe(error))
            raise MigrateFailed(describe(error), self.stays()) from error
        self._prepared = True
        self.destination_name = self.destination_name or state.peer
        return state

    async def commit(self) -> HandoverState:
        """Move everything, while the guest stands still.

        Raises:
            AgentRefused: It has not moved; `bring_back` sees to what is left.
            AgentError: Whether it has is in doubt, likewise.
        """
        return await self._ask("commit", lambda: self.source.commit(self.guest, self.handover))

    async def finish(self) -> tuple[HandoverState | None, tuple[str, ...]]:
        """End the handover: the guest runs on the destination. What needs somebody's eye, beside the end."""
        try:
            state = await self._ask("finish", lambda: self.source.finish(self.guest, self.handover))
        except AgentError as error:
            again = f"holdover handover finish {self.guest} --at {self.source.api}"
            problem = (
                f"the guest has moved; {self.source_name} could not finish: {describe(error)}; then: {again}"
            )
            return None, (problem,)
        return state, tuple(f"{lun.designator}: {lun.alarm}" for lun in state.luns if lun.alarm)

    async def bring_back(self, error: BaseException) -> None:
        """Roll back, unless the error tells that this was done. Raises as `roll_back`."""
        if not (isinstance(error, AgentRefused) and error.problem.state == _STAYED):
            await self.roll_back(describe(error))

    async def roll_back(self, reason: str) -> None:
        """The guest stays on the source: everything as it was.

        Raises:
            MigrateFailed: That is not so, or it is in doubt.
        """
        try:
            await self._ask("rollback", lambda: self.source.roll_back(self.guest, self.handover))
        except AgentError as error:
            state = error.problem.state if isinstance(error, AgentRefused) else None
            self._note_left_behind(state)
            if state in (_STAYED, _UNDOING) or (state == "" and not self._prepared):
                return
            raise MigrateFailed(
                f"{reason}; then rolling back failed: {describe(error)}",
                f"Guest {self.guest} waits on {self.source_name}, its commands held; nothing is lost. "
                f"See what is true: holdover handover status {self.guest} --at {self.source.api}. "
                f"Mend the cause, then: holdover handover rollback {self.guest} --at {self.source.api}",
                in_doubt=True,
            ) from error

    def _note_left_behind(self, state: str | None) -> None:
        if state == _UNDOING:
            self._left_behind = (
                f" A registration of the guest may be left on {self.destination_name}; the agent of "
                f"{self.source_name} removes it when {self.destination_name} can be reached."
            )

    def stays(self) -> str:
        """What is true after it was rolled back."""
        return f"Guest {self.guest} goes on on {self.source_name} with its reservations.{self._left_behind}"

    async def _ask(self, phase: str, what: Callable[[], Coroutine[object, object, T]]) -> T:
        action = "roll back" if phase == "rollback" else phase
        return await self.timed(phase, action, self.source_name, whole(_insist(what)))

    async def timed(self, phase: str, action: str, host: str, what: Awaitable[T]) -> T:
        """Await ``what`` and tell how that goes."""
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


def _called_by(source: HostState, name: str, api: str) -> str:
    """How the source's agent calls the one of a host that was asked at an address."""
    return name if name in {peer.name for peer in source.peers} else api


async def _insist(what: Callable[[], Awaitable[T]]) -> T:
    """Ask, and ask again while nobody answers."""
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
    """Await all of ``what``, however often this is cancelled meanwhile; then it is cancelled indeed."""
    task = asyncio.ensure_future(what)
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        if not task.cancelled():
            task.exception()  # whoever was interrupted asks what is true
        raise interrupted
    return task.result()


def describe(error: BaseException) -> str:
    """An error in words."""
    if isinstance(error, asyncio.CancelledError):
        return "interrupted"
    return str(error) or type(error).__name__
