"""A host that has a LUN by several paths, with multipathd beside it; for the tests of the handover.

The project's own `carry` says what each path does for one command. multipathd is modelled: it keeps the key
that it was told last, and registers a path that comes back with that key, if it is on the LUN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from holdover.paths.multipath_command import DeviceRegistration, carry, registration_of
from holdover.paths.multipath_steps import Usable
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import is_unit_attention

Execute = Callable[[ITNexus, Command], Response]
"""What a LUN does with a command that comes by one I_T nexus."""


@dataclass(frozen=True)
class Paths:
    """The paths of one host to one LUN.

    Attributes:
        nexuses: The I_T nexus of each path, as the LUN keeps it: paths of one initiator port share it where
            the LUN keeps one registration for each initiator port.
        ports: The initiator port of each path.
        up: Whether each path can be used.
        told: What multipathd was told to register a path with that comes back; None: nothing.
    """

    nexuses: tuple[ITNexus, ...]
    ports: tuple[str, ...]
    up: tuple[bool, ...]
    told: DeviceRegistration | None = None


def paths_of(host: str, ports: tuple[int, ...], *, up: tuple[bool, ...] = (), by_port: bool = False) -> Paths:
    """The paths of ``host``, each by the initiator port of that number, to a target port of its own."""
    nexuses = []
    for number, port in enumerate(ports, 1):
        name = IscsiTransportID(f"iqn.2026-11.org.example:{host}", b"\x80\0\0\0\0" + bytes([port]))
        nexuses.append(ITNexus(name, 1 if by_port else number))
    labels = tuple(f"{host}-{port}" for port in ports)
    return Paths(tuple(nexuses), labels, up or (True,) * len(ports))


def carry_out(
    paths: Paths, command: Command, execute: Execute, most: int | None = None
) -> tuple[Paths, Response | None]:
    """One command of the host, by all paths that it takes.

    ``most``: after so many commands to paths the host dies, and there is no answer.
    """
    usable = tuple(number for number, up in enumerate(paths.up) if up)
    key = 0 if paths.told is None else paths.told.key
    registration = registration_of(command)
    told = None if registration is None or registration.key == 0 else registration
    steps = carry(command, Usable("mpatha", usable, paths.ports, key=key))
    try:
        request = next(steps)
        while True:
            if most == 0:
                return (paths if registration is None else replace(paths, told=told)), None
            most = None if most is None else most - 1
            request = steps.send(execute(paths.nexuses[request.path], request.command))
    except StopIteration as done:
        response: Response = done.value
    if registration is None or not response.good:
        return paths, response
    return replace(paths, told=told), response


def fail(paths: Paths, path: int) -> Paths:
    """``path`` can be used no more; what it has registered stays."""
    return replace(paths, up=tuple(up and number != path for number, up in enumerate(paths.up)))


def restore(paths: Paths, path: int, execute: Execute) -> Paths:
    """``path`` can be used again, and multipathd has seen to its registration."""
    told = paths.told
    paths = replace(paths, up=tuple(up or number == path for number, up in enumerate(paths.up)))
    nexus = paths.nexuses[path]
    if told is not None and told.key in _keys(nexus, execute):
        action = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
        _past_attentions(nexus, out_command(action, 0, told.key, aptpl=told.aptpl), execute)
    return paths


def _keys(nexus: ITNexus, execute: Execute) -> tuple[int, ...]:
    answer = _past_attentions(nexus, in_command(InServiceAction.READ_KEYS), execute)
    return ReadKeys.decode(answer.data_in).keys


def _past_attentions(nexus: ITNexus, command: Command, execute: Execute) -> Response:
    while is_unit_attention(answer := execute(nexus, command)):
        pass
    return answer
