"""What can go wrong in a `World`."""

from __future__ import annotations

from collections.abc import Iterator

from holdover.handover.protocol import Answer, Message
from holdover.scsi.command import Command
from holdover.scsi.opcodes import OperationCode
from tests.handover.parts import Parts
from tests.handover.world import LOST, WHO, Ended, World, kind_of, name_of, set_item, without_item

__all__ = ["Faults"]


class Faults(Parts):
    """Crashes, lost messages and answers, a partition. ``world`` has one fault less already."""

    def faults(self, world: World) -> Iterator[tuple[str, World]]:
        yield from self._crashes(world)
        if not world.cut:
            yield "the network parts", world._replace(cut=True, net=())
        for number in world.net:
            item = self.part(number)
            yield (
                f"{kind_of(item)} {item.number} is lost",
                world._replace(net=without_item(world.net, number)),
            )
            if isinstance(item, Message) and world.destination_up and not world.destination_task:
                # delivered, and still on its way
                yield f"{item.kind.value} {item.number} is doubled", self.at_destination(world, item)
        if world.source_task[:1] == ("tell",):
            yield from self.unreached(world)
        for who, task in enumerate((world.source_task, world.destination_task)):
            if task[:1] != ("work",):
                continue
            for lun, number in enumerate(task[1:]):
                command = self.advance(number)
                if not isinstance(command, Ended):
                    yield from self._lun_faults(world, who, lun, command)

    def _lun_faults(self, world: World, who: int, lun: int, command: Command) -> Iterator[tuple[str, World]]:
        luns, _ = self.execute(world, who, lun, command)
        for done, state in (("", luns), ("not ", world.luns)):
            if done and state == world.luns and luns == world.luns:
                continue
            text = f"{WHO[who]}: {name_of(command)} on LUN {lun}, {done}carried out, "
            after = world._replace(luns=state)
            yield text + "its answer lost", self.send(after, who, lun, LOST)
            yield text + "gives up", self._give_up(after, who, lun)

    def _give_up(self, world: World, who: int, lun: int) -> World:
        late = tuple(each for each in world.late if each[:2] != (who, lun))
        failed = self.id(Ended(None))
        if who:
            task = set_item(world.destination_task, 1 + lun, failed)
            return world._replace(destination_task=task, late=late)
        return world._replace(source_task=set_item(world.source_task, 1 + lun, failed), late=late)

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
                    yield f"the {WHO[who]} crashes{text}", crashed
            unsent = self._last_sent(world, who)
            if unsent is not None:
                yield (
                    f"the {WHO[who]} crashes before it has sent anything",
                    down._replace(net=without_item(world.net, unsent)),
                )

    def _under_way(self, world: World, who: int) -> tuple[tuple[int, int, int], ...]:
        task = world.destination_task if who else world.source_task
        if task[:1] != ("work",):
            return ()
        commands = [(lun, self.advance(number)) for lun, number in enumerate(task[1:])]
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
