"""A target session and PDUs made by hand: orders, numbers, refusals."""

from __future__ import annotations

import pytest
from msgspec import structs

from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.numbers import (
    NO_TAG,
    AsyncEvent,
    LogoutReason,
    RejectReason,
    TaskManagementFunction,
    TaskManagementResponse,
)
from holdover.iscsi.pdu import Pdu, UnknownPdu
from holdover.iscsi.requests import (
    DataOut,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
)
from holdover.iscsi.responses import (
    AsyncMessage,
    LoginResponse,
    LogoutResponsePdu,
    NopIn,
    ReadyToTransfer,
    Reject,
    ScsiResponse,
    TaskManagementResponsePdu,
)
from holdover.iscsi.target.events import Closed, TaskManagementReceived
from holdover.iscsi.target.protocol.login import TargetConfig
from holdover.iscsi.target.protocol.session import TargetSession
from holdover.scsi.command import Response
from holdover.scsi.status import Status
from tests.iscsi.pair import INITIATOR, TARGET, RawInitiator, entropy

READ = ScsiCommand(10, 0, bytes(16), 8192, 1, read=True)
WRITE = ScsiCommand(10, 0, bytes(16), 4096, 1, write=True)
GOOD = Response(Status.GOOD)


def command(cmd_sn: int, tag: int | None = None, *, immediate: bool = False) -> ScsiCommand:
    return ScsiCommand(cmd_sn if tag is None else tag, 0, bytes(16), 0, cmd_sn, immediate=immediate)


def tags(peer: RawInitiator) -> list[int]:
    return [event.tag for event in peer.commands()]


def test_login_gives_numbers() -> None:
    login = RawInitiator().login
    assert (login.status, login.tsih, login.transit, login.next_stage) == (0, 1, True, 3)
    assert (login.exp_cmd_sn, login.max_cmd_sn) == (1, 128)


def test_commands_take_effect_in_the_order_of_cmd_sn() -> None:
    peer = RawInitiator()
    peer.send(command(2), command(3))
    assert tags(peer) == []
    peer.send(command(1))
    assert tags(peer) == [1, 2, 3]


def test_immediate_commands_come_at_once() -> None:
    peer = RawInitiator()
    peer.send(command(2), command(1, tag=99, immediate=True))
    assert tags(peer) == [99]


@pytest.mark.parametrize("cmd_sn", [0, 129, 0x80000000])
def test_commands_outside_the_window_are_ignored(cmd_sn: int) -> None:
    peer = RawInitiator()
    assert peer.send(command(cmd_sn)) == []
    assert tags(peer) == []
    peer.send(command(1))
    assert tags(peer) == [1]


def test_the_window_has_room_for_as_many_commands_as_may_be_open() -> None:
    peer = RawInitiator(TargetConfig(TARGET, max_commands=2))
    peer.send(command(1), command(2), command(3))
    assert tags(peer) == [1, 2]
    peer.session.respond(1, GOOD)
    (answer,) = peer.answers()
    assert isinstance(answer, ScsiResponse)
    assert (answer.exp_cmd_sn, answer.max_cmd_sn) == (3, 3)
    peer.send(command(3))
    assert tags(peer) == [3]


def test_cmd_sn_wraps() -> None:
    session = TargetSession(TargetConfig(TARGET), ("host:3260",), entropy)
    peer = RawInitiator()
    peer.session = session
    said = {"InitiatorName": INITIATOR, "TargetName": TARGET}
    peer.send(RawInitiator.login_request(said, cmd_sn=0xFFFFFFFF))
    peer.send(command(0, tag=5), command(0xFFFFFFFF, tag=4))
    assert tags(peer) == [4, 5]


def test_too_many_immediate_commands_are_rejected() -> None:
    peer = RawInitiator(TargetConfig(TARGET, max_immediate=2))
    answers = peer.send(*(command(1, tag, immediate=True) for tag in (1, 2, 3)))
    assert tags(peer) == [1, 2]
    (reject,) = answers
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.TOO_MANY_IMMEDIATE_COMMANDS
    assert reject.data == b"".join(command(1, 3, immediate=True).encode())


def test_a_task_tag_in_use_is_rejected_and_its_cmd_sn_is_spent() -> None:
    peer = RawInitiator()
    (reject,) = peer.send(command(1, tag=7), command(2, tag=7), command(3, tag=8))
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.TASK_IN_PROGRESS
    assert tags(peer) == [7, 8]


def test_r2ts_ask_for_what_is_missing() -> None:
    peer = RawInitiator(
        offers={"MaxBurstLength": "2048", "FirstBurstLength": "1024", "MaxOutstandingR2T": "1"}
    )
    (first,) = peer.send(structs.replace(WRITE, data=bytes(100)))
    assert isinstance(first, ReadyToTransfer)
    assert (first.offset, first.length, first.r2t_sn) == (100, 2048, 0)
    (second,) = peer.send(DataOut(10, first.target_tag, 0, 0, 100, bytes(2048), True))
    assert isinstance(second, ReadyToTransfer)
    assert (second.offset, second.length, second.r2t_sn) == (2148, 1948, 1)
    assert second.target_tag != first.target_tag
    peer.send(DataOut(10, second.target_tag, 0, 0, 2148, bytes(1948), True))
    assert len(peer.commands()[0].command.data_out) == 4096


@pytest.mark.parametrize(
    ("ours", "theirs", "open_at_once"), [(1, "9", 1), (3, "9", 3), (4, "2", 2), (9, "9", 5)]
)
def test_several_r2ts_are_out_at_once(ours: int, theirs: str, open_at_once: int) -> None:
    config = TargetConfig(TARGET, limits=NegotiationLimits(max_burst_length=1024, max_outstanding_r2t=ours))
    peer = RawInitiator(config, offers={"MaxBurstLength": "1024", "MaxOutstandingR2T": theirs})
    data = bytes(range(200)) * 25
    asked = peer.send(structs.replace(WRITE, expected_length=len(data)))
    assert len(asked) == open_at_once
    for number in range(5):
        r2t = asked[number]
        assert isinstance(r2t, ReadyToTransfer)
        assert (r2t.r2t_sn, r2t.offset) == (number, number * 1024)
        part = data[r2t.offset : r2t.offset + r2t.length]
        # Each that is served makes room for one more.
        asked += peer.send(DataOut(10, r2t.target_tag, 0, 0, r2t.offset, part, True))
        assert len(asked) == min(5, open_at_once + number + 1)
    assert peer.commands()[0].command.data_out == data


def test_data_out_of_turn_end_the_command() -> None:
    peer = RawInitiator()
    (r2t,) = peer.send(WRITE)
    assert isinstance(r2t, ReadyToTransfer)
    (answer,) = peer.send(DataOut(10, r2t.target_tag, 0, 5, 0, bytes(4096), True))
    assert isinstance(answer, ScsiResponse)
    assert (answer.status, answer.sense[2], answer.sense[12:14]) == (2, 0x0B, b"\x0c\x0d")
    assert peer.session.open_commands == 0
    # What is still on its way is dropped.
    assert peer.send(DataOut(10, r2t.target_tag, 0, 6, 0, bytes(4096), True)) == []


def test_unsolicited_data_of_a_held_command() -> None:
    peer = RawInitiator(offers={"InitialR2T": "No"})
    held = structs.replace(WRITE, cmd_sn=2, final=False, expected_length=8)
    assert peer.send(held, DataOut(10, NO_TAG, 0, 0, 0, bytes(8), True)) == []
    assert tags(peer) == []
    peer.send(command(1, tag=1))
    assert tags(peer) == [1, 10]


def test_commands_wait_for_room_before_they_are_asked_for_data() -> None:
    peer = RawInitiator(TargetConfig(TARGET, max_buffered=6000))
    (first,) = peer.send(WRITE, structs.replace(WRITE, task_tag=11, cmd_sn=2))
    assert isinstance(first, ReadyToTransfer)
    assert first.task_tag == 10
    assert peer.send(DataOut(10, first.target_tag, 0, 0, 0, bytes(4096), True)) == []
    peer.session.respond(10, GOOD)
    status, second = peer.answers()
    assert isinstance(status, ScsiResponse)
    assert isinstance(second, ReadyToTransfer)
    assert second.task_tag == 11


def test_a_command_that_waits_for_room_can_be_aborted() -> None:
    peer = RawInitiator(TargetConfig(TARGET, max_buffered=6000))
    peer.send(WRITE, structs.replace(WRITE, task_tag=11, cmd_sn=2))
    abort = TaskManagementRequest(12, TaskManagementFunction.ABORT_TASK, 0, 11, 3)
    assert peer.send(abort) == []
    assert peer.events == [TaskManagementReceived(12, 1, 0, (), True)]
    abort = TaskManagementRequest(13, TaskManagementFunction.ABORT_TASK, 0, 10, 3)
    assert peer.send(abort) == []
    assert peer.session.open_commands == 0


def test_pings_are_echoed() -> None:
    peer = RawInitiator()
    (answer,) = peer.send(NopOut(5, NO_TAG, 1, data=b"hello"))
    assert isinstance(answer, NopIn)
    assert (answer.task_tag, answer.target_tag, answer.data) == (5, NO_TAG, b"hello")
    assert peer.send(NopOut(NO_TAG, 77, 1)) == []


def test_abort_of_a_command_that_never_came() -> None:
    peer = RawInitiator()
    abort = TaskManagementRequest(9, TaskManagementFunction.ABORT_TASK, 0, 55, 2, ref_cmd_sn=1)
    assert peer.send(abort) == []
    assert peer.events == [TaskManagementReceived(9, 1, 0, (), True)]
    # Its CmdSN counts as received.
    peer.send(command(2))
    assert tags(peer) == [2]


def test_abort_of_what_there_is_not() -> None:
    peer = RawInitiator()
    abort = TaskManagementRequest(9, TaskManagementFunction.ABORT_TASK, 0, 55, 1, ref_cmd_sn=1)
    peer.send(abort)
    assert peer.events == [TaskManagementReceived(9, 1, 0, (), False)]
    # The same tag while it is not answered, then another after it is.
    (reject,) = peer.send(abort)
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.TASK_IN_PROGRESS


def test_abort_of_a_command_whose_turn_has_not_come() -> None:
    peer = RawInitiator()
    peer.send(command(2, tag=22), command(3, tag=33))
    abort = TaskManagementRequest(
        9, TaskManagementFunction.ABORT_TASK, 0, 22, 4, ref_cmd_sn=2, immediate=True
    )
    peer.send(abort)
    assert peer.events == [TaskManagementReceived(9, 1, 0, (), True)]
    peer.session.answer_task_management(9, TaskManagementResponse.FUNCTION_COMPLETE)
    # Its CmdSN is spent, and it is never given out.
    peer.send(command(1, tag=11))
    assert tags(peer) == [11, 33]
    assert peer.session.open_commands == 2


def test_a_function_is_known_before_the_commands_behind_it_begin() -> None:
    peer = RawInitiator()
    peer.send(command(3, tag=33))
    peer.send(TaskManagementRequest(9, TaskManagementFunction.ABORT_TASK, 0, 55, 2, immediate=False))
    peer.send(command(1, tag=11))
    function = [isinstance(event, TaskManagementReceived) for event in peer.events]
    assert function == [False, True, False]
    assert tags(peer) == [11, 33]


def test_an_abort_that_names_another_commands_cmd_sn_spends_nothing() -> None:
    peer = RawInitiator()
    peer.send(command(2, tag=22))
    abort = TaskManagementRequest(
        9, TaskManagementFunction.ABORT_TASK, 0, 55, 3, ref_cmd_sn=2, immediate=True
    )
    peer.send(abort)
    assert peer.events == [TaskManagementReceived(9, 1, 0, (), False)]
    peer.send(command(1, tag=11))
    assert tags(peer) == [11, 22]


@pytest.mark.parametrize("function", [2, 4, 5, 6, 7])
def test_functions_end_what_was_sent_before_them_though_its_turn_has_not_come(function: int) -> None:
    peer = RawInitiator()
    peer.send(command(2, tag=22), structs.replace(command(3, tag=33), lun=1 << 48), command(5, tag=55))
    peer.send(TaskManagementRequest(9, function, 0, NO_TAG, 4, immediate=True))
    (event,) = peer.events
    assert isinstance(event, TaskManagementReceived)
    peer.send(command(1, tag=11), command(4, tag=44))
    everywhere = function in (6, 7)
    assert tags(peer) == ([11, 44, 55] if everywhere else [11, 33, 44, 55])


def test_the_target_asks_for_a_sign_of_life_without_spending_a_number() -> None:
    peer = RawInitiator()
    peer.session.ping()
    (ping,) = peer.answers()
    assert isinstance(ping, NopIn)
    assert ping.task_tag == NO_TAG
    assert ping.target_tag != NO_TAG
    assert peer.send(NopOut(NO_TAG, ping.target_tag, 1)) == []
    (answer,) = peer.send(NopOut(5, NO_TAG, 1))
    assert isinstance(answer, NopIn)
    assert answer.stat_sn == ping.stat_sn


def test_the_target_asks_for_a_logout() -> None:
    peer = RawInitiator()
    peer.session.request_logout(3)
    (message,) = peer.answers()
    assert isinstance(message, AsyncMessage)
    assert (message.event, message.parameter3) == (AsyncEvent.LOGOUT_REQUESTED, 3)
    (answer,) = peer.send(LogoutRequest(5, 0, 1, 0))
    assert isinstance(answer, LogoutResponsePdu)
    assert answer.stat_sn == message.stat_sn + 1


def test_functions_name_the_commands_that_they_end() -> None:
    peer = RawInitiator()
    peer.send(*(structs.replace(command(number), lun=(number % 2) << 48) for number in range(1, 5)))
    for function, lun, ended in ((2, 1, (1, 3)), (5, 1, ()), (6, 0, (2, 4))):
        peer.send(TaskManagementRequest(50, function, lun << 48, NO_TAG, 5))
        (event,) = peer.events
        assert isinstance(event, TaskManagementReceived)
        assert (event.function, event.lun, event.tasks) == (function, lun, ended)
        peer.session.answer_task_management(50, TaskManagementResponse.FUNCTION_COMPLETE)
        (answer,) = peer.answers()
        assert isinstance(answer, TaskManagementResponsePdu)
    assert peer.session.open_commands == 0


@pytest.mark.parametrize(
    ("reason", "connection_id", "response", "closed"),
    [
        (LogoutReason.CLOSE_SESSION, 9, 0, True),
        (LogoutReason.CLOSE_CONNECTION, 0, 0, True),
        (LogoutReason.CLOSE_CONNECTION, 9, 1, False),
        (LogoutReason.REMOVE_FOR_RECOVERY, 0, 2, False),
    ],
)
def test_logout(reason: int, connection_id: int, response: int, closed: bool) -> None:
    peer = RawInitiator()
    (answer,) = peer.send(LogoutRequest(1, reason, 1, connection_id=connection_id))
    assert isinstance(answer, LogoutResponsePdu)
    assert answer.response == response
    assert peer.session.closed is closed
    if closed:
        assert peer.events == [Closed("the initiator logged out")]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (UnknownPdu(0x10, bytes([0x10]) + bytes(47), b""), RejectReason.SNACK_REJECT),
        (UnknownPdu(0x1C, bytes([0x1C]) + bytes(47), b""), RejectReason.COMMAND_NOT_SUPPORTED),
        (RawInitiator.login_request({}), RejectReason.PROTOCOL_ERROR),
        (ScsiResponse(1, 0, 0, 0, 0), RejectReason.PROTOCOL_ERROR),
        (LogoutRequest(1, 9, 1), RejectReason.INVALID_PDU_FIELD),
        (TextRequest(1, NO_TAG, 1, b"no pair"), RejectReason.PROTOCOL_ERROR),
        (TextRequest(1, 5, 1, b""), RejectReason.PROTOCOL_ERROR),
        (command(1, tag=NO_TAG), RejectReason.TASK_IN_PROGRESS),
    ],
)
def test_what_is_rejected_and_the_session_goes_on(bad: Pdu, reason: RejectReason) -> None:
    peer = RawInitiator()
    (reject,) = peer.send(bad)
    assert isinstance(reject, Reject)
    assert reject.reason == reason
    assert reject.data == b"".join(bad.encode())[:48]
    (answer,) = peer.send(NopOut(5, NO_TAG, 1))
    assert isinstance(answer, NopIn)


def test_a_data_segment_that_is_too_long_ends_the_session() -> None:
    peer = RawInitiator()
    peer.send(NopOut(5, NO_TAG, 1, data=bytes(262145)))
    (closed,) = peer.events
    assert isinstance(closed, Closed)
    assert "data segment of 262145 bytes" in closed.reason


def test_only_a_login_may_come_first() -> None:
    peer = RawInitiator()
    peer.session = TargetSession(TargetConfig(TARGET), ("host:3260",), entropy)
    (answer,) = peer.send(NopOut(5, NO_TAG, 1))
    assert isinstance(answer, LoginResponse)
    assert (answer.status, answer.task_tag) == (0x020B, 5)
    assert peer.session.closed


def test_nothing_may_come_before_the_login_is_answered() -> None:
    session = TargetSession(TargetConfig(TARGET), ("host:3260",), entropy)
    login = RawInitiator.login_request({"InitiatorName": INITIATOR, "TargetName": TARGET})
    session.receive_data(b"".join(login.encode()) * 2)
    assert isinstance(session.events_received()[-1], Closed)
