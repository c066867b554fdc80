"""A multipath device of this host to a logical unit in memory, and the multipathd that knows its key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TypeVar

from holdover.lun.logical_unit import LogicalUnit
from holdover.paths.multipath_command import DeviceRegistration, carry, catch_up, registration_of, rejoin
from holdover.paths.multipath_steps import InitiatorPorts, Send, Usable
from holdover.reservations.driver import run_sync
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_in import ReadReservation
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import is_unit_attention
from holdover.scsi.status import Status
from tests.lun.support import TEST_UNIT_READY, TWO_PORTS, initiator, make_unit

T = TypeVar("T")

REGISTER = OutServiceAction.REGISTER
IGNORE = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
RESERVE, RELEASE = OutServiceAction.RESERVE, OutServiceAction.RELEASE
PREEMPT, CLEAR = OutServiceAction.PREEMPT, OutServiceAction.CLEAR
WE, WE_RO, WE_AR = (
    ReservationType.WRITE_EXCLUSIVE,
    ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
)
K, L, THIRD = 0xA, 0xB, 0xC
GOOD, CONFLICT = Response(Status.GOOD), Response(Status.RESERVATION_CONFLICT)
BUSY = Response(Status.BUSY)

PATHS = [ITNexus(initiator(f"path{number}")) for number in range(3)]
FOUR = [ITNexus(initiator(f"port{number // 2}"), number % 2 + 1) for number in range(4)]
"""Two initiator ports, each to both of two target ports."""

OTHER = ITNexus(initiator("other"), 1)
ONE = ITNexus(initiator("one"))


def past_attentions(send: Callable[[Command], Response], command: Command) -> Response:
    """The answer that comes after the unit attentions."""
    while is_unit_attention(response := send(command)):
        pass
    return response


def held(unit: LogicalUnit) -> tuple[int, ReservationType] | None:
    """Key and type of the reservation."""
    command = in_command(InServiceAction.READ_RESERVATION)
    found = ReadReservation.decode(past_attentions(partial(unit.execute, OTHER), command).data_in).reservation
    return None if found is None else (found.key, found.type)


class Device:
    """A multipath device, as its users and multipathd know it.

    ``by_port``: the logical unit keeps one registration for each initiator port, as some arrays do.
    """

    def __init__(
        self,
        unit: LogicalUnit | None = None,
        nexuses: Sequence[ITNexus] = PATHS,
        *,
        by_port: bool = False,
    ) -> None:
        self.unit = unit or make_unit()
        self.nexuses = [ITNexus(each.initiator) for each in nexuses] if by_port else list(nexuses)
        self.ports = InitiatorPorts()
        self.target_ports: frozenset[int] | None = None
        self.down: set[int] = set()
        self.failed: set[int] = set()
        self.kept: DeviceRegistration | None = None
        self.log: list[Send] = []
        self.before: Callable[[Send], None] = lambda _: None
        self.fails: Callable[[Send], PathError | None] = lambda _: None
        self.instead: Callable[[Send], Response | None] = lambda _: None
        self.after: Callable[[Send, Response], Response] = lambda _, response: response

    def know_ports(self) -> None:
        """As where the kernel tells the names of the host's initiator ports."""
        for each in self.nexuses:
            self.ports.add(str(each.initiator), each.initiator)

    def run(self, command: Command) -> Response:
        """Carry a command out, as `multipath` does."""
        self.failed.clear()
        before, registration = self.kept, registration_of(command)
        usable = self._usable()
        if registration is not None and registration != before:
            self.kept = None
        try:
            response = self._drive(carry(command, usable))
        except AnswerLost:
            raise
        except PathError:
            self._put_back(before, usable)
            raise
        if response.good:
            if registration is not None:
                self.kept = registration if registration.key else None
            if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
                self._catch_up(catch_up(command, usable.paths, self._returned(usable)))
        else:
            self._put_back(before, usable)
        return response

    def _put_back(self, before: DeviceRegistration | None, usable: Usable) -> None:
        self.kept = before
        if before is not None:
            self._catch_up(rejoin(before, usable.paths, self._returned(usable)))

    def _catch_up(self, steps: Generator[Send, Response, None]) -> None:
        with contextlib.suppress(PathError):
            self._drive(steps)

    def _returned(self, before: Usable) -> list[int]:
        usable = self._usable().paths
        return [path for path in usable if path in self.failed or path not in before.paths]

    def _usable(self) -> Usable:
        paths = tuple(index for index in range(len(self.nexuses)) if index not in self.down)
        labels = tuple(str(each.initiator) for each in self.nexuses)
        key = 0 if self.kept is None else self.kept.key
        return Usable("mpatha", paths, labels, self.target_ports, self.ports, key)

    def _drive(self, steps: Generator[Send, Response, T]) -> T:
        return run_sync(steps, self._carry_out)

    def _carry_out(self, request: Send) -> Response:
        self.log.append(request)
        self.before(request)
        failure = self.fails(request)
        if failure is not None:
            self.failed.add(request.path)
        if failure is not None and not isinstance(failure, AnswerLost):
            raise failure
        response = self.instead(request) or self.unit.execute(self.nexuses[request.path], request.command)
        response = self.after(request, response)
        if failure is not None:
            raise failure
        return response

    def fail(self, path: int) -> None:
        """A path goes."""
        self.down.add(path)

    def come_back(self, path: int) -> None:
        """A path is back: multipathd's checker asks it, then it is registered as multipathd does that."""
        self.down.discard(path)
        send = partial(self.unit.execute, self.nexuses[path])
        past_attentions(send, TEST_UNIT_READY)
        if self.kept is not None and self.kept.key in [each.key for each in self.unit.state.registrations]:
            action = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
            command = out_command(action, 0, self.kept.key, aptpl=self.kept.aptpl)
            assert past_attentions(send, command).good

    def out(
        self,
        action: OutServiceAction,
        key: int = 0,
        new: int = 0,
        kind: ReservationType | None = None,
        aptpl: bool = False,
    ) -> Response:
        """One PERSISTENT RESERVE OUT."""
        return self.run(out_command(action, key, new, type=kind, aptpl=aptpl))

    def keys(self) -> list[int]:
        """What each path is registered with."""
        return [self.unit.state.key_of(each) for each in self.nexuses]

    def held(self) -> tuple[int, ReservationType] | None:
        """Key and type of the reservation."""
        return held(self.unit)

    def directly(self, nexus: ITNexus, action: OutServiceAction, key: int = 0, new: int = 0) -> None:
        """Past the device, as things happen that it knows nothing of."""
        command = out_command(action, key, new)
        assert past_attentions(partial(self.unit.execute, nexus), command).good


def four(*, by_port: bool, known: bool = True) -> Device:
    """Four paths of two initiator ports."""
    device = Device(make_unit(limits=TWO_PORTS), FOUR, by_port=by_port)
    if known:
        device.know_ports()
    return device
