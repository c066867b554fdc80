"""The parts of which the commands of a multipath device are made: one command to one path at a time. Pure.

A generator yields each command with the path that must carry it out. The caller sends the response into the
generator. If the command ends in a `PathError`, the caller throws that error into the generator.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from holdover.reservations.steps import ATTENTIONS
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_in import ReadReservation, Reservation
from holdover.scsi.reservation.reservation_out import ParameterList, in_command, out_command
from holdover.scsi.reservation.transport_id import (
    FcTransportID,
    IscsiTransportID,
    SasTransportID,
    TransportID,
)
from holdover.scsi.sense import SenseKey, decode_sense, describe_response, is_undone, is_unit_attention
from holdover.scsi.status import Status

T = TypeVar("T")

_TEST_UNIT_READY = Command(bytes(6))


@dataclass(frozen=True, slots=True)
class Send:
    """A command for one path. The generator gets the response, or the `PathError` in which it ended.

    Attributes:
        path: The index of the path.
        command: The command.
    """

    path: int
    command: Command


PathSteps = Generator[Send, Response, T]


class InitiatorPorts:
    """The initiator ports of this host, by the names that READ FULL STATUS gives them.

    For some transports the kernel knows the name. For others, this class learns the name from a registration
    that this host has just made. A name is known until the process ends.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._names: set[TransportID] = set()

    def add(self, label: str, name: TransportID) -> None:
        """Note that the initiator port with this label has this name."""
        self._known.add(label)
        self._names.add(name)

    def learn(self, labels: Iterable[str], names: Iterable[TransportID]) -> None:
        """Learn from the initiator ports ``names``, which have a certain key, as all of ``labels`` have.

        If the number of unknown labels is the number of unknown names, they are the same ports.
        """
        ours, found = set(labels) - self._known, set(names) - self._names
        if len(ours) == len(found) and _tell_ports_apart(found):
            self._known |= ours
            self._names |= found

    def cover(self, labels: Iterable[str]) -> bool:
        """Whether the names of all initiator ports with these labels are known."""
        return self._known.issuperset(labels)

    def __contains__(self, name: TransportID) -> bool:
        return name in self._names


def _tell_ports_apart(names: set[TransportID]) -> bool:
    """Whether these names tell apart SCSI hosts that are initiator ports of their own.

    In iSCSI, one host has one initiator name, and the ISID tells its ports apart (RFC 7143 4.2.7.1).
    """
    if all(isinstance(each, FcTransportID | SasTransportID) for each in names):
        return True
    sessions = [each for each in names if isinstance(each, IscsiTransportID) and each.isid is not None]
    return len(sessions) == len(names) and len({each.name for each in sessions}) == 1


@dataclass(frozen=True, slots=True)
class Usable:
    """A device, and the paths of it that can carry out commands.

    Attributes:
        name: The device's name, for errors.
        paths: Indices of the usable paths, in the order in which to try them; at least one.
        labels: The initiator port of every path, usable or not; equal if two paths have the same port.
        target_ports: The relative target port identifiers of all paths; None if one is not known.
        ports: What is known of the host's initiator ports.
        key: The key with which multipathd registers returning paths; 0 if none.
    """

    name: str
    paths: tuple[int, ...]
    labels: tuple[str, ...]
    target_ports: frozenset[int] | None = None
    ports: InitiatorPorts = field(default_factory=InitiatorPorts)
    key: int = 0

    @property
    def missing(self) -> bool:
        """Whether the device has paths that cannot be used."""
        return len(self.paths) < len(self.labels)

    def labels_of(self, paths: Iterable[int]) -> tuple[str, ...]:
        """The initiator ports of these paths, one entry for each path."""
        return tuple(self.labels[path] for path in paths)

    def fit(self, names: Iterable[Hashable], paths: Iterable[int]) -> bool:
        """Whether ``paths`` can have made all registrations of these initiator ports.

        A logical unit keeps one registration for each path, or one for all paths of an initiator port.
        """
        found = sorted(Counter(names).values(), reverse=True)
        able = sorted(Counter(self.labels_of(paths)).values(), reverse=True)
        return len(found) <= len(able) and all(a <= b for a, b in zip(found, able, strict=False))


@dataclass(slots=True)
class Round:
    """The answers of the paths to one command that went to each of them.

    Attributes:
        good: The paths that answered GOOD.
        conflict: The paths that answered RESERVATION CONFLICT.
        other: The first other answer.
        doubtful: The paths whose other answer does not prove that they have changed nothing.
        lost: The error of a path whose answer was lost.
        unsent: The error of a path to which the command could not be sent.
        failed: The paths without an answer.
    """

    good: list[int] = field(default_factory=list)
    conflict: list[int] = field(default_factory=list)
    other: Response | None = None
    doubtful: list[int] = field(default_factory=list)
    lost: AnswerLost | None = None
    unsent: PathError | None = None
    failed: list[int] = field(default_factory=list)

    def check(self) -> None:
        """Raise the error of a round in which no path has answered."""
        if not self.good and not self.conflict and self.other is None:
            if self.lost is not None:
                raise self.lost
            if self.unsent is not None:
                raise self.unsent


def send_to_all(
    command: Command, paths: Sequence[int], *, begun: bool = False
) -> PathSteps[Round | Response]:
    """Send the command to each path. A unit attention that comes before anything was done ends the round.

    ``begun``: something was done before, so no unit attention ends the round.
    """
    found = Round()
    for path in paths:
        try:
            response = yield Send(path, command)
            if is_unit_attention(response):
                if not begun and not found.good and found.lost is None:
                    return response
                response = yield from past_attentions(path, command)
        except AnswerLost as error:
            found.lost = error
            found.failed.append(path)
        except PathError as error:
            found.unsent = found.unsent or error
            found.failed.append(path)
        else:
            if response.good:
                found.good.append(path)
            elif response.status is Status.RESERVATION_CONFLICT:
                found.conflict.append(path)
            else:
                found.other = found.other or response
                if not is_undone(response):
                    found.doubtful.append(path)
    return found


def past_attentions(path: int, command: Command) -> PathSteps[Response]:
    """Send a command until no unit attention comes, and return the response."""
    response = yield Send(path, command)
    for _ in range(ATTENTIONS):
        if not is_unit_attention(response):
            break
        response = yield Send(path, command)
    return response


def must(path: int, command: Command) -> PathSteps[Response]:
    """Send a command that follows something done already, so that even "not sent" leaves a doubt.

    Raises:
        AnswerLost: The command was not carried out, or it is not known whether it was.
    """
    return (yield from _follow(past_attentions(path, command)))


def _follow(sending: PathSteps[Response]) -> PathSteps[Response]:
    try:
        response = yield from sending
    except AnswerLost:
        raise
    except PathError as error:
        raise AnswerLost(error.path, error.problem) from error
    if is_not_now(response):
        raise partly_done(response)
    return response


def _send_once(path: int, command: Command) -> PathSteps[Response]:
    return (yield Send(path, command))


def is_not_now(response: Response) -> bool:
    """Whether the logical unit has not carried out the command now, and may do so later (SAM-5 5.3.1)."""
    if response.status is Status.CHECK_CONDITION:
        return decode_sense(response.sense).key in (SenseKey.ABORTED_COMMAND, SenseKey.NOT_READY)
    return response.status not in (Status.GOOD, Status.CONDITION_MET, Status.RESERVATION_CONFLICT)


def partly_done(response: Response) -> AnswerLost:
    """The error of a command which some paths have carried out, and which one path answered like this."""
    return AnswerLost(
        "multipath device",
        f"a path answered {describe_response(response)} after other paths had carried out the command",
    )


def has_key(path: int, parameters: ParameterList) -> PathSteps[bool]:
    """Whether a path is registered with the new key: to register it again changes nothing (SPC-4 5.13.7)."""
    key = parameters.service_action_key
    same = out_command(OutServiceAction.REGISTER, key, key, aptpl=parameters.aptpl)
    return (yield from must(path, same)).good


def join(
    parameters: ParameterList, paths: Sequence[int], known: int
) -> PathSteps[tuple[list[int], list[int]] | None]:
    """Register the new key on paths without a key, if the path ``known`` has it before and after that. What
    another node removes meanwhile must not come back.

    Returns:
        The paths that did, and those with another key. None: ``known`` is not registered any more, and the
        other paths do not get the key.
    """
    joined: list[int] = []
    strangers: list[int] = []
    for path in paths:
        if (yield from has_key(path, parameters)):
            continue
        response = yield from join_one(parameters, path, known)
        if response is None:
            break
        (joined if response.good else strangers).append(path)
    if paths and not (yield from has_key(known, parameters)):
        yield from leave(parameters, joined)
        return None
    return joined, strangers


def join_one(parameters: ParameterList, path: int, known: int) -> PathSteps[Response | None]:
    """Register the new key on a path without a key; None: the path ``known`` does not have it any more.

    A unit attention may say that another node has just removed the registrations of this device. So
    ``known`` is asked again after each.
    """
    key = parameters.service_action_key
    fresh = out_command(OutServiceAction.REGISTER, 0, key, aptpl=parameters.aptpl)
    response: Response | None = None
    for _ in range(ATTENTIONS + 1):
        if not (yield from has_key(known, parameters)):
            return None
        response = yield from _follow(_send_once(path, fresh))
        if not is_unit_attention(response):
            break
    return response


def leave(parameters: ParameterList, paths: Sequence[int]) -> PathSteps[None]:
    """Unregister paths that were registered a moment ago and so hold nothing."""
    command = out_command(OutServiceAction.REGISTER, parameters.service_action_key, 0, aptpl=parameters.aptpl)
    for path in paths:
        yield from must(path, command)


def clear_attentions(paths: Iterable[int]) -> PathSteps[None]:
    """Clear the unit attentions on these paths that a command of another path of the device has caused.

    No I_T nexus gets a unit attention for its own command. So the guest must not get these.
    """
    for path in paths:
        with contextlib.suppress(PathError):
            yield from past_attentions(path, _TEST_UNIT_READY)


def held_reservation(path: int) -> PathSteps[Reservation | None]:
    """The present reservation; None if there is none."""
    return reservation_in((yield from must(path, in_command(InServiceAction.READ_RESERVATION))))


def reservation_in(response: Response) -> Reservation | None:
    """The reservation in an answer to READ RESERVATION; None if there is none."""
    try:
        return ReadReservation.decode(response.data_in).reservation if response.good else None
    except DecodeError:
        return None
