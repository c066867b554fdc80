"""What casts doubt on the picture."""

from __future__ import annotations

import pytest

from holdover.guest.staleness import (
    Generation,
    attention_of,
    casts_doubt,
    generation_read,
    is_unexplained_conflict,
)
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import ParameterList, in_command, out_command
from holdover.scsi.sense import AdditionalSense, Sense, SenseKey, check_condition
from holdover.scsi.status import Status

WE, EA = ReservationType.WRITE_EXCLUSIVE, ReservationType.EXCLUSIVE_ACCESS
OUT = OutServiceAction


def taken_apart(command: Command) -> tuple[PersistentReserveOut, ParameterList]:
    return PersistentReserveOut.decode(command.cdb), ParameterList.decode(command.data_out)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (Response(Status.GOOD), None),
        (Response(Status.CHECK_CONDITION), None),
        (check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.RESERVATIONS_RELEASED), None),
        (
            Response(
                Status.CHECK_CONDITION,
                sense=Sense(
                    SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_RELEASED, deferred=True
                ).encode(),
            ),
            None,
        ),
        (check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_RELEASED), 0x2A04),
    ],
)
def test_attention_of(response: Response, expected: int | None) -> None:
    assert attention_of(response) == expected


@pytest.mark.parametrize(
    ("attention", "registered", "unregistered"),
    [
        (0x2A03, True, True),
        (0x2A04, True, True),
        (0x2A05, True, True),
        (0x2A09, False, False),
        (0x2900, True, False),
        (0x2901, True, False),
        (0x2904, True, False),
        (0x2902, False, False),
        (0x2903, False, False),
        (0x2907, False, False),
    ],
)
def test_unit_attentions_that_cast_doubt(attention: int, registered: bool, unregistered: bool) -> None:
    assert casts_doubt(attention, Tracked(5, aptpl=True)) is registered
    assert casts_doubt(attention, Tracked()) is unregistered


@pytest.mark.parametrize(
    ("tracked", "command", "unexplained"),
    [
        (Tracked(), out_command(OUT.REGISTER, 0, 5), True),
        (Tracked(), out_command(OUT.REGISTER, 4, 5), False),
        (Tracked(5), out_command(OUT.REGISTER, 0, 5), False),
        (Tracked(5), out_command(OUT.REGISTER, 5, 6), True),
        (Tracked(5), out_command(OUT.REGISTER_AND_IGNORE_EXISTING_KEY, 9, 6), True),
        (Tracked(), out_command(OUT.RESERVE, 0, type=WE), False),
        (Tracked(5), out_command(OUT.RESERVE, 5, type=WE), True),
        (Tracked(5, type=WE), out_command(OUT.RESERVE, 5, type=WE), True),
        (Tracked(5, type=EA), out_command(OUT.RESERVE, 5, type=WE), False),
        (Tracked(5, type=EA), out_command(OUT.RELEASE, 5, type=WE), True),
        (Tracked(5), out_command(OUT.CLEAR, 6), False),
        (Tracked(5), out_command(OUT.CLEAR, 5), True),
        (Tracked(5), out_command(OUT.PREEMPT, 5, 6, type=WE), True),
    ],
)
def test_conflicts(tracked: Tracked, command: Command, unexplained: bool) -> None:
    assert is_unexplained_conflict(tracked, *taken_apart(command)) is unexplained


def observe(generation: Generation, value: int) -> bool:
    return generation.observe(InServiceAction.READ_KEYS, ReadKeys(value, ()).encode())


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        (out_command(OUT.REGISTER, 0, 5), {1}),
        (out_command(OUT.REGISTER, 5, 0), {0, 1}),
        (out_command(OUT.REGISTER, 0, 0), {0, 1}),
        (out_command(OUT.REGISTER_AND_IGNORE_EXISTING_KEY, 9, 0), {0, 1}),
        (out_command(OUT.REGISTER_AND_IGNORE_EXISTING_KEY, 9, 5), {1}),
        (out_command(OUT.RESERVE, 5, type=WE), {0}),
        (out_command(OUT.RELEASE, 5, type=WE), {0}),
        (out_command(OUT.CLEAR, 5), {1}),
        (out_command(OUT.PREEMPT, 5, 6, type=WE), {1}),
        (out_command(OUT.PREEMPT_AND_ABORT, 5, 6, type=WE), {1}),
    ],
)
@pytest.mark.parametrize("start", [0, 7, 0xFFFFFFFF])
def test_how_far_a_command_of_the_guest_moves_the_generation(
    start: int, command: Command, allowed: set[int]
) -> None:
    for moved in (-1, 0, 1, 2):
        generation = Generation()
        generation.know(start)
        assert not observe(generation, start)
        generation.explain(*taken_apart(command))
        assert observe(generation, (start + moved) & 0xFFFFFFFF) is (moved not in allowed)
        assert not observe(generation, (start + moved) & 0xFFFFFFFF)


def test_what_there_is_nothing_to_compare_with_may_be_of_others() -> None:
    generation = Generation()
    assert not generation.is_known
    assert observe(generation, 1)
    assert not observe(generation, 1)
    generation.know(None)
    generation.explain(*taken_apart(out_command(OUT.REGISTER, 0, 5)))
    assert not generation.is_known
    assert observe(generation, 2)
    assert generation.is_known
    generation.know(9)
    assert not observe(generation, 9)
    assert observe(generation, 10)


@pytest.mark.parametrize(
    ("command", "data", "expected"),
    [
        (in_command(InServiceAction.READ_KEYS), ReadKeys(7, (1,)).encode(), 7),
        (in_command(InServiceAction.READ_FULL_STATUS), bytes([0, 0, 1, 0]), 256),
        (in_command(InServiceAction.READ_RESERVATION), b"\0\0\0", None),
        (in_command(InServiceAction.REPORT_CAPABILITIES), bytes(8), None),
        (out_command(OUT.REGISTER, 0, 5), bytes(8), None),
        (Command(b"\x5e"), bytes(8), None),
    ],
)
def test_the_generation_that_a_command_has_read(command: Command, data: bytes, expected: int | None) -> None:
    assert generation_read(command, data) == expected


@pytest.mark.parametrize(
    ("action", "data"),
    [(InServiceAction.REPORT_CAPABILITIES, bytes(8)), (InServiceAction.READ_KEYS, b"\0\0\0"), (31, bytes(8))],
)
def test_what_has_no_generation(action: int, data: bytes) -> None:
    generation = Generation()
    generation.know(1)
    assert not generation.observe(action, data)
    assert not observe(generation, 1)
