"""StatSN and the window of CmdSN."""

from __future__ import annotations

from holdover.iscsi.target.protocol.numbers import TargetNumbers


def test_the_window_moves_as_commands_end() -> None:
    numbers = TargetNumbers(3)
    numbers.exp_cmd_sn = 0xFFFFFFFF
    assert numbers.max_cmd_sn == 1
    assert [numbers.ahead(cmd_sn) for cmd_sn in (0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 2)] == [None, 0, 1, 2, None]
    numbers.advance()
    numbers.open_commands += 1
    # It never moves back: a command that has come takes the place that it had in the window.
    assert (numbers.exp_cmd_sn, numbers.max_cmd_sn) == (0, 1)
    numbers.open_commands -= 1
    assert numbers.max_cmd_sn == 2


def test_a_window_without_room_takes_nothing() -> None:
    numbers = TargetNumbers(1)
    numbers.open_commands = 1
    assert numbers.max_cmd_sn == 0xFFFFFFFF
    assert numbers.ahead(0) is None


def test_each_status_has_its_number() -> None:
    numbers = TargetNumbers(2)
    numbers.stat_sn = 0xFFFFFFFF
    assert numbers.next_status() == (0xFFFFFFFF, 0, 1)
    assert numbers.next_stat_sn() == 0
