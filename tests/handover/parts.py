"""The interned parts of a `World`, and the machines and works that go from one to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.handover.destination_rules import destination_step, receive_message
from holdover.handover.effects import EffectKind, Effects, WorkOrder
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.work import POLICY, Work, as_the_device_knows, steps_of
from holdover.handover.protocol import Destination, DeviceView, HandoverEvent, Message, Source
from holdover.handover.source_rules import source_step
from holdover.handover.state_table import DESTINATION, SOURCE, StateSpec
from holdover.handover.states import Event, SourceState
from holdover.reservations.steps import StepFailed
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost
from tests.handover.world import (
    AT_SOURCE,
    GOOD,
    Bounds,
    Case,
    Ended,
    Names,
    Progress,
    Safeguards,
    World,
    execute_by,
    plain_answer,
    set_item,
    silent,
    with_item,
)


class Parts:
    """Numbers for parts, and what follows from them."""

    def __init__(
        self,
        cases: tuple[Case, ...],
        bounds: Bounds,
        safeguards: Safeguards | None = None,
        names: Names | None = None,
    ) -> None:
        self.cases = cases
        self.bounds = bounds
        self.safe = safeguards or Safeguards()
        self.names = names or Names()
        self.spares = frozenset(
            {self.names.source_spare, self.names.destination_spare, self.names.fresh_spare}
        )
        self._ids: dict[object, int] = {}
        self._parts: list[Any] = []
        self._next: dict[int, Any] = {}
        self._nexuses = [
            [
                (nexus,) if paths is None else paths.nexuses
                for nexus, paths in zip(self.names.nexuses, case.paths, strict=True)
            ]
            for case in cases
        ]
        self._steps: dict[Any, Any] = {}
        self._rechecked: dict[int, int] = {}
        self._carried: dict[Any, tuple[int, int, Response | None]] = {}
        self._sent: dict[Any, int] = {}
        self._ranked: dict[Any, dict[str, Any]] = {}

    # -- parts --------------------------------------------------------------------------------------

    def share_parts_of(self, other: Parts) -> None:
        """Use the numbers of another model, so that equal parts have equal ones."""
        self._ids, self._parts = other._ids, other._parts

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
        begun = [case.begin(self.names.nexuses[0]) for case in self.cases]
        nothing = (self.id(UNREGISTERED),) * len(tracked)
        return World(
            luns=tuple(self.id(state) for state, _ in begun),
            source=-1,
            source_journal=-1,
            source_up=True,
            source_task=(),
            destination=-1,
            destination_journal=-1,
            destination_up=True,
            destination_task=(),
            net=(),
            guest=AT_SOURCE,
            device=tracked,
            device_journal=tracked,
            there=nothing,
            there_journal=nothing,
            truth=tracked,
            open_end=(False,) * len(tracked),
            ledger=tuple(case.third_key for case in self.cases),
            aptpl=tuple(state.aptpl for state, _ in begun),
            gates=(Gate.RUNNING, Gate.INCOMING),
            faults=self.bounds.faults,
            thirds=self.bounds.thirds,
            changes=self.bounds.changes,
            cut=False,
            dead=False,
            late=(),
            paths=tuple(
                (self.id(paths), self.id(case.paths[1]))
                for case, (_, paths) in zip(self.cases, begun, strict=True)
            ),
            flaps=self.bounds.flaps,
            told=False,
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
                    result = steps.send(answer[0])
                elif self.safe.ask:
                    result = steps.throw(AnswerLost("memory", "lost"))
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
            return replace(machine, problem="", not_alone="", reason="!" if machine.reason else "", luns=luns)
        if isinstance(machine, Destination):
            answer = machine.answer
            if answer is not None:
                answer = plain_answer(answer)
            return replace(machine, problem="", luns=tuple(map(silent, machine.luns)), answer=answer)
        return machine

    def source_step(self, number: int, happened: HandoverEvent) -> tuple[int, Effects]:
        key = (number, happened)
        found = self._steps.get(key)
        if found is None:
            machine, effects = source_step(self.part(number), happened)
            found = self._steps[key] = self.id(self._plain(machine)), effects
            self._note_recheck(number, found[0])
        return found

    def _note_recheck(self, before: int, after: int) -> None:
        """Remember what was prepared before a recheck, for a model that gives up rechecks too late."""
        if self.safe.in_time:
            return
        state = self.part(after).state
        if self.part(before).state is SourceState.PREPARED and state is SourceState.CONFIRMING:
            self._rechecked[after] = before
        elif before in self._rechecked and state in (SourceState.CONFIRMING, SourceState.PREPARING):
            self._rechecked.setdefault(after, self._rechecked[before])

    def before_recheck(self, number: int) -> int | None:
        """What was prepared before the recheck that has led to this, whose message was sent."""
        return self._rechecked.get(number) if self.part(number).state is SourceState.PREPARING else None

    def destination_step(self, number: int, happened: HandoverEvent | Message) -> tuple[int, Effects]:
        key = (number, happened)
        found = self._steps.get(key)
        if found is None:
            if isinstance(happened, Message):
                machine, effects = receive_message(self.part(number), happened, "source")
            else:
                machine, effects = destination_step(self.part(number), happened)
            found = self._steps[key] = self.id(self._plain(machine)), effects
        return found

    def at_source(self, world: World, happened: HandoverEvent) -> World:
        number, effects = self.source_step(world.source, happened)
        if self._finds_out(world.source, SOURCE, happened) and not self.part(number).changed:
            found = tuple(self.id(lun.tracked) for lun in self.part(number).luns)
            world = world._replace(device=found, device_journal=found)
        return self.source_effects(world, number, effects)

    def _finds_out(
        self, number: int, table: Mapping[Any, StateSpec[Any]], happened: HandoverEvent | Message
    ) -> bool:
        """Whether work ends that tells the devices what the guest has; they put that on record themselves."""
        machine = self.part(number)
        if machine is None or isinstance(happened, Message) or happened.event is not Event.DONE:
            return False
        work = table[machine.state].work
        return work is not None and POLICY[work].finds_out

    def source_effects(self, world: World, number: int, effects: Effects) -> World:
        device = self._told_to_devices(world.device, effects, self.part(world.source))
        told = world.told or self.part(number).state is SourceState.COMMITTED
        return self._carry_out(world._replace(source=number, device=device, told=told), 0, effects)

    def _told_to_devices(
        self, devices: tuple[int, ...], effects: Effects, before: Source | Destination | None
    ) -> tuple[int, ...]:
        told = {news.designator: news.tracked for news in effects.devices if news.tracked is not None}
        if not self.safe.adoption and before is not None and effects.gate is Gate.RUNNING:
            told = {lun.designator: lun.tracked for lun in before.luns} | told
        if not told:
            return devices
        return tuple(
            self.id(told[f"naa.{lun}"]) if f"naa.{lun}" in told else tracked
            for lun, tracked in enumerate(devices)
        )

    def _carry_out(self, world: World, who: int, effects: Effects) -> World:
        """What an executor does: records that nothing waits for are left for later."""
        if (
            effects.answer is not None
            and EffectKind.ANSWER not in effects.durable_first
            and self._waits(effects)
        ):
            # the answer is on its way before the gate moves
            answered = self._destination_begins(world, replace(effects, gate=None))
            return answered._replace(destination_task=("open",))
        if self._waits(effects):
            world = self.synced(world, who)
        if effects.gate is not None:
            world = world._replace(gates=set_item(world.gates, who, effects.gate))
        if who:
            return self._destination_begins(world, effects)
        return self._source_begins(world, effects)

    def _waits(self, effects: Effects) -> bool:
        first = effects.durable_first & self.safe.waits
        if effects.work is not None and effects.work.work not in self.safe.announced:
            first -= {EffectKind.WORK}
        return bool(first)

    def synced(self, world: World, who: int) -> World:
        """All records of one host are on disk."""
        if who:
            return world._replace(destination_journal=world.destination, there_journal=world.there)
        return world._replace(source_journal=world.source, device_journal=world.device)

    def _source_begins(self, world: World, effects: Effects) -> World:
        if effects.work is not None:
            return world._replace(source_task=self._work(effects.work, world.device))
        message = effects.message
        if message is None:
            # an event that begins no activity leaves the one that is under way
            return world if effects.gate is None else world._replace(source_task=())
        net = world.net
        if not world.cut and world.destination_up:
            net = with_item(net, self.id(replace(message, luns=tuple(map(silent, message.luns)))))
        return world._replace(source_task=("tell", message.number), net=net)

    def _destination_begins(self, world: World, effects: Effects) -> World:
        task: tuple[Any, ...] = () if effects.gate is not None else world.destination_task
        if effects.work is not None:
            task = self._work(effects.work, world.there)
        net = world.net
        if effects.answer is not None and not world.cut and world.source_up:
            net = with_item(net, self.id(plain_answer(effects.answer)))
        return world._replace(destination_task=task, net=net)

    def _work(self, ordered: WorkOrder, devices: tuple[int, ...]) -> tuple[Any, ...]:
        """A task; ``devices``: what the guest's devices on this host track."""
        known = [
            as_the_device_knows(ordered.work, lun, self.part(device), ())
            for lun, device in zip(ordered.luns, devices, strict=True)
        ]
        return ("work", *(self.begin(ordered.work, lun) for lun in known))

    def is_destination_free(self, world: World) -> bool:
        """Whether the destination's agent handles what comes: it does no work, or pauses before a retry."""
        task = world.destination_task
        if not task:
            return True
        state = self.part(world.destination).state
        tries_again = DESTINATION[state].follows.get(Event.FAILED) is state
        started = (self.part(number) for number in task[1:])
        return tries_again and all(isinstance(each, Progress) and not each.answers for each in started)

    def at_destination(self, world: World, happened: HandoverEvent | Message) -> World:
        number, effects = self.destination_step(world.destination, happened)
        if self._finds_out(world.destination, DESTINATION, happened):
            found = tuple(self.id(lun.tracked) for lun in self.part(number).luns)
            world = world._replace(there=found, there_journal=found)
        there = self._told_to_devices(world.there, effects, self.part(world.destination))
        return self._carry_out(world._replace(destination=number, there=there), 1, effects)

    def opened(self, world: World) -> World:
        """The destination has the state on record for which its gate has waited."""
        gate = self.part(world.destination).gate
        gates = set_item(world.gates, 1, gate)
        return self.synced(world, 1)._replace(gates=gates, destination_task=())

    def views(self, devices: tuple[int, ...]) -> tuple[DeviceView, ...]:
        """What the guest's devices on one host say."""
        return tuple(DeviceView(f"naa.{lun}", self.part(number)) for lun, number in enumerate(devices))

    def begin(self, work: Work, lun: LunHandover) -> int:
        if work is Work.DRAIN:
            return self.id(Ended(lun))
        return self.id(Progress(work, lun, ()))

    # -- what actions and faults share

    def execute(
        self, world: World, who: int, lun: int, command: Command, most: int | None = None
    ) -> tuple[World, Response | None]:
        """The world after a command of a host, and its answer. ``most``: see `carry_out`."""
        key = (world.luns[lun], world.paths[lun][who], who, lun, command, most)
        found = self._carried.get(key)
        if found is None:
            paths, state = self.part(world.paths[lun][who]), self.part(world.luns[lun])
            full_status = self.cases[lun].full_status
            state, paths, answer = execute_by(
                paths, self.names.nexuses[who], state, command, full_status, most
            )
            found = self._carried[key] = self.id(state), self.id(paths), answer
        state, paths, answer = found
        pair = (paths, world.paths[lun][1]) if who == 0 else (world.paths[lun][0], paths)
        luns, all_paths = set_item(world.luns, lun, state), set_item(world.paths, lun, pair)
        return world._replace(luns=luns, paths=all_paths), answer

    def nexuses(self, lun: int, who: int) -> tuple[ITNexus, ...]:
        """The I_T nexuses of a host."""
        return self._nexuses[lun][who]

    def usable(self, world: World, lun: int, who: int) -> tuple[ITNexus, ...]:
        """The I_T nexuses of a host by which commands can be sent now."""
        paths = self.part(world.paths[lun][who])
        if paths is None:
            return (self.names.nexuses[who],)
        return tuple(nexus for nexus, up in zip(paths.nexuses, paths.up, strict=True) if up)

    def send(self, world: World, who: int, lun: int, answer: Response | None) -> World:
        """The world after an answer of a LUN; what was late of that nexus there can come no more."""
        task = world.destination_task if who else world.source_task
        key = (task[1 + lun], answer, None if answer is None else answer.carried)
        more = self._sent.get(key)
        if more is None:
            more = self._sent[key] = self._answered_by(task[1 + lun], answer)
        task = set_item(task, 1 + lun, more)
        late = tuple(each for each in world.late if each[:2] != (who, lun))
        if who:
            return world._replace(destination_task=task, late=late)
        return world._replace(source_task=task, late=late)

    def _answered_by(self, number: int, answer: Response | None) -> int:
        progress = self.part(number)
        said = None if answer is None else (answer, answer.carried)
        more = self.id(progress._replace(answers=(*progress.answers, said)))
        end = self.advance(more)
        return self.id(end) if isinstance(end, Ended) else more

    def unreached(self, world: World) -> Iterator[tuple[str, World]]:
        for event in (Event.UNREACHED, Event.GIVEN_UP):
            yield f"the source has no answer: {event.value}", self.at_source(world, HandoverEvent(event))

    # -- numbers ------------------------------------------------------------------------------------

    def canonical(self, world: World) -> World:
        """The same world with the smallest message numbers: only their order counts."""
        waits = world.source_task[1] if world.source_task[:1] == ("tell",) else None
        machines = (world.source, world.source_journal, world.destination, world.destination_journal)
        key = (machines, world.net, waits)
        changes = self._ranked.get(key)
        if changes is None:
            changes = self._ranked[key] = self._ranks(world, machines, waits)
        return world._replace(**changes) if changes else world

    def _ranks(self, world: World, machines: tuple[int, ...], waits: int | None) -> dict[str, Any]:
        """What changes in a world when its messages get the smallest numbers."""
        numbers = {self.part(each).number for each in world.net}
        for each in machines:
            machine = self.part(each)
            if machine is not None:
                numbers.add(machine.number)
                if isinstance(machine, Destination) and machine.answer is not None:
                    numbers.add(machine.answer.number)
        if waits is not None:
            numbers.add(waits)
        ranked = {number: rank for rank, number in enumerate(sorted(numbers))}
        if all(number == rank for number, rank in ranked.items()):
            return {}
        order = tuple(ranked.items())
        names = ("source", "source_journal", "destination", "destination_journal")
        changes: dict[str, Any] = {
            name: self._renumber(number, order) for name, number in zip(names, machines, strict=True)
        }
        changes["net"] = tuple(sorted(self._renumber(each, order) for each in world.net))
        if waits is not None:
            changes["source_task"] = ("tell", ranked[waits])
        return changes

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
            if number in self._rechecked:
                rewound = self.part(self._rechecked[number])
                earlier = self.part(number).number - rewound.number
                self._rechecked[found] = self.id(replace(rewound, number=part.number - earlier))
        return found
