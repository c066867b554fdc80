"""A world in which a handover can go wrong in every way: for `explore`, which goes through all of it.

Two agents run the machines of `holdover.handover.protocol` and the steps of `holdover.handover.work` on
logical units that follow the project's own rules (`holdover.lun.reservations`). Around them are the guest, who
drives the migration, a third nexus that interferes, and a network. One action is: one command on one LUN,
one message delivered, one event. Faults are counted: a crash of an agent (its command under way may still be
carried out later; what it was about to send may not have been sent), a message lost, doubled or overtaken by
a time limit, a partition, an answer of a LUN that is lost whether or not the command was carried out.

All parts of a world are interned, so that a world is a tuple of small numbers and equal parts are worked out once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from holdover.guest.gate import Gate
from holdover.guest.scsi_block import Tracked
from holdover.handover import protocol
from holdover.handover.moving import UNREGISTERED, MovingLun
from holdover.handover.protocol import (
    Answer,
    Answered,
    Destination,
    DoWork,
    Effect,
    Happened,
    Message,
    Open,
    Reply,
    Source,
    Tell,
)
from holdover.handover.states import DESTINATION, SOURCE, DestinationState, Event, SourceState
from holdover.handover.steps import LostAnswer, StepFailed
from holdover.handover.work import Work, steps_of
from holdover.lun.reservations import ReservationState, persistent_reserve_out
from holdover.scsi.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.reservation_in import ReadKeys, ReadReservation, Reservation
from holdover.scsi.reservation_out import ParameterList
from holdover.scsi.status import Status
from holdover.scsi.transport_id import IscsiTransportID

__all__ = ["Bounds", "Case", "Model", "Violation", "World"]


def _nexus(name: str) -> ITNexus:
    return ITNexus(IscsiTransportID(f"iqn.2026-11.org.example:{name}", b"\x80\0\0\0\0\1"))


SOURCE_NEXUS, DESTINATION_NEXUS, THIRD_NEXUS = map(_nexus, ("source", "destination", "third"))
NEXUSES = (SOURCE_NEXUS, DESTINATION_NEXUS)
KEY, NEW_KEY, THIRD_KEY, SOURCE_SPARE, DESTINATION_SPARE, FRESH_SPARE = 0xA, 0xB, 0xC, 0x50, 0xD0, 0xF0

_GOOD = Response(Status.GOOD)
_CONFLICT = Response(Status.RESERVATION_CONFLICT)
_LOST = None

AT_SOURCE, STOPPED, AT_DESTINATION = "source", "stopped", "destination"


class Violation(Exception):
    """A promise is broken."""


@dataclass(frozen=True)
class Case:
    """What is so on a LUN before the handover.

    ``third_key``: of a third nexus, 0 for none; ``third_holds``: the reservation of that ``type`` is its own.
    """

    type: ReservationType | None
    third_key: int = 0
    third_holds: bool = False
    registered: bool = True

    @property
    def tracked(self) -> Tracked:
        if not self.registered:
            return UNREGISTERED
        return Tracked(KEY, True, None if self.third_holds else self.type)

    def state(self) -> ReservationState:
        state = ReservationState()
        if self.third_key:
            state = _out(state, THIRD_NEXUS, OutServiceAction.REGISTER, 0, self.third_key)
        if self.registered:
            state = _out(state, SOURCE_NEXUS, OutServiceAction.REGISTER, 0, KEY)
        if self.type is not None:
            holder = (THIRD_NEXUS, self.third_key) if self.third_holds else (SOURCE_NEXUS, KEY)
            state = _out(state, holder[0], OutServiceAction.RESERVE, holder[1], type=self.type)
        return state


@dataclass(frozen=True)
class Bounds:
    """How much may go wrong: faults, actions of the third nexus, changes by the guest."""

    faults: int = 2
    thirds: int = 0
    changes: int = 0


@dataclass(frozen=True)
class Safeguards:
    """Parts of the design that can be taken away, to see that the model notices."""

    journal: bool = True
    rekey: bool = True
    ask: bool = True
    gate: bool = True
    numbers: bool = True


def _out(
    state: ReservationState,
    nexus: ITNexus,
    action: OutServiceAction,
    key: int,
    service_key: int = 0,
    type: ReservationType | None = None,
) -> ReservationState:
    outcome = persistent_reserve_out(
        state, nexus, action, ParameterList(key, service_key, True), type=int(type or 0)
    )
    assert outcome.good
    return replace(outcome.state, generation=0)


@cache
def execute(state: ReservationState, nexus: ITNexus, command: Command) -> tuple[ReservationState, Response]:
    """What a LUN does with one of our commands; PRgeneration and unit attentions are left out."""
    if command.opcode == OperationCode.TEST_UNIT_READY:
        return state, _GOOD
    if command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
        if PersistentReserveIn.decode(command.cdb).service_action == InServiceAction.READ_KEYS:
            keys = tuple(sorted(each.key for each in state.registrations))
            return state, Response(Status.GOOD, ReadKeys(0, keys).encode())
        held = state.reservation
        found = None
        if held is not None:
            found = Reservation(0 if held.holder is None else state.key_of(held.holder), held.type)
        return state, Response(Status.GOOD, ReadReservation(0, found).encode())
    cdb = PersistentReserveOut.decode(command.cdb)
    outcome = persistent_reserve_out(
        state,
        nexus,
        OutServiceAction(cdb.service_action),
        ParameterList.decode(command.data_out),
        type=cdb.type,
        scope=cdb.scope,
    )
    if outcome.good:
        return replace(outcome.state, generation=0), _GOOD
    return state, _CONFLICT


class World(NamedTuple):
    """Everything at one instant; numbers name interned parts of the `Model`, -1 is none.

    Tasks are () for none, ("work", progress of each LUN) or ("tell", number); a work's progress is interned.
    ``net`` holds messages and answers on their way, ``late`` commands of a crashed agent that may still
    be carried out: (agent, LUN, command). ``truth`` is what the guest has established and nobody taken;
    where ``open_end``, a third has preempted its key while one of its nexuses had another one for a moment:
    then to be removed is as right as to stay.
    """

    luns: tuple[int, ...]
    source: int
    source_journal: int
    source_up: bool
    source_task: tuple[Any, ...]
    destination: int
    destination_journal: int
    destination_up: bool
    destination_task: tuple[Any, ...]
    net: tuple[int, ...]
    guest: str
    device: tuple[int, ...]
    truth: tuple[int, ...]
    open_end: tuple[bool, ...]
    ledger: tuple[int, ...]
    faults: int
    thirds: int
    changes: int
    cut: bool
    late: tuple[tuple[int, int, int], ...]


class Progress(NamedTuple):
    """How far one work on one LUN has come: the answers that it had; ``None`` among them is a lost one."""

    work: Work
    lun: MovingLun
    answers: tuple[Response | None, ...]


class Ended(NamedTuple):
    """A work on one LUN that has ended; ``lun`` is None when it failed."""

    lun: MovingLun | None


class Model:
    """The worlds of one case and what can happen in each."""

    def __init__(self, cases: tuple[Case, ...], bounds: Bounds, safeguards: Safeguards | None = None) -> None:
        self.cases = cases
        self.bounds = bounds
        self.safe = safeguards or Safeguards()
        self._ids: dict[object, int] = {}
        self._parts: list[Any] = []
        self._next: dict[int, Any] = {}
        self._steps: dict[Any, Any] = {}

    # -- parts --------------------------------------------------------------------------------------

    def id(self, part: object) -> int:
        """The number of a part; -1 of None."""
        if part is None:
            return -1
        found = self._ids.get(part)
        if found is None:
            found = self._ids[part] = len(self._parts)
            self._parts.append(part)
        return found

    def part(self, number: int) -> Any:
        """The part of a number."""
        return None if number < 0 else self._parts[number]

    def start(self) -> World:
        """Before anything has happened."""
        tracked = tuple(self.id(case.tracked) for case in self.cases)
        return World(
            tuple(self.id(case.state()) for case in self.cases),
            -1,
            -1,
            True,
            (),
            -1,
            -1,
            True,
            (),
            (),
            AT_SOURCE,
            tracked,
            tracked,
            (False,) * len(tracked),
            tuple(case.third_key for case in self.cases),
            self.bounds.faults,
            self.bounds.thirds,
            self.bounds.changes,
            False,
            (),
        )

    def _advance(self, number: int) -> Any:
        """The next command of a progress, or how it ended."""
        if number in self._next:
            return self._next[number]
        progress = self.part(number)
        if isinstance(progress, Ended):
            self._next[number] = progress
            return progress
        lun = progress.lun
        if not self.safe.rekey:
            lun = replace(lun, shared=False)
        steps = steps_of(progress.work, lun)
        result: Any
        try:
            result = next(steps)
            for answer in progress.answers:
                if answer is not None:
                    result = steps.send(answer)
                elif self.safe.ask:
                    result = steps.throw(LostAnswer())
                else:
                    result = steps.send(_GOOD)
        except StopIteration as done:
            result = Ended(done.value)
        except StepFailed:
            result = Ended(None)
        self._next[number] = result
        return result

    # -- machines -----------------------------------------------------------------------------------

    def _plain(self, machine: Any) -> Any:
        """A machine without its words: they decide nothing."""
        if isinstance(machine, Source):
            luns = tuple(_silent(lun) for lun in machine.luns)
            return replace(machine, problem="", reason="!" if machine.reason else "", luns=luns)
        if isinstance(machine, Destination):
            answer = machine.answer
            if answer is not None:
                answer = _plain_answer(answer)
            return replace(machine, problem="", luns=tuple(map(_silent, machine.luns)), answer=answer)
        return machine

    def _source_step(self, number: int, happened: Happened) -> tuple[int, tuple[Effect, ...]]:
        key = (number, happened)
        found = self._steps.get(key)
        if found is None:
            machine, effects = protocol.source_step(self.part(number), happened)
            found = self._steps[key] = self.id(self._plain(machine)), effects
        return found  # type: ignore[no-any-return]

    def _destination_step(self, number: int, happened: Happened | Message) -> tuple[int, tuple[Effect, ...]]:
        key = (number, happened)
        found = self._steps.get(key)
        if found is None:
            if isinstance(happened, Message):
                machine, effects = protocol.destination_hears(self.part(number), happened, "source")
            else:
                machine, effects = protocol.destination_step(self.part(number), happened)
            found = self._steps[key] = self.id(self._plain(machine)), effects
        return found  # type: ignore[no-any-return]

    def _at_source(self, world: World, happened: Happened) -> World:
        number, effects = self._source_step(world.source, happened)
        return self._source_effects(world, number, effects)

    def _source_effects(self, world: World, number: int, effects: tuple[Effect, ...]) -> World:
        journal = number if self.safe.journal else world.source_journal
        # an event that begins no activity leaves the one that is under way
        task = world.source_task if len(effects) == 1 else ()
        net = world.net
        for effect in effects:
            if isinstance(effect, DoWork):
                task = ("work", *(self._begin(effect.work, lun) for lun in self.part(number).luns))
            elif isinstance(effect, Tell):
                task = ("tell", effect.message.number)
                if not world.cut and world.destination_up:
                    luns = tuple(map(_silent, effect.message.luns))
                    net = _with(net, self.id(replace(effect.message, luns=luns)))
        device = world.device
        machine = self.part(number)
        if machine.state is SourceState.STAYED:
            device = tuple(self.id(lun.tracked) for lun in machine.luns)
        return world._replace(source=number, source_journal=journal, source_task=task, net=net, device=device)

    def _at_destination(self, world: World, happened: Happened | Message) -> World:
        number, effects = self._destination_step(world.destination, happened)
        task: tuple[Any, ...] = ()
        net, journal = world.net, world.destination_journal
        for effect in effects:
            if isinstance(effect, DoWork):
                task = ("work", *(self._begin(effect.work, lun) for lun in self.part(number).luns))
            elif isinstance(effect, Reply):
                if not world.cut and world.source_up:
                    net = _with(net, self.id(_plain_answer(effect.answer)))
            elif not isinstance(effect, Open) and self.safe.journal:
                journal = number
        return world._replace(destination=number, destination_journal=journal, destination_task=task, net=net)

    def _begin(self, work: Work, lun: MovingLun) -> int:
        if work is Work.DRAIN:
            return self.id(Ended(lun))
        return self.id(Progress(work, lun, ()))

    # -- actions ------------------------------------------------------------------------------------

    def successors(self, world: World) -> Iterator[tuple[str, World, bool]]:
        """Everything that can happen: what it is, the world after it, whether it is a fault."""
        for what, after in self._orderly(world):
            yield what, after, False
        if world.faults:
            left = world._replace(faults=world.faults - 1)
            for what, after in self._faults(left):
                yield what, after, True

    def _orderly(self, world: World) -> Iterator[tuple[str, World]]:
        yield from self._works(world)
        yield from self._messages(world)
        yield from self._orchestrator(world)
        yield from self._guest(world)
        yield from self._third(world)
        if world.cut:
            yield "the partition heals", world._replace(cut=False)
        if not world.source_up:
            yield "the source restarts", self._restart_source(world)
        if not world.destination_up:
            yield "the destination restarts", self._restart_destination(world)
        for ghost in world.late:
            who, lun, command = ghost
            luns, _ = self._execute(world, who, lun, self.part(command))
            left = tuple(each for each in world.late if each != ghost)
            yield f"a late command on LUN {lun}", world._replace(luns=luns, late=left)

    def _restart_source(self, world: World) -> World:
        up = world._replace(source_up=True, source=world.source_journal, source_task=())
        machine = self.part(up.source)
        if machine is None:
            return up
        news = tuple(
            replace(lun, tracked=self.part(device))
            for lun, device in zip(machine.luns, world.device, strict=True)
            if lun.tracked != self.part(device) and Event.CHANGED in SOURCE[machine.state]
        )
        return self._at_source(up, Happened(Event.RESTARTED, news))

    def _restart_destination(self, world: World) -> World:
        up = world._replace(destination_up=True, destination=world.destination_journal, destination_task=())
        if up.destination < 0:
            return up
        return self._at_destination(up, Happened(Event.RESTARTED))

    def _works(self, world: World) -> Iterator[tuple[str, World]]:
        for who, task in enumerate((world.source_task, world.destination_task)):
            if not task or task[0] != "work":
                continue
            ends = [self._advance(number) for number in task[1:]]
            if all(isinstance(end, Ended) for end in ends):
                yield from self._ended(world, who, [end.lun for end in ends])
                continue
            for lun, command in enumerate(ends):
                if not isinstance(command, Ended):
                    luns, answer = self._execute(world, who, lun, command)
                    after = self._send(world._replace(luns=luns), who, lun, answer)
                    yield f"{_WHO[who]}: {_name(command)} on LUN {lun}", after

    def _ended(self, world: World, who: int, luns: list[MovingLun | None]) -> Iterator[tuple[str, World]]:
        good = [_silent(lun) for lun in luns if lun is not None]
        happened = Happened(Event.FAILED) if len(good) < len(luns) else Happened(Event.DONE, tuple(good))
        step = self._at_destination if who else self._at_source
        yield f"{_WHO[who]}: {happened.event.value}", step(world, happened)

    def _execute(
        self, world: World, who: int, lun: int, command: Command
    ) -> tuple[tuple[int, ...], Response]:
        self._check_written(world, who)
        state, answer = execute(self.part(world.luns[lun]), NEXUSES[who], command)
        return _set(world.luns, lun, self.id(state)), answer

    def _check_written(self, world: World, who: int) -> None:
        written = (world.source == world.source_journal, world.destination == world.destination_journal)
        up = (world.source_up, world.destination_up)
        if self.safe.journal and up[who] and not written[who]:
            raise Violation("a step is seen from outside before it is in the journal")

    def _send(self, world: World, who: int, lun: int, answer: Response | None) -> World:
        """The world after an answer of a LUN; what was late of that nexus there can come no more."""
        task = world.destination_task if who else world.source_task
        progress = self.part(task[1 + lun])
        more = self.id(progress._replace(answers=(*progress.answers, answer)))
        end = self._advance(more)
        if isinstance(end, Ended):
            more = self.id(end)
        task = _set(task, 1 + lun, more)
        late = tuple(each for each in world.late if each[:2] != (who, lun))
        if who:
            return world._replace(destination_task=task, late=late)
        return world._replace(source_task=task, late=late)

    def _messages(self, world: World) -> Iterator[tuple[str, World]]:
        waits = world.source_task[1] if world.source_task[:1] == ("tell",) else None
        for number in world.net:
            item = self.part(number)
            left = world._replace(net=_without(world.net, number))
            if isinstance(item, Message) and world.destination_up and not world.destination_task:
                yield f"{item.kind.value} {item.number} arrives", self._at_destination(left, item)
            elif isinstance(item, Answer) and world.source_up:
                if item.number != waits:
                    yield "an answer that nobody waits for", left
                else:
                    yield from self._answered(left, item)
        if waits is not None and not self._is_on_its_way(world, waits):
            yield from self._unreached(world)
        source, destination = self.part(world.source), self.part(world.destination)
        both = world.source_up and world.destination_up and not world.cut
        if (
            both
            and source is not None
            and destination is not None
            and source.state is SourceState.STAYED
            and destination.is_open
            and not world.destination_task
            and Event.OVER in DESTINATION[destination.state]
        ):
            yield "the destination hears that it is over", self._at_destination(world, Happened(Event.OVER))

    def _answered(self, world: World, answer: Answer) -> Iterator[tuple[str, World]]:
        event = {
            Answered.DONE: Event.TOLD,
            Answered.REFUSED: Event.REFUSED,
            Answered.TAKEN: Event.TAKEN,
        }[answer.kind]
        yield f"answered: {answer.kind.value}", self._at_source(world, Happened(event, answer.luns))

    def _is_on_its_way(self, world: World, number: int) -> bool:
        if any(self.part(each).number == number for each in world.net):
            return True
        destination = self.part(world.destination)
        return bool(world.destination_task) and destination.number == number and destination.answer is None

    def _unreached(self, world: World) -> Iterator[tuple[str, World]]:
        for event in (Event.UNREACHED, Event.GIVEN_UP):
            yield f"the source has no answer: {event.value}", self._at_source(world, Happened(event))

    def _orchestrator(self, world: World) -> Iterator[tuple[str, World]]:
        if not world.source_up:
            return
        machine = self.part(world.source)
        if machine is None:
            yield "prepare", self._prepare(world)
            return
        state = machine.state
        if state is SourceState.PREPARED and world.guest != AT_DESTINATION:
            stopped = world._replace(guest=STOPPED)
            yield "the guest stops, commit", self._at_source(stopped, Happened(Event.ASKED_COMMIT))
            yield "roll back", self._at_source(world, Happened(Event.ASKED_ROLL_BACK))
            yield "check", self._at_source(world, Happened(Event.ASKED_CHECK))
        elif state is SourceState.COMMITTED and world.guest == STOPPED:
            yield "the guest starts on the destination", world._replace(guest=AT_DESTINATION)
            yield "roll back", self._at_source(world, Happened(Event.ASKED_ROLL_BACK))
        elif state is SourceState.COMMITTED and world.guest == AT_DESTINATION:
            yield "finish", self._at_source(world, Happened(Event.ASKED_FINISH))
        elif state is SourceState.STAYED and world.guest == STOPPED:
            yield "the guest goes on on the source", world._replace(guest=AT_SOURCE)

    def _prepare(self, world: World) -> World:
        luns = tuple(
            MovingLun(
                f"naa.{number}",
                tracked=self.part(tracked),
                source_spare=SOURCE_SPARE,
                destination_spare=DESTINATION_SPARE,
                fresh_spare=FRESH_SPARE,
            )
            for number, tracked in enumerate(world.device)
        )
        machine, effects = protocol.begin("h", "guest", "destination", luns)
        return self._source_effects(world, self.id(machine), effects)

    def _guest(self, world: World) -> Iterator[tuple[str, World]]:
        machine = self.part(world.source)
        if not self.safe.gate and world.guest == STOPPED and machine.gate is Gate.LEAVING:
            # QEMU has resumed the guest on the source by itself; without a gate its commands go through
            for lun, tracked in enumerate(map(self.part, world.truth)):
                yield from self._change(world, lun, tracked, OutServiceAction.REGISTER, 0)
        if not world.changes or world.guest != AT_SOURCE or not world.source_up:
            return
        if machine is not None and machine.gate is not Gate.RUNNING:
            return
        for lun, tracked in enumerate(map(self.part, world.truth)):
            if self._is_at_work(world, lun) or tracked.key == 0:
                continue
            left = world._replace(changes=world.changes - 1)
            new_key = NEW_KEY if tracked.key == KEY else KEY
            yield from self._change(left, lun, tracked, OutServiceAction.REGISTER, new_key)
            yield from self._change(left, lun, tracked, OutServiceAction.REGISTER, 0)
            if tracked.type is not None:
                yield from self._change(left, lun, tracked, OutServiceAction.RELEASE, 0)
            yield from self._change(left, lun, tracked, OutServiceAction.RESERVE, 0)

    def _is_at_work(self, world: World, lun: int) -> bool:
        """Whether the source is between two commands on a LUN, where it keeps the guest's out."""
        task = world.source_task
        if task[:1] != ("work",):
            return False
        progress = self.part(task[1 + lun])
        return isinstance(progress, Progress) and bool(progress.answers)

    def _change(
        self, world: World, lun: int, tracked: Tracked, action: OutServiceAction, new_key: int
    ) -> Iterator[tuple[str, World]]:
        kind = tracked.type or ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
        parameters = ParameterList(tracked.key, new_key, True)
        before: ReservationState = self.part(world.luns[lun])
        outcome = persistent_reserve_out(before, SOURCE_NEXUS, action, parameters, type=int(kind))
        if not outcome.good or tracked.key == 0:
            return
        now = tracked
        if action is OutServiceAction.REGISTER:
            now = replace(tracked, key=new_key) if new_key else UNREGISTERED
        elif action is OutServiceAction.RELEASE:
            now = replace(tracked, type=None)
        elif action is OutServiceAction.RESERVE:
            now = replace(tracked, type=kind)
        number = self.id(now)
        after = world._replace(
            luns=_set(world.luns, lun, self.id(replace(outcome.state, generation=0))),
            truth=_set(world.truth, lun, number),
            device=_set(world.device, lun, number),
        )
        machine = self.part(world.source)
        if machine is not None and Event.CHANGED in SOURCE[machine.state]:
            news = (MovingLun(f"naa.{lun}", tracked=now),)
            after = self._at_source(after, Happened(Event.CHANGED, news))
        yield f"the guest's {action.name} on LUN {lun}", after

    def _third(self, world: World) -> Iterator[tuple[str, World]]:
        if not world.thirds:
            return
        left = world._replace(thirds=world.thirds - 1)
        for lun, number in enumerate(world.luns):
            state: ReservationState = self.part(number)
            key, truth = world.ledger[lun], self.part(world.truth[lun])
            if not key:
                new = _out(state, THIRD_NEXUS, OutServiceAction.REGISTER, 0, THIRD_KEY)
                yield f"a third registers on LUN {lun}", self._by_third(left, lun, new)
                continue
            if key == THIRD_KEY and not self.part(world.luns[lun]).holds(THIRD_NEXUS):
                new = _out(state, THIRD_NEXUS, OutServiceAction.REGISTER, key, 0)
                yield f"the third unregisters on LUN {lun}", self._by_third(left, lun, new)
            if truth.key and truth.key != key:
                kind = truth.type or ReservationType.WRITE_EXCLUSIVE
                command = OutServiceAction.PREEMPT
                parameters = ParameterList(key, truth.key, True)
                outcome = persistent_reserve_out(state, THIRD_NEXUS, command, parameters, type=int(kind))
                if outcome.good:
                    new = replace(outcome.state, generation=0)
                    fenced = self._by_third(left, lun, new)
                    if any(new.key_of(nexus) for nexus in NEXUSES):
                        fenced = fenced._replace(open_end=_set(fenced.open_end, lun, True))
                    yield f"the third preempts the guest on LUN {lun}", fenced
            new = _out(state, THIRD_NEXUS, OutServiceAction.CLEAR, key)
            yield f"the third clears LUN {lun}", self._by_third(left, lun, new)

    def _by_third(self, world: World, lun: int, state: ReservationState) -> World:
        truth: Tracked = self.part(world.truth[lun])
        registered = [nexus for nexus in NEXUSES if state.key_of(nexus)]
        if not registered:
            truth = UNREGISTERED
        elif not any(state.holds(nexus) for nexus in registered):
            truth = replace(truth, type=None)
        return world._replace(
            luns=_set(world.luns, lun, self.id(state)),
            truth=_set(world.truth, lun, self.id(truth)),
            ledger=_set(world.ledger, lun, state.key_of(THIRD_NEXUS)),
        )

    def _faults(self, world: World) -> Iterator[tuple[str, World]]:
        yield from self._crashes(world)
        if not world.cut:
            yield "the network parts", world._replace(cut=True, net=())
        for number in world.net:
            item = self.part(number)
            yield f"{_kind(item)} {item.number} is lost", world._replace(net=_without(world.net, number))
            if isinstance(item, Message) and world.destination_up and not world.destination_task:
                # delivered, and still on its way
                yield f"{item.kind.value} {item.number} is doubled", self._at_destination(world, item)
        if world.source_task[:1] == ("tell",):
            yield from self._unreached(world)
        for who, task in enumerate((world.source_task, world.destination_task)):
            if task[:1] != ("work",):
                continue
            for lun, number in enumerate(task[1:]):
                command = self._advance(number)
                if not isinstance(command, Ended):
                    yield from self._lun_faults(world, who, lun, command)

    def _lun_faults(self, world: World, who: int, lun: int, command: Command) -> Iterator[tuple[str, World]]:
        luns, _ = self._execute(world, who, lun, command)
        for done, state in (("", luns), ("not ", world.luns)):
            if done and state == world.luns and luns == world.luns:
                continue
            text = f"{_WHO[who]}: {_name(command)} on LUN {lun}, {done}carried out, "
            after = world._replace(luns=state)
            yield text + "its answer lost", self._send(after, who, lun, _LOST)
            yield text + "gives up", self._give_up(after, who, lun)

    def _give_up(self, world: World, who: int, lun: int) -> World:
        late = tuple(each for each in world.late if each[:2] != (who, lun))
        failed = self.id(Ended(None))
        if who:
            task = _set(world.destination_task, 1 + lun, failed)
            return world._replace(destination_task=task, late=late)
        return world._replace(source_task=_set(world.source_task, 1 + lun, failed), late=late)

    def _crashes(self, world: World) -> Iterator[tuple[str, World]]:
        for who in (0, 1):
            if not (world.destination_up if who else world.source_up):
                continue
            down = (
                world._replace(destination_up=False, destination_task=())
                if who
                else world._replace(source_up=False, source_task=())
            )
            late = self._under_way(world, who)
            for ghosts, text in (((), ""), (late, ", commands under way")):
                if ghosts or not text:
                    crashed = down._replace(late=tuple(sorted({*world.late, *ghosts})))
                    yield f"the {_WHO[who]} crashes{text}", crashed
            unsent = self._last_sent(world, who)
            if unsent is not None:
                yield (
                    f"the {_WHO[who]} crashes before it has sent anything",
                    down._replace(net=_without(world.net, unsent)),
                )

    def _under_way(self, world: World, who: int) -> tuple[tuple[int, int, int], ...]:
        task = world.destination_task if who else world.source_task
        if task[:1] != ("work",):
            return ()
        commands = [(lun, self._advance(number)) for lun, number in enumerate(task[1:])]
        return tuple(
            (who, lun, self.id(command))
            for lun, command in commands
            if not isinstance(command, Ended) and command.opcode == OperationCode.PERSISTENT_RESERVE_OUT
        )

    def _last_sent(self, world: World, who: int) -> int | None:
        machine = self.part(world.destination if who else world.source)
        for number in world.net:
            item = self.part(number)
            if isinstance(item, Answer if who else Message) and item.number == machine.number:
                return number
        return None

    # -- promises -----------------------------------------------------------------------------------

    def check(self, world: World) -> None:
        """Raise `Violation` if a promise is broken in this world."""
        gates = self._gates(world)
        for lun, number in enumerate(world.luns):
            state: ReservationState = self.part(number)
            truth: Tracked = self.part(world.truth[lun])
            if state.key_of(THIRD_NEXUS) != world.ledger[lun]:
                raise Violation(f"LUN {lun}: the third nexus was touched")
            if truth.type is not None and not world.open_end[lun]:
                held = state.reservation
                if held is None or held.type is not truth.type:
                    raise Violation(f"LUN {lun}: the reservation is not held")
            where = {AT_SOURCE: 0, AT_DESTINATION: 1}.get(world.guest)
            if where is not None and gates[where] is Gate.RUNNING:
                self._check_guest(world, lun, NEXUSES[where])

    def _gates(self, world: World) -> tuple[Gate, Gate]:
        source = self.part(world.source if world.source_up else world.source_journal)
        destination = self.part(world.destination if world.destination_up else world.destination_journal)
        return (
            Gate.RUNNING if source is None else source.gate,
            Gate.INCOMING if destination is None else destination.gate,
        )

    def _check_guest(self, world: World, lun: int, nexus: ITNexus) -> None:
        state: ReservationState = self.part(world.luns[lun])
        truth: Tracked = self.part(world.truth[lun])
        key = state.key_of(nexus)
        if world.open_end[lun] and key == 0:
            return
        if key != truth.key:
            raise Violation(f"LUN {lun}: the guest runs with key {key:#x}, not {truth.key:#x}")
        if truth.type is not None and not state.holds(nexus):
            raise Violation(f"LUN {lun}: the guest runs and does not hold its reservation")

    def check_end(self, world: World) -> None:
        """Raise `Violation` if nothing more can happen and not all is as it should be."""
        source, destination = self.part(world.source), self.part(world.destination)
        if source.state is SourceState.STAYED:
            here, there = SOURCE_NEXUS, DESTINATION_NEXUS
            ended = destination is None or not destination.is_open
        else:
            here, there = DESTINATION_NEXUS, SOURCE_NEXUS
            ended = (
                source.state is SourceState.GONE
                and destination is not None
                and destination.state is DestinationState.HERE
            )
        if not ended:
            states = f"{source.state.value} and {destination.state.value if destination else 'nothing'}"
            raise Violation(f"nothing more happens, and the handover is {states}")
        for lun, number in enumerate(world.luns):
            state: ReservationState = self.part(number)
            if state.key_of(there):
                raise Violation(f"LUN {lun}: key {state.key_of(there):#x} is left behind")
            self._check_guest(world, lun, here)

    # -- numbers ------------------------------------------------------------------------------------

    def canonical(self, world: World) -> World:
        """The same world with the smallest message numbers: only their order counts."""
        numbers = {self.part(each).number for each in world.net}
        for each in (world.source, world.source_journal, world.destination, world.destination_journal):
            machine = self.part(each)
            if machine is not None:
                numbers.add(machine.number)
                if isinstance(machine, Destination) and machine.answer is not None:
                    numbers.add(machine.answer.number)
        if world.source_task[:1] == ("tell",):
            numbers.add(world.source_task[1])
        ranked = {number: rank for rank, number in enumerate(sorted(numbers))}
        if all(number == rank for number, rank in ranked.items()):
            return world
        order = tuple(ranked.items())
        task = world.source_task
        if task[:1] == ("tell",):
            task = ("tell", ranked[task[1]])
        return world._replace(
            source=self._renumber(world.source, order),
            source_journal=self._renumber(world.source_journal, order),
            destination=self._renumber(world.destination, order),
            destination_journal=self._renumber(world.destination_journal, order),
            net=tuple(sorted(self._renumber(each, order) for each in world.net)),
            source_task=task,
        )

    def _renumber(self, number: int, order: tuple[tuple[int, int], ...]) -> int:
        if number < 0:
            return number
        key = (number, order)
        found = self._steps.get(key)
        if found is None:
            ranked = dict(order)
            part = self.part(number)
            part = replace(part, number=ranked[part.number])
            if isinstance(part, Destination) and part.answer is not None:
                part = replace(part, answer=replace(part.answer, number=ranked[part.answer.number]))
            found = self._steps[key] = self.id(part)
        return found  # type: ignore[no-any-return]


_WHO = ("source", "destination")


def _silent(lun: MovingLun) -> MovingLun:
    return replace(lun, alarm="!" if lun.alarm else "")


def _plain_answer(answer: Answer) -> Answer:
    return replace(answer, problem="", luns=tuple(map(_silent, answer.luns)))


def _with(net: tuple[int, ...], item: int) -> tuple[int, ...]:
    return tuple(sorted({*net, item}))


def _without(net: tuple[int, ...], item: int) -> tuple[int, ...]:
    return tuple(each for each in net if each != item)


def _set(items: tuple[Any, ...], place: int, item: Any) -> tuple[Any, ...]:
    return (*items[:place], item, *items[place + 1 :])


def _kind(item: Message | Answer) -> str:
    return item.kind.value if isinstance(item, Message) else "an answer"


def _name(command: Command) -> str:
    if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
        cdb, data = PersistentReserveOut.decode(command.cdb), ParameterList.decode(command.data_out)
        name = OutServiceAction(cdb.service_action).name
        return f"{name} {data.key:#x} {data.service_action_key:#x}"
    if command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
        return InServiceAction(PersistentReserveIn.decode(command.cdb).service_action).name
    return "TEST UNIT READY"
