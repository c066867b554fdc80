"""Running steps over a path that fails."""

from __future__ import annotations

import asyncio

import pytest

from holdover.agent.runner import run_steps
from holdover.handover.steps import LostAnswer, Steps
from holdover.paths.path import AnswerLost, PathError
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status

COMMAND = Command(bytes(6))


class Scripted:
    """A path that does one thing after the other."""

    name = "scripted"

    def __init__(self, *script: Exception | Response) -> None:
        self.script = list(script)

    async def execute(self, command: Command) -> Response:
        step = self.script.pop(0) if self.script else PathError(self.name, "away")
        if isinstance(step, Exception):
            raise step
        return step

    async def close(self) -> None:
        pass


GOOD = Response(Status.GOOD)


def one() -> Steps[str]:
    try:
        response = yield COMMAND
    except LostAnswer:
        return "lost"
    return response.status.name


def run(path: Scripted, limit: float = 5.0) -> str:
    return asyncio.run(run_steps(path, one(), limit))


def test_an_answer_goes_to_the_steps() -> None:
    assert run(Scripted(GOOD)) == "GOOD"


def test_a_lost_answer_is_the_steps_matter() -> None:
    assert run(Scripted(AnswerLost("scripted", "gone"))) == "lost"


def test_what_could_not_be_sent_is_sent_again() -> None:
    assert run(Scripted(PathError("scripted", "away"), PathError("scripted", "away"), GOOD)) == "GOOD"


def test_the_limit_ends_it_and_says_why() -> None:
    with pytest.raises(PathError, match=r"scripted: no answer within 0\.25 s, .* in doubt; last: away"):
        run(Scripted(), 0.25)
