"""How often faults strike."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from holdover.faults.armed import ArmedFaults
from holdover.faults.fault import Effect, Fault, When, parse_fault
from holdover.scsi.status import Status
from tests.faults.strategies import faults
from tests.faults.test_fault import NEXUS, WRITE_10


def armed(*texts: str, chance: float = 0.0) -> ArmedFaults:
    found = ArmedFaults(lambda: chance)
    for text in texts:
        found.add(parse_fault(text))
    return found


def struck(found: ArmedFaults, commands: int) -> list[bool]:
    return [found.strike(0, NEXUS, WRITE_10) is not None for _ in range(commands)]


def test_after_some_and_not_more_than_some() -> None:
    assert struck(armed("lose-response,after=2,count=3"), 7) == [False, False, True, True, True, False, False]


def test_probability_decides_by_the_number_passed_in() -> None:
    assert struck(armed("lose-response,probability=0.5", chance=0.49), 1) == [True]
    assert struck(armed("lose-response,probability=0.5", chance=0.5), 1) == [False]
    assert struck(armed("lose-response", chance=0.999), 1) == [True]


def test_the_count_counts_those_that_are_struck() -> None:
    chances = iter([0.9, 0.1, 0.9, 0.1, 0.1])
    found = ArmedFaults(lambda: next(chances))
    found.add(parse_fault("lose-response,probability=0.5,count=2"))
    assert struck(found, 5) == [False, True, False, True, False]
    (one,) = found.armed
    assert (one.fitted, one.struck, one.spent) == (4, 2, True)
    assert not found.may_strike(0, NEXUS, WRITE_10)


@given(st.lists(faults(), max_size=4), st.integers())
def test_no_command_is_struck_that_could_not_be(drawn: list[Fault], seed: int) -> None:
    found = ArmedFaults(random.Random(seed).random)
    for fault in drawn:
        found.add(fault)
    for _ in range(5):
        before = found.armed
        may = found.may_strike(3, NEXUS, WRITE_10)
        assert found.armed == before, "asking changes nothing"
        strike = found.strike(3, NEXUS, WRITE_10)
        assert may or strike is None
        for each in strike.faults if strike else ():
            assert each.fault.fits(3, NEXUS, WRITE_10)
            assert each.fitted > each.fault.after
        assert all(each.fault.count is None or each.struck <= each.fault.count for each in found.armed)


@given(st.integers(), st.floats(0.01, 1))
def test_the_same_seed_strikes_the_same_commands(seed: int, probability: float) -> None:
    runs = []
    for _ in range(2):
        found = ArmedFaults(random.Random(seed).random)
        found.add(Fault(Effect.LOSE_RESPONSE, probability=probability))
        runs.append(struck(found, 30))
    assert runs[0] == runs[1]


def test_several_faults_strike_one_command() -> None:
    found = armed(
        "latency=20ms",
        "latency=5ms,when=after",
        "latency=30ms,power-loss",
        "status=busy",
        "drop-connection,when=after",
    )
    strike = found.strike(0, NEXUS, WRITE_10)
    assert strike is not None
    assert [each.number for each in strike.faults] == [1, 2, 3, 4, 5]
    assert (strike.latency(When.BEFORE), strike.latency(When.AFTER)) == (0.05, 0.005)
    assert strike.status is Status.BUSY
    assert strike.has(Effect.POWER_LOSS, When.BEFORE)
    assert not strike.has(Effect.POWER_LOSS, When.AFTER)
    assert strike.has(Effect.DROP_CONNECTION, When.AFTER)
    assert not strike.loses_response


def test_numbers_are_never_given_twice() -> None:
    found = armed("lose-response", "status=busy")
    assert found.remove(2)
    assert not found.remove(2)
    assert found.add(parse_fault("power-loss")).number == 3
    found.clear()
    assert found.armed == ()
    assert found.add(parse_fault("power-loss")).number == 4
