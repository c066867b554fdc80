"""Whole answers: no question begins with a length that anybody refuses, and none goes on without need."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.reservations.driver import run_sync
from holdover.scsi.allocation import ask_whole, page_command, with_more_room
from holdover.scsi.cdbs.cdb import Inquiry, PersistentReserveIn, Read, decode_cdb
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import VpdPage
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

REFUSED = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
KEYS = in_command(InServiceAction.READ_KEYS)
PAGE = page_command(VpdPage.DEVICE_IDENTIFICATION)


def once(command: Command) -> Generator[Command, Response, Response]:
    return (yield command)


def whole(command: Command, data: list[bytes], most: int = 0xFFFF) -> tuple[Response, list[int]]:
    """The answer of a device that has ``data``, one after the other, and refuses more than ``most`` bytes;
    the lengths that it was asked for."""
    lengths: list[int] = []

    def answer(sent: Command) -> Response:
        cdb = decode_cdb(sent.cdb)
        assert isinstance(cdb, PersistentReserveIn | Inquiry)
        length = cdb.allocation_length
        assert sent.data_in_length == length
        now = data[min(len(lengths), len(data) - 1)]
        lengths.append(length)
        return REFUSED if length > most else Response(Status.GOOD, now[:length])

    return run_sync(ask_whole(command, once), answer), lengths


def keys(count: int) -> bytes:
    return ReadKeys(7, tuple(range(count))).encode()


def page(length: int) -> bytes:
    return bytes([0, 0x83]) + length.to_bytes(2, "big") + bytes(length)


@given(st.integers(0, 8190))
def test_what_fits_is_asked_for_once_and_what_does_not_once_more(count: int) -> None:
    response, lengths = whole(KEYS, [keys(count)])
    assert response.data_in == keys(count)
    assert lengths == ([8192] if count <= 1023 else [8192, 8 + 8 * count])


@given(st.integers(0, 65531))
def test_pages_of_vital_product_data(length: int) -> None:
    response, lengths = whole(PAGE, [page(length)])
    assert response.data_in == page(length)
    assert lengths == ([255] if length <= 251 else [255, 4 + length])


@given(st.lists(st.integers(0, 12000).map(keys), min_size=1, max_size=6))
def test_data_that_grow_while_they_are_read_are_read_again(data: list[bytes]) -> None:
    response, lengths = whole(KEYS, data)
    assert lengths == sorted(set(lengths))
    assert len(response.data_in) <= 65535
    last = data[min(len(lengths), len(data)) - 1]
    assert response.data_in == last[:65535]


def test_who_refuses_more_than_8192_bytes_is_asked_for_more_only_where_there_is_more() -> None:
    assert whole(KEYS, [keys(1023)], most=8192) == (Response(Status.GOOD, keys(1023)), [8192])
    assert whole(KEYS, [keys(1024)], most=8192) == (REFUSED, [8192, 8200])


@pytest.mark.parametrize(
    ("command", "response"),
    [
        (KEYS, REFUSED),
        (KEYS, Response(Status.GOOD, keys(2000)[:7])),
        (PAGE, Response(Status.GOOD, page(2000)[:3])),
        # the first four bytes of what a device can do are no length to ask for
        (in_command(InServiceAction.REPORT_CAPABILITIES), Response(Status.GOOD, b"\0\x08" + b"\xff" * 6)),
        (Command(Inquiry(36).encode(), data_in_length=36), Response(Status.GOOD, b"\xff" * 36)),
        (Command(Read(0, 1).encode(), data_in_length=512), Response(Status.GOOD, b"\xff" * 512)),
        (Command(b"\x5e"), Response(Status.GOOD, b"\xff" * 512)),
    ],
)
def test_nothing_to_ask_for_again(command: Command, response: Response) -> None:
    assert with_more_room(command, response) is None
