"""The interned parts of a `World`, and the machines and works that go from one to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from holdover.guest.gate import Gate
from holdover.handover import protocol
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import (
    Destination,
    DoWork,
    Effect,
    Happened,
    Message,
    Open,
    Reply,
    Source,
    Tell,
    Write,
)
from holdover.handover.states import SOURCE_DOES, Event, SourceState
from holdover.handover.steps import LostAnswer, StepFailed
from holdover.handover.work import Work, steps_of
from holdover.scsi.command import Command, Response
from tests.handover.world import (
    AT_SOURCE,
    GOOD,
    NEXUSES,
    Bounds,
    Case,
    Ended,
    Progress,
    Safeguards,
    Violation,
    World,
    execute,
    plain_answer,
    set_item,
    silent,
    with_item,
)

__all__ = ["Parts"]


class Parts:
    """Numbers for parts, and what follows from them."""

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
            tuple(case.state().aptpl for case in self.cases),
            (Gate.RUNNING, Gate.INCOMING),
            self.bounds.faults,
            self.bounds.thirds,
            self.bounds.changes,
            False,
            False,
            (),
        )

    def advance(self, number: int) -> Any:
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
                    result = steps.send(GOOD)
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
            luns = tuple(silent(lun) for lun in machine.luns)
            return replace(machine, problem="", reason="!" if machine.reason else "", luns=luns)
        if isinstance(machine, Destination):
            answer = machine.answer
            if answer is not None:
                answer = plain_answer(answer)
            return replace(machine, problem="", luns=tuple(map(silent, machine.luns)), answer=answer)
        return machine

    def source_step(self, number: int, happened: Happened) -> tuple[int, tuple[Effect, ...]]:
        key = (number, happened)
        found = self._steps.get(key)
        if found is None:
            machine, effects = protocol.source_step(self.part(number), happened)
            found = self._steps[key] = self.id(self._plain(machine)), effects
        return found

    def destination_step(self, number: int, happened: Happened | Message) -> tuple[int, tuple[Effect, ...]]:
        key = (number, happened)
        found = self._steps.get(key)
        if found is None:
            if isinstance(happened, Message):
                machine, effects = protocol.destination_hears(self.part(number), happened, "source")
            else:
                machine, effects = protocol.destination_step(self.part(number), happened)
            found = self._steps[key] = self.id(self._plain(machine)), effects
        return found

    def at_source(self, world: World, happened: Happened) -> World:
        number, effects = self.source_step(world.source, happened)
        return self.source_effects(world, number, effects)

    def source_effects(self, world: World, number: int, effects: tuple[Effect, ...]) -> World:
        journal, gate = world.source_journal, world.gates[0]
        # an event that begins no activity leaves the one that is under way
        task = world.source_task if len(effects) == 1 else ()
        net = world.net
        for effect in effects:
            if isinstance(effect, Write):
                journal = number if self.safe.journal else journal
                continue
            self._require_written(journal, number)
            if isinstance(effect, Open):
                gate = effect.gate
            elif isinstance(effect, DoWork):
                task = ("work", *(self.begin(effect.work, lun) for lun in self.part(number).luns))
            elif isinstance(effect, Tell):
                task = ("tell", effect.message.number)
                if not world.cut and world.destination_up:
                    luns = tuple(map(silent, effect.message.luns))
                    net = with_item(net, self.id(replace(effect.message, luns=luns)))
        device = world.device
        machine = self.part(number)
        before = self.part(world.source)
        looked = before is not None and SOURCE_DOES[before.state].work in (Work.CHECK, Work.CONFIRM)
        known = looked and before.state is not machine.state and not machine.changed
        if machine.state is SourceState.STAYED or known:
            device = tuple(self.id(lun.tracked) for lun in machine.luns)
        return world._replace(
            source=number,
            source_journal=journal,
            source_task=task,
            net=net,
            device=device,
            gates=(gate, world.gates[1]),
        )

    def _require_written(self, journal: int, number: int) -> None:
        if self.safe.journal and journal != number:
            raise Violation("a step is seen from outside before it is in the journal")

    def at_destination(self, world: World, happened: Happened | Message) -> World:
        number, effects = self.destination_step(world.destination, happened)
        task: tuple[Any, ...] = ()
        net, journal, gate = world.net, world.destination_journal, world.gates[1]
        for effect in effects:
            if isinstance(effect, Write):
                journal = number if self.safe.journal else journal
            elif isinstance(effect, Reply):
                # a refusal that changes nothing is not written
                if number != world.destination:
                    self._require_written(journal, number)
                if not world.cut and world.source_up:
                    net = with_item(net, self.id(plain_answer(effect.answer)))
            else:
                self._require_written(journal, number)
                if isinstance(effect, Open):
                    gate = effect.gate
                elif isinstance(effect, DoWork):
                    task = ("work", *(self.begin(effect.work, lun) for lun in self.part(number).luns))
        return world._replace(
            destination=number,
            destination_journal=journal,
            destination_task=task,
            net=net,
            gates=(world.gates[0], gate),
        )

    def begin(self, work: Work, lun: MovingLun) -> int:
        if work is Work.DRAIN:
            return self.id(Ended(lun))
        return self.id(Progress(work, lun, ()))

    # -- what actions and faults share

    def execute(self, world: World, who: int, lun: int, command: Command) -> tuple[tuple[int, ...], Response]:
        self.check_written(world, who)
        state, answer = execute(self.part(world.luns[lun]), NEXUSES[who], command)
        return set_item(world.luns, lun, self.id(state)), answer

    def check_written(self, world: World, who: int) -> None:
        written = (world.source == world.source_journal, world.destination == world.destination_journal)
        up = (world.source_up, world.destination_up)
        if self.safe.journal and up[who] and not written[who]:
            raise Violation("a step is seen from outside before it is in the journal")

    def send(self, world: World, who: int, lun: int, answer: Response | None) -> World:
        """The world after an answer of a LUN; what was late of that nexus there can come no more."""
        task = world.destination_task if who else world.source_task
        progress = self.part(task[1 + lun])
        more = self.id(progress._replace(answers=(*progress.answers, answer)))
        end = self.advance(more)
        if isinstance(end, Ended):
            more = self.id(end)
        task = set_item(task, 1 + lun, more)
        late = tuple(each for each in world.late if each[:2] != (who, lun))
        if who:
            return world._replace(destination_task=task, late=late)
        return world._replace(source_task=task, late=late)

    def unreached(self, world: World) -> Iterator[tuple[str, World]]:
        for event in (Event.UNREACHED, Event.GIVEN_UP):
            yield f"the source has no answer: {event.value}", self.at_source(world, Happened(event))

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
        return found
