"""Both drivers of steps do the same, whatever is answered and whatever is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.reservations.driver import StepRun, observing, run_async, run_sync
from holdover.scsi.path import AnswerLost, PathError

OUTCOMES = st.lists(st.one_of(st.integers(0, 9), st.sampled_from((AnswerLost, PathError))), max_size=8)


def remember(many: int) -> Generator[int, int, list[int | str]]:
    """Ask ``many`` numbered questions; the answers, with "lost" for each that was lost."""
    heard: list[int | str] = []
    for number in range(many):
        try:
            heard.append((yield number))
        except AnswerLost:
            heard.append("lost")
    return heard


def scripted(outcomes: list[int | type[PathError]]) -> Callable[[int], int]:
    def carry_out(request: int) -> int:
        outcome = outcomes[request]
        if isinstance(outcome, int):
            return outcome
        raise outcome("memory", "by the script")

    return carry_out


def awaited(outcomes: list[int | type[PathError]]) -> list[int | str]:
    carry_out = scripted(outcomes)

    async def later(request: int) -> int:
        await asyncio.sleep(0)
        return carry_out(request)

    return asyncio.run(run_async(remember(len(outcomes)), later))


@given(OUTCOMES)
def test_both_drivers_hand_over_answers_and_errors_in_order(outcomes: list[int | type[PathError]]) -> None:
    if PathError in outcomes:
        with pytest.raises(PathError, match="by the script"):
            run_sync(remember(len(outcomes)), scripted(outcomes))
        with pytest.raises(PathError, match="by the script"):
            awaited(outcomes)
        return
    heard = [outcome if isinstance(outcome, int) else "lost" for outcome in outcomes]
    assert run_sync(remember(len(outcomes)), scripted(outcomes)) == heard
    assert awaited(outcomes) == heard


def test_a_run_knows_its_next_request_and_in_the_end_its_result() -> None:
    run = StepRun(remember(2))
    assert run.request == 0
    run.answer(7)
    assert run.request == 1
    run.fail(AnswerLost("memory", "lost"))
    assert run.request is None
    assert run.result == [7, "lost"]


@given(OUTCOMES)
def test_who_notices_answers_hears_each_before_the_steps(
    outcomes: list[int | type[PathError]],
) -> None:
    noticed: list[int] = []
    steps = observing(remember(len(outcomes)), noticed.append)
    first_error = next((at for at, each in enumerate(outcomes) if not isinstance(each, int)), len(outcomes))
    if first_error == len(outcomes):
        assert run_sync(steps, scripted(outcomes)) == noticed == outcomes
        return
    with pytest.raises(PathError, match="by the script"):
        run_sync(steps, scripted(outcomes))
    assert noticed == outcomes[:first_error]
