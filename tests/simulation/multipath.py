"""A host's disk with several paths, each an I_T nexus, and multipathd, which registers paths that come back.

The project's own `carry` says what each path does for one command. Paths fail and come back at any time, also
amid a command. multipathd is modelled: it outlives the agent, keeps the key that it was told, and registers a
path that comes back with that key if it may and if the key is on the LUN.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from holdover.paths.multipath_command import DeviceRegistration, carry, catch_up, registration_of, rejoin
from holdover.paths.multipath_steps import InitiatorPorts, PathSteps, T, Usable
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import is_unit_attention
from tests.simulation.san import Lun, LunPath, Sender


class PathObserver(Protocol):
    """Is told what goes wrong with paths."""

    def path_failed(self, lun: Lun, guest: str, nexus: ITNexus) -> None:
        """A path has failed."""
        ...

    def doubtful(self, lun: Lun, guest: str) -> None:
        """It is not known by which paths a change of the guest was carried out."""
        ...


@dataclass(eq=False)
class HostPaths:
    """The paths of one host to one LUN, and what multipathd knows of them.

    Attributes:
        nexuses: The I_T nexus of each path.
        down: The paths that cannot be used.
        kept: The key that multipathd was told.
        watched: Whether multipathd registers paths that come back.
        ports: What the host knows of its initiator ports.
    """

    lun: Lun
    sender: Sender
    nexuses: tuple[ITNexus, ...]
    observer: PathObserver
    down: set[int] = field(default_factory=set)
    kept: DeviceRegistration | None = None
    watched: bool = False
    ports: InitiatorPorts = field(default_factory=InitiatorPorts)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    opened: list[LunPath] = field(default_factory=list)
    _changes: bool = False

    @contextlib.contextmanager
    def change_of_a_guest(self) -> Iterator[None]:
        """While a guest's change is carried out. An answer that is lost, and a death, leave it in doubt."""
        self._changes = True
        try:
            yield
        except AnswerLost:
            self.observer.doubtful(self.lun, self.sender.guest)
            raise
        finally:
            self._changes = False

    def agent_has_died(self) -> None:
        """Note that the agent has died: what it was doing goes no further."""
        if self._changes:
            self._changes = False
            self.observer.doubtful(self.lun, self.sender.guest)
        self.opened.clear()
        self.changing = asyncio.Lock()

    @property
    def registration(self) -> DeviceRegistration | None:
        """What multipathd registers on a path that comes back."""
        return self.kept if self.watched else None

    def keep(self, registration: DeviceRegistration | None) -> None:
        """Tell multipathd another key, which it does not use yet."""
        self.kept, self.watched = registration, False

    def watch(self) -> None:
        """Let multipathd use its key."""
        self.watched = self.kept is not None

    def usable(self) -> Usable:
        """The device as its user finds it. Raises `PathError` if no path can be used."""
        paths = tuple(number for number in range(len(self.nexuses)) if number not in self.down)
        if not paths:
            raise PathError(self.lun.name, "none of its paths can be used")
        key = 0 if self.registration is None else self.registration.key
        return Usable(self.lun.name, paths, self._labels(), None, self.ports, key)

    def _labels(self) -> tuple[str, ...]:
        return tuple(str(each.initiator) for each in self.nexuses)

    def has_failed(self, path: int) -> None:
        """Note that a command could not go by a path."""
        self.observer.path_failed(self.lun, self.sender.guest, self.nexuses[path])

    def fail(self, path: int) -> None:
        """A path can be used no more; what is under way by it has no answer."""
        self.down.add(path)
        self.has_failed(path)
        for each in self.opened:
            if each.number == path:
                each.break_session("the path fails")

    def restore(self, path: int, *, has_daemon: bool) -> None:
        """A path is back: multipathd, if it runs, asks it, and then registers it."""
        self.down.discard(path)
        if not has_daemon:
            return
        nexus, kept = self.nexuses[path], self.registration
        self._past_attentions(nexus, Command(bytes(6)))
        if kept is None:
            return
        answer = self._past_attentions(nexus, in_command(InServiceAction.READ_KEYS))
        if answer.good and kept.key in ReadKeys.decode(answer.data_in).keys:
            action = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
            self._past_attentions(nexus, out_command(action, 0, kept.key, aptpl=kept.aptpl))

    def _past_attentions(self, nexus: ITNexus, command: Command) -> Response:
        while is_unit_attention(answer := self.lun.carry_out(self.sender, nexus, command)):
            pass
        return answer


@dataclass(eq=False)
class MultipathDisk:
    """The path of one agent to a LUN by such a device.

    Attributes:
        issued: The commands of guests that are under way: what such a command makes the paths do is the
            guest's doing too.
    """

    host: HostPaths
    paths: list[LunPath]
    name: str
    issued: dict[int, Command]

    @property
    def nexuses(self) -> int:
        """How many paths the device has."""
        return len(self.paths)

    async def execute(self, command: Command) -> Response:
        """Carry out one command; see `Path.execute`."""
        if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
            return await self._drive(carry(command, self.host.usable()), command)
        async with self.host.changing:
            if id(command) not in self.issued:
                return await self._change(command)
            with self.host.change_of_a_guest():
                return await self._change(command)

    async def _change(self, command: Command) -> Response:
        host = self.host
        before, usable = host.registration, host.usable()
        registration = registration_of(command)
        wanted = before
        if registration is not None:
            wanted = registration if registration.key else None
        failed: set[int] = set()
        if before != wanted:
            host.keep(wanted)
        try:
            response = await self._drive(carry(command, usable), command, failed)
        except AnswerLost:
            if before != wanted:
                host.watch()
            raise
        except PathError:
            await self._put_back(before, wanted, usable, failed)
            raise
        if not response.good:
            await self._put_back(before, wanted, usable, failed)
            return response
        if before != wanted:
            host.watch()
        await self._catch_up(lambda back: catch_up(command, usable.paths, back), usable, failed, command)
        return response

    async def _put_back(
        self,
        before: DeviceRegistration | None,
        wanted: DeviceRegistration | None,
        usable: Usable,
        failed: set[int],
    ) -> None:
        if before != wanted:
            self.host.keep(before)
            self.host.watch()
        if before is not None:
            kept = before
            await self._catch_up(lambda back: rejoin(kept, usable.paths, back), usable, failed, None)

    async def _catch_up(
        self,
        steps: Callable[[Sequence[int]], PathSteps[None]],
        usable: Usable,
        failed: set[int],
        command: Command | None,
    ) -> None:
        with contextlib.suppress(PathError):
            now = self.host.usable().paths
            returned = [path for path in now if path in failed or path not in usable.paths]
            await self._drive(steps(returned), command)

    async def _drive(self, steps: PathSteps[T], command: Command | None, failed: set[int] | None = None) -> T:
        is_the_guests = command is not None and id(command) in self.issued
        try:
            request = next(steps)
            while True:
                if is_the_guests:
                    self.issued[id(request.command)] = request.command
                try:
                    response = await self._send(request.path, request.command)
                except PathError as error:
                    self.host.has_failed(request.path)
                    if failed is not None:
                        failed.add(request.path)
                    request = steps.throw(error)
                else:
                    request = steps.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, path: int, command: Command) -> Response:
        if path in self.host.down:
            raise PathError(self.name, "the path has failed")
        return await self.paths[path].execute(command)

    async def close(self) -> None:
        """Stop using the device."""
        for path in self.paths:
            await path.close()
