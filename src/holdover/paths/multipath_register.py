"""REGISTER and REGISTER AND IGNORE EXISTING KEY for a multipath device. Pure.

Both go to every path, one after the other. If all paths say GOOD, or all say RESERVATION CONFLICT, that is
the answer. But paths are added to a device and removed from it at any time. So a path may lack the
registration of the device. And a logical unit may keep one registration for each initiator port: then a path
is registered as soon as another path with the same initiator port is. If some paths accept and others refuse:

====================  ====================================================================================
keys                  then
====================  ====================================================================================
K to L, K to K        The device is registered with K, so paths without a registration join with L. Before and
                      after this, a path that had K is asked whether it is still registered: a PREEMPT in
                      between must not be undone. If a path has another key: put all back, a conflict
K to 0                GOOD: a path that conflicts was not registered with K
0 to L                Before, every path is asked whether it is registered, by a REGISTER of 0 to 0. If a
                      path was not and has L now, this command did it: GOOD. If a path was and has L, the
                      device was registered before: a conflict, and now all paths have L. If a path has
                      another key: take the new registrations back, a conflict
0 to 0                A conflict: this command asks whether nothing is registered
====================  ====================================================================================

A path that is away keeps its registration with K when the others go from K to L or to 0. `multipath_absent`
removes that registration. If this could remove another node's registration, the command is refused before it
changes anything. For REGISTER AND IGNORE EXISTING KEY, multipathd knows K. A REGISTER of a handover
(`Command.leave_absent`) is never refused because of a path that is away, and it removes nothing: the other
host has the same key then, and the handover accounts for absent paths itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import structs

from holdover.paths.multipath_absent import absent_have, learn_ports, remove_left, unregister_all
from holdover.paths.multipath_steps import (
    PathSteps,
    Round,
    T,
    Usable,
    has_key,
    join,
    join_one,
    leave,
    must,
    partly_done,
    send_to_all,
)
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_out import BASIC_LENGTH, ParameterList, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

_GOOD = Response(Status.GOOD)
_CONFLICT = Response(Status.RESERVATION_CONFLICT)
_BAD_LENGTH = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
_BAD_FIELD = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)

_REGISTER, _IGNORE = OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
_NAMES = {_REGISTER: "REGISTER", _IGNORE: "REGISTER AND IGNORE EXISTING KEY"}


@dataclass(frozen=True, slots=True)
class _Registering:
    """The command, with the keys of the device before it (``parameters.key``) and after it."""

    command: Command
    action: OutServiceAction
    parameters: ParameterList
    device: Usable

    @property
    def old(self) -> int:
        return self.parameters.key

    @property
    def new(self) -> int:
        return self.parameters.service_action_key

    @property
    def changes(self) -> bool:
        """Whether the command removes an existing registration or changes its key."""
        return self.old not in (0, self.new)


def register(command: Command, parameters: ParameterList, device: Usable) -> PathSteps[Response]:
    """Carry out the command. The response names the paths that did so (`Response.carried`).

    Raises:
        AnswerLost: The command may have been carried out, or not, or by some of the paths only.
        PathError: No path has carried out the command.
    """
    if parameters.spec_i_pt:
        return _BAD_FIELD  # the first path would register others, and the second path would be refused
    cdb = PersistentReserveOut.decode(command.cdb)
    if cdb.parameter_list_length != BASIC_LENGTH or len(command.data_out) != BASIC_LENGTH:
        return _BAD_LENGTH
    action = OutServiceAction(cdb.service_action)
    if action is _IGNORE:
        parameters = structs.replace(parameters, key=device.key)
    request = _Registering(command, action, parameters, device)
    if device.missing and request.changes and not command.leave_absent:
        absent = yield from _only_asking(absent_have(request.old, _NAMES[action], device))
        if isinstance(absent, Response):
            return absent
        if absent and not request.new:
            return (yield from _unregister_with_absent(request))
    return (yield from _register_by_all(request))


def _only_asking(questions: PathSteps[T]) -> PathSteps[T]:
    """Ask questions that change nothing. So a lost answer leaves nothing in doubt."""
    try:
        return (yield from questions)
    except AnswerLost as error:
        raise PathError(error.path, error.problem) from error


def _unregister_with_absent(request: _Registering) -> PathSteps[Response]:
    last = _CONFLICT
    for path in request.device.paths:
        last = yield from unregister_all(request.command, request.old, path, request.device)
        if last.status is not Status.RESERVATION_CONFLICT:
            break
    return (
        structs.replace(last, carried=request.device.labels_of(request.device.paths)) if last.good else last
    )


def _who_is_registered(paths: Sequence[int]) -> PathSteps[Round | Response]:
    """Ask each path whether it is registered; this changes nothing.

    GOOD means that the path is not registered, RESERVATION CONFLICT that it is (SPC-4 5.13.7).
    """
    found = yield from send_to_all(out_command(_REGISTER, 0, 0), paths)
    if isinstance(found, Round):
        found.check()
    return found


def _register_by_all(request: _Registering) -> PathSteps[Response]:
    device, parameters = request.device, request.parameters
    paths: Sequence[int] = device.paths
    unregistered: Sequence[int] = ()
    if request.action is _REGISTER and not request.old and request.new and len(paths) > 1:
        asked = yield from _only_asking(_who_is_registered(paths))
        if isinstance(asked, Response):
            return asked
        if asked.other is not None:
            return asked.other
        unregistered = asked.good
        # a path that did not answer may be back by now, and nobody knows whether it was registered
        paths = [path for path in paths if path not in asked.failed]
    found = yield from send_to_all(request.command, paths, begun=bool(unregistered))
    if isinstance(found, Response):
        return found
    found.check()
    if found.other is not None:
        answer = yield from _refused_by_one(request, found, found.other, unregistered)
    elif found.good and found.conflict:
        answer = yield from _register_the_rest(parameters, found, unregistered)
    else:
        answer = _GOOD if found.good else _CONFLICT
    if answer.good:
        yield from _finish(request, found)
        carried = found.good if not request.new else (*found.good, *found.conflict)
        answer = structs.replace(answer, carried=device.labels_of(sorted(carried)))
    if found.lost is not None:
        raise found.lost
    return answer


def _refused_by_one(
    request: _Registering, found: Round, answer: Response, unregistered: Sequence[int]
) -> PathSteps[Response]:
    """Put back what paths have done before one path answered neither GOOD nor a conflict.

    That path may have done it too: ABORTED COMMAND does not tell. ``unregistered``: the paths that had no
    key before a first registration.

    Raises:
        AnswerLost: It cannot be put back.
    """
    if found.good and request.old != request.new:
        if request.action is _IGNORE or request.new == 0:
            raise partly_done(answer)  # nobody knows what such a path had, or it has lost what it held
        doubtful = [path for path in found.doubtful if request.old or path in unregistered]
        yield from _put_back(request.parameters, (*found.good, *doubtful))
    return answer


def _finish(request: _Registering, found: Round) -> PathSteps[None]:
    """Handle the paths that are away, and learn which initiator ports this host has."""
    failed = found.lost or found.unsent
    device, path = request.device, found.good[0]
    left = device.missing or failed is not None or device.ports.cover(device.labels)
    if left and request.changes and not request.command.leave_absent:
        yield from remove_left(request.parameters, path, device, failed)
    if request.new:
        yield from learn_ports(request.new, (*found.good, *found.conflict), device)


def _register_the_rest(
    parameters: ParameterList, found: Round, unregistered: Sequence[int]
) -> PathSteps[Response]:
    """Apply the table above; ``unregistered``: the paths that had no key before a first registration."""
    old, new = parameters.key, parameters.service_action_key
    if new == 0:
        return _GOOD if old != 0 else _CONFLICT
    if old == 0:
        return (yield from _register_first(parameters, found, unregistered))
    # This asks before joining too: a path that joins may share its initiator port with this one.
    found_now = yield from join(parameters, found.conflict, found.good[0])
    if found_now is None:
        return _CONFLICT
    joined, strangers = found_now
    if not strangers:
        return _GOOD
    yield from leave(parameters, joined)
    yield from _put_back(parameters, found.good)
    return _CONFLICT


def _register_first(
    parameters: ParameterList, found: Round, unregistered: Sequence[int]
) -> PathSteps[Response]:
    have: set[int] = set()
    for path in found.conflict:
        if (yield from has_key(path, parameters)):
            have.add(path)
    if have.issuperset(found.conflict) and have.issubset(unregistered):
        return _GOOD
    if have.issubset(unregistered):
        yield from _put_back(parameters, found.good)
    return _CONFLICT


def _put_back(parameters: ParameterList, paths: Sequence[int]) -> PathSteps[None]:
    """Undo a REGISTER on the paths that have accepted it, if that does not affect a reservation."""
    old, new = parameters.key, parameters.service_action_key
    if new in (0, old):
        return  # an unregistered path has lost what it held; and the same key is no change
    back = out_command(_REGISTER, new, old, aptpl=parameters.aptpl)
    for path in paths:
        yield from must(path, back)


def register_returned(
    command: Command, parameters: ParameterList, paths: Sequence[int], known: int
) -> PathSteps[None]:
    """Make ``paths`` that came back during a successful command catch up with it, as ``known`` has done."""
    new = parameters.service_action_key
    for path in paths:
        if not new:
            yield from must(path, command)
        elif not (yield from has_key(path, parameters)):
            response = yield from join_one(parameters, path, known)
            if response is not None and not response.good:
                yield from must(path, command)
