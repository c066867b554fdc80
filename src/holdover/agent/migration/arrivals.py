"""The QEMUs of this host that take guests: what the agents of their sources ask of them.

The source's agent says when a guest runs here. This host's agent makes sure of two things by itself: it lets
QEMU run a guest only if its own record says that the reservations are here, and it ends no QEMU whose guest
runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import structlog

from holdover.agent.handover.answers import HandoverSummary
from holdover.agent.migration.monitors import Monitors, NoMonitor
from holdover.agent.migration.tls_folder import TlsFolders
from holdover.api.migration_documents import (
    MigrationOptions,
    QemuAction,
    QemuAnswer,
    QemuPlace,
    QemuRequest,
    Ran,
)
from holdover.config.agent_file import AgentConfig
from holdover.handover.states import DestinationState
from holdover.qemu.incoming import Arrival, IncomingQemu, PortTaken
from holdover.qemu.monitor import MonitorAbsent, MonitorLost, QemuError, QemuMonitor, QemuRefused
from holdover.qemu.stream import StreamSettings, TlsFolder

log = structlog.get_logger()

_LONGEST_WAIT = 20.0
"""Seconds; the source's agent asks again."""

_IDLE_SECONDS = 600.0
"""After this time without a question, a session is forgotten if its handover is over. Sources that are not
done with it ask every few seconds."""

_HAS_RESERVATIONS = frozenset(
    {
        DestinationState.COMMITTED.value,
        DestinationState.VERIFYING.value,
        DestinationState.HERE.value,
        DestinationState.TAKEN.value,
    }
)


class ArrivalRefused(Exception):
    """This host does not do what the source's agent asks; the message says why."""


def stream_settings(options: MigrationOptions, tls: TlsFolder | None) -> StreamSettings:
    """What QEMU is told about the stream of a migration with these options."""
    return StreamSettings(
        bandwidth=options.bandwidth,
        max_downtime=options.max_downtime,
        auto_converge=options.auto_converge,
        multifd=options.multifd,
        compression=options.compression,
        postcopy=options.postcopy,
        tls=tls,
    )


@dataclass
class _IncomingMigration:
    """One migration to this host: its id, the connection to its QEMU, and whether the guest has run.

    ``asked`` is the time of the last question, by the event loop.
    """

    migration_id: str
    monitor: QemuMonitor
    qemu: IncomingQemu
    asked: float
    ran: Ran = Ran.UNKNOWN


class Arrivals:
    """The migrations to this host, one for each guest."""

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        monitors: Monitors,
        newest: Callable[[str], HandoverSummary | None],
        tls: TlsFolders,
        passes: Callable[[str], bool],
        settled: Callable[[str], Awaitable[object]],
    ) -> None:
        """``newest`` returns the newest handover of a guest on this host, as it is on record. ``passes``
        returns whether the commands of a guest pass here now. ``settled`` waits until what that handover does
        now is on record."""
        self._config = config
        self._monitors = monitors
        self._newest = newest
        self._tls = tls
        self._passes = passes
        self._settled = settled
        self._sessions: dict[str, _IncomingMigration] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._sweeper: asyncio.Task[None] | None = None

    async def ask(self, request: QemuRequest, sender: str, own_address: str) -> QemuAnswer:
        """Do what the agent of ``sender`` asks; it has reached this agent at ``own_address``.

        Raises:
            ArrivalRefused: It was not done.
        """
        try:
            async with self._lock(request.guest):
                newest = self._newest(request.guest)
                is_on_record = newest is not None and newest.state in _HAS_RESERVATIONS
                if request.action is QemuAction.RUN and not is_on_record:
                    # The source hears of a commit before the commit is on record.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._config().limits.peer):
                            await self._settled(request.guest)
                # the handover may be another one, or go back, while this request waits for its turn
                if request.action is not QemuAction.CHECK:
                    self._require_handover(request, sender)
                return await self._ask(request, own_address)
        except QemuError as error:
            raise ArrivalRefused(str(error)) from error

    def _lock(self, guest: str) -> asyncio.Lock:
        return self._locks.setdefault(guest, asyncio.Lock())

    async def _ask(self, request: QemuRequest, own_address: str) -> QemuAnswer:
        match request.action:
            case QemuAction.CHECK:
                return await self._check(request)
            case QemuAction.OPEN:
                return await self._open(request, own_address)
            case QemuAction.WAIT:
                return await self._wait(request)
            case QemuAction.RUN:
                return await self._run(request)
            case QemuAction.END:
                return await self._end(request)

    def _require_handover(self, request: QemuRequest, sender: str) -> None:
        """Check that the guest's newest handover here is this one, and comes from ``sender``."""
        newest = self._newest(request.guest)
        here = self._config().name
        if newest is None or (newest.handover_id, newest.role, newest.peer) != (
            request.migration_id,
            "destination",
            sender,
        ):
            raise ArrivalRefused(
                f"handover {request.migration_id} of guest {request.guest} from {sender} is not the newest "
                f"one on {here}"
            )
        if request.action is QemuAction.RUN:
            self._require_reservations(request)

    def _require_reservations(self, request: QemuRequest) -> None:
        """Check that the reservations of the guest's newest handover are here now."""
        newest = self._newest(request.guest)
        state = "over" if newest is None or newest.handover_id != request.migration_id else newest.state
        if state not in _HAS_RESERVATIONS:
            raise ArrivalRefused(
                f"guest {request.guest} must not run on {self._config().name}: its reservations are not "
                f"here, handover {request.migration_id} is {state}"
            )
        if not self._passes(request.guest):
            # it goes back already, which is not on record yet
            raise ArrivalRefused(
                f"guest {request.guest} must not run on {self._config().name}: its commands do not pass "
                f"here; holdover handover status {request.guest} says what comes next"
            )

    # -- what is asked ------------------------------------------------------------------------------

    async def _check(self, request: QemuRequest) -> QemuAnswer:
        session = self._sessions.get(request.guest)
        if session is not None and not session.monitor.lost:
            # QEMU serves one client at its monitor
            uri = await self._look_whether_it_waits(session.qemu)
        else:
            async with await self._monitors.connect(request.guest) as monitor:
                uri = await self._look_whether_it_waits(IncomingQemu(monitor))
        tls = self._tls.folder(request.options, "")
        place = QemuPlace.LISTENING if uri else QemuPlace.WAITING
        return QemuAnswer(place=place, ran=Ran.NO, tls_name="" if tls is None else self._config().name)

    async def _look_whether_it_waits(self, qemu: IncomingQemu) -> str:
        await qemu.require_waiting()
        return await qemu.address("")

    async def _open(self, request: QemuRequest, own_address: str) -> QemuAnswer:
        session = await self._session(request)
        tls = self._tls.folder(request.options, "")
        await session.qemu.require_waiting()
        address = self._config().migration.address or own_address
        uri = await session.qemu.address(address)
        await session.qemu.hold(stream_settings(request.options, tls))
        session.ran = Ran.NO
        if not uri:
            uri = await self._listen(session.qemu, address)
        name = "" if tls is None else self._config().name
        return QemuAnswer(place=QemuPlace.LISTENING, ran=Ran.NO, uri=uri, tls_name=name)

    async def _listen(self, qemu: IncomingQemu, address: str) -> str:
        ports = self._config().migration.port_range
        refused = ""
        for port in ports:
            if not _is_free(address, port):
                continue
            try:
                return await qemu.listen(address, port)
            except PortTaken as error:
                refused = str(error)
        raise QemuError(
            f"{qemu.monitor.name} finds no port to listen at {address} in [migration] ports = "
            f'"{self._config().migration.ports}"{": " + refused if refused else ", all are taken"}'
        )

    async def _wait(self, request: QemuRequest) -> QemuAnswer:
        try:
            session = await self._session(request)
            arrival = await self._arrival(session, request.wait)
        except (MonitorLost, MonitorAbsent) as error:
            return await self._gone(request, error)
        if arrival.run_state == "running":
            await session.monitor.close()  # somebody else may need it
        return _answer(arrival, session.ran)

    async def _arrival(self, session: _IncomingMigration, seconds: float) -> Arrival:
        """How far a QEMU is when the guest has arrived, or after this time."""
        if seconds <= 0:
            return await session.qemu.look()
        try:
            async with asyncio.timeout(min(seconds, _LONGEST_WAIT)):
                return await session.qemu.wait()
        except TimeoutError:
            return await session.qemu.look()

    async def _run(self, request: QemuRequest) -> QemuAnswer:
        try:
            session = await self._session(request)
            arrival = await self._arrival(session, request.wait)
            if arrival.run_state == "inmigrate" or arrival.status == "failed":
                return _answer(arrival, session.ran)
            if not request.runs:
                return _answer(arrival, session.ran)
            self._require_reservations(request)
            before, session.ran = session.ran, Ran.UNKNOWN
            try:
                resumed = await session.qemu.run()
            except QemuRefused as error:
                session.ran = before
                return QemuAnswer(place=QemuPlace.REFUSES, ran=before, problem=str(error))
        except (MonitorLost, MonitorAbsent) as error:
            return await self._gone(request, error)
        session.ran = Ran.YES
        log.info("A guest has arrived and runs here.", guest=request.guest, migration_id=request.migration_id)
        await session.monitor.close()
        when = None if resumed is None else (resumed.seconds, resumed.microseconds)
        return QemuAnswer(place=QemuPlace.RUNNING, ran=Ran.YES, resumed=when)

    async def _end(self, request: QemuRequest) -> QemuAnswer:
        try:
            session = await self._session(request)
            arrival = await session.qemu.look()
            if arrival.run_state not in ("inmigrate", "paused", "postmigrate", "prelaunch"):
                return _answer(arrival, Ran.YES if arrival.run_state == "running" else session.ran)
            await session.qemu.end()
        except (MonitorLost, MonitorAbsent) as error:
            return await self._gone(request, error)
        log.info("The QEMU process that waited for a guest was ended.", guest=request.guest)
        ran = session.ran
        await self._leave(request.guest)
        return QemuAnswer(place=QemuPlace.GONE, ran=ran)

    async def run_taken(self, guest: str) -> None:
        """Run a guest whose reservations were taken, if a QEMU here has all of it and stands still.

        Raises:
            QemuError: QEMU cannot be asked, or refuses.
        """
        try:
            monitor = await self._take_over(guest)
        except (NoMonitor, MonitorAbsent):
            return  # Another program runs the guest, or starts it again.
        async with monitor:
            qemu = IncomingQemu(monitor)
            arrival = await qemu.look()
            if arrival.run_state == "paused" and arrival.status == "completed":
                await qemu.run()
                log.info("A guest was taken from its dead source and runs here.", guest=guest)

    async def _take_over(self, guest: str) -> QemuMonitor:
        """The connection to a guest's QEMU, of which no session is left."""
        async with self._lock(guest):
            await self._leave(guest)
        return await self._monitors.connect(guest)

    # -- sessions -----------------------------------------------------------------------------------

    async def _session(self, request: QemuRequest) -> _IncomingMigration:
        session = self._sessions.get(request.guest)
        if session is not None and session.migration_id != request.migration_id:
            await self._leave(request.guest)
            session = None
        if session is None or session.monitor.lost:
            monitor = await self._monitors.connect(request.guest)
            ran = Ran.UNKNOWN if session is None else session.ran
            now = asyncio.get_running_loop().time()
            session = _IncomingMigration(request.migration_id, monitor, IncomingQemu(monitor), now, ran)
            self._sessions[request.guest] = session
            if self._sweeper is None or self._sweeper.done():
                self._sweeper = asyncio.ensure_future(self._sweep())
        session.asked = asyncio.get_running_loop().time()
        return session

    async def _sweep(self) -> None:
        """Forget sessions whose source has gone, as long as there are sessions. A monitor of QEMU serves one
        client, and the next one may be another program.
        """
        while self._sessions:
            await asyncio.sleep(_IDLE_SECONDS / 2)
            for guest, session in tuple(self._sessions.items()):
                async with self._lock(guest):
                    if self._sessions.get(guest) is session and self._is_over(guest, session):
                        await self._leave(guest)

    def _is_over(self, guest: str, session: _IncomingMigration) -> bool:
        if asyncio.get_running_loop().time() - session.asked < _IDLE_SECONDS:
            return False
        newest = self._newest(guest)
        return newest is None or newest.handover_id != session.migration_id or not newest.open

    async def _gone(self, request: QemuRequest, error: QemuError) -> QemuAnswer:
        """The answer when the connection to QEMU has ended; only if nobody listens there QEMU has ended."""
        session = self._sessions.get(request.guest)
        ran = Ran.UNKNOWN if session is None else session.ran
        if isinstance(error, MonitorAbsent) or (session is not None and await session.monitor.is_gone()):
            return QemuAnswer(place=QemuPlace.GONE, ran=ran, problem=f"{error}: QEMU there has ended")
        raise error

    async def _leave(self, guest: str) -> None:
        session = self._sessions.pop(guest, None)
        if session is not None:
            await session.monitor.close()

    async def close(self) -> None:
        """Close all connections to QEMUs; this changes nothing there."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for guest in tuple(self._sessions):
            await self._leave(guest)


def _answer(arrival: Arrival, ran: Ran) -> QemuAnswer:
    if arrival.status == "failed":
        problem = arrival.error or "QEMU could not load the guest"
        return QemuAnswer(place=QemuPlace.FAILED, ran=ran, problem=problem)
    if arrival.run_state == "running":
        return QemuAnswer(place=QemuPlace.RUNNING, ran=Ran.YES)
    place = QemuPlace.LISTENING if arrival.run_state == "inmigrate" else QemuPlace.ARRIVED
    return QemuAnswer(place=place, ran=ran)


def _is_free(address: str, port: int) -> bool:
    """Whether nobody listens at a port now; QEMU may still lose the race for it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((address, port))
        except OSError:
            return False
        return True
