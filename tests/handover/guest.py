"""What a guest does itself in a `World`: on the source, and on the destination while it runs there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.work import as_the_device_knows
from holdover.handover.protocol import HandoverEvent
from holdover.handover.state_table import SOURCE
from holdover.handover.states import Event
from holdover.lun.reservations import ReservationState, persistent_reserve_out
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import ParameterList
from tests.handover.faults import Faults
from tests.handover.world import (
    AT_DESTINATION,
    AT_SOURCE,
    KEY,
    NEW_KEY,
    STOPPED,
    THIRD_NEXUS,
    Progress,
    World,
    set_item,
)

_WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


class GuestActs(Faults):
    """PERSISTENT RESERVE OUT of the guest. ``changes`` says how many more there may be."""

    def guest_acts(self, world: World) -> Iterator[tuple[str, World]]:
        if not self.safe.gate and world.guest == STOPPED and world.gates[0] is Gate.LEAVING:
            # QEMU has resumed the guest on the source by itself; without a gate its commands go through
            for lun, tracked in enumerate(map(self.part, world.truth)):
                if tracked.key:
                    yield from self._change(world, 0, lun, OutServiceAction.REGISTER, tracked, 0)
        if not world.changes or world.guest == STOPPED:
            return
        who = {AT_SOURCE: 0, AT_DESTINATION: 1}[world.guest]
        up = world.destination_up if who else world.source_up
        if not up or world.gates[who] is not Gate.RUNNING:
            return
        left = world._replace(changes=world.changes - 1)
        for lun, tracked in enumerate(map(self.part, world.truth)):
            if not self._is_at_work(world, who, lun):
                yield from self._changes(left, who, lun, tracked)

    def _changes(self, world: World, who: int, lun: int, tracked: Tracked) -> Iterator[tuple[str, World]]:
        third = world.ledger[lun]
        if tracked.key == 0:
            fresh = replace(tracked, aptpl=self.cases[lun].aptpl)
            yield from self._change(world, who, lun, OutServiceAction.REGISTER, fresh, KEY)
            return
        new_keys = [NEW_KEY if tracked.key == KEY else KEY, 0]
        if who and third not in (0, tracked.key) and not world.thirds:
            # once the third has left, a source without the destination takes this key for the third's
            new_keys.append(third)
        for new_key in new_keys:
            yield from self._change(world, who, lun, OutServiceAction.REGISTER, tracked, new_key)
        if who and not tracked.aptpl:
            wanted = replace(tracked, aptpl=True)
            yield from self._change(world, who, lun, OutServiceAction.REGISTER, wanted, tracked.key)
        if tracked.type is not None:
            yield from self._change(world, who, lun, OutServiceAction.RELEASE, tracked, 0)
        yield from self._change(world, who, lun, OutServiceAction.RESERVE, tracked, 0)
        if who and third not in (0, tracked.key):
            yield from self._change(world, who, lun, OutServiceAction.PREEMPT, tracked, third)

    def _is_at_work(self, world: World, who: int, lun: int) -> bool:
        """Whether a host is between two commands on a LUN, where it keeps the guest's out."""
        task = world.destination_task if who else world.source_task
        if task[:1] != ("work",):
            return False
        progress = self.part(task[1 + lun])
        return isinstance(progress, Progress) and bool(progress.answers)

    def _change(
        self, world: World, who: int, lun: int, action: OutServiceAction, tracked: Tracked, service_key: int
    ) -> Iterator[tuple[str, World]]:
        nexus = self.names.nexuses[who]
        kind = tracked.type or _WERO
        parameters = ParameterList(tracked.key, service_key, tracked.aptpl)
        before: ReservationState = self.part(world.luns[lun])
        outcome = persistent_reserve_out(before, nexus, action, parameters, type=int(kind))
        if not outcome.good:
            return
        state = replace(outcome.state, generation=0)
        number = self.id(_after(tracked, state, nexus, action, service_key))
        after = world._replace(
            luns=set_item(world.luns, lun, self.id(state)),
            truth=set_item(world.truth, lun, number),
            ledger=set_item(world.ledger, lun, state.key_of(THIRD_NEXUS)),
            aptpl=set_item(world.aptpl, lun, state.aptpl and (world.aptpl[lun] or tracked.aptpl)),
            # as in `send`: by the same nexus
            late=tuple(each for each in world.late if each[:2] != (who, lun)),
        )
        where = "on the destination " if who else ""
        yield f"the guest's {action.name} {service_key:#x} {where}on LUN {lun}", self._seen(after, who, lun)

    def _seen(self, world: World, who: int, lun: int) -> World:
        """The guest's device has seen what it did, and a handover on the source is told."""
        number = world.truth[lun]
        if who:
            task = self._at_its_turn(
                world.destination_task, self.part(world.destination).luns[lun], lun, number
            )
            there = set_item(world.there, lun, number)
            on_record = set_item(world.there_journal, lun, number)
            return world._replace(there=there, there_journal=on_record, destination_task=task)
        after = world._replace(
            device=set_item(world.device, lun, number),
            device_journal=set_item(world.device_journal, lun, number),
        )
        machine = self.part(world.source)
        if machine is None or Event.CHANGED not in SOURCE[machine.state].follows:
            return after
        news = (LunHandover(f"naa.{lun}", tracked=self.part(number)),)
        return self.at_source(after, HandoverEvent(Event.CHANGED, news))

    def _at_its_turn(
        self, task: tuple[Any, ...], noted: LunHandover, lun: int, number: int
    ) -> tuple[Any, ...]:
        """Work that waited for the guest's command begins with what its device knows then."""
        progress = self.part(task[1 + lun]) if task[:1] == ("work",) else None
        if not isinstance(progress, Progress):
            return task
        known = as_the_device_knows(progress.work, noted, self.part(number), ())
        return set_item(task, 1 + lun, self.begin(progress.work, known))


def _after(
    tracked: Tracked, state: ReservationState, nexus: ITNexus, action: OutServiceAction, service_key: int
) -> Tracked:
    """What the guest has after its command."""
    if action is OutServiceAction.REGISTER:
        return replace(tracked, key=service_key) if service_key else UNREGISTERED
    if action is OutServiceAction.PREEMPT:
        held = state.reservation
        return replace(tracked, type=held.type if held is not None and state.holds(nexus) else None)
    if action is OutServiceAction.RELEASE:
        return replace(tracked, type=None)
    return replace(tracked, type=tracked.type or _WERO)
