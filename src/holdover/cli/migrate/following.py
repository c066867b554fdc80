"""Follows a migration that an agent drives: shows how far it is, and hands on what the user wants.

The migration goes on whether anybody follows it or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import Enum

from rich.console import Console

from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.migration_documents import Memory, MigrationState, PhaseTime

_INTERVAL = 0.25
_SILENCE = 30.0
"""Seconds without an answer of the agent, after which this command ends."""


class Detached(Exception):
    """The command ends, and the migration goes on; the error says what is known of it."""

    def __init__(self, state: MigrationState, why: str) -> None:
        super().__init__(why)
        self.state = state


class _Wish(Enum):
    CANCEL = "cancel"
    DETACH = "detach"
    GO_ON = "go on"


@dataclass
class Follower:
    """Follows one migration of one guest.

    Attributes:
        client: The agent of the migration's source.
        guest: The guest's name.
        quiet: Whether nothing is shown on the way.
        errors: Where it is shown.
    """

    client: AgentClient
    guest: str
    quiet: bool = False
    errors: Console = field(default_factory=lambda: Console(stderr=True))
    _shown: int = 0
    _problem: str = ""
    _interrupts: int = 0
    _wish: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, state: MigrationState) -> MigrationState:
        """Follow a migration to its end; ``state`` is its state now.

        Raises:
            Detached: The user has gone away from it, or the agent does not answer.
        """
        async with self._signals():
            answered = time.monotonic()
            while True:
                self._show(state)
                if not state.open:
                    return state
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_INTERVAL):
                        await self._wish.wait()
                if self._wish.is_set():
                    self._wish.clear()
                    await self._fulfil(state)
                try:
                    newest = await self.client.migration(self.guest)
                except AgentError as error:
                    if time.monotonic() - answered > _SILENCE:
                        raise Detached(
                            state, f"{error}; the migration goes on without this command"
                        ) from error
                    continue
                answered = time.monotonic()
                if newest.migration_id != state.migration_id:
                    raise Detached(state, f"the newest migration of guest {self.guest} is another one")
                state = newest

    # -- what the user wants ------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _signals(self) -> AsyncGenerator[None]:
        loop = asyncio.get_running_loop()

        def interrupted() -> None:
            self._interrupts += 1
            self._wish.set()

        loop.add_signal_handler(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    async def _fulfil(self, state: MigrationState) -> None:
        wish = await self._ask_user(state)
        if wish is _Wish.DETACH:
            raise Detached(state, "the migration goes on")
        if wish is _Wish.GO_ON:
            return
        try:
            await self.client.cancel_migration(self.guest, state.migration_id)
        except AgentRefused as error:
            self._print(f"it is not cancelled: {error}")
            if not sys.stdin.isatty():
                raise Detached(state, "the migration goes on") from error
        except AgentError as error:
            self._print(f"whether it is cancelled is not known: {error}")

    async def _ask_user(self, state: MigrationState) -> _Wish:
        """What an interrupt means: on a terminal the user is asked, once."""
        if not sys.stdin.isatty():
            return _Wish.CANCEL
        choice = "[c]ancel it, [d]etach and let it go on, or go on [w]atching? "
        if not state.cancellable:
            choice = "it is too late to cancel it. [d]etach, or go on [w]atching? "
        print(f"\nholdover: migration of guest {self.guest}: {choice}", end="", file=sys.stderr, flush=True)
        answer = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
        again = asyncio.ensure_future(self._wish.wait())
        await asyncio.wait({answer, again}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not answer.done():
            return _Wish.DETACH
        wishes = {"c": _Wish.CANCEL, "d": _Wish.DETACH}
        return wishes.get(answer.result().strip().lower()[:1], _Wish.GO_ON)

    # -- what is shown ------------------------------------------------------------------------------

    def _show(self, state: MigrationState) -> None:
        if self.quiet:
            return
        for phase in state.phases[self._shown :]:
            if not phase.ended:
                break
            self._shown += 1
            self._print(_line(state, phase))
        if state.problem and state.problem != self._problem:
            self._print(f"{_at(state)}  ! {state.phase}: {state.problem}")
        self._problem = state.problem
        if self.errors.is_terminal and state.open:
            text = f"{_at(state)}  … {state.phase}  {state.next}{described_memory(state.memory)}"
            self.errors.print(
                text[: self.errors.width - 1], end="\r", highlight=False, markup=False, soft_wrap=True
            )

    def _print(self, text: str) -> None:
        if self.errors.is_terminal:
            self.errors.print(" " * (self.errors.width - 1), end="\r", soft_wrap=True)
        self.errors.print(text, highlight=False, markup=False, soft_wrap=True)


def _line(state: MigrationState, phase: PhaseTime) -> str:
    took = (phase.ended - phase.began) * 1000
    memory = described_memory(state.memory) if phase.phase == "copying" else ""
    return f"{phase.ended - state.began:7.3f} s  ✓ {phase.phase:12} {took:9.1f} ms{memory}"


def _at(state: MigrationState) -> str:
    return f"{max(time.time() - state.began, 0.0):7.1f} s"


def described_memory(memory: Memory | None) -> str:
    """How far the copy of the memory is, in words."""
    if memory is None or not memory.total:
        return ""
    sent, left, total = (size / 2**20 for size in (memory.sent, memory.left, memory.total))
    text = f"  {sent:.0f} MiB sent, {left:.0f} of {total:.0f} MiB left, pass {memory.pass_number}"
    if memory.rate:
        text += f", {memory.rate / 2**20:.1f} MiB/s"
    if memory.dirty_rate:
        text += f", the guest overwrites {memory.dirty_rate / 2**20:.1f} MiB/s"
    return text
