"""Running steps over a path that fails."""

from __future__ import annotations

import asyncio
import gc

import pytest

from holdover.agent.guests.step_runner import OneByOne, run_steps
from holdover.reservations.steps import Steps
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

COMMAND = Command(bytes(6))


class Scripted:
    """A path that does one thing after the other."""

    name = "scripted"
    nexuses = 1

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
    except AnswerLost:
        return "lost"
    return response.status.name


def run(path: Scripted, limit: float = 5.0) -> str:
    return asyncio.run(run_steps(path, one(), limit))


def test_an_answer_goes_to_the_steps() -> None:
    assert run(Scripted(GOOD)) == "GOOD"


@pytest.mark.parametrize(
    "busy",
    [
        Response(Status.BUSY),
        Response(Status.TASK_SET_FULL),
        check_condition(SenseKey.NOT_READY, AdditionalSense.LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY),
        check_condition(
            SenseKey.NOT_READY,
            AdditionalSense.LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION,
        ),
    ],
)
def test_a_lun_that_is_busy_is_asked_again(busy: Response) -> None:
    assert run(Scripted(busy, busy, GOOD)) == "GOOD"


@pytest.mark.parametrize(
    "aborted",
    [
        Response(Status.TASK_ABORTED),
        check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.NO_ADDITIONAL_SENSE),
        check_condition(SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE),
    ],
)
def test_a_command_that_was_aborted_may_have_been_carried_out(aborted: Response) -> None:
    assert run(Scripted(aborted)) == "lost"


def test_a_refusal_is_an_answer() -> None:
    assert run(Scripted(Response(Status.RESERVATION_CONFLICT))) == "RESERVATION_CONFLICT"
    refused = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
    assert run(Scripted(refused)) == "CHECK_CONDITION"


def test_a_lost_answer_is_the_steps_matter() -> None:
    assert run(Scripted(AnswerLost("scripted", "gone"))) == "lost"


def test_what_could_not_be_sent_is_sent_again() -> None:
    assert run(Scripted(PathError("scripted", "away"), PathError("scripted", "away"), GOOD)) == "GOOD"


def test_the_limit_ends_it_and_says_why() -> None:
    with pytest.raises(
        PathError,
        match=r"scripted: the LUN has not answered within 0\.25 s; .* carried out or not; last: away",
    ):
        run(Scripted(), 0.25)


class Held(Scripted):
    """A path whose commands wait until a test lets them end."""

    def __init__(self) -> None:
        super().__init__(GOOD, GOOD, GOOD)
        self.ends: list[asyncio.Future[Response]] = []

    async def execute(self, command: Command) -> Response:
        end: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.ends.append(end)
        return await end


async def _rest() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_one_by_one_also_when_nobody_waits_for_the_first() -> None:
    async def test() -> None:
        sent: list[Command] = []
        told: list[Response] = []
        path = Held()
        own = OneByOne(path, lambda _, response: told.append(response), sent.append)
        assert own.idle
        first = asyncio.ensure_future(own.execute(COMMAND))
        await _rest()
        first.cancel()
        second, third = (asyncio.ensure_future(own.execute(COMMAND)) for _ in range(2))
        await _rest()
        assert (first.cancelled(), len(path.ends), own.idle) == (True, 1, False)
        assert sent == [COMMAND]
        path.ends[0].set_result(GOOD)
        await _rest()
        assert (told, len(path.ends), second.done()) == ([GOOD], 2, False)
        path.ends[1].set_exception(AnswerLost("held", "gone"))
        with pytest.raises(AnswerLost):
            await second
        await _rest()
        path.ends[2].set_result(GOOD)
        assert await third == GOOD
        assert own.idle

    asyncio.run(test())


def test_an_error_that_nobody_waits_for_is_no_news() -> None:
    async def test() -> None:
        loop, complaints = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        path = Held()
        own = OneByOne(path, lambda _, __: None)
        first = asyncio.ensure_future(own.execute(COMMAND))
        await _rest()
        first.cancel()
        await _rest()
        path.ends[0].set_exception(AnswerLost("held", "gone"))
        del first
        await _rest()
        await own.ended()
        path.ends.clear()
        del own
        gc.collect()
        await _rest()
        assert complaints == []

    asyncio.run(test())


def test_close_waits_no_more() -> None:
    async def test() -> None:
        path = Held()
        own = OneByOne(path, lambda _, __: None)
        first = asyncio.ensure_future(own.execute(COMMAND))
        await _rest()
        await own.close()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert own.idle

    asyncio.run(test())
