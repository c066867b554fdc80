"""Puts together what agents say into one picture of the site. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from holdover.api.documents import DeviceState, GuestState, HandoverState, HostState
from holdover.api.migration_documents import MigrationState
from holdover.fleet.documents import (
    Alarm,
    Fleet,
    FleetDisk,
    FleetGuest,
    FleetHost,
    FleetLun,
    LunUser,
    Move,
    Severity,
)
from holdover.scsi.cdbs.opcodes import ReservationType

_PLACES = {"running": "here", "incoming": "arriving", "leaving": "leaving", "departed": "elsewhere"}


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """What one agent has answered.

    Attributes:
        api: The address at which it was asked.
        name: The host's name if it is known, else empty.
        state: The host and its guests; None if there was no answer.
        migrations: The newest migration of each guest from this host.
        handovers: The open handovers of its guests.
        problem: Why there was no answer.
    """

    api: str
    name: str = ""
    state: HostState | None = None
    migrations: tuple[MigrationState, ...] = ()
    handovers: tuple[HandoverState, ...] = ()
    problem: str = ""


def picture(answers: Sequence[HostAnswer], now: float) -> Fleet:
    """The site as these agents describe it; ``now``: seconds since the epoch."""
    states = [each.state for each in answers if each.state is not None]
    guests = [guest for state in states for guest in state.guests]
    return Fleet(
        at=now,
        hosts=tuple(_host(each) for each in answers),
        guests=tuple(map(_guest, guests)),
        luns=_luns(guests),
        moves=_moves(answers),
        alarms=tuple(sorted(_alarms(answers), key=lambda each: each.severity is not Severity.URGENT)),
    )


def type_name(kind: int | None) -> str:
    """The short name of a reservation's type; "none" for no reservation."""
    return "none" if kind is None else ReservationType(kind).short_name


def place_of(guest: GuestState) -> str:
    """Where a guest is, as seen from its host: the place of the first gate that is not open, else "here"."""
    gates = [device.gate for device in guest.devices]
    shut = [gate for gate in gates if gate != "running"]
    if not gates:
        return "without disks"
    return _PLACES.get(shut[0], shut[0]) if shut else "here"


def _host(answer: HostAnswer) -> FleetHost:
    state = answer.state
    if state is None:
        return FleetHost(name=answer.name or answer.api, api=answer.api, problem=answer.problem)
    return FleetHost(
        name=state.host,
        api=answer.api,
        version=state.version,
        guests=len(state.guests),
        running=sum(place_of(guest) == "here" for guest in state.guests),
    )


def _guest(guest: GuestState) -> FleetGuest:
    return FleetGuest(
        name=guest.name,
        host=guest.host,
        place=place_of(guest),
        disks=tuple(map(_disk, guest.devices)),
        sessions=len(guest.sessions),
    )


def _disk(device: DeviceState) -> FleetDisk:
    return FleetDisk(
        id=device.id,
        lun=_lun_name(device),
        gate=device.gate,
        key=device.key,
        type=device.type,
        type_name=type_name(device.type),
        aptpl=device.aptpl,
        stale=device.stale,
        held=device.held,
    )


def _lun_name(device: DeviceState) -> str:
    return device.designator or device.drive


def _luns(guests: Iterable[GuestState]) -> tuple[FleetLun, ...]:
    """Each LUN once, by its designator."""
    users: dict[str, list[LunUser]] = {}
    types: dict[str, int] = {}
    for guest in guests:
        for device in guest.devices:
            name = _lun_name(device)
            if device.type is not None:
                types[name] = device.type
            users.setdefault(name, []).append(
                LunUser(
                    guest=guest.name,
                    host=guest.host,
                    key=device.key,
                    holds=device.type is not None,
                    gate=device.gate,
                )
            )
    return tuple(
        FleetLun(designator=name, type_name=type_name(types.get(name)), users=tuple(each))
        for name, each in sorted(users.items())
    )


def _moves(answers: Sequence[HostAnswer]) -> tuple[Move, ...]:
    """Each migration and each handover once: open ones first, then the newest."""
    found = {state.migration_id: _migration(state) for each in answers for state in each.migrations}
    # The source decides. What the destination says of a handover counts if the source says nothing.
    handovers = [state for each in answers for state in each.handovers if state.open]
    for state in sorted(handovers, key=lambda each: each.role != "source"):
        found.setdefault(state.handover_id, _handover(state))
    return tuple(sorted(found.values(), key=lambda each: (not each.open, -each.began, each.guest)))


def _migration(state: MigrationState) -> Move:
    memory = state.memory
    copied = None
    if memory is not None and memory.total:
        copied = min(max(1.0 - memory.left / memory.total, 0.0), 1.0)
    return Move(
        id=state.migration_id,
        guest=state.guest,
        source=state.source,
        destination=state.destination,
        state=state.phase,
        open=state.open,
        in_doubt=state.in_doubt,
        progress=copied,
        began=state.began,
        ended=state.ended,
        now=state.problem or state.reason or state.now,
        standstill_ms=state.standstill_ms,
    )


def _handover(state: HandoverState) -> Move:
    ends = (state.host, state.peer) if state.role == "source" else (state.peer, state.host)
    return Move(
        id=state.handover_id,
        guest=state.guest,
        source=ends[0],
        destination=ends[1],
        state=state.state,
        open=state.open,
        in_doubt=state.in_doubt,
        now=state.problem or state.reason,
    )


def _alarms(answers: Sequence[HostAnswer]) -> Iterator[Alarm]:
    for answer in answers:
        if answer.state is None:
            name = answer.name or answer.api
            yield Alarm(
                severity=Severity.URGENT,
                host=name,
                guest="",
                text=f"the agent does not answer: {answer.problem}",
            )
            continue
        yield from _alarms_of(answer, answer.state)
    yield from _twice([guest for each in answers if each.state for guest in each.state.guests])


def _alarms_of(answer: HostAnswer, state: HostState) -> Iterator[Alarm]:
    for warning in state.warnings:
        yield Alarm(severity=Severity.WARNING, host=state.host, guest="", text=warning)
    for handover in answer.handovers:
        if handover.in_doubt or handover.problem:
            doubt = "it is not known where its reservations are; " if handover.in_doubt else ""
            yield Alarm(
                severity=Severity.URGENT,
                host=state.host,
                guest=handover.guest,
                text=f"handover {handover.handover_id} is {handover.state}: {doubt}{handover.problem}".rstrip(
                    "; "
                ),
                next=f"holdover handover status {handover.guest} --at {answer.api}",
            )
    for migration in answer.migrations:
        if migration.in_doubt or (migration.open and migration.problem):
            text = migration.problem or migration.now
            yield Alarm(
                severity=Severity.URGENT,
                host=state.host,
                guest=migration.guest,
                text=f"migration to {migration.destination} is {migration.phase}: {text}",
                next=migration.next,
            )
    for guest in state.guests:
        for device in guest.devices:
            where = f"LUN {_lun_name(device)}"
            if device.stale:
                text = f"{where}: what is tracked may be out of date; the agent asks the LUN"
                yield Alarm(severity=Severity.WARNING, host=state.host, guest=guest.name, text=text)
            if device.report:
                yield Alarm(
                    severity=Severity.WARNING,
                    host=state.host,
                    guest=guest.name,
                    text=f"{where}: {device.report}",
                )


def _twice(guests: Sequence[GuestState]) -> Iterator[Alarm]:
    """A guest whose gates are open on two hosts: each of them may write."""
    hosts: dict[str, list[str]] = {}
    for guest in guests:
        if place_of(guest) == "here" and (guest.sessions or any(each.key for each in guest.devices)):
            hosts.setdefault(guest.name, []).append(guest.host)
    for name, there in sorted(hosts.items()):
        if len(there) > 1:
            yield Alarm(
                severity=Severity.WARNING,
                host=there[0],
                guest=name,
                text=f"the gates of guest {name} are open on {', '.join(there)}. If this is one guest, it "
                "must run on one host only",
            )
