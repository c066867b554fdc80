from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdover.helper import passthrough
from holdover.helper.connection import Peer
from holdover.helper.passthrough import Passthrough
from holdover.paths.sgio import OpenDevice
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, decode_sense
from holdover.scsi.status import Status

PEER = Peer(1, 2, 3)
READ_KEYS = in_command(InServiceAction.READ_KEYS, 64)
DEVICE = OpenDevice(7, os.stat("/dev/null"))
ATTENTION = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_PREEMPTED)


def carry_out(monkeypatch: pytest.MonkeyPatch, answer: Response | PathError) -> tuple[Response, int]:
    """What the helper answers where SG_IO says `answer`, and how many commands it has sent for that."""
    sent = []

    def fake(device: OpenDevice, command: Command, name: str, timeout: float) -> Response:
        assert (device, command) == (DEVICE, READ_KEYS)
        sent.append(command)
        if isinstance(answer, PathError):
            raise answer
        return answer

    monkeypatch.setattr(passthrough, "carry_out", fake)
    return Passthrough().handle(PEER, DEVICE, READ_KEYS), len(sent)


@pytest.mark.parametrize("answer", [Response(Status.GOOD, b"keys"), Response(Status.RESERVATION_CONFLICT)])
def test_an_answer_passes_as_it_is(monkeypatch: pytest.MonkeyPatch, answer: Response) -> None:
    assert carry_out(monkeypatch, answer) == (answer, 1)


def test_a_unit_attention_is_the_guests_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    assert carry_out(monkeypatch, ATTENTION) == (ATTENTION, 1)


@pytest.mark.parametrize("error", [PathError("disk", "is gone"), AnswerLost("disk", "is slow")])
def test_no_answer_is_a_communication_failure(monkeypatch: pytest.MonkeyPatch, error: PathError) -> None:
    response, sent = carry_out(monkeypatch, error)
    sense = decode_sense(response.sense)
    assert sense.key is SenseKey.ABORTED_COMMAND
    assert sense.additional == AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE
    assert sent == 1


def test_what_is_no_scsi_device_is_a_communication_failure(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        device = OpenDevice(file.fileno(), os.fstat(file.fileno()))
        response = Passthrough().handle(PEER, device, READ_KEYS)
    assert response.status is Status.CHECK_CONDITION
