"""What can happen in a `World`, and what must be true of every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from holdover.guest.gate import Gate
from holdover.guest.scsi_block import Tracked
from holdover.handover import protocol
from holdover.handover.moving import UNREGISTERED, MovingLun
from holdover.handover.protocol import Answer, Answered, Happened, Message
from holdover.handover.states import DESTINATION, SOURCE, DestinationState, Event, SourceState
from holdover.lun.reservations import ReservationState, persistent_reserve_out
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation_out import ParameterList
from tests.handover.faults import Faults
from tests.handover.world import (
    AT_DESTINATION,
    AT_SOURCE,
    DESTINATION_NEXUS,
    DESTINATION_SPARE,
    FRESH_SPARE,
    KEY,
    NEW_KEY,
    NEXUSES,
    SOURCE_NEXUS,
    SOURCE_SPARE,
    STOPPED,
    THIRD_KEY,
    THIRD_NEXUS,
    WHO,
    Ended,
    Progress,
    Violation,
    World,
    name_of,
    out,
    set_item,
    silent,
    without_item,
)

__all__ = ["Model"]


class Model(Faults):
    """The worlds of one set of cases, and what can happen in each."""

    # -- actions ------------------------------------------------------------------------------------

    def successors(self, world: World) -> Iterator[tuple[str, World, bool]]:
        """Everything that can happen: what it is, the world after it, whether it is a fault."""
        for what, after in self._orderly(world):
            yield what, after, False
        if world.faults:
            left = world._replace(faults=world.faults - 1)
            for what, after in self.faults(left):
                yield what, after, True

    def _orderly(self, world: World) -> Iterator[tuple[str, World]]:
        yield from self._works(world)
        yield from self._messages(world)
        yield from self._orchestrator(world)
        yield from self._guest(world)
        yield from self._third(world)
        if world.cut:
            yield "the partition heals", world._replace(cut=False)
        if not world.source_up and (not world.dead or self._is_taken(world)):
            yield "the source restarts", self._restart_source(world)
        yield from self._death(world)
        if not world.destination_up:
            yield "the destination restarts", self._restart_destination(world)
        for ghost in world.late:
            who, lun, command = ghost
            luns, _ = self.execute(world, who, lun, self.part(command))
            left = tuple(each for each in world.late if each != ghost)
            yield f"a late command on LUN {lun}", world._replace(luns=luns, late=left)

    def _is_taken(self, world: World) -> bool:
        destination = self.part(world.destination if world.destination_up else world.destination_journal)
        taken = (DestinationState.TAKING, DestinationState.TAKEN, DestinationState.HERE)
        return destination is not None and destination.state in taken

    def _death(self, world: World) -> Iterator[tuple[str, World]]:
        """The operator gives the source up; its host comes back, if ever, when the destination has taken."""
        destination = self.part(world.destination)
        if destination is None or not world.destination_up or world.destination_task:
            return
        if self.bounds.dies and not world.source_up and not world.dead and world.guest != AT_DESTINATION:
            late = tuple(each for each in world.late if each[0] != 0)
            yield "the source is declared dead", world._replace(dead=True, guest=STOPPED, late=late)
        if not world.dead:
            return
        if destination.state is DestinationState.TAKEN:
            if world.guest == STOPPED:
                yield "the guest is started on the destination", world._replace(guest=AT_DESTINATION)
            else:
                yield "finish without the source", self.at_destination(world, Happened(Event.ASKED_FINISH))
        elif Event.ASKED_TAKE in DESTINATION[destination.state]:
            yield "take", self.at_destination(world, Happened(Event.ASKED_TAKE))

    def _restart_source(self, world: World) -> World:
        up = world._replace(source_up=True, source=world.source_journal, source_task=())
        machine = self.part(up.source)
        gate = Gate.RUNNING if machine is None else machine.gate
        up = up._replace(gates=(gate, world.gates[1]))
        if machine is None:
            return up
        news = tuple(
            replace(lun, tracked=self.part(device))
            for lun, device in zip(machine.luns, world.device, strict=True)
            if lun.tracked != self.part(device) and Event.CHANGED in SOURCE[machine.state]
        )
        return self.at_source(up, Happened(Event.RESTARTED, news))

    def _restart_destination(self, world: World) -> World:
        up = world._replace(destination_up=True, destination=world.destination_journal, destination_task=())
        if up.destination < 0:
            return up
        return self.at_destination(up, Happened(Event.RESTARTED))

    def _works(self, world: World) -> Iterator[tuple[str, World]]:
        for who, task in enumerate((world.source_task, world.destination_task)):
            if not task or task[0] != "work":
                continue
            ends = [self.advance(number) for number in task[1:]]
            if all(isinstance(end, Ended) for end in ends):
                yield from self._ended(world, who, [end.lun for end in ends])
                continue
            for lun, command in enumerate(ends):
                if not isinstance(command, Ended):
                    luns, answer = self.execute(world, who, lun, command)
                    after = self.send(world._replace(luns=luns), who, lun, answer)
                    yield f"{WHO[who]}: {name_of(command)} on LUN {lun}", after

    def _ended(self, world: World, who: int, luns: list[MovingLun | None]) -> Iterator[tuple[str, World]]:
        good = [silent(lun) for lun in luns if lun is not None]
        happened = Happened(Event.FAILED) if len(good) < len(luns) else Happened(Event.DONE, tuple(good))
        step = self.at_destination if who else self.at_source
        yield f"{WHO[who]}: {happened.event.value}", step(world, happened)

    def _messages(self, world: World) -> Iterator[tuple[str, World]]:
        waits = world.source_task[1] if world.source_task[:1] == ("tell",) else None
        for number in world.net:
            item = self.part(number)
            left = world._replace(net=without_item(world.net, number))
            if isinstance(item, Message) and world.destination_up and not world.destination_task:
                yield f"{item.kind.value} {item.number} arrives", self.at_destination(left, item)
            elif isinstance(item, Answer) and world.source_up:
                if item.number != waits:
                    yield "an answer that nobody waits for", left
                else:
                    yield from self._answered(left, item)
        if waits is not None and not self._is_on_its_way(world, waits):
            yield from self.unreached(world)
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
            yield "the destination hears that it is over", self.at_destination(world, Happened(Event.OVER))

    def _answered(self, world: World, answer: Answer) -> Iterator[tuple[str, World]]:
        event = {
            Answered.DONE: Event.TOLD,
            Answered.REFUSED: Event.REFUSED,
            Answered.TAKEN: Event.TAKEN,
        }[answer.kind]
        yield f"answered: {answer.kind.value}", self.at_source(world, Happened(event, answer.luns))

    def _is_on_its_way(self, world: World, number: int) -> bool:
        if any(self.part(each).number == number for each in world.net):
            return True
        destination = self.part(world.destination)
        return bool(world.destination_task) and destination.number == number and destination.answer is None

    def _orchestrator(self, world: World) -> Iterator[tuple[str, World]]:
        machine = self.part(world.source)
        if world.dead and world.source_up and machine is not None and machine.state is SourceState.PREPARED:
            yield "check", self.at_source(world, Happened(Event.ASKED_CHECK))
            yield "prepared for too long", self.at_source(world, Happened(Event.ASKED_ROLL_BACK))
        if not world.source_up or (
            world.dead and (machine is None or machine.state is not SourceState.COMMITTED)
        ):
            return
        if machine is None:
            yield "prepare", self._prepare(world)
            return
        state = machine.state
        if state is SourceState.PREPARED and world.guest != AT_DESTINATION:
            stopped = world._replace(guest=STOPPED)
            yield "the guest stops, commit", self.at_source(stopped, Happened(Event.ASKED_COMMIT))
            yield "roll back", self.at_source(world, Happened(Event.ASKED_ROLL_BACK))
            yield "check", self.at_source(world, Happened(Event.ASKED_CHECK))
        elif state is SourceState.COMMITTED and world.guest == STOPPED:
            yield "the guest starts on the destination", world._replace(guest=AT_DESTINATION)
            yield "roll back", self.at_source(world, Happened(Event.ASKED_ROLL_BACK))
        elif state is SourceState.COMMITTED and world.guest == AT_DESTINATION:
            yield "finish", self.at_source(world, Happened(Event.ASKED_FINISH))
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
        return self.source_effects(world, self.id(machine), effects)

    def _guest(self, world: World) -> Iterator[tuple[str, World]]:
        if not self.safe.gate and world.guest == STOPPED and world.gates[0] is Gate.LEAVING:
            # QEMU has resumed the guest on the source by itself; without a gate its commands go through
            for lun, tracked in enumerate(map(self.part, world.truth)):
                yield from self._change(world, lun, tracked, OutServiceAction.REGISTER, 0)
        if not world.changes or world.guest != AT_SOURCE or not world.source_up:
            return
        if world.gates[0] is not Gate.RUNNING:
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
        parameters = ParameterList(tracked.key, new_key, tracked.aptpl)
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
            luns=set_item(world.luns, lun, self.id(replace(outcome.state, generation=0))),
            truth=set_item(world.truth, lun, number),
            device=set_item(world.device, lun, number),
            aptpl=set_item(world.aptpl, lun, outcome.state.aptpl and (world.aptpl[lun] or tracked.aptpl)),
        )
        machine = self.part(world.source)
        if machine is not None and Event.CHANGED in SOURCE[machine.state]:
            news = (MovingLun(f"naa.{lun}", tracked=now),)
            after = self.at_source(after, Happened(Event.CHANGED, news))
        yield f"the guest's {action.name} on LUN {lun}", after

    def _third(self, world: World) -> Iterator[tuple[str, World]]:
        if not world.thirds:
            return
        left = world._replace(thirds=world.thirds - 1)
        for lun, number in enumerate(world.luns):
            state: ReservationState = self.part(number)
            key, truth = world.ledger[lun], self.part(world.truth[lun])
            if not key:
                new = out(state, THIRD_NEXUS, OutServiceAction.REGISTER, 0, THIRD_KEY)
                yield f"a third registers on LUN {lun}", self._by_third(left, lun, new)
                continue
            if key == THIRD_KEY and not self.part(world.luns[lun]).holds(THIRD_NEXUS):
                new = out(state, THIRD_NEXUS, OutServiceAction.REGISTER, key, 0)
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
                        fenced = fenced._replace(open_end=set_item(fenced.open_end, lun, True))
                    yield f"the third preempts the guest on LUN {lun}", fenced
            new = out(state, THIRD_NEXUS, OutServiceAction.CLEAR, key)
            yield f"the third clears LUN {lun}", self._by_third(left, lun, new)

    def _by_third(self, world: World, lun: int, state: ReservationState) -> World:
        truth: Tracked = self.part(world.truth[lun])
        registered = [nexus for nexus in NEXUSES if state.key_of(nexus)]
        if not registered:
            truth = UNREGISTERED
        elif not any(state.holds(nexus) for nexus in registered):
            truth = replace(truth, type=None)
        return world._replace(
            luns=set_item(world.luns, lun, self.id(state)),
            truth=set_item(world.truth, lun, self.id(truth)),
            ledger=set_item(world.ledger, lun, state.key_of(THIRD_NEXUS)),
            aptpl=set_item(world.aptpl, lun, world.aptpl[lun] and state.aptpl),
        )

    # -- promises -----------------------------------------------------------------------------------

    def check(self, world: World) -> None:
        """Raise `Violation` if a promise is broken in this world."""
        for lun, number in enumerate(world.luns):
            state: ReservationState = self.part(number)
            truth: Tracked = self.part(world.truth[lun])
            if world.aptpl[lun] and state.registrations and not state.aptpl:
                raise Violation(f"LUN {lun}: APTPL was turned off")
            if state.key_of(THIRD_NEXUS) != world.ledger[lun]:
                raise Violation(f"LUN {lun}: the third nexus was touched")
            if truth.type is not None and not world.open_end[lun]:
                held = state.reservation
                if held is None or held.type is not truth.type:
                    raise Violation(f"LUN {lun}: the reservation is not held")
            where = {AT_SOURCE: 0, AT_DESTINATION: 1}.get(world.guest)
            if where is not None and world.gates[where] is Gate.RUNNING:
                self._check_guest(world, lun, NEXUSES[where])

    def _check_guest(self, world: World, lun: int, nexus: ITNexus) -> None:
        state: ReservationState = self.part(world.luns[lun])
        truth: Tracked = self.part(world.truth[lun])
        key = state.key_of(nexus)
        if key and truth.aptpl and not state.aptpl:
            raise Violation(f"LUN {lun}: the guest runs without the APTPL that it asked for")
        if world.open_end[lun] and key == 0:
            return
        if key != truth.key:
            raise Violation(f"LUN {lun}: the guest runs with key {key:#x}, not {truth.key:#x}")
        if truth.type is not None and not state.holds(nexus):
            raise Violation(f"LUN {lun}: the guest runs and does not hold its reservation")

    def is_given_up(self, world: World) -> bool:
        """Whether the source is dead and nothing was prepared that could be taken: the operator's matter."""
        return world.dead and not self._is_taken(world)

    def check_end(self, world: World) -> None:
        """Raise `Violation` if nothing more can happen and not all is as it should be."""
        source, destination = self.part(world.source), self.part(world.destination)
        if self.is_given_up(world):
            return
        if world.dead and not world.source_up:
            here, there, ended = DESTINATION_NEXUS, SOURCE_NEXUS, destination.state is DestinationState.HERE
        elif source.state is SourceState.STAYED:
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
