"""Initiator and target session against one another: any limits, any cuts, any order of answers."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.digest import Digest
from holdover.iscsi.initiator.events import (
    CommandCompleted,
    LoggedIn,
    LoginFailed,
    SessionClosed,
    TargetsReceived,
    TaskManagementCompleted,
)
from holdover.iscsi.initiator.login import InitiatorConfig
from holdover.iscsi.initiator.session import InitiatorSession
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.numbers import LoginStatus, TaskManagementFunction
from holdover.iscsi.target.events import Closed, CommandReceived, LoginCompleted, TaskManagementReceived
from holdover.iscsi.target.protocol.login import TargetConfig
from holdover.iscsi.target.protocol.session import TargetSession
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status
from tests.iscsi.pair import INITIATOR, ISID, TARGET, Cut, Pair, discovery, entropy
from tests.iscsi.ram import BLOCK, HOLD, TEST_UNIT_READY, read, write

_lengths = st.sampled_from([512, 516, 1000, 4096, 8192, 65536])
_digests = st.permutations(list(Digest)).map(tuple)
_limits = st.builds(
    NegotiationLimits,
    initial_r2t=st.booleans(),
    immediate_data=st.booleans(),
    max_recv_data_segment_length=_lengths,
    max_burst_length=_lengths,
    first_burst_length=_lengths,
    max_outstanding_r2t=st.integers(1, 4),
    header_digests=_digests,
    data_digests=_digests,
)


def logged_in(initiator: NegotiationLimits, target: NegotiationLimits, max_commands: int = 128) -> Pair:
    pair = Pair(
        InitiatorConfig(INITIATOR, ISID, TARGET, limits=initiator),
        TargetConfig(TARGET, limits=target, max_commands=max_commands),
    )
    assert isinstance(pair.run()[0], LoggedIn)
    return pair


def cutter(source: random.Random) -> Cut:
    def cut(data: bytes) -> Iterable[bytes]:
        at = 0
        while at < len(data):
            length = source.choice([1, 3, 47, 48, 49, 500, 5000, 100000])
            yield data[at : at + length]
            at += length

    return cut


@settings(max_examples=150, deadline=None)
@given(_limits, _limits, st.integers(0, 2**32), st.integers(1, 8))
def test_data_arrive_whole_whatever_was_negotiated(
    initiator: NegotiationLimits, target: NegotiationLimits, seed: int, window: int
) -> None:
    source = random.Random(seed)
    pair = Pair(
        InitiatorConfig(INITIATOR, ISID, TARGET, limits=initiator),
        # The smallest buffer there can be, so that commands have to wait for their R2Ts.
        TargetConfig(
            TARGET, limits=target, max_commands=window, max_data_out=64 * BLOCK, max_buffered=64 * BLOCK
        ),
        cut=cutter(source),
        order=source.shuffle,
    )
    assert isinstance(pair.run()[0], LoggedIn)
    written: dict[int, tuple[int, bytes]] = {}
    for number in range(12):
        blocks = source.choice([1, 2, 9, 20, 64])
        data = source.randbytes(blocks * BLOCK)
        written[pair.initiator.execute(0, write(number * 64, data))] = (number * 64, data)
    answers = pair.run()
    assert {event.tag for event in answers if isinstance(event, CommandCompleted)} == set(written)
    wanted: dict[int, bytes] = {}
    for lba, data in written.values():
        wanted[pair.initiator.execute(0, read(lba, len(data) // BLOCK))] = data
        # A buffer that is too small, and one that is too large.
        wanted[pair.initiator.execute(0, read(lba, len(data) // BLOCK, 100))] = data[:100]
        wanted[pair.initiator.execute(0, read(lba, len(data) // BLOCK, 40000))] = data[:40000]
    found = {event.tag: event.response for event in pair.run() if isinstance(event, CommandCompleted)}
    assert {tag: response.data_in for tag, response in found.items()} == wanted
    assert all(response.status is Status.GOOD for response in found.values())
    assert pair.target.open_commands == 0
    pair.initiator.logout()
    assert pair.run() == [SessionClosed("logged out")]
    assert pair.target.closed


@pytest.mark.parametrize(
    ("initial_r2t", "immediate", "segment", "first", "burst"),
    list(product([True, False], [True, False], [512, 8192], [1024, 16384], [1536, 65536])),
)
def test_every_combination_of_unsolicited_and_immediate_data(
    initial_r2t: bool, immediate: bool, segment: int, first: int, burst: int
) -> None:
    limits = NegotiationLimits(initial_r2t, immediate, segment, burst, first)
    pair = logged_in(limits, limits)
    data = random.Random(5).randbytes(40 * BLOCK)
    tag = pair.initiator.execute(0, write(3, data))
    assert pair.run() == [CommandCompleted(tag, Response(Status.GOOD))]
    assert bytes(pair.disk.data[3 * BLOCK : 43 * BLOCK]) == data


def test_a_command_in_both_directions_with_a_long_cdb() -> None:
    pair = logged_in(NegotiationLimits(), NegotiationLimits())
    command = Command(bytes(range(0xC2, 0xC2 + 20)), b"out", 7)
    tag = pair.initiator.execute(1, command)
    pair.target.receive_data(b"".join(pair.initiator.data_to_send()))
    assert pair.target.events_received() == [CommandReceived(tag, 1, command)]
    pair.target.respond(tag, Response(Status.GOOD, b"answer"))
    assert pair.run() == [CommandCompleted(tag, Response(Status.GOOD, b"answer"))]


def test_data_may_come_beside_sense() -> None:
    pair = logged_in(NegotiationLimits(), NegotiationLimits())
    tag = pair.initiator.execute(0, HOLD)
    pair.run()
    pair.target.respond(tag, Response(Status.CHECK_CONDITION, b"", b"sense"))
    assert pair.run() == [CommandCompleted(tag, Response(Status.CHECK_CONDITION, b"", b"sense"))]
    tag = pair.initiator.execute(0, Command(HOLD.cdb, data_in_length=10))
    pair.run()
    pair.target.respond(tag, Response(Status.CHECK_CONDITION, b"data", b"sense"))
    assert pair.run() == [CommandCompleted(tag, Response(Status.CHECK_CONDITION, b"data", b"sense"))]


def test_commands_beyond_the_window_wait() -> None:
    pair = logged_in(NegotiationLimits(), NegotiationLimits(), max_commands=3)
    tags = [pair.initiator.execute(0, HOLD) for _ in range(5)]
    pair.run()
    assert [pair.initiator.was_sent(tag) for tag in tags] == [True, True, True, False, False]
    assert pair.target.open_commands == 3
    pair.target.respond(tags[1], Response(Status.GOOD))
    pair.run()
    assert [pair.initiator.was_sent(tag) for tag in tags] == [True, False, True, True, False]


def test_aborting_a_command() -> None:
    pair = logged_in(NegotiationLimits(), NegotiationLimits(), max_commands=2)
    first, second, third = (pair.initiator.execute(0, HOLD) for _ in range(3))
    pair.run()
    # One that has not been sent is gone without a word.
    assert pair.initiator.abort(third) is None
    function = pair.initiator.abort(first)
    assert function is not None
    assert pair.run() == [TaskManagementCompleted(function, 0)]
    event = pair.target_events[-1]
    assert isinstance(event, TaskManagementReceived)
    assert (event.function, event.lun, event.tasks, event.found) == (1, 0, (first,), True)
    # An answer that comes too late is dropped.
    pair.target.respond(first, Response(Status.GOOD))
    assert pair.run() == []
    assert pair.target.open_commands == 1
    pair.target.respond(second, Response(Status.GOOD))
    assert pair.run() == [CommandCompleted(second, Response(Status.GOOD))]
    assert pair.initiator.abort(second) is None


def test_a_reset_ends_the_commands_of_its_logical_unit() -> None:
    pair = logged_in(NegotiationLimits(), NegotiationLimits())
    here, there = pair.initiator.execute(0, HOLD), pair.initiator.execute(1, HOLD)
    pair.run()
    tag = pair.initiator.manage(TaskManagementFunction.LOGICAL_UNIT_RESET, 0)
    assert pair.run() == [TaskManagementCompleted(tag, 0)]
    event = pair.target_events[-1]
    assert isinstance(event, TaskManagementReceived)
    assert event.tasks == (here,)
    pair.target.respond(there, Response(Status.GOOD))
    assert pair.run() == [CommandCompleted(there, Response(Status.GOOD))]


def test_commands_ended_by_another_session_are_answered() -> None:
    pair = logged_in(NegotiationLimits(), NegotiationLimits())
    here, there = pair.initiator.execute(0, HOLD), pair.initiator.execute(1, HOLD)
    pair.run()
    assert pair.target.terminate_tasks(0) == (here,)
    assert pair.run() == [CommandCompleted(here, Response(Status.TASK_ABORTED))]
    assert pair.target.terminate_tasks(None) == (there,)


def test_discovery() -> None:
    pair = Pair(discovery())
    assert isinstance(pair.run()[0], LoggedIn)
    login = pair.target_events[0]
    assert isinstance(login, LoginCompleted)
    assert login.discovery
    for wanted in ("All", TARGET):
        tag = pair.initiator.send_targets(wanted)
        pairs = (("TargetName", TARGET), ("TargetAddress", "127.0.0.1:3260,1"))
        assert pair.run() == [TargetsReceived(tag, pairs)]
    tag = pair.initiator.send_targets("iqn.2001-04.com.example:other")
    assert pair.run() == [TargetsReceived(tag, ())]


def test_discovery_answers_that_do_not_fit_one_pdu() -> None:
    name = "iqn.2001-04.com.example:" + "t" * 199
    portals = tuple(f"portal-{number}.example:3260" for number in range(40))
    session = TargetSession(TargetConfig(name), portals, entropy)
    initiator = InitiatorSession(discovery(NegotiationLimits(max_recv_data_segment_length=512)), entropy)
    for _ in range(8):
        session.receive_data(b"".join(initiator.data_to_send()))
        if any(isinstance(event, LoginCompleted) for event in session.events_received()):
            session.admit(1)
        initiator.receive_data(b"".join(session.data_to_send()))
    tag = initiator.send_targets()
    initiator.events_received()
    for _ in range(4):
        session.receive_data(b"".join(initiator.data_to_send()))
        initiator.receive_data(b"".join(session.data_to_send()))
    (event,) = initiator.events_received()
    assert isinstance(event, TargetsReceived)
    assert event.tag == tag
    assert event.pairs[0] == ("TargetName", name)
    assert event.pairs[1:] == tuple(("TargetAddress", f"{portal},1") for portal in portals)


def test_a_discovery_session_takes_no_commands() -> None:
    pair = Pair(discovery())
    pair.run()
    pair.initiator.execute(0, TEST_UNIT_READY)
    (event,) = pair.run()
    assert "protocol error" in str(event)


@pytest.mark.parametrize("target_knows", [True, False])
@pytest.mark.parametrize("initiator_knows", [True, False])
def test_chap(target_knows: bool, initiator_knows: bool) -> None:
    credentials = ChapCredentials("anna", "a secret of words")
    pair = Pair(
        InitiatorConfig(INITIATOR, ISID, TARGET, credentials if initiator_knows else None),
        TargetConfig(TARGET, credentials=credentials if target_knows else None),
    )
    events = pair.run()
    if target_knows and not initiator_knows:
        assert isinstance(events[0], LoginFailed)
        assert events[0].error.status is LoginStatus.AUTHENTICATION_FAILURE
    else:
        assert isinstance(events[0], LoggedIn)
        assert (b"CHAP_R" in pair.to_target) == (target_knows and initiator_knows)


@pytest.mark.parametrize("wrong", [ChapCredentials("anna", "wrong"), ChapCredentials("otto", "right")])
def test_chap_with_a_wrong_user_or_secret(wrong: ChapCredentials) -> None:
    pair = Pair(
        InitiatorConfig(INITIATOR, ISID, TARGET, wrong),
        TargetConfig(TARGET, credentials=ChapCredentials("anna", "right")),
    )
    (failed, _) = pair.run()
    assert isinstance(failed, LoginFailed)
    assert "authentication failure (class 02h, detail 01h)" in str(failed.error)
    assert pair.target_events == [Closed("login refused: CHAP user or secret is wrong")]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (InitiatorConfig(INITIATOR, ISID, TARGET + "x"), "target not found (class 02h, detail 03h)"),
        (InitiatorConfig("nobody", ISID, TARGET), "initiator error (class 02h, detail 00h)"),
    ],
)
def test_refused_logins(config: InitiatorConfig, words: str) -> None:
    pair = Pair(config)
    failed = pair.run()[0]
    assert isinstance(failed, LoginFailed)
    assert words in str(failed.error)


def test_the_owner_of_the_target_may_refuse() -> None:
    pair = Pair()
    while not pair.target.closed:
        pair.target.receive_data(b"".join(pair.initiator.data_to_send()))
        if pair.target.events_received():
            pair.target.refuse(LoginStatus.OUT_OF_RESOURCES, "full")
        pair.initiator.receive_data(b"".join(pair.target.data_to_send()))
    failed = pair.initiator.events_received()[0]
    assert isinstance(failed, LoginFailed)
    assert failed.error.status is LoginStatus.OUT_OF_RESOURCES
