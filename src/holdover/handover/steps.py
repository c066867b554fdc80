"""Single commands to a LUN, and what their answers say: of what all work of a handover is made.

A step is a generator: it yields a command and is sent the answer. An answer that never came (`AnswerLost`
of the runner is thrown in as `LostAnswer`) is neither failure nor success: then the LUN is asked, or a
command is repeated whose repetition shows what is true.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from holdover.guest.scsi_block import Tracked
from holdover.scsi.cdb import Inquiry, TestUnitReady
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import Designator, DeviceIdentification, best_designator
from holdover.scsi.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.reservation_in import Capabilities, ReadKeys, ReadReservation, Reservation
from holdover.scsi.reservation_out import in_command, out_command
from holdover.scsi.sense import (
    AdditionalSense,
    Sense,
    SenseKey,
    decode_sense,
    describe_response,
    is_unit_attention,
)
from holdover.scsi.status import Status

__all__ = [
    "ATTEMPTS",
    "LostAnswer",
    "StepFailed",
    "Steps",
    "active_aptpl",
    "ask",
    "change_key",
    "identify",
    "is_in_doubt",
    "is_lacking",
    "is_not_now",
    "own_key",
    "read_keys",
    "read_reservation",
    "register_key",
    "settle",
    "tell",
    "which_key",
]

T = TypeVar("T")
Steps = Generator[Command, Response, T]

ATTEMPTS = 12
"""How often one command is sent in all: unit attentions come one at a time, answers get lost."""

_MAX_LENGTH = 65535
_DEVICE_IDENTIFICATION = 0x83


class LostAnswer(Exception):
    """Thrown into a step by its runner: the command was sent and its answer never came."""


class StepFailed(Exception):
    """A step could not be done.

    Attributes:
        step: The step's name ("REGISTER").
        problem: What happened and what is true now.
    """

    def __init__(self, step: str, problem: str) -> None:
        super().__init__(f"{step}: {problem}")
        self.step = step
        self.problem = problem


_WAIT = frozenset({Status.BUSY, Status.TASK_SET_FULL})
_TRANSITIONS = frozenset(
    {
        AdditionalSense.LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY,
        AdditionalSense.LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION,
    }
)


def is_not_now(response: Response) -> bool:
    """Whether the LUN has not carried a command out, and will when it is sent again a little later.

    BUSY and TASK SET FULL (SAM-5 5.3.1), and NOT READY while it becomes ready or its controllers change over.
    """
    sense = _sense_of(response)
    if sense is None:
        return response.status in _WAIT
    return sense.key is SenseKey.NOT_READY and sense.additional in _TRANSITIONS


def is_in_doubt(response: Response) -> bool:
    """Whether a command may have been carried out although it was not answered GOOD: ABORTED COMMAND, as of a
    reset or a controller that gave it up, TASK ABORTED, and errors of the hardware."""
    if response.status is Status.TASK_ABORTED:
        return True
    sense = _sense_of(response)
    return sense is not None and sense.key in (SenseKey.ABORTED_COMMAND, SenseKey.HARDWARE_ERROR)


def _sense_of(response: Response) -> Sense | None:
    if response.status is not Status.CHECK_CONDITION:
        return None
    try:
        return decode_sense(response.sense)
    except DecodeError:
        return None


def tell(command: Command, step: str) -> Steps[Response | None]:
    """Send ``command`` past unit attentions; None when its answer was lost."""
    for _ in range(ATTEMPTS):
        try:
            response = yield command
        except LostAnswer:
            return None
        if not is_unit_attention(response):
            return response
    raise StepFailed(step, "the LUN answers with one unit attention after the other")


def ask(command: Command, step: str) -> Steps[Response]:
    """Send a command that changes nothing until it is answered GOOD."""
    for _ in range(ATTEMPTS):
        response = yield from tell(command, step)
        if response is None:
            continue
        if response.good:
            return response
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    raise StepFailed(step, "the LUN's answers are lost again and again")


def read_keys() -> Steps[tuple[int, ...]]:
    """The keys of all registered nexuses (SPC-4 6.15.2)."""
    step = "READ KEYS"
    response = yield from ask(in_command(InServiceAction.READ_KEYS, _MAX_LENGTH), step)
    try:
        found = ReadKeys.decode(response.data_in)
    except DecodeError as error:
        raise StepFailed(step, str(error)) from error
    if not found.complete:
        raise StepFailed(step, "the list of keys is cut short, so who is registered is not known")
    return found.keys


def read_reservation() -> Steps[Reservation | None]:
    """The reservation, or None (SPC-4 6.15.3)."""
    step = "READ RESERVATION"
    response = yield from ask(in_command(InServiceAction.READ_RESERVATION, _MAX_LENGTH), step)
    try:
        return ReadReservation.decode(response.data_in).reservation
    except DecodeError as error:
        raise StepFailed(step, str(error)) from error


def settle() -> Steps[None]:
    """Clear the unit attentions pending for this nexus; what else TEST UNIT READY says is no matter."""
    for _ in range(ATTEMPTS):
        try:
            response = yield Command(TestUnitReady().encode())
        except LostAnswer:
            continue
        if not is_unit_attention(response):
            return
    raise StepFailed("TEST UNIT READY", "the LUN answers with one unit attention after the other")


def identify() -> Steps[Designator]:
    """The designator by which any host knows this LUN (VPD page 83h, SPC-4 7.8.6)."""
    step = "INQUIRY VPD page 83h"
    cdb = Inquiry(_MAX_LENGTH, _DEVICE_IDENTIFICATION).encode()
    response = yield from ask(Command(cdb, data_in_length=_MAX_LENGTH), step)
    try:
        page = DeviceIdentification.decode(response.data_in)
    except DecodeError as error:
        raise StepFailed(step, str(error)) from error
    designator = best_designator(page.designators)
    if designator is None:
        raise StepFailed(step, "the LUN names itself by no NAA, EUI-64 or T10 designator")
    return designator


def own_key(tracked: Tracked, candidates: tuple[int, ...]) -> Steps[int]:
    """Which of ``candidates`` (0 is left out) this nexus is registered with; 0 when it is not registered.

    REGISTER with a key as both keys changes nothing where it stands on this nexus and conflicts where it does
    not; with 0 as both keys it is GOOD exactly on a nexus that is not registered (SPC-4 5.13.7).

    Raises:
        StepFailed: It is registered with a key that is none of these, or the LUN refuses.
    """
    key = yield from which_key(tracked, candidates)
    if key:
        return key
    step = "REGISTER (probe)"
    nothing = yield from _probe(out_command(OutServiceAction.REGISTER, 0, 0), step)
    if nothing.good:
        return 0
    raise StepFailed(
        step,
        "this host's nexus is registered with a key that is not the guest's: another guest's, or one that "
        "was not registered through Holdover; nothing was changed by this step",
    )


def which_key(tracked: Tracked, candidates: tuple[int, ...]) -> Steps[int]:
    """Which of ``candidates`` (0 is left out) this nexus is registered with; 0: none of them, be it that it
    is not registered or that it has a key that is none of our business."""
    for key in dict.fromkeys(candidates):
        if key != 0:
            same = out_command(OutServiceAction.REGISTER, key, key, aptpl=tracked.aptpl)
            if (yield from _probe(same, "REGISTER (probe)")).good:
                return key
    return 0


def _probe(command: Command, step: str) -> Steps[Response]:
    """Send a REGISTER that may run twice until it is answered GOOD or RESERVATION CONFLICT."""
    for _ in range(ATTEMPTS):
        response = yield from tell(command, step)
        if response is None:
            continue
        if response.good or response.status is Status.RESERVATION_CONFLICT:
            return response
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    raise StepFailed(step, "the LUN's answers are lost again and again")


def register_key(tracked: Tracked, key: int) -> Steps[None]:
    """Register ``key`` on this nexus, which is not registered; done when it has ``key`` already.

    Raises:
        StepFailed: It is registered with another key, or the LUN refuses.
    """
    step = "REGISTER"
    fresh = out_command(OutServiceAction.REGISTER, 0, key, aptpl=tracked.aptpl)
    again = out_command(OutServiceAction.REGISTER, key, key, aptpl=tracked.aptpl)
    for _ in range(ATTEMPTS):
        for command in (fresh, again):
            response = yield from tell(command, step)
            if response is None:
                break
            if response.good:
                return
            if response.status is not Status.RESERVATION_CONFLICT:
                raise StepFailed(step, f"the LUN answers {describe_response(response)}")
        else:
            raise StepFailed(
                step,
                "this host's nexus is registered on the LUN with another key, perhaps another guest's; "
                "nothing was changed",
            )
    raise StepFailed(step, "the LUN's answers are lost again and again; whether it registered is in doubt")


def change_key(tracked: Tracked, key: int, new_key: int, step: str) -> Steps[None]:
    """REGISTER ``key`` -> ``new_key`` (0: unregister) on this nexus; done when it was done before."""
    change = out_command(OutServiceAction.REGISTER, key, new_key, aptpl=tracked.aptpl)
    # with RK 0 and SARK 0 GOOD means: not registered, which is what 0 asks for
    done = out_command(OutServiceAction.REGISTER, new_key, new_key, aptpl=tracked.aptpl)
    for _ in range(ATTEMPTS):
        response = yield from tell(change, step)
        if response is None:
            continue
        if response.good:
            return
        if response.status is Status.RESERVATION_CONFLICT:
            repeated = yield from tell(done, step)
            if repeated is None:
                continue
            if repeated.good:
                return
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    raise StepFailed(step, "the LUN's answers are lost again and again; the registration is in doubt")


def active_aptpl(otherwise: bool) -> Steps[bool]:
    """PTPL_A (SPC-4 6.15.4), or what is said here where the LUN has no REPORT CAPABILITIES.

    Every REGISTER sets it anew for all nexuses, so one that is to change nothing must repeat it.
    """
    step = "REPORT CAPABILITIES"
    command = in_command(InServiceAction.REPORT_CAPABILITIES)
    for _ in range(ATTEMPTS):
        response = yield from tell(command, step)
        if response is None:
            continue
        if is_lacking(response):
            return otherwise
        if not response.good:
            raise StepFailed(step, f"the LUN answers {describe_response(response)}")
        try:
            return Capabilities.decode(response.data_in).ptpl_a
        except DecodeError as error:
            raise StepFailed(step, str(error)) from error
    raise StepFailed(step, "the LUN's answers are lost again and again")


def is_lacking(response: Response) -> bool:
    """Whether the LUN says that it does not have what was asked for."""
    sense = _sense_of(response)
    return sense is not None and sense.key is SenseKey.ILLEGAL_REQUEST
