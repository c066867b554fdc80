"""The JSON documents of `holdover target --json-events`, one for each line, and the functions that make them.

Keys are text, "0x…", because JSON readers lose the low bits of large numbers. Times are UTC (RFC 3339).
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from holdover.faults.armed import Strike
from holdover.iscsi.target.target import SessionChange
from holdover.lun.reservations import ReservationState
from holdover.scsi.cdbs.opcodes import OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import ParameterList
from holdover.scsi.sense import describe_response


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """One registration; ``key_before`` is the key that it had before, if there was one."""

    initiator: str
    target_port: int
    key: str
    key_before: str | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A reservation; if it names no initiator, every registrant holds it."""

    type: str
    initiator: str | None = None
    target_port: int | None = None
    key: str | None = None


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The differences between two states of a LUN's reservations, with their values before and after."""

    added: tuple[Registered, ...]
    removed: tuple[Registered, ...]
    changed: tuple[Registered, ...]
    reservation_before: Held | None
    reservation: Held | None
    generation_before: int
    generation: int
    aptpl: bool


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    time: str


class Listening(_Event, frozen=True, kw_only=True, tag="listening"):
    """A LUN can be reached."""

    lun: int
    file: str
    url: str


class SessionBegun(_Event, frozen=True, kw_only=True, tag="session-begin"):
    """An initiator has logged in."""

    initiator: str
    isid: str
    tsih: int
    peer: str
    portal: str


class SessionEnded(_Event, frozen=True, kw_only=True, tag="session-end"):
    """A session is over; the document says why."""

    initiator: str
    isid: str
    tsih: int
    peer: str
    portal: str
    reason: str


class ReserveOut(_Event, frozen=True, kw_only=True, tag="persistent-reserve-out"):
    """The LUN has carried out or refused a PERSISTENT RESERVE OUT.

    The keys are missing if the command's parameter list is too short to hold them.
    """

    lun: int
    initiator: str
    target_port: int
    service_action: str
    type: str | None
    key: str | None
    service_action_key: str | None
    status: str
    changes: Changes


class PowerLost(_Event, frozen=True, kw_only=True, tag="power-loss"):
    """A LUN has lost its power because of a fault."""

    lun: int
    changes: Changes


class Struck(msgspec.Struct, frozen=True, kw_only=True):
    """One of the faults that strike a command."""

    id: int
    fault: str


class FaultStruck(_Event, frozen=True, kw_only=True, tag="fault"):
    """Faults strike a command; their effects come after this line.

    If the faults keep a PERSISTENT RESERVE OUT from the LUN, this is its only line.
    """

    lun: int
    initiator: str
    target_port: int
    command: str
    service_action: str | None
    faults: tuple[Struck, ...]


Event = Listening | SessionBegun | SessionEnded | ReserveOut | PowerLost | FaultStruck


def registered_of(state: ReservationState) -> tuple[Registered, ...]:
    """All registrations, in the order in which they came."""
    return tuple(_registered(each.nexus, each.key) for each in state.registrations)


def held_of(state: ReservationState) -> Held | None:
    """The reservation; None if there is none."""
    held = state.reservation
    if held is None:
        return None
    if held.holder is None:
        return Held(type=held.type.short_name)
    return Held(
        type=held.type.short_name,
        initiator=str(held.holder.initiator),
        target_port=held.holder.target_port,
        key=f"{state.key_of(held.holder):#x}",
    )


def changes(before: ReservationState, after: ReservationState) -> Changes:
    """The differences between two states."""
    old = {each.nexus: each.key for each in before.registrations}
    new = {each.nexus: each.key for each in after.registrations}
    return Changes(
        added=tuple(_registered(nexus, key) for nexus, key in new.items() if nexus not in old),
        removed=tuple(_registered(nexus, key) for nexus, key in old.items() if nexus not in new),
        changed=tuple(
            _registered(nexus, key, old[nexus]) for nexus, key in new.items() if old.get(nexus, key) != key
        ),
        reservation_before=held_of(before),
        reservation=held_of(after),
        generation_before=before.generation,
        generation=after.generation,
        aptpl=after.aptpl,
    )


def session_event(change: SessionChange) -> SessionBegun | SessionEnded:
    """The document for a session that has begun or ended."""
    session = change.session
    isid = f"0x{session.isid.hex()}"
    if change.ended is None:
        return SessionBegun(
            time=_now(),
            initiator=session.initiator,
            isid=isid,
            tsih=session.tsih,
            peer=session.peer,
            portal=session.portal,
        )
    return SessionEnded(
        time=_now(),
        initiator=session.initiator,
        isid=isid,
        tsih=session.tsih,
        peer=session.peer,
        portal=session.portal,
        reason=change.ended,
    )


def reserve_out(
    lun: int,
    nexus: ITNexus,
    command: Command,
    response: Response,
    before: ReservationState,
    after: ReservationState,
) -> ReserveOut:
    """The document for a PERSISTENT RESERVE OUT that has an answer."""
    try:
        parameters: ParameterList | None = ParameterList.decode_basic(command.data_out)
    except DecodeError:
        parameters = None
    return ReserveOut(
        time=_now(),
        lun=lun,
        initiator=str(nexus.initiator),
        target_port=nexus.target_port,
        service_action=_service_action(command) or "none",
        type=_type(command),
        key=None if parameters is None else f"{parameters.key:#x}",
        service_action_key=None if parameters is None else f"{parameters.service_action_key:#x}",
        status=describe_response(response),
        changes=changes(before, after),
    )


def power_lost(lun: int, before: ReservationState, after: ReservationState) -> PowerLost:
    """The document for a LUN that has its power back."""
    return PowerLost(time=_now(), lun=lun, changes=changes(before, after))


def fault_struck(lun: int, nexus: ITNexus, command: Command, strike: Strike) -> FaultStruck:
    """The document for a command that faults strike."""
    opcodes = {int(each): each.name for each in OperationCode}
    return FaultStruck(
        time=_now(),
        lun=lun,
        initiator=str(nexus.initiator),
        target_port=nexus.target_port,
        command=opcodes.get(command.opcode, f"{command.opcode:#04x}"),
        service_action=_service_action(command),
        faults=tuple(Struck(id=each.number, fault=str(each.fault)) for each in strike.faults),
    )


def listening(lun: int, file: str, url: str) -> Listening:
    """The document for a LUN that can be reached."""
    return Listening(time=_now(), lun=lun, file=file, url=url)


def _registered(nexus: ITNexus, key: int, before: int | None = None) -> Registered:
    return Registered(
        initiator=str(nexus.initiator),
        target_port=nexus.target_port,
        key=f"{key:#x}",
        key_before=None if before is None else f"{before:#x}",
    )


def _service_action(command: Command) -> str | None:
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT or len(command.cdb) < 2:
        return None
    number = command.cdb[1] & 0x1F
    names = {int(each): each.name for each in OutServiceAction}
    return names.get(number, f"{number:#04x}")


def _type(command: Command) -> str | None:
    """The type that the CDB names; None for REGISTER and other service actions without a type."""
    number = command.cdb[2] & 0x0F if len(command.cdb) > 2 else 0
    names = {int(each): each.short_name for each in ReservationType}
    return names.get(number, f"{number:#x}") if number else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
