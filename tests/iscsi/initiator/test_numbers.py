"""CmdSN, ExpStatSN, and the window of the target."""

from __future__ import annotations

import pytest

from holdover.iscsi.initiator.numbers import InitiatorNumbers


def begun(room: int) -> InitiatorNumbers:
    numbers = InitiatorNumbers()
    numbers.begin(room)
    return numbers


def test_each_command_takes_a_place_in_the_window() -> None:
    numbers = begun(2)
    assert numbers.room == 2
    assert [numbers.next_cmd_sn(), numbers.next_cmd_sn()] == [1, 2]
    assert numbers.room == 0
    assert numbers.note_status(7, 2, 3)
    assert (numbers.room, numbers.exp_stat_sn) == (1, 8)
    assert not numbers.note_status(8, 2, 3)
    assert (numbers.room, numbers.exp_stat_sn) == (1, 9)


@pytest.mark.parametrize(("exp_cmd_sn", "max_cmd_sn"), [(1, 1), (5, 3)])
def test_the_window_never_goes_back_and_is_never_negative(exp_cmd_sn: int, max_cmd_sn: int) -> None:
    numbers = begun(2)
    assert not numbers.note_window(exp_cmd_sn, max_cmd_sn)
    assert numbers.room == 2


def test_numbers_begin_anew_after_the_last_one() -> None:
    numbers = InitiatorNumbers()
    numbers.cmd_sn = 0xFFFFFFFF
    numbers.begin(0xFFFFFFFF)
    assert numbers.next_cmd_sn() == 0xFFFFFFFF
    assert numbers.note_status(0xFFFFFFFF, 0, 1)
    assert (numbers.room, numbers.cmd_sn, numbers.exp_stat_sn) == (2, 0, 0)
