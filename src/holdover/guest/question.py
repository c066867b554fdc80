"""Asking a logical unit who is registered and what is reserved.

Written as a generator: it yields commands and is sent their responses. Whoever drives it throws in what
kept a response from coming.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.opcodes import InServiceAction
from holdover.scsi.reservation_in import ReadKeys, ReadReservation, Reservation
from holdover.scsi.reservation_out import in_command
from holdover.scsi.sense import describe_response, is_unit_attention

__all__ = ["Picture", "QuestionError", "ask"]

_USUAL_LENGTH = 8192
_GREATEST_LENGTH = 65528  # the allocation length has 16 bits; keys come in eights
_ATTENTIONS = 16  # a logical unit queues a handful for one nexus; more is a fault of its own
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """What a logical unit said at one PRgeneration.

    Attributes:
        keys: The keys of all registered I_T nexuses.
        reservation: The reservation, or None.
        generation: PRGENERATION, 32 bits.
    """

    keys: tuple[int, ...]
    reservation: Reservation | None
    generation: int = 0


class QuestionError(Exception):
    """The logical unit did not say who is registered and what is reserved. Nothing was changed by asking."""


def ask(attention: Callable[[Response], None]) -> Generator[Command, Response, Picture]:
    """Read the keys and the reservation, at one and the same PRgeneration.

    Args:
        attention: Told of each unit attention that was met; it is cleared on the logical unit by that.

    Raises:
        QuestionError: The logical unit did not say.
    """
    try:
        for _ in range(_ROUNDS):
            keys = yield from _read_keys(attention)
            response = yield from _insist(in_command(InServiceAction.READ_RESERVATION), attention)
            held = ReadReservation.decode(response.data_in)
            if keys.generation == held.generation:
                return Picture(keys.keys, held.reservation, keys.generation)
    except DecodeError as error:
        raise QuestionError(str(error)) from error
    raise QuestionError("the registrations changed between every two questions")


def _read_keys(attention: Callable[[Response], None]) -> Generator[Command, Response, ReadKeys]:
    for length in (_USUAL_LENGTH, _GREATEST_LENGTH):
        response = yield from _insist(in_command(InServiceAction.READ_KEYS, length), attention)
        keys = ReadKeys.decode(response.data_in)
        if keys.complete:
            return keys
    raise QuestionError(f"READ KEYS data are longer than {_GREATEST_LENGTH} bytes")


def _insist(
    command: Command, attention: Callable[[Response], None]
) -> Generator[Command, Response, Response]:
    for _ in range(_ATTENTIONS):
        response = yield command
        if response.good:
            return response
        if not is_unit_attention(response):
            raise QuestionError(describe_response(response))
        attention(response)
    raise QuestionError(f"{_ATTENTIONS} unit attentions in a row")
