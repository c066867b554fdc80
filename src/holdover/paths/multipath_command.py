"""One command for a multipath device, as the commands for its paths that it takes. Pure.

Theory of operation. A multipath device is one disk to whoever uses it, and several I_T nexuses to the
logical unit, each of which is registered or not, and one of which holds a reservation. What changes
registrations must therefore reach every path, and whatever the paths answer must become one answer:

==========================  ==============================================================================
service action              goes to, and becomes
==========================  ==============================================================================
REGISTER,                   every path, one after the other; GOOD if all say so, RESERVATION CONFLICT if
REGISTER AND IGNORE         all say so. In between there is the table below.
RELEASE                     every path, as only the one that holds it can give it up. GOOD if any says so,
                            unless the reservation is still there, and one conflicts or cannot be reached
RESERVE, CLEAR              one path after the other until one does not answer RESERVATION CONFLICT: a
                            conflict changes nothing, and may be that of this path alone
PREEMPT (AND ABORT)         the same; where it has removed the registrations of the other paths, as they
                            have the same key, these register again
REGISTER AND MOVE           nowhere: it speaks of one I_T nexus
TEST UNIT READY             every path, so that whoever clears unit attentions clears those of all
everything else             one path: the next where it was not sent; PERSISTENT RESERVE IN and INQUIRY
                            also where their answer was lost
==========================  ==============================================================================

Some paths accept a REGISTER, others answer RESERVATION CONFLICT. Paths are taken into a device and out of it
all the time, so one may lack the registration that the device has:

====================  ====================================================================================
keys                  then
====================  ====================================================================================
K to L, K to K        the device is registered with K: paths without a registration join with L, then
                      one that had K is asked whether it still is registered, as a PREEMPT in between must not
                      be undone. A path with another key than these: all is put back, and it is a conflict
K to 0                done: who conflicts was not registered with K
0 to L                paths that conflict have L: the device was registered, a conflict, and now all paths
                      have it. They have another key: the new registrations are taken back, a conflict
0 to 0                a conflict: it asks whether nothing is registered
====================  ====================================================================================

The first unit attention is the answer, if nothing was done before it; the others are met by sending the
command again, since the paths before have carried it out.

Rules for whoever edits this file: no path that may hold the reservation is ever unregistered unless that was
the command, and no registration that was not the device's own is changed. What libmpathpersist 0.9.4 does in
two of these cases is why it is not used here (docs/design.md).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from holdover.paths.path import AnswerLost, PathError
from holdover.scsi.cdb import PersistentReserveOut
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.opcodes import InServiceAction, OperationCode, OutServiceAction
from holdover.scsi.reservation_in import Capabilities, ReadReservation, Reservation
from holdover.scsi.reservation_out import BASIC_LENGTH, ParameterList, in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, is_unit_attention
from holdover.scsi.status import Status

__all__ = ["Registration", "Send", "Steps", "Usable", "carry", "registration_of"]

T = TypeVar("T")

_ATTEMPTS = 8
"""How often one command is sent to one path: unit attentions come one at a time."""

_REGISTERS = (OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY)
_PREEMPTS = (OutServiceAction.PREEMPT, OutServiceAction.PREEMPT_AND_ABORT)
_REPEATABLE = (OperationCode.PERSISTENT_RESERVE_IN, OperationCode.INQUIRY)

_GOOD = Response(Status.GOOD)
_CONFLICT = Response(Status.RESERVATION_CONFLICT)
_BAD_LENGTH = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
_BAD_FIELD = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
_BAD_ACTION = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)


@dataclass(frozen=True, slots=True)
class Send:
    """A command for one path. Its answer is sent in; a `PathError` that it ended in is thrown in.

    Attributes:
        path: Which one, an index.
        command: The command.
    """

    path: int
    command: Command


Steps = Generator[Send, Response, T]


@dataclass(frozen=True, slots=True)
class Usable:
    """The paths of a device that commands may be sent to.

    Attributes:
        name: The device's, for errors.
        paths: Indices, in the order in which they are to be tried; at least one.
        missing: The device has other paths as well.
    """

    name: str
    paths: tuple[int, ...]
    missing: bool


@dataclass(frozen=True, slots=True)
class Registration:
    """What a REGISTER makes of the device.

    Attributes:
        key: The key that it is registered with afterwards; 0 for none.
        aptpl: Whether that is to be kept through a power loss.
    """

    key: int
    aptpl: bool


def registration_of(command: Command) -> Registration | None:
    """What a command makes of the device's registration if it ends in GOOD; None where it leaves it."""
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
        return None
    try:
        cdb = PersistentReserveOut.decode(command.cdb)
        parameters = ParameterList.decode_basic(command.data_out)
    except DecodeError:
        return None
    if cdb.service_action in _REGISTERS:
        return Registration(parameters.service_action_key, parameters.aptpl)
    return Registration(0, False) if cdb.service_action == OutServiceAction.CLEAR else None


def carry(command: Command, device: Usable) -> Steps[Response]:
    """Carry any command out on a device.

    Raises:
        AnswerLost: It may have been carried out, or not, or by some of the paths alone.
        PathError: It was not carried out by any.
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
        return (yield from _anywhere(command, paths))  # too short for any: the logical unit says so
    if action == OutServiceAction.REGISTER_AND_MOVE:
        return _BAD_ACTION
    if action in _REGISTERS:
        return (yield from _register(command, parameters, paths))
    if action == OutServiceAction.RELEASE:
        return (yield from _release(command, parameters, device))
    if action in _PREEMPTS:
        return (yield from _preempt(command, parameters, paths))
    _, response = yield from _accepted(command, paths)
    return response


@dataclass(slots=True)
class _Round:
    """What the paths have answered to one command that went to each of them."""

    good: list[int] = field(default_factory=list)
    conflict: list[int] = field(default_factory=list)
    other: Response | None = None
    lost: AnswerLost | None = None
    unsent: PathError | None = None

    def check(self) -> None:
        """Raise the error of a round in which nobody has answered."""
        if not self.good and not self.conflict and self.other is None:
            if self.lost is not None:
                raise self.lost
            if self.unsent is not None:
                raise self.unsent


def _send_to_all(command: Command, paths: Sequence[int]) -> Steps[_Round | Response]:
    """Send to each path; a unit attention that comes before anything was done is all there is."""
    found = _Round()
    for path in paths:
        try:
            response = yield Send(path, command)
            if is_unit_attention(response):
                if not found.good and found.lost is None:
                    return response
                response = yield from _past_attentions(path, command)
        except AnswerLost as error:
            found.lost = error
        except PathError as error:
            found.unsent = found.unsent or error
        else:
            if response.good:
                found.good.append(path)
            elif response.status is Status.RESERVATION_CONFLICT:
                found.conflict.append(path)
            else:
                found.other = found.other or response
    return found


def _past_attentions(path: int, command: Command) -> Steps[Response]:
    response = yield Send(path, command)
    for _ in range(_ATTEMPTS):
        if not is_unit_attention(response):
            break
        response = yield Send(path, command)
    return response


def _must(path: int, command: Command) -> Steps[Response]:
    """Send what has to follow something that was carried out already: not sent is in doubt as well."""
    try:
        return (yield from _past_attentions(path, command))
    except AnswerLost:
        raise
    except PathError as error:
        raise AnswerLost(error.path, error.problem) from error


def _register(command: Command, parameters: ParameterList, paths: Sequence[int]) -> Steps[Response]:
    if parameters.spec_i_pt:
        return _BAD_FIELD  # it would register others by the first path, and be refused by the second
    cdb = PersistentReserveOut.decode(command.cdb)
    if cdb.parameter_list_length != BASIC_LENGTH or len(command.data_out) != BASIC_LENGTH:
        return _BAD_LENGTH
    found = yield from _send_to_all(command, paths)
    if isinstance(found, Response):
        return found
    found.check()
    if found.other is not None:
        if cdb.service_action == OutServiceAction.REGISTER:
            yield from _put_back(parameters, found.good)
        answer = found.other
    elif found.good and found.conflict:
        answer = yield from _register_the_rest(parameters, found.good, found.conflict)
    else:
        answer = _GOOD if found.good else _CONFLICT
    if found.lost is not None:
        raise found.lost
    return answer


def _register_the_rest(parameters: ParameterList, good: list[int], conflict: list[int]) -> Steps[Response]:
    """By the second table above."""
    old, new = parameters.key, parameters.service_action_key
    if new == 0:
        return _GOOD if old != 0 else _CONFLICT
    if old == 0:
        for path in conflict:
            if (yield from _has(path, parameters)):
                # with ALL_TG_PT one path registers for those that differ from it by the target port alone
                return _GOOD if parameters.all_tg_pt else _CONFLICT
        yield from _put_back(parameters, good)
        return _CONFLICT
    joined, strangers = yield from _join(parameters, conflict)
    if not strangers and (yield from _has(good[0], parameters)):
        return _GOOD
    yield from _leave(parameters, joined)
    if strangers:
        yield from _put_back(parameters, good)
    return _CONFLICT


def _has(path: int, parameters: ParameterList) -> Steps[bool]:
    """Whether a path is registered with the new key: repeating that changes nothing (SPC-4 5.13.7)."""
    key = parameters.service_action_key
    same = out_command(OutServiceAction.REGISTER, key, key, aptpl=parameters.aptpl)
    return (yield from _must(path, same)).good


def _join(parameters: ParameterList, paths: Sequence[int]) -> Steps[tuple[list[int], list[int]]]:
    """Register the new key on paths that have none: those that did, and those that have another one."""
    key = parameters.service_action_key
    fresh = out_command(OutServiceAction.REGISTER, 0, key, aptpl=parameters.aptpl)
    joined: list[int] = []
    strangers: list[int] = []
    for path in paths:
        if (yield from _has(path, parameters)):
            continue
        response = yield from _must(path, fresh)
        (joined if response.good else strangers).append(path)
    return joined, strangers


def _leave(parameters: ParameterList, paths: Sequence[int]) -> Steps[None]:
    """Unregister paths that were registered a moment ago, and so hold nothing."""
    leave = out_command(OutServiceAction.REGISTER, parameters.service_action_key, 0, aptpl=parameters.aptpl)
    for path in paths:
        yield from _must(path, leave)


def _put_back(parameters: ParameterList, paths: Sequence[int]) -> Steps[None]:
    """Undo a REGISTER on the paths that have accepted it, where that does not touch a reservation."""
    old, new = parameters.key, parameters.service_action_key
    if new in (0, old):
        return  # one that is unregistered has lost what it held, and the same key is no change
    back = out_command(OutServiceAction.REGISTER, new, old, aptpl=parameters.aptpl)
    for path in paths:
        yield from _must(path, back)


def _release(command: Command, parameters: ParameterList, device: Usable) -> Steps[Response]:
    found = yield from _send_to_all(command, device.paths)
    if isinstance(found, Response):
        return found
    found.check()
    if found.lost is not None:
        raise found.lost
    if found.other is not None:
        return found.other
    if not found.good:
        return _CONFLICT
    away = device.missing or found.unsent is not None
    if not found.conflict and not away:
        return _GOOD
    held = yield from _held(found.good[0])
    if held is None:
        return _GOOD
    if found.conflict:
        # from the path that holds it, to LIO, a wrong type or key is one; paths that do not say GOOD to any
        return _CONFLICT
    if held.key == parameters.key and held.type == PersistentReserveOut.decode(command.cdb).type:
        raise PathError(
            device.name,
            "RELEASE: a path that cannot be reached holds the reservation; wait for it, or PREEMPT",
        )
    return _GOOD


def _held(path: int) -> Steps[Reservation | None]:
    """The reservation that there is now."""
    response = yield from _must(path, in_command(InServiceAction.READ_RESERVATION))
    try:
        return ReadReservation.decode(response.data_in).reservation if response.good else None
    except DecodeError:
        return None


def _preempt(command: Command, parameters: ParameterList, paths: Sequence[int]) -> Steps[Response]:
    path, response = yield from _accepted(command, paths)
    key = parameters.key
    if response.good and parameters.service_action_key in (0, key):
        # with 0 the registrations of all but the sender are gone, with its own key all with that key
        again = ParameterList(key, key, aptpl=(yield from _aptpl(path)))
        joined, _ = yield from _join(again, [each for each in paths if each != path])
        if not (yield from _has(path, again)):
            yield from _leave(again, joined)
    return response


def _aptpl(path: int) -> Steps[bool]:
    """PTPL_A, as a REGISTER sets it for the whole logical unit, whoever sends it."""
    response = yield from _must(path, in_command(InServiceAction.REPORT_CAPABILITIES))
    try:
        return response.good and Capabilities.decode(response.data_in).ptpl_a
    except DecodeError:
        return False


def _accepted(command: Command, paths: Sequence[int]) -> Steps[tuple[int, Response]]:
    """Send to one path after the other until one does not conflict: which, and its answer."""
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
    return _found(last, unsent)


def _anywhere(command: Command, paths: Sequence[int]) -> Steps[Response]:
    """Send to the first path that can be asked."""
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


def _test_all(command: Command, paths: Sequence[int]) -> Steps[Response]:
    """The first answer that is not GOOD; paths that cannot be asked count only if there is no other."""
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
