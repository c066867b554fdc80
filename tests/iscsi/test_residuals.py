"""Residuals survive a gateway: what an initiator has received, it can hand on as a target."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdover.iscsi.initiator.events import CommandCompleted
from holdover.iscsi.initiator.login import InitiatorConfig
from holdover.iscsi.initiator.session import InitiatorSession
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.requests import ScsiCommand
from holdover.iscsi.responses import DataIn, ScsiResponse
from holdover.iscsi.target.protocol.numbers import TargetNumbers
from holdover.iscsi.target.protocol.response import response_pdus
from holdover.iscsi.target.protocol.task import TargetTask
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status
from tests.iscsi.pair import INITIATOR, ISID, TARGET, entropy

_SHORT = Parameters(max_send_data_segment_length=512, max_burst_length=1024)
_lengths = st.integers(0, 3000)


def answer(command: Command, response: Response) -> list[DataIn | ScsiResponse]:
    """How a target answers a command."""
    out, room = len(command.data_out), command.data_in_length
    pdu = ScsiCommand(
        0,
        0,
        command.cdb,
        out or room,
        1,
        read=room > 0,
        write=out > 0,
        data=command.data_out,
        read_length=room if out and room else None,
    )
    task = TargetTask(pdu, Parameters(), 1 << 20, 1 << 20)
    return list(response_pdus(task, response, _SHORT, TargetNumbers(8)))


def received(command: Command, pdus: list[DataIn | ScsiResponse]) -> Response:
    """What an initiator makes of that answer."""
    session = InitiatorSession(InitiatorConfig(INITIATOR, ISID, TARGET), entropy)
    session._state = type(session._state).FULL_FEATURE
    tag = session.execute(0, command)
    for pdu in pdus:
        assert pdu.task_tag == tag
        session._receive(pdu)
    (event,) = session.events_received()
    assert isinstance(event, CommandCompleted)
    return event.response


@given(
    st.builds(Command, st.just(bytes(16)), st.binary(max_size=3000), st.sampled_from([0, 1, 512, 2999])),
    st.builds(
        Response,
        st.sampled_from([Status.GOOD, Status.CHECK_CONDITION, Status.RESERVATION_CONFLICT]),
        st.binary(max_size=3000),
        st.sampled_from([b"", b"sense"]),
        st.none() | _lengths,
    ),
)
def test_what_was_received_can_be_handed_on_and_nothing_is_lost(command: Command, response: Response) -> None:
    first = answer(command, response)
    assert answer(command, received(command, first)) == first


def test_a_read_of_more_than_there_is_room_for() -> None:
    command = Command(bytes(16), data_in_length=200)
    response = received(command, answer(command, Response(Status.GOOD, bytes(512))))
    assert (response.data_in, response.data_in_length) == (bytes(200), 512)


def test_a_write_of_more_and_of_less_than_there_is() -> None:
    for length, asked in ((200, 512), (10000, 512), (0, 512)):
        command = Command(bytes(16), bytes(length))
        response = received(command, answer(command, Response(Status.GOOD, data_out_length=asked)))
        assert response.data_out_length == asked


def test_a_command_with_as_much_data_as_it_asks_for_has_no_residual() -> None:
    command = Command(bytes(16), data_in_length=512)
    assert received(command, answer(command, Response(Status.GOOD, bytes(512)))) == Response(
        Status.GOOD, bytes(512)
    )
