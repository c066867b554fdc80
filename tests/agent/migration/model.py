"""Two QEMUs, their monitors and a handover as a model, in which anything can die at any step.

The production job (`Job`, `PhaseWork`) and destination (`Arrivals`) run over it. The model does what
`holdover.qemu.migration` says of QEMU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

from holdover.agent.handover.answers import HandoverProblem, HandoverSummary
from holdover.agent.handover.kill_hook import KillHook
from holdover.agent.migration.arrivals import ArrivalRefused, Arrivals
from holdover.agent.migration.job import Job
from holdover.agent.migration.phase_work import PhaseWork
from holdover.agent.migration.tls_folder import TlsFolders
from holdover.api.client import AgentError, AgentRefused
from holdover.api.documents import HandoverState, Problem, Stale
from holdover.api.migration_documents import QemuAnswer, QemuRequest
from holdover.config.agent_file import AgentConfig
from holdover.handover.states import Event
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import Record
from holdover.migrate.migration import Migration
from holdover.qemu.monitor import (
    MigrationStatus,
    MonitorAbsent,
    MonitorLost,
    QemuRefused,
    QmpEvent,
    QmpTime,
)

__all__ = ["GUEST", "Fault", "Qemu", "World", "fresh"]

T = TypeVar("T")

GUEST, ID = "db1", "m1"

_DISK_TURNS = 200
"""Turns of the event loop for a write to the disk."""


class Fault(Enum):
    """What goes wrong at a step."""

    NOTHING = "nothing"
    SOURCE_AGENT = "the source's agent dies before it has done the step"
    SOURCE_AGENT_LATE = "the source's agent dies when it has done the step, and has not heard of it"
    DESTINATION_AGENT = "the destination's agent dies, and is started again at once"
    SOURCE_QEMU = "the source's QEMU dies"
    DESTINATION_QEMU = "the destination's QEMU dies"
    STREAM = "the stream between the QEMUs breaks, and only the source notices"
    LOST_REQUEST = "a request between the agents is lost"
    LOST_ANSWER = "an answer between the agents is lost"


@dataclass
class Qemu:
    """One QEMU; ``world`` is told of what it does."""

    name: str
    world: World
    run_state: str
    status: str = "none"
    alive: bool = True
    events: list[QmpEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, name: str, **data: object) -> None:
        self.events.append(QmpEvent(name, QmpTime(len(self.events), 0), data))
        self._wake()

    def enter(self, status: str) -> None:
        self.status = status
        self.tell("MIGRATION", status=status)

    def run(self) -> None:
        self.run_state = "running"
        self.tell("RESUME")
        self.world.ran(self)

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self._wake()
            self.world.died(self)

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class FakeMonitor:
    """A connection to the monitor of a `Qemu`."""

    def __init__(self, qemu: Qemu) -> None:
        self.qemu = qemu
        self.name = f"QEMU on {qemu.name}"
        self.path = Path("/run") / qemu.name
        self._closed = False

    async def __aenter__(self) -> FakeMonitor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def lost(self) -> bool:
        return self._closed or not self.qemu.alive

    @property
    def events(self) -> tuple[QmpEvent, ...]:
        return tuple(self.qemu.events)

    async def close(self) -> None:
        self._closed = True

    async def is_gone(self) -> bool:
        return not self.qemu.alive

    async def query_status(self) -> str:
        await self.execute("query-status")
        return self.qemu.run_state

    async def query_migrate(self) -> MigrationStatus:
        await self.execute("query-migrate")
        return MigrationStatus(status=self.qemu.status)

    async def wait_event(self, wanted: Callable[[QmpEvent], bool], *, since: int = 0) -> QmpEvent:
        while True:
            for event in self.qemu.events[since:]:
                if wanted(event):
                    return event
            since = len(self.qemu.events)
            if self.lost:
                raise MonitorLost(f"{self.name}: its monitor was lost")
            await self.qemu.changed.wait()

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = 1.0
    ) -> object:
        del timeout
        return await self.qemu.world.at_step(
            self.qemu.name, f"{self.qemu.name}: {command}", lambda: self._do(command, arguments or {})
        )

    def _do(self, command: str, arguments: Mapping[str, object]) -> object:
        if self.lost:
            raise MonitorLost(f"{self.name}: its monitor was lost during {command}")
        if arguments.get("capabilities") is not None or command == "migrate-set-parameters":
            return {}
        return self.qemu.world.command(self.qemu, command)


@dataclass
class FakeHandovers:
    """The handover of the guest, as both agents know it; its own recovery is tested elsewhere."""

    world: World
    state_name: str = ""

    def state_of(self, role: str, host: str, peer: str, state: str) -> HandoverState:
        return HandoverState(
            handover_id=ID,
            guest=GUEST,
            host=host,
            role=role,
            peer=peer,
            state=state,
            open=state not in ("here", "returned"),
            luns=(),
        )

    def state(self) -> HandoverState | None:
        return self.state_of("source", "a", "b", self.state_name) if self.state_name else None

    def summary(self, name: str) -> HandoverSummary | None:
        del name
        return self.summary_of("source", "b", self.state_name) if self.state_name else None

    def at_destination(self, name: str) -> HandoverSummary | None:
        del name
        known = {"prepared": "prepared", "committed": "committed", "gone": "here", "stayed": "returned"}
        state = known.get(self.state_name)
        return None if state is None else self.summary_of("destination", "a", state)

    def summary_of(self, role: str, peer: str, state: str) -> HandoverSummary:
        return HandoverSummary(
            guest=GUEST,
            handover_id=ID,
            role=role,
            peer=peer,
            state=state,
            open=state not in ("here", "returned"),
            problem="",
            in_doubt=False,
        )

    async def prepare(
        self, name: str, handover_id: str, to: str, stale: Stale = Stale.REREAD
    ) -> HandoverState:
        del handover_id, to, stale
        await self.world.at_step("a", "prepare", lambda: self._become("prepared", ("", "prepared")))
        return self._known(name)

    async def ask(self, name: str, handover_id: str, event: Event) -> HandoverState:
        del handover_id
        wanted, allowed = {
            Event.ASKED_COMMIT: ("committed", ("prepared", "committed")),
            Event.ASKED_ROLL_BACK: ("stayed", ("prepared", "committed", "stayed")),
            Event.ASKED_FINISH: ("gone", ("committed", "gone")),
        }[event]
        await self.world.at_step("a", event.value, lambda: self._become(wanted, allowed))
        return self._known(name)

    async def settled(self, name: str) -> None:
        del name

    async def commit_leaves(self, name: str) -> None:
        del name

    def _known(self, name: str) -> HandoverState:
        del name
        state = self.state()
        assert state is not None
        return state

    def _become(self, wanted: str, allowed: tuple[str, ...]) -> None:
        refused = wanted == "committed" and self.world.commit_is_refused
        if self.state_name not in allowed or refused:
            problem = Problem(detail=f"{wanted}: the handover is {self.state_name}", state=self.state_name)
            raise HandoverProblem(problem)
        self.state_name = wanted


class _Dead(Exception):
    """The agent that was at work has died."""


class FakeMonitors:
    """Finds the QEMU of one host."""

    def __init__(self, qemu: Qemu) -> None:
        self.qemu = qemu

    async def connect(self, guest: str) -> FakeMonitor:
        del guest
        if not self.qemu.alive:
            raise MonitorAbsent(f"there is no QEMU on {self.qemu.name}")
        return FakeMonitor(self.qemu)


class SlowJournal(MemoryJournal):
    """A journal whose disk takes longer than a guest stands still: a crash loses what nobody waited for."""

    async def put(self, *records: Record) -> None:
        for _ in range(_DISK_TURNS):
            await asyncio.sleep(0)
        await super().put(*records)


class World:
    """All of it. At step number ``at`` (from 1) ``fault`` strikes.

    Attributes:
        steps: What was done so far, for a test that fails.
    """

    def __init__(
        self, fault: Fault, at: int, *, commit_is_refused: bool = False, came_before: bool = False
    ) -> None:
        """``came_before``: the guest came to the source by a migration, which its QEMU still speaks of."""
        self.fault = fault
        self.at = at
        self.commit_is_refused = commit_is_refused
        self.steps: list[str] = []
        self.source = Qemu("a", self, "running", "completed" if came_before else "none")
        self.destination = Qemu("b", self, "inmigrate")
        self.handovers = FakeHandovers(self)
        self.journal = SlowJournal()
        self.crashed = asyncio.Event()
        self.destination_ran = False
        self._stream_is_broken = False
        self._arrivals = self._new_arrivals()
        self._moves: set[asyncio.Task[None]] = set()

    # -- faults -------------------------------------------------------------------------------------

    async def at_step(self, host: str, what: str, do: Callable[[], T]) -> T:
        self.steps.append(what)
        strikes = len(self.steps) == self.at
        if strikes:
            self.steps.append(f"*** {self.fault.value}")
        if strikes and self.fault is Fault.SOURCE_AGENT:
            await self._dies()
        if strikes and self.fault is Fault.DESTINATION_AGENT:
            self._arrivals = self._new_arrivals()
            if host == "b":
                raise _Dead
        if strikes and self.fault is Fault.SOURCE_QEMU:
            self.source.die()
        if strikes and self.fault is Fault.DESTINATION_QEMU:
            self.destination.die()
        if strikes and self.fault is Fault.STREAM:
            self._break_stream()
        await asyncio.sleep(0)
        result = do()
        if strikes and self.fault is Fault.SOURCE_AGENT_LATE:
            await self._dies()
        return result

    async def _dies(self) -> None:
        self.crashed.set()
        await asyncio.get_running_loop().create_future()

    def _break_stream(self) -> None:
        self._stream_is_broken = True
        if self.source.alive and self.source.status == "active":
            self.source.enter("failed")

    # -- the agents ---------------------------------------------------------------------------------

    def job(self, migration: Migration) -> Job:
        config = AgentConfig(name="a", initiator="iqn.2026-11.org.example:a")
        work = PhaseWork(
            self.handovers,
            FakeMonitors(self.source),  # type: ignore[arg-type]
            TlsFolders(lambda: config),
            lambda: self,  # type: ignore[arg-type,return-value]
            lambda: 0.02,
            self._check,
        )
        return Job(migration, work, self.journal, self.handovers.state, KillHook())

    async def _check(self, migration: Migration) -> None:
        del migration

    def _new_arrivals(self) -> Arrivals:
        config = AgentConfig(name="b", initiator="iqn.2026-11.org.example:b")
        return Arrivals(
            lambda: config,
            FakeMonitors(self.destination),  # type: ignore[arg-type]
            self.handovers.at_destination,
            TlsFolders(lambda: config),
            lambda _: True,
            self.handovers.settled,
        )

    async def qemu(self, request: QemuRequest) -> QemuAnswer:
        """The client of the destination's agent."""
        lost = {Fault.LOST_REQUEST: False, Fault.LOST_ANSWER: False}
        self.steps.append(f"request: {request.action.value}")
        if len(self.steps) == self.at and self.fault in lost:
            self.steps.append(f"*** {self.fault.value}")
            if self.fault is Fault.LOST_REQUEST:
                raise AgentError("the request was lost")
            lost[self.fault] = True
        try:
            answer = await self._arrivals.ask(request, "a", "127.0.0.1")
        except ArrivalRefused as error:
            raise AgentRefused("b", Problem(detail=str(error))) from error
        except _Dead as error:
            raise AgentError("the agent has died") from error
        if lost.get(self.fault):
            raise AgentError("the answer was lost")
        return answer

    # -- QEMU ---------------------------------------------------------------------------------------

    def ran(self, qemu: Qemu) -> None:
        """A QEMU begins to run the guest: never both, and never the source after the destination."""
        if qemu is self.destination:
            self.destination_ran = True
            assert self.handovers.state_name in ("committed", "gone"), self.steps
            assert not (self.source.alive and self.source.run_state == "running"), self.steps
        else:
            assert not self.destination_ran, self.steps

    def died(self, qemu: Qemu) -> None:
        """The other end of the stream notices."""
        if qemu is self.source and self.source.status not in ("none", "completed", "cancelled", "failed"):
            self.destination.die()
        if qemu is self.destination and self.source.alive and self.source.status == "active":
            self.source.enter("failed")
            self.source.run_state = "running"

    def command(self, qemu: Qemu, command: str) -> object:
        match command:
            case "query-migrate":
                return {"status": qemu.status, "socket-address": self._listens(qemu)}
            case "query-migrate-capabilities":
                names = ("events", "pause-before-switchover", "multifd", "postcopy-ram", "auto-converge")
                return [{"capability": name, "state": False} for name in names]
            case "migrate-incoming":
                qemu.status = "setup"
            case "migrate":
                assert self.destination.status == "setup", self.steps
                qemu.enter("active")
                self._later(self._stop_source)
            case "migrate-continue":
                if qemu.status != "pre-switchover":
                    raise QemuRefused("Migration not in expected state: pre-switchover")
                qemu.enter("device")
                self._later(self._send_rest)
            case "migrate_cancel":
                self._cancel()
            case "cont":
                self._cont(qemu)
            case "quit":
                qemu.die()
            case "stop":
                assert qemu.run_state == "inmigrate", self.steps
        return {}

    def _listens(self, qemu: Qemu) -> list[dict[str, str]]:
        listens = qemu is self.destination and qemu.status != "none"
        return [{"type": "inet", "host": "127.0.0.1", "port": "49152"}] if listens else []

    def _later(self, move: Callable[[], None]) -> None:
        async def wait() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            move()

        task = asyncio.ensure_future(wait())
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    def _stop_source(self) -> None:
        if self.source.alive and self.source.status == "active":
            self.source.run_state = "finish-migrate"
            self.source.tell("STOP")
            self.source.enter("pre-switchover")

    def _send_rest(self) -> None:
        if not self.source.alive or self.source.status != "device":
            return
        if self._stream_is_broken or not self.destination.alive:
            self.source.enter("failed")
            self.source.run()
            return
        self.source.run_state = "postmigrate"
        self.source.enter("completed")
        self.destination.run_state = "paused"
        self.destination.enter("completed")

    def _cancel(self) -> None:
        if self.source.status in ("active", "pre-switchover", "device"):
            was_running = self.source.run_state == "running"
            self.source.enter("cancelled")
            if not was_running:
                self.source.run()
            self.destination.die()

    def _cont(self, qemu: Qemu) -> None:
        if qemu.run_state == "inmigrate":
            raise QemuRefused("the guest has not arrived")
        if qemu.run_state != "running":
            qemu.run()


def fresh() -> Migration:
    """A migration that is about to begin."""
    return Migration(migration_id=ID, guest=GUEST, source="a", destination="b", began=0.0)
