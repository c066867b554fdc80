"""The LUNs of a simulation: the project's own logical units, behind paths on which everything can go wrong.

A command goes to its LUN at one time and its answer comes back at another. Between the two the process that
waits may die, the session may break, and the LUN may hang or lose its power. A command whose session has
broken may still be carried out, until the same nexus logs in again: then the target has ended it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from random import Random
from typing import Protocol

from msgspec import structs

from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.logical_unit import LogicalUnit
from holdover.lun.reservations import ReservationState, TargetLimits
from holdover.paths.submitted import Submitted
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, Awaited, PathError
from holdover.scsi.reservation.reservation_out import ParameterList, in_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, describe_response
from holdover.scsi.status import Status
from tests.lun.support import LACKING, MemoryMedium, is_read_full_status
from tests.simulation.clockwork import Process
from tests.simulation.rates import NONE, Rates
from tests.simulation.transcript import Transcript, describe


class _Fate(Enum):
    """What becomes of a command on its way."""

    ANSWERED = "answered"
    UNANSWERED = "carried out, and not answered"
    LOST = "not carried out, and not answered"
    BUSY = "answered BUSY, and not carried out"
    ABORTED = "carried out, and answered ABORTED COMMAND"


_ABORTED = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)
_BUSY = Response(Status.BUSY)
_OFFLINE = check_condition(
    SenseKey.NOT_READY, AdditionalSense.LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED
)
_FULL = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INSUFFICIENT_REGISTRATION_RESOURCES)
REGISTERS = frozenset({OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY})
_CUT = frozenset({OperationCode.PERSISTENT_RESERVE_IN, OperationCode.INQUIRY})
_HEADER = 8
_NONSENSE = 0.03
_BROKEN = 0.85
_REPORT_CAPABILITIES = in_command(InServiceAction.REPORT_CAPABILITIES).cdb[:2]
_QUICK = 2000.0
"""One by the mean delay, in seconds, on the way to a LUN and on the way back."""
_LEARNS = 1.0
"""The seconds until a target has learned that the connection of a session has ended."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose nexus a command comes by: a guest's on a host, or a third node's, which has no ``guest``."""

    host: str
    guest: str = ""

    def __str__(self) -> str:
        return f"{self.host} for {self.guest}" if self.guest else self.host


class Outage(Enum):
    """What a LUN does not do for a while."""

    NONE = "is itself again"
    OFFLINE = "IS OFFLINE"
    FULL = "HAS NO ROOM FOR A REGISTRATION"
    BREAKING = "BREAKS THE SESSIONS BY WHICH REGISTRATIONS ARE CHANGED"


class Observer(Protocol):
    """Is told of every command that a LUN has carried out."""

    def observe(
        self,
        lun: Lun,
        sender: Sender,
        nexus: ITNexus,
        command: Command,
        before: ReservationState,
        response: Response,
    ) -> None: ...

    def lost_power(self, lun: Lun) -> None: ...


@dataclass(eq=False, slots=True)
class _Flight:
    """A command under way; ``answer`` is called in the sender's process with what came of it."""

    path: LunPath
    session: int
    command: Command
    answer: Callable[[Response | Exception], None]
    fate: _Fate
    ended: bool = False


class Lun:
    """One logical unit.

    Attributes:
        name: The LUN's name in transcripts.
        hanging: Whether commands wait until it works again.
        losing: How many of the next commands, or their answers, are lost.
        outage: What it does not do now.
        nonsense: Whether some answers are nonsense, and REPORT CAPABILITIES is lacking.
    """

    def __init__(
        self,
        name: str,
        world: Process,
        random: Random,
        observer: Observer,
        log: Transcript,
        *,
        full_status: bool,
        target_ports: int = 1,
    ) -> None:
        """``full_status``: whether it has READ FULL STATUS."""
        self.name = name
        self.rates = NONE
        self.hanging = False
        self.nonsense = False
        self.losing = 0
        self.outage = Outage.NONE
        self.log = log
        self.random = random
        self.world = world
        self._observer = observer
        self._full_status = full_status
        self._identity = UnitIdentity(name)
        self._medium = MemoryMedium()
        self._limits = TargetLimits(ports=tuple(range(1, target_ports + 1)))
        self._unit = LogicalUnit(self._medium, self._identity, limits=self._limits)
        self._waiting: list[_Flight] = []
        self._sessions: dict[tuple[ITNexus, int, str], int] = {}
        self._under_way: dict[_Flight, None] = {}

    @property
    def state(self) -> ReservationState:
        """The persistent reservations in force."""
        return self._unit.state

    @property
    def reserved_by(self) -> ITNexus | None:
        """The nexus that has reserved it by RESERVE."""
        return self._unit.legacy_holder

    @property
    def designator(self) -> str:
        """The designator by which agents know it."""
        return str(self._identity.naa)

    def send(self, flight: _Flight, delay: float) -> None:
        """Take a command, which arrives after a delay."""
        self._under_way[flight] = None
        self.world.call_later(delay, self._arrive, flight)

    def _arrive(self, flight: _Flight) -> None:
        path = flight.path
        login = path.nexus, path.number, path.sender.host
        newest = self._sessions.get(login, 0)
        if flight.session < newest:
            self._under_way.pop(flight, None)  # the target has ended it: the nexus has logged in again
            return
        if flight.session > newest:
            if newest:
                self._unit.nexus_lost(path.nexus)
            self._sessions[login] = flight.session
        if self.hanging:
            self._waiting.append(flight)
            return
        del self._under_way[flight]
        if flight.fate is _Fate.LOST:
            if not flight.ended:
                flight.ended = True
                path.break_session("a command is lost")
                flight.answer(AnswerLost(path.name, "the connection was lost"))
            return
        response = (
            _BUSY if flight.fate is _Fate.BUSY else self.carry_out(path.sender, path.nexus, flight.command)
        )
        if flight.fate is _Fate.ABORTED:
            response = _ABORTED
        if self.nonsense and self.rates is not NONE:
            response = self._as_nonsense(flight.command, response)
        if flight.ended:
            return
        flight.ended = True
        if flight.fate is _Fate.UNANSWERED:
            path.break_session("an answer is lost")
            flight.answer(AnswerLost(path.name, "the connection was lost"))
            return
        flight.answer(response)

    def _as_nonsense(self, command: Command, response: Response) -> Response:
        """Perhaps only a part of the data, which cannot be taken for the whole."""
        random = self.random
        if command.opcode not in _CUT or len(response.data_in) < _HEADER or random.random() > _NONSENSE:
            return response
        return structs.replace(response, data_in=response.data_in[: random.randrange(1, _HEADER)])

    def carry_out(self, sender: Sender, nexus: ITNexus, command: Command) -> Response:
        """Carry out a command now."""
        before = self._unit.state
        lacks = not self._full_status and is_read_full_status(command)
        lacks = lacks or (self.nonsense and command.cdb[:2] == _REPORT_CAPABILITIES)
        response = LACKING if lacks else self._refusal(nexus, command) or self._unit.execute(nexus, command)
        if self.log.on and command.opcode != OperationCode.WRITE_10:
            self.log.line(
                sender.host, f"{self.name}: {describe(sender.guest, command)}: {describe_response(response)}"
            )
            if self._unit.state != before:
                self.log.line(self.name, self.log.registrations(self._unit.state))
        self._observer.observe(self, sender, nexus, command, before, response)
        return response

    def _refusal(self, nexus: ITNexus, command: Command) -> Response | None:
        """The answer to what it does not do now; None: it does it."""
        if self.outage is Outage.OFFLINE and command.opcode != OperationCode.INQUIRY:
            return _OFFLINE
        if self.outage is Outage.FULL and not self.state.key_of(nexus) and registers_anew(command):
            return _FULL
        return None

    def end_session(self, path: LunPath, session: int) -> None:
        """Note that the connection of a session has ended: its nexus loses what it had by RESERVE."""
        login = path.nexus, path.number, path.sender.host
        if self._sessions.get(login) == session:
            self._sessions[login] = session + 1  # what is still under way by it is never carried out
            self._unit.nexus_lost(path.nexus)

    def hang(self) -> None:
        """Carry nothing out until `work`."""
        self.hanging = True

    def work(self) -> None:
        """Carry out what has waited, and everything that comes."""
        self.hanging = False
        waiting, self._waiting = self._waiting, []
        for flight in waiting:
            self._arrive(flight)

    def lose_power(self) -> None:
        """Lose the power, and get it again at once: what is under way has no answer."""
        flights, self._under_way, self._waiting = tuple(self._under_way), {}, []
        for flight in flights:
            flight.session = -1
        state = self._unit.state.after_power_loss()
        self._unit = LogicalUnit(self._medium, self._identity, state=state, limits=self._limits)
        self._observer.lost_power(self)
        for flight in flights:
            if not flight.ended:
                flight.ended = True
                flight.path.break_session("the LUN lost its power")
                flight.answer(AnswerLost(flight.path.name, "the connection was lost"))

    def reset(self) -> None:
        """Be reset, as by LOGICAL UNIT RESET."""
        self._unit.reset()


@dataclass(eq=False)
class LunPath:
    """The path of one process to one LUN: one I_T nexus and the session by which it is logged in.

    Attributes:
        process: The process that uses it; commands of a process that has died go on without it.
        sender: Whose nexus it is.
        number: Which of several paths it is: on some LUNs, two paths by one initiator port are one nexus.
        in_order: Whether the answers come in their order, as by one connection.
    """

    lun: Lun
    process: Process
    sender: Sender
    nexus: ITNexus
    name: str
    numbers: Callable[[], int]
    number: int = 0
    nexuses: int = 1
    in_order: bool = False
    _answered_at: float = 0.0
    _session: int = 0
    _flights: dict[_Flight, None] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether it is logged in."""
        return self._session != 0

    async def execute(self, command: Command) -> Response:
        """Send one command; see `Path.execute`."""
        lun, random = self.lun, self.lun.random
        rates, fate, delay = lun.rates, _Fate.ANSWERED, random.expovariate(_QUICK)
        if rates is not NONE:
            if random.random() < rates.unsent:
                await asyncio.sleep(delay)
                raise PathError(self.name, "cannot be reached")
            if random.random() < rates.slow:
                delay += random.random() * 3
            fate = _fate(random, rates)
            if lun.losing:
                lun.losing -= 1
                fate = random.choice((_Fate.UNANSWERED, _Fate.LOST))
            if lun.outage is Outage.BREAKING and changes(command) and random.random() < _BROKEN:
                fate = random.choice((_Fate.UNANSWERED, _Fate.LOST))
        if not self._session:
            self._session = self.numbers()
        done: asyncio.Future[Response] = self.process.create_future()
        back = random.expovariate(_QUICK)

        def answer(result: Response | Exception) -> None:
            self._flights.pop(flight, None)
            self._answered_at = max(self._answered_at if self.in_order else 0.0, self.process.time() + back)
            self.process.call_at(self._answered_at, _settle, done, result)

        flight = _Flight(self, self._session, command, answer, fate)
        self._flights[flight] = None
        lun.send(flight, delay)
        return await done

    def break_session(self, why: str) -> None:
        """Lose the connection: nothing under way by it has an answer, and some of it is carried out yet."""
        if not self._session:
            return
        self._session = 0
        if self.lun.log.on:
            self.lun.log.line(
                self.sender.host, f"{self.lun.name}: the session of {self.sender} breaks: {why}"
            )
        flights, self._flights = tuple(self._flights), {}
        for flight in flights:
            if not flight.ended:
                flight.ended = True
                flight.answer(AnswerLost(self.name, "the connection was lost"))

    def die(self) -> None:
        """The process has died: some of what it has sent is carried out yet, and some is not."""
        flights, self._flights = tuple(self._flights), {}
        for flight in flights:
            flight.ended = True
            if self.lun.random.random() < 0.5:
                flight.session = -1

    async def close(self) -> None:
        """Nothing: the kernel stays logged in."""


class PortPath(LunPath):
    """A path whose initiator port is known, as by iSCSI."""

    @property
    def port(self) -> str:
        """The initiator port as READ FULL STATUS names it."""
        return str(self.nexus.initiator)

    def die(self) -> None:
        """As `LunPath.die`; the target learns of it a little later."""
        super().die()
        self._end()

    async def close(self) -> None:
        """Log out."""
        self._end()

    def _end(self) -> None:
        session, self._session = self._session, 0
        if session:
            self.lun.world.call_later(_LEARNS, self.lun.end_session, self, session)

    def submit(self, command: Command) -> Submitted | None:
        """Send one command, as an open session does."""
        if not self._session:
            return None
        return Submitted(asyncio.ensure_future(self.execute(command)), self.explain)

    def forward(self, command: Command, awaited: Awaited) -> Callable[[], Awaitable[None]] | None:
        """Send one command, as an open session does, and tell its end by a call."""
        if not self._session:
            return None
        sent = asyncio.ensure_future(self.execute(command))
        sent.add_done_callback(partial(_tell, awaited))
        return partial(self._abort, command, sent)

    async def _abort(self, command: Command, sent: asyncio.Future[Response]) -> None:
        """ABORT TASK: what has not been carried out when the LUN hears of it never is."""
        sent.cancel()
        await asyncio.wait([sent])
        await asyncio.sleep(self.lun.random.expovariate(_QUICK))
        for flight in self._flights:
            if flight.command is command:
                flight.session, flight.ended = -1, True

    def explain(self, error: Exception) -> PathError:
        """The error as it is: a `PathError`."""
        assert isinstance(error, PathError)
        return error


def _tell(awaited: Awaited, sent: asyncio.Future[Response]) -> None:
    if sent.cancelled():
        return
    error = sent.exception()
    if isinstance(error, Exception):
        awaited.failed(error)
    else:
        awaited.answered(sent.result())


def registers_anew(command: Command) -> bool:
    """Whether a command is to register a nexus that is not registered."""
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
        return False
    action = PersistentReserveOut.decode(command.cdb).service_action
    keys = ParameterList.decode(command.data_out)
    ignores = action == OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
    return action in REGISTERS and keys.service_action_key != 0 and (ignores or keys.key == 0)


def changes(command: Command) -> bool:
    """Whether a command may change registrations or the reservation; a REGISTER of the same key does not."""
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
        return False
    keys = ParameterList.decode(command.data_out)
    is_register = PersistentReserveOut.decode(command.cdb).service_action == OutServiceAction.REGISTER
    return not is_register or keys.key != keys.service_action_key


def _fate(random: Random, rates: Rates) -> _Fate:
    if random.random() < rates.answer_lost:
        return _Fate.UNANSWERED
    if random.random() < rates.command_lost:
        return _Fate.LOST
    if random.random() < rates.busy:
        return random.choice((_Fate.BUSY, _Fate.BUSY, _Fate.ABORTED))
    return _Fate.ANSWERED


def _settle(done: asyncio.Future[Response], result: Response | Exception) -> None:
    if done.done():
        return
    if isinstance(result, Exception):
        done.set_exception(result)
    else:
        done.set_result(result)
