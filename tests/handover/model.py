"""What can happen in a `World`, and what must be true of every one of them."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.handover.destination_rules import is_over_at_the_source, may_hear_that_it_is_over
from holdover.handover.lun_handover import UNREGISTERED, LunHandover, Registrations
from holdover.handover.protocol import Answer, Answered, HandoverEvent, Message
from holdover.handover.source_rules import after_restart, begin, is_allowed, state_for_destination
from holdover.handover.state_table import DESTINATION, SOURCE
from holdover.handover.states import DestinationState, Event, SourceState
from holdover.lun.reservations import ReservationState, persistent_reserve_out
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import ParameterList
from tests.handover.guest import GuestActs
from tests.handover.world import (
    AT_DESTINATION,
    AT_SOURCE,
    STOPPED,
    THIRD_KEY,
    THIRD_NEXUS,
    WHO,
    Ended,
    Violation,
    World,
    name_of,
    out,
    set_item,
    silent,
    without_item,
)

_FINDS = frozenset(
    {
        SourceState.COMMITTED,
        SourceState.WONDERING,
        SourceState.RECALLING,
        SourceState.CONCEDING,
        SourceState.YIELDING,
        SourceState.GONE,
    }
)
"""The states in which a source is whose "committed" was told, until its driver asks for something else."""


class Model(GuestActs):
    """The worlds of one set of cases, and what can happen in each."""

    # -- actions ------------------------------------------------------------------------------------

    def successors(self, world: World) -> Iterator[tuple[str, World, bool]]:
        """Everything that can happen: what it is, the world after it, whether it is a fault."""
        for what, after in self._orderly(world):
            self._check_opening(world, after)
            yield what, after, False
        if world.faults:
            left = world._replace(faults=world.faults - 1)
            for what, after in self.faults(left):
                yield what, after, True
        if world.flaps:
            for what, after in self.flaps(world._replace(flaps=world.flaps - 1)):
                yield what, after, True

    def _orderly(self, world: World) -> Iterator[tuple[str, World]]:
        yield from self.works(world)
        yield from self.messages(world)
        yield from self._orchestrator(world)
        yield from self.guest_acts(world)
        yield from self._third(world)
        if world.cut:
            yield "the partition heals", world._replace(cut=False)
        if not world.source_up and (not world.dead or self._is_taken(world)):
            yield "the source restarts", self.restart_source(world)
        yield from self._death(world)
        if not world.destination_up:
            yield "the destination restarts", self.restart_destination(world)
        for ghost in world.late:
            who, lun, command = ghost
            after, _ = self.execute(world, who, lun, self.part(command))
            left = tuple(each for each in world.late if each != ghost)
            yield f"a late command on LUN {lun}", after._replace(late=left)

    def _is_taken(self, world: World) -> bool:
        destination = self.part(world.destination)
        return destination is not None and DESTINATION[destination.state].is_taken

    def _death(self, world: World) -> Iterator[tuple[str, World]]:
        """The operator gives the source up; its host comes back, if ever, when the destination has taken."""
        destination = self.part(world.destination)
        yield from self._second_death(world)
        if destination is None or not world.destination_up or not self.is_destination_free(world):
            return
        if self.bounds.dies and not world.source_up and not world.dead:
            late = tuple(each for each in world.late if each[0] != 0)
            guest = AT_DESTINATION if world.guest == AT_DESTINATION else STOPPED
            dead = world._replace(dead=True, guest=guest, late=late)
            if destination.state is DestinationState.TAKEN:
                dead = self.at_destination(dead, HandoverEvent(Event.ASKED_TAKE))  # it is dead once more
            yield "the source is declared dead", dead
        if not world.dead:
            return
        if destination.state is DestinationState.TAKEN:
            if world.guest == STOPPED:
                yield "the guest is started on the destination", world._replace(guest=AT_DESTINATION)
            else:
                yield (
                    "finish without the source",
                    self.at_destination(world, HandoverEvent(Event.ASKED_FINISH)),
                )
        elif world.destination_task:
            if Event.ASKED_FINISH in DESTINATION[destination.state].follows and not world.source_up:
                yield (
                    "finish without the source",
                    self.at_destination(world, HandoverEvent(Event.ASKED_FINISH)),
                )
        elif Event.ASKED_TAKE in DESTINATION[destination.state].follows:
            yield "take", self.at_destination(world, HandoverEvent(Event.ASKED_TAKE))

    def _second_death(self, world: World) -> Iterator[tuple[str, World]]:
        """The source is back, and the operator gives up the destination, which was to take and is down."""
        source = self.part(world.source)
        if not world.dead or not world.source_up or world.destination_up or source is None:
            return
        if Event.ASKED_ALONE in SOURCE[source.state].follows:
            late = tuple(each for each in world.late if each[0] != 1)
            guest = AT_SOURCE if world.guest == AT_SOURCE else STOPPED
            alone = world._replace(dead=False, told=False, guest=guest, late=late)
            asked = self.at_source(alone, HandoverEvent(Event.ASKED_ALONE, problem="!"))
            yield "the destination is declared dead, roll back alone", asked

    def restart_source(self, world: World) -> World:
        up = world._replace(source_up=True)
        if not self.safe.wonders and up.source >= 0:
            up = up._replace(source=self.id(replace(self.part(up.source), armed=False)))
        machine = self.part(up.source)
        gate = Gate.RUNNING if machine is None else after_restart(machine)
        up = up._replace(gates=(gate, world.gates[1]))
        if machine is None:
            return up
        if machine.state is SourceState.PREPARED and not self.safe.restart_news:
            return up
        if not self.safe.skips:
            up = up._replace(source=self.id(replace(machine, number=machine.number - 1)))
        up = self.at_source(up, HandoverEvent(Event.RESTARTED, devices=self.views(up.device)))
        source = self.part(up.source)
        if source.state is SourceState.PROBING and not self.safe.probes:
            up = self.at_source(up, HandoverEvent(Event.DONE, source.luns))
        return up

    def _is_elsewhere(self, world: World) -> bool:
        """Whether the source has rolled back alone, and was declared dead before the destination heard of it.

        The destination has taken the guest then. On the LUN nothing shows the roll back of a guest that is
        not registered. So the source goes by the declaration, which its agent reads when it starts: it keeps
        its gate shut (`holdover.agent.placement.dead_hosts`).
        """
        source, destination = self.part(world.source), self.part(world.destination)
        if not world.dead or source is None or destination is None:
            return False
        taken = destination.state in (DestinationState.TAKEN, DestinationState.HERE)
        return taken and source.state is SourceState.STAYED

    def restart_destination(self, world: World) -> World:
        up = world._replace(destination_up=True)
        if up.destination < 0:
            return up
        if not self.safe.is_unsure:
            up = up._replace(destination=self.id(replace(self.part(up.destination), armed=False)))
        return self.at_destination(up, HandoverEvent(Event.RESTARTED))

    def works(self, world: World) -> Iterator[tuple[str, World]]:
        if world.destination_task == ("open",):
            yield "destination: its gate opens", self.opened(world)
        for who, task in enumerate((world.source_task, world.destination_task)):
            if not task or task[0] != "work":
                continue
            ends = [self.advance(number) for number in task[1:]]
            if all(isinstance(end, Ended) for end in ends):
                yield from self._ended(world, who, [end.lun for end in ends])
                continue
            for lun, command in enumerate(ends):
                if not isinstance(command, Ended):
                    done, answer = self.execute(world, who, lun, command)
                    yield f"{WHO[who]}: {name_of(command)} on LUN {lun}", self.send(done, who, lun, answer)

    def _ended(self, world: World, who: int, luns: list[LunHandover | None]) -> Iterator[tuple[str, World]]:
        good = [silent(lun) for lun in luns if lun is not None]
        happened = HandoverEvent(Event.FAILED, problem="!")
        if len(good) == len(luns):
            source = self.part(world.source)
            is_drained = not who and source.state is SourceState.LEAVING
            devices = self.views(world.device) if is_drained else None
            happened = HandoverEvent(Event.DONE, tuple(good), devices=devices)
        step = self.at_destination if who else self.at_source
        yield f"{WHO[who]}: {happened.event.value}", step(world, happened)

    def messages(self, world: World) -> Iterator[tuple[str, World]]:
        waits = world.source_task[1] if world.source_task[:1] == ("tell",) else None
        for number in world.net:
            item = self.part(number)
            left = world._replace(net=without_item(world.net, number))
            if isinstance(item, Message) and world.destination_up and self.is_destination_free(world):
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
            and destination.is_open
            and is_over_at_the_source(
                destination, state_for_destination(source, departed=self._is_elsewhere(world))
            )
            and self.is_destination_free(world)
            and may_hear_that_it_is_over(destination, source_is_dead=world.dead)
        ):
            yield (
                "the destination hears that it is over",
                self.at_destination(world, HandoverEvent(Event.OVER)),
            )

    def _answered(self, world: World, answer: Answer) -> Iterator[tuple[str, World]]:
        event = {
            Answered.DONE: Event.TOLD,
            Answered.REFUSED: Event.REFUSED,
            Answered.TAKEN: Event.TAKEN,
            Answered.KEPT: Event.KEPT,
            Answered.UNKNOWN: Event.UNREACHED,
        }[answer.kind]
        luns = (
            answer.luns if self.safe.picture else tuple(replace(lun, ran_there=False) for lun in answer.luns)
        )
        yield f"answered: {answer.kind.value}", self.at_source(world, HandoverEvent(event, luns))

    def _is_on_its_way(self, world: World, number: int) -> bool:
        if any(self.part(each).number == number for each in world.net):
            return True
        destination = self.part(world.destination)
        return bool(world.destination_task) and destination.number == number and destination.answer is None

    def _orchestrator(self, world: World) -> Iterator[tuple[str, World]]:
        machine = self.part(world.source)
        if world.told and world.guest == STOPPED and not world.dead:
            yield "the guest starts on the destination", world._replace(guest=AT_DESTINATION)
        if world.dead and world.source_up and machine is not None and machine.state is SourceState.PREPARED:
            yield "check", self.at_source(world, HandoverEvent(Event.ASKED_CHECK))
            yield "prepared for too long", self.at_source(world, HandoverEvent(Event.ASKED_ROLL_BACK))
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
            yield "the guest stops, commit", self.at_source(stopped, HandoverEvent(Event.ASKED_COMMIT))
            yield "roll back", self.at_source(world, HandoverEvent(Event.ASKED_ROLL_BACK))
            yield "check", self.at_source(world, HandoverEvent(Event.ASKED_CHECK))
        elif state is SourceState.CONFIRMING and is_allowed(machine, Event.ASKED_COMMIT):
            stopped = world._replace(guest=STOPPED)
            yield (
                "the guest stops, commit amid a check",
                self.at_source(stopped, HandoverEvent(Event.ASKED_COMMIT)),
            )
        elif (rewound := self.before_recheck(world.source)) is not None:
            stopped = world._replace(guest=STOPPED, source=rewound, source_task=())
            yield (
                "the guest stops, commit amid a check that was sent",
                self.at_source(stopped, HandoverEvent(Event.ASKED_COMMIT)),
            )
        elif state is SourceState.COMMITTED and world.guest != AT_DESTINATION:
            untold = world._replace(told=False)
            yield "roll back", self.at_source(untold, HandoverEvent(Event.ASKED_ROLL_BACK))
        elif state is SourceState.COMMITTED:
            untold = world._replace(told=False)
            yield "finish", self.at_source(untold, HandoverEvent(Event.ASKED_FINISH))
            stopped = untold._replace(guest=STOPPED)
            yield (
                "the guest stops on the destination, roll back",
                self.at_source(stopped, HandoverEvent(Event.ASKED_ROLL_BACK)),
            )
        elif state is SourceState.STAYED and world.guest == STOPPED:
            yield "the guest goes on on the source", world._replace(guest=AT_SOURCE)

    def _prepare(self, world: World) -> World:
        luns = tuple(
            LunHandover(
                f"naa.{number}",
                tracked=self.part(tracked),
                source_spare=self.names.source_spare,
                destination_spare=self.names.destination_spare,
                fresh_spare=self.names.fresh_spare,
                source=Registrations(paths=len(self.nexuses(number, 0))),
            )
            for number, tracked in enumerate(world.device)
        )
        machine, effects = begin("h", "guest", "destination", luns, arms=self.bounds.arms)
        return self.source_effects(world, self.id(machine), effects)

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
            held = state.reservation
            if held is not None and state.holds(THIRD_NEXUS):
                new = out(state, THIRD_NEXUS, OutServiceAction.RELEASE, key, type=held.type)
                yield f"the third releases LUN {lun}", self._by_third(left, lun, new)
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
                    if any(new.key_of(nexus) for nexus in self._both(lun)):
                        fenced = fenced._replace(open_end=set_item(fenced.open_end, lun, True))
                    yield f"the third preempts the guest on LUN {lun}", fenced
            new = out(state, THIRD_NEXUS, OutServiceAction.CLEAR, key)
            yield f"the third clears LUN {lun}", self._by_third(left, lun, new)

    def _both(self, lun: int) -> tuple[ITNexus, ...]:
        return self.nexuses(lun, 0) + self.nexuses(lun, 1)

    def _by_third(self, world: World, lun: int, state: ReservationState) -> World:
        truth: Tracked = self.part(world.truth[lun])
        registered = [nexus for nexus in self._both(lun) if state.key_of(nexus)]
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
        if world.told and world.source_up and not world.dead:
            machine = self.part(world.source)
            if machine.state not in _FINDS:
                raise Violation(f'"committed" was told, and the source is {machine.state.value}')
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
                self._check_guest(world, lun, where)
                self._check_picture(world, lun, where)

    def _check_opening(self, before: World, after: World) -> None:
        """The source's gate does not open for a guest that the destination has taken, even if it is not here.

        Somebody may start the guest on a host that is back. What the destination takes at the moment after
        the source has asked the LUN, the source hears from the destination.
        """
        was_open = before.source_up and before.gates[0] is Gate.RUNNING
        opens = after.source_up and after.gates[0] is Gate.RUNNING and not was_open
        if not opens or after.destination_task or not self._is_taken(after):
            return
        if self._has_asked(before) or self._is_elsewhere(after):
            return
        for lun, number in enumerate(after.luns):
            key = self.part(after.truth[lun]).key
            is_missing = key and not any(self.part(number).key_of(each) for each in self.nexuses(lun, 0))
            if is_missing and not after.open_end[lun]:
                raise Violation(f"LUN {lun}: the source's gate opens, and the guest was taken")

    def _has_asked(self, world: World) -> bool:
        """Whether the LUNs have just told a restarted source that it is still registered."""
        source = self.part(world.source)
        if not world.source_up or source is None or source.state is not SourceState.PROBING:
            return False
        ends = [self.advance(number) for number in world.source_task[1:]]
        return all(isinstance(end, Ended) and end.lun is not None and not end.lun.lost for end in ends)

    def _check_picture(self, world: World, lun: int, who: int) -> None:
        """What this host tracks is what the guest has; what a third has done, a LUN tells only later.

        APTPL is the LUN's: a source that has gone on alone does not know that the guest has asked for it.
        """
        if world.thirds != self.bounds.thirds or not (world.destination_up if who else world.source_up):
            return
        truth: Tracked = self.part(world.truth[lun])
        tracked: Tracked = self.part((world.there if who else world.device)[lun])
        if replace(tracked, aptpl=truth.aptpl) != truth:
            raise Violation(f"LUN {lun}: the {WHO[who]} tracks {tracked}, not {truth}")
        machine = self.part(world.source)
        is_prepared = machine is not None and machine.state is SourceState.PREPARED and not who
        if is_prepared and machine.luns[lun].tracked != tracked:
            raise Violation(f"LUN {lun}: {machine.luns[lun].tracked} is prepared, not {truth}")

    def _check_guest(self, world: World, lun: int, who: int) -> None:
        for nexus in self.usable(world, lun, who):
            self._check_nexus(world, lun, who, nexus)

    def _check_nexus(self, world: World, lun: int, who: int, nexus: ITNexus) -> None:
        state: ReservationState = self.part(world.luns[lun])
        truth: Tracked = self.part(world.truth[lun])
        key = state.key_of(nexus)
        if key and truth.aptpl and not state.aptpl:
            raise Violation(f"LUN {lun}: the guest runs without the APTPL that it asked for")
        if world.open_end[lun] and key == 0:
            return
        if key != truth.key:
            raise Violation(f"LUN {lun}: the guest runs with key {key:#x}, not {truth.key:#x}")
        if truth.type is not None and not any(state.holds(each) for each in self.nexuses(lun, who)):
            raise Violation(f"LUN {lun}: the guest runs and does not hold its reservation")

    def is_given_up(self, world: World) -> bool:
        """Whether the source is dead and nothing was prepared that could be taken: the operator's matter.

        It is not where everything has been moved already: that can be taken, once it is asked for.
        """
        return world.dead and not self._is_taken(world) and not self._is_moved(world)

    def _is_moved(self, world: World) -> bool:
        """Whether the destination holds the guest's reservation, with its key, on all LUNs.

        Where a third node has that key too, nothing is taken. Among all registrants, nobody can tell a source
        that has unregistered for the commit from a guest that was fenced.
        """
        if world.thirds != self.bounds.thirds or world.late:
            return False
        for lun, number in enumerate(world.luns):
            state, truth = self.part(number), self.part(world.truth[lun])
            there = [nexus for nexus in self.nexuses(lun, 1) if state.key_of(nexus) == truth.key]
            if truth.type is None or truth.type.all_registrants or truth.key == world.ledger[lun]:
                return False
            if not any(map(state.holds, there)):
                return False
            if any(state.key_of(nexus) for nexus in self.nexuses(lun, 0)):
                return False
        return True

    def check_end(self, world: World) -> None:
        """Raise `Violation` if nothing more can happen and not all is as it should be."""
        source, destination = self.part(world.source), self.part(world.destination)
        if world.dead and not self._is_taken(world):
            return
        if (world.dead and not world.source_up) or self._is_elsewhere(world):
            here, there, ended = 1, 0, destination.state is DestinationState.HERE
        elif source.state is SourceState.STAYED:
            here, there = 0, 1
            ended = destination is None or not destination.is_open
        else:
            here, there = 1, 0
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
            is_told = any(each is not None and each.luns[lun].alarm for each in (source, destination))
            for nexus in self.nexuses(lun, there):
                key = state.key_of(nexus)
                # Nobody else has a spare key, so the guest's host can always remove it.
                is_spare = key in self.spares and self.part(world.truth[lun]).key
                if key and (is_spare or not is_told):
                    raise Violation(f"LUN {lun}: key {key:#x} is left behind")
            self._check_guest(world, lun, here)
