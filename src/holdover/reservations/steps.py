"""Steps: questions and commands to a logical unit as generators, and one command of them at a time.

A generator of steps yields a command and is sent its response. If no response came, `AnswerLost` is thrown
into it: the command may have been carried out, or not. Then the steps ask the logical unit, or they repeat a
command whose repetition shows what is true.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from holdover.scsi.allocation import ask_whole
from holdover.scsi.cdbs.cdb import TestUnitReady
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.path import AnswerLost
from holdover.scsi.sense import (
    AdditionalSense,
    Sense,
    SenseKey,
    decode_sense,
    describe_response,
    is_unit_attention,
)
from holdover.scsi.status import Status

T = TypeVar("T")
Steps = Generator[Command, Response, T]

ATTEMPTS = 12
"""The number of times that one command is sent in all, if its answers are lost."""

ATTENTIONS = 16
"""The number of unit attentions in a row that one command may meet.

A logical unit queues only a few for one I_T nexus (SAM-5 5.14), so more than this is an error of the logical
unit.
"""


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
    """Whether the LUN has not carried out a command, but will if the command is sent again a little later.

    BUSY and TASK SET FULL (SAM-5 5.3.1), and NOT READY while it becomes ready or its controllers change over.
    """
    sense = _sense_of(response)
    if sense is None:
        return response.status in _WAIT
    return sense.key is SenseKey.NOT_READY and sense.additional in _TRANSITIONS


def is_in_doubt(response: Response) -> bool:
    """Whether a command may have been carried out although its answer is not GOOD: ABORTED COMMAND, for
    instance after a reset or from a controller that gave the command up; TASK ABORTED; HARDWARE ERROR.
    """
    if response.status is Status.TASK_ABORTED:
        return True
    sense = _sense_of(response)
    return sense is not None and sense.key in (SenseKey.ABORTED_COMMAND, SenseKey.HARDWARE_ERROR)


def is_lacking(response: Response) -> bool:
    """Whether the LUN says that it does not support what was asked for."""
    sense = _sense_of(response)
    return sense is not None and sense.key is SenseKey.ILLEGAL_REQUEST


def _sense_of(response: Response) -> Sense | None:
    if response.status is not Status.CHECK_CONDITION:
        return None
    try:
        return decode_sense(response.sense)
    except DecodeError:
        return None


def past_attentions(command: Command, step: str) -> Steps[Response]:
    """Send ``command`` until it meets no unit attention. A command that meets one was not carried out (SAM-5
    5.14).

    Raises:
        AnswerLost: The last answer was lost.
        StepFailed: More unit attentions came than a logical unit can have for one nexus.
    """
    for _ in range(ATTENTIONS + 1):
        response = yield command
        if not is_unit_attention(response):
            return response
    raise StepFailed(step, "the LUN answers with one unit attention after the other")


def tell(command: Command, step: str) -> Steps[Response | None]:
    """Send ``command`` past unit attentions. Returns the response; None if the answer was lost."""
    try:
        return (yield from past_attentions(command, step))
    except AnswerLost:
        return None


def insist(command: Command, step: str) -> Steps[Response]:
    """Send a command that may run twice, until an answer comes."""
    for _ in range(ATTEMPTS):
        response = yield from tell(command, step)
        if response is not None:
            return response
    raise StepFailed(
        step, "no answer came to repeated commands; it is not known whether the LUN carried them out"
    )


def ask(command: Command, step: str) -> Steps[Response]:
    """Send a command that changes nothing, until it ends in GOOD with complete data."""
    return (yield from ask_whole(command, lambda each: _ask(each, step)))


def _ask(command: Command, step: str) -> Steps[Response]:
    response = yield from insist(command, step)
    if response.good:
        return response
    raise StepFailed(step, f"the LUN answers {describe_response(response)}")


def settle() -> Steps[None]:
    """Clear the pending unit attentions of this nexus. Any other answer to TEST UNIT READY is ignored."""
    yield from insist(Command(TestUnitReady().encode()), "TEST UNIT READY")
