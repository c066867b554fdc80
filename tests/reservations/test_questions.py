"""Asking the logical unit, by scripted answers."""

from __future__ import annotations

import pytest

from holdover.reservations.driver import run_sync
from holdover.reservations.questions import Picture, read_picture
from holdover.reservations.steps import ATTENTIONS, StepFailed
from holdover.scsi.cdbs.cdb import PersistentReserveIn, decode_cdb
from holdover.scsi.cdbs.opcodes import InServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_in import ReadKeys, ReadReservation, Reservation
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

ATTENTION = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.CAPACITY_DATA_HAS_CHANGED)
HELD = Reservation(5, ReservationType.WRITE_EXCLUSIVE)


def keys(generation: int, *values: int) -> Response:
    return Response(Status.GOOD, ReadKeys(generation, values).encode())


def held(generation: int, reservation: Reservation | None = HELD) -> Response:
    return Response(Status.GOOD, ReadReservation(generation, reservation).encode())


def put(answers: list[Response]) -> tuple[Picture, list[PersistentReserveIn]]:
    """The picture, and the commands that were sent."""
    sent: list[PersistentReserveIn] = []
    script = iter(answers)

    def answer(command: Command) -> Response:
        cdb = decode_cdb(command.cdb)
        assert isinstance(cdb, PersistentReserveIn)
        assert command.data_in_length == cdb.allocation_length
        sent.append(cdb)
        return next(script)

    picture = run_sync(read_picture(), answer)
    assert len(sent) == len(answers)
    return picture, sent


def test_keys_and_reservation() -> None:
    picture, sent = put([keys(3, 5, 6), held(3)])
    assert picture == Picture((5, 6), HELD, 3)
    assert [each.service_action for each in sent] == [
        InServiceAction.READ_KEYS,
        InServiceAction.READ_RESERVATION,
    ]
    assert put([keys(3), held(3, None)])[0] == Picture((), None, 3)


def test_a_command_that_meets_a_unit_attention_is_sent_again() -> None:
    picture, _ = put([ATTENTION, keys(3, 5), ATTENTION, ATTENTION, held(3)])
    assert picture == Picture((5,), HELD, 3)


def test_keys_that_were_cut_are_asked_for_with_more_room() -> None:
    many = keys(3, *range(1, 2000))
    cut = Response(Status.GOOD, many.data_in[:8192])
    picture, sent = put([cut, many, held(3)])
    assert len(picture.keys) == 1999
    assert [each.allocation_length for each in sent] == [8192, 8 + 8 * 1999, 8192]


def test_what_changed_between_the_questions_is_asked_again() -> None:
    assert put([keys(3, 5), held(4), keys(4, 6), held(4)])[0] == Picture((6,), HELD, 4)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([ATTENTION] * (ATTENTIONS + 1), "one unit attention after the other"),
        ([Response(Status.RESERVATION_CONFLICT)], "RESERVATION CONFLICT"),
        ([keys(3, 5), Response(Status.BUSY)], "BUSY"),
        ([Response(Status.GOOD, b"\0\0\0")], "READ KEYS data: length of 3 bytes"),
        ([keys(3, 5), Response(Status.GOOD, held(3).data_in[:20])], "READ RESERVATION data: length of 20"),
        ([Response(Status.GOOD, keys(3, *range(9000)).data_in[:65535])] * 2, "incomplete list"),
        (
            [keys(3), held(4), keys(5), held(6), keys(7), held(8), keys(9), held(10)],
            "changed between READ KEYS and READ RESERVATION",
        ),
    ],
)
def test_no_answer(answers: list[Response], problem: str) -> None:
    with pytest.raises(StepFailed, match=problem):
        put(answers)
