"""Registrations of paths that cannot be reached, and how the other paths remove them. Pure.

Theory of operation. Only the path itself can unregister. So the registration of a path that is away stays
when the device unregisters or changes its key. If that path holds the reservation, no path of this host could
release it. PREEMPT removes such a registration, but it removes the registrations of every nexus with that
key. So READ FULL STATUS must first say whose they are:

=========  ==========================================================================================
ours       The initiator port is known as this host's (`InitiatorPorts`).
foreign    The names of all initiator ports of the device are known, and this is another one; or no path of
           the device leads to that target port.
unclear    Anything else. Without READ FULL STATUS, everything is unclear.
=========  ==========================================================================================

A PREEMPT is sent only if all registrations with the key are ours. A path that comes back gets REGISTRATIONS
PREEMPTED. multipathd's checker gets this unit attention before any command of the guest does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from holdover.paths.multipath_steps import (
    PathSteps,
    Send,
    Usable,
    clear_attentions,
    held_reservation,
    is_not_now,
    must,
    past_attentions,
    send_to_all,
)
from holdover.scsi.allocation import ask_whole
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_in import Capabilities, FullStatus, ReadKeys
from holdover.scsi.reservation.reservation_out import ParameterList, in_command, out_command
from holdover.scsi.reservation.transport_id import TransportID
from holdover.scsi.sense import is_unit_attention
from holdover.scsi.status import Status

_GOOD = Response(Status.GOOD)

_WAIT = "wait until the path is back (multipath -ll), or PREEMPT the key"


@dataclass(frozen=True, slots=True)
class PathRegistrant:
    """One registration of the logical unit.

    Attributes:
        key: The key of this registration.
        name: The initiator port; None if the logical unit does not tell.
        target_port: The relative target port identifier; 0 for several target ports, or if it is not told.
        holder: Whether this registrant holds the reservation.
    """

    key: int
    name: TransportID | None = None
    target_port: int = 0
    holder: bool = False


@dataclass(slots=True)
class Registrants:
    """Registrations, sorted by whose they are: ours, another node's, or unclear."""

    ours: list[PathRegistrant] = field(default_factory=list)
    foreign: list[PathRegistrant] = field(default_factory=list)
    unclear: list[PathRegistrant] = field(default_factory=list)

    def with_key(self, key: int) -> Registrants:
        """The registrations that have this key."""
        return Registrants(*([each for each in some if each.key == key] for some in self._all()))

    def holders(self) -> Registrants:
        """The registrations that hold the reservation."""
        return Registrants(*([each for each in some if each.holder] for some in self._all()))

    def names(self) -> list[Hashable]:
        """The initiator ports that are ours or may be ours; each unnamed one counts as a different port."""
        mine = (*self.ours, *self.unclear)
        return [index if each.name is None else each.name for index, each in enumerate(mine)]

    def _all(self) -> Iterable[list[PathRegistrant]]:
        return self.ours, self.foreign, self.unclear


def read_registrants(path: int, device: Usable) -> PathSteps[Registrants]:
    """All registrations on the logical unit."""
    found = Registrants()
    for each in (yield from _read(path)):
        if each.name is not None and each.name in device.ports:
            found.ours.append(each)
        elif each.name is not None and _is_foreign(each, device):
            found.foreign.append(each)
        else:
            found.unclear.append(each)
    return found


def _is_foreign(registrant: PathRegistrant, device: Usable) -> bool:
    if device.ports.cover(device.labels):
        return True
    ports = device.target_ports
    return ports is not None and registrant.target_port != 0 and registrant.target_port not in ports


def _read(path: int) -> PathSteps[list[PathRegistrant]]:
    status = yield from _full_status(path)
    if status is not None:
        return [
            PathRegistrant(
                each.key,
                each.transport_id,
                0 if each.all_target_ports else each.relative_target_port,
                each.holder,
            )
            for each in status.descriptors
        ]
    response = yield from ask_whole(in_command(InServiceAction.READ_KEYS), partial(must, path))
    try:
        keys = ReadKeys.decode(response.data_in).keys if response.good else ()
    except DecodeError:
        keys = ()
    held = yield from held_reservation(path)
    return [PathRegistrant(key, holder=held is not None and held.key == key) for key in keys]


def _full_status(path: int) -> PathSteps[FullStatus | None]:
    """The complete data of READ FULL STATUS; None if the logical unit does not give them."""
    response = yield from ask_whole(in_command(InServiceAction.READ_FULL_STATUS), partial(must, path))
    try:
        found = FullStatus.decode(response.data_in) if response.good else None
    except DecodeError:
        return None
    return found if found is not None and found.complete else None


def learn_ports(key: int, paths: Sequence[int], device: Usable) -> PathSteps[None]:
    """Learn the names of the initiator ports of ``paths``; all of them are registered with ``key``."""
    labels = device.labels_of(paths)
    if device.ports.cover(labels):
        return
    status = yield from _full_status(paths[0])
    if status is not None:
        device.ports.learn(labels, (each.transport_id for each in status.descriptors if each.key == key))


def absent_have(key: int, action: str, device: Usable) -> PathSteps[bool | Response]:
    """Whether paths that are away are registered with ``key``, and a PREEMPT of it removes no other nexus.

    If the result is a response, it is the answer to the whole command: a unit attention, or one that does not
    tell, as BUSY. Nothing was changed then.

    Raises:
        PathError: Such paths may be registered, and a PREEMPT may remove another nexus. Nothing was changed.
    """
    capabilities = yield Send(device.paths[0], in_command(InServiceAction.REPORT_CAPABILITIES))
    if is_unit_attention(capabilities) or is_not_now(capabilities):
        return capabilities
    aptpl = _ptpl_a(capabilities)  # a REGISTER sets APTPL again
    same = out_command(OutServiceAction.REGISTER, key, key, aptpl=aptpl)
    found = yield from send_to_all(same, device.paths)
    if isinstance(found, Response):
        return found
    found.check()
    if found.other is not None:
        return found.other
    if not found.good:
        return False
    yield from learn_ports(key, found.good, device)
    same_key = (yield from read_registrants(found.good[0], device)).with_key(key)
    if device.fit(same_key.names(), found.good):
        return False
    _require_ours(same_key, action, device)
    return True


def _require_ours(registrants: Registrants, action: str, device: Usable) -> None:
    if registrants.foreign:
        raise PathError(
            device.name,
            f"{action}: a path that cannot be reached is registered with the same key as another node, whose "
            f"registration must stay; nothing was changed; {_WAIT}",
        )
    if registrants.unclear:
        raise PathError(
            device.name,
            f"{action}: the key is registered more often than by the paths that can be reached: by a path "
            f"that is away, or by another node; nothing was changed; {_WAIT}",
        )


def take_over(key: int, path: int, device: Usable, action: str) -> PathSteps[Response]:
    """Move what an absent path with ``key`` holds to ``path``, and remove all other registrations of ``key``.

    Raises:
        PathError: Not all registrations with that key are ours. Nothing was changed.
    """
    _require_ours((yield from read_registrants(path, device)).with_key(key), action, device)
    return (yield from _preempt(path, key, key))


def _preempt(path: int, key: int, preempted: int) -> PathSteps[Response]:
    held = yield from held_reservation(path)
    kind = ReservationType.WRITE_EXCLUSIVE if held is None else held.type  # ignored without a reservation
    scope = 0 if held is None else held.scope
    return (
        yield from must(path, out_command(OutServiceAction.PREEMPT, key, preempted, type=kind, scope=scope))
    )


def unregister_all(command: Command, old: int, path: int, device: Usable) -> PathSteps[Response]:
    """Carry out a ``command`` that unregisters a device, by a ``path`` that is registered with ``old``.

    First the path sends a PREEMPT. It moves to this path what absent paths hold, and after it only this path
    has the key. The reservation stays in between.
    """
    response = yield from _preempt(path, old, old)
    if not response.good:
        return response
    others = [each for each in device.paths if each != path]
    yield from clear_attentions(others)
    for each in others:
        with contextlib.suppress(PathError):  # the PREEMPT has unregistered it, if it had that key
            yield from past_attentions(each, command)
    response = yield from must(path, command)
    # without a reservation of that key, the PREEMPT has unregistered this path too
    return _GOOD if response.status is Status.RESERVATION_CONFLICT else response


def remove_left(
    parameters: ParameterList, path: int, device: Usable, failed: PathError | None
) -> PathSteps[None]:
    """Remove registrations of the old key that absent paths have kept.

    ``path`` sends the commands; it has the new key, or none. ``failed``: a path failed meanwhile, so it may
    have kept the old key.

    Raises:
        AnswerLost: The failed path may have kept the old key, and another nexus has that key too.
    """
    old, new = parameters.key, parameters.service_action_key
    left = (yield from read_registrants(path, device)).with_key(old)
    if left.foreign or left.unclear:
        if failed is not None:
            raise AnswerLost(failed.path, f"{failed.problem}; it may have kept key {old:#x}")
        return
    if not left.ours:
        return
    if new:
        yield from _preempt(path, new, old)
        return
    aptpl = parameters.aptpl
    yield from must(path, out_command(OutServiceAction.REGISTER, 0, old, aptpl=aptpl))
    leave = out_command(OutServiceAction.REGISTER, old, 0, aptpl=aptpl)
    yield from unregister_all(leave, old, path, device)


def active_aptpl(path: int) -> PathSteps[bool]:
    """The PTPL_A bit. A REGISTER of any nexus sets it for the whole logical unit."""
    return _ptpl_a((yield from must(path, in_command(InServiceAction.REPORT_CAPABILITIES))))


def _ptpl_a(response: Response) -> bool:
    try:
        return response.good and Capabilities.decode(response.data_in).ptpl_a
    except DecodeError:
        return False
