"""A device whose paths fail and come back, between two commands and in the middle of one, is one nexus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.paths.multipath_steps import Send
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import decode_sense, is_unit_attention
from tests.lun.support import TEST_UNIT_READY, make_unit
from tests.paths.multipath_device import (
    BUSY,
    CLEAR,
    GOOD,
    IGNORE,
    ONE,
    OTHER,
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    THIRD,
    WE_RO,
    K,
    L,
    four,
    held,
    past_attentions,
)


@dataclass(frozen=True)
class Event:
    """What becomes of a path when the device sends its ``at``-th command for a path.

    ``how``: "unsent", the path that is to carry it out has failed; "lost", it fails before it has answered;
    "undone", the same before it has carried it out; "back", a path that was away comes back; "busy", the
    logical unit answers BUSY, and carries nothing out.
    """

    at: int
    how: str


class Story:
    """A device whose paths go and come back, beside one nexus for which the same is done."""

    def __init__(self, *, by_port: bool, third: int, known: bool) -> None:
        self.device = four(by_port=by_port, known=known)
        self.single = make_unit()
        self.known = known
        self.unheard = False
        self.told: set[int] = set()
        self.due: set[int] = set()
        self.events: list[Event] = []
        self.sent = 0
        self.device.before = self._count
        self.device.fails = self._fail
        self.device.instead = self._undo
        self.failing: Event | None = None
        for unit in (self.device.unit, self.single):
            command = out_command(REGISTER, 0, third)
            assert past_attentions(partial(unit.execute, OTHER), command).good

    def _count(self, request: Send) -> None:
        due = [each for each in self.events if each.at == self.sent]
        self.sent += 1
        if request.path in self.device.down:
            self.failing = Event(self.sent, "unsent")
            return
        self.failing = next((each for each in due if each.how != "back"), None)
        if any(each.how == "back" for each in due) and self.device.down:
            self.device.come_back(min(self.device.down))

    def _fail(self, request: Send) -> PathError | None:
        if self.failing is None or self.failing.how == "busy":
            return None
        self.device.fail(request.path)
        kind = PathError if self.failing.how == "unsent" else AnswerLost
        return kind("sdx", "gone")

    def _undo(self, _: Send) -> Response | None:
        instead = {"undone": GOOD, "busy": BUSY}
        return None if self.failing is None else instead.get(self.failing.how)

    def other(self, command: Command) -> None:
        """The other initiator does the same to both."""
        answers = [
            past_attentions(partial(unit.execute, OTHER), command) for unit in (self.device.unit, self.single)
        ]
        assert answers[0] == answers[1]
        if self.single.state.key_of(ONE) == 0:
            # who is removed by another node: multipathd is not told, and registers a path that comes back if
            # its key is that other node's too (docs/develop/design.md)
            self.device.kept = None

    def run(self, command: Command, events: list[Event]) -> bool:
        """The guest's command; whether the story goes on."""
        device = self.device
        if len(device.down) == len(device.nexuses):
            self.come_back(0)
        self.unheard |= bool(events)
        self.events, self.sent = events, 0
        before, away = self.picture(), bool(device.down)
        shared = self.single.state.key_of(OTHER) == self.single.state.key_of(ONE)
        try:
            answer = self._past_attentions(command)
        except AnswerLost:
            assert events, "nothing was lost"
            self._check_the_third(command)
            return False
        except PathError:
            assert self.picture() == before, "refused, and nothing is changed"
            assert events or (away and (shared or not self.known)), "refused without need"
            return True
        finally:
            self.events = []
        if answer == BUSY:
            assert self.picture() == before, "answered BUSY, and nothing is changed"
            assert any(each.how == "busy" for each in events)
            return True
        assert answer == self._single(command)
        self._check_what_is_told()
        self.check()
        return True

    def _past_attentions(self, command: Command) -> Response:
        while is_unit_attention(response := self.device.run(command)):
            self.told.add(decode_sense(response.sense).additional)
        return response

    def _single(self, command: Command) -> Response:
        while is_unit_attention(response := self.single.execute(ONE, command)):
            self.due.add(decode_sense(response.sense).additional)
        return response

    def _check_what_is_told(self) -> None:
        if not self.told <= self.due:
            self._single(TEST_UNIT_READY)  # it may be due, and a conflict have come first
        assert self.told <= self.due, "the guest is told of its own doing"

    def come_back(self, path: int) -> None:
        """A path is back. What it was to be told multipathd's checker has heard."""
        self.unheard = True
        self.device.come_back(path)

    def end(self) -> None:
        """What another node has done to it, the guest has heard."""
        self._past_attentions(TEST_UNIT_READY)
        self._check_what_is_told()
        self._single(TEST_UNIT_READY)
        assert self.unheard or self.told == self.due

    def picture(self) -> Any:
        """The device as one nexus: its key, what it holds, and the other initiator's key."""
        state = self.device.unit.state
        ours = {state.key_of(each) for each in self.device.nexuses} - {0}
        return ours, self.device.held(), self._holds(), state.key_of(OTHER)

    def _holds(self) -> bool:
        return any(self.device.unit.state.holds(each) for each in self.device.nexuses)

    def check(self) -> None:
        """Both stand the same."""
        device, state = self.device, self.device.unit.state
        key = self.single.state.key_of(ONE)
        for index, each in enumerate(device.nexuses):
            allowed = (0, key) if index in device.down else (key,)
            assert state.key_of(each) in allowed, (index, device.keys())
        assert state.key_of(OTHER) == self.single.state.key_of(OTHER)
        assert device.held() == held(self.single)
        assert self._holds() == self.single.state.holds(ONE)

    def _check_the_third(self, command: Command) -> None:
        """In doubt: both may have happened, and neither changes a node that the command spares."""
        before = self.single.state.key_of(OTHER)
        self._single(command)
        after = self.single.state.key_of(OTHER)
        assert self.device.unit.state.key_of(OTHER) in (before, after)


ACTIONS = [REGISTER, REGISTER, IGNORE, RESERVE, RESERVE, RELEASE, RELEASE, PREEMPT, CLEAR]


@st.composite
def commands(draw: st.DrawFn, keys: tuple[int, ...]) -> Command:
    """Commands of a nexus that is mostly registered with the first of ``keys``."""
    action = draw(st.sampled_from(ACTIONS))
    key = draw(st.sampled_from(keys))
    new = draw(st.sampled_from([K, L, 0]))
    kind = None
    if action not in (REGISTER, IGNORE, CLEAR):
        kind = draw(st.sampled_from([*ReservationType, WE_RO, WE_RO, WE_RO]))
    return out_command(action, key, new, type=kind)


events = st.builds(
    Event, st.integers(0, 24), st.sampled_from(["unsent", "lost", "undone", "back", "back", "busy"])
)
paths = st.integers(0, 3)
acts: st.SearchStrategy[tuple[str, Any, list[Event]]] = st.one_of(
    st.tuples(st.just("run"), commands((K, K, K, L, 0)), st.lists(events, max_size=2)),
    st.tuples(st.just("run"), commands((K, K, K, L, 0)), st.just([])),
    st.tuples(st.just("other"), commands((THIRD, THIRD, K)), st.just([])),
    st.tuples(st.just("fail"), paths, st.just([])),
    st.tuples(st.just("back"), paths, st.just([])),
)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(acts, max_size=16),
    st.booleans(),
    st.sampled_from([THIRD, K]),
    st.booleans(),
)
def test_whatever_its_paths_do_a_device_is_one_nexus(
    acts: list[tuple[str, Any, list[Event]]], by_port: bool, third: int, known: bool
) -> None:
    story = Story(by_port=by_port, third=third, known=known)
    assert story.run(out_command(REGISTER, 0, K), [])
    for what, subject, at in acts:
        if what == "run":
            if not story.run(subject, at):
                return
        elif what == "other":
            story.other(subject)
        elif what == "fail":
            story.device.fail(subject)
        elif subject in story.device.down:
            story.come_back(subject)
    if len(story.device.down) < len(story.device.nexuses):
        story.end()
