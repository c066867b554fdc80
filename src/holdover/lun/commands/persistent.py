"""PERSISTENT RESERVE IN and OUT as commands: connects the bytes of `scsi` and the rules of `reservations`."""

from __future__ import annotations

from holdover.lun.reservations import (
    Outcome,
    Registration,
    ReservationState,
    TargetLimits,
    conflicts,
    persistent_reserve_out,
    register_and_move,
)
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.errors import DecodeError
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import (
    Capabilities,
    FullStatus,
    FullStatusDescriptor,
    ReadKeys,
    ReadReservation,
    Reservation,
)
from holdover.scsi.reservation.reservation_out import (
    BASIC_LENGTH,
    ParameterList,
    RegisterAndMoveParameterList,
)
from holdover.scsi.reservation.transport_id import TransportID
from holdover.scsi.sense import AdditionalSense

_ALLOWS_READS = 0b100
"""ALLOW COMMANDS (SPC-4 6.15.4 table 208): `access` allows MODE SENSE and similar commands beside Write
Exclusive, and TEST UNIT READY and RECEIVE COPY RESULTS beside Exclusive Access too."""

# The byte of each parameter list at which the length of its TransportIDs stands (SPC-4 6.16.3, 6.16.4).
_LIST_LENGTH_AT = BASIC_LENGTH
_MOVE_LENGTH_AT = 20


def parameter_data(
    cdb: PersistentReserveIn, state: ReservationState, limits: TargetLimits
) -> bytes | AdditionalSense:
    """The whole parameter data of PERSISTENT RESERVE IN, or the sense of an ILLEGAL REQUEST (SPC-4 6.15)."""
    match cdb.service_action:
        case InServiceAction.READ_KEYS:
            return ReadKeys(state.generation, tuple(each.key for each in state.registrations)).encode()
        case InServiceAction.READ_RESERVATION:
            return _read_reservation(state).encode()
        case InServiceAction.REPORT_CAPABILITIES:
            return Capabilities(
                crh=True,
                sip_c=True,
                atp_c=True,
                ptpl_c=True,
                ptpl_a=state.aptpl,
                allow_commands=_ALLOWS_READS,
                types=frozenset(ReservationType),
            ).encode()
        case InServiceAction.READ_FULL_STATUS:
            return _full_status(state, limits).encode()
    return AdditionalSense.INVALID_FIELD_IN_CDB


def _read_reservation(state: ReservationState) -> ReadReservation:
    held = state.reservation
    if held is None:
        return ReadReservation(state.generation, None)
    key = 0 if held.holder is None else state.key_of(held.holder)
    return ReadReservation(state.generation, Reservation(key, held.type))


def _full_status(state: ReservationState, limits: TargetLimits) -> FullStatus:
    descriptors: list[FullStatusDescriptor] = []
    together: set[TransportID] = set()
    for registration in state.registrations:
        initiator = registration.nexus.initiator
        if initiator in together:
            continue
        all_ports = _stands_for_all_ports(registration, state, limits)
        if all_ports:
            together.add(initiator)
        descriptors.append(_descriptor(registration, state, all_ports))
    return FullStatus(state.generation, tuple(descriptors))


def _stands_for_all_ports(registration: Registration, state: ReservationState, limits: TargetLimits) -> bool:
    """Whether one descriptor may stand for all nexuses of this initiator port (SPC-4 6.15.5).

    All nexuses must be registered with ALL_TG_PT, through every port, with one key; and all of them must be
    holders, or none.
    """
    if not registration.all_target_ports:
        return False
    like = [
        each
        for each in state.registrations
        if each.nexus.initiator == registration.nexus.initiator
        and each.key == registration.key
        and each.all_target_ports
    ]
    return len(like) == len(limits.ports) and len({state.holds(each.nexus) for each in like}) == 1


def _descriptor(registration: Registration, state: ReservationState, all_ports: bool) -> FullStatusDescriptor:
    held = state.reservation
    holder = held is not None and state.holds(registration.nexus)
    return FullStatusDescriptor(
        key=registration.key,
        holder=holder,
        transport_id=registration.nexus.initiator,
        relative_target_port=registration.nexus.target_port,
        all_target_ports=all_ports,
        type=held.type if held is not None and holder else None,
    )


def carry_out(
    cdb: PersistentReserveOut,
    data_out: bytes,
    state: ReservationState,
    nexus: ITNexus,
    limits: TargetLimits,
) -> Outcome:
    """The outcome of PERSISTENT RESERVE OUT on a state, for any bytes of its parameter list (SPC-4 6.16)."""
    try:
        service_action = OutServiceAction(cdb.service_action)
    except ValueError:
        return Outcome(state, problem=AdditionalSense.INVALID_FIELD_IN_CDB)
    if conflicts(state, nexus, service_action):
        return Outcome(state, conflict=True)
    if len(data_out) < cdb.parameter_list_length or cdb.parameter_list_length < BASIC_LENGTH:
        return Outcome(state, problem=AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    data = data_out[: cdb.parameter_list_length]
    if service_action is OutServiceAction.REGISTER_AND_MOVE:
        try:
            move = RegisterAndMoveParameterList.decode(data)
        except DecodeError as error:
            return Outcome(state, problem=_problem(error, _MOVE_LENGTH_AT))
        return register_and_move(state, nexus, move, limits=limits)
    try:
        parameters = ParameterList.decode(data)
    except DecodeError as error:
        return Outcome(state, problem=_problem(error, _LIST_LENGTH_AT))
    return persistent_reserve_out(
        state, nexus, service_action, parameters, type=cdb.type, scope=cdb.scope, limits=limits
    )


def _problem(error: DecodeError, length_at: int) -> AdditionalSense:
    """The sense for a parameter list of a wrong length (6.16.1), or with an invalid TransportID."""
    if error.offset is None or error.offset == length_at:
        return AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
    return AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
