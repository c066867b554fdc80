"""Damaged conversations: no session ever raises, and what a target keeps stays bounded."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.initiator.login import InitiatorConfig
from holdover.iscsi.initiator.session import InitiatorSession
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.numbers import TaskManagementFunction, TaskManagementResponse
from holdover.iscsi.pdu import Pdu
from holdover.iscsi.target.events import CommandReceived, LoginCompleted, TaskManagementReceived
from holdover.iscsi.target.protocol.login import TargetConfig
from holdover.iscsi.target.protocol.session import TargetSession
from holdover.scsi.command import Response
from holdover.scsi.status import Status
from tests.iscsi.pair import INITIATOR, ISID, TARGET, Pair, RawInitiator, discovery, entropy
from tests.iscsi.ram import BLOCK, HOLD, read, write
from tests.iscsi.strategies import requests

_CONFIG = TargetConfig(
    TARGET,
    limits=NegotiationLimits(False, True, 4096, 4096, 2048),
    max_commands=8,
    max_immediate=4,
    max_data_out=65536,
)
_ROUNDS = 4000


def conversations() -> list[tuple[bytes, bytes]]:
    """What an initiator and a target have said to one another, in a few kinds of session."""
    credentials = ChapCredentials("anna", "secret")
    with_chap = Pair(
        InitiatorConfig(INITIATOR, ISID, TARGET, credentials), TargetConfig(TARGET, credentials=credentials)
    )
    with_data = Pair(
        InitiatorConfig(INITIATOR, ISID, TARGET, limits=NegotiationLimits(False, True, 4096, 8192, 1024))
    )
    found = []
    for pair in (with_chap, with_data):
        pair.run()
        pair.initiator.execute(0, write(0, bytes(20 * BLOCK)))
        pair.initiator.execute(0, read(0, 20))
        pair.run()
        held = pair.initiator.execute(0, HOLD)
        pair.run()
        pair.initiator.abort(held)
        pair.initiator.manage(TaskManagementFunction.TARGET_WARM_RESET)
        pair.initiator.ping()
        pair.run()
        pair.initiator.logout()
        pair.run()
        found.append((pair.to_target, pair.to_initiator))
    asking = Pair(discovery())
    asking.run()
    asking.initiator.send_targets()
    asking.run()
    return [*found, (asking.to_target, asking.to_initiator)]


def damage(source: random.Random, data: bytes) -> bytes:
    """A few bytes changed, taken out, put in, or the end cut off."""
    damaged = bytearray(data)
    for _ in range(source.choice([1, 1, 2, 5])):
        at = source.randrange(len(damaged) + 1)
        what = source.randrange(8)
        if what == 0:
            del damaged[at : at + source.choice([1, 4, 48])]
        elif what == 1:
            damaged[at:at] = source.randbytes(source.choice([1, 4, 48]))
        elif what == 2:
            del damaged[at + 1 :]
        elif at < len(damaged):
            damaged[at] = source.choice([0, 1, 0xFF, damaged[at] ^ 1 << source.randrange(8)])
    return bytes(damaged)


def serve(session: TargetSession, answered: bool = True) -> None:
    """Do what the shell of a target does."""
    for event in session.events_received():
        if isinstance(event, LoginCompleted):
            session.admit(1)
        elif isinstance(event, CommandReceived) and answered:
            session.respond(event.tag, Response(Status.GOOD, bytes(event.command.data_in_length % 100000)))
        elif isinstance(event, TaskManagementReceived):
            session.answer_task_management(event.tag, TaskManagementResponse.FUNCTION_COMPLETE)
    session.data_to_send()


@pytest.mark.parametrize("kind", range(3))
def test_a_target_survives_damaged_conversations(kind: int) -> None:
    said, _ = conversations()[kind]
    configs = [_CONFIG, TargetConfig(TARGET, credentials=ChapCredentials("anna", "secret"))]
    source = random.Random(kind)
    for _ in range(_ROUNDS):
        session = TargetSession(source.choice(configs), ("host:3260",), entropy)
        data, at = damage(source, said), 0
        while at < len(data) and not session.closed:
            length = source.choice([100, 1000, 100000])
            session.receive_data(data[at : at + length])
            serve(session)
            at += length


@pytest.mark.parametrize("kind", range(3))
def test_an_initiator_survives_damaged_conversations(kind: int) -> None:
    _, said = conversations()[kind]
    source = random.Random(kind)
    config = InitiatorConfig(INITIATOR, ISID, TARGET, ChapCredentials("anna", "secret"))
    for _ in range(_ROUNDS):
        session = InitiatorSession(source.choice([config, discovery()]), entropy)
        session.receive_data(damage(source, said))
        if not session.closed:
            session.execute(0, write(0, bytes(20 * BLOCK)))
            session.execute(0, read(0, 20))
            session.receive_data(damage(source, said))
        session.events_received()
        session.data_to_send()


def in_turn(session_cmd_sn: int, pdu: Pdu, tag: int) -> bytes:
    """The PDU with a CmdSN near the one that is due and a task tag that may be known."""
    data = bytearray(b"".join(pdu.encode()))
    data[16:20] = tag.to_bytes(4)
    data[24:28] = (session_cmd_sn & 0xFFFFFFFF).to_bytes(4)
    return bytes(data)


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.tuples(requests, st.integers(-1, 4), st.integers(0, 3)), min_size=1, max_size=30),
    st.booleans(),
)
def test_a_session_survives_any_requests_and_keeps_its_bounds(
    steps: list[tuple[Pdu, int, int]], answered: bool
) -> None:
    peer = RawInitiator(_CONFIG)
    cmd_sn = 1
    for pdu, ahead, tag in steps:
        peer.session.receive_data(in_turn(cmd_sn + ahead, pdu, tag))
        if ahead == 0:
            cmd_sn += 1
        serve(peer.session, answered)
        assert peer.session.open_commands <= 3 * _CONFIG.max_commands
        if peer.session.closed:
            break
    else:
        peer.session.terminate_tasks(None)


@settings(max_examples=500)
@given(st.binary(max_size=300))
@pytest.mark.parametrize(
    "make",
    [
        lambda: TargetSession(_CONFIG, ("host:3260",), entropy),
        lambda: InitiatorSession(InitiatorConfig(INITIATOR, ISID, TARGET), entropy),
        lambda: RawInitiator(_CONFIG).session,
    ],
)
def test_any_first_bytes(make: Callable[[], TargetSession | InitiatorSession], data: bytes) -> None:
    session = make()
    session.receive_data(data)
    session.receive_data(data)
    session.events_received()
    session.data_to_send()
