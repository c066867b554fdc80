"""What answers libvirt in the lock server: the rules, and the agent at its own lock socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from holdover.libvirt.connection import Call, LockClient, LockProtocolError, LockReply
from holdover.libvirt.lock_protocol import (
    OWNER_ASKS,
    AcquireResource,
    Register,
    ReleaseResource,
    Request,
    Restrict,
)
from holdover.libvirt.lock_rules import Asked, Course, course
from holdover.lock_server.qemu_facts import facts_of
from holdover.lock_server.tracked_list import listed, read_list

log = structlog.get_logger()

_READ_BYTES = 1 << 16
_LOOK_SECONDS = 0.1
"""The seconds between two checks whether libvirt still waits."""
_PAUSE = 0.25
_FORWARDED = (AcquireResource, ReleaseResource)


class AgentSilent(Exception):
    """The agent does not answer; the message says why."""


class _NobodyWaits(Exception):
    """libvirt does not wait for the answer any more."""


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where the agent is.

    Attributes:
        socket: The agent's lock socket.
        tracked: The list of tracked guests, which the agent writes.
        answers_within: The seconds that the agent has where it must answer.
        briefly: The seconds that the agent has where the answer is yes without it.
    """

    socket: Path
    tracked: Path
    answers_within: float = 10.0
    briefly: float = 4.0


class Relay:
    """The answers to one connection of libvirt."""

    def __init__(self, agent: AgentAddress, pid: int) -> None:
        """``pid`` is the process that asks."""
        self._agent = agent
        self._pid = pid
        self._course = Course.YES
        self._link: _Link | None = None
        self._register: Register | None = None
        self._silent = ""

    async def answer(self, call: Call, waits: Callable[[], bool]) -> str:
        """The answer to a call: by the rules, or from the agent."""
        request = call.request
        if isinstance(request, Register):
            self._course = await asyncio.to_thread(self._course_of, request)
            flags = OWNER_ASKS if request.pid == self._pid else 0
            self._register = replace(request, flags=flags)
        elif not isinstance(request, _FORWARDED) or self._register is None:
            if isinstance(request, Restrict):
                self._hang_up()  # the connection stays open, and asks nothing more
            return ""  # it asks nothing: a lockspace, or a resource
        try:
            return await self._ask(request, waits)
        except _NobodyWaits:
            return "nobody waits for this answer"

    def _course_of(self, asked: Register) -> Course:
        found = listed(read_list(self._agent.tracked), asked.name, str(asked.uuid))
        if asked.pid == self._pid:
            return course(Asked(listed=found, begins=True))
        facts = facts_of(asked.pid)
        return course(
            Asked(
                listed=found,
                begins=False,
                passes=facts.passes,
                incoming=facts.incoming,
                post_copy=facts.post_copy,
            )
        )

    async def _ask(
        self, request: Register | AcquireResource | ReleaseResource, waits: Callable[[], bool]
    ) -> str:
        if self._course is Course.YES:
            return ""
        limits = {Course.ASK_ELSE_YES: self._agent.briefly, Course.ASK_ELSE_NO: self._agent.answers_within}
        try:
            async with asyncio.timeout(limits.get(self._course)):
                return await self._insist(request, waits)
        except (AgentSilent, TimeoutError) as error:
            why = str(error) or self._silent or "it does not answer in time"
        if self._course is Course.ASK_ELSE_YES or isinstance(request, ReleaseResource):
            log.info("Libvirt was answered without the agent.", guest=self._name, reason=why)
            return ""
        log.warning("Libvirt may not run a guest.", guest=self._name, reason=why)
        return (
            f"guest {self._name} may have a reservation, so the Holdover agent must say whether it may run "
            f"here: {why}; see to the agent (systemctl status holdover-agent), then try again"
        )

    async def _insist(self, request: Request, waits: Callable[[], bool]) -> str:
        """The agent's answer. Where the agent must answer, an agent that restarts is waited for."""
        while True:
            try:
                return await self._once(request, waits)
            except AgentSilent as error:
                self._silent = str(error)
                self._hang_up()
                if self._course is Course.ASK_ELSE_YES:
                    raise
                if not waits():
                    raise _NobodyWaits from None
                await asyncio.sleep(_PAUSE)

    async def _once(self, request: Request, waits: Callable[[], bool]) -> str:
        if self._link is None:
            self._link = await _Link.open(self._agent.socket)
            if not isinstance(request, Register) and self._register is not None:
                error = await self._link.ask(self._register, waits)
                if error:
                    return error
        asked = self._register if isinstance(request, Register) else request
        return await self._link.ask(asked or request, waits)

    @property
    def _name(self) -> str:
        return "" if self._register is None else self._register.name

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    async def close(self) -> None:
        """The connection has ended: nobody waits for an answer any more."""
        self._hang_up()


class _Link:
    """A connection to the agent's lock socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._client = LockClient()

    @classmethod
    async def open(cls, path: Path) -> _Link:
        """Connect.

        Raises:
            AgentSilent: Nobody listens there.
        """
        try:
            return cls(*await asyncio.open_unix_connection(path))
        except OSError as error:
            raise AgentSilent(f"nobody answers at {path} ({error.strerror or error})") from error

    async def ask(self, request: Request, waits: Callable[[], bool]) -> str:
        """The agent's answer to a call.

        Raises:
            AgentSilent: The agent has ended the connection.
        """
        task = asyncio.ensure_future(self._exchange(request))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK_SECONDS)
                if not task.done() and not waits():
                    raise _NobodyWaits
            return task.result().error
        except (OSError, LockProtocolError) as error:
            raise AgentSilent(f"the agent has ended the connection ({error})") from error
        finally:
            task.cancel()

    async def _exchange(self, request: Request) -> LockReply:
        self._writer.write(self._client.call(request))
        await self._writer.drain()
        while True:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise ConnectionResetError("it was closed")
            for reply in self._client.receive(data):
                return reply

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._writer.close()
