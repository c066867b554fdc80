"""Single commands: unit attentions, lost answers, who the LUN is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.handover.changes import register_key
from holdover.reservations.driver import run_sync
from holdover.reservations.questions import (
    active_aptpl,
    identify,
    read_full_status,
    read_keys,
    read_picture,
    read_reservation,
)
from holdover.reservations.steps import ATTEMPTS, ATTENTIONS, StepFailed, Steps, past_attentions, settle
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, is_unit_attention
from holdover.scsi.status import Status
from tests.handover.work_rig import KEY, SOURCE, Rig

GOOD = Response(Status.GOOD)
ATTENTION = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.CAPACITY_DATA_HAS_CHANGED)


def test_a_lun_that_only_has_unit_attentions_to_say_is_given_up() -> None:
    endless = settle()
    attention = Rig().unit.execute(SOURCE, Command(UnitReady().encode()))
    assert is_unit_attention(attention)
    next(endless)

    def go_on() -> None:
        for _ in range(100):
            endless.send(attention)

    with pytest.raises(StepFailed, match="one unit attention after the other"):
        go_on()


@pytest.mark.provokes("in-doubt")
def test_a_lun_whose_answers_are_all_lost_is_in_doubt() -> None:
    steps = register_key(Tracked(KEY), KEY)
    next(steps)

    def go_on() -> None:
        for _ in range(100):
            steps.throw(AnswerLost("memory", "lost"))

    with pytest.raises(StepFailed, match="no answer came to repeated commands; it is not known whether"):
        go_on()


def test_identify_gives_the_naa_designator() -> None:
    assert str(Rig().run(SOURCE, identify())).startswith("naa.3")


DISTURBANCES = st.lists(st.sampled_from(("lost before", "lost after", "attention")), max_size=30)
QUESTIONS = [read_keys, read_reservation, read_full_status, read_picture, lambda: active_aptpl(False), settle]


@pytest.mark.parametrize("question", QUESTIONS)
@given(disturbances=DISTURBANCES)
def test_a_disturbed_question_finds_what_a_quiet_one_finds(
    question: Callable[[], Steps[object]], disturbances: list[str]
) -> None:
    rig = Rig()
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY, aptpl=True))
    rig.must(SOURCE, out_command(OutServiceAction.RESERVE, KEY, type=ReservationType.WRITE_EXCLUSIVE))
    before, expected = rig.unit.state, rig.run(SOURCE, question())
    left = iter(disturbances)

    def carry_out(command: Command) -> Response:
        disturbance = next(left, "")
        if disturbance == "attention":
            return ATTENTION
        answer = rig.unit.execute(SOURCE, command) if disturbance != "lost before" else None
        if answer is None or disturbance:
            raise AnswerLost("memory", disturbance)
        return answer

    failed = object()
    try:
        found = run_sync(question(), carry_out)
    except StepFailed:
        found = failed
    attentions = disturbances.count("attention")
    if attentions <= ATTENTIONS and len(disturbances) - attentions < ATTEMPTS:
        assert found == expected
    else:
        assert found in (failed, expected)
    assert rig.unit.state == before


@pytest.mark.parametrize("many", [0, 1, ATTENTIONS, ATTENTIONS + 1])
def test_every_question_outlasts_the_same_number_of_unit_attentions(many: int) -> None:
    script = [ATTENTION] * many + [GOOD]

    def one() -> Steps[bool]:
        return (yield from past_attentions(Command(bytes(6)), "TEST UNIT READY")).good

    if many <= ATTENTIONS:
        assert run_sync(one(), lambda _: script.pop(0))
    else:
        with pytest.raises(StepFailed, match="one unit attention after the other"):
            run_sync(one(), lambda _: script.pop(0))
