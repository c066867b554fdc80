"""The questions to a logical unit about its registrations and its reservation.

None of them changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdover.reservations.steps import StepFailed, Steps, T, ask, insist, is_lacking
from holdover.scsi.allocation import ask_whole, page_command
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.command import Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import Designator, DeviceIdentification, VpdPage, best_designator
from holdover.scsi.reservation.reservation_in import (
    Capabilities,
    FullStatus,
    ReadKeys,
    ReadReservation,
    Reservation,
)
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import describe_response

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """What a logical unit has said at one value of PRGENERATION.

    Attributes:
        keys: The keys of all registered I_T nexuses.
        reservation: The reservation, or None.
        generation: The value of PRGENERATION, 32 bits.
    """

    keys: tuple[int, ...]
    reservation: Reservation | None
    generation: int = 0


def read_keys() -> Steps[tuple[int, ...]]:
    """The keys of all registered nexuses (SPC-4 6.15.2)."""
    return (yield from _read_keys()).keys


def read_reservation() -> Steps[Reservation | None]:
    """The reservation, or None (SPC-4 6.15.3)."""
    return (yield from _read_reservation()).reservation


def read_picture() -> Steps[Picture]:
    """The keys and the reservation, both at the same value of PRGENERATION.

    Raises:
        StepFailed: The logical unit does not answer, or its state changes during every reading.
    """
    for _ in range(_ROUNDS):
        keys = yield from _read_keys()
        held = yield from _read_reservation()
        if keys.generation == held.generation:
            return Picture(keys.keys, held.reservation, keys.generation)
    raise StepFailed(
        "READ KEYS and READ RESERVATION",
        "the registrations changed between READ KEYS and READ RESERVATION each time; try again",
    )


def _read_keys() -> Steps[ReadKeys]:
    step = "READ KEYS"
    response = yield from ask(in_command(InServiceAction.READ_KEYS), step)
    found = _decoded(ReadKeys.decode, response, step)
    if not found.complete:
        raise StepFailed(step, "READ KEYS returned an incomplete list, so the registrations are not known")
    return found


def _read_reservation() -> Steps[ReadReservation]:
    step = "READ RESERVATION"
    response = yield from ask(in_command(InServiceAction.READ_RESERVATION), step)
    return _decoded(ReadReservation.decode, response, step)


def read_full_status() -> Steps[FullStatus | None]:
    """Which I_T nexus has which key (SPC-4 6.15.5); None if the LUN does not report it, or reports only a
    part.
    """
    step = "READ FULL STATUS"
    command = in_command(InServiceAction.READ_FULL_STATUS)
    response = yield from ask_whole(command, lambda each: insist(each, step))
    if is_lacking(response):
        return None
    status = _decoded(FullStatus.decode, _good(response, step), step)
    return status if status.complete else None


def active_aptpl(otherwise: bool) -> Steps[bool]:
    """PTPL_A (SPC-4 6.15.4); ``otherwise`` if the LUN has no REPORT CAPABILITIES.

    Every REGISTER sets PTPL_A again for all nexuses, so a REGISTER that must change nothing carries the
    present value.
    """
    step = "REPORT CAPABILITIES"
    response = yield from insist(in_command(InServiceAction.REPORT_CAPABILITIES), step)
    if is_lacking(response):
        return otherwise
    return _decoded(Capabilities.decode, _good(response, step), step).ptpl_a


def identify() -> Steps[Designator]:
    """The designator by which any host knows this LUN (VPD page 83h, SPC-4 7.8.6)."""
    step = "INQUIRY VPD page 83h"
    response = yield from ask(page_command(VpdPage.DEVICE_IDENTIFICATION), step)
    designator = best_designator(_decoded(DeviceIdentification.decode, response, step).designators)
    if designator is None:
        raise StepFailed(step, "the LUN names itself by no NAA, EUI-64 or T10 designator")
    return designator


def _good(response: Response, step: str) -> Response:
    if response.good:
        return response
    raise StepFailed(step, f"the LUN answers {describe_response(response)}")


def _decoded(decode: Callable[[bytes], T], response: Response, step: str) -> T:
    try:
        return decode(response.data_in)
    except DecodeError as error:
        raise StepFailed(step, str(error)) from error
