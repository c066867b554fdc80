"""How the answers of agents become one picture."""

from __future__ import annotations

import pytest

from holdover.fleet.documents import Severity
from holdover.fleet.picture import HostAnswer, picture, place_of
from tests.fleet.sites import LUN, answer, device, guest, handover, host, migration


@pytest.mark.parametrize(
    ("gates", "place"),
    [
        ((), "without disks"),
        (("running", "running"), "here"),
        (("running", "incoming"), "arriving"),
        (("leaving",), "leaving"),
        (("departed",), "elsewhere"),
        (("QEMU's own",), "QEMU's own"),
    ],
)
def test_a_guest_is_where_its_gates_say(gates: tuple[str, ...], place: str) -> None:
    assert place_of(guest("host-a", *map(device, gates))) == place


def test_a_lun_is_there_once_with_all_its_guests() -> None:
    here = guest("host-a", device())
    there = guest("host-b", device("departed", key=None, kind=None))
    fleet = picture([answer(host("host-a", here)), answer(host("host-b", there))], 1.0)
    (lun,) = fleet.luns
    assert (lun.designator, lun.type_name) == (LUN, "wero")
    assert [(each.host, each.holds) for each in lun.users] == [("host-a", True), ("host-b", False)]
    assert [(each.guests, each.running) for each in fleet.hosts] == [(1, 1), (1, 0)]
    assert fleet.alarms == ()


def test_a_migration_and_its_handover_are_one_move() -> None:
    both = answer(
        host("host-a", guest("host-a", device())),
        migrations=(migration(),),
        handovers=(handover(handover_id="m1"),),
    )
    (move,) = picture([both], 1.0).moves
    assert (move.id, move.state, move.progress) == ("m1", "copying", 0.75)


def test_both_sides_of_a_handover_are_one_move_in_the_words_of_the_source() -> None:
    sides = [
        answer(host("host-b"), handovers=(handover("destination", state="ready"),)),
        answer(host("host-a"), handovers=(handover(),)),
    ]
    (move,) = picture(sides, 1.0).moves
    assert (move.source, move.destination, move.state) == ("host-a", "host-b", "prepared")
    (alone,) = picture(sides[:1], 1.0).moves
    assert (alone.source, alone.destination, alone.state) == ("host-a", "host-b", "ready")


def test_open_moves_come_first() -> None:
    ended = migration("done", open=False, migration_id="m0", began=99.0)
    moves = picture([answer(host("host-a"), migrations=(ended, migration()))], 1.0).moves
    assert [each.id for each in moves] == ["m1", "m0"]


def test_what_is_in_doubt_comes_before_warnings_with_its_next_command() -> None:
    doubtful = handover(in_doubt=True, problem="the LUN does not answer", state="hearing")
    stale = guest("host-a", device(stale=True, report="a key that nobody knows"))
    answers = [
        answer(host("host-a", stale, warnings=("the certificate ends soon",)), handovers=(doubtful,)),
        HostAnswer("host-b:8471", "host-b", problem="cannot connect"),
    ]
    alarms = picture(answers, 1.0).alarms
    assert [each.severity for each in alarms] == [Severity.URGENT] * 2 + [Severity.WARNING] * 3
    assert alarms[0].next == "holdover handover status db1 --at host-a:8471"
    assert "it is not known where its reservations are; the LUN does not answer" in alarms[0].text
    assert alarms[1].host == "host-b"


def test_a_guest_that_is_open_twice_is_an_alarm() -> None:
    twice = [answer(host(name, guest(name, device()))) for name in ("host-a", "host-b")]
    (alarm,) = picture(twice, 1.0).alarms
    assert "open on host-a, host-b" in alarm.text


def test_a_migration_that_is_held_up_is_an_alarm_and_an_ended_one_is_not() -> None:
    held = migration(problem="QEMU does not answer", next="holdover migrate attach db1")
    ended = migration(open=False, problem="look at QEMU's log")
    assert [each.next for each in picture([answer(host("a"), migrations=(held,))], 1.0).alarms] == [held.next]
    assert picture([answer(host("a"), migrations=(ended,))], 1.0).alarms == ()
