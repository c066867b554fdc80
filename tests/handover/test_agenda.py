"""What a handover handles next: news, ends of activities, requests, messages."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from holdover.handover.agenda import Activity, Agenda
from holdover.handover.lun_handover import LunHandover
from holdover.handover.protocol import HandoverEvent, Message
from holdover.handover.states import Event, MessageKind
from holdover.reservations.tracked import Tracked

COMMIT, ROLL_BACK, FINISH = map(
    HandoverEvent, (Event.ASKED_COMMIT, Event.ASKED_ROLL_BACK, Event.ASKED_FINISH)
)
DONE = HandoverEvent(Event.DONE)
What = HandoverEvent | Message


def message(number: int) -> Message:
    return Message(MessageKind.CLOSE, "h", "db1", number, ())


def allowing(*allowed: What) -> Callable[[What], bool]:
    return lambda what: what in allowed or isinstance(what, Message)


def agenda(activity: Activity = Activity.NONE) -> Agenda[str]:
    made: Agenda[str] = Agenda()
    made.activity = activity
    return made


def test_news_come_first_and_then_the_end_of_the_activity() -> None:
    made = agenda(Activity.WORK)
    made.ask(COMMIT, "operator")
    made.end(DONE)
    made.add_news(LunHandover("naa.1", tracked=Tracked(0xA)))
    made.add_news(LunHandover("naa.2", tracked=Tracked(0xA)))
    made.add_news(LunHandover("naa.1", tracked=Tracked(0xB)))
    news = made.next(allowing(COMMIT)).what
    assert isinstance(news, HandoverEvent)
    assert news.event is Event.CHANGED
    assert {lun.designator: lun.tracked.key for lun in news.luns} == {"naa.1": 0xB, "naa.2": 0xA}
    assert made.next(allowing(COMMIT)).what == DONE
    assert made.next(allowing(COMMIT)).what == COMMIT
    assert made.next(allowing(COMMIT)).what is None


def test_a_request_waits_for_work_and_not_for_a_pause_or_a_recheck() -> None:
    made = agenda(Activity.WORK)
    made.ask(COMMIT, "operator")
    turn = made.next(allowing(COMMIT))
    assert (turn.what, turn.refused) == (None, ())
    for activity in (Activity.PAUSE, Activity.RECHECK):
        made = agenda(activity)
        made.ask(FINISH, "too early")
        made.ask(COMMIT, "operator")
        turn = made.next(allowing(COMMIT))
        assert (turn.what, turn.refused) == (COMMIT, ()), "who comes too early waits on"
        assert made.accepted() == ("operator",)


def test_a_request_without_meaning_is_refused_when_nothing_is_under_way() -> None:
    made = agenda()
    made.ask(FINISH, "first")
    made.ask(COMMIT, "second")
    made.ask(ROLL_BACK, "third")
    turn = made.next(allowing(COMMIT))
    assert (turn.what, turn.refused) == (COMMIT, ((FINISH, "first"),))
    turn = made.next(allowing())
    assert (turn.what, turn.refused) == (None, ((ROLL_BACK, "third"),))


def test_those_whose_requests_were_taken_are_told_once() -> None:
    made = agenda()
    made.wait("only waits")
    made.ask(COMMIT, "operator")
    made.next(allowing(COMMIT))
    assert made.accepted() == ("only waits", "operator")
    assert made.accepted() == ()


def test_a_message_has_its_own_answer() -> None:
    made = agenda()
    made.ask(message(1), "source")
    made.ask(message(2), "source, again")
    assert made.next(allowing()).what == message(1)
    assert made.accepted() == ()
    made.activity = Activity.WORK
    assert made.next(allowing()).what is None
    assert made.answered() == "source"
    made.end(DONE)
    assert made.next(allowing()).what == DONE
    assert made.next(allowing()).what == message(2)


def test_a_handover_that_does_not_get_on_refuses_requests_and_keeps_messages() -> None:
    made = agenda(Activity.PAUSE)
    made.ask(COMMIT, "operator")
    made.ask(message(1), "source")
    assert made.refused() == ((COMMIT, "operator"),)
    assert made.next(allowing()).what == message(1)


def test_an_activity_that_was_given_up_has_no_end() -> None:
    made = agenda(Activity.RECHECK)
    made.end(DONE)
    made.drop_activity()
    assert made.next(allowing()).what is None


@given(st.lists(st.sampled_from(["commit", "finish", "message", "wait", "end", "work", "next", "told"])))
def test_everybody_gets_exactly_one_answer(steps: list[str]) -> None:
    made = agenda()
    asked: list[str] = []
    answered: list[str | None] = []
    for number, step in enumerate(steps):
        who = f"{step} {number}"
        match step:
            case "commit" | "finish":
                made.ask(COMMIT if step == "commit" else FINISH, who)
                asked.append(who)
            case "message":
                made.ask(message(number), who)
                asked.append(who)
            case "wait":
                made.wait(who)
                asked.append(who)
            case "work":
                made.activity = Activity.WORK
            case "end":
                made.end(DONE)
            case "told":
                answered += made.accepted()
            case _:
                turn = made.next(allowing(COMMIT))
                answered += [each for _, each in turn.refused]
                if isinstance(turn.what, Message):
                    answered.append(made.answered())
    answered += made.everybody()
    assert sorted(map(str, answered)) == sorted(asked)
    assert made.everybody() == ()
