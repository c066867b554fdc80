"""What can go wrong in a `World`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from holdover.handover.protocol import Answer, Message
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from tests.handover.multipath import Paths, fail, restore
from tests.handover.parts import Parts
from tests.handover.world import (
    LOST,
    WHO,
    Ended,
    World,
    execute,
    kind_of,
    name_of,
    set_item,
    without_item,
)


class Faults(Parts):
    """Crashes, lost messages and answers, a partition. ``world`` has one fault less already."""

    def flaps(self, world: World) -> Iterator[tuple[str, World]]:
        """Paths that fail, the last one of a host excepted, or come back. ``world`` has one less already."""
        for lun, who in product(range(len(world.luns)), (0, 1)):
            paths = self.part(world.paths[lun][who])
            if paths is None:
                continue
            for number, up in enumerate(paths.up):
                if not up:
                    restored = self._restored(world, lun, who, number)
                    yield f"path {number} of the {WHO[who]} comes back", restored
                elif sum(paths.up) > 1:
                    failed = self._with_paths(world, lun, who, fail(paths, number))
                    yield f"path {number} of the {WHO[who]} fails", failed

    def _restored(self, world: World, lun: int, who: int, number: int) -> World:
        state = self.part(world.luns[lun])

        def by(nexus: ITNexus, command: Command) -> Response:
            nonlocal state
            state, response = execute(state, nexus, command)
            return response

        paths = restore(self.part(world.paths[lun][who]), number, by)
        after = self._with_paths(world, lun, who, paths)
        return after._replace(luns=set_item(world.luns, lun, self.id(state)))

    def _with_paths(self, world: World, lun: int, who: int, paths: Paths) -> World:
        pair = set_item(world.paths[lun], who, self.id(paths))
        return world._replace(paths=set_item(world.paths, lun, pair))

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
            if isinstance(item, Message) and world.destination_up and self.is_destination_free(world):
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
        ends = {self.execute(world, who, lun, command)[0]: "", world: "not "}
        if self.part(world.paths[lun][who]) is not None:
            ends.setdefault(self.execute(world, who, lun, command, most=1)[0], "by one path ")
        for after, done in ends.items():
            text = f"{WHO[who]}: {name_of(command)} on LUN {lun}, {done}carried out, "
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
            late = self._under_way(world, who)
            for ghosts, text in (((), ""), (late, ", commands under way")):
                if ghosts or not text:
                    down = self.down(world, who)._replace(late=tuple(sorted({*world.late, *ghosts})))
                    yield f"the {WHO[who]} crashes{text}", down
            synced = self.synced(world, who)
            if synced != world:
                yield f"the {WHO[who]} crashes, its records on disk", self.down(synced, who)
            unsent = self._last_sent(world, who)
            if unsent is not None:
                down = self.down(world, who)._replace(net=without_item(world.net, unsent))
                yield f"the {WHO[who]} crashes before it has sent anything", down

    def down(self, world: World, who: int) -> World:
        """The host has crashed: it has what is on record."""
        if who:
            return world._replace(
                destination_up=False,
                destination_task=(),
                destination=world.destination_journal,
                there=world.there_journal,
            )
        return world._replace(
            source_up=False, source_task=(), source=world.source_journal, device=world.device_journal
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
