from __future__ import annotations

from holdover.lun.unit_attention import UnitAttentions
from holdover.scsi.sense import AdditionalSense
from tests.lun.support import A, B, C

POWER_ON = AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED
RELEASED = AdditionalSense.RESERVATIONS_RELEASED
PREEMPTED = AdditionalSense.REGISTRATIONS_PREEMPTED
RESET = AdditionalSense.BUS_DEVICE_RESET_FUNCTION_OCCURRED


def test_a_new_nexus_is_greeted_once() -> None:
    attentions = UnitAttentions()
    assert attentions.first(A) is POWER_ON
    assert attentions.first(A) is POWER_ON
    assert attentions.take(A) is POWER_ON
    assert attentions.first(A) is None
    assert attentions.take(A) is None
    assert attentions.take(B) is POWER_ON


def test_without_greeting() -> None:
    attentions = UnitAttentions(greet=False)
    assert attentions.first(A) is None
    assert attentions.take(A) is None


def test_conditions_queue_and_are_not_repeated() -> None:
    attentions = UnitAttentions(greet=False)
    for condition in (RELEASED, PREEMPTED, RELEASED):
        attentions.establish(A, condition)
    assert [attentions.take(A) for _ in range(3)] == [RELEASED, PREEMPTED, None]
    assert attentions.take(B) is None


def test_the_greeting_stands_before_what_came_earlier_than_the_nexus() -> None:
    attentions = UnitAttentions()
    attentions.establish(A, PREEMPTED)
    assert [attentions.take(A) for _ in range(3)] == [POWER_ON, PREEMPTED, None]


def test_a_reset_replaces_what_was_pending() -> None:
    attentions = UnitAttentions()
    attentions.take(A)
    attentions.establish(A, RELEASED)
    attentions.reset(RESET)
    assert [attentions.take(A) for _ in range(2)] == [RESET, None]
    assert attentions.take(B) is POWER_ON


def test_a_lost_nexus() -> None:
    attentions = UnitAttentions()
    attentions.take(A)
    attentions.establish(A, RELEASED)
    attentions.lose(A)
    attentions.lose(B)
    assert [attentions.take(A) for _ in range(2)] == [AdditionalSense.I_T_NEXUS_LOSS_OCCURRED, None]
    assert attentions.take(B) is POWER_ON


def test_only_so_many_are_remembered() -> None:
    attentions = UnitAttentions(capacity=2)
    for nexus in (A, B, C):
        assert attentions.take(nexus) is POWER_ON
    assert attentions.first(B) is None
    assert attentions.first(A) is POWER_ON


def test_a_condition_for_all_others() -> None:
    attentions = UnitAttentions(greet=False)
    for nexus in (A, B):
        attentions.first(nexus)
    attentions.establish_for_others(A, AdditionalSense.MODE_PARAMETERS_CHANGED)
    assert attentions.take(A) is None
    assert attentions.take(B) is AdditionalSense.MODE_PARAMETERS_CHANGED
    assert attentions.take(B) is None
