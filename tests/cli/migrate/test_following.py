"""What `holdover migrate` shows of a migration, and what an interrupt does."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys

import msgspec
import pytest
from rich.console import Console

from holdover.api.client import AgentError, AgentRefused
from holdover.api.documents import Problem
from holdover.api.migration_documents import Memory, MigrationState, PhaseTime
from holdover.cli.migrate import following
from holdover.cli.migrate.following import Detached, Follower, described_memory

COPYING = MigrationState(
    migration_id="m1",
    guest="db1",
    source="host-a",
    destination="host-b",
    phase="copying",
    open=True,
    now="guest db1 runs on host-a with its reservations",
    next="its memory is being copied to host-b",
    cancellable=True,
    began=1000.0,
    phases=(
        PhaseTime(phase="preparing", began=1000.0, ended=1001.0),
        PhaseTime(phase="copying", began=1001.0),
    ),
)
MOVED = msgspec.structs.replace(
    COPYING,
    phase="moved",
    open=False,
    moved=True,
    cancellable=False,
    phases=(COPYING.phases[0], PhaseTime(phase="copying", began=1001.0, ended=1003.5)),
)
STAYED = msgspec.structs.replace(COPYING, phase="stayed", open=False, cancellable=False, reason="cancelled")


class Client:
    """An agent that tells these states one after the other; the last one for ever."""

    def __init__(self, *states: MigrationState | Exception, cancel: Exception | None = None) -> None:
        self._states = list(states)
        self._cancel = cancel
        self.cancelled = 0

    async def migration(self, guest: str) -> MigrationState:
        del guest
        told = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if isinstance(told, Exception):
            raise told
        return told

    async def cancel_migration(self, guest: str, migration_id: str) -> MigrationState:
        del guest
        assert migration_id == "m1"
        self.cancelled += 1
        if self._cancel is not None:
            raise self._cancel
        self._states = [STAYED]
        return STAYED


class Terminal(io.StringIO):
    """Standard input with what the user types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_INTERVAL", 0.001)


def follow(client: Client, *, interrupt: bool = False) -> tuple[MigrationState | Detached, str]:
    """How it ends, and what was shown."""
    shown = io.StringIO()

    async def run() -> MigrationState | Detached:
        follower = Follower(client, "db1", errors=Console(file=shown, width=200))  # type: ignore[arg-type]
        task = asyncio.ensure_future(follower.follow(COPYING))
        await asyncio.sleep(0)
        if interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        try:
            async with asyncio.timeout(600):
                return await task
        except Detached as error:
            return error

    return asyncio.run(run()), shown.getvalue()


def test_each_phase_that_has_ended_is_a_line() -> None:
    ended, shown = follow(Client(COPYING, MOVED))
    assert ended == MOVED
    assert [line.split()[3] for line in shown.splitlines()] == ["preparing", "copying"]
    assert "2500.0 ms" in shown


def test_a_problem_is_shown_once() -> None:
    hindered = msgspec.structs.replace(COPYING, problem="host-b does not answer")
    _, shown = follow(Client(hindered, hindered, MOVED))
    assert shown.count("host-b does not answer") == 1


def test_an_agent_that_is_away_for_a_moment_is_waited_for() -> None:
    ended, _ = follow(Client(AgentError("away"), AgentError("away"), MOVED))
    assert ended == MOVED


def test_an_agent_that_stays_away_is_said_and_the_migration_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_SILENCE", 0.0)
    ended, _ = follow(Client(AgentError("away")))
    assert isinstance(ended, Detached)
    assert "away; the migration goes on without this command" in str(ended)


def test_without_a_terminal_an_interrupt_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    client = Client(COPYING)
    assert follow(client, interrupt=True)[0] == STAYED
    assert client.cancelled == 1


def test_without_a_terminal_an_interrupt_that_comes_too_late_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    late = AgentRefused("unix:/a", Problem(detail="it is too late to cancel"))
    ended, shown = follow(Client(COPYING, cancel=late), interrupt=True)
    assert isinstance(ended, Detached)
    assert "it is too late to cancel" in shown


@pytest.mark.parametrize(
    ("typed", "ends", "cancelled"),
    [("c\n", STAYED, 1), ("d\n", None, 0), ("w\n", MOVED, 0), ("\n", MOVED, 0)],
)
def test_on_a_terminal_an_interrupt_asks(
    monkeypatch: pytest.MonkeyPatch, typed: str, ends: MigrationState | None, cancelled: int
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    client = Client(COPYING, *([MOVED] if ends is MOVED else []))
    ended, _ = follow(client, interrupt=True)
    assert isinstance(ended, Detached) if ends is None else ended == ends
    assert client.cancelled == cancelled


def test_the_copy_of_the_memory_in_words() -> None:
    mebi = 1 << 20
    memory = Memory(sent=5 * mebi, left=mebi, total=8 * mebi, rate=2.0 * mebi, pass_number=3)
    assert described_memory(memory) == "  5 MiB sent, 1 of 8 MiB left, pass 3, 2.0 MiB/s"
    overwritten = msgspec.structs.replace(memory, dirty_rate=3.0 * mebi)
    assert described_memory(overwritten).endswith(", the guest overwrites 3.0 MiB/s")
    assert described_memory(None) == ""
