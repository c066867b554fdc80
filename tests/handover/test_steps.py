"""Single commands: unit attentions, lost answers, who the LUN is."""

from __future__ import annotations

import pytest

from holdover.guest.scsi_block import Tracked
from holdover.handover.steps import LostAnswer, StepFailed, identify, register_key, settle
from holdover.scsi.cdb import TestUnitReady as UnitReady
from holdover.scsi.command import Command
from holdover.scsi.sense import is_unit_attention
from tests.handover.test_work import KEY, SOURCE, Rig


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


def test_a_lun_whose_answers_are_all_lost_is_in_doubt() -> None:
    steps = register_key(Tracked(KEY), KEY)
    next(steps)

    def go_on() -> None:
        for _ in range(100):
            steps.throw(LostAnswer())

    with pytest.raises(StepFailed, match="in doubt"):
        go_on()


def test_identify_gives_the_naa_designator() -> None:
    assert str(Rig().run(SOURCE, identify())).startswith("naa.3")
