"""One command for a multipath device, as the commands that its paths have to carry out. Pure.

Theory of operation. To its user, a multipath device is one disk. To the logical unit, it is several I_T
nexuses. Each of them is registered or not, and one of them holds a reservation. So a command that changes
registrations must reach every path, and the answers of all paths must become one answer:

==========================  ==============================================================================
service action              goes to, and becomes
==========================  ==============================================================================
REGISTER,                   every path: see `multipath_register`
REGISTER AND IGNORE
RELEASE                     every path, because only the holder can release. GOOD if any path says so, unless
                            the reservation is still there and one path conflicts. If a path that is away is
                            the holder, a path that is there takes over by PREEMPT and releases
RESERVE                     one path after the other until one does not answer RESERVATION CONFLICT: a
                            conflict changes nothing, and another path may not conflict. GOOD too if a path
                            that is away holds exactly that reservation
CLEAR                       one path after the other until one does not answer RESERVATION CONFLICT
PREEMPT (AND ABORT)         the same; if it has removed the registrations of the other paths, because they
                            have the same key, these register again
REGISTER AND MOVE           no path: it is about one I_T nexus
TEST UNIT READY             every path, so that a user who clears unit attentions clears those of all paths
everything else             one path: the next one if it was not sent; for PERSISTENT RESERVE IN and INQUIRY
                            also if the answer was lost
==========================  ==============================================================================

The first unit attention is the answer, if nothing was done before it. After any other unit attention the
command is sent again, because earlier paths have carried it out. The device's own command can cause unit
attentions on the other paths. TEST UNIT READY clears these, so that the guest does not get them.

Rules for whoever edits these files: never unregister a path that may hold the reservation, unless that was
the command. Never change a registration that is not the device's own. A logical unit keeps a registration for
each I_T nexus, as the standard says, or for each initiator port (3PAR, Clariion); nothing here relies on
either. libmpathpersist 0.9.4 breaks these rules in two cases, so it is not used here
(docs/develop/design.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdover.paths.multipath_absent import Registrants, active_aptpl, read_registrants, take_over
from holdover.paths.multipath_register import register, register_returned
from holdover.paths.multipath_steps import (
    PathSteps,
    Round,
    Send,
    T,
    Usable,
    clear_attentions,
    held_reservation,
    is_not_now,
    join,
    must,
    partly_done,
    reservation_in,
    send_to_all,
)
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_in import Reservation
from holdover.scsi.reservation.reservation_out import ParameterList, in_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, is_unit_attention
from holdover.scsi.status import Status

_REGISTERS = (OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY)
_PREEMPTS = (OutServiceAction.PREEMPT, OutServiceAction.PREEMPT_AND_ABORT)
_REPEATABLE = (OperationCode.PERSISTENT_RESERVE_IN, OperationCode.INQUIRY)

_GOOD = Response(Status.GOOD)
_CONFLICT = Response(Status.RESERVATION_CONFLICT)
_BAD_ACTION = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)


@dataclass(frozen=True, slots=True)
class DeviceRegistration:
    """The registration of the device that a REGISTER leaves.

    Attributes:
        key: The key with which the device is registered afterwards; 0 if it is not.
        aptpl: Whether the registration is kept through a power loss.
    """

    key: int
    aptpl: bool


def registration_of(command: Command) -> DeviceRegistration | None:
    """The device's registration after a command that ends in GOOD; None if the command does not change it."""
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
        return None
    try:
        cdb = PersistentReserveOut.decode(command.cdb)
        parameters = ParameterList.decode_basic(command.data_out)
    except DecodeError:
        return None
    if cdb.service_action in _REGISTERS:
        return DeviceRegistration(parameters.service_action_key, parameters.aptpl)
    return DeviceRegistration(0, False) if cdb.service_action == OutServiceAction.CLEAR else None


def carry(command: Command, device: Usable) -> PathSteps[Response]:
    """Carry out any command on a device.

    Raises:
        AnswerLost: The command may have been carried out, or not, or by some of the paths only.
        PathError: No path has carried out the command.
    """
    paths = device.paths
    if command.opcode == OperationCode.TEST_UNIT_READY:
        return (yield from _test_all(command, paths))
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
        return (yield from _anywhere(command, paths))
    try:
        action = PersistentReserveOut.decode(command.cdb).service_action
        parameters = ParameterList.decode_basic(command.data_out)
    except DecodeError:
        return (yield from _anywhere(command, paths))  # too short: the logical unit refuses it
    if action == OutServiceAction.REGISTER_AND_MOVE:
        return _BAD_ACTION
    if action in _REGISTERS:
        return (yield from register(command, parameters, device))
    if action == OutServiceAction.RELEASE:
        return (yield from _release(command, parameters, device))
    if action in _PREEMPTS:
        return (yield from _preempt(command, parameters, paths))
    if action == OutServiceAction.RESERVE:
        return (yield from _reserve(command, parameters, device))
    if action == OutServiceAction.CLEAR:
        return (yield from _clear(command, paths))
    _, response, _ = yield from _accepted(command, paths)
    return response


def catch_up(command: Command, paths: Sequence[int], returned: Sequence[int]) -> PathSteps[None]:
    """Make paths that came back during a successful PERSISTENT RESERVE OUT catch up with the other paths.

    multipathd may have looked for the key on the logical unit too early, or too late. ``paths``: the paths
    that were there before. Some of them may have failed meanwhile, and are back.
    """
    if not returned:
        return
    path = _stayed(paths, returned)
    action = PersistentReserveOut.decode(command.cdb).service_action
    parameters = ParameterList.decode_basic(command.data_out)
    if action in _REGISTERS:
        yield from register_returned(command, parameters, returned, path)
        return
    yield from clear_attentions(returned)
    if action != OutServiceAction.CLEAR:  # a PREEMPT, even one for a RELEASE, may have unregistered them
        aptpl = yield from active_aptpl(path)
        yield from rejoin(DeviceRegistration(parameters.key, aptpl), paths, returned)


def rejoin(
    registration: DeviceRegistration, paths: Sequence[int], returned: Sequence[int]
) -> PathSteps[None]:
    """Register paths that came back while a command was refused, as the device still is by the other paths.

    multipathd has registered none of them meanwhile. ``paths``: as for `catch_up`.
    """
    parameters = ParameterList(registration.key, registration.key, aptpl=registration.aptpl)
    yield from join(parameters, returned, _stayed(paths, returned))


def _stayed(paths: Sequence[int], returned: Sequence[int]) -> int:
    """A path that was there all the time; if none was, the first one."""
    return next((each for each in paths if each not in returned), paths[0])


def _release(command: Command, parameters: ParameterList, device: Usable) -> PathSteps[Response]:
    found = yield from send_to_all(command, device.paths)
    if isinstance(found, Response):
        return found
    found.check()
    if found.lost is not None:
        raise found.lost
    if found.other is not None:
        if found.good and is_not_now(found.other):
            raise partly_done(found.other)  # one of these paths may have been the holder
        return found.other
    if not found.good:
        return _CONFLICT
    # the paths that were asked before the holder get a unit attention
    yield from clear_attentions(found.good[:-1])
    held = yield from held_reservation(found.good[0])
    if held is None:
        return _GOOD
    if held.key == parameters.key and not held.type.all_registrants:
        same = held.type == PersistentReserveOut.decode(command.cdb).type
        if same or not found.conflict:
            return (yield from _release_of_absent(command, parameters, device, found))
    # LIO answers a conflict if the holder sends a wrong type or key; a path that is not the holder gets GOOD
    return _CONFLICT if found.conflict else _GOOD


def _release_of_absent(
    command: Command, parameters: ParameterList, device: Usable, found: Round
) -> PathSteps[Response]:
    """Handle a RELEASE if no reachable path is the holder, and the reservation has the device's key."""
    path = found.good[0]
    holder = (yield from read_registrants(path, device)).holders()
    away = device.missing or found.unsent is not None
    if holder.ours:
        response = yield from take_over(parameters.key, path, device, "RELEASE")
        if response.good:
            yield from _join_again(parameters.key, path, device.paths)
            response = yield from must(path, command)
            yield from clear_attentions(each for each in device.paths if each != path)
        return response
    if away and not holder.foreign:
        raise PathError(
            device.name,
            "RELEASE: a path that cannot be reached holds the reservation; wait for it, or PREEMPT",
        )
    return _CONFLICT if found.conflict else _GOOD


def _reserve(command: Command, parameters: ParameterList, device: Usable) -> PathSteps[Response]:
    path, response, failed = yield from _accepted(command, device.paths)
    if response.status is not Status.RESERVATION_CONFLICT:
        return response
    # a conflict comes before a unit attention, and the guest must get the unit attention
    asked = yield Send(path, in_command(InServiceAction.READ_RESERVATION))
    if is_unit_attention(asked):
        return asked
    held = reservation_in(asked)
    if held is None or held.type.all_registrants or not _is_just_that(held, command, parameters):
        return response
    holder: Registrants = (yield from read_registrants(path, device)).holders()
    if holder.ours:
        return _GOOD
    if holder.unclear and (device.missing or failed is not None):
        raise PathError(
            device.name,
            "RESERVE: it is not known whether a path that is away or another node with the same key holds "
            "this reservation; wait until the path is back (multipath -ll)",
        )
    return response


def _is_just_that(held: Reservation, command: Command, parameters: ParameterList) -> bool:
    cdb = PersistentReserveOut.decode(command.cdb)
    return (held.key, held.type, held.scope) == (parameters.key, cdb.type, cdb.scope)


def _preempt(command: Command, parameters: ParameterList, paths: Sequence[int]) -> PathSteps[Response]:
    path, response, _ = yield from _accepted(command, paths)
    if response.good and parameters.service_action_key in (0, parameters.key):
        # service action key 0 removes all registrations but the sender's; its own key, all with that key
        yield from _join_again(parameters.key, path, paths)
    elif response.good:
        yield from clear_attentions(each for each in paths if each != path)
    return response


def _clear(command: Command, paths: Sequence[int]) -> PathSteps[Response]:
    path, response, _ = yield from _accepted(command, paths)
    if response.good:
        yield from clear_attentions(each for each in paths if each != path)
    return response


def _join_again(key: int, path: int, paths: Sequence[int]) -> PathSteps[None]:
    """Register the other paths again with the key of ``path``, whose PREEMPT has unregistered them."""
    again = ParameterList(key, key, aptpl=(yield from active_aptpl(path)))
    others = [each for each in paths if each != path]
    if (yield from join(again, others, path)) is None:
        yield from clear_attentions(others)


def _accepted(command: Command, paths: Sequence[int]) -> PathSteps[tuple[int, Response, PathError | None]]:
    """Send to one path after the other until one does not conflict.

    Returns that path, its answer, and the error of a path to which the command could not be sent.
    """
    last: tuple[int, Response] | None = None
    unsent: PathError | None = None
    for path in paths:
        try:
            response = yield Send(path, command)
        except AnswerLost:
            raise
        except PathError as error:
            unsent = error
            continue
        last = path, response
        if response.status is not Status.RESERVATION_CONFLICT:
            break
    path, answer = _found(last, unsent)
    return path, answer, unsent


def _anywhere(command: Command, paths: Sequence[int]) -> PathSteps[Response]:
    """Send to the first path that answers."""
    problem: PathError | None = None
    for path in paths:
        try:
            return (yield Send(path, command))
        except AnswerLost as error:
            if command.opcode not in _REPEATABLE:
                raise
            problem = error
        except PathError as error:
            problem = problem or error
    return _found(None, problem)


def _test_all(command: Command, paths: Sequence[int]) -> PathSteps[Response]:
    """The first answer that is not GOOD; a path that cannot be asked counts only if no path answers."""
    found: Response | None = None
    problem: PathError | None = None
    for path in paths:
        try:
            response = yield Send(path, command)
        except PathError as error:
            problem = error
        else:
            found = response if found is None or found.good else found
    return _found(found, problem)


def _found(answer: T | None, problem: PathError | None) -> T:
    if answer is not None:
        return answer
    raise problem or PathError("multipath device", "it has no path that can be used")
