from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.helper.passthrough import Passthrough
from holdover.helper.server import Peer
from holdover.paths.path import AnswerLost, PathError
from holdover.paths.sgio import SgIo
from holdover.scsi.command import Command, Response
from holdover.scsi.opcodes import InServiceAction
from holdover.scsi.reservation_out import in_command
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from holdover.scsi.status import Status

PEER = Peer(1, 2, 3)
READ_KEYS = in_command(InServiceAction.READ_KEYS, 64)


class FakeIo(SgIo):
    def __init__(self, answer: Response | PathError) -> None:
        super().__init__(1)
        self.answer = answer

    async def execute(self, descriptor: int, command: Command, name: str, timeout: float = 1.0) -> Response:
        assert (descriptor, command) == (7, READ_KEYS)
        if isinstance(self.answer, PathError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [Response(Status.GOOD, b"keys"), Response(Status.RESERVATION_CONFLICT)])
def test_an_answer_passes_as_it_is(answer: Response) -> None:
    assert asyncio.run(Passthrough(FakeIo(answer)).handle(PEER, 7, READ_KEYS)) == answer


@pytest.mark.parametrize("error", [PathError("disk", "is gone"), AnswerLost("disk", "is slow")])
def test_no_answer_is_a_communication_failure(error: PathError) -> None:
    response = asyncio.run(Passthrough(FakeIo(error)).handle(PEER, 7, READ_KEYS))
    sense = decode_sense(response.sense)
    assert sense.key is SenseKey.ABORTED_COMMAND
    assert sense.additional == AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE


def test_what_is_no_scsi_device_is_a_communication_failure(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        response = asyncio.run(Passthrough(SgIo(1)).handle(PEER, file.fileno(), READ_KEYS))
    assert response.status is Status.CHECK_CONDITION
