"""What the tests of the reservation rules share: states to begin with, and the commands."""

from __future__ import annotations

from holdover.lun.reservations import (
    Outcome,
    PersistentReservation,
    Registration,
    ReservationState,
    TargetLimits,
    persistent_reserve_out,
)
from holdover.scsi.cdbs.opcodes import OutServiceAction as Out
from holdover.scsi.cdbs.opcodes import ReservationType as Type
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import ParameterList
from holdover.scsi.reservation.transport_id import TransportID
from holdover.scsi.sense import AdditionalSense
from tests.lun.support import TWO_PORTS, A

ALL_TYPES = list(Type)
ONE_HOLDER = [kind for kind in Type if not kind.all_registrants]
ALL_REGISTRANTS = [kind for kind in Type if kind.all_registrants]
RELEASED = AdditionalSense.RESERVATIONS_RELEASED
BAD_CDB = AdditionalSense.INVALID_FIELD_IN_CDB
BAD_LIST = AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST


def registered(
    *pairs: tuple[ITNexus, int], kind: Type | None = None, holder: ITNexus | None = None
) -> ReservationState:
    """A state with these registrations, PRgeneration 10, and perhaps a reservation."""
    held = None if kind is None else PersistentReservation(kind, holder)
    return ReservationState(tuple(Registration(*pair) for pair in pairs), held, 10, False)


def held_by_a(kind: Type, *others: tuple[ITNexus, int], key: int = 1) -> ReservationState:
    """A holds a reservation of this type; for the all registrants types everybody does."""
    return registered((A, key), *others, kind=kind, holder=None if kind.all_registrants else A)


def do(
    state: ReservationState,
    nexus: ITNexus,
    service_action: Out,
    key: int = 0,
    sark: int = 0,
    *,
    type: int = 0,
    scope: int = 0,
    aptpl: bool = False,
    all_tg_pt: bool = False,
    spec_i_pt: tuple[TransportID, ...] | None = None,
    limits: TargetLimits = TWO_PORTS,
) -> Outcome:
    parameters = ParameterList(key, sark, aptpl, all_tg_pt, spec_i_pt is not None, spec_i_pt or ())
    return persistent_reserve_out(
        state, nexus, service_action, parameters, type=type, scope=scope, limits=limits
    )


def keys(outcome: Outcome) -> dict[ITNexus, int]:
    return {each.nexus: each.key for each in outcome.state.registrations}


def refused(outcome: Outcome, state: ReservationState, problem: AdditionalSense) -> bool:
    return outcome.problem is problem and not outcome.conflict and _unchanged(outcome, state)


def conflicts(outcome: Outcome, state: ReservationState) -> bool:
    return outcome.conflict and outcome.problem is None and _unchanged(outcome, state)


def _unchanged(outcome: Outcome, state: ReservationState) -> bool:
    return outcome.state is state and not outcome.attentions and not outcome.aborted and not outcome.good
