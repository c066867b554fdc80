"""The rules of persistent reservations, pure (SPC-4 5.13).

A logical unit's registrations and its reservation are one immutable, hashable `ReservationState`. A
PERSISTENT RESERVE OUT command is a function from such a state and what the command says to an
`Outcome`: the state afterwards, how the command ends, and the unit attentions to establish. Nothing
here uses a file, a socket or a clock. So the same functions serve the logical unit, the model checker and
the tests.

These statements are true for every state that these functions return:

* an I_T nexus has at most one registration, and its key is not zero;
* the holder of a reservation is registered; the all registrants types have no holder of their own but
  at least one registration;
* a command that does not end in GOOD leaves the state as it was.

To edit this module: each service action is one function with its name, in the order of the standard's tables
67, 68, 70 and 72. Reservation conflicts come first, because SAM-5 5.3.3 ranks them above every CHECK
CONDITION.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from holdover.lun.access import Standing, out_allowed
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationScope, ReservationType
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import ParameterList, RegisterAndMoveParameterList
from holdover.scsi.reservation.transport_id import IscsiTransportID, OtherTransportID, TransportID
from holdover.scsi.sense import AdditionalSense

_GENERATION_MASK = 0xFFFFFFFF
_TYPES = frozenset(int(each) for each in ReservationType)
_REGISTERING = frozenset({OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY})


class Registration(msgspec.Struct, frozen=True, gc=False):
    """A registered I_T nexus.

    Attributes:
        nexus: The I_T nexus.
        key: The reservation key, 64 bits, never 0.
        all_target_ports: Whether the nexus was registered with ALL_TG_PT; READ FULL STATUS may then describe
            the nexuses of one initiator port together.
    """

    nexus: ITNexus
    key: int
    all_target_ports: bool = False


class PersistentReservation(msgspec.Struct, frozen=True, gc=False):
    """A persistent reservation of the whole logical unit (LU_SCOPE, the only scope).

    Attributes:
        type: The reservation type.
        holder: The I_T nexus that holds it; None for the all registrants types, which every registered
            nexus holds.
    """

    type: ReservationType
    holder: ITNexus | None


class ReservationState(msgspec.Struct, frozen=True, gc=False):
    """Everything that a logical unit keeps about persistent reservations.

    Attributes:
        registrations: In the order of the REGISTER commands; a nexus that changes its key keeps its place.
        reservation: The persistent reservation, or None.
        generation: PRgeneration, 32 bits, wrapping.
        aptpl: The most recent APTPL value: whether registrations and reservation survive a power loss.
    """

    registrations: tuple[Registration, ...] = ()
    reservation: PersistentReservation | None = None
    generation: int = 0
    aptpl: bool = False

    def registration_of(self, nexus: ITNexus) -> Registration | None:
        """The registration of an I_T nexus, or None."""
        for each in self.registrations:
            if each.nexus == nexus:
                return each
        return None

    def key_of(self, nexus: ITNexus) -> int:
        """The reservation key of an I_T nexus; 0 when it is not registered."""
        for each in self.registrations:
            if each.nexus == nexus:
                return each.key
        return 0

    def standing(self, nexus: ITNexus) -> Standing:
        """The standing of an I_T nexus; without a reservation no nexus is a holder (5.13.10)."""
        if not self.key_of(nexus):
            return Standing.NOT_REGISTERED
        held = self.reservation
        if held is not None and (held.holder is None or held.holder == nexus):
            return Standing.HOLDER
        return Standing.REGISTERED

    def holds(self, nexus: ITNexus) -> bool:
        """Whether an I_T nexus is a persistent reservation holder (5.13.10)."""
        return self.standing(nexus) is Standing.HOLDER

    def after_power_loss(self) -> ReservationState:
        """The state when power returns: with APTPL everything is kept, without APTPL nothing.

        PRgeneration starts at 0 in both cases (5.13.5, 6.15.2).
        """
        if not self.aptpl:
            return ReservationState()
        return ReservationState(self.registrations, self.reservation, 0, True)


@dataclass(frozen=True, slots=True)
class TargetLimits:
    """The limits of the target device that the rules need.

    Attributes:
        ports: The relative target port identifiers of all its ports.
        registrations: The most registrations that the logical unit can keep.
    """

    ports: tuple[int, ...] = (1,)
    registrations: int = 1024


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a PERSISTENT RESERVE OUT command.

    Attributes:
        state: The state afterwards; the same object when nothing changed.
        conflict: Whether the command ends in RESERVATION CONFLICT.
        problem: The additional sense code of an ILLEGAL REQUEST; None when the command has no such error.
        attentions: The unit attention conditions to establish, each with its I_T nexus.
        aborted: The I_T nexuses whose commands PREEMPT AND ABORT aborts, apart from this command itself.
    """

    state: ReservationState
    conflict: bool = False
    problem: AdditionalSense | None = None
    attentions: tuple[tuple[ITNexus, AdditionalSense], ...] = ()
    aborted: tuple[ITNexus, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the command ends in GOOD."""
        return not self.conflict and self.problem is None


class _ServiceAction(msgspec.Struct, frozen=True, gc=False):
    state: ReservationState
    nexus: ITNexus
    own_key: int
    parameters: ParameterList
    type: int
    scope: int
    limits: TargetLimits

    def conflict(self) -> Outcome:
        return Outcome(self.state, conflict=True)

    def refuse(self, problem: AdditionalSense) -> Outcome:
        return Outcome(self.state, problem=problem)


def conflicts(state: ReservationState, nexus: ITNexus, service_action: OutServiceAction) -> bool:
    """Whether a command ends in RESERVATION CONFLICT, whatever its parameter list contains.

    Then the reservation of another I_T nexus forbids the command (5.13.1, table 66), or the I_T nexus that
    sent the command is not registered (5.13.7).
    """
    registered = state.key_of(nexus) != 0
    if not registered and service_action not in _REGISTERING:
        return True
    held_by_another = state.reservation is not None and not state.holds(nexus)
    return held_by_another and not out_allowed(service_action, registered=registered)


def persistent_reserve_out(
    state: ReservationState,
    nexus: ITNexus,
    service_action: OutServiceAction,
    parameters: ParameterList,
    *,
    type: int = 0,
    scope: int = 0,
    limits: TargetLimits = TargetLimits(),
) -> Outcome:
    """The outcome of every service action except REGISTER AND MOVE.

    Args:
        state: The logical unit's state before the command.
        nexus: The I_T nexus that sent the command.
        service_action: The service action of the command.
        parameters: The parameter list of the command.
        type: The CDB's TYPE field, any 4 bits.
        scope: The CDB's SCOPE field, any 4 bits.
        limits: The target's ports and resources.

    Raises:
        KeyError: The service action is REGISTER AND MOVE, which has another parameter list.
    """
    own_key = state.key_of(nexus)
    request = _ServiceAction(state, nexus, own_key, parameters, type, scope, limits)
    key_is_right = parameters.key == own_key or service_action in _REGISTERING
    if not key_is_right or conflicts(state, nexus, service_action):
        return request.conflict()
    if parameters.spec_i_pt and service_action is not OutServiceAction.REGISTER:
        return request.refuse(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    return _SERVICE_ACTIONS[service_action](request)


def _register(request: _ServiceAction) -> Outcome:
    """REGISTER (5.13.7, table 67)."""
    parameters = request.parameters
    if parameters.key != request.own_key:
        return request.conflict()
    nexuses = _nexuses_of(request, request.nexus.initiator)
    if any(request.state.key_of(each) not in (0, parameters.key) for each in nexuses):
        # ALL_TG_PT stands for one REGISTER through each port (6.16.3), and such a REGISTER would conflict.
        return request.conflict()
    if not parameters.spec_i_pt:
        return _register_or_unregister(request, nexuses)
    if request.own_key:
        return request.refuse(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    if not parameters.service_action_key:
        return Outcome(request.state)
    for identifier in parameters.transport_ids:
        if not _names_initiator_port(identifier, request.nexus):
            return request.refuse(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
        nexuses += [each for each in _nexuses_of(request, identifier) if each not in nexuses]
    if any(request.state.key_of(each) for each in nexuses):
        return request.refuse(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    return _register_or_unregister(request, nexuses)


def _register_and_ignore_existing_key(request: _ServiceAction) -> Outcome:
    """REGISTER AND IGNORE EXISTING KEY (5.13.7, table 68)."""
    return _register_or_unregister(request, _nexuses_of(request, request.nexus.initiator))


def _register_or_unregister(request: _ServiceAction, nexuses: list[ITNexus]) -> Outcome:
    state, parameters = request.state, request.parameters
    if not parameters.service_action_key:
        if not any(state.key_of(each) for each in nexuses):
            return Outcome(state)  # "Do nothing except return GOOD status": not even PRgeneration moves
        return _unregister(request, nexuses)
    registrations = _with_keys(
        state.registrations, nexuses, parameters.service_action_key, parameters.all_tg_pt
    )
    if len(registrations) > request.limits.registrations:
        return request.refuse(AdditionalSense.INSUFFICIENT_REGISTRATION_RESOURCES)
    return Outcome(
        ReservationState(registrations, state.reservation, _next_generation(state), parameters.aptpl)
    )


def _unregister(request: _ServiceAction, nexuses: list[ITNexus]) -> Outcome:
    """REGISTER with a SERVICE ACTION RESERVATION KEY of zero (5.13.11.2.3)."""
    state, held = request.state, request.state.reservation
    left = tuple(each for each in state.registrations if each.nexus not in nexuses)
    attentions: tuple[tuple[ITNexus, AdditionalSense], ...] = ()
    if held is not None and _lost(held, left):
        if held.type.registrants_only:
            attentions = _attentions(left, AdditionalSense.RESERVATIONS_RELEASED, besides=request.nexus)
        held = None
    after = ReservationState(left, held, _next_generation(state), request.parameters.aptpl)
    return Outcome(after, attentions=attentions)


def _reserve(request: _ServiceAction) -> Outcome:
    """RESERVE (5.13.9)."""
    state = request.state
    if state.reservation is not None:
        same = request.type == state.reservation.type and request.scope == ReservationScope.LU
        return Outcome(state) if same and state.holds(request.nexus) else request.conflict()
    if not _type_and_scope_are_right(request):
        return request.refuse(AdditionalSense.INVALID_FIELD_IN_CDB)
    return Outcome(
        ReservationState(state.registrations, _new_reservation(request), state.generation, state.aptpl)
    )


def _release(request: _ServiceAction) -> Outcome:
    """RELEASE (5.13.11.2.2)."""
    state, held = request.state, request.state.reservation
    if held is None or not state.holds(request.nexus):
        return Outcome(state)
    if request.type != held.type or request.scope != ReservationScope.LU:
        return request.refuse(AdditionalSense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
    attentions: tuple[tuple[ITNexus, AdditionalSense], ...] = ()
    if held.type.registrants_only or held.type.all_registrants:
        attentions = _attentions(
            state.registrations, AdditionalSense.RESERVATIONS_RELEASED, besides=request.nexus
        )
    after = ReservationState(state.registrations, None, state.generation, state.aptpl)
    return Outcome(after, attentions=attentions)


def _clear(request: _ServiceAction) -> Outcome:
    """CLEAR (5.13.11.2.7)."""
    state = request.state
    return Outcome(
        ReservationState((), None, _next_generation(state), state.aptpl),
        attentions=_attentions(
            state.registrations, AdditionalSense.RESERVATIONS_PREEMPTED, besides=request.nexus
        ),
    )


def _preempt(request: _ServiceAction) -> Outcome:
    """PREEMPT (5.13.11.2.4, table 72)."""
    state, held, victim = request.state, request.state.reservation, request.parameters.service_action_key
    if held is not None and held.holder is None and not victim:
        return _preempt_reservation(request, held, state.registrations)
    if held is not None and held.holder is not None and not victim:
        return request.refuse(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    removed = tuple(each for each in state.registrations if each.key == victim)
    if not removed:
        return request.conflict()
    if held is not None and held.holder is not None and state.key_of(held.holder) == victim:
        return _preempt_reservation(request, held, removed)
    return _remove_registrations(request, removed)


def _preempt_reservation(
    request: _ServiceAction, held: PersistentReservation, identified: tuple[Registration, ...]
) -> Outcome:
    """Replace the reservation, and remove the registrations that the key identifies (5.13.11.2.4.3).

    The registration of the preempting nexus stays.
    """
    if not _type_and_scope_are_right(request):
        return request.refuse(AdditionalSense.INVALID_FIELD_IN_CDB)
    state = request.state
    removed = tuple(each for each in identified if each.nexus != request.nexus)
    left = tuple(each for each in state.registrations if each not in removed)
    attentions = _attentions(removed, AdditionalSense.REGISTRATIONS_PREEMPTED)
    if request.type != held.type:
        attentions += _attentions(left, AdditionalSense.RESERVATIONS_RELEASED, besides=request.nexus)
    after = ReservationState(left, _new_reservation(request), _next_generation(state), state.aptpl)
    return Outcome(after, attentions=attentions, aborted=tuple(each.nexus for each in identified))


def _remove_registrations(request: _ServiceAction, removed: tuple[Registration, ...]) -> Outcome:
    """Remove registrations; TYPE and SCOPE are ignored (5.13.11.2.5).

    If the preempting nexus has that key, its own registration is removed too.
    """
    state, held = request.state, request.state.reservation
    left = tuple(each for each in state.registrations if each not in removed)
    if held is not None and _lost(held, left):
        held = None  # all registrants were removed, so no nexus needs a unit attention
    after = ReservationState(left, held, _next_generation(state), state.aptpl)
    return Outcome(
        after,
        attentions=_attentions(removed, AdditionalSense.REGISTRATIONS_PREEMPTED, besides=request.nexus),
        aborted=tuple(each.nexus for each in removed),
    )


def _only_preempt(request: _ServiceAction) -> Outcome:
    """PREEMPT, which does not abort commands; PREEMPT AND ABORT (5.13.11.2.6) aborts them."""
    outcome = _preempt(request)
    return Outcome(outcome.state, outcome.conflict, outcome.problem, outcome.attentions)


def register_and_move(
    state: ReservationState,
    nexus: ITNexus,
    parameters: RegisterAndMoveParameterList,
    *,
    limits: TargetLimits = TargetLimits(),
) -> Outcome:
    """REGISTER AND MOVE (5.13.8, table 70): register another I_T nexus and give it the reservation.

    The CDB's SCOPE and TYPE are ignored: the reservation keeps its scope and type. No nexus gets a unit
    attention condition.
    """
    held, own_key = state.reservation, state.key_of(nexus)
    if not own_key or parameters.key != own_key:
        return Outcome(state, conflict=True)
    if held is None:
        return Outcome(state, problem=AdditionalSense.INVALID_FIELD_IN_CDB)
    if held.holder != nexus:
        return Outcome(state, conflict=True)
    if (
        not parameters.service_action_key
        or parameters.relative_target_port not in limits.ports
        or parameters.transport_id == nexus.initiator
        or not _names_initiator_port(parameters.transport_id, nexus)
    ):
        return Outcome(state, problem=AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    destination = ITNexus(parameters.transport_id, parameters.relative_target_port)
    registrations = _with_keys(state.registrations, [destination], parameters.service_action_key, False)
    if parameters.unreg:
        registrations = tuple(each for each in registrations if each.nexus != nexus)
    if len(registrations) > limits.registrations:
        return Outcome(state, problem=AdditionalSense.INSUFFICIENT_REGISTRATION_RESOURCES)
    moved = PersistentReservation(held.type, destination)
    return Outcome(ReservationState(registrations, moved, _next_generation(state), parameters.aptpl))


_SERVICE_ACTIONS: dict[OutServiceAction, Callable[[_ServiceAction], Outcome]] = {
    OutServiceAction.REGISTER: _register,
    OutServiceAction.RESERVE: _reserve,
    OutServiceAction.RELEASE: _release,
    OutServiceAction.CLEAR: _clear,
    OutServiceAction.PREEMPT: _only_preempt,
    OutServiceAction.PREEMPT_AND_ABORT: _preempt,
    OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY: _register_and_ignore_existing_key,
}


def _type_and_scope_are_right(request: _ServiceAction) -> bool:
    return request.type in _TYPES and request.scope == ReservationScope.LU


def _new_reservation(request: _ServiceAction) -> PersistentReservation:
    kind = ReservationType(request.type)
    return PersistentReservation(kind, None if kind.all_registrants else request.nexus)


def _nexuses_of(request: _ServiceAction, initiator: TransportID) -> list[ITNexus]:
    """The I_T nexuses that a registration of one initiator port concerns (table 69)."""
    here = ITNexus(initiator, request.nexus.target_port)
    if not request.parameters.all_tg_pt:
        return [here]
    others = (ITNexus(initiator, port) for port in request.limits.ports)
    return [here, *(each for each in others if each != here)]


def _names_initiator_port(identifier: TransportID, nexus: ITNexus) -> bool:
    """Whether a TransportID names one initiator port of the target port's transport protocol.

    A TransportID of iSCSI without an ISID names a whole device, which is not an I_T nexus (7.6.4.6).
    """
    if isinstance(identifier, OtherTransportID) or type(identifier) is not type(nexus.initiator):
        return False
    return not isinstance(identifier, IscsiTransportID) or identifier.isid is not None


def _with_keys(
    registrations: tuple[Registration, ...], nexuses: list[ITNexus], key: int, all_target_ports: bool
) -> tuple[Registration, ...]:
    changed = tuple(
        Registration(each.nexus, key, all_target_ports) if each.nexus in nexuses else each
        for each in registrations
    )
    known = {each.nexus for each in registrations}
    return changed + tuple(Registration(each, key, all_target_ports) for each in nexuses if each not in known)


def _lost(held: PersistentReservation, left: tuple[Registration, ...]) -> bool:
    """Whether a reservation ends when only these registrations are left (table 71)."""
    if held.holder is None:
        return not left
    return all(each.nexus != held.holder for each in left)


def _next_generation(state: ReservationState) -> int:
    return (state.generation + 1) & _GENERATION_MASK


def _attentions(
    registrations: Iterable[Registration], what: AdditionalSense, besides: ITNexus | None = None
) -> tuple[tuple[ITNexus, AdditionalSense], ...]:
    return tuple((each.nexus, what) for each in registrations if each.nexus != besides)
